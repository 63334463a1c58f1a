"""FLOPs against the formula counted by hand, document masks, peaks by device name, MFU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_bielik.presets import PRESETS, ModelShape
from megatron_bielik.training.flops import (
    dense_bf16_peak,
    flops_per_token,
    flops_with_document_masks,
    model_flops_utilisation,
)

# h 8, FFN 16, 2 query heads and 1 group of 4 -> q 8, kv 4; V 32
SMALL = ModelShape("bielik", 3, 8, 16, 2, 1, 32, 64, tie_embeddings=False, head_dim=4)


def test_formula_by_hand() -> None:
    layer = 2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16
    matrices = 3 * layer + 8 * 32
    assert flops_per_token(SMALL, 10, "causal") == 6 * matrices + 6 * 3 * 8 * 10
    assert flops_per_token(SMALL, 10, "full") == 6 * matrices + 12 * 3 * 8 * 10


def test_counts_every_matrix_product_once_forward_twice_backward() -> None:
    """An independent count: 2 m n k per product, over the products a decoder makes."""
    s, h, q, kv, f, vocabulary = 10, 8, 8, 4, 16, 32
    products = [(h, q), (h, kv), (h, kv), (q, h), (h, f), (h, f), (f, h)] * 3 + [(h, vocabulary)]
    forward = sum(2 * s * a * b for a, b in products)
    attention = 3 * 2 * (2 * s * s * q)  # scores and weighted values, every pair
    assert flops_per_token(SMALL, s, "full") == pytest.approx(3 * (forward + attention) / s)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_full_exceeds_causal_by_the_other_half_of_attention(preset: str) -> None:
    shape = PRESETS[preset]
    extra = flops_per_token(shape, 4096, "full") - flops_per_token(shape, 4096, "causal")
    assert extra == pytest.approx(6 * shape.num_layers * shape.query_size * 4096)


@pytest.mark.parametrize(
    ("preset", "layers", "length", "tokens_per_second"),
    [
        ("bielik-1.5b-v3", 32, 4096, 60_700),
        ("bielik-1.5b-v3", 32, 8192, 52_800),
        ("bielik-4.5b-v3", 56, 4096, 22_600),
        ("bielik-4.5b-v3", 56, 8192, 20_000),
    ],
)
def test_agrees_with_ceilings_computed_elsewhere(
    preset: str, layers: int, length: int, tokens_per_second: float
) -> None:
    """A roofline of one H200 (GEMM at 790 TFLOP/s, the rest memory-bound) gives 62 to 66 % MFU, causal."""
    shape = replace(PRESETS[preset], num_layers=layers)
    flops = flops_per_token(shape, length, "causal")
    assert 0.615 < model_flops_utilisation(flops, tokens_per_second, 989.5e12) < 0.665


def test_document_masks() -> None:
    whole = flops_with_document_masks(SMALL, [10])
    assert whole == pytest.approx(10 * flops_per_token(SMALL, 10))
    split = flops_with_document_masks(SMALL, [3, 7])
    assert whole - split == 6 * 3 * 8 * (100 - 9 - 49)
    assert flops_with_document_masks(SMALL, []) == 0


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989.5e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA GH200 480GB", 989.5e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA L40S", 362e12),
        ("cpu", None),
        ("Some Future GPU", None),
        (None, None),
    ],
)
def test_peaks(name: str | None, peak: float | None) -> None:
    assert dense_bf16_peak(name) == peak


def test_mfu() -> None:
    assert model_flops_utilisation(10e9, 40_000, 1e15) == pytest.approx(0.4)
    with pytest.raises(ValueError, match=r"training\.peak_tflops is 0"):
        model_flops_utilisation(1.0, 1.0, 0.0)
