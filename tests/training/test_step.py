"""One step as algebra: what the loss is a mean of, what moves, what decays, and that a poisoned step moves nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from megatron.core import optimizer as megatron_optimizer
from megatron.core.optimizer import distrib_optimizer

from megatron_bielik.checkpoint_files import find_checkpoint, step_of_name
from megatron_bielik.config import Config
from megatron_bielik.data.batches import Batch
from megatron_bielik.model.gpt import document_parameters
from megatron_bielik.parallel.runtime import Runtime, build_torch_adamw
from megatron_bielik.settings import as_yaml
from megatron_bielik.surgery.native_files import NativeReader
from megatron_bielik.training.step import StepResult, evaluate, train_step
from megatron_bielik.training.trainer import Trainer
from megatron_bielik.training.watchdog import Watchdog
from tests.conftest import records, run
from tests.training.in_process import small_config, train

PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "bf16"])


class Bench:
    """A prepared run whose steps the test makes itself."""

    def __init__(self, config: Config, runtime: Runtime) -> None:
        self.config, self.runtime = config, runtime
        self.trainer = Trainer(config, runtime, Watchdog(0, 0, 1))
        self.trainer.prepare()
        self.wrapped, self.optimizer = self.trainer._wrapped, self.trainer._optimizer
        (self.model,) = self.trainer._chunks
        (self.part,) = self.optimizer.chained_optimizers

    def batches(self) -> list[Batch]:
        """Micro-batches of the next step."""
        return self.trainer._loader.next_step()

    def step(self, batches: list[Batch]) -> StepResult:
        """Make a step."""
        return train_step(self.wrapped, self.optimizer, self.trainer._update, batches, self.config, self.runtime)

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of the model's weights."""
        return {name: parameter.detach().clone() for name, parameter in self.model.global_names()}

    def everything(self) -> list[torch.Tensor]:
        """A copy of weights, master weights, both moments and step counts."""
        masters = [p for group in self.part.param_groups for p in group["params"]]
        moments = [self.part.optimizer.state[p][key] for p in masters for key in ("exp_avg", "exp_avg_sq", "step")]
        return [t.detach().clone() for t in (*self.weights().values(), *masters, *moments)]

    def group_of(self, parameter: torch.nn.Parameter) -> dict[str, float]:
        """The optimizer's parameter group of a weight."""
        return self.part.param_groups[self.part.model_param_group_index_map[parameter][0]]  # type: ignore[no-any-return]


@pytest.fixture
def bench(shard: Path, tmp_path: Path, single_process: Runtime) -> Iterator[Callable[..., Bench]]:
    """Makes benches: small runs, options as for small_config."""
    made: list[Bench] = []

    def make(**options: object) -> Bench:
        config = small_config(tmp_path / "run", shard, **{"optimizer__clip_grad": 0.0, **options})
        made.append(Bench(config, single_process))
        return made[-1]

    yield make
    for one in made:
        one.trainer._loader.close()


def identical(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    """The same bits."""
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def mean_loss(model: torch.nn.Module, config: Config, batches: list[Batch]) -> tuple[float, int]:
    """The definition: float64 log-softmax of the logits, mean over the counted tokens of all micro-batches."""
    total, counted = 0.0, 0
    for batch in batches:
        documents = document_parameters(config, batch.cu_seqlens, batch.positions[0])
        with torch.no_grad():
            logits = model(batch.tokens, batch.positions, None, packed_seq_params=documents)
        vocabulary = config.model.shape().vocab_size
        log_p = logits.reshape(-1, logits.size(-1))[:, :vocabulary].double().log_softmax(-1)
        nll = -log_p.gather(1, batch.labels[0, :, None])[:, 0]
        total += float((nll * batch.loss_mask[0].double()).sum())
        counted += int(batch.loss_mask.sum())
    return total / counted, counted


def test_loss_is_the_mean_over_counted_tokens(bench: Callable[..., Bench]) -> None:
    one = bench(training__micro_batch_size=1, data__sequence_length=64)
    for _ in range(3):
        batches = one.batches()
        assert len({int(batch.loss_mask.sum()) for batch in batches}) > 1, "micro-batches count unequal numbers"
        expected, counted = mean_loss(one.model, one.config, batches)
        evaluated, tokens = evaluate(one.wrapped, batches, one.config, one.runtime)
        before = one.everything()
        assert identical(one.everything(), before)
        result = one.step(batches)
        assert result.updated
        assert result.counted_tokens == tokens == counted < 4 * 64
        assert result.loss == pytest.approx(expected, rel=1e-6)
        assert evaluated == pytest.approx(expected, rel=1e-6)


def test_accumulation_changes_nothing(bench: Callable[..., Bench]) -> None:
    whole, parts = (
        # Adam makes full-sized steps of rounding noise where a gradient is almost zero, unless epsilon is above the noise.
        bench(training__micro_batch_size=size, data__sequence_length=64, optimizer__epsilon=1e-4)
        for size in (4, 1)
    )
    for number in range(1, 4):
        ours, theirs = parts.batches(), whole.batches()
        assert (len(ours), len(theirs)) == (4, 1)
        assert len({int(batch.loss_mask.sum()) for batch in ours}) > 1
        result, expected = parts.step(ours), whole.step(theirs)
        assert result.counted_tokens == expected.counted_tokens
        assert result.loss == pytest.approx(expected.loss, rel=1e-6)
        assert result.grad_norm == pytest.approx(expected.grad_norm, rel=1e-6)
        grads = {name: p.main_grad for name, p in whole.model.global_names()}
        scale = max(float(grad.abs().max()) for grad in grads.values())
        for name, parameter in parts.model.global_names():
            error = float((parameter.main_grad - grads[name]).abs().max()) / scale
            assert error < 1e-6, f"{name} in step {number}: {error:.1e} of the largest gradient"


@PRECISIONS
def test_gradient_norm(bench: Callable[..., Bench], precision: str) -> None:
    one = bench(training__precision=precision)
    result = one.step(one.batches())
    squares = sum(float(p.main_grad.double().square().sum()) for p in one.model.parameters())
    assert result.grad_norm == pytest.approx(math.sqrt(squares) / result.counted_tokens, rel=1e-6)


@PRECISIONS
@pytest.mark.parametrize("limit", [0.0, 1e-2, 1e6])
def test_clipping(bench: Callable[..., Bench], precision: str, limit: float) -> None:
    free, clipped = bench(training__precision=precision), bench(training__precision=precision)
    clipped.config = replace(clipped.config, optimizer=replace(clipped.config.optimizer, clip_grad=limit))
    expected, result = free.step(free.batches()), clipped.step(clipped.batches())
    assert result.grad_norm == expected.grad_norm > 0.1, "the norm that is told is that before clipping"

    def gradients(of: Bench) -> torch.Tensor:
        """As the optimizer took them: the first moment of its first step is (1 - beta1) g."""
        share = 1 - of.config.optimizer.beta1
        moments = [of.part.optimizer.state[p]["exp_avg"] for p in of.optimizer.get_parameters()]
        return torch.cat([moment.flatten().double() / share for moment in moments])

    after, before = gradients(clipped), gradients(free)
    if limit == 1e-2:
        assert float(after.norm()) == pytest.approx(limit, rel=1e-3)
        torch.testing.assert_close(after / after.norm(), before / before.norm(), rtol=1e-5, atol=1e-9)
    else:
        assert torch.equal(after, before)


def poison_mask(value: float) -> Callable[[Bench, list[Batch]], list[Batch]]:
    """One token of the last micro-batch counts as NaN or infinitely often."""

    def poison(bench: Bench, batches: list[Batch]) -> list[Batch]:
        mask = batches[-1].loss_mask.clone()
        mask[0, 3] = value
        return [*batches[:-1], replace(batches[-1], loss_mask=mask)]

    return poison


def poison_gradient(value: float) -> Callable[[Bench, list[Batch]], list[Batch]]:
    """One element of one gradient, while the loss is fine: what an overflow in a backward pass does."""

    def poison(bench: Bench, batches: list[Batch]) -> list[Batch]:
        parameter = dict(bench.model.global_names())["decoder.layers.1.mlp.linear_fc2.weight"]

        def spoil(grad: torch.Tensor) -> torch.Tensor:
            handle.remove()
            parameter.main_grad.view(-1)[7] = value  # where the linear has added it; autograd's own is a place holder
            return grad

        handle = parameter.register_hook(spoil)
        return batches

    return poison


@PRECISIONS
@pytest.mark.parametrize(
    "poison",
    [poison_mask(math.inf), poison_mask(math.nan), poison_gradient(math.inf), poison_gradient(math.nan)],
    ids=["mask-inf", "mask-nan", "gradient-inf", "gradient-nan"],
)
def test_poisoned_step_moves_nothing(
    bench: Callable[..., Bench], precision: str, poison: Callable[[Bench, list[Batch]], list[Batch]]
) -> None:
    one, clean = (bench(training__precision=precision, optimizer__clip_grad=1.0) for _ in range(2))
    first, bad, last = one.batches(), one.batches(), one.batches()
    assert one.step(first).updated
    before = one.everything()
    result = one.step(poison(one, bad))
    assert not result.updated
    assert not (math.isfinite(result.loss) and math.isfinite(result.grad_norm))
    assert identical(one.everything(), before)
    # And leaves nothing behind: the next step is that of a run which never saw the bad batch.
    assert one.step(last).updated
    clean.step(first)
    clean.step(last)
    assert identical(one.everything(), clean.everything())
    assert not identical(one.everything(), before)


@PRECISIONS
def test_decay_is_of_matrices_alone(bench: Callable[..., Bench], precision: str) -> None:
    """By group, and by a step in which nothing is counted: no gradient, so that decay is all that moves a weight."""
    one = bench(training__precision=precision, optimizer__weight_decay=0.5)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in one.model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    one.optimizer.reload_model_params()
    before = one.weights()
    batches = [replace(batch, loss_mask=torch.zeros_like(batch.loss_mask)) for batch in one.batches()]
    result = one.step(batches)
    assert (result.loss, result.grad_norm, result.counted_tokens, result.updated) == (0.0, 0.0, 0, True)
    decayed = set()
    for name, parameter in one.model.global_names():
        factor = 1.0
        if parameter.ndim == 2:
            decayed.add(name.split(".")[-2])
            factor = 1 - 1e-2 * 0.5
        assert one.group_of(parameter)["weight_decay"] == (0.5 if parameter.ndim == 2 else 0.0), name
        tolerance = 1e-6 if precision == "fp32" else 2**-8
        torch.testing.assert_close(parameter.float(), before[name].float() * factor, rtol=tolerance, atol=0)
        assert torch.equal(parameter, before[name]) == (factor == 1.0), name
    assert decayed == {"word_embeddings", "output_layer", "linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"}


def test_update_is_adamw_in_float64(bench: Callable[..., Bench]) -> None:
    """Three updates against the published formula (Loshchilov and Hutter, 2019) on the same gradients."""
    one = bench(optimizer__weight_decay=0.1, optimizer__beta1=0.8, optimizer__beta2=0.9, optimizer__epsilon=1e-6)
    weights = {name: value.double() for name, value in one.weights().items()}
    first = {name: torch.zeros_like(value) for name, value in weights.items()}
    second = {name: torch.zeros_like(value) for name, value in weights.items()}
    for t in range(1, 4):
        counted = one.step(one.batches()).counted_tokens
        for name, parameter in one.model.global_names():
            grad = parameter.main_grad.double() / counted
            first[name] = 0.8 * first[name] + 0.2 * grad
            second[name] = 0.9 * second[name] + 0.1 * grad**2
            decay = 0.1 if parameter.ndim == 2 else 0.0
            update = first[name] / (1 - 0.8**t) / ((second[name] / (1 - 0.9**t)).sqrt() + 1e-6)
            weights[name] = weights[name] * (1 - 1e-2 * decay) - 1e-2 * update
            torch.testing.assert_close(parameter.double(), weights[name], rtol=1e-5, atol=1e-6, msg=name)


def test_stop_request_comes_back(bench: Callable[..., Bench]) -> None:
    one = bench()
    for request in (0, 1, 3):
        result = train_step(
            one.wrapped, one.optimizer, one.trainer._update, one.batches(), one.config, one.runtime, request
        )
        assert result.stop == request


def test_run_that_diverges_keeps_its_last_good_checkpoint(shard: Path, tmp_path: Path, single_process: Runtime) -> None:
    """A failed run exits with 1, tells why, and neither moves `latest` nor pushes good checkpoints out."""
    folder = tmp_path / "run"
    options = {"checkpoint__save_interval": 1, "checkpoint__keep_last": 2}
    train(small_config(folder, shard, training__steps=3, **options), single_process)
    good = find_checkpoint(folder)
    assert step_of_name(good.name) == 3
    config = small_config(folder, shard, training__steps=50, training__max_skipped_steps=4, **options)
    config = replace(config, optimizer=replace(config.optimizer, lr=1e30, min_lr=0.0, clip_grad=0.0))
    (tmp_path / "run.yaml").write_text(as_yaml(config))
    done = run(["-m", "megatron_bielik.pretrain", f"--config={tmp_path / 'run.yaml'}"], check=False)
    assert done.returncode == 1, done.stderr
    (stop,) = [r for r in records(folder, "event") if r["kind"] == "stop" and r["step"] > 3]
    assert "4 steps in a row were not finite (training.max_skipped_steps)" in stop["message"]
    skips = [r["step"] for r in records(folder, "event") if r["kind"] == "skip"]
    assert skips == list(range(stop["step"] - 3, stop["step"] + 1))
    assert all(r["loss"] is None or r["grad_norm"] is None for r in records(folder) if r["step"] in skips)

    newest = find_checkpoint(folder)
    last_finite = skips[0] - 1
    assert step_of_name(newest.name) == last_finite < stop["step"], "steps that changed nothing are not saved"
    assert good.is_dir(), "keep_last 2 still holds the one before the divergence"
    for checkpoint in (good, newest):
        reader = NativeReader(checkpoint)
        assert all(bool(reader.read(key).isfinite().all()) for key in reader.keys())  # noqa: SIM118


def test_checkpoint_due_at_a_skipped_step_comes_with_the_next_good_one(
    shard: Path, tmp_path: Path, single_process: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    from megatron_bielik.training import trainer as module

    def sometimes(*arguments: object) -> StepResult:
        result = train_step(*arguments)  # type: ignore[arg-type]
        taken.append(len(taken) + 1)
        return replace(result, updated=taken[-1] not in (2, 3))

    taken: list[int] = []
    monkeypatch.setattr(module, "train_step", sometimes)
    train(small_config(tmp_path / "run", shard, checkpoint__save_interval=2), single_process)
    events = records(tmp_path / "run", "event")
    assert [event["step"] for event in events if event["kind"] == "checkpoint"] == [4, 6]
    assert [event["step"] for event in events if event["kind"] == "skip"] == [2, 3]


def test_torch_adamw_is_built_beside_a_fused_one(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Apex or transformer-engine is installed megatron-core would take a FusedAdam, whose steps nobody counts here."""

    class FusedAdam:
        def __init__(self, *args: object, **options: object) -> None:
            raise AssertionError("the fused optimizer was built")

    monkeypatch.setattr(megatron_optimizer, "Adam", FusedAdam)
    monkeypatch.setattr(megatron_optimizer, "USING_PYTORCH_OPTIMIZER", False)
    monkeypatch.setattr(distrib_optimizer, "HAVE_APEX_OR_TE", True)
    with pytest.raises(AssertionError, match="fused"):
        bench()
    build_torch_adamw()
    assert not distrib_optimizer.HAVE_APEX_OR_TE
    assert type(bench().part.optimizer) is torch.optim.AdamW
