"""Merge models of one shape and tokenizer: linear, task arithmetic or slerp, on a CPU, block by block."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from megatron_bielik.command import one_line_errors, progress_bar
from megatron_bielik.surgery.merge import DTYPES, METHODS, MergeOptions, merge, parse_pattern_weights, plan_merge
from megatron_bielik.surgery.model_folder import parse_size
from megatron_bielik.surgery.safetensors_files import ConversionError

EXAMPLES = """examples:
  python tools/merge_models.py --models sft-a sft-b sft-c --weights 0.5 0.3 0.2 --output merged
  python tools/merge_models.py --models a b --pattern-weights 'model.layers.*.mlp.*=0.7,0.3' --output merged --dry-run
  python tools/merge_models.py --method task-arithmetic --base start --models math code --weights 0.6 0.4 --output merged
  python tools/merge_models.py --method slerp --models a b --t 0.3 --output merged --shard-size 2GB"""


def main() -> None:
    """Parse, plan, merge, say what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, nargs="+", required=True, metavar="DIR", help="Hugging Face folders")
    parser.add_argument("--output", type=Path, required=True, help="new folder; appears when it is complete")
    parser.add_argument("--method", choices=METHODS, default="linear", help="default linear")
    parser.add_argument("--weights", type=float, nargs="+", help="one for each model; equal ones by default")
    parser.add_argument(
        "--pattern-weights", nargs="+", default=[], metavar="P=W,W", help="for tensors named so; * and ?"
    )
    parser.add_argument("--no-normalize", action="store_true", help="linear: do not divide weights by their sum")
    parser.add_argument("--base", type=Path, metavar="DIR", help="task arithmetic: what the models began from")
    parser.add_argument("--t", type=float, help="slerp: from the first model (0) to the second (1); default 0.5")
    parser.add_argument("--dtype", choices=DTYPES, help="of the result; the widest of the models by default")
    parser.add_argument("--shard-size", default="5GB", help="of a file at most; 5GB by default")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would be done")
    args = parser.parse_args()
    started = time.perf_counter()
    with one_line_errors(ConversionError):
        patterns = tuple(map(parse_pattern_weights, args.pattern_weights))
        options = MergeOptions(
            tuple(args.models), args.method, args.weights and tuple(args.weights), args.t, patterns, args.base,
            not args.no_normalize, args.dtype, parse_size(args.shard_size),
        )  # fmt: skip
        plan = plan_merge(options)
        print("\n".join(plan.describe(args.output)))
        if args.dry_run:
            return
        with progress_bar() as progress:
            merge(plan, args.output, progress)
    print(f"{plan.output_bytes / 1e9:.3f} GB in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
