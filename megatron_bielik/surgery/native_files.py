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


class NativeReader:
    """Tensors of a checkpoint by key, whatever layout wrote them.

    Raises:
        CheckpointError: Not a checkpoint, damaged, or unsafe.
    """

    def __init__(self, checkpoint: Path) -> None:
        files.refuse_code(checkpoint)
        self._checkpoint = checkpoint
        metadata: Metadata = FileSystemReader(checkpoint).read_metadata()
        self._tensors = {
            key: value for key, value in metadata.state_dict_metadata.items() if isinstance(value, TensorStorageMetadata)
        }

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a whole tensor, vocabulary padding included."""
        return tuple(self._tensors[key].size)

    def dtype(self, key: str) -> torch.dtype:
        """Type it is stored in."""
        return self._tensors[key].properties.dtype

    def read(self, key: str) -> torch.Tensor:
        """One whole tensor, put together from the slices of all ranks."""
        target = {key: torch.empty(self.shape(key), dtype=self.dtype(key))}
        with _single_process():
            dcp.load(target, storage_reader=FileSystemReader(self._checkpoint), planner=DefaultLoadPlanner(), no_dist=True)
        return target[key]


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
    writer = FileSystemWriter(str(checkpoint), single_file_per_rank=True, thread_count=1)
    with _single_process():
        dcp.save({}, storage_writer=writer, planner=_LazyPlanner(shapes, dtype, make), no_dist=True)
    torch.save({}, checkpoint / "common.pt")
    backend = {"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch", "common_backend_version": 1}
    (checkpoint / "metadata.json").write_text(json.dumps(backend))
