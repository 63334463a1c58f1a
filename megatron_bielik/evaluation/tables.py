"""Tables of an evaluation for the screen: every task, and the averages beside the published ones."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from megatron_bielik.evaluation.evaluate import is_fixture, published_beside
from megatron_bielik.evaluation.polish_tasks import AVERAGES, BY_NAME


def tables(results: dict[str, Any]) -> list[Table]:
    """Every task, then the averages."""
    note = ", fixtures: NOT the benchmarks" if is_fixture(results) else ""
    tasks = Table(
        "task", "rows", "metric", "score", "guessing", "normalised, %",
        box=box.SIMPLE_HEAD, title=f"{results['num_fewshot']} examples{note}",
    )  # fmt: skip
    for name, score in results["tasks"].items():
        figures = (f"{score['score']:.3f}", f"{score['baseline']:.3f}", f"{score['normalised']:.2f}")
        tasks.add_row(name, str(score["rows"]), BY_NAME[name].metric, *figures)
    averages = Table("model", *AVERAGES.values(), box=box.SIMPLE_HEAD, title="averages, %")
    for number, (name, scores) in enumerate(published_beside(results)):
        shown = name + (note if number == 0 else "")
        averages.add_row(shown, *(f"{scores[key]:.2f}" if key in scores else "–" for key in AVERAGES))
    averages.caption = (
        "below the first line: the Bielik v3 Small report, with the leaderboard's own prompts and baselines"
    )
    return [tasks, averages]
