"""Weights to other weights: Hugging Face import and export."""
