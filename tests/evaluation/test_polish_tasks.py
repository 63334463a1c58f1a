"""Normalisation and averages against hand computations, and the task files against the table of tasks."""

from __future__ import annotations

import json
from random import Random

import pytest
import yaml
from sklearn.metrics import f1_score

from megatron_bielik.evaluation.polish_tasks import (
    BY_NAME,
    FIXTURES,
    TASK_FOLDER,
    TASKS,
    averages,
    guessing,
    normalised,
    select,
)


def test_normalised_by_hand() -> None:
    assert normalised(0.25, 0.25) == 0
    assert normalised(1.0, 0.25) == 100
    assert normalised(0.7, 0.25) == pytest.approx(60.0)  # 0.45 of the 0.75 above guessing
    assert normalised(0.1, 0.25) == pytest.approx(-20.0)
    assert normalised(40.0, 0.0, 100.0) == pytest.approx(40.0)


def test_the_average_by_hand() -> None:
    scores = {
        "polish_polemo2_in_mc": normalised(0.55, 0.25),  # 40
        "polish_8tags_gen": normalised(0.3, 0.125),  # 20
        "polish_poquad_gen": normalised(0.36, 0.0),  # 36
        "polish_pes_mc": normalised(0.6, 0.2),  # 50
        "polish_pes_gen": normalised(0.2, 0.2),  # 0
        "polish_plcc_gen": normalised(0.275, 0.0),
        "polish_eq_bench": normalised(13.88, 0.0, 100.0),
    }
    found = averages(scores)
    assert found["open_pl"] == pytest.approx(32.0)  # (40 + 20 + 36) / 3
    assert found["medical"] == pytest.approx(25.0)
    assert found["plcc"] == pytest.approx(27.5)
    assert found["eq_bench"] == pytest.approx(13.88)
    assert averages({}) == {}


def test_guessing_is_what_random_answers_get() -> None:
    rng = Random(0)
    for name, golds in (("polish_dyk_mc", [0] * 700 + [1] * 300), ("polish_cbd_gen", [0] * 850 + [1] * 150)):
        task = BY_NAME[name]
        shares = [golds.count(choice) / len(golds) for choice in range(2)]
        given = [rng.randrange(2) for _ in range(100) for _ in golds]
        average = "binary" if task.metric == "f1" else "macro"
        assert guessing(task, shares) == pytest.approx(f1_score(golds * 100, given, average=average), abs=0.005)
    assert guessing(BY_NAME["polish_8tags_mc"], [0.5, 0.5]) == 1 / 8
    assert guessing(BY_NAME["polish_poquad_gen"], []) == 0


def test_every_task_has_a_file_and_every_file_a_task() -> None:
    found = {}
    for path in TASK_FOLDER.glob("*.yaml"):
        content = yaml.load(path.read_text(), Loader=_Tolerant)
        if "task" in content and "group" not in content:
            found[content["task"]] = {one["metric"] for one in content["metric_list"]}
    assert found.keys() == {task.name for task in TASKS}
    for task in TASKS:
        assert task.metric in found[task.name]


def test_data_sets_of_the_files_have_fixtures_with_their_columns() -> None:
    for path in sorted(TASK_FOLDER.glob("_*.yaml")):
        content = yaml.load(path.read_text(), Loader=_Tolerant)
        about = content["dataset_kwargs"]
        rows = [json.loads(line) for line in (FIXTURES / about["folder"] / "test.jsonl").read_text().splitlines()]
        assert rows
        assert all(set(about["columns"]) <= row.keys() for row in rows), path
        assert (FIXTURES / about["folder"] / "train.jsonl").exists() == ("training_split" in content)


def test_groups_and_names() -> None:
    assert len(select(["polish"])) == len(TASKS)
    assert {task.kind for task in select(["polish_mc"])} == {"mc"}
    assert len(select(["polish_mc"])) == 9
    assert [task.name for task in select(["polish_dyk_mc", "polish_dyk_mc"])] == ["polish_dyk_mc"]
    with pytest.raises(ValueError, match="--tasks has 'mmlu'"):
        select(["mmlu"])


class _Tolerant(yaml.SafeLoader):
    """Takes !function as text."""


_Tolerant.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
