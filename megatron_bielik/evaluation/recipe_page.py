"""The recipe's report as one HTML page that needs nothing else: no scripts, fonts or pictures from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from megatron_bielik.corpus.records import write_whole
from megatron_bielik.evaluation import recipe_charts as charts
from megatron_bielik.evaluation.polish_tasks import AVERAGES, PUBLISHED
from megatron_bielik.evaluation.recipe_checks import answer_loss, form_following, gains, signatures
from megatron_bielik.evaluation.recipe_run import Json, RecipeRun

CLASSES = ("LOW", "MEDIUM", "HIGH")


def render(run: RecipeRun) -> str:
    """The page of a run; a part whose stage did not run is left out."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("recipe_page.html.jinja").render(
        gains=list(gains(run)),
        signatures=list(signatures(run)),
        trainings=[_training(name, run) for name in run.trainings],
        losses=charts.losses(run) if run.trainings else "",
        post_training=charts.post_training(run),
        first_losses=charts.first_losses(run.first_losses),
        fertility=run.fertility,
        corpus=_corpus(run.corpus),
        quality=_quality(run.quality),
        scores=[_scores(name, one) for name, one in run.scores.items() if one],
        benchmarks=[(name, one) for name, one in run.benchmarks.items() if one],
        averages=AVERAGES,
        published=PUBLISHED,
        upscaling=run.upscaling,
    )


def write(run: RecipeRun, output: Path) -> None:
    """Write the page whole."""
    write_whole(output, render(run))


def _training(name: str, run: RecipeRun) -> dict[str, Any]:
    one = run.trainings[name]
    last = one.history.train[-1] if one.history.train else {}
    counts = {kind: len(one.history.events_of(kind)) for kind in ("skip", "spike")}
    return {
        "name": name,
        "steps": last.get("step", 0),
        "tokens": last.get("tokens", 0),
        "seconds": one.seconds,
        "tokens_per_second": one.tokens_per_second,
        "loss": last.get("loss"),
        "events": ", ".join(f"{count} {kind}" for kind, count in counts.items() if count),
    }


def _corpus(report: Json) -> list[dict[str, Any]]:
    """What entered and left every step of the corpus pipeline."""
    return [
        {"step": one["step"], "before": one["in"]["documents"], "after": one["out"]["documents"],
         "megabytes": one["out"]["text_bytes"] / 1e6, "dropped": one.get("dropped", {})}
        for one in report.get("steps", [])
    ]  # fmt: skip


def _quality(report: Json) -> dict[str, Any]:
    scores = next(iter(report.get("scores", {}).values()), None)
    return {} if scores is None else {**scores, "names": CLASSES}


def _scores(name: str, one: Json) -> dict[str, Any]:
    """A model's row; None stands for what it was not scored on."""
    talks, pairs = one.get("conversations"), one.get("pairs", {})
    figures = [form_following(one) if talks else None, answer_loss(one) if talks else None]
    figures += [pairs.get("accuracy"), pairs.get("chosen"), one.get("reward")]
    return {"name": name, "pl": one["texts"]["pl"], "en": one["texts"]["en"], "figures": figures}
