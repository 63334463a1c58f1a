"""What commands share: errors in one line, a stopped run that leaves nothing, progress bars."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import Progress


@contextmanager
def one_line_errors(*more: type[Exception]) -> Iterator[None]:
    """End the process with exit code 1 and one line on stderr for what the user can mend, Ctrl-C and SIGTERM.

    Args:
        more: Errors that are the user's, beside OSError. Others are bugs and keep their traceback.
    """
    errors: tuple[type[Exception], ...] = (OSError, *more)
    # An exception, unlike SIGTERM's default, runs the clean-up of half-written folders.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        yield
    except errors as error:
        _end(str(error))
    except KeyboardInterrupt:
        _end("stopped; nothing was written")


def _stop(*_: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # a second one must not stop the clean-up
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


@contextmanager
def progress_bar(label: str = "tensors") -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, if that is a terminal; what it gives is called with how many are done and how many there are."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def rate_line(what: str = "documents", unit: str = "MB") -> Iterator[Callable[[int, int], None]]:
    """How many of something, millions of a unit in them and their rate so far, on stderr if that is a terminal."""
    console = Console(stderr=True)
    begun = time.monotonic()
    with console.status("starting") if console.is_terminal else nullcontext() as status:

        def show(documents: int, size: int) -> None:
            if status is not None:
                rate = size / 1e6 / max(time.monotonic() - begun, 1e-9)
                status.update(f"{documents:,} {what}, {size / 1e6:,.1f} {unit}, {rate:.1f} {unit}/s")

        yield show
