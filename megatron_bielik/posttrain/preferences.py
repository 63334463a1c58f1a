"""Raw preference pairs to clean ones: checked, put in order by their scores, far enough apart, without near duplicates."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from megatron_bielik.corpus.duplicates import find_duplicates
from megatron_bielik.corpus.records import ReadCount, Record, dump, read_rows, record_writer, write_whole
from megatron_bielik.data.errors import DataError, write_error
from megatron_bielik.posttrain.preference_rows import BadRow, Pair, read_pair

I64 = npt.NDArray[np.int64]
_ROUNDING = 1e-9  # 4.1 - 2.1 is a little less than 2


@dataclass(frozen=True)
class PreferenceOptions:
    """What becomes of pairs.

    Args:
        chosen_score: Name of the field with the score of chosen; in the output it is chosen_score.
        rejected_score: The same for rejected.
        min_gap: Pairs whose scores are closer are dropped; in points of the scores (usually 0 to 10).
        no_scores: Take rows without scores, which no step then compares.
        near_duplicates: What near duplicates are alike in: the prompt, the pair (prompt and chosen answer), or none to keep
            all. Case, punctuation and the values of numbers make no difference (corpus/minhash.py).

    Raises:
        DataError: A gap below 0 or not finite, or one name for both scores.
    """

    chosen_score: str = "chosen_score"
    rejected_score: str = "rejected_score"
    min_gap: float = 2.0
    no_scores: bool = False
    near_duplicates: Literal["prompt", "pair", "none"] = "prompt"

    def __post_init__(self) -> None:
        if not 0 <= self.min_gap < float("inf"):
            raise DataError(f"--min-gap is {self.min_gap}, needs 0 or more points")
        if self.chosen_score == self.rejected_score:
            raise DataError(f"--chosen-score and --rejected-score are both {self.chosen_score!r}, need two fields")


@dataclass(frozen=True)
class Step:
    """What a step did.

    Args:
        name: Of the step.
        rows_in: Pairs that entered.
        rows_out: Pairs that left.
        details: Further counts: why rows were bad, how many pairs were swapped, clusters of near duplicates.
    """

    name: str
    rows_in: int
    rows_out: int
    details: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PreferenceReport:
    """All steps in order, and place and reason of the first 20 bad rows."""

    steps: list[Step]
    first_bad: list[str]

    @property
    def rows_in(self) -> int:
        """Rows that were read, bad ones included."""
        return self.steps[0].rows_in

    @property
    def rows_out(self) -> int:
        """Pairs that were written."""
        return self.steps[-1].rows_out


def prepare_preferences(
    inputs: Sequence[str],
    output: Path,
    options: PreferenceOptions | None = None,
    report: Path | None = None,
    threads: int = 1,
) -> PreferenceReport:
    """Clean the pairs of files into one, in their order; it appears when complete, and is the same for the same input.

    Memory holds a few hundred bytes a pair, not their texts: pairs that may stay wait in a nameless file beside the output.

    Args:
        inputs: .jsonl, .jsonl.gz, .jsonl.zst or .parquet files and patterns; rows as preference_rows.read_pair takes them.
        output: .jsonl, .jsonl.gz or .jsonl.zst.
        options: What becomes of pairs.
        report: JSON file for the report, or none.
        threads: That look for near duplicates; the result does not depend on them.

    Raises:
        DataError: An input that cannot be read, no row with scores where they are needed, or a disk that refuses.
    """
    options = options or PreferenceOptions()
    first = _FirstSteps(options)
    with record_writer(output) as stream, _Spill(output) as spill:
        texts = first.run(inputs, spill)
        if options.near_duplicates == "none":
            stays, clusters = np.ones(sum(1 for _ in texts), bool), 0
        else:
            stays, clusters = _best_of_clusters(texts, first.gaps, threads)
        first.refuse_if_none_is_good()
        for line, kept in zip(spill.lines(), stays, strict=True):
            if kept:
                stream.write(line)
    last = Step("near duplicates", len(stays), int(stays.sum()), {"clusters": clusters})
    found = PreferenceReport([*first.steps(), last], first.read.first_bad)
    if report is not None:
        content = {"inputs": list(inputs), "output": str(output), "options": asdict(options), **asdict(found)}
        write_whole(report, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    return found


class _Spill:
    """Lines that wait in a nameless file beside the output; a disk that refuses is told as DataError."""

    def __init__(self, output: Path) -> None:
        self._output = output
        with self._guarded():
            self._file = tempfile.TemporaryFile(dir=output.parent)  # noqa: SIM115

    def __enter__(self) -> _Spill:
        return self

    def __exit__(self, *_: object) -> None:
        # What is still in its buffer is of no use, and closing would write it.
        with contextlib.suppress(OSError):
            self._file.close()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise write_error(self._output, error) from error

    def add(self, line: bytes) -> None:
        with self._guarded():
            self._file.write(line)

    def lines(self) -> IO[bytes]:
        """All lines, from the first."""
        with self._guarded():
            self._file.seek(0)
        return self._file


class _FirstSteps:
    """The steps that look at one row: bad ones, equal answers, inverted pairs, the gap."""

    def __init__(self, options: PreferenceOptions) -> None:
        self.options, self.read = options, ReadCount()
        self.counts: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()
        self.gaps: list[float] = []

    def run(self, inputs: Sequence[str], spill: _Spill) -> Iterator[str]:
        """Texts to look for near duplicates in, one a pair that stays; its row goes to the spill as a line."""
        for place, row in read_rows(inputs, self.read):
            pair = self._take(place, row)
            if pair is None:
                continue
            spill.add(dump(pair.record()))
            self.gaps.append(pair.gap)
            yield pair.text(self.options.near_duplicates == "pair")

    def _take(self, place: str, row: Record) -> Pair | None:
        options = self.options
        try:
            pair = read_pair(row, options.chosen_score, options.rejected_score, not options.no_scores)
        except BadRow as problem:
            self.read.add_bad(place, str(problem))
            self.bad[problem.kind] += 1
            return None
        self.counts["good"] += 1
        if pair.has_equal_answers():
            return None
        self.counts["unequal"] += 1
        if pair.gap < 0:
            pair.swap()
            self.counts["swapped"] += 1
        if pair.scores is not None and pair.gap < options.min_gap - _ROUNDING:
            return None
        self.counts["apart"] += 1
        return pair

    def refuse_if_none_is_good(self) -> None:
        """Raises DataError where no row is a pair, with the way out if all that is missing are scores."""
        if self.counts["good"]:
            return
        if self.bad["no scores"]:
            names = f"{self.options.chosen_score!r} and {self.options.rejected_score!r}"
            raise DataError(
                f"no row has the scores {names}: name the fields with --chosen-score and --rejected-score, "
                "or take the pairs as they are with --no-scores"
            )
        first = f"; first: {self.read.first_bad[0]}" if self.read.first_bad else ""
        raise DataError(f"--input: no pair among {self.steps()[0].rows_in:,} rows{first}")

    def steps(self) -> list[Step]:
        """What has been done, in order."""
        counts = self.counts
        unparsed = self.read.bad - self.bad.total()
        bad = {**({"no JSON": unparsed} if unparsed else {}), **dict(sorted(self.bad.items()))}
        return [
            Step("bad rows", self.read.records + unparsed, counts["good"], bad),
            Step("equal answers", counts["good"], counts["unequal"]),
            Step("inverted", counts["unequal"], counts["unequal"], {"swapped": counts["swapped"]}),
            Step("gap", counts["unequal"], counts["apart"]),
        ]


def _best_of_clusters(texts: Iterator[str], gaps: list[float], threads: int) -> tuple[npt.NDArray[np.bool_], int]:
    """Which pairs stay, bool [pairs], and how many clusters had more than one: of each the largest gap, of equal ones the first.

    Args:
        texts: One a pair; gaps has grown as long when they are read.
        gaps: One a pair.
        threads: That sign.
    """
    same = _SameTexts()
    near = find_duplicates(same.watch(texts), threads=threads).first
    # Texts of a few words have no signature, so equal ones of them are nobody's duplicates to MinHash.
    cluster = _united(near, np.array(same.first, np.int64))
    order = np.lexsort((np.arange(len(cluster)), -np.array(gaps, np.float64), cluster))
    heads = np.ones(len(order), bool)
    heads[1:] = cluster[order][1:] != cluster[order][:-1]
    stays = np.zeros(len(order), bool)
    stays[order[heads]] = True
    return stays, int((np.bincount(cluster, minlength=1) > 1).sum())


class _SameTexts:
    """Which earlier text each text is equal to, but for case and white space; its own number where there is none."""

    def __init__(self) -> None:
        self.first: list[int] = []
        self._numbers: dict[int, int] = {}

    def watch(self, texts: Iterator[str]) -> Iterator[str]:
        for number, text in enumerate(texts):
            self.first.append(self._numbers.setdefault(_hash(" ".join(text.casefold().split())), number))
            yield text


def _hash(text: str) -> int:
    """128 bits of a text, the same in every process."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest(), "little")


def _united(one: I64, other: I64) -> I64:
    """Clusters of two partitions put together, each named by its first member; both name clusters by first members."""
    parents = one.copy()

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = int(parents[number])
        return number

    for number in np.flatnonzero(other != np.arange(len(other))).tolist():
        a, b = root(number), root(int(other[number]))
        parents[max(a, b)] = min(a, b)
    return np.array([root(number) for number in range(len(parents))], np.int64)


def table(report: PreferenceReport) -> list[str]:
    """Lines for the screen: rows in and out per step, and what else was counted."""
    width = max(len(step.name) for step in report.steps)
    lines = [f"{'step':<{width}}  {'in':>10}  {'out':>10}"]
    for step in report.steps:
        details: list[Any] = [f"{count:,} {name}" for name, count in step.details.items()]
        lines.append(f"{step.name:<{width}}  {step.rows_in:>10,}  {step.rows_out:>10,}  {', '.join(details)}".rstrip())
    return lines
