"""Weighted sums of stored tensors, block by block: read, sum in float64, round once; several threads, bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch

from megatron_bielik.surgery.safetensors_files import ConversionError, SafetensorsReader

# Elements of a block: its float64 sum is 2 MiB, which a core's cache holds.
_BLOCK = 2**18
# The bits of a float64's fraction that a float32's does not have: 52 - 23.
_CUT = 2**29 - 1


@dataclass(frozen=True)
class Term:
    """A stored tensor and its weight in a sum."""

    reader: SafetensorsReader
    name: str
    weight: float


@dataclass(frozen=True)
class Sum:
    """A tensor of the result: the sum of its terms, which all have its shape, in float64, rounded to its type.

    A term of weight 0 is not read. Whole numbers are not summed: they must be equal in all terms.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    terms: Sequence[Term]

    @property
    def row_size(self) -> int:
        """Elements of one index of the first dimension."""
        return torch.Size(self.shape[1:]).numel()

    @property
    def rows(self) -> int:
        """Size of the first dimension; 1 for a single number."""
        return self.shape[0] if self.shape else 1

    def spans(self) -> list[tuple[int, int]]:
        """First row and number of rows of each block."""
        step = max(1, _BLOCK // max(self.row_size, 1))
        return [(row, min(step, self.rows - row)) for row in range(0, self.rows, step)]


def round_once(values: torch.Tensor, dtype: torch.dtype, scratch: torch.Tensor) -> torch.Tensor:
    """float64 to a narrower float: to nearest, ties to even, exactly so for numbers that are normal in that type.

    torch goes from float64 to bf16 and fp16 over float32, and rounds twice: a sum just above the middle of two bf16 numbers
    first becomes the middle, then the even one. Here the step to float32 only cuts and sets the last bit where anything was
    cut off (rounding to odd: Boldo and Melquiond 2008, Emulation of FMA and correctly rounded sums), so that the second
    step decides as if it saw all bits.

    Args:
        values: float64, overwritten.
        scratch: float64 of the same shape, overwritten.
    """
    if dtype in (torch.float32, torch.float64):
        return values.to(dtype, copy=True)
    bits = values.view(torch.int64)
    sticky = torch.bitwise_and(bits, _CUT, out=scratch.view(torch.int64))
    sticky.add_(_CUT)  # carries into the last bit that is kept, unless all bits cut off are zero
    bits.bitwise_or_(sticky).bitwise_and_(~_CUT)
    return values.float().to(dtype)


class _Workspace(threading.local):
    """Memory that each thread keeps from block to block: fresh pages every time would cost more than the arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def buffer(self, use: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        """So many elements, overwritten by the next call for the same use."""
        held = self._buffers.get((use, dtype))
        if held is None or held.numel() < count:
            held = self._buffers[use, dtype] = torch.empty(count, dtype=dtype)
        return held[:count]

    def stored(self, term: Term, first: int, count: int) -> torch.Tensor:
        """Elements first to first + count of a stored tensor."""
        dtype = term.reader.stored_dtype(term.name)
        target = self.buffer("stored", dtype, count)
        term.reader.read_into(term.name, first * dtype.itemsize, target)
        return target


class WeightedSums:
    """A pool of threads that sums tensors; a context manager.

    Args:
        threads: Blocks that are worked on at a time; half as many again wait for the one who takes them.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._memory = _Workspace()

    def __enter__(self) -> WeightedSums:
        self._before = torch.get_num_threads()
        # Blocks are the unit of parallelism: in these threads torch is not to start more of its own.
        self._pool = ThreadPoolExecutor(self._threads, initializer=torch.set_num_threads, initargs=(1,))
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._before)  # torch takes the last word of any thread for all later ones

    def sums(self, wanted: Sequence[Sum]) -> Iterator[tuple[str, Iterator[torch.Tensor]]]:
        """Name and blocks of rows of each tensor, in order, to be taken in order; those ahead are being computed.

        Raises:
            ConversionError: Whole numbers that differ.
        """
        spans = {item.name: item.spans() for item in wanted}
        done = self._ahead(self._block, ((item, *span) for item in wanted for span in spans[item.name]))
        for item in wanted:
            yield item.name, islice(done, len(spans[item.name]))

    def products(self, a: Term, b: Term) -> tuple[float, float, float]:
        """a·a, b·b and a·b of two tensors of one shape, taken as vectors, without their weights."""
        item = Sum(a.name, a.reader.shape(a.name), torch.float64, (a, b))
        parts = self._ahead(self._block_products, ((item, *span) for span in item.spans()))
        aa, bb, ab = torch.stack([torch.zeros(3, dtype=torch.float64), *parts]).sum(0).tolist()
        return aa, bb, ab

    def _ahead(
        self, work: Callable[[Sum, int, int], torch.Tensor], jobs: Iterable[tuple[Sum, int, int]]
    ) -> Iterator[torch.Tensor]:
        """Results in the order of the jobs, a few of which are in work."""
        pending: deque[Future[torch.Tensor]] = deque()
        for job in jobs:
            pending.append(self._pool.submit(work, *job))
            if len(pending) > self._threads + self._threads // 2 + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _block(self, item: Sum, row: int, rows: int) -> torch.Tensor:
        first, count = row * item.row_size, rows * item.row_size
        shape = (rows, *item.shape[1:]) if item.shape else ()
        if not item.dtype.is_floating_point:
            return self._equal(item, first, count).view(shape)
        total = self._memory.buffer("total", torch.float64, count)
        scaled = self._memory.buffer("scaled", torch.float64, count)
        terms = [term for term in item.terms if term.weight != 0] or item.terms[:1]
        for place, term in enumerate(terms):
            # The first one is not added to zero: -0.0 + 0.0 would be 0.0.
            target = scaled if place else total
            target.copy_(self._memory.stored(term, first, count)).mul_(term.weight)
            if place:
                total.add_(scaled)
        return round_once(total, item.dtype, scaled).view(shape)

    def _equal(self, item: Sum, first: int, count: int) -> torch.Tensor:
        one = self._memory.stored(item.terms[0], first, count).clone()
        for term in item.terms[1:]:
            if not torch.equal(one, self._memory.stored(term, first, count)):
                raise ConversionError(
                    f"{item.name} holds whole numbers ({item.dtype}) that differ between the models: they have no average"
                )
        return one

    def _block_products(self, item: Sum, row: int, rows: int) -> torch.Tensor:
        first, count = row * item.row_size, rows * item.row_size
        a, b = (self._memory.buffer(use, torch.float64, count) for use in ("total", "scaled"))
        a.copy_(self._memory.stored(item.terms[0], first, count))
        b.copy_(self._memory.stored(item.terms[1], first, count))
        return torch.stack([a @ a, b @ b, a @ b])
