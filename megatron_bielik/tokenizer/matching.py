"""Which token of another vocabulary a token is the same as: by bytes, control tokens by content and role.

Decoding single tokens to strings does not do: pieces of a character all decode to U+FFFD, and would all be the same.
"""

from __future__ import annotations

from megatron_bielik.tokenizer.vocabulary import Vocabulary

# What base models end a document with, best known first.
DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")


def match_vocabularies(target: Vocabulary, source: Vocabulary) -> dict[int, int]:
    """Source id of every target token that the source has too.

    Text is matched by its bytes: "▁Ala" of a SentencePiece-like vocabulary and "ĠAla" of a byte-level one are both " Ala". <0xNN>
    matches the source's piece for that byte. Control tokens match the same content, else the source's token in their role:
    <s> and </s> both become what ends a document in a source that knows no <s>.
    """
    pieces, byte_pieces = dict[bytes, int](), dict[bytes, int]()
    for number, data in enumerate(source.data):
        if data is not None and source.tokens[number] not in source.control:
            (byte_pieces if number in source.byte_pieces else pieces).setdefault(data, number)
    found = {}
    control = set(target.control.values())
    for number, data in enumerate(target.data):
        if number in control:
            same = source.control.get(target.tokens[number] or "")
        elif data is None:
            same = None
        else:
            first, second = (byte_pieces, pieces) if number in target.byte_pieces else (pieces, byte_pieces)
            same = first.get(data, second.get(data))
        if same is not None:
            found[number] = same
    for role, number in target.roles.items():
        if number not in found and (same := _in_role(source, role)) is not None:
            found[number] = same
    return dict(sorted(found.items()))


def _in_role(source: Vocabulary, role: str) -> int | None:
    """The source's token for a role; bos, eos and pad fall back to the end of a document."""
    end = next((source.control[text] for text in DOCUMENT_ENDS if text in source.control), source.roles.get("eos"))
    if role == "eos":  # a chat model's eos ends a turn, not a document
        return end
    return source.roles.get(role, None if role == "unk" else end)
