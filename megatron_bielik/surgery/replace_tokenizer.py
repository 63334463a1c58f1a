"""A model with another tokenizer: new rows for its two vocabulary matrices, everything else copied, in one streaming pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from megatron_bielik.rope_config import with_both_forms
from megatron_bielik.surgery.combinations import Initialization, SourceMatrix, new_rows
from megatron_bielik.surgery.methods import Initializer, Method
from megatron_bielik.surgery.model_folder import (
    EMBEDDING,
    HEAD,
    check_loads,
    check_tied,
    copy_companions,
    output_folder,
    read_config,
    tokenizer_note,
    write_json,
)
from megatron_bielik.surgery.replacement_report import REPORT, Report, make_report
from megatron_bielik.surgery.safetensors_files import ConversionError, SafetensorsReader, byte_counts, write_safetensors
from megatron_bielik.tokenizer.vocabulary import Vocabulary

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SourceModel:
    """A Hugging Face model and where its vocabulary's matrices are.

    Attributes:
        folder: Of the model.
        config: Its config.json.
        reader: Its weights.
        tied: Whether the input matrix is the output matrix too.
    """

    folder: Path
    config: dict[str, Any]
    reader: SafetensorsReader
    tied: bool

    @classmethod
    def open(cls, folder: Path, vocabulary: Vocabulary) -> SourceModel:
        """Raises ConversionError for a model that is damaged, named otherwise, or smaller than its tokenizer."""
        config, reader = read_config(folder), SafetensorsReader(folder)
        tied = bool(config.get("tie_word_embeddings", False))
        for name in (EMBEDDING,) if tied else (EMBEDDING, HEAD):
            if name not in reader.files:
                raise ConversionError(f"{folder} has no {name}: only models with Llama's names are known")
            if reader.shape(name) != (config.get("vocab_size"), config.get("hidden_size")):
                raise ConversionError(
                    f"{folder}: {name} is {reader.shape(name)}, config.json says {config.get('vocab_size')} tokens of "
                    f"{config.get('hidden_size')}"
                )
        if tied:
            check_tied(reader)
        if len(vocabulary) > config["vocab_size"]:
            raise ConversionError(
                f"the tokenizer in {vocabulary.folder} has {len(vocabulary):,} tokens, {folder} has rows for "
                f"{config['vocab_size']:,}: they do not belong together; give --source-tokenizer"
            )
        return cls(folder, config, reader, tied)

    def matrix(self, name: str, tokens: int) -> SourceMatrix:
        """The input or output matrix; a tied model has one for both."""
        return SourceMatrix.of_file(self.reader, EMBEDDING if self.tied else name, tokens)


def replace_tokenizer(
    initializer: Initializer,
    model: Path,
    method: Method,
    output: Path,
    keep_tied: bool = False,
    seed: int = 42,
    shard_bytes: int = 5 * 10**9,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Write the model with the new tokenizer, and a report beside it.

    Args:
        initializer: Holds both vocabularies and what the method needs.
        model: Hugging Face folder.
        method: How rows are made.
        output: New folder; appears when it is complete.
        keep_tied: Leave a tied model tied; otherwise the output matrix becomes one of its own, made of the same rows.
        seed: Of random rows.
        shard_bytes: Largest safetensors file.
        progress: Called with tensors done and in all.

    Raises:
        ConversionError, VocabularyError, DataError: Unfit input, in one line; nothing is left behind.
    """
    source, target = SourceModel.open(model, initializer.source), initializer.target
    reader, tied = source.reader, source.tied and keep_tied
    names = [name for name in reader.files if name not in (EMBEDDING, HEAD)]
    shape = (len(target), source.config["hidden_size"])
    shapes = {EMBEDDING: shape, **{name: reader.shape(name) for name in names}, **({} if tied else {HEAD: shape})}
    dtypes = {name: reader.dtype(EMBEDDING if name == HEAD and source.tied else name) for name in shapes}
    initializer.check([method])
    with output_folder(output, sum(byte_counts(shapes, dtypes).values())) as folder:
        initialization = initializer.build(method)

        def tensors() -> Iterator[tuple[str, Iterable[torch.Tensor]]]:
            for done, name in enumerate(shapes, start=1):
                progress(done, len(shapes))
                if name in (EMBEDDING, HEAD):
                    yield name, new_rows(initialization, source.matrix(name, len(initializer.source)), seed)
                else:
                    yield name, reader.row_blocks(name)

        write_safetensors(folder, shapes, dtypes, tensors(), shard_bytes)
        copy_companions(target.folder, folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        _write_configs(folder, source, initializer, tied)
        parameters = check_loads(folder)
        report = make_report(
            initializer, method, initialization, source.matrix(EMBEDDING, len(initializer.source)), parameters
        )
        report = replace(report, note=tokenizer_note(folder))
        write_json(folder / REPORT, report.as_json())
    return report


def matrices(
    source: SourceModel, initializer: Initializer, initialization: Initialization, seed: int
) -> list[torch.Tensor]:
    """The new input and output matrix in memory, in the model's type: for evaluation."""
    made = []
    for name in (EMBEDDING, HEAD):
        rows = torch.cat(list(new_rows(initialization, source.matrix(name, len(initializer.source)), seed)))
        made.append(rows.to(source.reader.dtype(EMBEDDING if source.tied else name)))
    return made


def _write_configs(folder: Path, source: SourceModel, initializer: Initializer, tied: bool) -> None:
    """config.json and generation_config.json as they were, with the new vocabulary's size and token ids."""
    target = initializer.target
    ids = {f"{role}_token_id": target.roles.get(role) for role in ("bos", "eos", "pad")}
    config = source.config | {"vocab_size": len(target), "tie_word_embeddings": tied} | ids
    write_json(folder / "config.json", with_both_forms(config))
    path = source.folder / "generation_config.json"
    if path.is_file():
        try:
            settings: dict[str, Any] = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise ConversionError(f"{path} is damaged: {error}") from None
        ends = settings.get("eos_token_id")
        ends = [ends] if isinstance(ends, int) else ends or []
        theirs = {number: text for text, number in initializer.source.control.items()}
        kept = [target.control[theirs[number]] for number in ends if theirs.get(number) in target.control]
        kept = sorted({*kept, *([target.roles["eos"]] if "eos" in target.roles else [])})
        settings |= ids | {"eos_token_id": kept[0] if len(kept) == 1 else kept or None}
        write_json(folder / "generation_config.json", settings)
