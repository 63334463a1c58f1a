"""A piece of work to its documents: lines of jsonl, rows of parquet, whole txt files or paragraphs of them.

A line or row that gives no document is reported with its place and reason, never raised; what the caller does with it
is its own business. A file that is damaged as a whole is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import orjson

from megatron_bielik.data.errors import DataError
from megatron_bielik.data.fields import field_getter
from megatron_bielik.data.inputs import LINE_BYTES, Part, Piece, TxtSplit, one_line

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH_BYTES = 1 << 20  # text handed on at once; more of it would be slower, as it leaves the caches
_READ_BYTES = 1 << 20
_MOST_ROWS = 1024
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
    """Documents of a piece in batches of a megabyte. Blank lines of jsonl files are no records.

    Args:
        piece: Of the inputs.
        json_key: Key or column of the text; a.b is the field b of the object under a.
        txt_split: What a document of a .txt file is.

    Raises:
        DataError: A file that cannot be read as what it should be; bad lines are told in the batches instead.
    """
    for number, part in enumerate(piece.parts):
        if part.block is not None:
            yield from _read_block(part, part.block, number, json_key)
        elif part.format == "parquet":
            yield from _read_rows(part, number, json_key)
        elif part.format == "txt" and txt_split == "file":
            yield _whole_file(part, number)
        elif part.format == "txt":
            yield from _read_paragraphs(part, number)
        else:
            yield from _read_lines(part, number, json_key)


def _read_block(part: Part, block: bytes, number: int, json_key: str) -> Iterator[Batch]:
    """Lines of a decompressed block, a megabyte of it at a time."""
    start, done = 0, 0
    while start < len(block):
        end = block.find(b"\n", start + _BATCH_BYTES) + 1 or len(block)
        lines = _split(block[start:end])
        yield _parse(lines, number, done, part, json_key)
        start, done = end, done + len(lines)


def _read_lines(part: Part, number: int, json_key: str) -> Iterator[Batch]:
    """Lines that begin in [start, stop)."""
    with Path(part.path).open("rb", buffering=_READ_BYTES) as stream:
        position, done = _first_line(stream, part), 0
        while position < part.stop:
            block = stream.read(min(_BATCH_BYTES, part.stop - position))
            if not block:
                return
            position += len(block)
            if not block.endswith(b"\n"):
                rest, length = _rest_of_line(stream)
                block += rest
                position += length
            lines = _split(block)
            yield _parse(lines, number, done, part, json_key)
            done += len(lines)


def _first_line(stream: BinaryIO, part: Part) -> int:
    """Go to the first line that begins in [start, stop); its position, or stop where there is none."""
    if part.start == 0:
        return 0
    position = part.start - 1
    stream.seek(position)
    # Looking no further than stop: a line through many pieces would otherwise be read to its end by every one of them.
    while position < part.stop - 1 and (data := stream.readline(min(_READ_BYTES, part.stop - 1 - position))):
        position += len(data)
        if data.endswith(b"\n"):
            return position
    return part.stop


def _rest_of_line(stream: BinaryIO) -> tuple[bytes, int]:
    """What is left of a line, and its length; of a line that is too long only so much that this can be seen."""
    rest = stream.readline(LINE_BYTES + 1)
    length, data = len(rest), rest
    while len(data) > _READ_BYTES and not data.endswith(b"\n") and (data := stream.readline(_READ_BYTES + 1)):
        length += len(data)
    return rest, length


def _split(block: bytes) -> list[bytes]:
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def _parse(lines: list[bytes], number: int, done: int, part: Part, json_key: str) -> Batch:
    batch = Batch(number, records=len(lines))
    if done == 0 and part.first == 0 and lines and lines[0].startswith(_BOM):
        lines[0] = lines[0].removeprefix(_BOM)
    add, loads, text_of = batch.texts.append, orjson.loads, field_getter(json_key)
    for at, line in enumerate(lines):
        try:
            if len(line) > LINE_BYTES:
                raise _TooLongError
            add(text_of(loads(line)).encode())
        except (ValueError, KeyError, TypeError, AttributeError, _TooLongError):
            if line.strip():
                _second_look(batch, line, done + at, json_key)
    return batch


class _TooLongError(Exception):
    """A line above LINE_BYTES."""


def _second_look(batch: Batch, line: bytes, number: int, json_key: str) -> None:
    """Python's parser decides on what orjson refuses: it also takes NaN, and lone surrogates under other keys."""
    if len(line) > LINE_BYTES:
        reason = f"a line of more than {LINE_BYTES >> 20} MiB"
        batch.bad.append(BadRecord(batch.part, number, reason))
        return
    try:
        # From str: given bytes, json would also take UTF-16 and lone surrogates.
        batch.texts.append(field_getter(json_key)(json.loads(line.decode())).encode())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        batch.bad.append(BadRecord(batch.part, number, _explain(line, error, json_key)))


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
    try:
        found = field_getter(json_key)(record)
    except (KeyError, TypeError):
        return f"no key {json_key!r}"
    return f"{json_key!r} is a {type(found).__name__}, needs a string"


def _read_rows(part: Part, number: int, json_key: str) -> Iterator[Batch]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        # With a buffer a column of a row group is read as it goes, without one it is read whole.
        file = pq.ParquetFile(part.path, buffer_size=_READ_BYTES)
        path = _column_path(file.schema_arrow, json_key)
        if path is None:
            raise DataError(
                f"{part.path} has columns {', '.join(file.schema_arrow.names)}, none is {json_key!r}; give --json-key"
            )
        kind = file.schema_arrow.field(path[0]).type
        for name in path[1:]:
            kind = kind.field(name).type
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(plain) or pa.types.is_large_string(plain)):
            raise DataError(f"{part.path}: column {json_key!r} is {kind}, needs string; give another --json-key")
        done, size = 0, _rows_at_once(file.metadata, part, json_key)
        for rows in file.iter_batches(size, row_groups=range(part.start, part.stop), columns=[json_key]):
            batch, column = Batch(number, records=len(rows)), rows.column(path[0])
            for name in path[1:]:
                column = pc.struct_field(column, name)  # where the object is null, its field is
            for at, value in enumerate(column.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()):
                reason = _bad_value(value)
                if reason:
                    batch.bad.append(BadRecord(number, done + at, reason))
                else:
                    batch.texts.append(value)
            done += len(rows)
            yield batch
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{part.path} is damaged ({one_line(error)}); fetch it again") from error


def _column_path(schema: pa.Schema, json_key: str) -> list[str] | None:
    """Names from the column down to the field that a key means; None where there is none."""
    import pyarrow as pa

    path = [json_key] if json_key in schema.names else json_key.split(".")
    if schema.names.count(path[0]) > 1:
        raise DataError(
            f"there are {schema.names.count(path[0])} columns {path[0]!r}; rename one, or give another --json-key"
        )
    if path[0] not in schema.names:
        return None
    kind = schema.field(path[0]).type
    for name in path[1:]:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        kind = kind.field(name).type
    return path


def _rows_at_once(meta: pq.FileMetaData, part: Part, column: str) -> int:
    """So many rows that a batch has a megabyte."""
    rows, size = 0, 0
    for number in range(part.start, part.stop):
        group = meta.row_group(number)
        rows += group.num_rows
        for at in range(group.num_columns):
            chunk = group.column(at)
            size += chunk.total_uncompressed_size if chunk.path_in_schema == column else 0
    return max(1, min(_MOST_ROWS, _BATCH_BYTES * rows // max(size, 1)))


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
    batch, size, run, run_at, run_bytes, line_number = Batch(number), 0, list[bytes](), 0, 0, 0

    def close() -> int:
        text = b"".join(run).rstrip(b"\r\n").removeprefix(_BOM if part.start == 0 and run_at == 0 else b"")
        run.clear()
        reason = _bad_value(text) if run_bytes <= LINE_BYTES else f"a value of more than {LINE_BYTES >> 20} MiB"
        if reason:
            batch.bad.append(BadRecord(number, run_at, reason.replace("value", "document")))
        else:
            batch.texts.append(text)
        return len(text)

    with Path(part.path).open("rb", buffering=_READ_BYTES) as stream:
        position, inside, begins_line = _first_line(stream, part), part.start == 0, True
        while position < part.stop or inside:
            line = stream.readline(_READ_BYTES)
            if not line:
                break
            begins, position = position, position + len(line)
            if line.strip() or not begins_line:
                if inside:
                    run_at, run_bytes = (run_at, run_bytes) if run else (line_number, 0)
                    run_bytes += len(line)
                    if run_bytes <= LINE_BYTES:
                        run.append(line)
            else:
                if run:
                    size += close()
                if begins >= part.stop:
                    break
                inside = True
            # Lines after stop are counted by the part they begin in.
            line_number += begins_line and begins < part.stop
            begins_line = line.endswith(b"\n")
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
