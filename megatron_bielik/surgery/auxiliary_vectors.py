"""Auxiliary vectors for FOCUS: fastText over a corpus split by the new tokenizer (Dobler and de Melo, 2023, section 3.2).

CBOW, 100 dimensions, 3 epochs, 10 negatives, tokens seen 10 times or more. One thread, so the same text gives the same
vectors; kept in a cache under a name made of everything that they depend on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from megatron_bielik.surgery.focus import TokenVectors
from megatron_bielik.surgery.safetensors_files import ConversionError
from megatron_bielik.surgery.word_vectors import WordVectors, read_word_vectors, write_vectors
from megatron_bielik.tokenizer.vocabulary import Vocabulary

_SEPARATORS = re.compile("[\0\t\n\v\f\r ]")  # what fastText ends a word at
_BATCH = 256
_FORMAT = 1  # of the cache; counts up when the same inputs give other vectors


@dataclass(frozen=True)
class FastTextOptions:
    """fastText's parameters by its own names, with the paper's values. A bucket takes 400 bytes. Its seed is always 0."""

    dim: int = 100
    epoch: int = 3
    neg: int = 10
    minCount: int = 10
    bucket: int = 2_000_000


def token_name(vocabulary: Vocabulary, token: int) -> str:
    """The word that stands for a token in fastText's text: as tokenizer.json has it, separators as their pictures (U+24NN)."""
    name = vocabulary.tokens[token]
    return _SEPARATORS.sub(lambda found: chr(0x2400 + ord(found[0])), name) if name else f"[{token}]"


def vectors_by_name(vocabulary: Vocabulary, words: WordVectors) -> TokenVectors:
    """Vectors of those tokens that are among the words, as they are or by name. Raises ConversionError where none is."""
    places = {word: place for place, word in enumerate(words.words)}
    known = {
        number: places[name]
        for number, token in enumerate(vocabulary.tokens)
        if (name := token if token in places else token_name(vocabulary, number)) in places
    }
    if not known:
        raise ConversionError(
            f"none of the {len(places):,} vectors belongs to a token of {vocabulary.folder}: "
            "they must be named by its tokens as tokenizer.json writes them"
        )
    return TokenVectors(torch.tensor(list(known)), words.vectors[torch.tensor(list(known.values()))])


def train_vectors(
    vocabulary: Vocabulary, texts: Iterable[str], corpus_key: str, options: FastTextOptions, cache: Path
) -> TokenVectors:
    """Train, or read what was trained before from the same text, tokenizer and options.

    Args:
        vocabulary: The new tokenizer's.
        texts: Documents.
        corpus_key: Names their content; see corpus_key().
        options: fastText's.
        cache: Folder for vectors.

    Raises:
        ConversionError: No token occurs often enough.
    """
    described = (vocabulary.folder / "tokenizer.json").read_bytes()
    key = json.dumps([_FORMAT, corpus_key, hashlib.sha256(described).hexdigest(), asdict(options)], sort_keys=True)
    path = cache / f"fasttext-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    if not path.is_file():
        words, vectors = _train(vocabulary, texts, options)
        write_vectors(path, words, vectors)
    return vectors_by_name(vocabulary, read_word_vectors(path))


def corpus_key(paths: Iterable[Path], *settings: str) -> str:
    """A digest of the content of files, in order, and of what is taken from them."""
    digest = hashlib.sha256("\0".join(settings).encode())
    for path in paths:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def default_cache() -> Path:
    """$XDG_CACHE_HOME/megatron_bielik, mostly ~/.cache/megatron_bielik."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "megatron_bielik"


def _train(vocabulary: Vocabulary, texts: Iterable[str], options: FastTextOptions) -> tuple[list[str], np.ndarray]:
    import fasttext

    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.writelines(_lines(vocabulary, texts))
        file.flush()
        try:
            model = fasttext.train_unsupervised(file.name, model="cbow", thread=1, verbose=0, **asdict(options))
        except ValueError:  # "Empty vocabulary"
            raise ConversionError(
                f"no token occurs {options.minCount} times in the corpus: give more text, or --vectors"
            ) from None
    words = sorted(set(model.get_words()) - {"</s>"})  # fastText's own word for the end of a line
    if not words:
        raise ConversionError(f"no token occurs {options.minCount} times in the corpus: give more text, or --vectors")
    return words, np.stack([model.get_word_vector(word) for word in words])


def _lines(vocabulary: Vocabulary, texts: Iterable[str]) -> Iterator[str]:
    """A document's tokens by name, one line each."""
    tokenizer = Tokenizer.from_file(str(vocabulary.folder / "tokenizer.json"))
    names = [token_name(vocabulary, number) for number in range(len(vocabulary))]

    def encoded(batch: list[str]) -> Iterator[str]:
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            yield " ".join(names[number] for number in encoding.ids) + "\n"

    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            yield from encoded(batch)
            batch = []
    yield from encoded(batch)
