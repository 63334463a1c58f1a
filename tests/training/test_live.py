"""The status line: what it says, on a pipe and on a terminal, and readable numbers."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from megatron_bielik.training.live import LiveLine, describe, duration, short_number, status_line


def record(step: int, **values: Any) -> dict[str, Any]:
    return {
        "type": "train",
        "step": step,
        "loss": 2.34567,
        "lr": 3e-5,
        "grad_norm": 0.8123,
        "step_seconds": 2.0,
        **values,
    }


def test_line_says_everything() -> None:
    full = record(
        1200, tokens=2.5e9, tokens_per_second_per_gpu=12_345.6, tflops_causal=405.12, tflops_full=450.9,
        mfu_causal=0.4094, mfu_full=0.4557,
    )  # fmt: skip
    assert status_line(full, 120_000, 266_400) == (
        "step 1,200/120,000 | loss 2.3457 | lr 3.00e-05 | grad norm 0.812 | 2.5B tokens | 12.3k tokens/s/GPU | "
        "3 d 2 h left | TFLOP/s 405 causal 451 full | MFU 40.9% causal 45.6% full"
    )


def test_unknown_is_left_out_and_nan_is_shown() -> None:
    line = status_line(record(1, loss=float("nan"), grad_norm=None), 10, None)
    assert line == "step 1/10 | loss nan | lr 3.00e-05"


def test_other_records() -> None:
    evaluation = {"type": "eval", "step": 1000, "set": "polish", "loss": 2.0, "perplexity": 7.389}
    assert describe(evaluation) == "eval step 1,000 | polish | loss 2.0000 | perplexity 7.389"
    event = {"type": "event", "step": 5, "kind": "spike", "message": "loss 9.1 is 7.2 deviations above its mean"}
    assert describe(event) == "event step 5 | spike | loss 9.1 is 7.2 deviations above its mean"
    assert describe({"type": "run", "name": "x"}) == "run x"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (950, "950"), (999.7, "1k"), (12_345, "12.3k"), (999_600, "1M"), (2.92e11, "292B"), (5e15, "5e+03T")],
)
def test_short_number(value: float, text: str) -> None:
    assert short_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(42.4, "42 s"), (425, "7 min 05 s"), (12_000, "3 h 20 min"), (86_400 * 12 + 3600 * 4, "12 d 4 h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pipe_gets_whole_lines_at_intervals() -> None:
    screen, clock = StringIO(), Clock()
    live = LiveLine(100, Console(file=screen, width=20), plain_seconds=10, clock=clock)
    for step in range(1, 101):
        clock.now = step * 3.0
        live.write(record(step))
        if step == 50:
            live.write({"type": "event", "step": 50, "kind": "spike", "message": "a long message that is not folded"})
    live.close()
    lines = screen.getvalue().splitlines()
    assert lines[0].startswith("step 1/100 | ")
    assert lines[0].endswith("3 min 18 s left")  # 99 steps of the 2 s that the record says
    assert lines[1].startswith("step 5/100 | ")
    assert lines[1].endswith("4 min 45 s left")  # 95 steps of the 3 s that the clock says
    assert lines[-1].startswith("step 100/100 | ")
    assert len(lines) == 25 + 1 + 1
    assert "event step 50 | spike | a long message that is not folded" in lines


def test_terminal_keeps_one_line_and_prints_events_above() -> None:
    screen = StringIO()
    live = LiveLine(10, Console(file=screen, force_terminal=True, width=60))
    live.write(record(1))
    live.write({"type": "event", "step": 1, "kind": "spike", "message": "m"})
    live.write(record(2))
    live.close()
    live.close()
    text = screen.getvalue()
    assert "event step 1 | spike | m" in text
    assert text.rindex("step 2/10") > text.index("spike")
    assert "\x1b[2K" in text  # the line is rewritten in place
