"""What a chat model answers: greedy answers in batches, and the log-probability it gives to answers that are there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from megatron_bielik.posttrain.chat import ChatEncoder, choose_template, load_tokenizer

BATCH = 64
Message = dict[str, str]
Messages = Sequence[Message]


class ChatModel:
    """A causal language model in fp32 on the CPU, and the encoder of its conversations.

    Args:
        folder: Of Hugging Face.

    Attributes:
        network: transformers' model.

    Raises:
        ChatError: When the encoder is first used: no fast tokenizer, or neither a template nor the tokens of ChatML. Plain text
            can be scored without them.
    """

    def __init__(self, folder: Path) -> None:
        logging.disable_progress_bar()
        self.folder = folder
        self.network: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        ).eval()

    @cached_property
    def encoder(self) -> ChatEncoder:
        """By the tokenizer's template, or ChatML where that does not mark the assistant's words."""
        tokenizer = load_tokenizer(self.folder)
        return ChatEncoder(tokenizer, choose_template(tokenizer, None))

    @torch.no_grad()
    def answer(self, prompts: Sequence[Messages], most: int) -> list[str]:
        """The most likely answers to conversations, of up to `most` tokens, without the token that ends a turn.

        An answer that did not end is given as far as it went.
        """
        tokenizer = self.encoder.tokenizer
        encoded = self.encoder.encode_many([(prompt, None) for prompt in prompts], add_generation_prompt=True)
        width = max(len(one.ids) for one in encoded)
        ids = torch.full((len(encoded), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(encoded):
            ids[row, width - len(one.ids) :] = torch.as_tensor(one.ids).long()
            mask[row, width - len(one.ids) :] = 1
        made = self.network.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=self.encoder.end_of_turn,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts: list[str] = tokenizer.batch_decode(made[:, width:], skip_special_tokens=True)
        return texts

    @torch.no_grad()
    def answer_losses(self, prompts: Sequence[Messages], answers: Sequence[str]) -> list[tuple[float, int]]:
        """Of each answer with its end: summed negative log-probability given its prompt, in nats, and number of tokens.

        Whole conversations are encoded, as in training: a SentencePiece-like tokenizer puts a space before a lone answer.
        """
        prompted = self.encoder.encode_many([(prompt, None) for prompt in prompts], add_generation_prompt=True)
        whole = self.encoder.encode_many(
            [
                ([*prompt, {"role": "assistant", "content": answer}], None)
                for prompt, answer in zip(prompts, answers, strict=True)
            ]
        )
        width = max(len(one.ids) for one in whole)
        ids, counted = torch.zeros((len(whole), width), dtype=torch.int64), torch.zeros((len(whole), width))
        for row, (before, one) in enumerate(zip(prompted, whole, strict=True)):
            ids[row, : len(one.ids)] = torch.as_tensor(one.ids).long()
            counted[row, : len(one.ids)] = torch.as_tensor(one.trained).float()
            counted[row, : len(before.ids)] = 0  # earlier answers belong to the prompt
        logits = self.network(input_ids=ids).logits[:, :-1].float()  # padding on the right is seen by no answer
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        counted = counted[:, 1:]
        return list(zip((losses * counted).sum(1).tolist(), counted.sum(1).int().tolist(), strict=True))
