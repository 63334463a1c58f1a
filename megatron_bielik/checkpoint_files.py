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
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_bielik.presets import ModelShape

CHECKPOINTS, LATEST = "checkpoints", "latest"
DESCRIPTION, CHECKSUMS, TOKENIZER = "model.json", "checksums.json", "tokenizer"
FORMAT = 1

# Tokenizer, chat template and generation defaults; weights and config are made anew.
_COMPANIONS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "generation_config.json",
)

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


def read_index(checkpoint: Path) -> Any:
    """The index of the tensors (torch.distributed.checkpoint.metadata.Metadata), read in the way that cannot run code.

    Raises:
        CheckpointError: The index is missing, damaged, or names anything but tensors in files of this folder.
    """
    path = checkpoint / ".metadata"
    try:
        index = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
        kinds = {key: type(entry).__name__ for key, entry in index.state_dict_metadata.items()}
        places = {Path(stored.relative_path) for stored in index.storage_data.values()}
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint} has no .metadata: not a complete checkpoint") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}; do not load it") from None
    except Exception as error:  # damaged bytes are instructions too: there is no list of what they can raise
        raise CheckpointError(f"{path} is damaged ({' '.join(f'{type(error).__name__}: {error}'.split())})") from None
    for key, kind in kinds.items():
        if kind != "TensorStorageMetadata":  # BytesStorageMetadata: torch would unpickle these bytes
            raise CheckpointError(f"{path} lists {key} as {kind}, checkpoints hold tensors only; do not load it")
    for place in sorted(places):
        if len(place.parts) != 1:
            raise CheckpointError(f"{path} names {place}, a file outside of the checkpoint; do not load it")
    return index


def refuse_code(checkpoint: Path) -> None:
    """Read the index and common.pt in the way that cannot run code, before a library reads them with pickle.

    The tensors themselves (*.distcp) are read by torch.load(weights_only=True) in every path of this package.

    Raises:
        CheckpointError: One of them is missing, damaged, or holds anything but tensors and plain data.
    """
    import torch  # options are checked without it

    read_index(checkpoint)
    common = checkpoint / "common.pt"
    try:
        torch.load(common, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint} has no common.pt: not a complete checkpoint") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{common} {refused_content(error)}; do not load it") from None
    except Exception as error:  # as above
        raise CheckpointError(f"{common} is damaged ({type(error).__name__})") from None


def refused_content(error: pickle.UnpicklingError) -> str:
    """What torch.load(weights_only=True) refused. torch's own text advises to load it without that protection."""
    found = re.search(r"GLOBAL:? (\S+)", str(error))
    return f"holds more than tensors and plain data ({found[1] if found else type(error).__name__}): it could run code"


def name_of_step(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"step_{step:08d}"


def step_of_name(name: str) -> int | None:
    """Step of a checkpoint folder's name, or none for other names."""
    prefix, _, number = name.partition("_")
    return int(number) if prefix == "step" and number.isdigit() else None


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a path means: itself, or the one of a run or checkpoints folder that latest_checkpoint takes.

    Raises:
        CheckpointError: There is none, or as latest_checkpoint.
    """
    if (path / DESCRIPTION).is_file():
        return path
    for root in (path / CHECKPOINTS, path):
        newest = latest_checkpoint(root)
        if newest is not None:
            return newest
    raise CheckpointError(
        f"{path} holds no checkpoint: neither {DESCRIPTION} nor a step's folder under {CHECKPOINTS} was found there"
    )


def latest_checkpoint(root: Path) -> Path | None:
    """The checkpoint that the pointer of a checkpoints folder names; without a pointer the newest complete one, or none.

    Raises:
        CheckpointError: The pointer is stale; or there is no pointer, and none of the checkpoints is complete.
    """
    pointer = root / LATEST
    if not pointer.exists():
        return _newest_complete(root)
    if not pointer.is_file():
        raise CheckpointError(f"{pointer} is no file: move it away, and the newest complete checkpoint is taken")
    name = pointer.read_text().strip()
    if step_of_name(name) is None or not (root / name / DESCRIPTION).is_file():
        raise CheckpointError(
            f"{pointer} names {name!r}, which is no complete checkpoint; write another folder's name there"
        )
    return root / name


def _newest_complete(root: Path) -> Path | None:
    found = [(step, path) for path in root.glob("step_*") if (step := step_of_name(path.name)) is not None]
    faults = []
    for step, path in sorted(found, reverse=True):
        fault = _incomplete(path, step)
        if fault is None:
            return path
        faults.append(fault)
    if faults:
        raise CheckpointError(
            f"{root} has neither {LATEST} nor a complete checkpoint ({faults[0]}); restore its files, write a folder's name "
            f"into {LATEST} to take it all the same, or move {root} away to begin anew"
        )
    return None


def _incomplete(checkpoint: Path, step: int) -> str | None:
    """Why a folder is no complete checkpoint of a step, by its list of files; their contents are compared when it is loaded."""
    if not (checkpoint / CHECKSUMS).is_file():
        return f"{checkpoint} lacks {CHECKSUMS}"
    try:
        found = read_description(checkpoint)[1]
        listed = read_checksums(checkpoint)
    except CheckpointError as error:
        return str(error)
    if found != step:
        return f"{checkpoint / DESCRIPTION} says step {found}"
    lacking = [name for name in [*listed, ".metadata", "common.pt"] if not (checkpoint / name).is_file()]
    return f"{checkpoint} lacks {lacking[0]}" if lacking else None


def set_aside(path: Path) -> Path:
    """Rename a checkpoint that is no part of its run any more, to abandoned-NAME or abandoned-NAME.2 and so on."""
    aside, number = path.with_name(f"abandoned-{path.name}"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"abandoned-{path.name}.{number}")
    return path.rename(aside)


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
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError) as error:
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


def read_checksums(checkpoint: Path) -> dict[str, str]:
    """Checksum of each file that was written. Raises CheckpointError where checksums.json is missing or damaged."""
    try:
        return dict(json.loads((checkpoint / CHECKSUMS).read_text()))
    except FileNotFoundError:
        raise CheckpointError(
            f"{checkpoint} has no {CHECKSUMS}; to load it all the same set checkpoint.verify=false "
            "(convert_checkpoint: --no-verify)"
        ) from None
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{checkpoint / CHECKSUMS} is damaged: {error}") from None


def damaged_files(checkpoint: Path, part: int = 0, parts: int = 1) -> list[str]:
    """Files whose content is not what was written, or that are missing; every parts-th file from `part` is looked at.

    Raises:
        CheckpointError: checksums.json is missing or damaged.
    """
    expected = read_checksums(checkpoint)
    names = sorted(expected)[part::parts]
    return [
        name for name in names if not (checkpoint / name).is_file() or checksum(checkpoint / name) != expected[name]
    ]


def copy_companions(source: Path, target: Path) -> None:
    """Copy the tokenizer and what belongs to it; missing ones are no error."""
    target.mkdir(parents=True, exist_ok=True)
    for pattern in _COMPANIONS:
        for path in sorted(source.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, target / path.name)
