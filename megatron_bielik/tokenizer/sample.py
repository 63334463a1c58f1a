"""The text that a tokenizer is trained on: a random sample of weighted inputs, of bounded size, the same for the same seed.

Every input is read once from beginning to end, so that a sample is as good from compressed files as from plain ones. A
document keeps a random number; the documents with the lowest numbers stay, as many as there is room for.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path
from random import Random

from megatron_bielik.data.inputs import SUFFIXES, decompress, find_inputs, plan_pieces
from megatron_bielik.data.readers import read_piece
from megatron_bielik.tokenizer.sentencepiece_model import TokenizerError

_PIECE_BYTES = 8 << 20
_READ_BYTES = 1 << 20
_COMPRESSED_TXT = {".txt.gz": "jsonl.gz", ".txt.zst": "jsonl.zst"}  # suffix to the kind that decompress() knows


@dataclass(frozen=True)
class Source:
    """One --input: a file or pattern, and its share of the sample's bytes relative to the others; None is no wish."""

    pattern: str
    weight: float | None = None


@dataclass
class Sample:
    """Texts in the order of the inputs.

    Attributes:
        texts: UTF-8 documents; lines of txt files.
        read_bytes: Text that the inputs hold.
        bad_records: Lines or rows that gave no text.
        notes: What the user should know, a line each: inputs that ran out, skipped records.
    """

    texts: list[bytes] = field(default_factory=list)
    read_bytes: int = 0
    bad_records: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the texts."""
        return sum(map(len, self.texts))


class Reservoir:
    """Keeps a uniform random choice of the documents it is offered, of at most `room` bytes."""

    def __init__(self, room: int, seed: str) -> None:
        self.room = room
        self.size = 0
        self._random = Random(seed)
        self._kept: list[tuple[float, int, bytes]] = []  # a heap: the highest random number first
        self._offered = 0

    def offer(self, text: bytes) -> None:
        """Take a document, or not."""
        number, self._offered = self._random.random(), self._offered + 1
        if self.size < self.room or number < -self._kept[0][0]:
            heapq.heappush(self._kept, (-number, self._offered, text))
            self.size += len(text)
            self._drop()

    def shrink(self, room: int) -> None:
        """Keep no more than `room` bytes of what is there."""
        self.room = room
        self._drop()

    def texts(self) -> list[bytes]:
        """The documents in the order they came; the last to be let in is cut where the room ends."""
        kept = [(number, text) for _, number, text in self._kept]
        if kept and self.size > self.room:
            number, text = kept[0]
            # Whole characters only.
            kept[0] = number, text[: len(text) - (self.size - self.room)].decode(errors="ignore").encode()
        return [text for _, text in sorted(kept) if text]

    def _drop(self) -> None:
        while self._kept and self.size - len(self._kept[0][2]) >= self.room:
            self.size -= len(heapq.heappop(self._kept)[2])


def parse_sources(inputs: Sequence[str]) -> list[Source]:
    """PATTERN or PATTERN=WEIGHT; either all have weights or none.

    Raises:
        TokenizerError: Some have a weight and some do not, or a weight is not above 0.
    """
    sources = []
    for text in inputs:
        pattern, _, tail = text.rpartition("=")
        try:
            weight = float(tail) if pattern else None
        except ValueError:
            weight = None  # an equals sign in a path
        sources.append(Source(text) if weight is None else Source(pattern, weight))
        if weight is not None and not 0 < weight < float("inf"):
            raise TokenizerError(f"--input {text}: the weight is {tail}, needs a number above 0")
    if len({source.weight is None for source in sources}) > 1:
        without = next(source.pattern for source in sources if source.weight is None)
        raise TokenizerError(
            f"--input {without} has no weight but others have; give every input one (PATTERN=WEIGHT) or none"
        )
    return sources


def draw_sample(
    sources: Sequence[Source],
    max_bytes: int,
    seed: int = 0,
    json_key: str = "text",
    advance: Callable[[int], object] | None = None,
) -> Sample:
    """Draw at most max_bytes of text from the sources, in exactly the shares of their weights.

    Without weights the sources are one text, and each has the share of what it holds. With weights an input that holds too
    little for its share makes the whole sample smaller, and a note says so.

    Args:
        sources: Files and patterns: .jsonl, .txt, either also .gz or .zst, and .parquet.
        max_bytes: Of UTF-8 text, over all sources.
        seed: Chooses the documents.
        json_key: Key of the text in a JSON line, column of a parquet file.
        advance: Told how many more bytes of text were read.

    Raises:
        TokenizerError: No such file, an unknown suffix, or an input without any text.
        DataError: A damaged file.
    """
    weights = [source.weight or 1.0 for source in sources]
    weighted = sources[0].weight is not None
    result = Sample()
    rooms = [int(max_bytes * weight / sum(weights)) for weight in weights] if weighted else [max_bytes]
    reservoirs = [Reservoir(room, f"{seed}/{number}") for number, room in enumerate(rooms)]
    for number, source in enumerate(sources):
        _fill(reservoirs[number if weighted else 0], source, json_key, result, advance)
    if weighted:
        result.notes += _hold_weights(reservoirs, weights, sources)
    for reservoir in reservoirs:
        result.texts += reservoir.texts()
    return result


def _hold_weights(reservoirs: list[Reservoir], weights: list[float], sources: Sequence[Source]) -> list[str]:
    """Cut what was kept down to the shares of the weights; a line if an input holds too little for its share."""
    sizes = [reservoir.size / weight for reservoir, weight in zip(reservoirs, weights, strict=True)]
    at = min(range(len(sizes)), key=sizes.__getitem__)
    held, room = reservoirs[at].size, reservoirs[at].room
    if held >= room:
        sizes[at] = room / weights[at]
    for reservoir, weight in zip(reservoirs, weights, strict=True):
        reservoir.shrink(min(reservoir.room, int(sizes[at] * weight)))
    if held >= room:
        return []
    return [
        f"{sources[at].pattern} ran out: it holds {held / 1e6:,.2f} MB, its share is {room / 1e6:,.2f} MB; "
        f"the sample is {sizes[at] * sum(weights) / 1e6:,.2f} MB, so that the weights hold"
    ]


def _fill(
    reservoir: Reservoir, source: Source, json_key: str, result: Sample, advance: Callable[[int], object] | None
) -> None:
    read, first_bad = 0, ""
    for texts, bad in (batch for path in find_files(source.pattern) for batch in read_records(path, json_key)):
        size = sum(map(len, texts))
        read += size
        for text in texts:
            reservoir.offer(text)
        result.bad_records += len(bad)
        first_bad = first_bad or (bad[0] if bad else "")
        if advance is not None:
            advance(size)
    result.read_bytes += read
    if first_bad:
        result.notes.append(f"{source.pattern}: records without a text are skipped, the first: {first_bad}")
    if not read:
        raise TokenizerError(
            f"--input {source.pattern}: no text in it{f' ({first_bad})' if first_bad else ''}; name another"
        )


def find_files(pattern: str) -> list[str]:
    """Files that a pattern names, sorted.

    Raises:
        TokenizerError: There is none.
    """
    is_pattern = has_magic(pattern) and not Path(pattern).exists()
    # Path.glob would refuse absolute patterns.
    found = sorted(glob(pattern, recursive=True)) if is_pattern else [pattern]  # noqa: PTH207
    files = [name for name in found if Path(name).is_file()]
    if not files:
        raise TokenizerError(f"{pattern}: no such file; name a file or a pattern that matches some")
    return files


def read_records(path: str, json_key: str) -> Iterator[tuple[list[bytes], list[str]]]:
    """Documents or lines of one file, and a line of text for each record that gives none, in batches of bounded size.

    Raises:
        TokenizerError: Unknown suffix.
        DataError: A damaged file.
    """
    if path.endswith((".txt", *_COMPRESSED_TXT)):
        rest = b""
        for block in read_blocks(path):
            *lines, rest = (rest + block).split(b"\n")
            yield _texts(lines, path)
        yield _texts([rest], path)
        return
    if not path.endswith(tuple(SUFFIXES)):
        raise TokenizerError(f"{path}: unknown suffix, needs one of {', '.join([*SUFFIXES, *_COMPRESSED_TXT])}")
    for piece in plan_pieces(find_inputs([path]), _PIECE_BYTES, "blank-line"):
        for batch in read_piece(piece, json_key, "blank-line"):
            yield batch.texts, [f"{path}: {bad.reason}" for bad in batch.bad]


def read_blocks(path: str) -> Iterator[bytes]:
    """Contents of a txt file, compressed or not, in blocks of bounded size."""
    kind = next((kind for suffix, kind in _COMPRESSED_TXT.items() if path.endswith(suffix)), None)
    with Path(path).open("rb") as raw:
        if kind is not None:
            yield from decompress(raw, kind, path)
            return
        while block := raw.read(_READ_BYTES):
            yield block


def _texts(lines: list[bytes], path: str) -> tuple[list[bytes], list[str]]:
    texts, bad = [], []
    for line in lines:
        try:
            line.decode()
        except UnicodeDecodeError:
            bad.append(f"{path}: invalid UTF-8 in a line")
        else:
            if line.strip():
                texts.append(line)
    return texts, bad
