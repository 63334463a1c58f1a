"""Published model shapes by name, and the exact number of parameters of any shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Architecture = Literal["qwen2", "bielik"]


@dataclass(frozen=True)
class ModelShape:
    """Shape of a decoder of the Qwen2.5 family.

    `qwen2`: biases on q, k, v only (Hugging Face Qwen2ForCausalLM).
    `bielik`: biases on q, k, v, o and all MLP linears (LlamaForCausalLM with attention_bias and mlp_bias).
    """

    architecture: Architecture
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    vocab_size: int
    max_position_embeddings: int
    tie_embeddings: bool
    head_dim: int = 128
    rope_theta: float = 1e6
    norm_epsilon: float = 1e-6

    @property
    def query_size(self) -> int:
        """Width of all query heads: num_attention_heads * head_dim."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key (or value) heads: num_query_groups * head_dim."""
        return self.num_query_groups * self.head_dim

    @property
    def all_biases(self) -> bool:
        """Whether o_proj and the MLP linears have biases too (q, k and v always have)."""
        return self.architecture == "bielik"

    def layer_parameters(self) -> int:
        """Parameters of one transformer layer."""
        h, f, q, kv = self.hidden_size, self.ffn_hidden_size, self.query_size, self.kv_size
        weights = h * q + 2 * h * kv + q * h + 3 * h * f
        biases = q + 2 * kv + (h + 2 * f + h if self.all_biases else 0)
        return weights + biases + 2 * h  # two norms

    def num_parameters(self) -> int:
        """Parameters of the whole model, the tied matrix counted once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return embeddings + self.num_layers * self.layer_parameters() + self.hidden_size

    def matmul_parameters(self) -> int:
        """N_mm: weights that multiply activations, the output matrix included: L(2hq + 2h kv + 3hi) + hV."""
        h = self.hidden_size
        layer = 2 * h * self.query_size + 2 * h * self.kv_size + 3 * h * self.ffn_hidden_size
        return self.num_layers * layer + h * self.vocab_size


_QWEN_1_5B = ModelShape("qwen2", 28, 1536, 8960, 12, 2, 151_936, 32_768, tie_embeddings=True)
_QWEN_3B = ModelShape("qwen2", 36, 2048, 11_008, 16, 2, 151_936, 32_768, tie_embeddings=True)


def _as_bielik(source: ModelShape, num_layers: int) -> ModelShape:
    """The shape after a new 32,000-token vocabulary, untied embeddings, more layers and biases on every linear."""
    return replace(source, architecture="bielik", num_layers=num_layers, vocab_size=32_000, tie_embeddings=False)


PRESETS: dict[str, ModelShape] = {
    "qwen2.5-1.5b": _QWEN_1_5B,
    "qwen2.5-3b": _QWEN_3B,
    "bielik-1.5b-v3": replace(_as_bielik(_QWEN_1_5B, num_layers=32), max_position_embeddings=8192),
    "bielik-4.5b-v3": _as_bielik(_QWEN_3B, num_layers=60),
    # A Bielik that two laptop cores train in minutes; every size divides by 4 so that TP, PP and VPP can be tried.
    "tiny": ModelShape("bielik", 4, 128, 352, 4, 2, 2048, 1024, tie_embeddings=False, head_dim=32, rope_theta=1e4),
}
