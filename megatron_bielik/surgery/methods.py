"""From the user's files to an initialisation: reads what a method needs, once, and says what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import torch
from tokenizers import Tokenizer

from megatron_bielik.data.documents import documents
from megatron_bielik.data.inputs import find_inputs
from megatron_bielik.surgery import rivals
from megatron_bielik.surgery.auxiliary_vectors import FastTextOptions, corpus_key, train_vectors, vectors_by_name
from megatron_bielik.surgery.combinations import Initialization
from megatron_bielik.surgery.focus import TokenVectors, focus
from megatron_bielik.surgery.safetensors_files import ConversionError
from megatron_bielik.surgery.word_vectors import WordVectors, read_dictionary, read_word_vectors
from megatron_bielik.tokenizer.matching import match_vocabularies
from megatron_bielik.tokenizer.published_focus import published_matches
from megatron_bielik.tokenizer.vocabulary import Vocabulary, read_vocabulary

Method = Literal["focus", "random", "mean", "fvt", "linear", "wechsel", "ofa", "ramen"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Materials:
    """What the user gave.

    Args:
        source, target: Folders of the old and the new tokenizer.
        corpus: Files or patterns of text in the new language, for fastText.
        json_key: Key or column of the text in them.
        max_bytes: Read no more of the corpus.
        fasttext: Its parameters.
        cache: Folder where trained vectors are kept.
        vectors: Auxiliary vectors by token, instead of a corpus.
        source_words, target_words: Static word vectors of both languages in one space.
        word_limit: Use this many of the most frequent words.
        dictionary: Lines of target word, source word, probability.
        factorized_dim: Of ofa.
        reference: Follow the published FOCUS code rule for rule instead of ours.
    """

    source: Path
    target: Path
    cache: Path
    corpus: tuple[str, ...] = ()
    json_key: str = "text"
    max_bytes: int | None = None
    fasttext: FastTextOptions = field(default_factory=FastTextOptions)
    vectors: Path | None = None
    source_words: Path | None = None
    target_words: Path | None = None
    word_limit: int = 200_000
    dictionary: Path | None = None
    factorized_dim: int | None = None
    reference: bool = False


class Initializer:
    """Builds initialisations; files are read when a method first needs them."""

    def __init__(self, materials: Materials) -> None:
        self.materials = materials
        self.source, self.target = read_vocabulary(materials.source), read_vocabulary(materials.target)

    def check(self, methods: Iterable[Method]) -> None:
        """Raise ConversionError for the first method whose files were not given."""
        given = self.materials
        for method in methods:
            if method in ("focus", "linear") and not (given.corpus or given.vectors):
                raise ConversionError(f"method {method} needs --corpus (text to train vectors on) or --vectors")
            if method in ("wechsel", "ofa") and not (given.source_words and given.target_words):
                raise ConversionError(f"method {method} needs --source-word-vectors and --target-word-vectors")
            if method == "ramen" and not given.dictionary:
                raise ConversionError("method ramen needs --dictionary")

    def build(self, method: Method) -> Initialization:
        """How each row of the new vocabulary is made. Raises ConversionError where files are missing or unfit."""
        self.check([method])
        size = len(self.target)
        makers: dict[Method, Callable[[], Initialization]] = {
            "focus": lambda: focus(size, self.matches, self.anchors, self.vectors, all_rows=self.materials.reference),
            "random": lambda: rivals.random(size),
            "mean": lambda: rivals.mean(size),
            "fvt": lambda: rivals.fvt(self.target, self.source, self.matches, self._encoder(self.source)),
            "linear": lambda: rivals.linear(size, self.matches, self.anchors, self.vectors),
            "wechsel": lambda: rivals.wechsel(size, self._control_matches(), *self._token_vectors(zipf=True)),
            "ofa": lambda: rivals.ofa(
                size, self.matches, *self._token_vectors(zipf=False), factorized_dim=self.materials.factorized_dim
            ),
            "ramen": self._ramen,
        }
        return makers[method]()

    @cached_property
    def matches(self) -> dict[int, int]:
        """Source id of every shared token."""
        if self.materials.reference:
            return published_matches(self.materials.target, self.materials.source)
        return match_vocabularies(self.target, self.source)

    @property
    def anchors(self) -> set[int]:
        """Shared tokens that new ones may be made of: in ours no control tokens, which mean something else than text."""
        return set(self.matches) - (set() if self.materials.reference else set(self.target.control.values()))

    @cached_property
    def vectors(self) -> TokenVectors:
        """Auxiliary vectors of the new tokens."""
        given = self.materials
        if given.vectors:
            return vectors_by_name(self.target, read_word_vectors(given.vectors))
        files = [Path(file.path) for file in find_inputs(given.corpus, "--corpus")]
        key = corpus_key(files, given.json_key, str(given.max_bytes))
        texts = documents(given.corpus, given.json_key, given.max_bytes, option="--corpus")
        return train_vectors(self.target, texts, key, given.fasttext, given.cache)

    def _control_matches(self) -> dict[int, int]:
        kept = set(self.target.control.values()) | self.target.byte_pieces
        return {token: source for token, source in self.matches.items() if token in kept}

    def _token_vectors(self, zipf: bool) -> tuple[TokenVectors, TokenVectors]:
        ours, theirs = self._words
        if ours.vectors.size(1) != theirs.vectors.size(1):
            raise ConversionError(
                f"word vectors have {ours.vectors.size(1)} and {theirs.vectors.size(1)} dimensions: they must share one space"
            )
        return (
            rivals.token_vectors(ours, self._encoder(self.target), zipf),
            rivals.token_vectors(theirs, self._encoder(self.source), zipf),
        )

    @cached_property
    def _words(self) -> tuple[WordVectors, WordVectors]:
        given = self.materials
        assert given.target_words is not None
        assert given.source_words is not None
        return (
            read_word_vectors(given.target_words, given.word_limit),
            read_word_vectors(given.source_words, given.word_limit),
        )

    def _ramen(self) -> Initialization:
        assert self.materials.dictionary is not None
        entries = read_dictionary(self.materials.dictionary)
        return rivals.ramen(self.target, self.matches, entries, self._encoder(self.target), self._encoder(self.source))

    @staticmethod
    def _encoder(vocabulary: Vocabulary) -> Tokenizer:
        return Tokenizer.from_file(str(vocabulary.folder / "tokenizer.json"))


def nearest(rows: torch.Tensor, blocks: Iterable[torch.Tensor], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of, and cosine similarity to, the source rows most similar to each of rows [n, hidden]: [n, count] each."""
    ours = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    near, ids, start = torch.full((len(rows), 0), 0.0), torch.empty(len(rows), 0, dtype=torch.int64), 0
    for block in blocks:
        cosines = ours @ (block / block.norm(dim=1, keepdim=True).clamp_min(1e-12)).T
        numbers = torch.arange(start, start + len(block)).expand(len(rows), -1)
        near, ids = torch.cat([near, cosines], dim=1), torch.cat([ids, numbers], dim=1)
        near, places = near.topk(min(count, near.size(1)), dim=1)
        ids, start = ids.gather(1, places), start + len(block)
    return ids, near
