"""Text to tokens and back: training of tokenizers."""
