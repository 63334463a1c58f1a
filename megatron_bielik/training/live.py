"""The run on the screen: one live status line on a terminal, plain lines at intervals on a pipe, events printed above.

A sink like the others of log.py; it holds no state that a resumed run would need.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from megatron_bielik.training.log import Record


class LiveLine:
    """Shows step, loss, learning rate, gradient norm, speed, MFU in both conventions and the time left.

    Args:
        total_steps: Steps of the whole run.
        console: Where to print; None is the standard output.
        plain_seconds: On a pipe, least time between two lines; the first and the last step are always printed.
        clock: Seconds, for the time left.
    """

    def __init__(
        self,
        total_steps: int,
        console: Console | None = None,
        plain_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total_steps = total_steps
        self._console = console or Console()
        self._plain_seconds = plain_seconds
        self._clock = clock
        self._first: tuple[int, float] | None = None  # step and time of the first train record
        self._printed_at = float("-inf")
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()

    def write(self, record: Record) -> None:
        """Shows a train record in the status line and prints an eval, event or run record above it."""
        if record["type"] == "train":
            self._train(record)
        else:
            style = "yellow" if record["type"] == "event" else "cyan"
            self._print(Text(describe(record), style=style))

    def close(self) -> None:
        """Leaves the last status line standing and gives the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _train(self, record: Record) -> None:
        """Updates the live line, or prints a plain one when it is time."""
        now = self._clock()
        self._first = self._first or (record["step"], now)
        line = status_line(record, self._total_steps, self._seconds_left(record, now))
        if self._live is not None:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        elif now - self._printed_at >= self._plain_seconds or record["step"] >= self._total_steps:
            self._print(Text(line))
            self._printed_at = now

    def _print(self, text: Text) -> None:
        """Prints one line, never folded: a pipe's reader greps it."""
        self._console.print(text, soft_wrap=True, highlight=False)

    def _seconds_left(self, record: Record, now: float) -> float | None:
        """Time left by the steps seen so far, evaluations and checkpoints included; at first by the step's own time."""
        assert self._first is not None
        steps_seen = record["step"] - self._first[0]
        each = (now - self._first[1]) / steps_seen if steps_seen > 0 else record.get("step_seconds")
        return None if each is None else max(self._total_steps - record["step"], 0) * each


def status_line(record: Record, total_steps: int, seconds_left: float | None) -> str:
    """One train record as a line; what the record does not hold is left out."""
    parts = [f"step {record['step']:,}/{total_steps:,}"]
    formats: list[tuple[str, Callable[[float], str]]] = [
        ("loss", lambda x: f"loss {x:.4f}"),
        ("lr", lambda x: f"lr {x:.2e}"),
        ("grad_norm", lambda x: f"grad norm {x:.3g}"),
        ("reward", lambda x: f"reward {x:.3f}"),
        ("kl", lambda x: f"KL {x:.3g}"),
        ("chosen_log_ratio", lambda x: f"chosen {x:+.3g}"),
        ("margin", lambda x: f"margin {x:+.3g}"),
        ("tokens", lambda x: f"{short_number(x)} tokens"),
        ("tokens_per_second_per_gpu", lambda x: f"{short_number(x)} tokens/s/GPU"),
    ]
    parts += [show(record[name]) for name, show in formats if record.get(name) is not None]
    if seconds_left is not None:
        parts.append(f"{duration(seconds_left)} left")
    if record.get("tflops_causal") is not None and record.get("tflops_full") is not None:
        parts.append(f"TFLOP/s {record['tflops_causal']:.3g} causal {record['tflops_full']:.3g} full")
    if record.get("mfu_causal") is not None and record.get("mfu_full") is not None:
        parts.append(f"MFU {record['mfu_causal']:.1%} causal {record['mfu_full']:.1%} full")
    return " | ".join(parts)


def describe(record: Record) -> str:
    """An eval, benchmark, event or run record as a line."""
    if record["type"] in ("eval", "benchmark"):
        figures = " | ".join(
            f"{name} {value:.4f}" if name == "loss" else f"{name} {value:.4g}"
            for name, value in record.items()
            if isinstance(value, int | float) and name not in ("step", "time")
        )
        return f"{record['type']} step {record['step']:,} | {record['set']} | {figures}"
    if record["type"] == "event":
        return f"event step {record['step']:,} | {record['kind']} | {record['message']}"
    return f"run {record.get('name', '')}".rstrip()


def short_number(value: float) -> str:
    """Three figures and a unit: 950, 12.3k, 4.56M, 292B."""
    for unit in ("", "k", "M", "B", "T"):
        # 999.5 would be shown as 1e+03, so it already counts as the next unit
        if abs(value) < 999.5 or unit == "T":
            return f"{value:.3g}{unit}"
        value /= 1000
    raise AssertionError("not reached: T takes everything")


def duration(seconds: float) -> str:
    """Two units at most: 42 s, 7 min 05 s, 3 h 20 min, 12 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
