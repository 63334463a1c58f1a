"""Our checkpoints without process groups, one tensor at a time: torch's distributed format read and written lazily."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from megatron_bielik import checkpoint_files as files


@contextmanager
def _single_process() -> Iterator[None]:
    """torch warns that there is no process group; here there is none on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


class _Reader(FileSystemReader):
    """Takes the index that was read safely, once, instead of unpickling the file for every tensor."""

    def __init__(self, checkpoint: Path, index: Metadata) -> None:
        super().__init__(checkpoint)
        self._index = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._index


class NativeReader:
    """Tensors of a checkpoint by key, whatever layout wrote them.

    Raises:
        CheckpointError: Not a checkpoint, damaged, or unsafe.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._index: Metadata = files.read_index(checkpoint)
        self._index.storage_meta = StorageMeta()
        self._tensors: dict[str, TensorStorageMetadata] = dict(self._index.state_dict_metadata)

    def keys(self) -> list[str]:
        """All keys."""
        return list(self._tensors)

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a whole tensor, vocabulary padding included."""
        return tuple(self._tensors[key].size)

    def dtype(self, key: str) -> torch.dtype:
        """Type it is stored in."""
        return self._tensors[key].properties.dtype

    def read(self, key: str) -> torch.Tensor:
        """One whole tensor, put together from the slices of all ranks; torch.load(weights_only=True) reads each slice.

        Raises:
            CheckpointError: The slices are missing, damaged, or hold anything but a tensor.
        """
        target = {key: torch.empty(self.shape(key), dtype=self.dtype(key))}
        try:
            with _single_process():
                reader = _Reader(self._checkpoint, self._index)
                dcp.load(target, storage_reader=reader, planner=DefaultLoadPlanner(), no_dist=True)
        except (dcp.CheckpointException, RuntimeError, OSError, ValueError) as error:
            raise files.CheckpointError(f"{self._checkpoint}: {key} cannot be read ({_reason(error)})") from None
        return target[key]


def _reason(error: BaseException) -> str:
    """The first line of what went wrong, without the report that torch wraps around it."""
    if isinstance(error, dcp.CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    lines = str(error).split("WeightsUnpickler error: ")[-1].strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class _Writer(FileSystemWriter):
    """Without the storage description, which would put the machine's path into the file."""

    def storage_meta(self) -> None:
        return None


class _LazyPlanner(DefaultSavePlanner):
    """Plans tensors from their shapes alone and makes each one when it is written."""

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, make: Callable[[str], torch.Tensor]
    ) -> None:
        super().__init__(flatten_state_dict=False)
        self._shapes, self._dtype, self._make = shapes, dtype, make

    def create_local_plan(self) -> SavePlan:
        items = [
            WriteItem(
                index=MetadataIndex(key, torch.Size([0] * len(shape))),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=ChunkStorageMetadata(offsets=torch.Size([0] * len(shape)), sizes=torch.Size(shape)),
                    properties=TensorProperties(dtype=self._dtype),
                    size=torch.Size(shape),
                ),
            )
            for key, shape in self._shapes.items()
        ]
        self.plan = SavePlan(items)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Any:
        return self._make(write_item.index.fqn).to(self._dtype)


def write_tensors(
    checkpoint: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, make: Callable[[str], torch.Tensor]
) -> None:
    """Write a checkpoint's tensors as megatron-core's dist_checkpointing loads them, holding one at a time.

    Args:
        checkpoint: Exists and is empty.
        shapes: Every key, in the order in which `make` is called.
        dtype: Of the stored tensors.
        make: The tensor of a key.
    """
    writer = _Writer(checkpoint, single_file_per_rank=True, thread_count=1)
    with _single_process():
        dcp.save({}, storage_writer=writer, planner=_LazyPlanner(shapes, dtype, make), no_dist=True)
    torch.save({}, checkpoint / "common.pt")
    backend = {
        "sharded_backend": "torch_dist",
        "sharded_backend_version": 1,
        "common_backend": "torch",
        "common_backend_version": 1,
    }
    (checkpoint / "metadata.json").write_text(json.dumps(backend))
