"""Records with all their fields: read from jsonl, parquet and txt files, written as jsonl that appears when complete."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

import orjson
import pyarrow.parquet
import zstandard

from megatron_bielik.data.errors import DataError, write_error
from megatron_bielik.data.fields import field_getter
from megatron_bielik.data.inputs import InputFile, decompress, find_inputs, one_line

Record = dict[str, Any]
Item = TypeVar("Item")
_BLOCK_BYTES = 1 << 20


@dataclass
class ReadCount:
    """What a reader met: records, characters of their texts, bad lines, and place and reason of the first 20 of these."""

    records: int = 0
    characters: int = 0
    bad: int = 0
    first_bad: list[str] = field(default_factory=list)

    def add_bad(self, place: str, reason: str) -> None:
        self.bad += 1
        if len(self.first_bad) < 20:
            self.first_bad.append(f"{place}: {reason}")


def read_records(
    patterns: Sequence[str], text_key: str, count: ReadCount, option: str = "--input", may_be_empty: bool = False
) -> Iterator[Record]:
    """Records in the order of the inputs; what is none is counted and passed over.

    Args:
        patterns: Files or glob patterns: .jsonl, .jsonl.gz, .jsonl.zst, .parquet and .txt (a file is a record).
        text_key: Key of the text, which must be a str; a.b as data.fields knows it.
        count: Takes what was met.
        option: What the user gave the patterns with, for messages.
        may_be_empty: Files without a record are as good as others.

    Raises:
        DataError: A file that is missing or damaged as a whole; at the end, if there was no record with a text.
    """
    text_of = field_getter(text_key)
    for place, record in _all_records(patterns, text_key, count, option):
        try:
            text = text_of(record)
        except (KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            count.add_bad(place, f"no text under {text_key!r}")
            continue
        count.records += 1
        count.characters += len(text)
        yield record
    if not count.records and not may_be_empty:
        first = f" ({count.bad:,} bad ones, first: {count.first_bad[0]})" if count.bad else ""
        raise DataError(f"{option} {' '.join(patterns)}: no record with a text{first}; is the key of the text right?")


def read_rows(patterns: Sequence[str], count: ReadCount, option: str = "--input") -> Iterator[tuple[str, Record]]:
    """Place and fields of each row, whatever they are; lines that are no JSON object are counted and passed over.

    Args:
        patterns: Files or glob patterns: .jsonl, .jsonl.gz, .jsonl.zst and .parquet.
        count: Takes what was met; further bad rows can be added to it.
        option: What the user gave the patterns with, for messages.

    Raises:
        DataError: A file that is missing or damaged as a whole.
    """
    for place, record in _all_records(patterns, "text", count, option):
        count.records += 1
        yield place, record


def _all_records(patterns: Sequence[str], text_key: str, count: ReadCount, option: str) -> Iterator[tuple[str, Record]]:
    for source in find_inputs(patterns, option):
        for place, record in _records_of(source, text_key):
            if isinstance(record, str):
                count.add_bad(place, record)
            else:
                yield place, record


def _records_of(source: InputFile, text_key: str) -> Iterator[tuple[str, Record | str]]:
    """Place of each record, and the record or why it is none."""
    try:
        if source.format == "parquet":
            file = pyarrow.parquet.ParquetFile(source.path)
            number = 0
            for batch in file.iter_batches(1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{source.path}, row {number}", row
        elif source.format == "txt":
            yield source.path, {text_key: Path(source.path).read_text(encoding="utf-8")}
        else:
            with Path(source.path).open("rb") as raw:
                for number, line in enumerate(lines_of(raw, source.format, source.path), 1):
                    if line.strip():
                        yield f"{source.path}, line {number}", _parse(line)
    except DataError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{source.path} cannot be read: {one_line(error)[:200]}") from error


def _parse(line: bytes) -> Record | str:
    try:
        record = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        return f"no JSON: {error}"
    return record if isinstance(record, dict) else "no JSON object"


def lines_of(raw: IO[bytes], kind: str, path: str) -> Iterator[bytes]:
    """Lines of a stream of the kind jsonl, jsonl.gz or jsonl.zst, several members or frames included.

    Raises:
        DataError: The file, named by its path, is damaged or truncated.
    """
    if kind == "jsonl":
        yield from raw
        return
    rest = b""
    for block in decompress(raw, kind, path):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    yield rest


@contextmanager
def record_writer(path: Path) -> Iterator[IO[bytes]]:
    """A stream for .jsonl, .jsonl.gz or .jsonl.zst; the file appears under its name when the block ends without an error.

    Raises:
        DataError: Another suffix, or a disk that refuses; nothing is left under the name.
    """
    if not path.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
        raise DataError(f"--output is {path}, needs a name ending in .jsonl, .jsonl.gz or .jsonl.zst")
    temporary = path.with_name(path.name + ".tmp")
    guard = partial(_no_room, path)
    try:
        with guard():
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = temporary.open("wb", buffering=0)
        try:
            buffer = _Buffer(raw)
            stream = _compressed(buffer, path.suffix)
            yield _Guarded(stream, path)  # type: ignore[misc]
            with guard():
                stream.close()
                buffer.close()
        finally:
            raw.close()
        with guard():
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _compressed(buffer: Any, suffix: str) -> Any:
    """A stream into the buffer. An unfinished one must not be closed: its last bytes would be written."""
    if suffix == ".gz":
        # No time and no name in the header: the same records give the same file.
        return gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0, compresslevel=6)
    if suffix == ".zst":
        return zstandard.ZstdCompressor(level=3).stream_writer(buffer, closefd=False)
    return buffer


class _Buffer:
    """Writes in blocks, and drops what is left when it is not closed, which io.BufferedWriter does not."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._parts, self._size = raw, list[bytes](), 0

    def write(self, data: bytes) -> int:
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _BLOCK_BYTES:
            self.close()
        return len(data)

    def close(self) -> None:
        block = memoryview(b"".join(self._parts))
        self._parts, self._size = [], 0
        while block:
            block = block[self._raw.write(block) :]


@contextmanager
def _no_room(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


class _Guarded:
    """Writes, and tells a full disk from other errors of the block it stands in."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream, self._path = stream, path

    def write(self, data: bytes) -> int:
        try:
            return int(self._stream.write(data))
        except OSError as error:
            raise write_error(self._path, error) from error


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a small file that appears when complete.

    Raises:
        DataError: The disk refuses; nothing is left under the name.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with _no_room(path):
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_picture(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as PNG; it appears when complete. Raises DataError when the disk refuses."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_whole(path, content.getvalue())


def utf8_size(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def with_results(record: Record, results: Record) -> Record:
    """The record with results under their names. A field that had such a name moves to source_NAME: nothing is lost.

    Where that is a name of the record too, another source_ comes before it.
    """
    moved: dict[str, str] = {}
    for name in results:
        if name in record:
            free = f"source_{name}"
            while free in record or free in results or free in moved.values():
                free = f"source_{free}"
            moved[name] = free
    return {moved.get(name, name): value for name, value in record.items()} | results


def dump(record: Record) -> bytes:
    """A record as one JSON line, line feed included. Lone surrogates, which UTF-8 has no form for, become U+FFFD."""
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        clean = {
            key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
            for key, value in record.items()
        }
        return orjson.dumps(clean, option=orjson.OPT_APPEND_NEWLINE, default=str)
