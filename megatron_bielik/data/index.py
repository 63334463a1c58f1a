"""The indices of megatron-core 0.16.1's GPTDataset and BlendedDataset, equal to the last bit.

Document, sample and shuffle index are those of gpt_dataset.py and helpers.cpp for the same RandomState, blends those of
blended_dataset.py; dtypes too, but where theirs are too small: document numbers from 2^31 on are int64, and so are data
sets from 2^15 on int32. The work is done in C++: csrc/index.cpp, built by setup.py as megatron_bielik._index.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_bielik.data.errors import DataError

try:
    from megatron_bielik import _index as _native
except ImportError as error:  # a source tree that was never built, or built for another Python
    raise ImportError("megatron_bielik._index is not built for this Python; run `pip install -e .` here") from error

Integers = npt.NDArray[np.int32] | npt.NDArray[np.int64]
_INT32_MAX = 2**31 - 1
BLOCK_ROWS = 1 << 20  # of the sample index, written at a time


def default_threads() -> int:
    """Cores this process may use, 8 at most: more only wait for memory."""
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def shuffle(array: npt.NDArray[Any], state: np.random.RandomState) -> None:
    """RandomState.shuffle of a one-dimensional array, in place: the same order, and the same state afterwards."""
    before = state.get_state(legacy=False)
    known = array.dtype in (np.int32, np.uint32, np.int64) and array.flags.c_contiguous and array.flags.aligned
    if before["bit_generator"] != "MT19937" or array.ndim != 1 or not known:
        state.shuffle(array)
        return
    words = np.array(before["state"]["key"], dtype=np.uint32)
    before["state"] = {"key": words, "pos": _native.shuffle(array, words, int(before["state"]["pos"]))}
    state.set_state(before)


def build_document_index(
    documents: npt.NDArray[np.integer] | range,
    num_epochs: int,
    numpy_random_state: np.random.RandomState,
    separate_final_epoch: bool,
) -> Integers:
    """The documents of all epochs in random order; the last epoch in an order of its own where it is separate.

    Args:
        documents: [documents], numbers of the documents; a range takes no memory.
        num_epochs: How often each occurs.
        numpy_random_state: Of the orders; left as megatron-core leaves it.
        separate_final_epoch: Shuffle the last epoch by itself.

    Returns:
        [num_epochs * documents], int32, or int64 if a number needs it.

    Raises:
        DataError: num_epochs below 1.
    """
    at_least("num_epochs", num_epochs, 1)
    count = len(documents)
    if isinstance(documents, range):
        largest = max(documents[0], documents[-1]) if count else 0
    else:
        largest = int(documents.max()) if count else 0
    dtype: Any = np.int32 if largest <= _INT32_MAX else np.int64
    index: Integers = np.empty(num_epochs * count, dtype=dtype)
    for epoch in range(num_epochs):
        part = index[epoch * count : (epoch + 1) * count]
        for start in range(0, count, BLOCK_ROWS):
            some = documents[start : start + BLOCK_ROWS]
            part[start : start + BLOCK_ROWS] = some if not isinstance(some, range) else np.arange(*_bounds(some))
    together = (num_epochs - 1) * count if separate_final_epoch and num_epochs > 1 else len(index)
    shuffle(index[:together], numpy_random_state)
    if separate_final_epoch and num_epochs > 1:
        shuffle(index[together:], numpy_random_state)
    return index


def num_sample_rows(
    sequence_length: int, num_epochs: int, tokens_per_epoch: int, drop_last: bool = True, extra: bool = True
) -> int:
    """Samples that so many tokens are cut into. The last, partial one is counted in float32, as megatron-core does."""
    tokens = num_epochs * tokens_per_epoch - int(extra)
    if drop_last:
        return max(0, tokens) // sequence_length
    return max(0, int(np.ceil(np.float32(tokens) / np.float32(sequence_length))))


def sample_index_blocks(
    sequence_lengths: npt.NDArray[np.int32],
    document_index: Integers,
    sequence_length: int,
    rows: int,
    add_extra_token_to_sequence: bool = True,
    threads: int | None = None,
    dtype: npt.DTypeLike | None = None,
    block_rows: int = BLOCK_ROWS,
) -> Iterator[Integers]:
    """The sample index piece by piece, each int32 or int64 [up to block_rows, 2] and valid until the next one.

    Memory does not grow with the number of documents or rows. Arguments and errors as of build_sample_index; rows: of the
    whole index, one more than samples.
    """
    chosen = np.dtype(dtype or sample_dtype(document_index))
    block: Integers = np.empty((max(1, min(block_rows, rows)), 2), dtype=chosen)
    yield from _fill_rows(
        sequence_lengths, document_index, sequence_length, add_extra_token_to_sequence, rows, lambda _: block, threads
    )


def _fill_rows(
    lengths: npt.NDArray[np.int32],
    index: Integers,
    sequence_length: int,
    extra: bool,
    rows: int,
    place: Callable[[int], Integers],
    threads: int | None,
) -> Iterator[Integers]:
    """Rows of the sample index, written where `place` says for the number of the next one."""
    at_least("sequence_length", sequence_length, 1)
    row = position = before = 0
    while row < rows:
        out = place(row)[: rows - row]
        try:
            done, position, before = _native.sample_rows(
                index, lengths, sequence_length, int(extra), row, position, before, out, threads or default_threads()
            )
        except ValueError as error:
            raise DataError(f"sample index: {error}") from None
        yield out[:done]
        row += done


def build_sample_index(
    sequence_lengths: npt.NDArray[np.int32],
    document_index: Integers,
    sequence_length: int,
    num_epochs: int,
    tokens_per_epoch: int,
    drop_last_partial_sequence: bool = True,
    add_extra_token_to_sequence: bool = True,
    threads: int | None = None,
    dtype: npt.DTypeLike | None = None,
) -> Integers:
    """Where each sample begins, as helpers.build_sample_idx.

    Args:
        sequence_lengths: int32 [documents], C-contiguous; tokens of each, may be an unaligned view of an .idx file.
        document_index: int32 or int64 [positions], C-contiguous.
        sequence_length: Tokens of a sample, without the extra one.
        num_epochs: Epochs that document_index holds.
        tokens_per_epoch: Tokens of one.
        drop_last_partial_sequence: Leave out what is left at the end.
        add_extra_token_to_sequence: Samples share their last token, a label, with the next one.
        threads: default_threads() where none is given.
        dtype: int32 while positions and lengths fit and int64 otherwise, where none is given.

    Returns:
        int32 or int64 [samples + 1, 2]: position in document_index and offset in that document. The row after the last
        token is the last position with an offset one before the end, which is -1 in an empty document.

    Raises:
        DataError: Numbers below 1, a document that does not exist, a negative length, or tokens of no documents.
        TypeError: An array of another dtype or not contiguous.
    """
    at_least("sequence_length", sequence_length, 1)
    at_least("num_epochs", num_epochs, 1)
    at_least("tokens_per_epoch", tokens_per_epoch, 0)
    rows = 1 + num_sample_rows(
        sequence_length, num_epochs, tokens_per_epoch, drop_last_partial_sequence, add_extra_token_to_sequence
    )
    index: Integers = np.empty((rows, 2), dtype=dtype or sample_dtype(document_index))
    extra = add_extra_token_to_sequence
    for _ in _fill_rows(
        sequence_lengths, document_index, sequence_length, extra, rows, lambda row: index[row:], threads
    ):
        pass
    return index


def build_shuffle_index(
    num_samples: int, total_size: int, numpy_random_state: np.random.RandomState
) -> npt.NDArray[np.uint32] | npt.NDArray[np.int64]:
    """Random order of samples 0 to num_samples - 1, then of the others up to total_size, each among themselves.

    Returns:
        [total_size], uint32, or int64 from 2^32 - 2 samples on.

    Raises:
        DataError: num_samples outside 0 to total_size.
    """
    if not 0 <= num_samples <= total_size:
        raise DataError(f"shuffle index: num_samples is {num_samples}, needs 0 to total_size, {total_size}")
    dtype: Any = np.uint32 if total_size < 2**32 - 2 else np.int64
    index: npt.NDArray[Any] = np.arange(total_size, dtype=dtype)
    shuffle(index[:num_samples], numpy_random_state)
    if num_samples < total_size:
        shuffle(index[num_samples:], numpy_random_state)
    return index


def normalised(weights: Sequence[float]) -> list[float]:
    """Weights that sum to one, rounded as megatron-core's normalize does."""
    array = np.array(weights, dtype=np.float64)
    return list((array / np.sum(array)).tolist())


Blend = tuple[npt.NDArray[np.int16] | npt.NDArray[np.int32], npt.NDArray[np.int64]]


def build_blending_indices(
    weights: Sequence[float] | npt.NDArray[np.float64], size: int, threads: int | None = None
) -> Blend:
    """Data set of each sample and the sample's number in it: the set furthest behind its share, the first of equals.

    Args:
        weights: [data sets], not negative; used as they are, see normalised().
        size: Samples.
        threads: default_threads() where none is given; the result does not depend on it.

    Returns:
        int16 (int32 from 2^15 sets on) [size] and int64 [size].

    Raises:
        DataError: No sets, a weight that is negative or no number, or a negative size.
    """
    shares = np.ascontiguousarray(weights, dtype=np.float64)
    bad = np.flatnonzero(~(np.isfinite(shares) & (shares >= 0)))
    if len(shares) == 0 or len(bad):
        what = f"weight {bad[0]} is {shares[bad[0]]}" if len(bad) else "there are no weights"
        raise DataError(f"blend: {what}, needs one finite weight that is not negative for each data set")
    at_least("size", size, 0)
    return _blend(shares, np.full(len(shares), np.inf), size, threads)


def build_exhaustive_blending_indices(
    sizes: Sequence[int] | npt.NDArray[np.int64], threads: int | None = None
) -> Blend:
    """As build_blending_indices, with sizes as weights and exactly so many samples of each set.

    Raises:
        DataError: No sets, or a size below 1 (megatron-core never ends with one).
    """
    limits = np.ascontiguousarray(sizes, dtype=np.int64)
    if len(limits) == 0 or int(limits.min()) < 1:
        raise DataError(
            f"blend: sizes are {list(limits[:5])}, needs at least one data set and one sample or more of each"
        )
    total = int(limits.sum())
    return _blend(limits / np.float64(total), limits.astype(np.float64), total, threads)


def _blend(
    weights: npt.NDArray[np.float64], limits: npt.NDArray[np.float64], size: int, threads: int | None, wide: bool = True
) -> Blend:
    dtype: Any = np.int16 if len(weights) < 2**15 else np.int32
    chosen: npt.NDArray[Any] = np.empty(size, dtype=dtype)
    samples = np.empty(size, dtype=np.int64)
    _native.blend(weights, limits, chosen, samples, threads or default_threads(), wide)
    return chosen, samples


def sample_dtype(index: Integers) -> np.dtype[Any]:
    """int32 while positions fit, as megatron-core decides, else int64; lengths are int32 and always fit."""
    return np.dtype(np.int32 if len(index) <= _INT32_MAX else np.int64)


def _bounds(numbers: range) -> tuple[int, int, int]:
    return numbers.start, numbers.stop, numbers.step


def at_least(name: str, found: int, least: int) -> None:
    """Raises DataError for a number that is too small."""
    if found < least:
        raise DataError(f"index: {name} is {found}, needs {least} or more")
