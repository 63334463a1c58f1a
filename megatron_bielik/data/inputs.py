"""Input files to pieces of work: which files there are, and how they are cut so that processes can share them.

A piece is work for one process: byte ranges of plain files, row groups of parquet files, or a block of lines out of a
compressed file, which can only be read from its beginning. Where pieces are cut depends on the inputs and the piece
size alone, so an interrupted run finds the same pieces again.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import IO, Literal

import zstandard

from megatron_bielik.data.errors import DataError

Format = Literal["jsonl", "jsonl.gz", "jsonl.zst", "parquet", "txt"]
TxtSplit = Literal["file", "blank-line"]
SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl.gz",
    ".jsonl.zst": "jsonl.zst",
    ".parquet": "parquet",
    ".txt": "txt",
}
_READ_BYTES = 1 << 20
_ZSTD_READ_BYTES = 8 << 10  # of compressed data: a few bytes of it can become 128 KiB
LINE_BYTES = 64 << 20  # a longer line is a bad record: memory must not depend on what stands in a file
BLOCK_BYTES = 8_000_000  # the most of a decompressed block, of which several are in memory at a time


@dataclass(frozen=True)
class InputFile:
    """One input: its path, format, size in bytes and time of last change (ns), by which a changed file is noticed."""

    path: str
    format: Format
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Part:
    """What a piece takes from one input.

    Attributes:
        input: Index of the input file.
        path: Its path.
        format: Its format.
        start, stop: Bytes (jsonl, txt) or row groups (parquet); unused for a block.
        first: Number of the first line or row, from 0; None in the middle of a plain file, where it is not known.
        block: Whole lines out of a compressed file.
    """

    input: int
    path: str
    format: Format
    start: int
    stop: int
    first: int | None = 0
    block: bytes | None = None


@dataclass(frozen=True)
class Piece:
    """Work for one process. `name` orders pieces as their inputs were given; `size` is in bytes of the input files."""

    name: str
    parts: tuple[Part, ...]
    size: int


def find_inputs(patterns: Sequence[str], option: str = "--input") -> list[InputFile]:
    """Files named or matched by patterns, in the order given; matches of one pattern are sorted.

    Raises:
        DataError: Nothing matches, or a file's suffix is unknown.
    """
    found = []
    for pattern in patterns:
        is_pattern = has_magic(pattern) and not Path(pattern).exists()
        # Path.glob would refuse absolute patterns.
        names = sorted(glob(pattern, recursive=True)) if is_pattern else [pattern]  # noqa: PTH207
        files = [Path(name) for name in names if Path(name).is_file()]
        if not files:
            raise DataError(f"{option} {pattern}: no such file; name a file or a pattern that matches some")
        for path in files:
            suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if path.name.endswith(s)), None)
            if suffix is None:
                raise DataError(f"{option} {path}: unknown suffix, needs one of {', '.join(SUFFIXES)}")
            stat = path.stat()
            found.append(InputFile(str(path), SUFFIXES[suffix], stat.st_size, stat.st_mtime_ns))
    return found


def default_piece_bytes(inputs: Sequence[InputFile]) -> int:
    """Piece size for inputs as large as these: every worker gets some, and a large run has not too many. In bytes."""
    return max(16_000_000, min(64_000_000, sum(source.size for source in inputs) // 16))


def plan_pieces(inputs: Sequence[InputFile], piece_bytes: int, txt_split: TxtSplit) -> Iterator[Piece]:
    """Cut the inputs into pieces of about piece_bytes; small files share a piece, compressed ones are read as it goes."""
    group, parts, size = 0, list[Part](), 0
    for index, source in enumerate(inputs):
        if source.format in ("jsonl.gz", "jsonl.zst"):
            if parts:
                yield Piece(f"{group:06d}-{0:06d}", tuple(parts), size)
                group, parts, size = group + 1, [], 0
            yield from _blocks(index, source, piece_bytes, group)
            group += 1
            continue
        for part, part_size in _spans(index, source, piece_bytes, txt_split):
            parts.append(part)
            size += part_size
            if size >= piece_bytes:
                yield Piece(f"{group:06d}-{0:06d}", tuple(parts), size)
                group, parts, size = group + 1, [], 0
    if parts:
        yield Piece(f"{group:06d}-{0:06d}", tuple(parts), size)


def _spans(index: int, source: InputFile, piece_bytes: int, txt_split: TxtSplit) -> Iterator[tuple[Part, int]]:
    if source.format == "parquet":
        row = 0
        for group, (rows, size) in enumerate(_row_groups(source.path)):
            yield Part(index, source.path, "parquet", group, group + 1, row), size
            row += rows
    elif source.format == "txt" and txt_split == "file":
        yield Part(index, source.path, "txt", 0, source.size), source.size
    else:
        for start in range(0, source.size, piece_bytes):
            stop = min(start + piece_bytes, source.size)
            yield Part(index, source.path, source.format, start, stop, 0 if start == 0 else None), stop - start


def _blocks(index: int, source: InputFile, piece_bytes: int, group: int) -> Iterator[Piece]:
    """Blocks of whole lines out of a compressed file; of a line that is too long only so much that this can be seen."""
    number, first, rest, consumed, skipping = 0, 0, bytearray(), 0, False
    block_bytes = min(piece_bytes, BLOCK_BYTES)
    with Path(source.path).open("rb") as raw:
        for data in decompress(raw, source.format, source.path):
            if skipping:
                end = data.find(b"\n")
                if end < 0:
                    continue
                data, skipping = data[end:], False
            rest += data
            if len(rest) < block_bytes:
                continue
            cut = rest.rfind(b"\n") + 1
            if cut == 0:
                skipping = len(rest) > LINE_BYTES
                if skipping:
                    del rest[LINE_BYTES + 1 :]
                continue
            block, position = bytes(memoryview(rest)[:cut]), raw.tell()
            del rest[:cut]
            part = Part(index, source.path, source.format, 0, 0, first, block)
            yield Piece(f"{group:06d}-{number:06d}", (part,), position - consumed)
            number, first, consumed = number + 1, first + block.count(b"\n"), position
    part = Part(index, source.path, source.format, 0, 0, first, bytes(rest))
    yield Piece(f"{group:06d}-{number:06d}", (part,), source.size - consumed)


def decompress(raw: IO[bytes], kind: str, path: str) -> Iterator[bytes]:
    """Contents of a .gz or .zst stream, several members or frames included, in blocks of bounded size.

    Raises:
        DataError: The file is damaged, or ends before its last member or frame does.
    """
    try:
        if kind == "jsonl.gz":
            with gzip.GzipFile(fileobj=raw) as stream:
                while data := stream.read(_READ_BYTES):
                    yield data
        else:
            yield from _zstd(raw, path)
    except EOFError as error:
        raise DataError(
            f"{path} is truncated: it ends before the end of the compressed data; fetch it again"
        ) from error
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{path} is damaged ({error}); fetch it again") from error


def _zstd(raw: IO[bytes], path: str) -> Iterator[bytes]:
    # ZstdDecompressor.stream_reader takes a truncated frame for the end of the file; decompressobj tells.
    frame, begun = zstandard.ZstdDecompressor().decompressobj(), False
    while data := raw.read(_ZSTD_READ_BYTES):
        while data:
            begun = True
            out = frame.decompress(data)
            yield from (out[at : at + _READ_BYTES] for at in range(0, len(out), _READ_BYTES))
            if not frame.eof:
                break
            data = frame.unused_data
            frame, begun = zstandard.ZstdDecompressor().decompressobj(), False
    if begun:
        raise DataError(f"{path} is truncated: it ends before the end of the compressed data; fetch it again")


def _row_groups(path: str) -> list[tuple[int, int]]:
    """Rows and compressed bytes of every row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        meta = pq.ParquetFile(path).metadata
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is no complete parquet file ({one_line(error)}); fetch it again") from error
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    return [(g.num_rows, sum(g.column(c).total_compressed_size for c in range(g.num_columns))) for g in groups]


def one_line(error: BaseException) -> str:
    """An error's text without line ends."""
    return " ".join(str(error).split())
