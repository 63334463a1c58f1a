"""Progress of long data work: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from types import TracebackType

_LOG_SECONDS = 30.0


class ThroughputProgress:
    """Shows megabytes done, MB/s, tokens/s and the time left. Work found done at the start does not count in the rates.

    Args:
        total: Bytes of input in all.
    """

    def __init__(self, total: int) -> None:
        # Here and not above: a worker process, which shows nothing, would spend a fifth of its start on it.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._total = max(total, 1)
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.fields[text]}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, transient=True) if self._console.is_terminal else None
        self._task = self._bar.add_task("", total=self._total, text="starting") if self._bar else None
        self._begun = self._logged = time.monotonic()
        self._done = self._counted = self._tokens = 0

    def __enter__(self) -> ThroughputProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def skip(self, size: int) -> None:
        """Count input that an earlier run has done."""
        self._done += size
        self._show()

    def add(self, size: int, tokens: int) -> None:
        """Count input done now, bytes, and the tokens it gave."""
        self._done += size
        self._counted += size
        self._tokens += tokens
        self._show()

    def say(self, line: str) -> None:
        """Print a line without disturbing the bar."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _show(self) -> None:
        now = time.monotonic()
        elapsed = max(now - self._begun, 1e-9)
        rate = self._counted / elapsed
        text = (
            f"{self._done / 1e6:,.0f}/{self._total / 1e6:,.0f} MB  {rate / 1e6:.1f} MB/s  "
            f"{self._tokens / elapsed / 1e6:.2f} Mtokens/s"
        )
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done, text=text)
        elif now - self._logged > _LOG_SECONDS:
            self._logged = now
            left = (self._total - self._done) / rate if rate else 0
            self.say(f"{text}  {left / 60:.1f} min left")
