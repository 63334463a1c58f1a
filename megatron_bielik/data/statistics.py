"""Figures of a shard that a loss can be set against."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megatron_bielik.data.errors import DataError
from megatron_bielik.data.shards import ShardReader

_BLOCK = 1 << 22


def unigram_entropy(prefix: str | Path) -> float:
    """Entropy of a shard's token frequencies, nats per token: -sum_v p_v ln p_v.

    The loss of the best model that knows no context; a model that has learnt anything of the language lies below.

    Raises:
        DataError: The shard is damaged or has no tokens.
    """
    reader = ShardReader(prefix)
    if reader.num_tokens == 0:
        raise DataError(f"{prefix} has no tokens, entropy needs at least one")
    counts = np.zeros(1, dtype=np.int64)
    for start in range(0, reader.num_tokens, _BLOCK):
        block = np.bincount(reader.tokens[start : start + _BLOCK], minlength=len(counts))
        block[: len(counts)] += counts
        counts = block
    shares = counts[counts > 0] / reader.num_tokens
    return float(-(shares * np.log(shares)).sum())
