"""Tables of an evaluation for the screen: every task, and the averages beside the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from megatron_bielik.evaluation.polish_tasks import AVERAGES, BY_NAME, FIXTURES, PUBLISHED


def tables(results: dict[str, Any]) -> list[Table]:
    """Every task, then the averages."""
    fixtures = results["data"] is not None and Path(results["data"]).resolve() == FIXTURES.resolve()
    note = ", fixtures: NOT the benchmarks" if fixtures else ""
    tasks = Table(
        "task", "rows", "metric", "score", "guessing", "normalised, %",
        box=box.SIMPLE_HEAD, title=f"{results['num_fewshot']} examples{note}",
    )  # fmt: skip
    for name, score in results["tasks"].items():
        figures = (f"{score['score']:.3f}", f"{score['baseline']:.3f}", f"{score['normalised']:.2f}")
        tasks.add_row(name, str(score["rows"]), BY_NAME[name].metric, *figures)
    averages = Table("model", *AVERAGES.values(), box=box.SIMPLE_HEAD, title="averages, %")
    own = {Path(results["model"]).name + note: results["averages"]}
    for name, scores in (own | PUBLISHED).items():
        averages.add_row(name, *(f"{scores[key]:.2f}" if key in scores else "–" for key in AVERAGES))
    averages.caption = (
        "below the first line: the Bielik v3 Small report, with the leaderboard's own prompts and baselines"
    )
    return [tasks, averages]
