"""The order of rows: one epoch's permutation after another, cut into full steps, the same for any number of ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from megatron_bielik.corpus.records import batches


def steps_of(rows: int, global_batch_size: int, epochs: float) -> int:
    """Steps that pass over the rows `epochs` times; the last one is full like every other, with rows of a next pass."""
    return max(1, math.ceil(round(epochs * rows, 6) / global_batch_size))


class RowStream(Sampler[int]):
    """Numbers of the rows of a whole run.

    Args:
        rows: Rows of the set.
        total: Rows of the run: steps times global batch size.
        seed: Epoch e is permuted with seed + e.
    """

    def __init__(self, rows: int, total: int, seed: int) -> None:
        self._rows, self._total, self._seed = rows, total, seed

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[int]:
        for epoch in range(-(-self._total // self._rows)):
            generator = torch.Generator().manual_seed(self._seed + epoch)
            rest = self._total - epoch * self._rows
            yield from torch.randperm(self._rows, generator=generator)[:rest].tolist()


class PromptStream(Sampler[int]):
    """Numbers of the prompts of a whole GRPO run, as TRL's trainer takes them.

    Each set of prompts comes group_size times in a row and as a whole `repeats` times: once for every micro-step that reads
    it. TRL's own sampler orders a resumed run's epochs differently from an uninterrupted one's.

    Args:
        rows: Prompts of the set.
        sets: Sets of prompts sampled in the run.
        prompts: Of one set.
        group_size: Answers to each prompt.
        repeats: Micro-steps, of all updates, that use one set.
        seed: Epoch e is permuted with seed + e.
    """

    def __init__(self, rows: int, sets: int, prompts: int, group_size: int, repeats: int, seed: int) -> None:
        self._stream = RowStream(rows, sets * prompts, seed)
        self._prompts, self._group_size, self._repeats = prompts, group_size, repeats

    def __len__(self) -> int:
        return len(self._stream) * self._group_size * self._repeats

    def __iter__(self) -> Iterator[int]:
        for chosen in batches(self._stream, self._prompts):
            for _ in range(self._repeats):
                yield from (number for number in chosen for _ in range(self._group_size))
