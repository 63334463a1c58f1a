"""Evaluates one training checkpoint in a process of its own: export to Hugging Face, benchmarks, results, clean-up.

python -m megatron_bielik.evaluation.checkpoint_job --folder runs/a/benchmarks/step_00001000 --tasks polish_mc
FOLDER/checkpoint is what is evaluated; FOLDER/results.json comes last. The training starts this (training/benchmarks.py).
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from megatron_bielik.command import one_line_errors
from megatron_bielik.data.processes import follow_starter
from megatron_bielik.evaluation.polish_tasks import data_folder, select


def main() -> None:
    """Do it; errors are one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="with a folder checkpoint in it")
    parser.add_argument("--tasks", nargs="+", required=True, help="as for tools/evaluate.py")
    parser.add_argument("--data", help="folder of local data sets, or fixtures; default: the Hub")
    parser.add_argument("--num-fewshot", type=int, default=0, help="solved examples (default 0)")
    parser.add_argument("--limit", type=int, help="rows of each task, at most")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--starter", type=int, help="process id of the parent: without it, this process ends too")
    args = parser.parse_args()
    if args.starter is not None:
        follow_starter(
            args.starter
        )  # a run that is started again starts its own, and two would clean up under each other
    os.environ.setdefault("TQDM_DISABLE", "1")
    from megatron_bielik.checkpoint_files import CheckpointError
    from megatron_bielik.evaluation.evaluate import Options, evaluate
    from megatron_bielik.surgery.convert import export_hf
    from megatron_bielik.surgery.safetensors_files import ConversionError

    with one_line_errors(ValueError, CheckpointError, ConversionError):
        tasks = select(args.tasks)
        model = args.folder / "model"
        if not model.is_dir():
            export_hf(args.folder / "checkpoint", model, None)
        dtype = "bfloat16" if args.device == "cuda" else "float32"
        options = Options(model, data_folder(args.data), args.num_fewshot, args.limit, device=args.device, dtype=dtype)
        evaluate(options, tasks, args.folder, lambda line: print(line, flush=True))
        for done in ("checkpoint", "model"):
            shutil.rmtree(args.folder / done, ignore_errors=True)


if __name__ == "__main__":
    main()
