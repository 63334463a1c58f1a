"""The published rule of FOCUS for tokens that two vocabularies share, kept to compare with: not what replacement uses by default.

Source: Dobler and de Melo (2023) and their package deepfocus 1.0.1, with its default of exact matches. A token's canonical
form is what transformers decodes it to, without leading white space, after U+2581 if it begins a word. Its flaw for
byte-level vocabularies: all pieces of a character decode to U+FFFD and match each other.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_WORD = "▁"
_MANY = 100  # tokens that show which kind a vocabulary is


def published_matches(target: Path, source: Path) -> dict[int, int]:
    """Source id of every target token whose canonical form the source has too.

    Where several source tokens share the form the published code takes the one with the highest id: its lists are built
    from the front.
    """
    from transformers import AutoTokenizer

    theirs = {form: number for number, form in _canonical_forms(AutoTokenizer.from_pretrained(source))}
    ours = _canonical_forms(AutoTokenizer.from_pretrained(target))
    return {number: theirs[form] for number, form in ours if form in theirs}


def _canonical_forms(tokenizer: Any) -> list[tuple[int, str]]:
    """Canonical form of every token, in the order of ids."""
    vocabulary = tokenizer.get_vocab()
    sentencepiece = sum(token.startswith(_WORD) for token in vocabulary) > _MANY
    wordpiece = not sentencepiece and sum(token.startswith("##") for token in vocabulary) > _MANY
    forms = []
    for token, number in sorted(vocabulary.items(), key=lambda item: item[1]):
        decoded = tokenizer.decode(number)
        if wordpiece:
            form = decoded[2:] if decoded.startswith("##") else _WORD + decoded
        elif sentencepiece and re.match(r"<0x[0-9,A-F]{2}>", token):
            form = token
        elif token.startswith(_WORD if sentencepiece else "Ġ"):
            form = _WORD + decoded.lstrip()
        else:
            form = decoded.lstrip()
        forms.append((number, form))
    return forms
