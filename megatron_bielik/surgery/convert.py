"""Hugging Face models to our checkpoints and back, streaming: at no time is more than one matrix of ours in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch

from megatron_bielik import checkpoint_files as files
from megatron_bielik.presets import ModelShape
from megatron_bielik.surgery.architecture import VOCABULARY_TENSORS, Mapping, mappings
from megatron_bielik.surgery.hf_config import read_shape, write_config
from megatron_bielik.surgery.model_folder import HEAD, check_tied, copy_companions, output_folder
from megatron_bielik.surgery.native_files import NativeReader, write_tensors
from megatron_bielik.surgery.safetensors_files import ConversionError, SafetensorsReader, write_safetensors

Progress = Callable[[int, int], None]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Converted:
    """What was read and written. source: the checkpoint itself, where a run was given."""

    source: Path
    output: Path
    shape: ModelShape
    parameters: int
    dtype: torch.dtype


def import_hf(
    source: Path, output: Path, dtype: str | None = None, progress: Progress = lambda done, total: None
) -> Converted:
    """Turn a Hugging Face model into a checkpoint that pretraining starts from (checkpoint.init_from).

    Args:
        source: Folder with config.json and safetensors.
        output: New folder; appears when it is complete.
        dtype: bf16 or fp32; the widest in the source by default.
        progress: Called with tensors done and in all.

    Raises:
        ConversionError: Unknown architecture, or missing, unexpected or misshaped tensors, by name.
    """
    shape = read_shape(source)
    reader = SafetensorsReader(source)
    table = list(mappings(shape))
    expected = _their_shapes(table)
    _check_names(source, reader, expected, shape)
    widest = reduce(torch.promote_types, {reader.dtype(name) for name in expected})
    kind = DTYPES[dtype] if dtype else widest
    by_key = {mapping.native: mapping for mapping in table}
    done = 0

    def make(key: str) -> torch.Tensor:
        nonlocal done
        done += 1
        progress(done, len(table))
        return by_key[key].merge([reader.read(name) for name in by_key[key].theirs])

    with output_folder(output) as folder:
        write_tensors(folder, {mapping.native: mapping.native_shape for mapping in table}, kind, make)
        copy_companions(source, folder / files.TOKENIZER)
        files.write_checksums(folder, files.checksums(folder, files.payload_files(folder)))
        files.write_description(folder, shape, step=0)
    return Converted(source, output, shape, shape.num_parameters(), kind)


def export_hf(
    source: Path,
    output: Path,
    dtype: str | None = None,
    shard_bytes: int = _SHARD_BYTES,
    progress: Progress = lambda done, total: None,
    verify: bool = True,
) -> Converted:
    """Turn a checkpoint of any layout into a Hugging Face model with its tokenizer.

    Args:
        source: A checkpoint, or a run: then its newest one.
        output: New folder; appears when it is complete.
        dtype: bf16 or fp32; as stored by default.
        shard_bytes: Largest safetensors file.
        progress: Called with tensors done and in all.
        verify: Compare the files' checksums first.

    Raises:
        CheckpointError: Not a checkpoint, or damaged.
        ConversionError: Tensors are missing or misshaped, by name.
    """
    checkpoint = files.find_checkpoint(source)
    shape, _ = files.read_description(checkpoint)
    reader = NativeReader(checkpoint)
    table = list(mappings(shape))
    _check_stored(checkpoint, reader, table)
    if verify and (damaged := files.damaged_files(checkpoint)):
        raise files.CheckpointError(
            f"{checkpoint / damaged[0]} is not what was written (checksum); export another step's checkpoint"
        )
    kind = DTYPES[dtype] if dtype else reader.dtype(table[0].native)

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for done, mapping in enumerate(table, start=1):
            whole = reader.read(mapping.native)[: mapping.native_shape[0]]  # without vocabulary padding
            progress(done, len(table))  # before the yield: nobody comes back after the last one
            yield from zip(mapping.theirs, mapping.split(whole), strict=True)

    with output_folder(output) as folder:
        copy_companions(checkpoint / files.TOKENIZER, folder)
        write_safetensors(folder, _their_shapes(table), kind, tensors(), shard_bytes)
        write_config(folder, shape, str(kind).removeprefix("torch."))
    return Converted(checkpoint, output, shape, shape.num_parameters(), kind)


def _their_shapes(table: list[Mapping]) -> dict[str, tuple[int, ...]]:
    return {name: size for mapping in table for name, size in zip(mapping.theirs, mapping.their_shapes, strict=True)}


def _check_stored(checkpoint: Path, reader: NativeReader, table: list[Mapping]) -> None:
    for mapping in table:
        if mapping.native not in reader:
            raise ConversionError(f"{checkpoint} lacks {mapping.native}")
        stored, needed = reader.shape(mapping.native), mapping.native_shape
        padded = mapping.native in VOCABULARY_TENSORS and stored[1:] == needed[1:] and stored[0] > needed[0]
        if stored != needed and not padded:
            raise ConversionError(f"{checkpoint}: {mapping.native} is {stored}, {files.DESCRIPTION} needs {needed}")


def _check_names(
    source: Path, reader: SafetensorsReader, expected: dict[str, tuple[int, ...]], shape: ModelShape
) -> None:
    names = set(expected)
    missing = sorted(names - set(reader.files))
    if missing:
        raise ConversionError(f"{source} lacks {len(missing)} tensors, the first is {missing[0]}")
    if shape.tie_embeddings:
        check_tied(reader)
    # A tied model may carry a copy of its input matrix.
    unexpected = sorted(set(reader.files) - names - ({HEAD} if shape.tie_embeddings else set()))
    if unexpected:
        raise ConversionError(
            f"{source} has {len(unexpected)} tensors its config.json does not explain, the first is {unexpected[0]}"
        )
    for name, size in expected.items():
        if reader.shape(name) != size:
            raise ConversionError(f"{source}: {name} is {reader.shape(name)}, config.json needs {size}")
