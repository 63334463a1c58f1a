"""PREFIX.manifest.json: which shards belong together, what each holds, and the tokenizer that made the IDs.

It is written last, by renaming: a set of shards with a manifest is complete. Names of shards are relative to its folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_bielik.data.errors import DataError, write_error
from megatron_bielik.data.shards import ShardReader, bin_path, idx_path

SUFFIX = ".manifest.json"
_FORMAT = 1


@dataclass(frozen=True)
class ShardEntry:
    """One shard: name without suffix and folder, documents, tokens, bytes and SHA-256 of its two files."""

    name: str
    documents: int
    tokens: int
    bin_bytes: int
    idx_bytes: int
    bin_sha256: str
    idx_sha256: str


@dataclass(frozen=True)
class Manifest:
    """Contents of PREFIX.manifest.json.

    Attributes:
        shards: In the order of the documents.
        documents, tokens: Of all shards.
        dtype: numpy's name of the tokens' type.
        vocab_size: IDs lie in [0, vocab_size).
        append_eod: Every document ends with the token eod_id.
        eod_id, eod_token: End of a document.
        tokenizer: Name of its folder.
        tokenizer_sha256: SHA-256 of tokenizer.json and the eos token (encode.TokenizerFiles.fingerprint).
        shard_tokens: The most tokens of a shard, or None.
        inputs: Path and bytes of every input.
    """

    shards: tuple[ShardEntry, ...]
    documents: int
    tokens: int
    dtype: str
    vocab_size: int
    append_eod: bool
    eod_id: int
    eod_token: str
    tokenizer: str
    tokenizer_sha256: str
    shard_tokens: int | None
    inputs: list[dict[str, Any]]


@dataclass(frozen=True)
class NamedShard:
    """A shard that a command was given, with what a manifest says of it."""

    prefix: Path
    manifest: Manifest | None = None
    entry: ShardEntry | None = None


def manifest_path(prefix: str | Path) -> Path:
    """The manifest of a prefix."""
    return Path(f"{prefix}{SUFFIX}")


def write_json(path: Path, content: object) -> None:
    """Write a JSON file that appears only when complete. Raises DataError when the disk refuses."""
    temporary = Path(f"{path}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(content, stream, ensure_ascii=False, indent=1)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_error(path, error) from error


def write_manifest(prefix: str | Path, manifest: Manifest) -> None:
    """Write PREFIX.manifest.json. Raises DataError when the disk refuses."""
    write_json(manifest_path(prefix), {"format": _FORMAT, **asdict(manifest)})


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        DataError: It is missing, is none, or has another format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise DataError(
                f"{path} has another format than {_FORMAT}; make the shards anew, or use the tool that made it"
            )
        entries = tuple(ShardEntry(**entry) for entry in content.pop("shards"))
        manifest = Manifest(shards=entries, **content)
    except FileNotFoundError as error:
        raise DataError(f"{path} not found; give the path of a manifest or of a shard") from error
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no manifest ({' '.join(str(error).split())}); make the shards anew") from error
    for key in ("documents", "tokens"):
        total, said = sum(getattr(entry, key) for entry in entries), getattr(manifest, key)
        if total != said:
            raise DataError(f"{path} says {said} {key}, its shards add up to {total}; make the shards anew")
    return manifest


def entry_of(prefix: Path, bin_sha256: str) -> ShardEntry:
    """What a manifest says of a finished shard; its .idx is read for the checksum, the one of the .bin is given."""
    reader = ShardReader(prefix)
    with idx_path(prefix).open("rb") as stream:
        idx_sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    sizes = bin_path(prefix).stat().st_size, idx_path(prefix).stat().st_size
    documents = len(reader.document_indices) - 1
    return ShardEntry(prefix.name, documents, reader.num_tokens, *sizes, bin_sha256, idx_sha256)


def find_shards(names: Sequence[str | Path]) -> list[NamedShard]:
    """The shards that names stand for: a manifest for all of its own, a prefix, .bin or .idx for itself, once each.

    A prefix whose manifest is beside it, or for PREFIX-00000 that of PREFIX, is taken with what the manifest says; one
    that has a manifest and is no shard itself stands for the manifest.

    Raises:
        DataError: A manifest that is missing or damaged. (Whether the shards exist is not looked at.)
    """
    found: dict[Path, NamedShard] = {}
    for name in map(str, names):
        prefix = Path(name.removesuffix(SUFFIX).removesuffix(".bin").removesuffix(".idx"))
        of_set = manifest_path(re.sub(r"-\d{5,}$", "", str(prefix)))
        path = next((path for path in (manifest_path(prefix), of_set) if path.is_file()), None)
        if name.endswith(SUFFIX) or (path == manifest_path(prefix) and not idx_path(prefix).is_file()):
            manifest = read_manifest(manifest_path(prefix))
            for entry in manifest.shards:
                shard = prefix.parent / entry.name
                found[shard.resolve()] = NamedShard(shard, manifest, entry)
            continue
        of_prefix = read_manifest(path) if path is not None else None
        own = [entry for entry in (of_prefix.shards if of_prefix else ()) if entry.name == prefix.name]
        found.setdefault(prefix.resolve(), NamedShard(prefix, of_prefix, own[0]) if own else NamedShard(prefix))
    return list(found.values())
