"""A SentencePiece BPE model as a fast tokenizer with the same ids, and the Hugging Face folder that holds both.

Only `tokenizers` and `sentencepiece` are used: no transformers, no torch.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from megatron_bielik.tokenizer.sentencepiece_model import ESCAPES, SPACE, SPECIAL_TOKENS

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# What stands at the beginning of a text while it is normalised: the escapes leave no other U+0010 with a 2 after it.
_BEGINNING = "\u00102"


def fast_tokenizer(model: bytes) -> Tokenizer:
    """The `tokenizers` form of tokenizer.model; ids are equal for any text without a special token written out.

    The model treats such a token as any other characters; the fast tokenizer turns it into the one token, as data.encode
    says. Text after it gets no space of its own, other than in the first form of Llama, so chats come back as they were.
    """
    processor = SentencePieceProcessor(model_proto=model)
    vocabulary = {processor.id_to_piece(number): number for number in range(processor.get_piece_size())}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges_of(processor), byte_fallback=True, unk_token=SPECIAL_TOKENS[0], fuse_unk=True)
    )
    # SentencePiece puts a space before any text; Metaspace before the first part alone, but not before a space. So a part
    # that begins with a space gets another here: right for the first, and taken out again after a special token below.
    tokenizer.normalizer = normalizers.Sequence(
        [
            *(normalizers.Replace(text, escaped) for text, escaped in ESCAPES.items()),
            normalizers.Prepend(_BEGINNING),
            normalizers.Replace(" ", SPACE),
            normalizers.Replace(_BEGINNING + SPACE, SPACE * 2),
            normalizers.Replace(_BEGINNING, ""),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False)
    after_special = "|".join(map(re.escape, SPECIAL_TOKENS))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Replace(Regex(f"(?<={after_special})  "), " "),
            decoders.Strip(" ", 1, 0),
            *(decoders.Replace(escaped, text) for text, escaped in reversed(ESCAPES.items())),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def merges_of(processor: SentencePieceProcessor) -> list[tuple[str, str]]:
    """Pairs to merge, first the most urgent: every way to put a piece together from two others, in the order of pieces.

    SentencePiece joins neighbours whenever the result is a piece, the lowest id first, however they came about.
    """
    pieces = {
        processor.id_to_piece(number): number
        for number in range(processor.get_piece_size())
        if not (processor.is_byte(number) or processor.is_control(number) or processor.is_unknown(number))
    }
    return [
        (piece[:cut], piece[cut:])
        for piece in pieces  # by id
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]


def write_folder(model: bytes, tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.model, tokenizer.json, tokenizer_config.json and chat_template.jinja into an existing folder.

    The end of a document is </s>, which also pads; chats end a turn with <|im_end|>, as the chat template writes.
    """
    config = {
        # The classes named after Llama would build a tokenizer of their own from the pieces, without the escapes.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
        # No text gets a <s> in front; llama.cpp would put one where this is not said.
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,
    }
    (folder / "tokenizer.model").write_bytes(model)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
