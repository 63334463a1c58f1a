"""A folder in which the documentation's commands find the files that they name: results of the smallest recipe."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
import zstandard

from megatron_bielik.corpus.synthetic import generate_document
from megatron_bielik.evaluation.polish_tasks import FIXTURES
from tests.conftest import script_environment

ROOT = Path(__file__).parents[2]
LINKED = [
    "tools",
    "examples",
    "megatron_bielik",
    "docs",
    "tests",
    "csrc",
    "Makefile",
    "pyproject.toml",
    "setup.py",
    "constraints.txt",
]
# Names in the documentation, and what of the recipe stands for them.
MODELS = {
    "Qwen2.5-1.5B": "base-model",
    "qwen-pl": "focus",
    "bielik-4.5b-start": "start",
    "sft-a": "sft/checkpoint-3",
    "sft-b": "sft/checkpoint-4",
    "sft-c": "sft/final",
    "sft/final": "sft/final",
    "demo/hf": "model",
    "export/a": "model",
    "export/bielik": "model",
}
RUNS = {"runs/a": "stage2", "runs/b": "stage1", "runs/stage1": "stage1", "runs/sft": "sft"} | {
    f"runs/bielik-{size}": "stage2" for size in ("1.5b", "4.5b")
}
FILES = {
    "tokenizer": "tokenizer",
    "quality.json": "quality.json",
    "labelled.jsonl": "labelled/train.jsonl",
    "sft-held-out.jsonl": "chat/sft-held-out.jsonl",
    "raw.jsonl": "chat/pairs.jsonl",
    "corpus.jsonl": "raw/pl.jsonl",
    "web.jsonl": "raw/pl.jsonl",
    "kept.jsonl": "raw/pl.jsonl",
    "pl.jsonl": "held-out/pl.jsonl",
    "pl/1.jsonl": "raw/pl.jsonl",
    "held-out.jsonl": "held-out/pl.jsonl",
    "held.jsonl": "held-out/pl.jsonl",
    "checkpoints/qwen": "base-run",
}
COMPRESSED = ["pl/1.jsonl.zst", "web/1.jsonl.zst", "web-1.jsonl.zst", "raw/web/1.jsonl.zst", "kept.jsonl.zst"]


def shell(command: str, folder: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """A line of bash in a folder, with this environment's programs and without a network."""
    environment = script_environment(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", DVC_NO_ANALYTICS="1", PYTHONPATH="")
    return subprocess.run(
        ["timeout", "--kill-after=5", str(timeout), "bash", "-ceuo", "pipefail", command],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout + 20, check=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def world(quick_recipe: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder."""
    recipe, _ = quick_recipe
    folder = tmp_path_factory.mktemp("documentation")
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    for name, source in {**MODELS, **RUNS, **FILES}.items():
        _copy(recipe / source, folder / name)
    text = (recipe / "raw" / "pl.jsonl").read_bytes()
    for name in COMPRESSED:
        _write(folder / name, zstandard.compress(text))
    english = "\n\n".join(json.loads(line)["text"] for line in (recipe / "raw" / "en.jsonl").read_text().splitlines())
    for name in ("en/1.txt.gz", "en.txt.gz"):
        _write(folder / name, gzip.compress(english.encode()))
    _write(folder / "topics.jsonl", b"".join(json.dumps(generate_document(1, n)).encode() + b"\n" for n in range(100)))
    shutil.copytree(FIXTURES, folder / "datasets")
    _write_configs(recipe, folder)
    for line in (
        "python tools/preprocess_data.py --input pl.jsonl --tokenizer tokenizer --output-prefix data/a",
        "python tools/preprocess_data.py --input held.jsonl --tokenizer tokenizer --output-prefix data/b",
        "python tools/preprocess_data.py --input corpus.jsonl --tokenizer tokenizer --output-prefix data/web",
        "python tools/preprocess_data.py --input held.jsonl --tokenizer tokenizer --output-prefix data/wiki",
        "python tools/upscale_depth.py --model qwen-pl --output qwen-3b-pl --layer-map " + ",".join("012" * 12),
        "python tools/upscale_depth.py --model Qwen2.5-1.5B --output Qwen2.5-3B --layer-map " + ",".join("012" * 12),
        "python tools/train_topic_classifier.py --train topics.jsonl --output topics.npz",
    ):
        done = shell(line, folder)
        assert done.returncode == 0, done.stderr
    return folder


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _write_configs(recipe: Path, folder: Path) -> None:
    """run.yaml, sft.yaml, dpo.yaml and grpo.yaml: the recipe's, with two steps each; corpus.yaml as docs/corpus.md has it."""
    sizes = {"sft": 2, "dpo": 2, "grpo": 16}
    for name, rows in sizes.items():
        config = yaml.safe_load((ROOT / "examples" / "recipe" / f"{name}.yaml").read_text())
        config["model"]["path"] = str(recipe / config["model"]["path"])
        for kind in ("train", "valid"):
            config["data"][kind] = [str(recipe / one) for one in config["data"][kind]]
        config["training"] |= {"steps": 2, "micro_batch_size": rows, "global_batch_size": rows * 2, "eval_interval": 2}
        config["schedule"]["warmup_steps"] = 0
        config["checkpoint"] = {"dir": "runs/new"}
        config["sampling"] = {**config.get("sampling", {}), "max_completion_tokens": 8} if name == "grpo" else None
        _write(folder / f"{name}.yaml", yaml.safe_dump({key: one for key, one in config.items() if one}).encode())
    config = yaml.safe_load((ROOT / "examples" / "recipe" / "base.yaml").read_text())
    config["model"]["vocab_size"] = 700
    config["parallel"] = {"tensor_parallel_size": 1}
    config["data"] = {"train": [{"prefix": "data/web"}], "tokenizer": "tokenizer", "sequence_length": 32}
    config["training"] |= {"steps": 2, "micro_batch_size": 1, "global_batch_size": 64, "eval_interval": 0}
    config["schedule"]["warmup_steps"] = 0
    config["checkpoint"] = {"dir": "runs/new", "save_interval": 2}
    _write(folder / "run.yaml", yaml.safe_dump(config).encode())
    block = re.search(r"^ {4}# corpus\.yaml\n((?: {4}.+\n)+)", (ROOT / "docs" / "corpus.md").read_text(), re.MULTILINE)
    assert block
    _write(folder / "corpus.yaml", re.sub(r"(?m)^ {4}", "", block[1]).encode())
