"""The main job: torchrun --nproc-per-node N -m megatron_bielik.pretrain --config run.yaml

Options are checked, and --dry_run answered, before torch or a process group is loaded.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from megatron_bielik.checkpoint_files import CheckpointError
from megatron_bielik.checks import check, check_run
from megatron_bielik.config import Config
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.processes import follow_launcher
from megatron_bielik.settings import SettingsError, make_parser, parse

EXAMPLES = """examples:
  python -m megatron_bielik.pretrain --config examples/bielik-4.5b/stage1.yaml --dry_run --world_size 64
  torchrun --nproc-per-node 2 -m megatron_bielik.pretrain --config run.yaml --parallel.tensor_parallel_size 2
  python -m megatron_bielik.pretrain --config run.yaml --print_config
A run started again with the same checkpoint.dir goes on where its newest checkpoint ends."""


def main(arguments: list[str] | None = None) -> int:
    """Run the job. Returns the exit code: 0 done or cleanly stopped, 1 stopped by a failure, 2 unusable options."""
    follow_launcher()
    parser = make_parser(
        "python -m megatron_bielik.pretrain", "Pretrain a Qwen2.5-type model with megatron-core.", EXAMPLES
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print parameters, FLOPs, memory and schedule, and leave"
    )
    parser.add_argument(
        "--world_size", type=int, default=None, help="GPUs the dry run plans for; the launcher's by default"
    )
    parser.add_argument("--device_memory_gib", type=float, default=80.0, help="memory of one GPU, for the dry run, GiB")
    parser.add_argument("--device_name", default="H100", help="GPU the dry run takes the peak of")
    try:
        config, options = parse(parser, arguments)
        if options.dry_run:
            return _dry_run(config, options.world_size, options.device_memory_gib, options.device_name)
        from megatron_bielik.parallel.runtime import world_size_of_launch

        check(config, world_size_of_launch())
        check_run(config)
    except SettingsError as error:
        if os.environ.get("RANK", "0") == "0":  # every process finds the same; one says it
            print(f"error: {error}", file=sys.stderr)
        return 2
    return _train(config)


def _dry_run(config: Config, world_size: int | None, device_memory_gib: float, device_name: str) -> int:
    from rich.console import Console

    from megatron_bielik.training.plan import make_plan
    from megatron_bielik.training.plan_report import render

    smallest = config.parallel.model_parallel_size
    check(config, world_size or smallest)
    Console().print(render(make_plan(config, world_size or smallest, device_memory_gib, device_name)))
    return 0


def _train(config: Config) -> int:
    from megatron_bielik.parallel import runtime
    from megatron_bielik.training.watchdog import Watchdog

    here = runtime.start(config.parallel, config.training.seed)
    watchdog = Watchdog(config.training.hang_timeout_seconds, here.rank, here.world_size)
    watchdog.start()
    from megatron_bielik.training.run_log import open_log
    from megatron_bielik.training.trainer import Trainer

    trainer = Trainer(config, here, watchdog)
    try:
        trainer.prepare()
        with open_log(
            config, Path(config.checkpoint.dir), here.rank, trainer.resumed_step, config.training.steps
        ) as trainer.log:
            trainer.run()
    except (SettingsError, CheckpointError, DataError) as error:
        # Options and checkpoints are wrong on every rank alike, data can be on one.
        if here.rank == 0 or isinstance(error, DataError):
            print(f"error: {error} (rank {here.rank})", file=sys.stderr)
        return 1
    finally:
        watchdog.stop()
    runtime.stop()
    return 1 if trainer.failed else 0


if __name__ == "__main__":
    sys.exit(main())
