"""FLOPs of a training step in both conventions, model FLOPs utilisation (MFU), and the dense peaks of known devices.

h hidden, q all query heads, kv all key (or value) heads, i FFN, L layers, V vocabulary, s sequence length:

    N_mm                  = L * (2 h q + 2 h kv + 3 h i) + h V    matrix parameters that multiply activations
    FLOPs / token, causal = 6 N_mm + 6 L q s       only the half of the attention matrix that is computed
    FLOPs / token, full   = 6 N_mm + 12 L q s      the whole matrix (Chowdhery et al. 2022, PaLM, appendix B)

Both count the forward and the backward pass (twice the forward) of every matrix. Neither counts recomputed activations,
nor leaves out the weight gradients of frozen layers: the MFU is about the model, not about what the device executed.
V is the vocabulary without padded rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from megatron_bielik.presets import ModelShape

Convention = Literal["causal", "full"]

# Dense bf16 tensor-core peaks in FLOP/s, from the vendor's data sheets (half of the figure given "with sparsity").
# The first substring found in the device's name wins, so the narrower names stand first.
DENSE_BF16_PEAKS: tuple[tuple[str, float], ...] = (
    ("GH200", 989.5e12),
    ("GB200", 2500e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989.5e12),
    ("H200 NVL", 835e12),
    ("H200", 989.5e12),
    ("H800", 989.5e12),
    ("H20", 148e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
)


def flops_per_token(shape: ModelShape, sequence_length: int, convention: Convention = "causal") -> float:
    """FLOPs that one token of a sequence of `sequence_length` tokens costs in a training step.

    `causal`: 6 N_mm + 6 L q s. `full`: 6 N_mm + 12 L q s. Every sequence is taken as one document.
    """
    return flops_with_document_masks(shape, [sequence_length], convention) / sequence_length


def flops_with_document_masks(
    shape: ModelShape, document_lengths: Iterable[int], convention: Convention = "causal"
) -> float:
    """FLOPs of a training step over documents that do not attend to each other: what masked attention really computes.

    6 N_mm * sum(len_d) + c L q * sum(len_d ** 2) with c = 6 (causal) or 12 (full). One document of s tokens costs
    s * flops_per_token(shape, s).
    """
    lengths = list(document_lengths)
    attention = 6 if convention == "causal" else 12
    matrices = 6 * shape.matmul_parameters() * sum(lengths)
    return float(matrices + attention * shape.num_layers * shape.query_size * sum(n * n for n in lengths))


def dense_bf16_peak(device_name: str | None) -> float | None:
    """Dense bf16 peak of the device with this name, FLOP/s; None for an unknown device or a CPU.

    There is no guess: without a peak no MFU is given.
    """
    if device_name is None:
        return None
    name = device_name.lower()
    return next((peak for part, peak in DENSE_BF16_PEAKS if part.lower() in name), None)


def model_flops_utilisation(flops_of_one_token: float, tokens_per_second_per_gpu: float, peak: float) -> float:
    """MFU = FLOPs/token * tokens/s per GPU / peak FLOP/s, between 0 and 1; name the convention beside the figure.

    Raises ValueError for a peak that is not positive.
    """
    if peak <= 0:
        raise ValueError(f"training.peak_tflops is {peak / 1e12:g}; it must be positive, or null to give no MFU")
    return flops_of_one_token * tokens_per_second_per_gpu / peak
