"""What the task files of this folder call by !function: reading data sets, judging answers, aggregating. No imports of ours.

Data sets come from the Hub, or from a local folder: lm_eval --metadata '{"data": "FOLDER"}', tools/evaluate.py --data FOLDER.
There each data set is a folder with train.jsonl (for examples, where the data set has them) and test.jsonl (or .parquet).
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets

LETTERS = "ABCDEFGH"
Doc = dict[str, Any]
Pair = tuple[int, int]


class DataSetError(ValueError):
    """A data set that cannot be used; the message is one line for the user."""


def load(
    dataset: str,
    folder: str,
    columns: Sequence[str],
    splits: dict[str, str],
    config: str | None = None,
    gold: str | None = None,
    values: Sequence[Any] = (),
    where: dict[str, Any] | None = None,
    data: str | None = None,
    **_: Any,
) -> dict[str, datasets.Dataset]:
    """Read a data set, check its columns, and add "gold", the number of the right choice.

    Args:
        dataset: Hub id.
        folder: Name of its folder below `data`.
        columns: That the task needs.
        splits: Our train and test, by the names the Hub's data set has for them.
        config: Of the Hub's data set.
        gold: Column of the right answer.
        values: What stands in it for choice A, B, ...
        where: Only rows with these values.
        data: Local folder in place of the Hub.

    Raises:
        DataSetError: No such files, a column is missing, or a right answer that is none of the values.
    """
    found = _read_local(Path(data) / folder) if data else _read_hub(dataset, config, splits)
    source = str(Path(data) / folder) if data else dataset
    for name, rows in found.items():
        missing = sorted({*columns, *((gold,) if gold else ())} - set(rows.column_names))
        if missing:
            raise DataSetError(f"{source}, {name}: no column {missing[0]!r}; there are {', '.join(rows.column_names)}")
        if where:
            rows = rows.filter(partial(_fits, where))
        if gold:
            rows = rows.map(partial(_with_gold, gold, values, f"{source}, {name}: {gold}"))
        if not len(rows):
            raise DataSetError(f"{source}, {name}: no rows")
        found[name] = rows
    if "test" not in found:
        raise DataSetError(f"{source}: no test.jsonl or test.parquet")
    return found


def _read_local(folder: Path) -> dict[str, datasets.Dataset]:
    if not folder.is_dir():
        raise DataSetError(f"--data: {folder} is no folder; docs/evaluation.md has the data sets and their columns")
    files = {split: next(iter(sorted(folder.glob(f"{split}.*"))), None) for split in ("train", "test")}
    found = {}
    for split, path in files.items():
        if path is None:
            continue
        kind = {".jsonl": "json", ".parquet": "parquet"}.get(path.suffix)
        if kind is None:
            raise DataSetError(f"--data: {path} is neither .jsonl nor .parquet")
        try:
            found[split] = datasets.load_dataset(kind, data_files=str(path), split="train")
        except Exception as error:  # datasets has an error class for every format
            raise DataSetError(f"--data: {path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    return found


def _read_hub(dataset: str, config: str | None, splits: dict[str, str]) -> dict[str, datasets.Dataset]:
    try:
        return {ours: datasets.load_dataset(dataset, config, split=theirs) for ours, theirs in splits.items()}
    except Exception as error:
        why = " ".join(str(error).split())[:160]
        raise DataSetError(f"{dataset} cannot be fetched ({why}); offline give --data a folder with it") from None


def _fits(where: dict[str, Any], row: Doc) -> bool:
    return all(row[column] == value for column, value in where.items())


def _with_gold(gold: str, values: Sequence[Any], what: str, row: Doc) -> Doc:
    return {"gold": _number(row[gold], values, what)}


def _number(value: Any, values: Sequence[Any], what: str) -> int:
    wanted = [str(one) for one in values]
    if str(value) not in wanted:
        raise DataSetError(f"{what} is {value!r}, needs one of {', '.join(wanted)}")
    return wanted.index(str(value))


def by_likelihood(doc: Doc, results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """The choice with the highest log-likelihood."""
    likelihoods = [likelihood for likelihood, *_ in results]
    given = max(range(len(likelihoods)), key=likelihoods.__getitem__)
    return {"acc": float(doc["gold"] == given), "f1_macro": (doc["gold"], given)}


def by_letter(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """The letter that the filter found in what was generated; none is a wrong answer of its own class."""
    answer = results[0].strip()
    given = LETTERS.index(answer) if len(answer) == 1 and answer in LETTERS else -1
    return {"acc": float(doc["gold"] == given), "f1_macro": (doc["gold"], given)}


def yes_by_likelihood(doc: Doc, results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """As by_likelihood, for questions of no (A) and yes (B)."""
    scores = by_likelihood(doc, results)
    return scores | {"f1": scores["f1_macro"]}


def yes_by_letter(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """As by_letter, for questions of no (A) and yes (B)."""
    scores = by_letter(doc, results)
    return scores | {"f1": scores["f1_macro"]}


def f1(pairs: Sequence[Pair]) -> float:
    """F1 of choice B, the one that says yes."""
    return _f1_of(pairs, 1)


def f1_macro(pairs: Sequence[Pair]) -> float:
    """Mean of the F1 of every choice that is right somewhere."""
    classes = sorted({gold for gold, _ in pairs})
    return sum(_f1_of(pairs, one) for one in classes) / len(classes)


def _f1_of(pairs: Sequence[Pair], one: int) -> float:
    hits = sum(gold == given == one for gold, given in pairs)
    total = sum((gold == one) + (given == one) for gold, given in pairs)
    return 2 * hits / total if total else 0.0


_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)?")


def accepted(answer: str, expected: Sequence[str]) -> bool:
    """PolEval's rule: equal numbers where the expected answer has one, else a distance of less than half its length."""
    from nltk import edit_distance

    given = answer.strip().lower()
    number = _NUMBER.search(given)
    for one in expected:
        wanted = _NUMBER.search(one)
        if wanted:
            if number and float(number[0].replace(",", ".")) == float(wanted[0].replace(",", ".")):
                return True
        elif edit_distance(given.rstrip(". "), one.lower()) < len(one) / 2:
            return True
    return False


def answers_of(doc: Doc) -> list[str]:
    """Expected answers: a list, the text of one, or the lists that PoQuAD and PolQA have."""
    found = doc["answers"]
    if isinstance(found, str):
        found = ast.literal_eval(found) if found.startswith("[") else [found]
    if isinstance(found, dict):
        found = found["text"]
    return [str(one) for one in found]


def first_answer(doc: Doc) -> str:
    """For examples in the prompt."""
    return answers_of(doc)[0]


def short_answer(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Whether the answer is accepted, and whether it is equal."""
    expected = answers_of(doc)
    equal = results[0].strip().rstrip(".").lower() in {one.lower() for one in expected}
    return {"accepted": float(accepted(results[0], expected)), "exact": float(equal)}


def has_answer(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Whether an accepted form stands in the answer, as words of its own, whatever the case."""
    text = results[0].lower()
    found = any(re.search(rf"(?<!\w){re.escape(one.lower())}(?!\w)", text) for one in answers_of(doc))
    return {"acc": float(found)}


def eq_bench(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """EQ-Bench v2 (Paech, arXiv 2312.06281): 10 minus 0.7477 times the scaled differences of four emotions, as a percentage.

    Differences up to 5 are scaled by 6.5 / (1 + exp(-1.2 (d - 4))), larger ones count as they are; an answer without the
    four emotions counts 0.
    """
    reference = ast.literal_eval(doc["reference_answer_fullscale"])
    wanted = {reference[f"emotion{i}"].lower(): float(reference[f"emotion{i}_score"]) for i in range(1, 5)}
    given = {name.lower(): float(score) for name, score in re.findall(r"(\w[\w ]*?)\s*:\s*(\d+)", results[0])}
    if not wanted.keys() <= given.keys():
        return {"eq_bench": 0.0, "parseable": 0.0}
    differences = [abs(given[name] - score) for name, score in wanted.items()]
    scaled = [d if d > 5 else 0.0 if d == 0 else 6.5 / (1 + math.exp(-1.2 * (d - 4))) for d in differences]
    return {"eq_bench": 10 * (10 - 0.7477 * sum(scaled)), "parseable": 1.0}
