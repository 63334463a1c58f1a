"""Say what is wrong with a run, from its log and its checkpoints, the worst first; spikes with the documents they came from."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_bielik.command import one_line_errors, progress_bar

EXAMPLES = """examples:
  python tools/diagnose.py runs/bielik-1.5b
  python tools/diagnose.py runs/bielik-1.5b --documents 20 --json findings.json
  python tools/diagnose.py runs/dpo --checkpoints 0
limits and formulas: docs/diagnosis.md; the exit code is 0 whatever is found, 1 for a run that cannot be read
"""


def _count(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"is {text!r}, needs a whole number, 0 or more")
    return int(text)


def main() -> None:
    """Parse, look, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a pretraining or post-training run")
    parser.add_argument(
        "--documents", type=_count, default=5, metavar="N", help="to name for spikes (default 5; 0 reads no data)"
    )
    parser.add_argument(
        "--checkpoints",
        type=_count,
        default=4,
        metavar="N",
        help="newest ones read besides the oldest (default 4; 0: none)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings there too")
    args = parser.parse_args()
    with one_line_errors(ValueError):
        if args.json is not None and not args.json.parent.is_dir():
            raise ValueError(f"--json is {args.json}, its folder does not exist; make it, or choose another")
        from rich.console import Console

        from megatron_bielik.training.diagnosis.diagnose import diagnose
        from megatron_bielik.training.diagnosis.report import show, write_json

        with progress_bar() as progress:
            diagnosis = diagnose(args.run, args.documents, args.checkpoints, progress=progress)
        if args.json is not None:
            write_json(diagnosis, args.json)
        show(diagnosis, Console())


if __name__ == "__main__":
    main()
