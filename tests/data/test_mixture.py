"""Which data set each sample comes from: megatron-core's rule, from any position on, and never a sample twice."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.datasets import helpers

from megatron_bielik.data.mixture import Mixture

WEIGHTS: list[dict[str, float]] = [
    {"only": 3.0},
    {"a": 1.0, "b": 1.0},
    {"a": 0.7, "b": 0.2, "c": 0.1},
    {"a": 1.0, "b": 1e-6},
    {"a": 1e-6, "b": 1.0, "c": 1e-6},
    {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3},
    {f"set{i}": 1 / (i + 1) for i in range(40)},
]


def megatron_blend(weights: Iterable[float], samples: int) -> tuple[list[int], list[int]]:
    """Data set and sample number of each sample, from build_blending_indices."""
    shares = np.array(list(weights), dtype=np.float64)
    shares /= math.fsum(shares)
    sets, numbers = np.zeros(samples, dtype=np.int16), np.zeros(samples, dtype=np.int64)
    helpers.build_blending_indices(sets, numbers, shares, len(shares), samples, False)
    return sets.tolist(), numbers.tolist()


def resumed(mixture: Mixture, weights: dict[str, float] | None = None) -> Mixture:
    """A mixture from the state as it comes back from a file, under the same or other weights."""
    return Mixture(weights or mixture.weights, json.loads(json.dumps(mixture.state())))


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda w: f"{len(w)} sets")
def test_order_is_that_of_megatron_core(weights: dict[str, float]) -> None:
    drawn = Mixture(weights).draw(6000)
    sets, numbers = megatron_blend(weights.values(), 6000)
    names = list(weights)
    assert [names.index(name) for name, _ in drawn] == sets
    assert [number for _, number in drawn] == numbers


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.floats(1e-6, 10), min_size=1, max_size=6),
    parts=st.lists(st.integers(0, 97), min_size=1, max_size=12),
)
def test_any_cut_gives_the_same_order(weights: list[float], parts: list[int]) -> None:
    """Batches of any sizes, with a resume through a file between all of them."""
    named = {f"set{i}": weight for i, weight in enumerate(weights)}
    mixture, drawn = Mixture(named), []
    for part in parts:
        drawn += mixture.draw(part)
        mixture = resumed(mixture, named)
    assert drawn == Mixture(named).draw(sum(parts))
    assert mixture.consumed == {name: Counter(n for n, _ in drawn)[name] for name in named}


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda w: f"{len(w)} sets")
def test_shares_are_kept_at_every_moment(weights: dict[str, float]) -> None:
    """Between any two steps, no set is further from its share than the sets of smaller share that were served first."""
    mixture = Mixture(weights)
    for total in range(50, 5001, 50):
        mixture.draw(50)
        for name, share in mixture.weights.items():
            assert abs(mixture.consumed[name] - share * total) < max(2, len(weights) / 2), (name, total)


def test_state_is_a_copy() -> None:
    mixture = Mixture({"a": 1, "b": 2})
    mixture.draw(10)
    state = mixture.state()
    kept = json.dumps(state)
    mixture.draw(10)
    assert json.dumps(state) == kept
    Mixture({"a": 1, "b": 2}, state).draw(5)
    assert json.dumps(state) == kept


MIXTURES = st.dictionaries(st.sampled_from("abcde"), st.floats(0.01, 10), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(stages=st.lists(st.tuples(MIXTURES, st.integers(0, 200)), min_size=2, max_size=6))
def test_no_sample_twice_whatever_the_mixtures(stages: list[tuple[dict[str, float], int]]) -> None:
    """Sets come, go and come back with other weights: each gives its samples 0, 1, 2, ... without gap or repetition."""
    mixture, given_numbers = Mixture(stages[0][0]), dict[str, list[int]]()
    for weights, samples in stages:
        mixture = resumed(mixture, weights)
        for name, number in mixture.draw(samples):
            assert name in weights
            given_numbers.setdefault(name, []).append(number)
    for name, numbers in given_numbers.items():
        assert numbers == list(range(len(numbers))), name
        assert mixture.consumed[name] == len(numbers)


def test_new_shares_are_reached_at_once() -> None:
    """Other weights hold from their first step on: what was drawn before is not made up for."""
    mixture = Mixture({"a": 9, "b": 1})
    mixture.draw(1000)
    assert mixture.consumed == {"a": 900, "b": 100}
    mixture = resumed(mixture, {"a": 1, "b": 1, "c": 2})
    counts = Counter(name for name, _ in mixture.draw(400))
    assert counts == {"a": 100, "b": 100, "c": 200}
    mixture = resumed(mixture, {"b": 1})
    assert mixture.draw(3) == [("b", 200), ("b", 201), ("b", 202)]
    mixture = resumed(mixture, {"a": 1, "b": 3})
    counts = Counter(name for name, _ in mixture.draw(400))
    assert counts == {"a": 100, "b": 300}
    assert mixture.consumed == {"a": 1100, "b": 503, "c": 200}
    # The same shares, written otherwise, go on where they were.
    again = resumed(mixture, {"a": 2, "b": 6})
    assert again.draw(50) == mixture.draw(50)


def test_speed() -> None:
    """One step of the largest batches must cost nothing beside the step: about 10 ms where this was written."""
    mixture = Mixture({f"set{i}": 1 / (i + 1) for i in range(100)})
    times = []
    for _ in range(5):
        started = time.perf_counter()
        mixture.draw(1024)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.1
