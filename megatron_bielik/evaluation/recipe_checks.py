"""Whether every stage of a recipe run helped by its own measure, and the recipe's failure signatures with their limits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from megatron_bielik.evaluation.recipe_run import Json, RecipeRun
from megatron_bielik.training.diagnosis.posttraining import CHOSEN_LOSES

# Limits of the signatures, for the recipe at any size; a tiny model on generated text goes further than a real one.
MOST_FORGOTTEN = 1.25  # nats per character after, as a share of before
MOST_SPIKES = 0


@dataclass(frozen=True)
class Gain:
    """What a stage brought, on data that nothing was trained on.

    Attributes:
        stage: Its name.
        measure: What was measured.
        before, after: The figures.
        lower: Whether lower is better.
        equal: Whether no change is good enough.
    """

    stage: str
    measure: str
    before: float
    after: float
    lower: bool = False
    equal: bool = False

    @property
    def helped(self) -> bool:
        """Whether it is better, or no worse where that is enough."""
        better = self.after < self.before if self.lower else self.after > self.before
        return better or (self.equal and self.after == self.before)


@dataclass(frozen=True)
class Signature:
    """A way in which the recipe fails.

    Attributes:
        name: What to look at.
        value: Measured.
        limit: Above it (below it, if least) something is wrong.
        least: Whether the limit is a lower one.
        hint: What to do then.
    """

    name: str
    value: float
    limit: float
    hint: str
    least: bool = False

    @property
    def fine(self) -> bool:
        """Whether the value keeps the limit; one that is no number does not."""
        return self.value >= self.limit if self.least else self.value <= self.limit


def form_following(scores: Json) -> float:
    """Share of greedy answers in the form that was asked for, over conversations of all kinds."""
    kinds = scores["conversations"].values()
    return sum(one["rows"] * one["form"] for one in kinds) / sum(one["rows"] for one in kinds)


def answer_loss(scores: Json) -> float:
    """Mean over the kinds of conversations of the nats per token of expected answers."""
    kinds = scores["conversations"].values()
    return sum(one["loss"] for one in kinds) / len(kinds)


def gains(run: RecipeRun) -> Iterator[Gain]:
    """One or two for each stage that ran."""
    losses = run.first_losses
    if "focus" in losses:
        measure = "first loss, nats per character: random rows, FOCUS rows"
        yield Gain("tokenizer", measure, losses["random"], losses["focus"], lower=True)
    for stage in ("stage 1", "stage 2"):
        if stage in run.trainings and len(found := run.trainings[stage].evaluated("loss", "pl")) > 1:
            yield Gain(stage, "loss on Polish, nats per token: start, end", found[0][1], found[-1][1], lower=True)
    before, after = run.scores.get("pretrained"), run.scores.get("sft-merged")
    if before and after:
        yield Gain("SFT", "answers in the form asked for, share", form_following(before), form_following(after))
    before, after = run.scores.get("sft-merged"), run.scores.get("dpo")
    if before and after:
        old, new = before["pairs"], after["pairs"]
        yield Gain("DPO-P", "pairs whose chosen answer is the likelier one, share", old["accuracy"], new["accuracy"])
        measure = "log-probability of chosen answers, nats: not lowered"
        yield Gain("DPO-P", measure, old["chosen"], new["chosen"], equal=True)
    before, after = run.scores.get("dpo"), run.scores.get("grpo")
    if before and after:
        yield Gain("GRPO", "problems solved, share", before["reward"], after["reward"])
    yield from _merge_gains(run)


def _merge_gains(run: RecipeRun) -> Iterator[Gain]:
    """Each average against the mean of its parts, by loss: shares of a few hundred answers do not tell parts so close apart."""
    for name, parts in run.merges.items():
        scores = [run.scores.get(part) for part in parts]
        if all(scores) and run.scores.get(name):
            mean = sum(answer_loss(one) for one in scores) / len(scores)
            measure = f"loss of expected answers, nats per token: mean of {len(parts)} parts, {name}"
            yield Gain("merge", measure, mean, answer_loss(run.scores[name]), lower=True, equal=True)


def signatures(run: RecipeRun) -> Iterator[Signature]:
    """Those that there are figures for."""
    losses, scores, trainings = run.first_losses, run.scores, run.trainings
    if "focus" in losses:
        hint = (
            "the vectors did not fit the tokenizer, or the tokenizer's text the corpus: see tokenizer_replacement.json"
        )
        yield Signature(
            "first loss after the new tokenizer, of random rows' loss", losses["focus"] / losses["random"], 0.95, hint
        )
    if "stage 1" in trainings and (found := trainings["stage 1"].evaluated("loss", "pl")):
        hint = (
            "the up-scaled model is worse than none: check the layer map, drop fewer layers, or copy edges less often"
        )
        yield Signature(
            "loss after depth up-scaling, of uniform guessing's", found[0][1] / math.log(run.vocabulary), 1.0, hint
        )
    for language, name in (("en", "English"), ("pl", "Polish")):
        for stage, one, other in (("pretraining", "base", "pretrained"), ("post-training", "pretrained", "merged")):
            if language == "pl" and stage == "pretraining":
                continue
            if scores.get(one) and scores.get(other):
                share = scores[other]["texts"][language] / scores[one]["texts"][language]
                hint = "a larger share of it in the mixture, a lower rate, or fewer steps"
                yield Signature(
                    f"{name} forgotten in {stage}: loss per character after, of before", share, MOST_FORGOTTEN, hint
                )
    if scores.get("sft-merged") and scores.get("dpo"):
        change = scores["dpo"]["pairs"]["chosen"] - scores["sft-merged"]["pairs"]["chosen"]
        hint = "raise loss.positive, lower the rate"
        yield Signature("chosen answers' log-probability after DPO-P, nats", change, -CHOSEN_LOSES, hint, least=True)
    if "GRPO" in trainings and (found := trainings["GRPO"].logged("kl")):
        limit = trainings["GRPO"].history.option("loss", "kl_limit")
        largest = float(np.max([value for _, value in found]))  # NaN if one is
        hint = "lower the rate, raise loss.kl_coefficient, look at what is rewarded"
        what = "largest divergence in GRPO, nats per token"
        yield Signature(what, largest, math.inf if limit is None else float(limit), hint)
    spikes = sum(len(one.history.events_of(kind)) for one in trainings.values() for kind in ("spike", "skip"))
    yield Signature("loss spikes and skipped steps", spikes, MOST_SPIKES, "tools/diagnose.py names the documents")
