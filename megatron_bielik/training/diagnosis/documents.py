"""The documents of steps: which stand out, where they lie, how they begin, and what they were made from."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_bielik.checkpoint_files import TOKENIZER
from megatron_bielik.data.epochs import split_documents
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.manifest import find_shards
from megatron_bielik.data.shards import ShardReader
from megatron_bielik.training.diagnosis.history import History
from megatron_bielik.training.diagnosis.samples import Piece, Ranges, TracedStream, checkpoints_of

_COUNTED_TOKENS = 1 << 24  # of a shard, from blocks spread over it
_BLOCKS = 256
_LONG_TOKENS = 1 << 17
_SHOWN_TOKENS = 48
_SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class Suspect:
    """A document of the steps looked at.

    Attributes:
        prefix, document: Shard and number in it.
        steps: Steps in which it was read.
        excess: Nats per token that it adds to these steps' unigram losses above what its tokens would cost at their mean, summed.
        surprise: Nats per token under the shard's unigram frequencies without the document itself.
        usual: Median of that over the documents of the same steps.
        first_token: Where the document begins in the shard, tokens.
        tokens: Length.
    """

    prefix: str
    document: int
    steps: tuple[int, ...]
    excess: float
    surprise: float
    usual: float
    first_token: int
    tokens: int


class Frequencies:
    """Token counts of a shard, all of it or evenly spread blocks, to say how unusual a document's tokens are."""

    def __init__(self, reader: ShardReader) -> None:
        tokens = reader.tokens
        if len(tokens) > _COUNTED_TOKENS:
            size = _COUNTED_TOKENS // _BLOCKS
            starts = np.linspace(0, len(tokens) - size, _BLOCKS).astype(np.int64)
            tokens = np.concatenate([tokens[start : start + size] for start in starts])
        self._counts = np.bincount(tokens[tokens >= 0].astype(np.int64), minlength=1)
        self._total = int(self._counts.sum())

    def surprise(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """-log p of each token, add-one smoothed, the counts of these tokens themselves taken off: nats [tokens]."""
        kinds, inverse, own = np.unique(ids, return_inverse=True, return_counts=True)
        inside = (kinds >= 0) & (kinds < len(self._counts))
        known = np.where(inside, self._counts[np.where(inside, kinds, 0)], 0)
        others = np.maximum(known - own, 0)
        total = max(self._total - len(ids), 0) + len(self._counts)
        values: npt.NDArray[np.float64] = -np.log((others + 1) / total)[inverse]
        return values


class DocumentFinder:
    """Finds and shows the documents of a run's steps. A context manager: orders that must be built go to a temporary folder.

    Args:
        history: Of a pretraining run; shards are looked for under the paths of its options, from the current folder.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._exit = ExitStack()
        self._streams: dict[str, TracedStream] = {}
        self._frequencies: dict[str, Frequencies] = {}
        self._tokenizer: Any = None

    def __enter__(self) -> DocumentFinder:
        cache = self._history.option("data", "index_cache") or self._history.folder / "index_cache"
        usable = Path(cache).is_dir() and os.access(cache, os.W_OK)
        self._cache = Path(cache) if usable else Path(self._exit.enter_context(tempfile.TemporaryDirectory()))
        self._tokenizer = _load_tokenizer(self._history)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def suspects(self, steps: Mapping[int, Ranges]) -> list[Suspect]:
        """Documents of some steps, the most unusual first, counted over all of the steps.

        Raises:
            DataError: A shard is missing or damaged.
        """
        surprises: dict[tuple[str, int], float] = {}
        excess: dict[tuple[str, int], float] = {}
        seen: dict[tuple[str, int], set[int]] = {}
        usual: dict[tuple[str, int], list[float]] = {}
        for step, ranges in steps.items():
            costs = [(piece, self._cost(piece)) for piece in self._pieces(ranges)]
            count = sum(len(cost) for _, cost in costs)
            mean = sum(float(cost.sum()) for _, cost in costs) / max(count, 1)
            median = float(np.median([cost.mean() for _, cost in costs])) if costs else math.nan
            for piece, cost in costs:
                key = (piece.prefix, piece.document)
                surprises[key] = float(cost.mean())
                excess[key] = excess.get(key, 0.0) + float((cost - mean).sum()) / count
                seen.setdefault(key, set()).add(step)
                usual.setdefault(key, []).append(median)
        found = []
        for key in sorted(excess, key=lambda key: (-excess[key], key)):
            reader = self._stream(key[0]).reader
            first = int(reader.pointers[key[1]]) // np.dtype(reader.dtype).itemsize
            found.append(
                Suspect(*key, tuple(sorted(seen[key])), excess[key], surprises[key], float(np.mean(usual[key])), first,
                        int(reader.lengths[key[1]]))
            )  # fmt: skip
        return found

    def describe(self, suspect: Suspect, of: int) -> str:
        """A document in one line: name, place, how unusual, its first words, its source.

        Args:
            suspect: The document.
            of: Steps that were looked at.
        """
        ids = self._stream(suspect.prefix).reader[suspect.document][:_SHOWN_TOKENS]
        source = source_of(suspect.prefix)
        return (
            f"{suspect.prefix} document {suspect.document} (tokens {suspect.first_token:,} to "
            f"{suspect.first_token + suspect.tokens - 1:,} of the shard), in {len(suspect.steps)} of {of} steps, "
            f"{suspect.surprise:.2f} nats per token by unigram frequency where {suspect.usual:.2f} is usual: "
            f"{self.words(ids)}" + (f"; from {source}" if source else "")
        )

    def words(self, ids: npt.NDArray[np.number]) -> str:
        """How tokens read, on one line, quoted; the ids where the run has no tokenizer."""
        if self._tokenizer is None:
            return "ids " + " ".join(str(int(number)) for number in ids[:12])
        text = self._tokenizer.decode([int(number) for number in ids], skip_special_tokens=False)
        return json.dumps(" ".join(text.split())[:_SHOWN_CHARACTERS], ensure_ascii=False)

    def _pieces(self, ranges: Ranges) -> Iterable[Piece]:
        for prefix, (first, end) in ranges.items():
            for number in range(first, end):
                yield from self._stream(prefix).pieces(number)

    def _cost(self, piece: Piece) -> npt.NDArray[np.float64]:
        reader = self._stream(piece.prefix).reader
        if piece.prefix not in self._frequencies:
            self._frequencies[piece.prefix] = Frequencies(reader)
        whole = reader[piece.document]
        if len(whole) > _LONG_TOKENS:  # counted anew for every sample that it is in
            return self._frequencies[piece.prefix].surprise(whole[piece.begin : piece.end].astype(np.int64))
        return self._frequencies[piece.prefix].surprise(whole.astype(np.int64))[piece.begin : piece.end]

    def _stream(self, prefix: str) -> TracedStream:
        if prefix not in self._streams:
            config = self._history.config
            documents = split_documents(len(ShardReader(prefix)), config["data"]["split"])["train"]
            length, seed = config["data"]["sequence_length"], config["training"]["seed"]
            self._streams[prefix] = TracedStream(prefix, length, seed, self._cache, documents)
        return self._streams[prefix]


def source_of(prefix: str) -> str:
    """The input files that the shard's manifest names; empty where there is none. It does not keep which a document is from."""
    try:
        manifest = find_shards([prefix])[0].manifest
    except DataError:
        return ""
    names = [Path(str(one.get("path", "?"))).name for one in (manifest.inputs if manifest else [])]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _load_tokenizer(history: History) -> Any:
    """The run's tokenizer, as its newest checkpoint or its options have it; none where there is none."""
    from tokenizers import Tokenizer

    checkpoints = checkpoints_of(history.folder)
    places = [checkpoints[step] / TOKENIZER for step in sorted(checkpoints, reverse=True)[:1]]
    if given := history.option("data", "tokenizer"):
        places.append(Path(given))
    for place in places:
        if (place / "tokenizer.json").is_file():
            try:
                return Tokenizer.from_file(str(place / "tokenizer.json"))
            except Exception:  # tokenizers raises bare Exception; ids are shown instead
                continue
    return None
