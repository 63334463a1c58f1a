"""The model against transformers: logits, loss and gradients in fp32, packed documents, recomputation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F

from megatron_bielik.config import Config, ModelConfig, ParallelConfig, TrainingConfig
from megatron_bielik.presets import ModelShape
from megatron_bielik.surgery.architecture import VOCABULARY_TENSORS, mappings
from megatron_bielik.surgery.hf_config import read_shape

pytestmark = pytest.mark.usefixtures("single_process")

KINDS = ["qwen2", "qwen2-tied", "bielik"]
LENGTHS = (1, 37, 2, 60, 29)  # documents of one row


@dataclass(frozen=True)
class Pair:
    """The same weights twice: transformers' model, and the shape and tensors ours is filled with."""

    theirs: Any
    shape: ModelShape
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest, hf_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    theirs = hf_model(request.param)
    folder: Path = tmp_path_factory.mktemp("config")
    theirs.config.save_pretrained(folder)
    shape = read_shape(folder)
    named = dict(theirs.state_dict())
    return Pair(theirs, shape, {m.native: m.merge([named[name] for name in m.theirs]) for m in mappings(shape)})


def build(pair: Pair, recompute: Literal["none", "selective", "full"] = "none") -> tuple[Any, Config]:
    """Our model with the pair's weights; rows of the vocabulary padding hold large numbers that must not matter."""
    from megatron_bielik.model.gpt import build_model
    from megatron_bielik.training.optimizer import wrap_for_training

    sizes = vars(pair.shape)
    config = Config(
        model=ModelConfig(**sizes),
        parallel=ParallelConfig(recompute=recompute),
        training=TrainingConfig(precision="fp32"),
    )
    (model,) = build_model(config)
    filled = set()
    with torch.no_grad():
        for name, parameter in model.global_names():
            weight = pair.weights[name]
            parameter.fill_(50.0)
            parameter[: weight.size(0)] = weight
            assert parameter.shape == weight.shape or name in VOCABULARY_TENSORS
            filled.add(name)
    assert filled == set(pair.weights)
    (wrapped,) = wrap_for_training([model], config.parallel)
    wrapped.zero_grad_buffer()
    return model.train(), config


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Sums of the gradients since the model was built."""
    return {name: parameter.main_grad.clone() for name, parameter in model.global_names()}


def forward(
    model: Any, config: Config, ids: torch.Tensor, lengths: Sequence[int], labels: torch.Tensor | None = None
) -> torch.Tensor:
    """ids [tokens] in documents of the given lengths -> logits [tokens, padded vocabulary], or the loss [tokens]."""
    from megatron_bielik.model.gpt import document_parameters

    positions = torch.cat([torch.arange(length) for length in lengths])
    boundaries = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    documents = document_parameters(config, boundaries, positions)
    row = None if labels is None else labels[None]
    return model(ids[None], positions[None], None, labels=row, packed_seq_params=documents)[0]


def tokens(count: int, shape: ModelShape, seed: int = 3) -> torch.Tensor:
    return torch.randint(shape.vocab_size, (count,), generator=torch.Generator().manual_seed(seed))


def test_logits_of_one_document(pair: Pair) -> None:
    model, config = build(pair)
    ids = tokens(67, pair.shape)
    with torch.no_grad():
        ours = forward(model, config, ids, [67])[:, : pair.shape.vocab_size]
        theirs = pair.theirs(ids[None]).logits[0]
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() <= 1e-4


def test_packed_documents_are_separate_calls(pair: Pair) -> None:
    """Positions restart and attention stops at each document: one call of transformers per document gives the same."""
    model, config = build(pair)
    ids = tokens(sum(LENGTHS), pair.shape)
    with torch.no_grad():
        ours = forward(model, config, ids, LENGTHS)[:, : pair.shape.vocab_size]
        theirs = torch.cat([pair.theirs(document[None]).logits[0] for document in ids.split(LENGTHS)])
        unpacked = forward(model, config, ids, [sum(LENGTHS)])[:, : pair.shape.vocab_size]
    assert (ours - theirs).abs().max() <= 1e-4
    assert (unpacked - theirs).abs().max() > 0.1  # boundaries do matter to these weights


def test_editing_one_document_leaves_the_others_bitwise(pair: Pair) -> None:
    model, config = build(pair)
    ids = tokens(sum(LENGTHS), pair.shape)
    for edited in range(len(LENGTHS)):
        start = sum(LENGTHS[:edited])
        inside = slice(start, start + LENGTHS[edited])
        changed = ids.clone()
        changed[inside] = (changed[inside] + 1) % pair.shape.vocab_size
        with torch.no_grad():
            before, after = forward(model, config, ids, LENGTHS), forward(model, config, changed, LENGTHS)
        others = torch.ones(len(ids), dtype=torch.bool)
        others[inside] = False
        assert torch.equal(before[others], after[others])
        assert not torch.equal(before[inside], after[inside])


def test_loss_and_gradients(pair: Pair) -> None:
    """transformers' own loss, and its gradient of every parameter, through the same mappings as the weights."""
    model, config = build(pair)
    ids = tokens(67, pair.shape)
    loss = forward(model, config, ids[:-1], [66], labels=ids[1:]).mean()
    loss.backward()
    pair.theirs.zero_grad()
    theirs = pair.theirs(ids[None], labels=ids[None]).loss
    theirs.backward()
    assert abs(loss.item() - theirs.item()) <= 1e-5
    expected = {name: parameter.grad for name, parameter in pair.theirs.named_parameters()}
    ours = gradients(model)
    for mapping in mappings(pair.shape):
        wanted = mapping.merge([expected[name] for name in mapping.theirs])
        found = ours[mapping.native]
        difference = (found[: wanted.size(0)] - wanted).abs().max().item()
        assert difference <= 2e-5 + 1e-4 * wanted.abs().max().item(), f"{mapping.native}: {difference}"
        assert not found[wanted.size(0) :].any(), f"{mapping.native}: vocabulary padding has a gradient"


def test_loss_is_cross_entropy_per_token(pair: Pair) -> None:
    model, config = build(pair)
    ids, labels = tokens(sum(LENGTHS), pair.shape), tokens(sum(LENGTHS), pair.shape, seed=4)
    with torch.no_grad():
        loss = forward(model, config, ids, LENGTHS, labels=labels)
        logits = torch.cat([pair.theirs(document[None]).logits[0] for document in ids.split(LENGTHS)])
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, reduction="none"), atol=1e-4, rtol=0)


def test_a_packed_row_is_the_sum_of_its_documents(pair: Pair) -> None:
    """Loss of every token, and all gradients, of a packed row against the documents run one by one."""
    ids, labels = tokens(sum(LENGTHS), pair.shape), tokens(sum(LENGTHS), pair.shape, seed=4)
    (packed, config), (alone, _) = build(pair), build(pair)
    loss = forward(packed, config, ids, LENGTHS, labels=labels)
    (loss.sum() / len(ids)).backward()
    losses = []
    for document, label in zip(ids.split(LENGTHS), labels.split(LENGTHS), strict=True):
        losses.append(forward(alone, config, document, [len(document)], labels=label))
        (losses[-1].sum() / len(ids)).backward()
    torch.testing.assert_close(loss, torch.cat(losses), atol=1e-6, rtol=1e-6)
    for (name, found), wanted in zip(gradients(packed).items(), gradients(alone).values(), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_recomputation_changes_nothing(
    pair: Pair, mode: Literal["selective", "full"], monkeypatch: pytest.MonkeyPatch
) -> None:
    from megatron_bielik.model import attention

    calls = 0
    original = attention.document_attention

    def counted(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return original(*arguments)

    monkeypatch.setattr(attention, "document_attention", counted)
    ids = tokens(sum(LENGTHS), pair.shape)
    results: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []
    for recompute in ("none", mode):
        model, config = build(pair, recompute)  # type: ignore[arg-type]
        loss = forward(model, config, ids, LENGTHS, labels=ids.roll(-1))
        loss.mean().backward()
        results.append((loss.detach(), gradients(model)))
    # Full recomputation runs attention again, selective recomputation leaves it alone.
    assert calls == pair.shape.num_layers * (1 + (2 if mode == "full" else 1))
    (plain, first), (recomputed, again) = results
    assert torch.equal(plain, recomputed)
    assert first.keys() == again.keys() == pair.weights.keys()
    for name, gradient in first.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-6, rtol=1e-6, msg=lambda m, name=name: name + m)
