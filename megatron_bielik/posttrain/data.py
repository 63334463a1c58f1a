"""Rows of files to tokenised rows on disk, once per run: what cannot be used is named and counted.

The prepared set is an Arrow file that is read by memory mapping, so a set may be larger than memory. Its name holds a hash
of everything it depends on; a run that is started again finds it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from megatron_bielik.corpus.records import ReadCount, batches, read_rows, write_whole
from megatron_bielik.data.errors import DataError, write_error
from megatron_bielik.data.inputs import find_inputs

FORMAT = 1
BATCH = 512  # rows tokenised together
_SHOWN = 20

Row = dict[str, Any]


class Dropped(Exception):
    """Why a row cannot be used: what it is counted as, and the detail that is shown."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass
class Report:
    """What became of the rows.

    Args:
        rows: Rows read, bad ones included.
        kept: Rows that are used.
        tokens: Of those.
        trained: Tokens the loss is computed on.
        dropped: Rows by the reason why they are not used.
        first: Place and reason of the first ones.
        special_as_text: Special tokens written out in messages, which became ordinary text.
    """

    rows: int = 0
    kept: int = 0
    tokens: int = 0
    trained: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    first: list[str] = field(default_factory=list)
    special_as_text: int = 0

    def drop(self, kind: str, place: str, detail: str) -> None:
        """Count a row that is not used."""
        self.dropped[kind] = self.dropped.get(kind, 0) + 1
        if len(self.first) < _SHOWN:
            self.first.append(f"{place}: {detail}")

    def refuse_if_bad(self, option: str, most: float) -> None:
        """Raise DataError where too large a share was dropped, or nothing is left."""
        bad = self.rows - self.kept
        reasons = ", ".join(f"{count:,} {kind}" for kind, count in Counter(self.dropped).most_common())
        if not self.kept:
            raise DataError(f"{option}: no usable row among {self.rows:,} ({reasons or 'the files are empty'})")
        if bad > most * self.rows:
            raise DataError(
                f"{option}: {bad:,} of {self.rows:,} rows cannot be used ({reasons}), more than data.max_bad_share "
                f"{most:g}; first: {self.first[0]}"
            )


@dataclass(frozen=True)
class Prepared:
    """A tokenised set.

    Args:
        path: Arrow stream file.
        report: What became of the rows.
    """

    path: Path
    report: Report


def prepare(
    folder: Path,
    name: str,
    patterns: Sequence[str],
    settings: Row,
    schema: pa.Schema,
    check: Callable[[Row], Row],
    encode: Callable[[list[Row]], Iterable[Row | Dropped]],
    progress: Callable[[int, int], None] = lambda rows, size: None,
) -> Prepared:
    """Tokenise the rows of files, or find what was made of the same files with the same settings before.

    Args:
        folder: Where prepared sets stand.
        name: train or valid; begins the file's name.
        patterns: Input files.
        settings: All that the result depends on beside the files (tokenizer, template, lengths), as plain values.
        schema: Columns of the result.
        check: Takes a row, gives what encode needs; raises Dropped for one that cannot be used.
        encode: Takes up to BATCH of those, gives a row of the schema or Dropped for each, in order. A row's keys tokens,
            trained and special_as_text are counted and not stored, unless the schema has them.
        progress: Called with rows and tokens so far.

    Raises:
        DataError: A file that is missing or damaged as a whole, or a disk that refuses.
    """
    files = [(source.path, source.size, source.mtime_ns) for source in find_inputs(patterns, f"data.{name}")]
    key = hashlib.sha256(json.dumps([FORMAT, files, settings], sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{name}-{key}.arrow"
    described = path.with_suffix(".json")
    if path.is_file() and described.is_file():
        return Prepared(path, Report(**json.loads(described.read_text(encoding="utf-8"))))
    report = Report()
    temporary = path.with_suffix(".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for rows in batches(_usable(patterns, f"data.{name}", check, encode, report), BATCH):
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
                progress(report.rows, report.tokens)
        temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    write_whole(described, json.dumps(asdict(report), ensure_ascii=False, indent=2) + "\n")
    return Prepared(path, report)


def _usable(
    patterns: Sequence[str],
    option: str,
    check: Callable[[Row], Row],
    encode: Callable[[list[Row]], Iterable[Row | Dropped]],
    report: Report,
) -> Iterator[Row]:
    count = ReadCount()
    for some in batches(read_rows(patterns, count, option), BATCH):
        places, good = [], []
        for place, row in some:
            report.rows += 1
            try:
                good.append(check(row))
                places.append(place)
            except Dropped as why:
                report.drop(why.kind, place, str(why))
        for place, made in zip(places, encode(good), strict=True):
            if isinstance(made, Dropped):
                report.drop(made.kind, place, str(made))
                continue
            report.kept += 1
            report.tokens += made["tokens"]
            report.trained += made["trained"]
            report.special_as_text += made["special_as_text"]
            yield made
    report.rows += count.bad
    for place_and_reason in count.first_bad:
        report.first = [*report.first, place_and_reason][:_SHOWN]
    if count.bad:
        report.dropped["not JSON"] = count.bad


def print_report(
    name: str, what: str, report: Report, more: list[tuple[str, str]], console: Console | None = None
) -> None:
    """Print what became of a set's rows.

    Args:
        name: train or valid.
        what: What a row is, in the plural.
        report: The counts.
        more: Further lines of the table.
        console: None is the standard output.
    """
    table = Table(title=f"{name} set", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_row(what, f"{report.kept:,} of {report.rows:,}")
    for kind, number in sorted(report.dropped.items(), key=lambda item: -item[1]):
        table.add_row(f"  dropped: {kind}", f"{number:,}")
    table.add_row("tokens", f"{report.tokens:,}")
    if report.trained:
        table.add_row("trained (the assistant's)", f"{report.trained:,} ({report.trained / report.tokens:.1%})")
    if report.special_as_text:
        table.add_row("special tokens written out, taken as text", f"{report.special_as_text:,}")
    for line in more:
        table.add_row(*line)
    console = console or Console()
    console.print(table)
    for first in report.first[:5]:
        console.print(f"  {first}", soft_wrap=True, highlight=False, markup=False)
