"""Our checkpoints without process groups, one tensor at a time: torch's distributed format read and written lazily."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from megatron_bielik import checkpoint_files as files

_PAYLOAD = "__0_0.distcp"


@contextmanager
def _single_process() -> Iterator[None]:
    """torch warns that there is no process group; here there is none on purpose. And it wraps whatever goes wrong, a full
    disk or Ctrl-C as well, in an exception of its own: the cause is what the caller needs."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            yield
    except dcp.CheckpointException as error:
        raise next((cause for cause, _ in error.failures.values()), error) from None


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
        except pickle.UnpicklingError as error:
            problem = files.refused_content(error)
            raise files.CheckpointError(f"{self._checkpoint}: {key} {problem}; do not load it") from None
        except Exception as error:  # what damaged bytes raise has no list
            reason = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
            raise files.CheckpointError(f"{self._checkpoint}: {key} cannot be read ({reason}); do not use it") from None
        return target[key]


def write_tensors(
    checkpoint: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, make: Callable[[str], torch.Tensor]
) -> None:
    """Write a checkpoint's tensors as megatron-core's dist_checkpointing loads them, holding one at a time.

    torch's own writer keeps every tensor until the file is complete (torch 2.13, _write_files_from_queue), so the format is
    written here: tensors as torch.save writes them, back to back in one file, and an index of where each one begins.

    Args:
        checkpoint: Exists and is empty.
        shapes: Every key, in the order in which `make` is called.
        dtype: Of the stored tensors.
        make: The tensor of a key.
    """
    tensors: dict[str, TensorStorageMetadata] = {}
    places: dict[MetadataIndex, _StorageInfo] = {}
    with (checkpoint / _PAYLOAD).open("wb") as stream:
        for key, shape in shapes.items():
            begin = stream.tell()
            torch.save(_alone(make(key).to(dtype)), stream)
            start, size = torch.Size([0] * len(shape)), torch.Size(shape)
            chunk = ChunkStorageMetadata(offsets=start, sizes=size)
            tensors[key] = TensorStorageMetadata(TensorProperties(dtype=dtype), size, [chunk])
            places[MetadataIndex(key, start, 0)] = _StorageInfo(_PAYLOAD, begin, stream.tell() - begin)
    index = Metadata(state_dict_metadata=tensors, storage_data=places, version=CURRENT_DCP_VERSION)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(index))
    torch.save({}, checkpoint / "common.pt")
    backend = {
        "sharded_backend": "torch_dist",
        "sharded_backend_version": 1,
        "common_backend": "torch",
        "common_backend_version": 1,
    }
    (checkpoint / "metadata.json").write_text(json.dumps(backend))


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in a storage of its own: torch.save writes the whole storage, of which a view is a part."""
    return tensor.contiguous() if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
