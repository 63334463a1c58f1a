"""The micro-batches of each step for one data-parallel rank, read one step ahead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from megatron_bielik.data.boundaries import loss_mask, positions
from megatron_bielik.data.epochs import Sample, ShardStream
from megatron_bielik.data.mixture import Mixture, MixtureState


@dataclass(frozen=True)
class Batch:
    """One micro-batch: its samples laid end to end as one row of packed documents.

    Args:
        tokens, labels: int64 [1, tokens].
        loss_mask: float32 [1, tokens]; 0 where the label belongs to another document.
        positions: int64 [1, tokens]; restart at each document.
        cu_seqlens: int32 [documents + 1], always on the host.
        sources: (data set, sample number) of each sample.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    loss_mask: torch.Tensor
    positions: torch.Tensor
    cu_seqlens: torch.Tensor
    sources: tuple[tuple[str, int], ...] = ()

    def per_token(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The same batch with the function applied to each tensor that has an element per token."""
        names = ("tokens", "labels", "loss_mask", "positions")
        return replace(self, **{name: function(getattr(self, name)) for name in names})

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on a device, cu_seqlens excepted."""
        return self.per_token(lambda tensor: tensor.to(device, non_blocking=True))


def make_batch(samples: Sequence[Sample], respect_boundaries: bool, sources: Sequence[tuple[str, int]] = ()) -> Batch:
    """Lay samples end to end. Samples never see each other; documents inside one do unless boundaries are respected."""
    tokens = np.stack([sample.tokens for sample in samples])
    length = tokens.shape[1] - 1
    cu_seqlens, mask = [np.zeros(1, dtype=np.int32)], np.ones((len(samples), length), dtype=np.float32)
    for row, sample in enumerate(samples):
        inner = sample.cu_seqlens if respect_boundaries else np.array([0, length], dtype=np.int32)
        cu_seqlens.append(inner[1:] + row * length)
        if respect_boundaries:
            mask[row] = loss_mask(inner, sample.last_label_crosses)
    bounds = np.concatenate(cu_seqlens)
    return Batch(
        torch.from_numpy(np.ascontiguousarray(tokens[:, :-1])).reshape(1, -1),
        torch.from_numpy(np.ascontiguousarray(tokens[:, 1:])).reshape(1, -1),
        torch.from_numpy(mask).reshape(1, -1),
        torch.from_numpy(positions(bounds).astype(np.int64)).reshape(1, -1),
        torch.from_numpy(bounds.astype(np.int32)),
        tuple(sources),
    )


class StepLoader:
    """Gives each step's micro-batches, reading the next step's in the background.

    Every data-parallel rank draws the whole global batch from the same mixture and reads only its part, so ranks need not
    talk and a resumed run may have another number of them.

    Args:
        streams: Data sets by name.
        mixture: Where the next samples come from.
        micro_batch_size, global_batch_size: In samples.
        data_parallel_rank, data_parallel_size: This rank's part.
        respect_boundaries: See Batch.

    Attributes:
        state: Position of the mixture behind the last step given.
        drawn: First and one-past-last sample of each data set in that step, over all ranks.
    """

    def __init__(
        self,
        streams: Mapping[str, ShardStream],
        mixture: Mixture,
        micro_batch_size: int,
        global_batch_size: int,
        data_parallel_rank: int,
        data_parallel_size: int,
        respect_boundaries: bool,
    ) -> None:
        self._streams, self._mixture = streams, mixture
        self._micro, self._global = micro_batch_size, global_batch_size
        self._rank, self._world = data_parallel_rank, data_parallel_size
        self._respect = respect_boundaries
        self.state: MixtureState = mixture.state()
        self.drawn: dict[str, tuple[int, int]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._next: Future[tuple[list[Batch], MixtureState]] | None = None

    def next_step(self) -> list[Batch]:
        """This rank's micro-batches of the next step. Raises what reading them raised."""
        ready = self._next or self._pool.submit(self._read)
        before = self.state["consumed"]
        batches, self.state = ready.result()
        after = self.state["consumed"]
        self.drawn = {name: (before[name], after[name]) for name in after if after[name] > before[name]}
        self._next = self._pool.submit(self._read)
        return batches

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read(self) -> tuple[list[Batch], MixtureState]:
        drawn = self._mixture.draw(self._global)
        state = self._mixture.state()
        stride = self._micro * self._world
        batches = []
        for start in range(self._rank * self._micro, self._global, stride):
            part = drawn[start : start + self._micro]
            samples = [self._streams[name].sample(number) for name, number in part]
            batches.append(make_batch(samples, self._respect, part))
        return batches, state
