"""What lies in a checkpoint folder: names, description, checksums, the pointer to the newest, and safe reading.

A run folder holds `checkpoints/step_00000100/` and `checkpoints/latest`. A checkpoint holds megatron-core's distributed
format (`*.distcp`, `.metadata`, `common.pt`, `metadata.json`), `model.json` (shape and step), `checksums.json`, `run.yaml`
and `tokenizer/`. Needs neither torch.distributed nor megatron-core.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_bielik.presets import ModelShape

CHECKPOINTS, LATEST = "checkpoints", "latest"
DESCRIPTION, CHECKSUMS, TOKENIZER = "model.json", "checksums.json", "tokenizer"
FORMAT = 1

# Everything the index of torch's distributed checkpoints is made of; plain containers of numbers and strings all.
_PLAIN_CLASSES = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    *(
        ("torch", dtype)
        for dtype in ("float32", "float64", "bfloat16", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
    ),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorStorageMetadata",
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "TensorProperties",
            "_MEM_FORMAT_ENCODING",
        )
    ),
    *(
        ("torch.distributed.checkpoint.planner", name)
        for name in ("SavePlan", "WriteItem", "WriteItemType", "TensorWriteData", "BytesIOWriteData")
    ),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
}


class CheckpointError(ValueError):
    """A checkpoint that is missing, incomplete, damaged, unsafe or of another model; the message is one line."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN_CLASSES:
            raise CheckpointError(f"refers to {module}.{name}, which no checkpoint index needs: it could run code")
        return super().find_class(module, name)


def refuse_code(checkpoint: Path) -> None:
    """Read the index the way that cannot run code, before a library reads it with pickle.

    Raises:
        CheckpointError: The index is missing, damaged, or names anything but plain metadata classes.
    """
    index = checkpoint / ".metadata"
    try:
        _PlainUnpickler(io.BytesIO(index.read_bytes())).load()
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint} has no .metadata: not a complete checkpoint") from None
    except CheckpointError as error:
        raise CheckpointError(f"{index} {error}; do not load it") from None
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(f"{index} is damaged ({type(error).__name__}: {error})") from None


def name_of_step(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"step_{step:08d}"


def step_of_name(name: str) -> int | None:
    """Step of a checkpoint folder's name, or none for other names."""
    prefix, _, number = name.partition("_")
    return int(number) if prefix == "step" and number.isdigit() else None


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a path means: itself, or the newest complete one of a run or of a checkpoints folder.

    Raises:
        CheckpointError: There is none.
    """
    if (path / DESCRIPTION).is_file():
        return path
    for root in (path / CHECKPOINTS, path):
        newest = latest_checkpoint(root)
        if newest is not None:
            return newest
    raise CheckpointError(
        f"{path} holds no checkpoint: neither {DESCRIPTION} nor {CHECKPOINTS}/{LATEST} was found there"
    )


def latest_checkpoint(root: Path) -> Path | None:
    """The newest complete checkpoint of a checkpoints folder, or none. Raises CheckpointError where the pointer is stale."""
    pointer = root / LATEST
    if not pointer.is_file():
        return None
    name = pointer.read_text().strip()
    if step_of_name(name) is None or not (root / name / DESCRIPTION).is_file():
        raise CheckpointError(
            f"{pointer} names {name!r}, which is no complete checkpoint; write another folder's name there"
        )
    return root / name


def point_latest(root: Path, name: str) -> None:
    """Move the pointer, atomically."""
    write_text(root / LATEST, name + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_description(checkpoint: Path, shape: ModelShape, step: int) -> None:
    """Write model.json, the file that makes a folder a checkpoint."""
    text = json.dumps({"format": FORMAT, "step": step, "shape": asdict(shape)}, indent=2)
    write_text(checkpoint / DESCRIPTION, text + "\n")


def read_description(checkpoint: Path) -> tuple[ModelShape, int]:
    """Shape and step of a checkpoint. Raises CheckpointError for a damaged file or another format."""
    path = checkpoint / DESCRIPTION
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {content['format']}, this version reads {FORMAT}")
        return ModelShape(**content["shape"]), int(content["step"])
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint} has no {DESCRIPTION}: not a checkpoint") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def payload_files(checkpoint: Path) -> list[str]:
    """Files that checksums cover, relative, sorted."""
    files = (path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())
    return sorted(str(path) for path in files if path.name not in (CHECKSUMS, DESCRIPTION))


def checksum(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checksums(checkpoint: Path, files: Iterable[str]) -> dict[str, str]:
    """Checksums of some files of a checkpoint."""
    return {name: checksum(checkpoint / name) for name in files}


def write_checksums(checkpoint: Path, sums: dict[str, str]) -> None:
    """Write checksums.json."""
    write_text(checkpoint / CHECKSUMS, json.dumps(dict(sorted(sums.items())), indent=1) + "\n")


def damaged_files(checkpoint: Path, part: int = 0, parts: int = 1) -> list[str]:
    """Files whose content is not what was written, or that are missing; every parts-th file from `part` is looked at.

    Raises:
        CheckpointError: checksums.json is missing or damaged.
    """
    try:
        expected: dict[str, str] = json.loads((checkpoint / CHECKSUMS).read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f"{checkpoint} has no {CHECKSUMS}; to load it all the same set checkpoint.verify=false"
        ) from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{checkpoint / CHECKSUMS} is damaged: {error}") from None
    names = sorted(expected)[part::parts]
    return [
        name for name in names if not (checkpoint / name).is_file() or checksum(checkpoint / name) != expected[name]
    ]
