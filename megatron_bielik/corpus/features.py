"""Stylometric features of documents: 200 numbers each, computed in C++. What they are: feature_table.py and docs/features.md.

Word forms that were not met before are looked up in the dictionary, once; the results live in memory and, with a cache
folder, in a file for the next run. Features never depend on what the cache holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_bielik.corpus.language import Language, character_class, character_tables, load_language, simple_lower
from megatron_bielik.corpus.morphology import Morphology

try:
    from megatron_bielik import _text_features as _native
except ImportError as error:  # a source tree that was never built, or built for another Python
    raise ImportError(
        "megatron_bielik._text_features is not built for this Python; run `pip install -e .` in the repository"
    ) from error

FEATURE_VERSION = 1  # another number for any change of a feature's value
FEATURE_NAMES: tuple[str, ...] = tuple(_native.names())
_MOST_WORDS = 8_000_000  # about 270 MB


def default_cache() -> Path:
    """Folder for dictionary look-ups that outlive a run: $XDG_CACHE_HOME/megatron_bielik, or the same under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "megatron_bielik"


class FeatureExtractor:
    """Computes features; one object per process, any number of calls.

    Args:
        language: Name of a language pack, or the path of one.
        cache: Folder to keep dictionary look-ups in; none keeps nothing.
        threads: Threads that share the documents of a call.

    Raises:
        ValueError: No such language.
        ImportError: Its dictionary is not installed.
    """

    def __init__(self, language: str = "pl", cache: Path | None = None, threads: int = 1) -> None:
        self.language: Language = load_language(language)
        self.threads = threads
        self._morphology = Morphology(self.language)
        self._extractor = self._new_extractor()
        self._cache = cache / f"words-{self.language.language}-{self._identity()}.npy" if cache else None
        self._saved = 0
        self._load()

    @property
    def version(self) -> str:
        """What a model trained on these features must be used with."""
        return f"{FEATURE_VERSION}-{self.language.language}"

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Features of each text: float32 [texts, 200], in the order of FEATURE_NAMES.

        Raises:
            TypeError: A text is no str.
        """
        texts = list(texts)
        rows = np.zeros((len(texts), len(FEATURE_NAMES)), np.float32)
        unfinished = list(range(len(texts)))
        while unfinished:
            forms, unfinished = self._extractor.extract(texts, unfinished, rows, self.threads)
            self._learn(forms)
        if self._extractor.num_words() > _MOST_WORDS:
            self._forget()
        return rows

    def save(self) -> None:
        """Keep the look-ups for the next run, where a cache folder was given and there are new ones. A full disk is no error."""
        words = self._extractor.num_words()
        if self._cache is None or words == self._saved:
            return
        with contextlib.suppress(OSError):
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._cache.parent, prefix=self._cache.name)
            try:
                with os.fdopen(handle, "wb") as stream:
                    np.save(stream, np.stack(self._extractor.words()), allow_pickle=False)
                Path(name).replace(self._cache)
                self._saved = words
            finally:
                Path(name).unlink(missing_ok=True)

    def attributes(self, word: str) -> int:
        """Bits of a word as it stands in a text (see morphology.py)."""
        return self._morphology.attributes(self._form(word))

    def _form(self, word: str) -> str:
        """What is looked up: lower case, with the first letter as it is when it is a capital."""
        lower = "".join(map(simple_lower, word))
        return word[0] + lower[1:] if character_class(word[0]) == "upper" else lower

    def _learn(self, words: Sequence[str]) -> None:
        forms = [self._form(word) for word in words]
        keys = np.array([self._extractor.key(form) for form in forms], np.uint64)
        self._extractor.insert(keys, np.array([self._morphology.attributes(form) for form in forms], np.uint64))

    def _identity(self) -> str:
        content = (FEATURE_VERSION, self._morphology.version, self.language.digest())
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def _load(self) -> None:
        if self._cache is None:
            return
        # A file that cannot be read, of whatever reason, is only a cache that is not there.
        with contextlib.suppress(OSError, ValueError, EOFError):
            words = np.load(self._cache, allow_pickle=False)
            if words.dtype == np.uint64 and words.ndim == 2 and len(words) == 2:
                self._extractor.insert(words[0], words[1])
                self._saved = self._extractor.num_words()

    def _forget(self) -> None:
        self._extractor = self._new_extractor()
        self._saved = 0

    def _new_extractor(self) -> _native.Extractor:
        extractor = _native.Extractor(*character_tables(self.language))
        extractor.set_abbreviations(sorted(self.language.abbreviations))
        return extractor
