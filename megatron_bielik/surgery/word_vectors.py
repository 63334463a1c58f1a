"""Files of vectors and dictionaries that users bring: word2vec text (.vec, .txt), .npz without pickle, fastText .bin, TSV."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from megatron_bielik.surgery.safetensors_files import ConversionError


@dataclass(frozen=True)
class WordVectors:
    """Words, most frequent first, and their vectors, fp32 [words, d]."""

    words: tuple[str, ...]
    vectors: torch.Tensor


@dataclass(frozen=True)
class DictionaryEntry:
    """A word of the target language and one translation; probabilities need not sum to 1."""

    target: str
    source: str
    probability: float


def read_word_vectors(path: Path, limit: int | None = None) -> WordVectors:
    """Read a file of word vectors, or of token vectors by the tokens' names.

    Args:
        path: .vec or .txt: an optional line "words dimensions", then a word and its numbers per line. .npz: arrays `words` (text)
            and `vectors` [words, d]. .bin: a fastText model.
        limit: Read the first, most frequent words alone.

    Raises:
        ConversionError: Missing, of another form, or with numbers that are not finite.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                words, vectors = [str(word) for word in file["words"][:limit]], file["vectors"][:limit]
        elif path.suffix == ".bin":
            words, vectors = _read_fasttext(path, limit)
        else:
            words, vectors = _read_text(path, limit)
    except FileNotFoundError:
        raise ConversionError(f"{path} not found") from None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ConversionError(f"{path} holds no vectors as .vec, .npz or fastText .bin files do ({error})") from None
    matrix = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    if matrix.dim() != 2 or len(matrix) != len(words) or not matrix.isfinite().all():
        raise ConversionError(
            f"{path}: {len(words)} words, vectors of shape {list(matrix.shape)}, which must be finite"
        )
    return WordVectors(tuple(words), matrix)


def write_vectors(path: Path, words: list[str], vectors: np.ndarray) -> None:
    """Write what read_word_vectors reads, .npz; appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp.npz")
    np.savez(temporary, words=np.array(words, dtype=np.str_), vectors=vectors.astype(np.float32))
    temporary.replace(path)


def read_dictionary(path: Path) -> list[DictionaryEntry]:
    """Read lines of target word, source word and, optionally, a probability, separated by tabs. Raises ConversionError."""
    entries = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            fields = line.split("\t")
            probability = float(fields[2]) if len(fields) == 3 else 1.0
            if len(fields) not in (2, 3) or not (fields[0] and fields[1] and probability > 0):
                raise ConversionError(
                    f"{path}, line {number}: needs target word, source word and maybe a probability, by tabs"
                )
            entries.append(DictionaryEntry(fields[0].strip(), fields[1].strip(), probability))
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path} cannot be read as a dictionary: {error}") from None
    except ValueError as error:
        if isinstance(error, ConversionError):
            raise
        raise ConversionError(f"{path}, line {number}: {error}") from None
    if not entries:
        raise ConversionError(f"{path} is empty: a dictionary has a pair of words per line")
    return entries


def _read_text(path: Path, limit: int | None) -> tuple[list[str], np.ndarray]:
    words, rows = list[str](), list[np.ndarray]()
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines):
            word, *numbers = line.rstrip("\n ").split(" ")
            if number == 0 and len(numbers) == 1 and word.isdigit():
                continue
            if limit is not None and len(words) == limit:
                break
            row = np.array(numbers, dtype=np.float32)
            if not len(row) or (rows and len(row) != len(rows[0])):
                raise ValueError(f"line {number + 1} has {len(row)} numbers")
            words.append(word)
            rows.append(row)
    if not rows:
        raise ValueError("it is empty")
    return words, np.stack(rows)


def _read_fasttext(path: Path, limit: int | None) -> tuple[list[str], np.ndarray]:
    import fasttext

    model = fasttext.load_model(str(path))
    words = model.get_words()[:limit]
    return words, np.stack([model.get_word_vector(word) for word in words])
