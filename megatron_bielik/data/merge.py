"""Shards and manifests to one shard, its manifest included, after checking that the IDs mean the same in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from megatron_bielik.data.errors import DataError
from megatron_bielik.data.manifest import (
    Manifest,
    NamedShard,
    entry_of,
    find_shards,
    manifest_path,
    read_manifest,
    write_manifest,
)
from megatron_bielik.data.shards import UINT16_BELOW, ShardReader, ShardWriter, bin_path


def merge(names: Sequence[str | Path], output: str | Path) -> tuple[ShardReader, int, bool]:
    """Concatenate shards in the order given; memory does not depend on their size.

    The output appears only when complete, its manifest last. It gets a manifest where every shard has one.

    Args:
        names: Manifests, prefixes, .bin or .idx files; each shard counts once.
        output: Prefix of the new shard.

    Returns:
        The new shard, how many were merged, and whether there is a manifest.

    Raises:
        DataError: No shards, a damaged one, other dtypes, tokenizers or ends of documents, an output that is among the
            inputs or whose manifest names other shards, or a disk that refuses.
    """
    shards, output = find_shards(names), Path(output)
    if not shards:
        raise DataError("--input: no shards were given, needs at least one")
    if output.resolve() in {shard.prefix.resolve() for shard in shards}:
        raise DataError(f"--output {output} is also an input; choose another name")
    if manifest_path(output).exists():
        others = {entry.name for entry in read_manifest(manifest_path(output)).shards} - {output.name}
        if others:
            raise DataError(f"--output {output}: its manifest names other shards ({min(others)}); choose another name")
    dtype = ShardReader(shards[0].prefix).dtype
    if dtype not in (np.uint16, np.int32):
        raise DataError(f"{bin_path(shards[0].prefix)} holds {dtype.__name__}, only uint16 and int32 can be merged")
    merged = _agreed(shards)
    largest = UINT16_BELOW - 1 if dtype is np.uint16 else 2**31 - 1
    with ShardWriter(output, merged.vocab_size if merged else largest, checksum=merged is not None) as writer:
        for shard in shards:
            writer.append_shard(shard.prefix)
        manifest_path(output).unlink(missing_ok=True)
    reader = ShardReader(output)
    if merged is not None:
        entry = entry_of(output, writer.bin_sha256)
        write_manifest(output, replace(merged, shards=(entry,), documents=entry.documents, tokens=entry.tokens))
    return reader, len(shards), merged is not None


def _agreed(shards: Sequence[NamedShard]) -> Manifest | None:
    """What the manifests say, inputs joined; None where a shard has none. Raises DataError where two say other things."""
    known = [(shard, shard.manifest) for shard in shards if shard.manifest is not None]
    if not known:
        return None
    first, agreed = known[0]
    for shard, manifest in known:
        for key in ("tokenizer_sha256", "dtype", "vocab_size", "append_eod", "eod_id"):
            here, there = getattr(agreed, key), getattr(manifest, key)
            if here != there:
                raise DataError(
                    f"{first.prefix} has {key} {here}, {shard.prefix} has {there}; "
                    "their tokens do not mean the same: encode one of them again"
                )
    if len(known) < len(shards):
        return None
    inputs, seen = list[dict[str, object]](), list[Manifest]()
    for _, manifest in known:
        if manifest not in seen:
            seen.append(manifest)
            inputs += manifest.inputs
    return replace(agreed, inputs=inputs, shard_tokens=None)
