"""Convert between Hugging Face models and pretraining checkpoints, on a CPU, one matrix at a time."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from megatron_bielik.checkpoint_files import CheckpointError
from megatron_bielik.surgery.convert import DTYPES, export_hf, import_hf
from megatron_bielik.surgery.safetensors_files import ConversionError

EXAMPLES = """examples:
  python tools/convert_checkpoint.py import-hf --input Qwen2.5-1.5B --output checkpoints/qwen
  python tools/convert_checkpoint.py export-hf --input runs/stage1 --output export/bielik   (the run's newest checkpoint)
  python tools/convert_checkpoint.py export-hf --input runs/stage1/checkpoints/step_00001000 --output out --dtype bf16"""


def main() -> int:
    """Parse, convert, say what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("direction", choices=["import-hf", "export-hf"])
    parser.add_argument("--input", type=Path, required=True, help="Hugging Face folder, or checkpoint or run folder")
    parser.add_argument("--output", type=Path, required=True, help="new folder; appears when it is complete")
    parser.add_argument("--dtype", choices=DTYPES, help="type of the written weights; as in the input by default")
    parser.add_argument("--no-verify", action="store_true", help="export without comparing checksums first")
    options = parser.parse_args()
    # So that a stopped job removes what it began.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: stopped; nothing was written"))
    is_import = options.direction == "import-hf"
    convert = import_hf if is_import else partial(export_hf, verify=not options.no_verify)
    started = time.perf_counter()
    try:
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("tensors", total=None)

            def show(n: int, total: int) -> None:
                bar.update(task, completed=n, total=total)

            done = convert(options.input, options.output, options.dtype, progress=show)
    except (ConversionError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: stopped; nothing was written", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - started
    print(f"{done.parameters:,} parameters, {str(done.dtype).removeprefix('torch.')}, {seconds:.1f} s -> {done.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
