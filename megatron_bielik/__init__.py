"""Megatron-style pretraining and adaptation of Qwen2.5-type models to a language."""
