"""From a step of a run to the documents of its samples, by the orders that training itself draws."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_bielik import checkpoint_files as files
from megatron_bielik.data.epochs import ShardStream
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.mixture import Mixture, MixtureState
from megatron_bielik.training.diagnosis.history import History

Ranges = dict[str, tuple[int, int]]  # first and one-past-last sample by data set
MOST_DRAWN = 20_000_000  # samples drawn again, about a microsecond each
_BLOCK = 1 << 16
_EVENT_RANGE = re.compile(r"(?:^|, )(.+?) (\d+) to (\d+)(?=, |$)")
_EVENT_LIST = "; samples of the step: "


@dataclass(frozen=True)
class Piece:
    """The part of a document that lies in a sample.

    Attributes:
        prefix: Shard.
        document: Its number there.
        begin, end: First and one-past-last of the document's tokens that the sample reads, the label behind the last included.
        sample: Number in the shard's stream.
    """

    prefix: str
    document: int
    begin: int
    end: int
    sample: int


class TracedStream(ShardStream):
    """A shard's stream that tells which documents a sample is made of."""

    def pieces(self, number: int) -> list[Piece]:
        """The documents of sample(number) in order; their tokens laid end to end are its tokens."""
        order, first, begin, end = self._place(number)
        last = first + self.sequence_length
        found = []
        for position in range(begin, end + 1):
            start = int(order.ends[position - 1]) if position else 0
            document = int(order.documents[position])
            stop = min(last + 1, int(order.ends[position]))
            if stop > start:  # not an empty document
                found.append(Piece(str(self.reader.prefix), document, max(first, start) - start, stop - start, number))
        return found


def samples_of_message(message: str) -> Ranges:
    """The samples that a spike event names; empty if it names none."""
    _, found, listed = message.partition(_EVENT_LIST)
    if not found:
        return {}
    return {name: (int(first), int(last) + 1) for name, first, last in _EVENT_RANGE.findall(listed)}


class SampleOrder:
    """Which samples each step of a run took, from the mixture's state in the nearest checkpoint before, or from the start."""

    def __init__(self, history: History) -> None:
        starts = [start for start in history.starts if start.config.get("data", {}).get("train")]
        # Of processes that began at the same step, the last one trained.
        self._starts = [
            one for number, one in enumerate(starts) if number + 1 == len(starts) or starts[number + 1].step > one.step
        ]
        self._checkpoints = checkpoints_of(history.folder)

    def samples(self, step: int) -> Ranges:
        """First and one-past-last sample of each data set in a step, over all ranks.

        Raises:
            DataError: The log holds no options of that step, or too many samples would have to be drawn again.
        """
        number = bisect_right([start.step for start in self._starts], step - 1) - 1
        if number < 0:
            raise DataError(f"the log holds no options of the process that did step {step}: its samples are not known")
        begun, mixture = self._nearest(step - 1)
        if begun < self._starts[0].step:
            raise DataError(
                f"the log begins at step {self._starts[0].step} and no checkpoint tells the position in the data there: "
                f"the samples of step {step} are not known"
            )
        spans = [
            (segment, min(self._end_of(segment), step - 1) - max(begun, self._starts[segment].step))
            for segment in range(number + 1)
        ]
        to_draw = sum(length * self._batch(segment) for segment, length in spans if length > 0)
        if to_draw > MOST_DRAWN:
            raise DataError(
                f"step {step}: {to_draw:,} samples lie between it and the nearest checkpoint before, at most {MOST_DRAWN:,} "
                "are drawn again; keep more checkpoints (checkpoint.keep_every)"
            )
        for segment, length in spans:
            if length >= 0:
                mixture = Mixture(self._weights(segment), mixture.state() if mixture is not None else None)
                _skip(mixture, length * self._batch(segment))
        assert mixture is not None, "a step's own segment is never skipped"
        before = dict(mixture.consumed)
        _skip(mixture, self._batch(number))
        return {name: (before[name], end) for name, end in mixture.consumed.items() if end > before[name]}

    def _end_of(self, segment: int) -> int:
        return self._starts[segment + 1].step if segment + 1 < len(self._starts) else 1 << 62

    def _weights(self, segment: int) -> dict[str, float]:
        train = self._starts[segment].config["data"]["train"]
        return {one["prefix"]: float(one["weight"]) for one in train}

    def _batch(self, segment: int) -> int:
        return int(self._starts[segment].config["training"]["global_batch_size"])

    def _nearest(self, done: int) -> tuple[int, Mixture | None]:
        """The last readable checkpoint not after `done` steps and the mixture in it; step 0 and none where there is none."""
        for step in sorted((step for step in self._checkpoints if step <= done), reverse=True):
            state = mixture_state(self._checkpoints[step])
            if state is not None:
                return step, Mixture(state["weights"], state)
        return 0, None


def _skip(mixture: Mixture, samples: int) -> None:
    for start in range(0, samples, _BLOCK):
        mixture.draw(min(_BLOCK, samples - start))


def checkpoints_of(folder: Path) -> dict[int, Path]:
    """Complete checkpoints of a pretraining run by step."""
    root = folder / files.CHECKPOINTS
    found = ((files.step_of_name(path.name), path) for path in (root.iterdir() if root.is_dir() else ()))
    return {
        step: path for step, path in sorted(found, key=str) if step is not None and (path / files.DESCRIPTION).is_file()
    }


def mixture_state(checkpoint: Path) -> MixtureState | None:
    """Position in the data that a checkpoint keeps; none where it cannot be read or is not there."""
    import torch

    try:
        files.refuse_code(checkpoint)
        content: dict[str, Any] = torch.load(checkpoint / "common.pt", map_location="cpu", weights_only=True)
        state: MixtureState = content["common"]["mixture"]
        return state
    except (files.CheckpointError, KeyError, TypeError):
        return None
