"""Opens the log of a run: the sinks its options ask for, on rank 0 alone."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_bielik.config import LoggingConfig
from megatron_bielik.training.live import LiveLine
from megatron_bielik.training.log import FILE_NAME, JsonLines, Log, Sink, TensorBoard, WandB


def open_log(config: Any, folder: Path, rank: int, resumed_step: int, total_steps: int) -> Log:
    """JSON lines and the screen always, TensorBoard and W&B as asked. Other ranks get a log that writes nothing.

    Records after resumed_step, left by a process that was killed, are dropped: those steps are done again.

    Args:
        config: Dataclass of options with a section logging.
        folder: Of the run.
        rank: Of this process.
        resumed_step: Step of the checkpoint the run starts from; 0 without one.
        total_steps: For the time left.
    """
    if rank != 0:
        return Log([])
    options: LoggingConfig = config.logging
    folder.mkdir(parents=True, exist_ok=True)
    name = options.run_name or folder.name
    sinks: list[Sink] = [JsonLines(folder / FILE_NAME, resumed_step), LiveLine(total_steps)]
    if options.tensorboard:
        sinks.append(TensorBoard(folder / "tensorboard", resumed_step or None))
    if options.wandb_project is not None:
        sinks.append(WandB(options.wandb_project, folder, name))
    log = Log(sinks)
    log.write({"type": "run", "name": name, "step": resumed_step, "config": asdict(config), "time": time.time()})
    return log
