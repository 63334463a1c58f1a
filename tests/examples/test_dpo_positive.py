"""The experiment on DPO-Positive at its smallest size, and its problems and pairs."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from itertools import islice
from pathlib import Path
from random import Random
from types import ModuleType

from tests.conftest import script_environment

FOLDER = Path(__file__).parents[2] / "examples" / "experiments" / "dpo_positive"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"dpo_positive_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_step_runs(tmp_path: Path) -> None:
    environment = script_environment(QUICK="1", XDG_CACHE_HOME=str(tmp_path / "cache"))
    command = [str(FOLDER / "run.sh"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert set(results["runs"]["one-change"]) == {"plain", "positive"}
    for method, seeds in results["runs"]["one-change"].items():
        log = [
            json.loads(line) for line in (tmp_path / f"out/one-change-1-{method}/log.jsonl").read_text().splitlines()
        ]
        last = [record for record in log if record["type"] == "eval"][-1]
        assert seeds["1"]["valid"]["chosen_log_ratio"] == last["chosen_log_ratio"]
    for name in ("log_ratios", "outcomes"):
        assert (tmp_path / f"out/plots/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_problems_are_right() -> None:
    data = load("data")
    made = list(islice(data.problems(3), 300))
    assert made == list(islice(data.problems(3), 300))
    assert len({question for question, _ in made}) == 300
    for question, wanted in made:
        assert re.fullmatch(data.FORM, wanted)
        numbers = [int(number) for number in re.findall(r"\d+", question)]
        assert int(re.findall(r"\d+", wanted)[-1]) == sum(numbers)
        for one, other, total in re.findall(r"(\d+) \+ (\d+) = (\d+)", wanted):
            assert int(one) + int(other) == int(total)


def test_rejected_answers_differ_as_much_as_their_name_says() -> None:
    data = load("data")
    made = list(islice(data.problems(4), 200))
    words = re.compile(r"\w+")
    for (question, wanted), (_, other) in zip(made, made[1:] + made[:1], strict=True):
        changed = words.findall(data.one_change(wanted, other, Random(question)))
        assert sum(one != two for one, two in zip(words.findall(wanted), changed, strict=True)) == 1
        assert data.other_answer(wanted, other, Random(question)) == other != wanted
        assert not re.fullmatch(data.FORM, data.other_words(wanted, other, Random(question)))


def test_an_inverted_pair_has_inverted_scores() -> None:
    data = load("data")
    problem = ("Ile?", "Ola 10, Jan 10. 10 + 10 = 20, 0 + 0 = 0. Razem 20.")
    pairs = [data.pair(problem, problem, "other-words", Random(seed)) for seed in range(200)]
    for pair in pairs:
        right = pair["chosen"] == problem[1]
        assert right == (pair["chosen_score"] > pair["rejected_score"])
        assert (pair["chosen"] if right else pair["rejected"]) == problem[1]
    assert 0 < sum(pair["chosen"] != problem[1] for pair in pairs) < 40
