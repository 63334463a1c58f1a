"""Linears in fp8 inside the model: which layers have them, how far gradients are from bf16, and training under a layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from megatron_bielik.config import Config, ModelConfig, TrainingConfig
from tests.conftest import records, run

SCALINGS: tuple[Literal["tensorwise", "rowwise"], ...] = ("tensorwise", "rowwise")


def loss_and_gradients(config: Config) -> tuple[Any, torch.Tensor, dict[str, torch.Tensor]]:
    """Of 64 tokens, with the same weights for every option."""
    from megatron_bielik.model.gpt import build_model, document_parameters
    from megatron_bielik.model.initialization import initialize
    from megatron_bielik.training.optimizer import wrap_for_training

    (model,) = build_model(config)
    initialize([model], config)
    (wrapped,) = wrap_for_training([model], config.parallel)
    wrapped.zero_grad_buffer()
    ids = torch.randint(200, (1, 64), generator=torch.Generator().manual_seed(1))
    documents = document_parameters(config, torch.tensor([0, 30, 64], dtype=torch.int32), torch.arange(64))
    loss = model(ids, torch.arange(64)[None], None, labels=ids.roll(-1), packed_seq_params=documents)
    loss.mean().backward()
    return model, loss.detach(), {name: p.main_grad.clone() for name, p in model.global_names()}


@pytest.mark.usefixtures("single_process")
@pytest.mark.parametrize("scaling", SCALINGS)
def test_gradients_point_where_those_of_bf16_do(scaling: Literal["tensorwise", "rowwise"]) -> None:
    plain = Config(model=ModelConfig(num_layers=4, vocab_size=200), training=TrainingConfig(precision="bf16"))
    _, loss, gradients = loss_and_gradients(plain)
    model, found, own = loss_and_gradients(replace(plain, model=replace(plain.model, fp8=scaling)))
    kinds = [type(layer.mlp.linear_fc1).__name__ for layer in model.decoder.layers]
    assert kinds == ["ColumnParallelLinear", *["Fp8ColumnParallelLinear"] * 2, "ColumnParallelLinear"]
    assert not torch.equal(found, loss)
    assert abs(float(found.mean() / loss.mean()) - 1) < 1e-2
    for name, gradient in own.items():
        cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), gradients[name].flatten(), dim=0)
        assert cosine > 0.97, f"{name}: {cosine:.3f}"


@pytest.mark.distributed
def test_training_under_a_layout(shard: Path, tmp_path: Path) -> None:
    """Tensor and sequence parallel: the communication around the 8-bit products, frozen weights among them."""

    def train(name: str, processes: int, *flags: str) -> list[float]:
        options = [
            "--model.num_layers=4", "--model.vocab_size=1001", f"--data.train=[{{prefix: {shard}}}]",
            "--data.sequence_length=64", "--training.steps=6", "--training.micro_batch_size=2",
            "--training.global_batch_size=4", "--optimizer.lr=1e-3", f"--checkpoint.dir={tmp_path / name}",
            "--logging.tensorboard=false", "--training.trainable=['layers.[0-2]', embedding, output]", *flags,
        ]  # fmt: skip
        run(["-m", "megatron_bielik.pretrain", *options], processes)
        return [record["loss"] for record in records(tmp_path / name)]

    plain = train("bf16", 1)
    tp2 = ("--parallel.tensor_parallel_size=2", "--parallel.sequence_parallel=true")
    eight = train("fp8", 2, "--model.fp8=rowwise", *tp2)
    assert plain[-1] < plain[0] - 0.05
    assert eight == pytest.approx(plain, rel=5e-3)
    assert eight != plain


def test_options_that_do_not_fit(run: Callable[..., Any], tmp_path: Path) -> None:
    base = ["-m", "megatron_bielik.pretrain", "--dry_run", "--model.fp8=rowwise"]
    done = run([*base, "--training.precision=fp32"], check=False)
    assert done.returncode == 2
    assert "model.fp8 is rowwise, which needs training.precision bf16" in done.stderr
    done = run([*base, "--model.hidden_size=136", "--model.ffn_hidden_size=360"], check=False)
    assert done.returncode == 2
    assert "hidden_size is 136" in done.stderr
