"""A piece of work to its documents: lines of jsonl, rows of parquet, whole txt files or paragraphs of them.

A line or row that gives no document is reported with its place and reason, never raised; what the caller does with it
is its own business. A file that is damaged as a whole is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from megatron_bielik.data.errors import DataError
from megatron_bielik.data.inputs import Part, Piece, TxtSplit, one_line

_BATCH_BYTES = 4 << 20  # text handed on at once
_READ_BYTES = 1 << 20
_BLOCK_LINES = 4096
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class BadRecord:
    """A line or row that gave no document. `number` counts from 0 within the part."""

    part: int
    number: int
    reason: str


@dataclass
class Batch:
    """Documents of a piece: UTF-8 texts, bad records, and how many lines or rows of which part they came from."""

    part: int
    texts: list[bytes] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)
    records: int = 0


def read_piece(piece: Piece, json_key: str, txt_split: TxtSplit) -> Iterator[Batch]:
    """Documents of a piece in batches of a few megabytes. Blank lines of jsonl files are no records.

    Raises:
        DataError: A file that cannot be read as what it should be; bad lines are told in the batches instead.
    """
    for number, part in enumerate(piece.parts):
        if part.block is not None:
            lines = part.block.split(b"\n")
            if lines and not lines[-1]:
                lines.pop()
            for at in range(0, len(lines), _BLOCK_LINES):
                yield _parse(lines[at : at + _BLOCK_LINES], number, at, part, json_key)
        elif part.format == "parquet":
            yield from _read_rows(part, number, json_key)
        elif part.format == "txt" and txt_split == "file":
            yield _whole_file(part, number)
        elif part.format == "txt":
            yield from _read_paragraphs(part, number)
        else:
            yield from _read_lines(part, number, json_key)


def _read_lines(part: Part, number: int, json_key: str) -> Iterator[Batch]:
    """Lines that begin in [start, stop)."""
    with Path(part.path).open("rb", buffering=_READ_BYTES) as stream:
        position = 0
        if part.start:
            stream.seek(part.start - 1)
            position = part.start - 1 + len(stream.readline())
        done = 0
        while position < part.stop:
            left = min(_BATCH_BYTES, part.stop - position)
            # readlines ends when its hint is exceeded, not when it is reached, and takes 0 for no limit.
            lines = stream.readlines(left - 1) if left > 1 else [stream.readline()]
            if not any(lines):
                return
            position += sum(map(len, lines))
            yield _parse(lines, number, done, part, json_key)
            done += len(lines)


def _parse(lines: list[bytes], number: int, done: int, part: Part, json_key: str) -> Batch:
    batch = Batch(number, records=len(lines))
    if done == 0 and part.first == 0 and lines and lines[0].startswith(_BOM):
        lines[0] = lines[0].removeprefix(_BOM)
    add, loads = batch.texts.append, json.loads
    for at, line in enumerate(lines):
        try:
            # From str: given bytes, json would also take UTF-16 and lone surrogates.
            add(loads(line.decode())[json_key].encode())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if line.strip():
                batch.bad.append(BadRecord(number, done + at, _explain(line, error, json_key)))
    return batch


def _explain(line: bytes, error: Exception, json_key: str) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"invalid UTF-8 at byte {error.start} of the line"
    if isinstance(error, UnicodeEncodeError):
        return f"lone surrogate in {json_key!r}"
    if isinstance(error, RecursionError):
        return "JSON nested too deeply"
    if isinstance(error, ValueError):
        return f"invalid JSON: {one_line(error)}"
    record = json.loads(line.decode())
    if not isinstance(record, dict):
        return f"a JSON {type(record).__name__}, needs an object"
    if json_key not in record:
        return f"no key {json_key!r}"
    return f"{json_key!r} is a {type(record[json_key]).__name__}, needs a string"


def _read_rows(part: Part, number: int, json_key: str) -> Iterator[Batch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(part.path)
        if json_key not in file.schema_arrow.names:
            raise DataError(
                f"{part.path} has columns {', '.join(file.schema_arrow.names)}, none is {json_key!r}; give --json-key"
            )
        kind = file.schema_arrow.field(json_key).type
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(plain) or pa.types.is_large_string(plain)):
            raise DataError(f"{part.path}: column {json_key!r} is {kind}, needs string; give another --json-key")
        done = 0
        for rows in file.iter_batches(4096, row_groups=range(part.start, part.stop), columns=[json_key]):
            batch = Batch(number, records=len(rows))
            for at, value in enumerate(rows.column(0).cast(pa.large_string()).cast(pa.large_binary()).to_pylist()):
                reason = _bad_value(value)
                if reason:
                    batch.bad.append(BadRecord(number, done + at, reason))
                else:
                    batch.texts.append(value)
            done += len(rows)
            yield batch
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{part.path} is damaged ({one_line(error)}); fetch it again") from error


def _bad_value(value: bytes | None) -> str | None:
    if value is None:
        return "null, needs a string"
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return f"invalid UTF-8 at byte {error.start} of the value"
    return None


def _whole_file(part: Part, number: int) -> Batch:
    batch = Batch(number, records=1)
    text = Path(part.path).read_bytes().removeprefix(_BOM)
    reason = _bad_value(text)
    if reason:
        batch.bad.append(BadRecord(number, 0, reason.replace("value", "file")))
    else:
        batch.texts.append(text)
    return batch


def _read_paragraphs(part: Part, number: int) -> Iterator[Batch]:
    """Runs of non-blank lines; a run belongs to the part in which the blank line just before it begins."""
    batch, size, run, run_at, line_number = Batch(number), 0, list[bytes](), 0, 0

    def close() -> int:
        text = b"".join(run).rstrip(b"\r\n").removeprefix(_BOM if part.start == 0 and run_at == 0 else b"")
        run.clear()
        reason = _bad_value(text)
        if reason:
            batch.bad.append(BadRecord(number, run_at, reason.replace("value", "document")))
        else:
            batch.texts.append(text)
        return len(text)

    with Path(part.path).open("rb", buffering=_READ_BYTES) as stream:
        position, inside = 0, part.start == 0
        if part.start:
            stream.seek(part.start - 1)
            position = part.start - 1 + len(stream.readline())
        for line in stream:
            begins, position = position, position + len(line)
            if line.strip():
                if inside:
                    run_at = run_at if run else line_number
                    run.append(line)
            else:
                if run:
                    size += close()
                if begins >= part.stop:
                    break
                inside = True
            # Lines after stop are counted by the part they begin in.
            line_number += begins < part.stop
            if size >= _BATCH_BYTES:
                batch.records = 0
                yield batch
                batch, size = Batch(number), 0
    if run:
        close()
    batch.records = line_number
    yield batch


def line_number(part: Part, number: int) -> int:
    """Number in the whole file, from 1, of record `number` of a part; counts the lines before a part if it must."""
    if part.first is not None:
        return part.first + number + 1
    lines, left = 0, part.start
    with Path(part.path).open("rb") as stream:
        while left and (data := stream.read(min(_READ_BYTES, left))):
            lines += data.count(b"\n")
            left -= len(data)
        # The part begins with the first whole line after start.
        stream.seek(part.start - 1)
        lines += stream.read(1) != b"\n"
    return lines + number + 1
