"""A whole run inside the test's own process: what pretrain does after its options were checked, in a second or two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_bielik.checks import check, check_run
from megatron_bielik.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    DatasetSpec,
    LoggingConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from megatron_bielik.parallel.runtime import Runtime
from megatron_bielik.training.run_log import open_log
from megatron_bielik.training.trainer import Trainer
from megatron_bielik.training.watchdog import Watchdog


def small_config(folder: Path, shard: Path | None = None, **options: Any) -> Config:
    """A two-layer model in fp32, four samples of 16 tokens a step; options are named section__name=value."""
    config = Config(
        model=ModelConfig(num_layers=2, hidden_size=64, ffn_hidden_size=96, head_dim=16, vocab_size=1001),
        data=DataConfig(train=[DatasetSpec(str(shard))] if shard is not None else [], sequence_length=16),
        optimizer=OptimizerConfig(lr=1e-2, min_lr=1e-3),
        schedule=ScheduleConfig("constant"),
        training=TrainingConfig(steps=6, micro_batch_size=2, global_batch_size=4, precision="fp32"),
        checkpoint=CheckpointConfig(dir=str(folder)),
        logging=LoggingConfig(tensorboard=False),
    )
    for name, value in options.items():
        section, option = name.split("__")
        config = replace(config, **{section: replace(getattr(config, section), **{option: value})})
    return config


def train(config: Config, runtime: Runtime) -> Trainer:
    """Train to the end of the run, from its newest checkpoint if there is one."""
    check(config, runtime.world_size)
    check_run(config)
    trainer = Trainer(config, runtime, Watchdog(0, runtime.rank, runtime.world_size))
    trainer.prepare()
    with open_log(
        config, Path(config.checkpoint.dir), runtime.rank, trainer.resumed_step, config.training.steps
    ) as trainer.log:
        trainer.run()
    return trainer
