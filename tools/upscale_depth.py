"""Make a deeper model out of a Qwen2 or Llama model by repeating its layers, and turn it into the Bielik form on the way."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_bielik.command import one_line_errors, progress_bar
from megatron_bielik.surgery.model_folder import parse_size
from megatron_bielik.surgery.safetensors_files import ConversionError
from megatron_bielik.surgery.upscale import FORMS, RECORD, depth_map, parse_layer_map, plan_upscale, upscale

EXAMPLES = """examples:
  python tools/upscale_depth.py --model qwen-3b-pl --output start --drop 8 --repeat-edges 2 --form bielik      (36 -> 60)
  python tools/upscale_depth.py --model qwen-1.5b-pl --output start --repeat-edges 2 --form bielik             (28 -> 32)
  python tools/upscale_depth.py --model qwen-3b-pl --output start --layer-map 0,0,0,1-27,8-34,35,35,35 --dry-run"""


def main() -> None:
    """Parse, plan, write, say what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="Hugging Face folder")
    parser.add_argument("--output", type=Path, required=True, help="new folder; appears when it is complete")
    parser.add_argument("--drop", type=int, default=0, metavar="M", help="SOLAR: layers 0..n-M-1, then M..n-1")
    parser.add_argument(
        "--repeat-edges", type=int, default=0, metavar="K", help="K more copies of the outermost layers"
    )
    parser.add_argument("--layer-map", metavar="0,0,1-5", help="source layer of each target layer, in place of both")
    parser.add_argument("--form", choices=FORMS, default="same", help="bielik: Llama, new biases zero; default same")
    parser.add_argument(
        "--untie",
        action=argparse.BooleanOptionalAction,
        help="give a tied model an output matrix; bielik does by default",
    )
    parser.add_argument("--shard-size", default="5GB", help="of a file at most; 5GB by default")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would be done")
    args = parser.parse_args()
    if args.layer_map is not None and (args.drop or args.repeat_edges):
        parser.error("--layer-map says it all: leave out --drop and --repeat-edges")
    with one_line_errors(ConversionError):
        shard_bytes = parse_size(args.shard_size)
        plan = plan_upscale(
            args.model,
            lambda n: (
                depth_map(n, args.drop, args.repeat_edges)
                if args.layer_map is None
                else parse_layer_map(args.layer_map, n)
            ),
            args.form,
            args.untie,
        )
        print("\n".join(plan.describe(args.output)))
        if args.dry_run:
            return
        with progress_bar() as progress:
            note = upscale(plan, args.output, shard_bytes, progress)
    print(f"-> {args.output}; the map and the patterns stand in {RECORD}")
    if note:
        print(f"note: {note}")


if __name__ == "__main__":
    main()
