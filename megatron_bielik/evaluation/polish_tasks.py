"""The Polish tasks: which score counts, what guessing gets, which average it belongs to, and the published scores beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TASK_FOLDER = Path(__file__).parent / "tasks" / "polish"
FIXTURES = Path(__file__).parent / "fixtures"
Kind = Literal["mc", "gen"]
Average = Literal["open_pl", "eq_bench", "medical", "plcc"]


@dataclass(frozen=True)
class Task:
    """One task file.

    Attributes:
        name: As lm-eval knows it.
        kind: By log-likelihood or by what is generated.
        metric: The score that counts.
        choices: Answers to choose from; 0 where guessing gets nothing.
        average: Score that it goes into.
        scale: What a perfect score is, in the metric's own numbers.
    """

    name: str
    kind: Kind
    metric: str
    choices: int
    average: Average = "open_pl"
    scale: float = 1.0


def _both(name: str, metric: str, choices: int, average: Average = "open_pl") -> list[Task]:
    return [Task(f"polish_{name}_{kind}", kind, metric, choices, average) for kind in ("mc", "gen")]


TASKS: tuple[Task, ...] = (
    *_both("polemo2_in", "acc", 4),
    *_both("polemo2_out", "acc", 4),
    *_both("8tags", "acc", 8),
    *_both("belebele", "acc", 4),
    *_both("dyk", "f1", 2),
    *_both("ppc", "acc", 3),
    *_both("psc", "f1", 2),
    *_both("cbd", "f1_macro", 2),
    *_both("klej_ner", "acc", 6),
    Task("polish_polqa_closed_gen", "gen", "accepted", 0),
    Task("polish_polqa_open_gen", "gen", "accepted", 0),
    Task("polish_poquad_gen", "gen", "accepted", 0),
    Task("polish_eq_bench", "gen", "eq_bench", 0, "eq_bench", 100.0),
    *_both("pes", "acc", 5, "medical"),
    Task("polish_plcc_gen", "gen", "acc", 0, "plcc"),
)
BY_NAME = {task.name: task for task in TASKS}

AVERAGES: dict[Average, str] = {
    "open_pl": "Open PL",
    "eq_bench": "EQ-Bench",
    "medical": "medical exams",
    "plcc": "PLCC",
}

# Bielik v3 Small report (arXiv 2505.02550): Open PL and medical exams with 5 examples, percent.
PUBLISHED: dict[str, dict[Average, float]] = {
    "Bielik 1.5B v3": {"open_pl": 31.48},
    "Bielik 4.5B v3": {"open_pl": 45.47},
    "Qwen2.5-1.5B": {"open_pl": 31.83},
    "Qwen2.5-3B": {"open_pl": 44.59},
    "Bielik 1.5B v3 Instruct": {"open_pl": 41.36, "eq_bench": 13.88, "medical": 34.63, "plcc": 27.50},
    "Bielik 4.5B v3 Instruct": {"open_pl": 56.13, "eq_bench": 53.58, "medical": 43.55, "plcc": 42.33},
    "Qwen2.5-1.5B Instruct": {"open_pl": 31.89, "eq_bench": 27.63, "medical": 32.64},
    "Qwen2.5-3B Instruct": {"open_pl": 41.23, "eq_bench": 35.87, "medical": 37.72},
}


def guessing(task: Task, shares: Sequence[float]) -> float:
    """Expected score of uniform guesses, in the metric's numbers.

    Accuracy: 1 / choices. F1 of a class with share p of the answers: precision p, recall 1 / choices, so
    2 (p / k) / (p + 1 / k); macro-F1 is its mean over the classes that occur.

    Args:
        task: The task.
        shares: Of each right answer in the data set, in the order of the choices.
    """
    if not task.choices:
        return 0.0
    chance = 1 / task.choices
    if task.metric == "acc":
        return chance
    scores = [2 * share * chance / (share + chance) for share in shares]
    if task.metric == "f1":
        return scores[1] if len(scores) > 1 else 0.0
    occurring = [score for score, share in zip(scores, shares, strict=True) if share > 0]
    return sum(occurring) / len(occurring)


def normalised(score: float, baseline: float, scale: float = 1.0) -> float:
    """100 (score - baseline) / (scale - baseline): 0 is guessing, 100 is perfect; worse than guessing is negative."""
    return 100 * (score - baseline) / (scale - baseline)


def averages(scores: Mapping[str, float]) -> dict[Average, float]:
    """Plain means of the normalised scores of the tasks of each average, as far as there are any."""
    found: dict[Average, float] = {}
    for average in AVERAGES:
        own = [score for name, score in scores.items() if BY_NAME[name].average == average]
        if own:
            found[average] = sum(own) / len(own)
    return found


def data_folder(given: str | None) -> Path | None:
    """What --data means: a folder of local data sets, or "fixtures" for the package's own; None for the Hub."""
    return None if given is None else FIXTURES if given == "fixtures" else Path(given)


def select(names: Sequence[str]) -> list[Task]:
    """Tasks by name, or by group: polish, polish_mc, polish_gen.

    Raises:
        ValueError: No such task.
    """
    found: dict[str, Task] = {}
    for name in names:
        groups = {
            "polish": TASKS,
            "polish_mc": [task for task in TASKS if task.kind == "mc" and task.average == "open_pl"],
            "polish_gen": [task for task in TASKS if task.kind == "gen" and task.average in ("open_pl", "eq_bench")],
        }
        if name not in groups and name not in BY_NAME:
            raise ValueError(f"--tasks has {name!r}, needs {', '.join(groups)} or of {', '.join(BY_NAME)}")
        for task in groups.get(name, [BY_NAME.get(name, TASKS[0])]):
            found[task.name] = task
    return list(found.values())
