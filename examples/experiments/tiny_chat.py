"""A tiny chat model for the experiments, and what a trained one answers.

tiny_chat.py base --conversations sft.jsonl --output base       # random weights, a byte-level tokenizer of the conversations
tiny_chat.py answers --conversations held-out.jsonl --runs sft dpo      # models in RUN/final, figures to RUN/answers.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_bielik.corpus.records import write_whole
from megatron_bielik.evaluation.answers import ChatModel
from megatron_bielik.evaluation.chat_scores import form_scores, rows_of
from megatron_bielik.surgery.model_folder import output_folder
from megatron_bielik.tokenizer.byte_level import train_byte_level, write_byte_level

CONTROL = ("<|im_start|>", "<|im_end|>")
Row = dict[str, Any]


def make_base(rows: Sequence[Row], entries: int, width: int, layers: int, seed: int, folder: Path) -> tuple[int, int]:
    """Write a Llama with random weights and its tokenizer; returns entries of the one, parameters of the other."""
    texts = [message["content"] for row in rows for message in row["messages"]]
    tokenizer = train_byte_level(texts, entries - len(CONTROL))
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL])
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.token_to_id(CONTROL[1]),
            pad_token_id=0,
        )
    )
    with output_folder(folder) as temporary:
        write_byte_level(tokenizer, temporary)
        model.save_pretrained(temporary)
    return tokenizer.get_vocab_size(), model.num_parameters()


def main() -> None:
    """Do one of the two, say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True)
    base, answers = kinds.add_parser("base"), kinds.add_parser("answers")
    for kind in (base, answers):
        kind.add_argument("--conversations", type=Path, required=True, help="rows with messages, JSON lines")
    base.add_argument("--output", type=Path, required=True, help="folder to write")
    base.add_argument("--entries", type=int, default=600, help="of the tokenizer (default 600)")
    base.add_argument("--width", type=int, default=128, help="hidden size (default 128)")
    base.add_argument("--layers", type=int, default=3, help="default 3")
    base.add_argument("--seed", type=int, default=0, help="of the weights (default 0)")
    answers.add_argument(
        "--runs", type=Path, nargs="+", required=True, help="folders; those with answers.json are left"
    )
    given = parser.parse_args()
    rows = rows_of(given.conversations, "--conversations", "messages")
    if given.what == "base":
        entries, parameters = make_base(rows, given.entries, given.width, given.layers, given.seed, given.output)
        print(f"{given.output}: {entries:,} entries, {parameters:,} parameters")
        return
    for run in given.runs:
        if not (run / "answers.json").is_file():
            scores = form_scores(ChatModel(run / "final"), rows)
            figures = {kind: asdict(one) for kind, one in scores.items()}
            write_whole(run / "answers.json", json.dumps(figures, indent=2) + "\n")
            shown = (f"{kind} {one['exact']:.3f} exact, loss {one['loss']:.3f}" for kind, one in figures.items())
            print(f"{run}: {'; '.join(shown)}")


if __name__ == "__main__":
    main()
