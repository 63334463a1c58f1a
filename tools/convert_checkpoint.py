"""Convert between Hugging Face models and pretraining checkpoints, on a CPU, one matrix at a time."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

from megatron_bielik.checkpoint_files import CheckpointError
from megatron_bielik.command import one_line_errors, progress_bar
from megatron_bielik.surgery.convert import DTYPES, export_hf, import_hf
from megatron_bielik.surgery.safetensors_files import ConversionError

EXAMPLES = """examples:
  python tools/convert_checkpoint.py import-hf --input Qwen2.5-1.5B --output checkpoints/qwen
  python tools/convert_checkpoint.py export-hf --input runs/stage1 --output export/bielik   (the run's newest checkpoint)
  python tools/convert_checkpoint.py export-hf --input runs/stage1/checkpoints/step_00001000 --output out --dtype bf16"""


def main() -> None:
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
    is_import = options.direction == "import-hf"
    convert = import_hf if is_import else partial(export_hf, verify=not options.no_verify)
    started = time.perf_counter()
    with one_line_errors(ConversionError, CheckpointError), progress_bar() as progress:
        done = convert(options.input, options.output, options.dtype, progress=progress)
    seconds = time.perf_counter() - started
    kind = str(done.dtype).removeprefix("torch.")
    print(f"{done.parameters:,} parameters, {kind}, {seconds:.1f} s, {done.source} -> {done.output}")


if __name__ == "__main__":
    main()
