"""Batch to loss: the Qwen2.5-type model on megatron-core."""

import megatron_bielik.parallel  # noqa: F401  (before megatron-core: hides its notes about optional packages)
