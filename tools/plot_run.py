"""Draws the log of one run, or compares several in the same axes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megatron_bielik.training.plot import ReferenceLine, draw, load_run, save

EXAMPLES = """examples:
  python tools/plot_run.py runs/bielik-1.5b
  python tools/plot_run.py runs/a runs/b --smooth 0.9 --output compare.png
  python tools/plot_run.py runs/demo/log.jsonl --reference 7.12 "unigram entropy" --output demo.svg
"""


def main() -> None:
    """Parses the command line, draws, says where the figure is."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder or its log.jsonl")
    parser.add_argument(
        "--output",
        type=Path,
        help="figure; .png, .svg or .pdf (default: plot.png in the folder of the first run's log)",
    )
    parser.add_argument(
        "--smooth", type=float, default=0.0, metavar="F", help="moving average, 0 (none) to below 1 (default: 0)"
    )
    parser.add_argument(
        "--reference", nargs=2, metavar=("LOSS", "LABEL"), help="horizontal line in the loss panel, with its label"
    )
    options = parser.parse_args()
    first: Path = options.runs[0]
    output = options.output or (first if first.is_dir() else first.parent) / "plot.png"
    try:
        reference = ReferenceLine(float(options.reference[0]), options.reference[1]) if options.reference else None
        save(draw([load_run(path) for path in options.runs], options.smooth, reference), output)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
