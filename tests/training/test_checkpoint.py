"""Checkpoint folders over a run's life: which are kept, what an unfinished one leaves, loading into another model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_bielik.checkpoint_files import CheckpointError, damaged_files, find_checkpoint, latest_checkpoint
from megatron_bielik.config import Config, ModelConfig, TrainingConfig
from megatron_bielik.parallel.runtime import Runtime
from tests.conftest import ROOT, records


class Model:
    """A small model with its optimizer, and its checkpoints."""

    def __init__(self, runtime: Runtime, seed: int = 1, **shape: Any) -> None:
        from megatron_bielik.model.gpt import build_model
        from megatron_bielik.model.initialization import initialize
        from megatron_bielik.training.optimizer import build_optimizer, wrap_for_training

        options = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 64, "head_dim": 8, "vocab_size": 100, **shape}
        self.config = Config(
            model=ModelConfig(preset="tiny", **options), training=TrainingConfig(precision="fp32", seed=seed)
        )
        self.chunks = build_model(self.config)
        initialize(self.chunks, self.config)
        self.optimizer = build_optimizer(wrap_for_training(self.chunks, self.config.parallel), self.config, runtime)

    def save(
        self, root: Path, steps: list[int], keep_last: int = 0, keep_every: int = 0, background: bool = False
    ) -> None:
        from megatron_bielik.training.checkpoint import CheckpointStore

        store = CheckpointStore(root, keep_last, keep_every, background)
        for step in steps:
            common = {"step": step}
            store.save(step, self.config.model.shape(), self.chunks, self.optimizer, common, lambda folder: None)
        store.close()

    def load(self, checkpoint: Path) -> dict[str, Any]:
        from megatron_bielik.training.checkpoint import load

        return load(checkpoint, self.config.model.shape(), self.chunks, self.optimizer, verify=True)


@pytest.fixture
def model(single_process: Runtime) -> Iterator[Model]:
    return Model(single_process)


def kept(root: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in root.glob("step_*"))


def test_keeps_the_last_and_every_kth(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path, [1, 2, 3, 4, 5], keep_last=2, keep_every=3)
    assert kept(tmp_path) == [3, 4, 5]
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "step_00000005"


def test_keeps_all_by_default_of_zero(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path, [1, 2, 3, 4])
    assert kept(tmp_path) == [1, 2, 3, 4]


def test_background_saves_hold_what_was_there_when_asked(single_process: Runtime, tmp_path: Path) -> None:
    """Weights change while the files are written; the checkpoint has those of the moment of saving."""
    from megatron_bielik.training.checkpoint import CheckpointStore

    model, other = Model(single_process, seed=1), Model(single_process, seed=2)
    expected = {name: p.detach().clone() for name, p in model.chunks[0].global_names()}
    store = CheckpointStore(tmp_path, 0, 0, asynchronous=True)
    store.save(7, model.config.model.shape(), model.chunks, model.optimizer, {}, lambda folder: None)
    with torch.no_grad():
        for parameter in model.chunks[0].parameters():
            parameter.fill_(-1.0)
    assert latest_checkpoint(tmp_path) is None, "latest moves only when all is written"
    store.close()
    other.load(find_checkpoint(tmp_path))
    for name, parameter in other.chunks[0].global_names():
        assert torch.equal(parameter, expected[name]), name


def test_unfinished_folders_are_ignored_and_removed(model: Model, tmp_path: Path) -> None:
    left_over = tmp_path / ".writing-step_00000001"
    left_over.mkdir()
    (left_over / "model.json").write_text("{")
    assert latest_checkpoint(tmp_path) is None
    model.save(tmp_path, [2])
    assert not left_over.exists()
    assert kept(tmp_path) == [2]


def test_the_same_step_can_be_saved_again(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path, [3])
    with torch.no_grad():
        model.chunks[0].embedding.word_embeddings.weight.fill_(0.5)
    model.save(tmp_path, [3])
    assert model.load(find_checkpoint(tmp_path)) == {"step": 3}
    assert bool((model.chunks[0].embedding.word_embeddings.weight == 0.5).all())


def test_one_changed_byte_is_found(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path, [1])
    checkpoint = find_checkpoint(tmp_path)
    payload = max(checkpoint.glob("*.distcp"), key=lambda path: path.stat().st_size)
    content = bytearray(payload.read_bytes())
    content[len(content) // 2] ^= 1
    payload.write_bytes(content)
    assert damaged_files(checkpoint) == [payload.name]
    with pytest.raises(CheckpointError, match=payload.name):
        model.load(checkpoint)


def test_later_steps_are_set_aside_when_a_run_is_taken_back(model: Model, tmp_path: Path) -> None:
    from megatron_bielik.training.checkpoint import CheckpointStore

    model.save(tmp_path, [1, 2, 3])
    (tmp_path / "latest").write_text("step_00000001\n")
    CheckpointStore(tmp_path, 2, 0, False).set_aside_after(1)
    assert kept(tmp_path) == [1]
    assert sorted(path.name for path in tmp_path.glob("abandoned-*")) == [
        "abandoned-step_00000002",
        "abandoned-step_00000003",
    ]
    model.save(tmp_path, [4, 5], keep_last=2)
    assert kept(tmp_path) == [4, 5]


@pytest.mark.distributed
@pytest.mark.parametrize("background", ["false", "true"])
def test_full_disk_ends_the_run_in_one_line_and_loses_nothing(background: str, shard: Path, tmp_path: Path) -> None:
    """Files may not grow beyond 2 MB: the first checkpoint of the second process cannot be written."""
    folder = tmp_path / "run"
    options = [
        f"--data.train=[{{prefix: {shard}}}]",
        "--data.sequence_length=32",
        "--model.vocab_size=1000",
        "--training.precision=fp32",
        "--training.global_batch_size=2",
        f"--checkpoint.dir={folder}",
        f"--checkpoint.async_save={background}",
    ]
    pretrain = [sys.executable, "-m", "megatron_bielik.pretrain", *options]

    def run(*more: str, limit: str = "unlimited") -> subprocess.CompletedProcess[str]:
        limited = ["sh", "-c", f'ulimit -f {limit}; exec "$@"', "sh", *pretrain, *more]
        return subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert run("--training.steps=2").returncode == 0
    full = run("--training.steps=6", "--checkpoint.save_interval=2", limit="2000")
    assert full.returncode == 1
    (message,) = [line for line in full.stderr.splitlines() if line.startswith("error:")]
    assert "cannot write a checkpoint" in message
    assert "the newest complete one is step_00000002; make room" in message
    assert "Traceback" not in full.stderr
    assert find_checkpoint(folder).name == "step_00000002"
    assert run("--training.steps=6").returncode == 0
    assert [record["step"] for record in records(folder)] == [1, 2, 3, 4, 5, 6]


def test_another_shape_is_refused_by_name(single_process: Runtime, model: Model, tmp_path: Path) -> None:
    model.save(tmp_path, [1])
    with pytest.raises(CheckpointError, match=r"model\.ffn_hidden_size 64, this run 96"):
        Model(single_process, ffn_hidden_size=96).load(find_checkpoint(tmp_path))
