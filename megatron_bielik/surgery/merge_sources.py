"""The models of a merge: opened, and found to be of one shape, one config and one tokenizer, or refused by name."""

from __future__ import annotations

import filecmp
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_bielik.rope_config import read_rope
from megatron_bielik.surgery.model_folder import CONFIG, EMBEDDING, HEAD, TOKENIZER, check_tied, read_config
from megatron_bielik.surgery.safetensors_files import ConversionError, SafetensorsReader

# What a model computes with its weights, beside their shapes, which are compared themselves.
_COMPARED = (
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "hidden_act",
    "rms_norm_eps",
    "attention_bias",
    "mlp_bias",
    "use_sliding_window",
)


@dataclass(frozen=True)
class Source:
    """One model of a merge.

    Attributes:
        tied: Its output matrix is its embedding matrix, whether or not the files hold a copy.
    """

    folder: Path
    config: dict[str, Any]
    reader: SafetensorsReader
    tied: bool

    @property
    def label(self) -> str:
        """Name for messages and the model card: the folder's own, not the way there."""
        return self.folder.resolve().name

    def names(self) -> list[str]:
        """Its tensors, the tied matrix once."""
        return [name for name in self.reader.files if not (self.tied and name == HEAD)]

    def stored_name(self, name: str) -> str:
        """Where a tensor lies in the files."""
        return EMBEDDING if self.tied and name == HEAD else name

    def digest(self) -> str:
        """SHA-256 of config.json and of names, shapes and types of all tensors; the weights are not read for it."""
        reader = self.reader
        tensors = [[name, reader.shape(name), str(reader.stored_dtype(name))] for name in sorted(reader.files)]
        content = (self.folder / CONFIG).read_bytes() + json.dumps(tensors).encode()
        return hashlib.sha256(content).hexdigest()


def open_source(folder: Path) -> Source:
    """Raises ConversionError for a folder that is no sound Hugging Face model with safetensors."""
    if not folder.is_dir():
        raise ConversionError(f"{folder} is no folder: a Hugging Face model folder is needed")
    config, reader = read_config(folder), SafetensorsReader(folder)
    # Where the config says nothing, families differ in what they take it to mean; the files tell.
    tied = config.get("tie_word_embeddings", HEAD not in reader.files)
    if not isinstance(tied, bool):
        raise ConversionError(f"{folder / CONFIG}: tie_word_embeddings is {tied!r}, it must be true or false")
    if not tied and HEAD not in reader.files:
        raise ConversionError(f"{folder} lacks {HEAD}, and its config.json does not tie it to {EMBEDDING}")
    if tied and EMBEDDING not in reader.files:
        raise ConversionError(f"{folder} lacks {EMBEDDING}")
    if tied:
        check_tied(reader)
    return Source(folder, config, reader, tied)


def check_alike(sources: Sequence[Source]) -> list[str]:
    """Compare all models with the first.

    Returns:
        Sentences about what could not be compared, for the user.

    Raises:
        ConversionError: The first difference in names, shapes, config or vocabulary.
    """
    first, notes = sources[0], []
    for other in sources[1:]:
        _compare_configs(first, other)
        _compare_tensors(first, other)
        notes += _compare_tokenizers(first, other)
    return notes


def _compare_tensors(first: Source, other: Source) -> None:
    # A matrix that one of them ties and another does not is no difference.
    names, others = set(first.names()) - {HEAD}, set(other.names()) - {HEAD}
    for lacking, model, owner in ((names - others, other, first), (others - names, first, other)):
        if lacking:
            raise ConversionError(
                f"{model.folder} lacks {len(lacking)} tensors that {owner.folder} has, the first is {min(lacking)}"
            )
    for name in dict.fromkeys([*first.names(), *other.names()]):
        readers = [(source.reader, source.stored_name(name)) for source in (first, other)]
        size, found = (reader.shape(stored) for reader, stored in readers)
        if size != found:
            raise ConversionError(
                f"{name} is {size} in {first.folder}, {found} in {other.folder}: they cannot be merged"
            )
        kind, kind_found = (reader.stored_dtype(stored) for reader, stored in readers)
        if kind != kind_found and not (kind.is_floating_point and kind_found.is_floating_point):
            raise ConversionError(f"{name} is {kind} in {first.folder}, {kind_found} in {other.folder}")


def _compare_configs(first: Source, other: Source) -> None:
    one, two = _computation(first.config), _computation(other.config)
    for name in one | two:
        if one.get(name) != two.get(name):
            raise ConversionError(
                f"{name} is {one.get(name)!r} in {first.folder / CONFIG}, {two.get(name)!r} in {other.folder / CONFIG}: "
                "such models cannot be merged"
            )


def _computation(config: dict[str, Any]) -> dict[str, Any]:
    """The compared fields, brought to one notation: defaults filled in, rope as transformers 5 reads it."""
    found = {name: config.get(name) for name in _COMPARED}
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        found["head_dim"] = found["head_dim"] or hidden // heads
        found["num_key_value_heads"] = found["num_key_value_heads"] or heads
    found["hidden_act"] = found["hidden_act"] or "silu"
    for name in ("attention_bias", "mlp_bias", "use_sliding_window"):
        found[name] = bool(found[name])
    try:
        rope = read_rope(config)
    except ValueError:  # another one for each layer type, or none that makes sense: compared as it stands
        return found | {"rope_parameters": config.get("rope_scaling") or config.get("rope_parameters")}
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type")
    rope.pop("type", None)
    return found | {"rope_theta": theta, "rope_type": kind, "rope_parameters": rope}


def _compare_tokenizers(first: Source, other: Source) -> list[str]:
    files = [source.folder / TOKENIZER for source in (first, other)]
    absent = [file for file in files if not file.is_file()]
    if absent:
        return [f"{' and '.join(map(str, absent))}: not there, so vocabularies were compared by vocab_size alone"]
    if filecmp.cmp(files[0], files[1], shallow=False):
        return []
    one, two = (_vocabulary(file) for file in files)
    if one == two:
        return []
    sizes = f"{len(one):,} entries in {first.folder}, {len(two):,} in {other.folder}"
    # The lowest id that means different pieces; where all ids agree, a piece that has two of them.
    by_id, by_id_two = ({number: piece for piece, number in vocabulary.items()} for vocabulary in (one, two))
    for number in sorted(by_id.keys() | by_id_two.keys()):
        if by_id.get(number) != by_id_two.get(number):
            pieces = f"{number} is {by_id.get(number)!r} and {by_id_two.get(number)!r}"
            raise ConversionError(f"the tokenizers differ ({sizes}; id {pieces}): only models of one vocabulary merge")
    raise ConversionError(f"the tokenizers differ ({sizes}): only models of one vocabulary merge")


def _vocabulary(file: Path) -> dict[str, int]:
    """Id of every piece, added tokens included."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        entries = content["model"]["vocab"]
        if isinstance(entries, list):  # Unigram: [piece, score], the id is the place
            entries = {piece: number for number, (piece, _) in enumerate(entries)}
        added = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
        return dict(entries) | added
    except (ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{file} is damaged ({type(error).__name__}: {error})") from None
