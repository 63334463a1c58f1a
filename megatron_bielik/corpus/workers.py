"""What a worker process does first: it leaves interrupts to its parent, and ends when the parent is gone."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading

from loguru import logger


def follow_parent() -> None:
    """Initializer of a worker process."""
    logger.disable("datatrove")
    # An interrupt from the keyboard reaches every process; the parent alone decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    # A parent that was killed cannot end its workers, and they would wait for work for ever.
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
