"""A tiny chat model for the experiments, and what a trained one answers.

tiny_chat.py base --conversations sft.jsonl --output base       # random weights, a byte-level tokenizer of the conversations
tiny_chat.py answers --conversations held-out.jsonl --runs sft dpo      # models in RUN/final, figures to RUN/answers.json
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from megatron_bielik.corpus.records import ReadCount, batches, read_rows, write_whole
from megatron_bielik.surgery.model_folder import output_folder
from megatron_bielik.tokenizer.byte_level import train_byte_level, write_byte_level

CONTROL = ("<|im_start|>", "<|im_end|>")
BATCH = 64
Row = dict[str, Any]


def rows_of(path: Path) -> list[Row]:
    """Rows of a file of conversations."""
    return [row for _, row in read_rows([str(path)], ReadCount(), "--conversations")]


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


@torch.no_grad()
def answer(model: Any, tokenizer: Any, prompts: Sequence[str], most: int) -> list[str]:
    """Greedy answers to rendered prompts, without the token that ends a turn; one that did not end is left as it is cut."""
    encoded = tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    made = model.generate(
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        max_new_tokens=most,
        do_sample=False,
        eos_token_id=tokenizer.convert_tokens_to_ids(CONTROL[1]),
        pad_token_id=tokenizer.pad_token_id,
    )
    texts: list[str] = tokenizer.batch_decode(made[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


@torch.no_grad()
def answer_losses(model: Any, tokenizer: Any, prompts: Sequence[str], texts: Sequence[str]) -> list[tuple[float, int]]:
    """Summed negative log-probability of each expected answer with its end, in nats, and its number of tokens."""
    pairs = [
        [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, wanted + CONTROL[1])]
        for prompt, wanted in zip(prompts, texts, strict=True)
    ]
    width = max(len(first) + len(second) for first, second in pairs)
    ids, trained = torch.zeros((len(pairs), width), dtype=torch.int64), torch.zeros((len(pairs), width))
    for number, (first, second) in enumerate(pairs):
        ids[number, : len(first) + len(second)] = torch.tensor(first + second)
        trained[number, len(first) : len(first) + len(second)] = 1
    logits = model(input_ids=ids).logits[:, :-1].float()  # padding on the right is seen by no answer
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none") * trained[:, 1:]
    return [(float(row.sum()), len(second)) for row, (_, second) in zip(losses, pairs, strict=True)]


def evaluate(folder: Path, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Figures of each kind of row.

    Returns:
        By the rows' field kind: rows; exact, share of greedy answers equal to the expected one; form, share that the row's
        field form (a regular expression) matches as a whole; loss, nats per token of the expected answers.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    sums: dict[str, list[float]] = {}
    for some in batches(sorted(rows, key=lambda row: len(row["messages"][-1]["content"])), BATCH):
        prompts = [
            tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
            for row in some
        ]
        wanted = [row["messages"][-1]["content"] for row in some]
        losses = answer_losses(model, tokenizer, prompts, wanted)
        given = answer(model, tokenizer, prompts, max(count for _, count in losses) + 8)
        for row, text, right, (loss, tokens) in zip(some, given, wanted, losses, strict=True):
            good = re.fullmatch(row["form"], text, re.DOTALL) is not None
            figures = (1, text == right, good, loss, tokens)
            sums[row["kind"]] = [a + b for a, b in zip(sums.get(row["kind"], [0] * 5), figures, strict=True)]
    return {
        kind: {"rows": count, "exact": exact / count, "form": form / count, "loss": loss / tokens}
        for kind, (count, exact, form, loss, tokens) in sorted(sums.items())
    }


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
    rows = rows_of(given.conversations)
    if given.what == "base":
        entries, parameters = make_base(rows, given.entries, given.width, given.layers, given.seed, given.output)
        print(f"{given.output}: {entries:,} entries, {parameters:,} parameters")
        return
    for run in given.runs:
        if not (run / "answers.json").is_file():
            figures = evaluate(run / "final", rows)
            write_whole(run / "answers.json", json.dumps(figures, indent=2) + "\n")
            shown = (f"{kind} {one['exact']:.3f} exact, loss {one['loss']:.3f}" for kind, one in figures.items())
            print(f"{run}: {'; '.join(shown)}")


if __name__ == "__main__":
    main()
