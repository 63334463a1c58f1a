"""One shard as an endless stream of samples: pass after pass, each in its own order, a function of seed and pass alone.

A pass lays the documents end to end in a random order and cuts them every sequence_length tokens; a sample is
sequence_length + 1 tokens, the last one shared with the next sample (as megatron-core's GPTDataset cuts). Unlike there,
the order does not depend on how many samples a run asks for, so that position n is the same sample for ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_bielik.data.boundaries import sample_cu_seqlens
from megatron_bielik.data.errors import DataError, write_error
from megatron_bielik.data.shards import ShardReader, bin_path, idx_path

_FORMAT = 1
_ARRAYS = ("documents", "ends", "order")
_UNFINISHED = ".building-"
_ABANDONED_SECONDS = 3600.0  # an unfinished file this old belongs to a process that was killed


@dataclass(frozen=True)
class Sample:
    """Tokens of one sample and its documents.

    Args:
        tokens: int64 [sequence_length + 1].
        cu_seqlens: int32 [documents + 1] over the first sequence_length tokens.
        last_label_crosses: Whether the last token, a label only, begins another document.
    """

    tokens: npt.NDArray[np.int64]
    cu_seqlens: npt.NDArray[np.int32]
    last_label_crosses: bool


@dataclass(frozen=True)
class _Pass:
    documents: npt.NDArray[np.int32]  # the shard's document numbers in this pass's order
    ends: npt.NDArray[np.int64]  # running number of tokens after each of them
    order: npt.NDArray[np.int64]  # which cut is the n-th sample


class ShardStream:
    """Samples of a range of a shard's documents, numbered from 0 without end.

    Args:
        prefix: Path of the shard without .bin/.idx.
        sequence_length: Tokens of a sample.
        seed: Of the orders.
        cache: Folder for the orders of each pass, shared by runs.
        documents: First and one-past-last document; all by default.
        vocab_size: Ids from here on are an error when they are read; none does not look.

    Raises:
        DataError: The shard is damaged, or has too few tokens for one sample; from sample() also an id outside the vocabulary.
    """

    def __init__(
        self,
        prefix: str | Path,
        sequence_length: int,
        seed: int,
        cache: str | Path,
        documents: tuple[int, int] | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self.reader = ShardReader(prefix)
        self.sequence_length = sequence_length
        self.vocab_size = vocab_size
        self.seed = seed
        self.cache = Path(cache)
        self.range = documents or (0, len(self.reader))
        tokens = int(self.reader.lengths[self.range[0] : self.range[1]].sum(dtype=np.int64))
        self.samples_per_pass = max(0, tokens - 1) // sequence_length
        if self.samples_per_pass == 0:
            raise DataError(
                f"{prefix}: documents {self.range[0]} to {self.range[1]} have {tokens} tokens, one sample needs "
                f"{sequence_length + 1}; use more text, another data.split or a smaller data.sequence_length"
            )
        self._identity = self._what_was_opened()
        self._current: tuple[int, _Pass] | None = None

    def sample(self, number: int) -> Sample:
        """The sample at a position of the stream."""
        order, first, begin, end = self._place(number)
        parts = []
        begin_offset = first - (int(order.ends[begin - 1]) if begin else 0)
        end_offset = first + self.sequence_length - (int(order.ends[end - 1]) if end else 0)
        for position in range(begin, end + 1):
            tokens = self.reader[int(order.documents[position])]
            stop = end_offset + 1 if position == end else None
            parts.append(tokens[begin_offset if position == begin else 0 : stop])
        cu_seqlens = sample_cu_seqlens(
            order.documents, self.reader.lengths, begin, begin_offset, end, end_offset, self.sequence_length
        )
        row = np.concatenate(parts).astype(np.int64)
        if self.vocab_size is not None and not (int(row.min()) >= 0 and int(row.max()) < self.vocab_size):
            raise DataError(
                f"{self.reader.prefix}: documents {sorted(int(d) for d in order.documents[begin : end + 1])} hold an id outside "
                f"the model's vocabulary of {self.vocab_size}: the shard was made with another tokenizer, or is damaged"
            )
        return Sample(row, cu_seqlens, end_offset == 0)

    def _place(self, number: int) -> tuple[_Pass, int, int, int]:
        """Where a sample lies: its pass, its first token there, the positions of its first and its last document."""
        epoch, number = divmod(number, self.samples_per_pass)
        order = self._pass(epoch)
        first = int(order.order[number]) * self.sequence_length
        # The document that holds a token: the first whose end lies behind it (empty documents end where they begin).
        begin, end = (int(i) for i in np.searchsorted(order.ends, (first, first + self.sequence_length), side="right"))
        return order, first, begin, end

    def prepare(self, samples: int) -> None:
        """Build and keep in the cache the orders of all passes that the first `samples` samples touch."""
        for epoch in range(-(-samples // self.samples_per_pass)):
            if self._open(epoch) is None:
                self._build(epoch)

    def _pass(self, epoch: int) -> _Pass:
        # Samples are asked for in order, so one pass at a time is enough.
        if self._current is None or self._current[0] != epoch:
            found = self._open(epoch)
            if found is None:
                self._build(epoch)
                found = self._open(epoch)
            if found is None:
                raise DataError(
                    f"{self._folder(epoch)}: files just written cannot be read; use another data.index_cache"
                )
            self._current = epoch, found
        return self._current[1]

    def _what_was_opened(self) -> str:
        """Sizes, times and both ends of the shard's index: another shard under the same name must not get its orders."""
        index, data = idx_path(self.reader.prefix), bin_path(self.reader.prefix)
        with index.open("rb") as stream:
            content = stream.read(1 << 20)
            stream.seek(max(0, index.stat().st_size - (1 << 20)))
            content += stream.read()
        stats = [(path.stat().st_size, path.stat().st_mtime_ns) for path in (index, data)]
        return f"{stats} {hashlib.sha256(content).hexdigest()}"

    def _folder(self, epoch: int) -> Path:
        what = json.dumps([_FORMAT, self._identity, self.range, self.sequence_length, self.seed, epoch])
        return self.cache / f"{self.reader.prefix.name}-{hashlib.sha256(what.encode()).hexdigest()[:24]}"

    def _open(self, epoch: int) -> _Pass | None:
        """A pass from the cache, or none where it is not there, not complete or damaged. Pickles are refused."""
        folder = self._folder(epoch)
        try:
            found = _Pass(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS))
        except (OSError, ValueError, EOFError):
            return None
        documents = self.range[1] - self.range[0]
        expected = [(np.int32, (documents,)), (np.int64, (documents,)), (np.int64, (self.samples_per_pass,))]
        arrays = (found.documents, found.ends, found.order)
        return found if [(x.dtype, x.shape) for x in arrays] == expected else None

    def _build(self, epoch: int) -> None:
        generator = np.random.default_rng([self.seed, epoch])
        documents = generator.permutation(np.arange(*self.range, dtype=np.int32))
        ends = np.cumsum(self.reader.lengths[documents], dtype=np.int64)
        arrays = (documents, ends, generator.permutation(self.samples_per_pass))
        folder = self._folder(epoch)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, array in zip(_ARRAYS, arrays, strict=True):
                _write_whole(folder / f"{name}.npy", array)
            for left_over in folder.glob(f"{_UNFINISHED}*"):
                with contextlib.suppress(FileNotFoundError):  # finished by its process, or removed by another one
                    if time.time() - left_over.stat().st_mtime > _ABANDONED_SECONDS:
                        left_over.unlink()
        except OSError as error:
            raise write_error(folder, error) from error


def _write_whole(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Write an array so that its file is there whole or not at all. Processes that do it at once write the same bytes."""
    unfinished = path.with_name(f"{_UNFINISHED}{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with unfinished.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def split_documents(documents: int, split: str) -> dict[str, tuple[int, int]]:
    """Cut a shard's documents into train, valid and test by shares such as "98,1,1".

    Returns:
        First and one-past-last document of each part that is not empty.

    Raises:
        DataError: Not three finite numbers, a negative one, or all zero.
    """
    try:
        shares = [float(share) for share in split.split(",")]
    except ValueError:
        shares = []
    if len(shares) != 3 or not all(math.isfinite(x) and x >= 0 for x in shares) or sum(shares) == 0:
        raise DataError(f'data.split is {split!r}, needs three shares for train, valid and test such as "98,1,1"')
    bounds = [0, *(round(documents * sum(shares[: i + 1]) / sum(shares)) for i in range(3))]
    parts = zip(("train", "valid", "test"), bounds, bounds[1:], strict=False)
    return {name: (first, last) for name, first, last in parts if last > first}
