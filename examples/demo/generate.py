"""Continue a few Polish beginnings with an exported model: transformers alone, nothing of this package."""

from __future__ import annotations

import argparse
import warnings

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

BEGINNINGS = ("Młoda kucharka", "W lesie", "Dawniej król", "Lekarz powiedział")


def main() -> None:
    """Load, sample, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--tokens", type=int, default=40, help="new tokens per beginning")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(options.model, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(options.model, local_files_only=True)
    torch.manual_seed(0)
    for beginning in BEGINNINGS:
        inputs = tokenizer(beginning, return_tensors="pt", add_special_tokens=False)
        output = model.generate(
            **inputs,
            max_new_tokens=options.tokens,
            do_sample=True,
            temperature=0.7,
            top_k=50,
            pad_token_id=tokenizer.pad_token_id,
        )
        text = tokenizer.decode(output[0], skip_special_tokens=True)
        print("  " + " ".join(text.split()))


if __name__ == "__main__":
    main()
