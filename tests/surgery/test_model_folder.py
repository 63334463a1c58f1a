"""Model folders: whole or not there, companions without code, and the check that transformers would load the weights."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_bielik.surgery.model_folder import (
    check_loads,
    check_tied,
    copy_companions,
    output_folder,
    parse_size,
    read_config,
)
from megatron_bielik.surgery.safetensors_files import ConversionError, SafetensorsReader


def test_appears_at_the_end(tmp_path: Path) -> None:
    with output_folder(tmp_path / "deep" / "out") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "deep" / "out").exists()
        assert folder.parent == tmp_path / "deep"  # one disk, so that the last step is a rename
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "out", "file"]
    assert (tmp_path / "deep" / "out").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("interruption", [ConversionError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_behind(interruption: type[BaseException], tmp_path: Path) -> None:
    def write_half() -> None:
        with output_folder(tmp_path / "out") as folder:
            (folder / "file").write_text("x")
            raise interruption

    with pytest.raises(interruption):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with output_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
    with (
        pytest.raises(ConversionError, match="out exists already: choose another --output"),
        output_folder(tmp_path / "out"),
    ):
        raise AssertionError("entered")
    assert (tmp_path / "out" / "file").read_text() == "x"


def test_a_disk_too_small_is_found_first(tmp_path: Path) -> None:
    with (
        pytest.raises(ConversionError, match=r"needs 1,000,000,000\.00 GB, its disk has .* GB free"),
        output_folder(tmp_path / "new" / "out", 10**18),
    ):
        raise AssertionError("entered")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("300mb", 3 * 10**8), (" 1.5 GB", 1_500_000_000), ("2GiB", 2**31), ("17", 17), ("17B", 17)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "five", "5XB", "-1GB", "0", "5 G B", "1e400", "nan"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ConversionError, match="is no size; write 5GB"):
        parse_size(text)


def test_companions(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    kept = {
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "chat_template.jinja",
        "generation_config.json",
    }
    for name in kept | {
        "tokenizer.py",
        "tokenizer.pkl",
        "tokenizer.bin",
        "modeling_x.py",
        "model.safetensors",
        "x.txt",
    }:
        (source / name).write_text(name)
    copy_companions(source, target)
    assert {path.name for path in target.iterdir()} == kept


def test_read_config(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"config.json not found"):
        read_config(tmp_path)
    for content in ("{", "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ConversionError, match=r"config.json is damaged"):
            read_config(tmp_path)


@pytest.mark.parametrize("kind", ["qwen2", "qwen2-tied", "bielik"])
def test_a_sound_model_loads(kind: str, hf_model: Callable[..., Any], tmp_path: Path) -> None:
    model = hf_model(kind)
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    assert check_loads(tmp_path) == sum(parameter.numel() for parameter in model.parameters())


def test_a_tied_model_may_carry_a_copy(hf_model: Callable[..., Any], tmp_path: Path) -> None:
    hf_model("qwen2-tied").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors"
    )
    check_loads(tmp_path)


K = "model.layers.1.self_attn.k_proj.bias"
FAULTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda t: t.pop(K), f"lacks {K}: transformers would not load it"),
    "missing output matrix": (lambda t: t.pop("lm_head.weight"), "lacks lm_head.weight"),
    "unexpected": (lambda t: t.update(extra=torch.zeros(1)), "has extra, which its config.json does not explain"),
    "shape": (lambda t: t.update({K: torch.zeros(31)}), rf"{K} is \(31,\), config.json needs \(32,\)"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_model_does_not(name: str, hf_model: Callable[..., Any], tmp_path: Path) -> None:
    hf_model("qwen2").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    FAULTS[name][0](tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConversionError, match=FAULTS[name][1]):
        check_loads(tmp_path)


def test_a_config_of_more_layers(hf_model: Callable[..., Any], tmp_path: Path) -> None:
    hf_model("bielik").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(ConversionError, match=r"lacks model\.layers\.3\."):
        check_loads(tmp_path)


@pytest.mark.parametrize("field", [{"hidden_size": "96"}, {"hidden_act": "none such"}])
def test_a_config_that_transformers_cannot_use(
    field: dict[str, str], hf_model: Callable[..., Any], tmp_path: Path
) -> None:
    hf_model("qwen2").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | field))
    with pytest.raises(ConversionError, match=r"config.json: transformers makes no model of it") as caught:
        check_loads(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "sound"), [("none", True), ("value", False), ("rows", False)])
def test_a_tie_that_the_files_contradict(
    change: str, sound: bool, hf_model: Callable[..., Any], tmp_path: Path
) -> None:
    """transformers would take the files' output matrix for such a model, so going by the config would lose it."""
    hf_model("qwen2-tied").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].clone()
    if change == "value":
        head[-1, -1] += 1
    save_file(tensors | {"lm_head.weight": head[1:] if change == "rows" else head}, tmp_path / "model.safetensors")
    with contextlib.nullcontext() if sound else pytest.raises(ConversionError, match="but the files hold another one"):
        check_tied(SafetensorsReader(tmp_path))


def test_a_full_disk_is_told_with_a_way_out(tmp_path: Path) -> None:
    def write() -> None:
        with output_folder(tmp_path / "out"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ConversionError, match=r"the disk of .*out became full, nothing is left there: choose another"):
        write()
    assert list(tmp_path.iterdir()) == []
