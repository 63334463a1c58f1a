"""Whose a run's folder is: its method, model, data and seed. What differs is refused by name, or declared.

RUN/identity.json holds them, the model and the data by their content: a moved or copied file is no other file. Files
whose path, size and time are as they were are not read again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from megatron_bielik.checkpoint_files import checksum, write_text
from megatron_bielik.data.errors import write_error
from megatron_bielik.data.inputs import find_inputs
from megatron_bielik.posttrain import checkpoints
from megatron_bielik.posttrain.checks import AnyConfig
from megatron_bielik.posttrain.config import DPOConfig, GRPOConfig, SFTConfig
from megatron_bielik.posttrain.errors import RunError

IDENTITY, CONFIG = "identity.json", "config.yaml"
_METHODS: dict[type, str] = {SFTConfig: "sft", DPOConfig: "dpo", GRPOConfig: "grpo"}
# What the rows that are trained on do not depend on, and what is compared by content.
_NOT_COMPARED = ("train", "valid", "max_bad_share", "chat_template")
_MODEL_FILES = ("*.safetensors", "*.bin", "config.json", "tokenizer.json")
_WAY_OUT = "take another checkpoint.dir"


def claim(config: AnyConfig, write: bool = True) -> list[str]:
    """Take a folder for a run, or find that it is this run's already. To be called by one process.

    Args:
        config: Checked options.
        write: False looks only.

    Returns:
        Differences from the run so far that checkpoint.allow_changed declares, in sentences.

    Raises:
        RunError: The folder is another run's, or its result is there without a checkpoint to go on from.
        DataError: A file that is missing, or a disk that refuses.
    """
    folder = Path(config.checkpoint.dir)
    stored = _stored(folder)
    now = _describe(config, stored or {})
    changed: dict[str, str] = {}
    if checkpoints.newest(folder) is not None:
        before = stored if stored is not None else _of_earlier_version(folder)
        changed = _differences(before, now)
        if "method" in changed:
            raise RunError(f"checkpoint.dir {folder} {changed['method']}: {_WAY_OUT}")
        if refused := [name for name in changed if name not in config.checkpoint.allow_changed]:
            raise RunError(
                f"checkpoint.dir {folder} holds a run with other {' and '.join(refused)} "
                f"({'; '.join(changed[name] for name in refused)}): {_WAY_OUT}, or declare that the run goes on with this "
                f"by --checkpoint.allow_changed '[{', '.join(refused)}]'"
            )
    elif (folder / checkpoints.FINAL).is_dir():
        raise RunError(
            f"checkpoint.dir {folder} holds the result of a run ({checkpoints.FINAL}) and no checkpoint to go on from: "
            f"{_WAY_OUT}, or move {folder / checkpoints.FINAL} away to train again"
        )
    if write and now != stored:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / IDENTITY, json.dumps(now, ensure_ascii=False, indent=1) + "\n")
        except OSError as error:
            raise write_error(folder / IDENTITY, error) from error
    return [f"{sentence} (declared by checkpoint.allow_changed)" for sentence in changed.values()]


def _describe(config: AnyConfig, known: dict[str, Any]) -> dict[str, Any]:
    """What identity.json holds. known: what it held, so that files that were not touched are not read again."""
    settings = {name: value for name, value in asdict(config.data).items() if name not in _NOT_COMPARED}
    model = Path(config.model.path)
    weights = sorted({path for pattern in _MODEL_FILES for path in model.glob(pattern)})
    files = [Path(source.path) for source in find_inputs(config.data.train, "data.train")]
    if config.data.chat_template is not None:
        files.append(Path(config.data.chat_template))
    return {
        "format": 1,
        "method": _METHODS[type(config)],
        "seed": config.training.seed,
        "model": {"path": config.model.path} | _content(weights, known.get("model"), [path.name for path in weights]),
        "data": {"train": list(config.data.train), "settings": settings} | _content(files, known.get("data")),
    }


def _content(paths: Sequence[Path], known: Any, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Paths, sizes and times of files, and one hash of all their contents (and names, where they are given)."""
    try:
        files = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
        if isinstance(known, dict) and known.get("files") == files and "sha256" in known:
            return {"files": files, "sha256": known["sha256"]}
        sums = [checksum(path) for path in paths]
    except OSError as error:
        raise RunError(f"{error.filename} cannot be read: {error.strerror}") from None
    named = list(zip(names, sums, strict=True)) if names is not None else sums
    return {"files": files, "sha256": hashlib.sha256(json.dumps(named).encode()).hexdigest()}


def _stored(folder: Path) -> dict[str, Any] | None:
    path = folder / IDENTITY
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): restore it, or {_WAY_OUT}") from None
    if not isinstance(content, dict) or content.get("format") != 1:
        raise RunError(f"{path} is not of format 1, which this version reads: {_WAY_OUT}")
    return content


def _of_earlier_version(folder: Path) -> dict[str, Any]:
    """Earlier versions wrote config.yaml alone: it tells the method by its sections, and paths in place of contents."""
    path = folder / CONFIG
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
        data = options["data"]
        method = "sft" if "adaptive_lr" in options else "grpo" if "rewards" in options else "dpo"
        return {
            "method": method,
            "seed": options["training"]["seed"],
            "model": {"path": options["model"]["path"]},
            "data": {"train": data["train"], "settings": {k: v for k, v in data.items() if k not in _NOT_COMPARED}},
        }
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        raise RunError(
            f"checkpoint.dir {folder} holds checkpoints, but neither {IDENTITY} nor {CONFIG} tells whose: {_WAY_OUT}"
        ) from None


def _differences(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """What is not as it was, each in a sentence."""
    found = {}
    if before["method"] != now["method"]:
        found["method"] = f"holds a run of {before['method']}, this is {now['method']}"
    if before["seed"] != now["seed"]:
        found["seed"] = f"training.seed was {before['seed']}, is {now['seed']}"
    if _other_content(before["model"], now["model"], "path"):
        found["model"] = f"model.path was {before['model']['path']}, is {now['model']['path']}, of other content"
    old, new = before["data"], now["data"]
    options = [
        f"data.{name} was {old['settings'][name]}, is {value}"
        for name, value in new["settings"].items()
        if old["settings"].get(name, value) != value
    ]
    if _other_content(old, new, "train"):
        options.insert(0, f"data.train was {', '.join(old['train'])}, is {', '.join(new['train'])}, of other content")
    if options:
        found["data"] = "; ".join(options)
    return found


def _other_content(before: dict[str, Any], now: dict[str, Any], path: str) -> bool:
    by_content = "sha256" in before
    return bool(before["sha256"] != now["sha256"] if by_content else before[path] != now[path])
