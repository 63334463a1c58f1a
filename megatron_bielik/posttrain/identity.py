"""Whose a run's folder is: its method, model, training data and seed. What differs is refused by name, or declared.

Every checkpoint holds them in its run_state.json, model and data by their content: a moved or copied file is no other file.
Files whose path, size and time are as they were are not read again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from megatron_bielik.checkpoint_files import checksum
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.inputs import find_inputs
from megatron_bielik.posttrain import checkpoints
from megatron_bielik.posttrain.checks import AnyConfig
from megatron_bielik.posttrain.config import DPOConfig, GRPOConfig, SFTConfig
from megatron_bielik.posttrain.errors import RunError
from megatron_bielik.rope_config import with_both_forms

CONFIG = "config.yaml"
_METHODS: dict[type, str] = {SFTConfig: "sft", DPOConfig: "dpo", GRPOConfig: "grpo"}
# Of data: what the rows that are trained on do not depend on, and what is compared by content.
_NOT_COMPARED = ("train", "valid", "max_bad_share", "chat_template")
# Of config.json: what changes nothing that is computed.
_NO_MATTER = ("transformers_version", "_name_or_path")
_WAY_OUT = "take another checkpoint.dir"

Identity = dict[str, Any]


def identify(config: AnyConfig, template: str, known: Identity) -> Identity:
    """What is kept of a run.

    Args:
        config: Checked options.
        template: Chat template that the rows are made with.
        known: What was kept before, or nothing: of files that were not touched since, the hashes are taken from it.

    Raises:
        RunError: A file of the model cannot be read.
        DataError: A data file is missing.
    """
    settings = {name: value for name, value in asdict(config.data).items() if name not in _NOT_COMPARED}
    settings["chat_template"] = hashlib.sha256(template.encode()).hexdigest()
    model = Path(config.model.path)
    weights = sorted(model.glob("*.safetensors")) or sorted(model.glob("pytorch_model*.bin"))
    data = [Path(source.path) for source in find_inputs(config.data.train, "data.train")]
    try:
        options = json.loads((model / "config.json").read_text(encoding="utf-8"))
        options = with_both_forms({name: value for name, value in options.items() if name not in _NO_MATTER})
        files = _files([*weights, model / "tokenizer.json"], known.get("model"))
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"model.path {model} cannot be read: {error}") from None
    return {
        "method": _METHODS[type(config)],
        "seed": config.training.seed,
        "model": {"path": str(model.resolve()), "config": options, **files},
        "data": {
            "train": [str(path.resolve()) for path in data],
            "options": settings,
            **_files(data, known.get("data")),
        },
    }


def _files(paths: Sequence[Path], known: Any) -> dict[str, Any]:
    """Paths, sizes and times of files, and the SHA-256 of each."""
    files = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    if isinstance(known, dict) and known.get("files") == files and "sha256" in known:
        return {"files": files, "sha256": known["sha256"]}
    return {"files": files, "sha256": [checksum(path) for path in paths]}


def claim(config: AnyConfig, template: str, dry_run: bool = False) -> tuple[Identity, list[str]]:
    """See that a run's folder is free, or this run's already. Writes nothing; to be called by one process.

    Args:
        config: Checked options.
        template: Chat template that the rows are made with.
        dry_run: What a new run is, nobody needs to know: large files are not read for it.

    Returns:
        What the run's checkpoints shall hold, and the differences from the run so far that checkpoint.allow_changed
        declares, in sentences.

    Raises:
        RunError: The folder is another run's, or its result is there without a checkpoint to go on from.
        DataError: A data file is missing.
    """
    folder = Path(config.checkpoint.dir)
    newest = checkpoints.newest(folder)
    if newest is None:
        if (folder / checkpoints.FINAL).is_dir():
            raise RunError(
                f"checkpoint.dir {folder} holds the result of a run ({checkpoints.FINAL}) and no checkpoint to go on from: "
                f"{_WAY_OUT}, or move {folder / checkpoints.FINAL} away to train again"
            )
        return ({} if dry_run else identify(config, template, {})), []
    before = checkpoints.state_of(newest).get("identity") or _of_earlier_version(folder)
    now = identify(config, template, before)
    changed = _differences(before, now)
    if "method" in changed:
        raise RunError(f"checkpoint.dir {folder} {changed['method']}: {_WAY_OUT}")
    if refused := [name for name in changed if name not in config.checkpoint.allow_changed]:
        raise RunError(
            f"checkpoint.dir {folder} holds a run with other {' and '.join(refused)} "
            f"({'; '.join(changed[name] for name in refused)}): {_WAY_OUT}, or declare that the run goes on with this "
            f"by --checkpoint.allow_changed '[{', '.join(refused)}]'"
        )
    return now, [f"{sentence} (declared by checkpoint.allow_changed)" for sentence in changed.values()]


def _of_earlier_version(folder: Path) -> Identity:
    """Earlier versions wrote config.yaml alone: it tells the method by its sections, and paths in place of contents."""
    path = folder / CONFIG
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
        data = options["data"]
        method = "sft" if "adaptive_lr" in options else "grpo" if "rewards" in options else "dpo"
        try:
            train = [str(Path(source.path).resolve()) for source in find_inputs(data["train"], "data.train")]
        except DataError:  # they have moved since
            train = data["train"]
        return {
            "method": method,
            "seed": options["training"]["seed"],
            "model": {"path": str(Path(options["model"]["path"]).resolve())},
            "data": {"train": train, "options": {k: v for k, v in data.items() if k not in _NOT_COMPARED}},
        }
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        raise RunError(
            f"checkpoint.dir {folder} holds checkpoints, but neither they nor {CONFIG} tell whose: {_WAY_OUT}"
        ) from None


def _differences(before: Identity, now: Identity) -> dict[str, str]:
    """What is not as it was, each in a sentence."""
    found = {}
    if before["method"] != now["method"]:
        found["method"] = f"holds a run of {before['method']}, this is {now['method']}"
    if before["seed"] != now["seed"]:
        found["seed"] = f"training.seed was {before['seed']}, is {now['seed']}"
    if told := _other(before["model"], now["model"], "model.path", "path", ("sha256", "config")):
        found["model"] = told
    old, new = before["data"], now["data"]
    told = _other(old, new, "data.train", "train", ("sha256",))
    options = [
        f"data.{name} was another" if name == "chat_template" else f"data.{name} was {old['options'][name]}, is {value}"
        for name, value in new["options"].items()
        if old["options"].get(name, value) != value
    ]
    if told or options:
        found["data"] = "; ".join([told, *options] if told else options)
    return found


def _other(before: dict[str, Any], now: dict[str, Any], option: str, path: str, content: Sequence[str]) -> str:
    """A sentence where files are others: by content, or by path where an earlier version kept no more."""
    by_content = all(name in before for name in content)
    names = content if by_content else (path,)
    if all(before[name] == now[name] for name in names):
        return ""
    old, new = (value if isinstance(value, str) else ", ".join(value) for value in (before[path], now[path]))
    if old == new:
        return f"{option} {new} has other content"
    return f"{option} was {old}, is {new}" + (", of other content" if by_content else "")
