"""Reading logs for a plot, smoothing, and figures of one and several runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from megatron_bielik.training.log import JsonLines
from megatron_bielik.training.plot import POST_TRAINING, ReferenceLine, Run, draw, load_run, save, smooth


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    sink = JsonLines(path)
    for record in records:
        sink.write(record)
    sink.close()
    return path


def train(step: int, loss: float, **values: Any) -> dict[str, Any]:
    return {"type": "train", "step": step, "loss": loss, "lr": 1e-4, "grad_norm": 1.0, **values}


def test_load_by_folder_and_by_file(tmp_path: Path) -> None:
    file = write(tmp_path / "my-run" / "log.jsonl", [train(1, 5.0), train(2, math.nan)])
    run = load_run(tmp_path / "my-run")
    assert run == load_run(file) or math.isnan(run.train["loss"][1][1])  # NaN is not equal to itself
    assert run.name == load_run(file).name == "my-run"
    assert run.train["loss"][0] == [1, 2]
    assert math.isnan(run.train["loss"][1][1])
    assert load_run(write(tmp_path / "other.jsonl", [train(1, 5.0)])).name == "other"


def test_resumed_run_counts_the_last_record_of_a_step(tmp_path: Path) -> None:
    start = {"type": "run", "name": "named", "config": {}}
    file = write(
        tmp_path / "log.jsonl",
        [start, train(1, 5.0), train(2, 4.0), train(3, 9.0), start, train(3, 3.0), train(4, 2.0), start, train(5, 1.0)],
    )
    run = load_run(file)
    assert run.name == "named"
    assert run.train["loss"] == ([1, 2, 3, 4, 5], [5.0, 4.0, 3.0, 2.0, 1.0])
    assert run.events == [(3, "resume"), (5, "resume")]


def test_evals_and_events(tmp_path: Path) -> None:
    file = write(
        tmp_path / "log.jsonl",
        [
            {"type": "eval", "step": 0, "set": "pl", "loss": 7.0, "perplexity": 1096.6},
            train(1, 5.0),
            {"type": "event", "step": 1, "kind": "spike", "message": "m"},
            {"type": "eval", "step": 1, "set": "pl", "loss": math.inf, "perplexity": math.inf},
        ],
    )
    run = load_run(file)
    assert run.evals["pl"][0] == [0, 1]
    assert math.isnan(run.evals["pl"][1][1])
    assert run.events == [(1, "spike")]


def test_missing_and_empty_logs_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"log\.jsonl does not exist"):
        load_run(tmp_path)
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(ValueError, match="nothing to draw"):
        load_run(tmp_path)
    with pytest.raises(ValueError, match="nothing to draw"):
        draw([])


def test_smoothing() -> None:
    assert smooth([1.0, 2.0], 0.0) == [1.0, 2.0]
    assert smooth([3.0] * 5, 0.9) == pytest.approx([3.0] * 5)  # no bias at the start
    averaged = smooth([1.0, math.nan, 2.0], 0.5)
    assert averaged[0] == 1.0
    assert math.isnan(averaged[1])
    assert averaged[2] == pytest.approx((0.5 * 1.0 + 2.0) / 1.5)
    with pytest.raises(ValueError, match="smooth is 1"):
        smooth([1.0], 1.0)


def runs(count: int) -> list[Run]:
    steps = list(range(1, 50))
    return [
        Run(
            f"run {number}",
            {
                "loss": (steps, [math.nan if step == 20 else 5 / step + number for step in steps]),
                "lr": (steps, [1e-4] * 49),
                "grad_norm": (steps, [math.nan if step == 20 else 1.0 + step for step in steps]),
            },
            {"pl": ([10, 20], [3.0, 2.0]), "en": ([10, 20], [4.0, 3.0])},
            [(20, "skipped step"), (30, "spike"), (31, "spike")],
        )
        for number in range(count)
    ]


def texts(figure: Any) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_one_run(tmp_path: Path) -> None:
    figure = draw(runs(1), 0.9, ReferenceLine(7.1, "unigram entropy"))
    assert texts(figure) == ["train", "eval en", "eval pl", "skipped step", "spike ×2", "unigram entropy: 7.100"]
    speed = figure.axes[3]
    assert [text.get_text() for text in speed.texts] == ["not recorded"]
    assert figure.axes[2].get_yscale() == "log"
    save(figure, tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_several_runs_have_a_colour_each(tmp_path: Path) -> None:
    figure = draw(runs(3))
    assert texts(figure) == ["run 0", "run 1", "run 2", "eval en", "eval pl"]
    colours = {line.get_color() for line in figure.axes[1].lines}
    assert len(colours) == 3
    save(figure, tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text(encoding="utf-8")


def test_only_evaluations(tmp_path: Path) -> None:
    figure = draw([Run("r", {}, {"pl": ([1], [2.0])}, [])])
    save(figure, tmp_path / "plot.png")


def test_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"suffix must be one of \.png"):
        save(draw(runs(1)), tmp_path / "plot.docx")
    assert not list(tmp_path.iterdir())


def test_what_post_training_logs_has_panels_of_its_own() -> None:
    steps = [1, 2, 3]
    chosen = Run("dpo", {"loss": (steps, [0.7, 0.6, 0.5]), "margin": (steps, [0.0, 0.1, 0.2])}, {}, [])
    rewarded = Run("grpo", {"loss": (steps, [0.0] * 3), "reward": (steps, [0.1] * 3), "kl": (steps, [0.0] * 3)}, {}, [])
    titles = [panel.get_title(loc="left") for panel in draw([chosen, rewarded]).axes]
    assert titles[4:] == [POST_TRAINING[key] for key in ("reward", "kl", "margin")]
    assert len(draw([Run("sft", {"loss": (steps, [0.7, 0.6, 0.5])}, {}, [])]).axes) == 4
