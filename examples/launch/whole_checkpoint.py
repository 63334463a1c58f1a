"""A checkpoint that FSDP wrote in shards, as one Hugging Face folder in fp32, so that checkpoints can be averaged."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from megatron_bielik.command import one_line_errors
from megatron_bielik.surgery.model_folder import copy_companions, output_folder

SHARDS = "pytorch_model_fsdp_0"
EXAMPLES = """example:
  python examples/launch/whole_checkpoint.py --checkpoint sft/checkpoint-500 --like sft/final --output sft/whole-500
the checkpoint must be one of your own runs: torch reads its index with pickle
"""


def make_whole(checkpoint: Path, like: Path, output: Path) -> None:
    """Write the weights of a sharded checkpoint with the configuration and tokenizer of `like`.

    Args:
        checkpoint: Folder with pytorch_model_fsdp_0, as megatron_bielik.posttrain writes it under parallel.sharding fsdp.
        like: Hugging Face folder of the same run.
        output: New folder; appears when it is complete.

    Raises:
        ValueError: A checkpoint without shards.
        ConversionError: The output exists.
    """
    if not (checkpoint / SHARDS).is_dir():
        raise ValueError(
            f"--checkpoint is {checkpoint}: no {SHARDS} in it; only runs with parallel.sharding fsdp need this"
        )
    from accelerate.utils import merge_fsdp_weights

    with output_folder(output) as temporary:
        merge_fsdp_weights(str(checkpoint / SHARDS), str(temporary))
        config = json.loads((like / "config.json").read_text(encoding="utf-8")) | {"dtype": "float32"}
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        copy_companions(like, temporary)


def main() -> None:
    """Parse, write, say so."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="RUN/checkpoint-STEP, sharded")
    parser.add_argument("--like", type=Path, required=True, help="Hugging Face folder of the run, RUN/final")
    parser.add_argument("--output", type=Path, required=True, help="new folder; appears when it is complete")
    args = parser.parse_args()
    with one_line_errors(ValueError):
        make_whole(args.checkpoint, args.like, args.output)
    print(f"{args.checkpoint} -> {args.output}")


if __name__ == "__main__":
    main()
