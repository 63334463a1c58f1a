"""Attention over packed documents against the scores written out in float64, whole and merged from parts."""

from __future__ import annotations

import pytest
import torch

from megatron_bielik.kernels import attention
from megatron_bielik.kernels.attention import (
    attention_backward,
    attention_forward,
    attention_reference,
    document_attention,
    stretches,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def inputs(
    tokens: int, keys: int, heads: int, groups: int, dim: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q with strided rows, as a view of one packed buffer; k and v as well."""
    generator = torch.Generator().manual_seed(tokens + keys + heads)
    q = torch.randn(tokens, heads + 2, dim, generator=generator).to(DEVICE, dtype)[:, :heads]
    kv = torch.randn(keys, groups, 2, dim, generator=generator).to(DEVICE, dtype)
    return q, kv[:, :, 0], kv[:, :, 1]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize("lengths", [(1,), (7, 1, 24), (64,), (5, 130)])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
def test_against_the_definition(
    lengths: tuple[int, ...], heads: int, groups: int, dtype: torch.dtype, tolerance: float
) -> None:
    tokens = sum(lengths)
    leaves = [x.detach().clone().requires_grad_() for x in inputs(tokens, tokens, heads, groups, 16, dtype)]
    of = stretches(lengths, lengths, True, DEVICE)
    out = document_attention(*leaves, of)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    out.backward(grad)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    wanted = attention_reference(*exact, of)
    wanted.backward(grad.double())
    torch.testing.assert_close(out.double(), wanted, atol=tolerance, rtol=tolerance)
    for found, needed in zip(leaves, exact, strict=True):
        torch.testing.assert_close(found.grad.double(), needed.grad, atol=3 * tolerance, rtol=3 * tolerance)


def test_documents_do_not_see_each_other() -> None:
    q, k, v = inputs(12, 12, 2, 1, 8, torch.float64)
    packed = document_attention(q, k, v, stretches((5, 7), (5, 7), True, DEVICE))
    for rows in (slice(0, 5), slice(5, 12)):
        size = rows.stop - rows.start
        alone = document_attention(q[rows], k[rows], v[rows], stretches((size,), (size,), True, DEVICE))
        torch.testing.assert_close(packed[rows], alone, atol=1e-14, rtol=0)
    whole = document_attention(q, k, v, stretches((12,), (12,), True, DEVICE))
    assert not torch.allclose(packed[5:], whole[5:])


def test_log_sum_exp() -> None:
    q, k, v = inputs(9, 9, 4, 2, 8, torch.float64)
    _, lse = attention_forward(q, k, v, stretches((9,), (9,), True, DEVICE))
    scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(2, 1)) / 8**0.5
    wanted = scores.masked_fill(torch.ones(9, 9, dtype=torch.bool, device=DEVICE).triu(1), -torch.inf).logsumexp(-1)
    torch.testing.assert_close(lse, wanted)


@pytest.mark.parametrize("causal", [True, False])
def test_fallback_for_fp32_on_a_gpu_equals_the_kernel(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path in blocks of rows, which a CPU never takes of itself, on blocks smaller than the stretch."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", 4)
    keys = 11 if causal else 17
    q, k, v = inputs(11, keys, 4, 2, 8, torch.float32)
    of = stretches((11,), (keys,), causal, DEVICE)
    out, lse = attention_forward(q, k, v, of)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    wanted = attention_backward(grad, q, k, v, out, lse, of)

    q1, k1, v1 = (attention._heads_first(x) for x in (q, k, v))
    monkeypatch.setattr(attention, "_has_cpu_kernel", lambda x: False)
    out2, lse2 = attention._one_forward(q1, k1, v1, causal)
    torch.testing.assert_close(out2[0].transpose(0, 1), out, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lse2[0], lse, atol=1e-5, rtol=1e-5)
    grads = attention._one_backward(attention._heads_first(grad), q1, k1, v1, out2, lse2, causal)
    for found, needed in zip(grads, wanted, strict=True):
        torch.testing.assert_close(found[0].transpose(0, 1), needed, atol=2e-5, rtol=2e-5)


def test_no_square_of_scores_exists() -> None:
    """No tensor of a forward and backward pass has as many elements as the scores of one head."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (out if isinstance(out, tuple | list) else [out]) if hasattr(x, "numel"))
            return out

    leaves = [x.detach().clone().requires_grad_() for x in inputs(2048, 2048, 2, 1, 8, torch.float32)]
    with Sizes():
        document_attention(*leaves, stretches((2048,), (2048,), True, DEVICE)).sum().backward()
    assert 0 < max(sizes) < 2048 * 2048 // 4


def test_gradcheck() -> None:
    leaves = [x.detach().clone().requires_grad_() for x in inputs(6, 6, 4, 2, 4, torch.float64)]
    of = stretches((2, 4), (2, 4), True, DEVICE)
    assert torch.autograd.gradcheck(lambda q, k, v: document_attention(q, k, v, of), leaves)


def test_the_call_of_the_gpu_kernel_is_well_formed() -> None:
    """Shapes and arguments of torch's flash attention as its schema takes them; numbers need a GPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        q, k, v = (torch.empty(100, heads, 128, dtype=torch.bfloat16, device="cuda") for heads in (12, 2, 2))
        cu = torch.empty(3, dtype=torch.int32, device="cuda")
        of = attention.Stretches((60, 40), (60, 40), cu, cu)
        out, lse = attention_forward(q, k, v, of)
        assert (out.shape, lse.shape, out.device.type) == (q.shape, (12, 100), "cuda")
        grads = attention_backward(out, q, k, v, out, lse, of)
        assert [x.shape for x in grads] == [q.shape, k.shape, v.shape]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["flash", "cudnn"])
def test_gpu_backends_against_plain_torch(backend: attention.Backend) -> None:
    leaves = [x.detach().clone().requires_grad_() for x in inputs(512, 512, 12, 2, 128, torch.bfloat16)]
    of = stretches((256, 256), (256, 256), True, DEVICE)
    out = document_attention(*leaves, of, backend)
    out.backward(torch.ones_like(out))
    exact = [x.detach().float().requires_grad_() for x in leaves]
    wanted = document_attention(*exact, of, "torch")
    wanted.backward(torch.ones_like(wanted))
    torch.testing.assert_close(out.float(), wanted, atol=2e-2, rtol=2e-2)
    for found, needed in zip(leaves, exact, strict=True):
        torch.testing.assert_close(found.grad.float(), needed.grad, atol=6e-2, rtol=6e-2)


def test_equal_documents_are_one_dense_batch() -> None:
    """The form in which cuDNN takes a row, through the kernel that this device has for it."""
    q, k, v = inputs(24, 24, 4, 2, 8, torch.float64)
    wanted = document_attention(q, k, v, stretches((8,) * 3, (8,) * 3, True, DEVICE))
    torch.testing.assert_close(attention._dense(q, k, v, 8), wanted)


def test_flash_is_asked_only_for_heads_it_has_kernels_for() -> None:
    """Only what is asked of a tensor is there: no GPU is needed."""

    class OnGpu:
        is_cuda, dtype = True, torch.bfloat16

        def __init__(self, head_dim: int) -> None:
            self.head_dim = head_dim

        def size(self, dim: int) -> int:
            assert dim == -1
            return self.head_dim

    taken = [dim for dim in (2, 8, 36, 64, 128, 250, 256, 264) if attention._on_flash(OnGpu(dim), "auto")]
    assert taken == [8, 64, 128, 256]
    assert not attention._on_flash(OnGpu(128), "torch")


@pytest.mark.gpu
@pytest.mark.parametrize("dim", [36, 264])
def test_other_head_widths_work_on_a_gpu(dim: int) -> None:
    of = stretches((40, 3), (40, 3), True, DEVICE)
    q, k, v = inputs(43, 43, 4, 2, dim, torch.bfloat16)
    wanted = attention_reference(q.double(), k.double(), v.double(), of)
    torch.testing.assert_close(document_attention(q, k, v, of).double(), wanted, atol=3e-2, rtol=3e-2)
