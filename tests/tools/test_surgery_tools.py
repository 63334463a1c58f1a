"""merge_models.py and upscale_depth.py from the shell: what they say and write, errors in one line, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from safetensors.torch import load_file

from megatron_bielik.surgery import safetensors_files

TOOLS = Path(__file__).parents[2] / "tools"
MERGE, UPSCALE = "merge_models.py", "upscale_depth.py"
SINGLE = "model.safetensors"


class Done(NamedTuple):
    """What a tool left: exit status and output."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def models(hf_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models of one shape."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("abc"):
        hf_model("qwen2", torch.bfloat16, seed, vocab_size=200).save_pretrained(folder / name)
        write_tokenizer(folder / name, 90)
    return folder


def write_tokenizer(folder: Path, size: int) -> None:
    content = {
        "model": {"type": "BPE", "vocab": {f"piece{n}": n for n in range(size)}, "merges": []},
        "added_tokens": [],
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Done]]:
    """Runs a tool in the test's process, where its surroundings can be changed, as the shell would see it."""

    def call(tool: str, *arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            runpy.run_path(str(TOOLS / tool), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        return Done(code, *capsys.readouterr())

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def assert_one_line(done: Done | subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.parametrize("tool", [MERGE, UPSCALE])
def test_help_has_examples(tool: str, here: Callable[..., Done]) -> None:
    done = here(tool, "--help")
    assert done.returncode == 0
    assert "examples:" in done.stdout
    assert f"python tools/{tool}" in done.stdout


def test_merge(
    models: Path, tmp_path: Path, here: Callable[..., Done], run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """A dry run says the same as a real one and writes nothing."""
    output = tmp_path / "new" / "merged"
    options = ["--models", *(str(models / name) for name in "abc"), "--weights", "5", "3", "2",
               "--pattern-weights", "*.mlp.*=1,1,-1", "model.norm.weight=0,0,1", "--output", str(output),
               "--shard-size", "100KB", "--dtype", "fp32"]  # fmt: skip
    dry = here(MERGE, *options, "--dry-run")
    assert list(tmp_path.iterdir()) == []
    done = run([f"tools/{MERGE}", *options], timeout=120)
    assert done.stderr == dry.stderr == ""
    lines = dry.stdout.splitlines()
    assert lines[0] == f"linear of {models / 'a'}, {models / 'b'}, {models / 'c'}"
    assert lines[1:4] == [
        "  *.mlp.*: 1 1 -1 (9 tensors)",
        "  model.norm.weight: 0 0 1 (1 tensors)",
        "  *: 5 3 2 (29 tensors)",
    ]
    assert "39 tensors" in lines[4]
    assert lines[4].endswith("float32, untied embeddings")
    assert f"-> {output} (" in lines[5]
    # The free space may have changed in between.
    assert done.stdout.splitlines()[:5] == lines[:5]
    assert done.stdout.splitlines()[-1].startswith(lines[5].split(" in ")[0] + " in ")

    index = json.loads((output / "model.safetensors.index.json").read_text())["weight_map"]
    a, b, c = (load_file(models / name / SINGLE) for name in "abc")

    def found(name: str) -> torch.Tensor:
        return load_file(output / index[name])[name]

    mlp, head, norm = "model.layers.2.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"
    assert torch.allclose(found(mlp), a[mlp].float() + b[mlp].float() - c[mlp].float())
    assert torch.allclose(found(head), 0.5 * a[head].float() + 0.3 * b[head].float() + 0.2 * c[head].float())
    assert torch.equal(found(norm), c[norm].float())
    front = yaml.safe_load((output / "README.md").read_text().split("---\n")[1])
    assert front["base_model"] == ["a", "b", "c"]


def test_other_methods(models: Path, tmp_path: Path, here: Callable[..., Done]) -> None:
    a, b, c = (load_file(models / name / SINGLE)["lm_head.weight"].float() for name in "abc")

    def merged(*options: object) -> torch.Tensor:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        done = here(MERGE, "--output", tmp_path / "out", "--dtype", "fp32", *options)
        assert done.returncode == 0, done.stderr
        return load_file(tmp_path / "out" / SINGLE)["lm_head.weight"]

    one, two, base = (models / name for name in "abc")
    found = merged("--method", "task-arithmetic", "--base", base, "--models", one, two, "--weights", -0.5, 2)
    assert torch.allclose(found, c - 0.5 * (a - c) + 2 * (b - c), atol=1e-6)
    assert torch.equal(merged("--method", "slerp", "--models", one, two, "--t", 0), a)
    assert torch.allclose(merged("--models", one, two, "--weights", 3, 2, "--no-normalize"), 3 * a + 2 * b)


def test_upscale(
    models: Path, tmp_path: Path, here: Callable[..., Done], run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """The map and the patterns are printed; a dry run says the same and writes nothing."""
    output = tmp_path / "new" / "deep"
    options = ["--model", str(models / "a"), "--output", str(output), "--drop", "1",
               "--repeat-edges", "1", "--form", "bielik", "--shard-size", "200KB"]  # fmt: skip
    dry = here(UPSCALE, *options, "--dry-run")
    assert list(tmp_path.iterdir()) == []
    done = run([f"tools/{UPSCALE}", *options], timeout=120)
    assert done.stderr == dry.stderr == ""
    assert dry.stdout.startswith("3 -> 6 layers: 0,0,1,1,2,2\n")
    assert "24 of them new biases of zero" in dry.stdout
    assert r"    - ^decoder\.layers\.(0|1|2|3|4|5)\." in dry.stdout
    assert done.stdout == dry.stdout + f"-> {output}; the map and the patterns stand in depth_upscaling.json\n"
    assert json.loads((output / "config.json").read_text())["num_hidden_layers"] == 6
    assert json.loads((output / "depth_upscaling.json").read_text())["source_of_target_layer"] == [0, 0, 1, 1, 2, 2]
    assert len(list(output.glob("*.safetensors"))) > 3


def test_upscale_by_a_map(models: Path, tmp_path: Path, here: Callable[..., Done]) -> None:
    common = ("--model", models / "a", "--output", tmp_path / "out")
    done = here(UPSCALE, *common, "--layer-map", "2,0-1,1", "--dry-run")
    assert done.stdout.startswith("3 -> 4 layers: 2,0,1,1\n")
    for more in ("--drop", "--repeat-edges"):
        done = here(UPSCALE, *common, "--layer-map", "0-2", more, 1)
        assert done.returncode == 2
        assert "--layer-map says it all: leave out --drop and --repeat-edges" in done.stderr
    assert_one_line(here(UPSCALE, *common, "--layer-map", ""), "'' is neither a layer nor first-last")
    assert_one_line(here(UPSCALE, *common, "--layer-map", "0-3"), "--layer-map names layer 3, the model has 0 to 2")
    assert_one_line(here(UPSCALE, *common, "--drop", "3"), "--drop is 3, of 3 layers 0 to 2 can be dropped")
    assert_one_line(here(UPSCALE, *common, "--shard-size", "5XB"), "'5XB' is no size")
    assert list(tmp_path.iterdir()) == []


def truncated(folder: Path) -> None:
    (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-1])


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "model-2.safetensors"}}')


WRONG: dict[str, tuple[Callable[[Path], Any], tuple[str, ...], str]] = {
    "missing shard": (missing_shard, (), "names model-2.safetensors, which is not there: the download is incomplete"),
    "truncated file": (truncated, (), "model.safetensors is damaged or truncated"),
    "no model": (shutil.rmtree, (), "damaged is no folder"),
    "other vocabulary": (lambda f: write_tokenizer(f, 91), (), "the tokenizers differ (90 entries in"),
    "weights": (lambda f: None, ("--weights", "1"), "--weights has 1 weights, 2, one for each of --models is needed"),
    "pattern": (lambda f: None, ("--pattern-weights", "*.mlp.*"), "write PATTERN=0.5,0.3,0.2"),
    "size": (lambda f: None, ("--shard-size", "much"), "'much' is no size"),
}


@pytest.mark.parametrize("name", WRONG)
def test_merge_says_what_is_wrong(name: str, models: Path, tmp_path: Path, here: Callable[..., Done]) -> None:
    damage, options, message = WRONG[name]
    shutil.copytree(models / "b", tmp_path / "damaged")
    damage(tmp_path / "damaged")
    models_given = ("--models", models / "a", tmp_path / "damaged")
    assert_one_line(here(MERGE, *models_given, "--output", tmp_path / "out", *options), message)
    assert {path.name for path in tmp_path.iterdir()} <= {"damaged"}


def given(tool: str, models: Path) -> tuple[object, ...]:
    return ("--models", models / "a", models / "b") if tool == MERGE else ("--model", models / "a")


@pytest.mark.parametrize("tool", [MERGE, UPSCALE])
def test_what_exists_is_kept(tool: str, models: Path, tmp_path: Path, here: Callable[..., Done]) -> None:
    (tmp_path / "out").write_text("precious")
    done = here(tool, *given(tool, models), "--output", tmp_path / "out")
    assert_one_line(done, "out exists already: choose another --output or remove it")
    assert (tmp_path / "out").read_text() == "precious"
    assert_one_line(here(tool, *given(tool, models), "--output", tmp_path / "out" / "below"), str(tmp_path / "out"))
    assert_one_line(here(tool, *given(tool, models), "--output", tmp_path / "out", "--dry-run"), "out exists already")


@pytest.mark.parametrize("tool", [MERGE, UPSCALE])
def test_a_full_disk(
    tool: str, models: Path, tmp_path: Path, here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen before the first byte, or met in the middle because others write too."""
    written = iter(range(10))
    real = safetensors_files._write_tensor

    def write(*arguments: Any) -> None:
        if next(written, None) is None:
            assert [path.suffix for path in tmp_path.rglob("*.safetensors")] == [".safetensors"]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*arguments)

    with monkeypatch.context() as changed:
        changed.setattr(safetensors_files, "_write_tensor", write)
        done = here(tool, *given(tool, models), "--output", tmp_path / "out")
    assert_one_line(done, "became full, nothing is left there: choose another --output")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1, 1))
    done = here(tool, *given(tool, models), "--output", tmp_path / "out")
    assert_one_line(done, "its disk has 0.00 GB free: choose another --output")
    assert list(tmp_path.iterdir()) == []


def sparse_model(folder: Path, rows: int) -> Path:
    """A Qwen2 of one tiny layer and many rows of embeddings, 2000 bytes each, whose file is one hole."""
    layer = {
        "input_layernorm.weight": [1000], "post_attention_layernorm.weight": [1000],
        "self_attn.q_proj.weight": [10, 1000], "self_attn.q_proj.bias": [10], "self_attn.o_proj.weight": [1000, 10],
        "self_attn.k_proj.weight": [10, 1000], "self_attn.k_proj.bias": [10],
        "self_attn.v_proj.weight": [10, 1000], "self_attn.v_proj.bias": [10],
        "mlp.gate_proj.weight": [8, 1000], "mlp.up_proj.weight": [8, 1000], "mlp.down_proj.weight": [1000, 8],
    }  # fmt: skip
    shapes = {"model.embed_tokens.weight": [rows, 1000], "model.norm.weight": [1000]}
    shapes |= {f"model.layers.0.{part}": shape for part, shape in layer.items()}
    header, position = {}, 0
    for name, shape in shapes.items():
        end = position + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, end]}
        position = end
    encoded = json.dumps(header).encode()
    folder.mkdir()
    with (folder / SINGLE).open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + position)
    config = {
        "model_type": "qwen2", "vocab_size": rows, "hidden_size": 1000, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 10, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("tool", "number"), [(MERGE, signal.SIGTERM), (MERGE, signal.SIGINT), (UPSCALE, signal.SIGTERM)]
)
def test_stopped_it_leaves_nothing(tool: str, number: signal.Signals, tmp_path: Path) -> None:
    """In the middle of two gigabytes, the first megabyte of which is in the file."""
    source = sparse_model(tmp_path / "in", 1_000_000)
    models = ["--models", source, source] if tool == MERGE else ["--model", source]
    command = [sys.executable, str(TOOLS / tool), *map(str, models), "--output", str(tmp_path / "out" / "model")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while sum(path.stat().st_size for path in (tmp_path / "out").glob(".model-*/*.safetensors")) < 10**6:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)  # a busy disk
    finally:
        process.kill()
        process.wait()
    assert_one_line(Done(process.returncode, "", errors), "error: stopped; nothing was written")
    assert list((tmp_path / "out").iterdir()) == []
