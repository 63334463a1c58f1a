"""Stage 1 trains a part, stage 2 the whole: what is frozen keeps its bits, and what was trained keeps its moments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_bielik.checkpoint_files import CHECKPOINTS, name_of_step
from megatron_bielik.config import Config, TrainingConfig
from megatron_bielik.model.gpt import BielikModel, build_model
from megatron_bielik.model.initialization import initialize
from megatron_bielik.parallel.runtime import Runtime
from megatron_bielik.surgery.native_files import NativeReader
from megatron_bielik.training.freezing import apply_patterns, trainable_patterns
from megatron_bielik.training.schedule import learning_rate
from tests.conftest import records
from tests.training.in_process import small_config, train

# The recipe's stage 1: matrices only, so that the optimizer has one parameter group, and two after the unfreezing.
EMBEDDINGS = ["^embedding", "^output_layer"]
MOMENTS = ("exp_avg", "exp_avg_sq")


def model_of(folder: Path, **options: object) -> list[BielikModel]:
    """The small model, filled."""
    config = small_config(folder, **options)
    chunks = build_model(config)
    initialize(chunks, config)
    return chunks


def trained_names(chunks: list[BielikModel]) -> set[str]:
    """Names of the parameters that are trained."""
    return {name for chunk in chunks for name, parameter in chunk.global_names() if parameter.requires_grad}


def stored(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """All tensors of a step's checkpoint."""
    reader = NativeReader(folder / CHECKPOINTS / name_of_step(step))
    return {key: reader.read(key) for key in reader.keys()}  # noqa: SIM118


def weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The model's part of a checkpoint."""
    return {key: tensor for key, tensor in tensors.items() if not key.startswith("optimizer.")}


def with_state(tensors: dict[str, torch.Tensor]) -> set[str]:
    """Names that have moments in a checkpoint."""
    prefix = "optimizer.state.exp_avg."
    return {key.removeprefix(prefix) for key in tensors if key.startswith(prefix)}


# ---- patterns ----


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ([], lambda name: True),
        ([""], lambda name: True),
        (EMBEDDINGS, lambda name: name.split(".")[0] in ("embedding", "output_layer")),
        ([r"layers\.1\."], lambda name: ".layers.1." in name),
        (["norm", r"linear_fc1\.bias$"], lambda name: "norm" in name or name.endswith("linear_fc1.bias")),
    ],
)
def test_patterns_choose_by_name(
    patterns: list[str], chosen: Callable[[str], bool], tmp_path: Path, single_process: Runtime
) -> None:
    chunks = model_of(tmp_path)
    counts = apply_patterns(chunks, patterns)
    parameters = dict(chunks[0].global_names())
    assert trained_names(chunks) == {name for name in parameters if chosen(name)} != set()
    assert counts == (
        sum(p.numel() for name, p in parameters.items() if chosen(name)),
        sum(p.numel() for p in parameters.values()),
    )
    assert apply_patterns(chunks, [])[0] == counts[1], "no pattern frees everything again"


def test_pattern_that_matches_nothing(tmp_path: Path, single_process: Runtime) -> None:
    chunks = model_of(tmp_path)
    with pytest.raises(
        ValueError, match=r"training\.trainable: 'model\.embed_tokens' matches no parameter; names look"
    ):
        apply_patterns(chunks, ["^embedding", "model.embed_tokens"])


def test_layers_are_counted_over_the_whole_model(tmp_path: Path, single_process: Runtime) -> None:
    """A stage that holds layers 4 and 5 trains layer 5 under a pattern for layer 5, though it is its second."""
    chunks = model_of(tmp_path)
    for layer in chunks[0].decoder.layers:
        layer.layer_number += 4
    apply_patterns(chunks, [r"layers\.5\."])
    local = {name for name, parameter in chunks[0].named_parameters() if parameter.requires_grad}
    assert local
    assert all(name.startswith("decoder.layers.1.") for name in local)
    with pytest.raises(ValueError, match=r"'layers\.1\.' matches no parameter"):
        apply_patterns(chunks, ["layers.1."])


def gathered_with(monkeypatch: pytest.MonkeyPatch, others: list[tuple[set[str], int]]) -> None:
    """As if the job had further ranks, which found and trained this much."""
    monkeypatch.setattr(dist, "get_world_size", lambda: 1 + len(others))

    def gather(results: list[object], mine: object) -> None:
        results[:] = [mine, *others]

    monkeypatch.setattr(dist, "all_gather_object", gather)


def test_patterns_are_those_of_all_ranks(
    tmp_path: Path, single_process: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = model_of(tmp_path)
    with monkeypatch.context() as patch:
        gathered_with(patch, [({"on another rank"}, 5)])
        apply_patterns(chunks, ["^embedding", "on another rank"])
    with monkeypatch.context() as patch:
        gathered_with(patch, [({"^embedding"}, 7), (set(), 0)])
        with pytest.raises(ValueError, match=r"training\.trainable leaves rank 2 nothing to train"):
            apply_patterns(chunks, ["^embedding"])


def test_tied_copy_of_the_last_stage_follows_the_embedding(
    tmp_path: Path, single_process: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy of a tied embedding on the last pipeline stage goes by the embedding's name. Both are trained or neither."""
    from megatron.core import parallel_state

    monkeypatch.setattr(parallel_state, "is_pipeline_first_stage", lambda **_: False)
    config = small_config(tmp_path, model__tie_embeddings=True)
    (stage,) = build_model(config)
    names = dict(stage.global_names())
    assert "output_layer.weight" not in names
    assert names["embedding.word_embeddings.weight"] is stage.output_layer.weight
    apply_patterns([stage], ["^embedding"])
    assert trained_names([stage]) == {"embedding.word_embeddings.weight"}
    apply_patterns([stage], [r"layers\.0"])
    assert "embedding.word_embeddings.weight" not in trained_names([stage])
    with pytest.raises(ValueError, match="'output_layer' matches no parameter"):
        apply_patterns([stage], ["output_layer"])


def test_patterns_in_force() -> None:
    plain = TrainingConfig(trainable=["a", "b"])
    assert trainable_patterns(plain, 10**9) == ("a", "b")
    until = TrainingConfig(trainable=["a"], unfreeze_at_step=4)
    assert [trainable_patterns(until, step) for step in (0, 3, 4, 5)] == [("a",), ("a",), (), ()]
    assert trainable_patterns(TrainingConfig(), 0) == ()


# ---- runs ----


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def two_stages(
    request: pytest.FixtureRequest, shard: Path, tmp_path_factory: pytest.TempPathFactory, single_process: Runtime
) -> tuple[Config, Path]:
    """A run of 5 steps whose layers are trained from step 4 on, with every step saved, and its folder."""
    folder = tmp_path_factory.mktemp("stages") / "run"
    options = {
        "training__steps": 5,
        "training__trainable": EMBEDDINGS,
        "training__unfreeze_at_step": 3,
        "training__precision": request.param,
        "checkpoint__save_interval": 1,
        "checkpoint__keep_last": 0,
    }
    config = small_config(folder, shard, **options)
    train(config, single_process)
    return config, folder


def test_frozen_weights_keep_their_bits(two_stages: tuple[Config, Path]) -> None:
    _, folder = two_stages
    steps = {step: stored(folder, step) for step in range(1, 6)}
    for before, after in ((1, 2), (2, 3), (3, 4), (4, 5)):
        old, new = weights(steps[before]), weights(steps[after])
        moved = {name for name in old if not torch.equal(old[name], new[name])}
        if after <= 3:
            assert moved == {"embedding.word_embeddings.weight", "output_layer.weight"}
        else:
            assert {name for name in old if "bias" not in name} <= moved, "all matrices and norms"
    frozen = {name for name in weights(steps[1]) if name.startswith("decoder")}
    assert len(frozen) > 10


def test_optimizer_holds_nothing_for_frozen_weights(two_stages: tuple[Config, Path]) -> None:
    _, folder = two_stages
    embeddings = {"embedding.word_embeddings.weight", "output_layer.weight"}
    for step in (1, 2, 3):
        assert with_state(stored(folder, step)) == embeddings
    last = stored(folder, 4)
    assert with_state(last) == set(weights(last))


def test_moments_go_on_over_the_unfreezing(two_stages: tuple[Config, Path]) -> None:
    """Step 4 from step 3's stored moments by AdamW's formula: both moments, and the count of steps in the correction."""
    config, folder = two_stages
    before, after = stored(folder, 3), stored(folder, 4)
    options = config.optimizer
    lr = learning_rate(4, options, config.schedule, config.training.steps)
    for name in weights(after):
        first, second = (after[f"optimizer.state.{kind}.{name}"].double() for kind in MOMENTS)
        # A gradient follows from either moment: they must agree on it. Zero before, where a weight was frozen.
        old = [before.get(f"optimizer.state.{kind}.{name}") for kind in MOMENTS]
        old_first, old_second = (torch.zeros_like(first) if o is None else o.double() for o in old)
        grad = (first - options.beta1 * old_first) / (1 - options.beta1)
        expected = options.beta2 * old_second + (1 - options.beta2) * grad**2
        torch.testing.assert_close(second, expected, rtol=1e-3, atol=1e-9, msg=name)
        if name.startswith("decoder"):
            assert all(o is None for o in old)
        else:
            assert float(old[0].abs().max()) > 0  # type: ignore[union-attr]
        master = "optimizer.state.param."
        start = (before.get(master + name, before[name])).double()
        end = (after.get(master + name, after[name])).double()
        decay = options.weight_decay if start.ndim == 2 else 0.0
        # Megatron-core keeps one step count for all: those unfrozen at step 4 are corrected as in their fourth step.
        t = 4
        update = first / (1 - options.beta1**t) / ((second / (1 - options.beta2**t)).sqrt() + options.epsilon)
        torch.testing.assert_close(end, start * (1 - lr * decay) - lr * update, rtol=1e-5, atol=1e-6, msg=name)


def test_run_resumed_at_the_unfreezing_is_the_same(
    two_stages: tuple[Config, Path], shard: Path, tmp_path: Path, single_process: Runtime
) -> None:
    """Stage 1 ends for good at step 3, by options that say nothing of unfreezing; stage 2 adds it and goes on."""
    config, folder = two_stages
    options = {"training__trainable": EMBEDDINGS, "training__precision": config.training.precision}
    train(small_config(tmp_path / "run", shard, training__steps=3, **options), single_process)
    assert with_state(stored(tmp_path / "run", 3)) == {"embedding.word_embeddings.weight", "output_layer.weight"}
    config = small_config(tmp_path / "run", shard, training__steps=5, training__unfreeze_at_step=3, **options)
    trainer = train(config, single_process)
    assert trained_names(trainer._chunks) == set(dict(trainer._chunks[0].global_names()))
    ours, theirs = stored(tmp_path / "run", 5), stored(folder, 5)
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key]), key
    for mine, other in zip(records(tmp_path / "run"), records(folder), strict=True):
        assert (mine["loss"], mine["grad_norm"]) == (other["loss"], other["grad_norm"])


def test_stop_at_the_unfreezing(shard: Path, tmp_path: Path, single_process: Runtime) -> None:
    """A run told to stop after exactly that step saves that step's weights, not those of the checkpoint before."""
    options = {"training__trainable": EMBEDDINGS, "training__unfreeze_at_step": 2, "training__steps": 4}
    train(small_config(tmp_path / "whole", shard, **options), single_process)
    # The limit is seen after step 1 and told to all ranks in step 2.
    stopped = {**options, "training__time_limit_minutes": 1e-6, "checkpoint__save_interval": 1}
    trainer = train(small_config(tmp_path / "run", shard, **stopped), single_process)
    assert trainer.step == 2
    train(small_config(tmp_path / "run", shard, **options), single_process)
    ours, theirs = stored(tmp_path / "run", 4), stored(tmp_path / "whole", 4)
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key]), key


def test_layers_above_a_frozen_embedding_learn_when_they_are_recomputed(
    shard: Path, tmp_path: Path, single_process: Runtime
) -> None:
    """A checkpointed layer whose input has no gradient would give its weights none, without an error."""
    results = []
    for recompute in ("none", "full"):
        patterns = [r"^decoder\.layers\.1\.", r"^output_layer\."]
        config = small_config(tmp_path / recompute, shard, training__trainable=patterns, parallel__recompute=recompute)
        chunk = train(config, single_process)._chunks[0]
        results.append({name: parameter.detach() for name, parameter in chunk.global_names()})
    for name, parameter in results[0].items():
        assert torch.allclose(parameter, results[1][name], rtol=1e-6, atol=1e-7), name
