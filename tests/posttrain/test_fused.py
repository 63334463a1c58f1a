"""Kernels in a transformers model: losses, gradients, tokens and files are those of the model as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from megatron_bielik.kernels.dispatch import forced_kernels
from megatron_bielik.posttrain.fused import NAMES, put_kernels
from megatron_bielik.posttrain.fused_head import FusedError, token_log_probs, token_metrics

KINDS = ("qwen2", "qwen2-tied", "bielik")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Make = Callable[..., Any]


def batch(rows: int = 2, length: int = 21, packed: bool = False) -> dict[str, torch.Tensor]:
    """Tokens with a third of the labels ignored; packed: three documents a row, each from position 0."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(1001, (rows, length), generator=generator)
    labels = tokens.masked_fill(torch.rand(rows, length, generator=generator) < 0.33, -100)
    found = {"input_ids": tokens, "labels": labels}
    if packed:
        found["position_ids"] = torch.cat([torch.arange(n) for n in (9, 1, length - 10)]).repeat(rows, 1)
    return {name: value.to(DEVICE) for name, value in found.items()}


def two_models(hf_model: Make, kind: str, names: Sequence[str], **options: Any) -> tuple[Any, Any]:
    """The same model without and with kernels, training."""
    plain, fused = (hf_model(kind, **options).to(DEVICE).train() for _ in range(2))
    put_kernels(fused, names)
    return plain, fused


def run(model: Any, **inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def assert_near(found: Any, wanted: Any, tolerance: float) -> None:
    """Relative to the largest element of each gradient; the loss to a fifth of that."""
    loss, gradients = found
    torch.testing.assert_close(loss, wanted[0], rtol=tolerance / 5, atol=0)
    assert set(gradients) == set(wanted[1])
    for name, gradient in wanted[1].items():
        worst = (gradients[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-30)
        assert worst < tolerance, f"{name}: {worst:.1e}"


@pytest.mark.parametrize("names", [*((name,) for name in NAMES), NAMES])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [False, True])
def test_loss_and_gradients(hf_model: Make, kind: str, names: tuple[str, ...], packed: bool) -> None:
    plain, fused = two_models(hf_model, kind, names)
    inputs = batch(packed=packed)
    assert_near(run(fused, **inputs), run(plain, **inputs), 5e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_in_float64_it_is_the_same_function(hf_model: Make, kind: str) -> None:
    """What is left at 32 bits is rounding: at 64 bits norm, SwiGLU and loss agree to 12 digits (transformers' norm and
    angles are fp32)."""
    plain, fused = two_models(hf_model, kind, ("swiglu", "rope", "cross_entropy"), dtype=torch.float64)
    inputs = batch(packed=True)
    wanted = plain(**{k: v for k, v in inputs.items() if k != "labels"}).logits[:, :-1].double()
    log_probs = wanted.log_softmax(-1)
    labels = inputs["labels"][:, 1:]
    picked = log_probs.gather(-1, labels.clamp(min=0)[..., None])[..., 0].masked_fill(labels == -100, 0)
    loss = -picked.sum() / (labels != -100).sum()
    loss.backward()
    gradients = {name: p.grad for name, p in plain.named_parameters()}
    assert_near(run(fused, **inputs), (loss.detach(), gradients), 1e-12)


@pytest.mark.parametrize("kind", ["qwen2", "bielik"])
def test_bf16(hf_model: Make, kind: str) -> None:
    """No further from fp32 than the untouched bf16 model is."""
    exact = run(hf_model(kind).to(DEVICE).train(), **batch())
    plain, fused = (run(m, **batch()) for m in two_models(hf_model, kind, NAMES, dtype=torch.bfloat16))
    for name, gradient in exact[1].items():
        if gradient.abs().max() < 1e-6:  # the key's bias, which softmax does not see
            continue
        found, theirs = ((g[1][name].float() - gradient).norm() / gradient.norm() for g in (fused, plain))
        assert found < max(1.2 * theirs, 0.02), f"{name}: {found:.1e}, as it was {theirs:.1e}"
    assert abs(fused[0].float() - exact[0]) < max(1.5 * abs(plain[0].float() - exact[0]), 0.02)


def test_autocast(hf_model: Make) -> None:
    """Weights in fp32, products in bf16: forward and backward in the same types as the untouched model."""
    results = []
    for model in two_models(hf_model, "bielik", NAMES):
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            loss = model(**batch()).loss
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        assert all(g.dtype == torch.float32 for g in gradients.values())
        results.append((loss.detach(), gradients))
    (plain_loss, plain), (loss, fused) = results
    torch.testing.assert_close(loss.float(), plain_loss.float(), rtol=5e-3, atol=0)
    for name, gradient in plain.items():
        if gradient.abs().max() > 1e-4:
            assert (fused[name] - gradient).norm() / gradient.norm() < 0.05, name


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(hf_model: Make, reentrant: bool) -> None:
    plain, fused = two_models(hf_model, "qwen2", NAMES)
    fused.gradient_checkpointing_enable({"use_reentrant": reentrant})
    calls = []
    hook = fused.model.layers[0].input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    fused.enable_input_require_grads()
    found = run(fused, **batch())
    hook.remove()
    assert len(calls) == 2
    assert_near(found, run(plain, **batch()), 5e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_generation_with_a_cache(hf_model: Make, kind: str) -> None:
    plain, fused = (m.eval() for m in two_models(hf_model, kind, NAMES))
    tokens = batch(2, 7)["input_ids"]
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0  # the first row is shorter, padded on the left
    options = {
        "attention_mask": mask,
        "max_new_tokens": 12,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    assert torch.equal(fused.generate(tokens, **options), plain.generate(tokens, **options))


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_the_same_bytes(hf_model: Make, kind: str, tmp_path: Path) -> None:
    plain, fused = two_models(hf_model, kind, NAMES)
    for name, model in (("plain", plain), ("fused", fused)):
        model.save_pretrained(tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "fused").iterdir())
    for name in names:
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "fused" / name).read_bytes()
    assert load_file(tmp_path / "fused" / "model.safetensors")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "fused", attn_implementation="eager").to(DEVICE).train()
    assert_near(run(fused, **batch()), run(again, **batch()), 5e-6)


def test_a_copy_is_a_model_of_its_own(hf_model: Make) -> None:
    """DPO's reference is a copy: it must not follow the model's weights."""
    _, fused = two_models(hf_model, "qwen2", NAMES)
    other = copy.deepcopy(fused)
    inputs = batch()
    before = (other(**inputs).loss.item(), other.eval()(**inputs).loss.item())
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.mul_(1.5)
    assert (other.train()(**inputs).loss.item(), other.eval()(**inputs).loss.item()) == before
    assert fused(**inputs).loss.item() != before[0]


def test_other_models_are_untouched_and_a_second_time_changes_nothing(hf_model: Make) -> None:
    plain, fused = two_models(hf_model, "qwen2", NAMES)
    assert not any("forward" in module.__dict__ for module in plain.modules())
    head = fused.forward
    put_kernels(fused)
    assert fused.forward == head
    assert_near(run(fused, **batch()), run(plain, **batch()), 5e-6)


def test_a_linear_that_is_more_than_a_linear_is_called(hf_model: Make) -> None:
    plain, fused = two_models(hf_model, "bielik", ("swiglu",))
    for model in (plain, fused):
        first, second, third = (layer.mlp for layer in model.model.layers)
        first.gate_proj.register_forward_hook(lambda module, inputs, output: 2 * output)
        second.up_proj.register_forward_pre_hook(lambda module, inputs: (-inputs[0],))
        third.gate_proj.forward = lambda x, linear=third.gate_proj: nn.Linear.forward(linear, x).sin()
    assert_near(run(fused, **batch()), run(plain, **batch()), 5e-6)


def test_lora_linears_are_called(hf_model: Make) -> None:
    class Adapted(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 0.5 * x.mean(-1, keepdim=True)

    plain, fused = two_models(hf_model, "qwen2", NAMES)
    for model in (plain, fused):
        model.model.layers[0].mlp.up_proj.__class__ = Adapted
        model.model.layers[0].self_attn.q_proj.__class__ = Adapted
    assert_near(run(fused, **batch()), run(plain, **batch()), 5e-6)


def test_log_probs_and_metrics(hf_model: Make) -> None:
    model = hf_model("bielik").to(DEVICE)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2050, 96, generator=generator).to(DEVICE)
    labels = torch.randint(1001, (2050,), generator=generator).to(DEVICE)
    logits = (hidden @ model.lm_head.weight.t()).double()
    labels[::3] = logits[::3].argmax(-1)
    labels[5:900] = -100
    counted = labels != -100
    wanted = logits.log_softmax(-1)
    picked = wanted.gather(-1, labels.clamp(min=0)[:, None])[:, 0]
    found = token_log_probs(model, hidden, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), torch.where(counted, picked, 0), rtol=1e-5, atol=1e-5)
    entropy, is_top1, mean_logits = token_metrics(model, hidden, labels)
    torch.testing.assert_close(mean_logits.double(), torch.where(counted, logits.mean(-1), 0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        entropy.double(), torch.where(counted, -(wanted.exp() * wanted).sum(-1), 0), rtol=1e-5, atol=1e-5
    )
    assert torch.equal(is_top1, counted & (logits.argmax(-1) == labels))
    assert 0 < is_top1.sum() < counted.sum()


@pytest.mark.parametrize("items", [None, 7])
def test_against_the_head_of_trl(hf_model: Make, items: int | None) -> None:
    """The same fields, values and gradients."""
    from trl.trainer.utils import add_fused_lm_head

    plain, fused = two_models(hf_model, "qwen2", ())
    for model in (plain, fused):
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1", "mean_logits"))
    put_kernels(fused, ("cross_entropy",))
    inputs = {**batch(), "fused_lm_head": True, "num_items_in_batch": items}
    theirs, ours = plain(**inputs), fused(**inputs)
    for name in ("loss", "log_probs", "entropy", "is_top1", "mean_logits", "label_mask"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-5)
    assert fused(**inputs, metrics=False).entropy is None
    assert_near(run(fused, **inputs), run(plain, **inputs), 5e-6)
    shifted = {**inputs, "shift_labels": inputs["labels"].roll(-1, 1)}
    del shifted["labels"]
    torch.testing.assert_close(fused(**shifted).log_probs, plain(**shifted).log_probs, rtol=1e-5, atol=1e-5)


def test_without_a_label_the_loss_is_a_differentiable_zero(hf_model: Make) -> None:
    _, fused = two_models(hf_model, "qwen2-tied", NAMES)
    inputs = batch()
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    loss, gradients = run(fused, **inputs)
    assert loss == 0
    assert all(g is not None and not g.any() for g in gradients.values())
    assert not fused(**inputs, fused_lm_head=True).entropy.any()


def test_logits_are_there_where_they_are_asked_for(hf_model: Make) -> None:
    plain, fused = two_models(hf_model, "qwen2", ("cross_entropy",))
    inputs = batch()
    assert fused(**inputs).logits is None
    assert fused(inputs["input_ids"]).logits is not None
    assert fused(**inputs, return_dict=False)[1].shape == (2, 21, 1001)
    found, wanted = (m.eval()(**inputs) for m in (fused, plain))
    assert torch.equal(found.logits, wanted.logits)
    assert torch.equal(found.loss, wanted.loss)


@pytest.mark.parametrize("names", [*((name,) for name in NAMES), NAMES])
def test_with_the_kernels_themselves(hf_model: Make, names: tuple[str, ...]) -> None:
    """Through Triton's interpreter where there is no GPU."""
    pytest.importorskip("triton")
    plain, fused = two_models(hf_model, "bielik", names, num_hidden_layers=1)
    inputs = batch(2, 11, packed=False)
    with forced_kernels():
        found = run(fused, **inputs)
    assert_near(found, run(plain, **inputs), 5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_under_fsdp(hf_model: Make, kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """FSDP2 changes the classes of modules and what their parameters are, outside of their own forward passes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.FileStore(str(tmp_path / "store"), 1))
    try:
        options = {"mesh": init_device_mesh("cpu", (1,)), "mp_policy": MixedPrecisionPolicy(dtype, torch.float32)}
        results = []
        for model in two_models(hf_model, kind, NAMES):
            for layer in model.model.layers:
                fully_shard(layer, **options)
            fully_shard(model, **options)
            loss, gradients = run(model.cpu(), **{name: value.cpu() for name, value in batch().items()})
            results.append((loss.float(), {name: g.full_tensor() for name, g in gradients.items()}))
        plain, fused = results
        assert_near(fused, plain, 5e-6 if dtype is torch.float32 else 0.05)
    finally:
        dist.destroy_process_group()


def test_under_the_trainer_of_trl(hf_model: Make, tmp_path: Path) -> None:
    """As SFTTrainer is, checkpointing included: the same losses, entropies and hits."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(1001)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w2")
    rows = Dataset.from_list([{"input_ids": row.tolist()} for row in batch(8, 15)["input_ids"]])
    logs = []
    for names in ((), NAMES):
        options = SFTConfig(
            str(tmp_path / str(len(names))), max_steps=2, per_device_train_batch_size=4, report_to=[], logging_steps=1,
            bf16=False, gradient_checkpointing=True, disable_tqdm=True, learning_rate=1e-3, save_strategy="no",
        )  # fmt: skip
        trainer = SFTTrainer(hf_model("bielik"), options, train_dataset=rows, processing_class=tokenizer)
        put_kernels(trainer.model, names)
        assert ("metrics" in trainer.model.forward.__func__.__code__.co_varnames) == bool(names)
        trainer.train()
        logs.append(trainer.state.log_history[:2])
    for plain, fused in zip(*logs, strict=True):
        for name in ("loss", "grad_norm", "entropy", "mean_token_accuracy"):
            assert fused[name] == pytest.approx(plain[name], rel=1e-4), name


@pytest.mark.parametrize(
    ("change", "names", "message"),
    [
        ({}, ("norm", "softmax"), "unknown name 'softmax', needs some of norm, swiglu"),
        ({"hidden_act": "gelu"}, NAMES, "hidden_act is gelu, swiglu needs silu"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    hf_model: Make, change: dict[str, Any], names: tuple[str, ...], message: str
) -> None:
    model = hf_model("qwen2", **change)
    with pytest.raises(FusedError, match=message) as caught:
        put_kernels(model, names)
    assert "\n" not in str(caught.value)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_other_models_are_refused(hf_model: Make) -> None:
    other = GPT2LMHeadModel(GPT2Config(vocab_size=10, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(FusedError, match="not GPT2LMHeadModel"):
        put_kernels(other)
    model = hf_model("qwen2")
    model.model.norm.forward = lambda x: x
    with pytest.raises(FusedError, match="Qwen2RMSNorm was replaced before"):
        put_kernels(model)
    model = hf_model("qwen2")
    model.lm_head.bias = nn.Parameter(torch.zeros(1001))
    with pytest.raises(FusedError, match="with a bias: leave cross_entropy out"):
        put_kernels(model, ("cross_entropy",))
