"""Instruction tuning, preferences and reinforcement learning: Hugging Face checkpoint in, Hugging Face checkpoint out."""
