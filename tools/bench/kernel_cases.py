"""What tools/bench/kernels.py measures: every kernel at the sizes of both models, its work, and who else does that work.

Work is counted by hand. Bytes: what must move once (the roofline), parameters and tables of cosines left out. FLOPs: 2 per
multiply-add; of attention the causal half; of the chunked loss without its second computation of the logits.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from megatron_bielik.kernels import adamw, attention, cross_entropy, embedding, fp8, rope, weight_gradient
from megatron_bielik.kernels.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_reference
from megatron_bielik.kernels.rms_norm import add_rms_norm, add_rms_norm_reference, rms_norm, rms_norm_reference
from megatron_bielik.kernels.swiglu import swiglu, swiglu_reference
from megatron_bielik.presets import PRESETS, ModelShape

Function = Callable[..., Any]
MODELS = (PRESETS["bielik-1.5b-v3"], PRESETS["bielik-4.5b-v3"])
TINY = (replace(PRESETS["tiny"], ffn_hidden_size=176, vocab_size=336),)
EPS = 1e-6
LR, BETAS, ADAM_EPS, DECAY = ADAMW = (1e-4, (0.9, 0.95), 1e-8, 0.1)


@dataclass(frozen=True)
class Contender:
    """A function of the inputs that gives tensors or changes the first input, and gradients: none, no backward pass."""

    function: Function
    grads: tuple[Tensor, ...] = ()
    before_backward: Function | None = None  # called with the outputs before every backward pass


# Inputs, and who works on them: ours, eager, compile (what is to be compiled), liger, and others by name.
Contest = tuple[tuple[Tensor, ...], dict[str, Contender]]


@dataclass(frozen=True)
class Case:
    """A kernel at one size."""

    name: str
    detail: str
    tokens: int  # 0 where they do not matter
    unit: Literal["bytes", "flops"]
    work: tuple[float, ...]  # of the forward and the backward pass, or of the only pass
    build: Callable[[torch.device], Contest]  # on a device, with new tensors of always the same values
    tolerance: float  # of |ours - eager| / |eager|


def make_cases(token_counts: list[int], tiny: bool = False) -> list[Case]:
    """All cases, those of one kernel together; tiny: shapes for Triton's interpreter."""
    cases: dict[tuple[str, str, int], Case] = {}  # what both models have in common comes once

    def add(name: str, detail: str, unit: Any, work: tuple[float, ...], build: Function, *sizes: Any) -> None:
        tokens, tolerance = sizes[1] if len(sizes) > 1 else 0, 0.08 if build is _fp8 else 0.02
        cases[name, detail, tokens] = Case(
            name, detail, tokens, unit, work, functools.partial(build, *sizes), tolerance
        )

    for m, t in itertools.product(TINY if tiny else MODELS, token_counts):
        h, f, v = m.hidden_size, m.ffn_hidden_size, m.vocab_size
        heads = f"{m.num_attention_heads}/{m.num_query_groups} heads"
        row, ffn, qk, fc1 = t * h, t * f, t * (m.query_size + m.kv_size), 4 * t * h * f
        touched = token_ids(t, v).unique().numel() * h
        add("rms_norm", f"hidden {h}", "bytes", (4 * row, 6 * row), _rms_norm, m, t)
        add("add_rms_norm", f"hidden {h}, bias", "bytes", (8 * row, 8 * row), _add_rms_norm, m, t)
        add("rotate_qkv", f"{heads} of {m.head_dim}", "bytes", (4 * qk, 4 * qk), _rotate_qkv, m, t)
        add("swiglu", f"FFN {f}, bias", "bytes", (6 * ffn, 10 * ffn), _swiglu, m, t)
        add("vocab_parallel_cross_entropy", f"{v} columns", "bytes", (2 * t * v, 4 * t * v), _cross_entropy, m, t)
        add("accumulate_embedding_gradient", f"hidden {h}", "bytes", (2 * row + 8 * touched,), _embedding, m, t)
        add("accumulate_weight_gradient", f"{2 * f} x {h}", "flops", (fc1,), _weight_gradient, m, t)
        add("linear_cross_entropy", f"{v} x {h}", "flops", (2 * row * v, 4 * row * v), _linear_loss, m, t)
        for length in (some for some in ((16, 32) if tiny else (4096, 8192)) if t % some == 0):
            flops, detail = 2 * t * length * m.query_size, f"{heads}, documents of {length}"
            add("document_attention", detail, "flops", (flops, 2.5 * flops), _attention, m, t, length)
        for scaling in ("tensorwise", "rowwise"):
            add("fp8_linear_forward", f"{2 * f} x {h}, {scaling}", "flops", (fc1,), _fp8, m, t, scaling)
    layers = 2 if tiny else 8
    sizes = parameter_sizes(TINY[0] if tiny else MODELS[0], layers)
    detail = f"{layers} layers, {sum(sizes) / 1e6:.3g} M parameters"
    add("MultiTensorAdamW", detail, "bytes", (30 * sum(sizes),), _adamw, sizes)
    add("gradient_square_sum", detail, "bytes", (4 * sum(sizes),), _gradient_norm, sizes)
    order = list(dict.fromkeys(case.name for case in cases.values()))
    return sorted(cases.values(), key=lambda case: order.index(case.name))


def parameter_sizes(model: ModelShape, layers: int) -> list[int]:
    """Elements of every weight, bias and norm of some layers."""
    h, f, q, qkv = model.hidden_size, model.ffn_hidden_size, model.query_size, model.query_size + 2 * model.kv_size
    return [h, qkv * h, qkv, q * h, h, h, 2 * f * h, 2 * f, f * h, h] * layers


@functools.cache
def token_ids(tokens: int, vocabulary: int) -> Tensor:
    """Ids whose frequencies fall as in text, 1 / rank, on the host: some rows of an embedding are met very often."""
    weights = 1 / torch.arange(1, vocabulary + 1, dtype=torch.float64)
    return torch.multinomial(weights, tokens, replacement=True, generator=torch.Generator().manual_seed(1))


def _normal(device: torch.device, *shapes: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(1)
    return [torch.randn(shape, generator=generator, device=device, dtype=dtype) for shape in shapes]


def _contest(
    inputs: tuple[Tensor, ...], ours: Function, eager: Function, *grads: Tensor, leaves: int = 0, compiles: bool = True,
    **others: Function,
) -> Contest:  # fmt: skip
    """The first `leaves` inputs get gradients."""
    for leaf in inputs[:leaves]:
        leaf.requires_grad_()
    everyone = {"ours": ours, "eager": eager, **({"compile": eager} if compiles else {}), **others}
    return inputs, {name: Contender(function, grads) for name, function in everyone.items()}


def _liger(name: str, *arguments: Any, **options: Any) -> Any:
    from liger_kernel.transformers import functional

    return getattr(functional, name)(*arguments, **options)


def _rms_norm(model: ModelShape, tokens: int, device: torch.device) -> Contest:
    x, weight, dy = _normal(device, (tokens, model.hidden_size), (model.hidden_size,), (tokens, model.hidden_size))
    ours, eager = (functools.partial(function, eps=EPS) for function in (rms_norm, rms_norm_reference))
    liger = functools.partial(_liger, "liger_rms_norm", eps=EPS, in_place=False)
    return _contest((x, weight), ours, eager, dy, leaves=2, liger=liger)


def _add_rms_norm(model: ModelShape, tokens: int, device: torch.device) -> Contest:
    wide, narrow = (tokens, model.hidden_size), (model.hidden_size,)
    x, bias, residual, weight, dh, dy = _normal(device, wide, narrow, wide, narrow, wide, wide)
    ours, eager = (functools.partial(function, eps=EPS) for function in (add_rms_norm, add_rms_norm_reference))
    theirs = functools.partial(_liger, "liger_fused_add_rms_norm", eps=EPS, in_place=False)  # knows no bias; gives y, h
    return _contest(
        (x, bias, residual, weight), ours, eager, dh, dy, leaves=4, liger=lambda x, b, r, w: theirs(x + b, r, w)[::-1]
    )  # fmt: skip


def _rotate_qkv(model: ModelShape, tokens: int, device: torch.device) -> Contest:
    heads, groups, dim = model.num_attention_heads, model.num_query_groups, model.head_dim
    queries, keys = (tokens, heads, dim), (tokens, groups, dim)
    qkv, dq, dk, dv = _normal(device, (tokens, groups, heads // groups + 2, dim), queries, keys, keys)
    cos, sin = rope.rope_cos_sin(torch.arange(tokens, device=device), dim, model.rope_theta, torch.bfloat16)
    both_halves = [torch.cat((half, half), -1)[None] for half in (cos, sin)]

    def liger(qkv: Tensor, *unused: Tensor) -> tuple[Tensor, ...]:
        heads_first = (x.transpose(0, 1)[None] for x in (qkv[:, :, :-2].flatten(1, 2), qkv[:, :, -2]))
        q, k = _liger("liger_rope", *heads_first, *both_halves)
        return q[0].transpose(0, 1), k[0].transpose(0, 1), qkv[:, :, -1]

    return _contest((qkv, cos, sin), rope.rotate_qkv, rope.rotate_qkv_reference, dq, dk, dv, leaves=1, liger=liger)


def _swiglu(model: ModelShape, tokens: int, device: torch.device) -> Contest:
    ffn = model.ffn_hidden_size
    x, bias, dy = _normal(device, (tokens, 2 * ffn), (2 * ffn,), (tokens, ffn))

    def liger(x: Tensor, bias: Tensor) -> Tensor:
        # Its form for one buffer, as its Megatron patch uses it: liger_swiglu would copy both halves. It knows no bias.
        from liger_kernel.ops import LigerFusedGateUpSiLUMulFunction

        return LigerFusedGateUpSiLUMulFunction.apply(x + bias, False)

    return _contest((x, bias), swiglu, swiglu_reference, dy, leaves=2, liger=liger)


def _cross_entropy(model: ModelShape, tokens: int, device: torch.device) -> Contest:
    columns = model.vocab_size
    (logits,), labels = _normal(device, (tokens, columns)), token_ids(tokens, columns).to(device)
    ones = torch.ones(tokens, device=device)
    ours = functools.partial(cross_entropy.vocab_parallel_cross_entropy, first_row=0, vocab_size=columns, group=None)

    def again(loss: Tensor) -> None:
        loss.grad_fn.of = cross_entropy.Targets(labels, 0, columns)

    inputs, contenders = _contest(
        (logits, labels), ours, cross_entropy.cross_entropy_reference, ones, leaves=1,
        cross_entropy=lambda z, y: F.cross_entropy(z, y, reduction="none").float(),
    )  # fmt: skip
    # Ours refuses a second backward pass, since the first has overwritten the logits: for a timing any values do.
    contenders["ours"] = Contender(ours, (ones,), again)
    contenders["liger"] = _sum_of_losses("liger_cross_entropy", device)
    return inputs, contenders


def _linear_loss(model: ModelShape, tokens: int, device: torch.device) -> Contest:
    columns, hidden = model.vocab_size, model.hidden_size
    (x, weight), labels = _normal(device, (tokens, hidden), (columns, hidden)), token_ids(tokens, columns).to(device)
    weight /= hidden**0.5
    ours = functools.partial(linear_cross_entropy, first_row=0, vocab_size=columns, group=None)
    inputs, contenders = _contest(
        (x, weight, labels), ours, linear_cross_entropy_reference, torch.ones(tokens, device=device), leaves=2,
        cross_entropy=lambda x, w, y: F.cross_entropy(F.linear(x, w), y, reduction="none").float(),
    )  # fmt: skip
    contenders["liger"] = _sum_of_losses("liger_fused_linear_cross_entropy", device, accum_dtype=torch.float32)
    return inputs, contenders


def _sum_of_losses(name: str, device: torch.device, **options: Any) -> Contender:
    """Liger's best case: the gradient is made in the forward pass and the backward pass has nothing to do."""
    return Contender(lambda *a: _liger(name, *a, reduction="sum", **options), (torch.ones((), device=device),))


def _embedding(model: ModelShape, tokens: int, device: torch.device) -> Contest:
    rows, hidden = model.vocab_size, model.hidden_size
    (grad,), ids = _normal(device, (tokens, hidden)), token_ids(tokens, rows).to(device)
    buffer = torch.zeros(rows, hidden, device=device)
    of_torch = torch.ops.aten.embedding_dense_backward  # that of F.embedding
    return _contest(
        (buffer, grad, ids), embedding.accumulate_embedding_gradient, embedding.accumulate_embedding_gradient_reference,
        embedding=lambda buffer, grad, ids: buffer.add_(of_torch(grad, ids, rows, -1, False)),
    )  # fmt: skip


def _weight_gradient(model: ModelShape, tokens: int, device: torch.device) -> Contest:
    hidden, out = model.hidden_size, 2 * model.ffn_hidden_size
    inputs = torch.zeros(out, hidden, device=device), *_normal(device, (tokens, hidden), (tokens, out))
    return _contest(inputs, weight_gradient.accumulate_weight_gradient, lambda total, x, dy: total.add_(dy.t() @ x))


def _attention(model: ModelShape, tokens: int, length: int, device: torch.device) -> Contest:
    queries, keys = ((tokens, heads, model.head_dim) for heads in (model.num_attention_heads, model.num_query_groups))
    q, k, v, dout = _normal(device, queries, keys, keys, queries)
    of = attention.stretches((length,) * (tokens // length), (length,) * (tokens // length), True, device)

    def by_document(*qkv: Tensor) -> Tensor:
        documents = ([x[rows].transpose(0, 1)[None] for x in qkv] for rows, _ in of)
        found = [F.scaled_dot_product_attention(*one, is_causal=True, enable_gqa=True)[0] for one in documents]
        return torch.cat(found, 1).transpose(0, 1)

    # On a CPU the others are one and the same kernel. The definition writes out all scores: for small shapes.
    definition = {"definition": functools.partial(attention.attention_reference, of=of)} if model in TINY else {}
    return _contest(
        (q, k, v), functools.partial(attention.document_attention, of=of), by_document, dout, leaves=3, compiles=False,
        cuDNN=functools.partial(attention.document_attention, of=of, backend="cudnn"), **definition,
    )  # fmt: skip


def _fp8(model: ModelShape, tokens: int, scaling: fp8.Scaling, device: torch.device) -> Contest:
    x, weight = _normal(device, (tokens, model.hidden_size), (2 * model.ffn_hidden_size, model.hidden_size))
    ours = functools.partial(fp8.fp8_linear_forward, scaling=scaling)
    # Compiled is ours, whose rounding is many passes over x in plain torch.
    return _contest((x, weight), ours, F.linear, compiles=False, compile=ours)


def _adamw(sizes: list[int], device: torch.device) -> Contest:
    grads = _normal(device, *((size,) for size in sizes), dtype=torch.float32)
    params, exp_avgs, exp_avg_sqs = ([torch.zeros(size, device=device) for size in sizes] for _ in range(3))
    weights = [torch.zeros(size, dtype=torch.bfloat16, device=device) for size in sizes]
    optimizer = adamw.MultiTensorAdamW(params, grads, exp_avgs, exp_avg_sqs, weights)
    scale = torch.ones((), device=device)

    def ours() -> list[Tensor]:
        optimizer.step(LR, *BETAS, ADAM_EPS, DECAY, 1, scale)
        return [*params, *weights]

    def torchs(**kind: bool) -> Function:
        leaves = [torch.nn.Parameter(param) for param in params]  # in the same memory
        for leaf, grad in zip(leaves, grads, strict=True):
            leaf.grad = grad
        theirs = torch.optim.AdamW(leaves, *ADAMW, **kind)

        def step() -> list[Tensor]:
            theirs.step()
            torch._foreach_copy_(weights, params)
            return [*params, *weights]

        return step

    return _contest((), ours, torchs(foreach=True), compiles=False, fused=torchs(fused=True))


def _gradient_norm(sizes: list[int], device: torch.device) -> Contest:
    grads = _normal(device, *((size,) for size in sizes), dtype=torch.float32)
    foreach = functools.partial(torch.nn.utils.get_total_norm, grads, foreach=True)
    return _contest((), lambda: adamw.gradient_square_sum(grads), lambda: foreach().square(), compiles=False)
