"""Documents into training sequences without cutting any: best-fit decreasing packing. The work is done in C++.

Documents are taken by descending length, equal ones by number. Each goes into the fullest bin that it fits, of equally full
ones into the first opened; where it fits none, a new bin is opened. Source: csrc/packing.cpp, built by setup.py as
megatron_bielik._packing; Ding et al. 2024, "Fewer Truncations Improve Language Modeling" (best-fit packing). TRL's strategy
"bfd" does the same but for ties: of equally full bins it takes the one that has been so full for longest, which changes
neither the number of bins nor how full they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from megatron_bielik.data.errors import DataError

try:
    from megatron_bielik import _packing as _native
except ImportError as error:  # a source tree that was never built, or built for another Python
    raise ImportError(
        "megatron_bielik._packing is not built for this Python; run `pip install -e .` in the repository"
    ) from error

Lengths = npt.NDArray[np.int32] | npt.NDArray[np.int64]
Split = Literal["error", "drop", "cut"]


@dataclass(frozen=True)
class Packing:
    """What stands in each bin, bins in the order in which they were opened.

    Args:
        offsets: int64 [bins + 1]; bin b holds entries offsets[b] to offsets[b + 1] - 1 of the next two.
        items: int32 (int64 from 2^31 items on) [pieces], numbers of the items, in each bin as they were put in: longest first.
        starts: int64 [pieces], where each piece begins in its item; None where nothing may be cut. Piece p has
            min(capacity, lengths[items[p]] - starts[p]) tokens.
        capacity: Tokens of a bin.
        tokens: In all bins together.
    """

    offsets: npt.NDArray[np.int64]
    items: Lengths
    starts: npt.NDArray[np.int64] | None
    capacity: int
    tokens: int

    def __len__(self) -> int:
        """Number of bins."""
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> Lengths:
        """Items of one bin; negative numbers count from the end."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"bin {number} asked for, there are {len(self)}")
        number %= len(self)
        return self.items[self.offsets[number] : self.offsets[number + 1]]

    @property
    def efficiency(self) -> float:
        """Share of the bins' room that is filled; 1 for no bins."""
        return self.tokens / (len(self) * self.capacity) if len(self) else 1.0

    def bin_of(self, num_items: int) -> Lengths:
        """Bin of each item: int32 or int64 [num_items], -1 for those dropped.

        Raises:
            DataError: Items were cut and may stand in several bins.
        """
        if self.starts is not None:
            raise DataError("bin_of needs whole items, these were packed with split='cut'; read offsets and items")
        bins = np.full(num_items, -1, dtype=self.items.dtype)
        bins[self.items] = np.repeat(np.arange(len(self), dtype=bins.dtype), np.diff(self.offsets))
        return bins


def pack(lengths: Lengths, capacity: int, split: Split = "error") -> Packing:
    """Pack items of these lengths into bins.

    Time and memory beyond the result grow with the number of different lengths, and one pass over the items.

    Args:
        lengths: int32 or int64 [items], C-contiguous, none negative. An item of length 0 fits anywhere and so goes where the
            rule puts it, into the fullest bin.
        capacity: Tokens of a bin, 1 to 2^28.
        split: What becomes of an item longer than that: an error, left out, or cut into pieces of `capacity` and a rest.

    Raises:
        DataError: A negative length, one that is too long where that is an error, or a capacity out of range.
        TypeError: Another dtype or an array that is not contiguous.
    """
    try:
        offsets, items, starts, tokens = _native.pack(lengths, int(capacity), split, False)
    except ValueError as error:
        raise DataError(f"packing: {error}") from None
    return Packing(offsets, items, starts, int(capacity), tokens)


def pack_documents(sequence_lengths: npt.NDArray[np.int32], capacity: int) -> Packing:
    """Pack a shard's documents for training without truncation: only what is longer than a bin is cut.

    Args:
        sequence_lengths: int32 [documents], as ShardReader.lengths.
        capacity: Tokens of a training sequence.

    Raises:
        DataError: As pack does.
    """
    return pack(sequence_lengths, capacity, "cut")
