"""What cannot be converted is refused in one line that names it, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_bielik.checkpoint_files import DESCRIPTION, CheckpointError
from megatron_bielik.surgery.convert import export_hf, import_hf
from megatron_bielik.surgery.safetensors_files import ConversionError

ROOT = Path(__file__).parents[2]
TOOL = "tools/convert_checkpoint.py"


@pytest.fixture(scope="module")
def models(hf_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one sound model of each kind."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("qwen2", "bielik"):
        hf_model(kind).save_pretrained(folder / kind)
    return folder


@pytest.fixture(scope="module")
def checkpoint(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("checkpoint") / "c"
    import_hf(models / "qwen2", output)
    return output


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in changes.items():
        if value is None:
            config.pop(name)
        else:
            config[name] = value
    path.write_text(json.dumps(config))


def config(**changes: Any) -> Callable[[Path], None]:
    """A breakage: other values in config.json; none removes one."""
    return lambda folder: edit_config(folder, **changes)


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """A breakage: other tensors."""

    def apply(folder: Path) -> None:
        content = load_file(folder / "model.safetensors")
        change(content)
        save_file(content, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def only_bin(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


K = "model.layers.2.self_attn.k_proj.bias"
ROPE = {"rope_theta": 1e4, "rope_type": "default"}
BREAKAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "missing tensor": ("qwen2", tensors(lambda t: t.pop(K)), f"lacks 1 tensors, the first is {K}"),
    "extra tensor": (
        "qwen2",
        tensors(lambda t: t.update({"model.layers.0.self_attn.o_proj.bias": torch.zeros(96)})),
        "has 1 tensors its config.json does not explain, the first is model.layers.0.self_attn.o_proj.bias",
    ),
    "wrong shape": (
        "qwen2",
        tensors(lambda t: t.update({K: torch.zeros(33)})),
        f"{K} is (33,), config.json needs (32,)",
    ),
    "quantised": (
        "qwen2",
        tensors(lambda t: t.update({K: torch.zeros(32, dtype=torch.int8)})),
        f"{K} has type I8",
    ),
    "truncated file": ("qwen2", truncate, "model.safetensors is damaged or truncated"),
    "pickle only": ("qwen2", only_bin, "pytorch_model.bin is a pickle, which can run code"),
    "no weights": ("qwen2", lambda f: (f / "model.safetensors").unlink(), "has neither model.safetensors.index.json"),
    "no config": ("qwen2", lambda f: (f / "config.json").unlink(), "config.json not found"),
    "damaged config": ("qwen2", lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
    "list as config": ("qwen2", lambda f: (f / "config.json").write_text("[]"), "config.json is damaged"),
    "other family": ("qwen2", config(model_type="mistral"), "model_type is 'mistral', known are qwen2, llama"),
    "no family": ("qwen2", config(model_type=None), "model_type is None"),
    "llama without biases": ("bielik", config(mlp_bias=False), "attention_bias True and mlp_bias False"),
    "llama, old config": ("bielik", config(attention_bias=None), "attention_bias False and mlp_bias True"),
    "rope scaling": (
        "bielik",
        config(rope_parameters={"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}),
        "rope_parameters.rope_type is 'llama3', only 'default'",
    ),
    "rope scaling, old name": (
        "bielik",
        config(rope_parameters=None, rope_scaling={"type": "linear", "factor": 2.0}),
        "rope_parameters.rope_type is 'linear', only 'default'",
    ),
    "rope scaling beside": (
        "bielik",
        config(rope_parameters=ROPE, rope_scaling={"rope_type": "yarn", "factor": 4.0}),
        "rope_parameters.rope_type is 'yarn', only 'default'",
    ),
    "rope per layer type": ("qwen2", config(rope_parameters={"full_attention": ROPE}), "differ by layer type"),
    "partial rotation": ("bielik", config(rope_parameters={**ROPE, "partial_rotary_factor": 0.5}), "is 0.5, only 1.0"),
    "sliding window": ("qwen2", config(use_sliding_window=True), "use_sliding_window is True, only False"),
    "sliding layers": ("qwen2", config(layer_types=["full_attention", "sliding_attention"]), "layer_types is"),
    "activation": ("qwen2", config(hidden_act="gelu"), "hidden_act is 'gelu', only 'silu'"),
    "option missing": ("qwen2", config(num_hidden_layers=None), "config.json lacks num_hidden_layers"),
    "not a number": ("qwen2", config(vocab_size="1001"), "vocab_size is '1001', it must be a whole number"),
    "no heads": ("bielik", config(num_attention_heads=0, head_dim=None), "config.json is damaged"),
    "uneven heads": ("bielik", config(num_key_value_heads=4), "6 query heads do not divide into 4"),
    "one layer less": ("qwen2", config(num_hidden_layers=2), "has 12 tensors its config.json does not explain"),
}


def refused(found: pytest.ExceptionInfo[Any], fragment: str) -> None:
    message = str(found.value)
    assert fragment in message
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize("name", BREAKAGES)
def test_import_is_refused(name: str, models: Path, tmp_path: Path) -> None:
    kind, damage, fragment = BREAKAGES[name]
    source = tmp_path / "source"
    shutil.copytree(models / kind, source)
    damage(source)
    with pytest.raises(ConversionError) as found:
        import_hf(source, tmp_path / "output")
    refused(found, fragment)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"config\.json not found: --input must be"):
        import_hf(tmp_path / "nowhere", tmp_path / "output")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        export_hf(tmp_path / "nowhere", tmp_path / "output")


@pytest.mark.parametrize("existing", ["file", "folder"])
@pytest.mark.parametrize("direction", ["import", "export"])
def test_existing_output_is_kept(direction: str, existing: str, models: Path, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    kept = output / "kept" if existing == "folder" else output
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("precious")
    with pytest.raises(ConversionError) as found:
        (import_hf if direction == "import" else export_hf)(
            models / "qwen2" if direction == "import" else checkpoint, output
        )
    refused(found, f"{output} exists already: choose another --output or remove it")
    assert kept.read_text() == "precious"
    assert len(list(tmp_path.rglob("*"))) == (2 if existing == "folder" else 1)


def test_an_empty_output_folder_is_filled(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    export_hf(checkpoint, tmp_path / "output")
    assert (tmp_path / "output" / "config.json").is_file()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("direction", ["import", "export"])
def test_interrupted_conversion_leaves_nothing(
    direction: str, interruption: type[BaseException], models: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Neither under the output's name nor beside it."""

    def stop(done: int, total: int) -> None:
        assert len(list(tmp_path.iterdir())) == 1  # the work in progress
        if done == total // 2:
            raise interruption("no space left")

    convert, source = (import_hf, models / "qwen2") if direction == "import" else (export_hf, checkpoint)
    with pytest.raises(interruption, match="no space left"):
        convert(source, tmp_path / "output", progress=stop)
    assert list(tmp_path.iterdir()) == []


def damaged_copy(checkpoint: Path, folder: Path) -> Path:
    return Path(shutil.copytree(checkpoint, folder / "damaged"))


@contextmanager
def export_refused(source: Path, output: Path, fragment: str) -> Iterator[None]:
    yield
    with pytest.raises((ConversionError, CheckpointError)) as found:
        export_hf(source, output)
    refused(found, fragment)
    assert not output.exists()


def test_checkpoint_of_another_shape(checkpoint: Path, tmp_path: Path) -> None:
    source = damaged_copy(checkpoint, tmp_path)
    description = json.loads((source / DESCRIPTION).read_text())
    output = tmp_path / "output"

    def describe(**changes: Any) -> None:
        shape = {**description["shape"], **changes}
        (source / DESCRIPTION).write_text(json.dumps({**description, "shape": shape}))

    with export_refused(source, output, "lacks decoder.layers.3.input_layernorm.weight"):
        describe(num_layers=4)
    with export_refused(
        source, output, "decoder.layers.0.mlp.linear_fc1.weight is (520, 96), model.json needs (518, 96)"
    ):
        describe(ffn_hidden_size=259)
    with export_refused(source, output, "embedding.word_embeddings.weight is (1001, 96), model.json needs (1002, 96)"):
        describe(vocab_size=1002)
    # 520 rows are enough for a vocabulary of 500, but linear_fc1 has no padding.
    with export_refused(source, output, "linear_fc1.weight is (520, 96), model.json needs (500, 96)"):
        describe(vocab_size=500, ffn_hidden_size=250)
    with export_refused(source, output, "model.json is damaged"):
        describe(colour="red")
    with export_refused(source, output, "model.json has format 99, this version reads 1"):
        (source / DESCRIPTION).write_text(json.dumps({**description, "format": 99}))
    with export_refused(source, output, "model.json is damaged"):
        (source / DESCRIPTION).write_text("{")


def test_damaged_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    source, output = damaged_copy(checkpoint, tmp_path), tmp_path / "output"
    payload = source / "__0_0.distcp"
    whole = payload.read_bytes()
    with export_refused(source, output, "__0_0.distcp is not what was written (checksum)"):
        payload.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    with export_refused(source, output, "__0_0.distcp is not what was written (checksum)"):
        payload.unlink()
    payload.write_bytes(whole)
    with export_refused(source, output, "has no checksums.json; to load it all the same"):
        (source / "checksums.json").rename(tmp_path / "sums")
    export_hf(source, output, verify=False)
    with export_refused(source, tmp_path / "other", "checksums.json is damaged"):
        (source / "checksums.json").write_text("[1]")


def test_truncated_payload_without_checksums(checkpoint: Path, tmp_path: Path) -> None:
    source = damaged_copy(checkpoint, tmp_path)
    payload = source / "__0_0.distcp"
    payload.write_bytes(payload.read_bytes()[:50_000])
    with pytest.raises(CheckpointError) as found:
        export_hf(source, tmp_path / "output", verify=False)
    refused(found, "embedding.word_embeddings.weight cannot be read")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def run_tool(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TOOL, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True)


def test_tool_says_it_in_one_line(models: Path, tmp_path: Path) -> None:
    done = run_tool("import-hf", "--input", models, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.strip() == f"error: {models}/config.json not found: --input must be a Hugging Face model folder"


def test_tool_says_what_it_wrote(models: Path, tmp_path: Path) -> None:
    done = run_tool("import-hf", "--input", models / "qwen2", "--output", tmp_path / "out", "--dtype", "bf16")
    assert done.returncode == 0, done.stderr
    way = re.escape(f"{models / 'qwen2'} -> {tmp_path / 'out'}")
    assert re.fullmatch(rf"[\d,]+ parameters, bfloat16, \d+\.\d s, {way}\n", done.stdout)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_tool_leaves_nothing(number: signal.Signals, checkpoint: Path, tmp_path: Path) -> None:
    """Stopped in the middle: the export waits for good on a shard that is a pipe without a reader."""
    source = damaged_copy(checkpoint, tmp_path / "in")
    (source / "checksums.json").unlink()
    payload = source / "__0_0.distcp"
    payload.unlink()
    os.mkfifo(payload)
    output = tmp_path / "out" / "model"
    command = [sys.executable, TOOL, "export-hf", "--no-verify", "--input", source, "--output", output]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 40
        while not (output.parent.is_dir() and list(output.parent.iterdir())):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < until
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(timeout=20) == 1
    finally:
        process.kill()
        errors = process.communicate()[1]
    assert "error: stopped; nothing was written" in errors
    assert "Traceback" not in errors
    assert list(output.parent.iterdir()) == []
