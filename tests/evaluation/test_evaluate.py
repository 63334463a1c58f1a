"""Every task end to end on the fixtures, against lm-eval's own command and against plain transformers; kills and bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_bielik.evaluation import evaluate as module
from megatron_bielik.evaluation.evaluate import EvaluationError, Options, evaluate
from megatron_bielik.evaluation.polish_tasks import FIXTURES, TASK_FOLDER, TASKS, averages, select
from megatron_bielik.posttrain.chat import load_tokenizer

ROOT = Path(__file__).parents[2]
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


@pytest.fixture(scope="module")
def results(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All tasks, with 2 examples each."""
    return evaluate(Options(tiny_model, FIXTURES, 2), TASKS, tmp_path_factory.mktemp("all"))


def test_every_task_runs(results: dict[str, Any]) -> None:
    assert list(results["tasks"]) == [task.name for task in TASKS]
    for task in TASKS:
        score = results["tasks"][task.name]
        rows = (FIXTURES / _folder(task.name) / "test.jsonl").read_text().count("\n")
        assert score["rows"] == rows - ("polqa" in task.name)  # one row of PolQA's is not relevant
        assert 0 <= score["score"] <= task.scale
        expected = 100 * (score["score"] - score["baseline"]) / (task.scale - score["baseline"])
        assert score["normalised"] == pytest.approx(expected)
    assert results["averages"] == averages({name: one["normalised"] for name, one in results["tasks"].items()})


def _folder(task: str) -> str:
    name = task.removeprefix("polish_").removesuffix("_mc").removesuffix("_gen")
    return name.removesuffix("_closed").removesuffix("_open")


def test_lm_evals_own_command_gives_the_same(tiny_model: Path, tmp_path: Path, results: dict[str, Any]) -> None:
    names = ["polish_dyk_mc", "polish_cbd_gen", "polish_8tags_mc", "polish_poquad_gen", "polish_eq_bench"]
    command = [
        str(Path(sys.executable).parent / "lm_eval"), "--model", "hf", "--model_args", f"pretrained={tiny_model},dtype=float32",
        "--include_path", str(TASK_FOLDER), "--tasks", ",".join(names), "--num_fewshot", "2", "--device", "cpu",
        "--metadata", json.dumps({"data": str(FIXTURES)}), "--output_path", str(tmp_path / "out.json"), "--batch_size", "8",
        "--seed", "0",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=OFFLINE, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    written = next(tmp_path.rglob("*.json"))
    theirs = json.loads(written.read_text())["results"]
    for name in names:
        ours = results["tasks"][name]["metrics"]
        for metric, value in theirs[name].items():
            if "," in metric and "stderr" not in metric:
                assert ours[metric.split(",")[0]] == pytest.approx(value), (name, metric)


def test_choices_are_those_of_plain_transformers(tiny_model: Path, tmp_path: Path) -> None:
    found = evaluate(Options(tiny_model, FIXTURES, 0), select(["polish_ppc_mc"]), tmp_path)["tasks"]["polish_ppc_mc"]
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(tiny_model)
    right = []
    for line in (FIXTURES / "ppc" / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt = (
            f"Zdanie 1: {row['sentence_A']}\nZdanie 2: {row['sentence_B']}\nJak mają się do siebie te zdania?\n"
            "A. znaczą to samo\nB. znaczą prawie to samo\nC. znaczą co innego\nOdpowiedź:"
        )
        scores = []
        for letter in "ABC":
            before, whole = (tokenizer(text)["input_ids"] for text in (prompt, f"{prompt} {letter}"))
            logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            scores.append(sum(float(logits[place - 1, whole[place]]) for place in range(len(before), len(whole))))
        right.append(scores.index(max(scores)) == row["label"] - 1)
    assert found["score"] == pytest.approx(sum(right) / len(right))


def test_examples_never_hold_the_row_itself(tiny_model: Path) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASK_FOLDER), metadata={"data": str(FIXTURES)})
    found = lm_eval.simple_evaluate(
        model="hf", model_args={"pretrained": str(tiny_model), "dtype": "float32"}, tasks=["polish_belebele_mc", "polish_dyk_mc"],
        num_fewshot=5, task_manager=manager, device="cpu", bootstrap_iters=0,
    )  # fmt: skip
    for name, question in (
        ("polish_belebele_mc", "Pytanie: {question}\nA."),
        ("polish_dyk_mc", "odpowiedź: {answer}\n"),
    ):
        for sample in found["samples"][name]:
            prompt = sample["arguments"][0][0] if isinstance(sample["arguments"], list) else _first(sample["arguments"])
            assert prompt.count("Odpowiedź:") == 6
            assert prompt.count(question.format(**sample["doc"])) == 1


def _first(arguments: dict[str, Any]) -> str:
    text: str = arguments["gen_args_0"]["arg_0"]
    return text


def test_a_killed_evaluation_goes_on(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = select(["polish_dyk_mc", "polish_ppc_mc", "polish_psc_mc"])
    options = Options(tiny_model, FIXTURES, 0)
    whole = evaluate(options, tasks, tmp_path / "whole")
    real, calls = module._Engine.run, []

    def run(self: Any, task: Any) -> Any:
        calls.append(task.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, task)

    monkeypatch.setattr(module._Engine, "run", run)
    with pytest.raises(KeyboardInterrupt):
        evaluate(options, tasks, tmp_path / "killed")
    assert not (tmp_path / "killed" / module.RESULT).exists()
    assert evaluate(options, tasks, tmp_path / "killed") == whole
    assert calls == ["polish_dyk_mc", "polish_ppc_mc", "polish_ppc_mc", "polish_psc_mc"]
    evaluate(Options(tiny_model, FIXTURES, 1), tasks[:1], tmp_path / "killed")  # another number of examples: not taken
    assert calls[-1] == "polish_dyk_mc"
    assert len(calls) == 5


def test_the_fingerprint_is_of_weights_and_data(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    data = Path(shutil.copytree(FIXTURES, tmp_path / "data"))
    first = Options(copy, data, 0).fingerprint()
    assert Options(copy, data, 0, batch_size=2).fingerprint() == first
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    second = Options(copy, data, 0).fingerprint()
    (data / "ppc" / "test.jsonl").write_text("{}\n")
    assert len({first, second, Options(copy, data, 0).fingerprint()}) == 3


def test_bad_input_is_one_line(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no config\.json"):
        evaluate(Options(tmp_path), TASKS, tmp_path / "out")
    with pytest.raises(EvaluationError, match=r"polish_dyk_mc: --data: .* is no folder"):
        evaluate(Options(tiny_model, tmp_path / "none"), select(["polish_dyk_mc"]), tmp_path / "out")


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / "tools" / "evaluate.py"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=200, env=OFFLINE, check=False)


def test_the_command(tiny_model: Path, tmp_path: Path) -> None:
    done = command(
        "--model",
        tiny_model,
        "--tasks",
        "polish_dyk_mc",
        "--data",
        "fixtures",
        "--num-fewshot",
        0,
        "--output",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "fixtures: NOT the benchmarks" in done.stdout
    assert "56.13" in done.stdout
    assert json.loads((tmp_path / "results.json").read_text())["tasks"]["polish_dyk_mc"]["rows"] == 8
    refused = command("--model", tiny_model, "--tasks", "mmlu", "--output", tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: --tasks has 'mmlu'")
    assert refused.stderr.count("\n") == 1
    assert command("--help").stdout.count("tools/evaluate.py") >= 3
