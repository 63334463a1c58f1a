"""Runs the Polish tasks on a Hugging Face folder with lm-evaluation-harness, task by task, and keeps what is done.

A task's result is a file named by the model's and the options' fingerprint: a run that was killed goes on, and nothing is taken
from another model or another number of examples.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_bielik.corpus.records import write_whole
from megatron_bielik.evaluation.polish_tasks import TASK_FOLDER, Task, averages, guessing, normalised

RESULT = "results.json"


class EvaluationError(ValueError):
    """What stops an evaluation and is the user's to mend; the message is one line."""


@dataclass(frozen=True)
class Options:
    """How a model is evaluated.

    Attributes:
        model: Hugging Face folder.
        data: Folder of local data sets; None takes them from the Hub.
        num_fewshot: Solved examples before each question; EQ-Bench and PLCC have none.
        limit: Rows of each task, at most; None takes all.
        chat: Ask as a chat, by the tokenizer's template.
        device: Of torch.
        batch_size: Rows at a time.
        dtype: Of the weights.
    """

    model: Path
    data: Path | None = None
    num_fewshot: int = 5
    limit: int | None = None
    chat: bool = False
    device: str = "cpu"
    batch_size: int = 8
    dtype: str = "float32"

    def fingerprint(self) -> str:
        """SHA-256, 16 digits, over the options that change a score, the model's small files, and its weights' contents."""
        total = hashlib.sha256()
        about = {"data": str(self.data), "num_fewshot": self.num_fewshot, "limit": self.limit, "chat": self.chat}
        total.update(json.dumps({**about, "dtype": self.dtype}).encode())
        roots = [(TASK_FOLDER, "*"), (self.model, "*.json"), (self.model, "*.safetensors"), (self.model, "*.jinja")]
        if self.data is not None:
            roots.append((self.data, "*/*.*"))
        for root, pattern in roots:
            for file in sorted(one for one in root.glob(pattern) if one.is_file()):
                total.update(file.name.encode())
                with file.open("rb") as stream:
                    total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()[:16]


@dataclass(frozen=True)
class Score:
    """Of one task.

    Attributes:
        task: Name.
        rows: Evaluated.
        score: The metric that counts, in its own numbers.
        baseline: What uniform guesses get.
        normalised: Percent of the way from guessing to perfect.
        metrics: All that lm-eval gives.
    """

    task: str
    rows: int
    score: float
    baseline: float
    normalised: float
    metrics: dict[str, float]


def evaluate(
    options: Options, tasks: Sequence[Task], output: Path, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run what is not done yet and write output/results.json.

    Returns:
        {"model", "options", "fingerprint", "data", "tasks": {name: Score}, "averages"}.

    Raises:
        EvaluationError: No model, or a data set that cannot be used.
    """
    if not (options.model / "config.json").is_file():
        raise EvaluationError(f"--model is {options.model}: no config.json in it; give a Hugging Face folder")
    fingerprint = options.fingerprint()
    kept = output / "tasks"
    kept.mkdir(parents=True, exist_ok=True)
    engine: _Engine | None = None
    scores = []
    for number, task in enumerate(tasks, 1):
        file = kept / f"{task.name}-{fingerprint}.json"
        if file.is_file():
            scores.append(Score(**json.loads(file.read_text(encoding="utf-8"))))
            continue
        say(f"{number}/{len(tasks)} {task.name}")
        engine = engine or _Engine(options)
        scores.append(engine.run(task))
        write_whole(file, json.dumps(asdict(scores[-1]), indent=1) + "\n")
    results = {
        "model": str(options.model),
        "num_fewshot": options.num_fewshot,
        "limit": options.limit,
        "chat": options.chat,
        "data": None if options.data is None else str(options.data),
        "fingerprint": fingerprint,
        "tasks": {score.task: asdict(score) for score in scores},
        "averages": averages({score.task: score.normalised for score in scores}),
    }
    write_whole(output / RESULT, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return results


class _Engine:
    """lm-eval with one model loaded, whose tokenizer is read as its tokenizer.json says."""

    def __init__(self, options: Options) -> None:
        import transformers
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        from megatron_bielik.posttrain.chat import load_tokenizer

        for name in ("lm_eval", "lm-eval", "datasets"):
            logging.getLogger(name).setLevel(logging.ERROR)
        transformers.utils.logging.disable_progress_bar()
        self._options = options
        try:
            network = transformers.AutoModelForCausalLM.from_pretrained(
                options.model, dtype=options.dtype, local_files_only=True
            ).to(options.device)
        except (OSError, ValueError) as error:
            raise EvaluationError(f"--model is {options.model}: {' '.join(str(error).split())[:200]}") from None
        self._model = HFLM(
            pretrained=network.eval(),
            tokenizer=load_tokenizer(options.model),
            batch_size=options.batch_size,
            device=options.device,
        )
        metadata = {} if options.data is None else {"data": str(options.data)}
        self._manager = TaskManager(include_path=str(TASK_FOLDER), metadata=metadata)

    def run(self, task: Task) -> Score:
        import lm_eval

        try:
            found = lm_eval.simple_evaluate(
                model=self._model,
                tasks=[task.name],
                num_fewshot=self._options.num_fewshot,
                limit=self._options.limit,
                apply_chat_template=self._options.chat,
                fewshot_as_multiturn=self._options.chat,
                task_manager=self._manager,
                log_samples=True,
                bootstrap_iters=0,
                random_seed=0,
                numpy_random_seed=0,
                torch_random_seed=0,
                fewshot_random_seed=0,
            )
        except ValueError as error:
            if type(error).__name__ != "DataSetError":  # the task files are not imported from here
                raise
            raise EvaluationError(f"{task.name}: {error}") from None
        metrics = {
            name.split(",")[0]: float(value)
            for name, value in found["results"][task.name].items()
            if "_stderr" not in name and isinstance(value, (int, float))
        }
        rows = {sample["doc_id"]: sample["doc"] for sample in found["samples"][task.name]}
        golds = Counter(row.get("gold") for row in rows.values())
        shares = [golds[choice] / len(rows) for choice in range(task.choices)]
        score, baseline = metrics[task.metric], guessing(task, shares)
        return Score(task.name, len(rows), score, baseline, normalised(score, baseline, task.scale), metrics)
