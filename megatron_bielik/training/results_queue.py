"""The process in which megatron-core's writers leave their results: light, deaf to launchers' signals, gone with its rank.

Launchers signal the whole process group; megatron-core's own queue process would die of that before the last save. Nothing heavy
is imported here, since a rank waits while the process starts by importing this file; what results are made of comes after.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.managers import SyncManager


def start_results_queue() -> None:
    """Give megatron-core's writers their queue, once per process."""
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    if filesystem_async._results_queue is None:
        manager = SyncManager(ctx=multiprocessing.get_context("spawn"))
        manager.start(_live_as_long_as_the_rank)
        filesystem_async._results_queue = manager.Queue()


def _live_as_long_as_the_rank() -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    # Otherwise the first save would wait for it.
    threading.Thread(
        target=importlib.import_module, args=("torch.distributed.checkpoint.storage",), daemon=True
    ).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)
