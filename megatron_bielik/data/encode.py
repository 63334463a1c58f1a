"""Text to token IDs, fast: gigatoken where it provably agrees with the Hugging Face tokenizer, `tokenizers` elsewhere.

IDs are those of the fast tokenizer with add_special_tokens=False. That includes its default for special tokens written
out in a text: "</s>" in a document becomes the one token </s>. A training set that must not contain such tokens has to
be cleaned before; how many there were is counted and reported.
Nothing of transformers is imported, which would take longer than encoding a small file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import orjson

from megatron_bielik.data.errors import DataError
from megatron_bielik.data.inputs import one_line

EncoderName = Literal["auto", "gigatoken", "tokenizers"]
Encoded = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]

# gigatoken remembers every word it has seen; a new instance after this much text keeps its memory bounded.
_RENEW_BYTES = 1 << 26
_SAMPLE_BYTES = 4096

NASTY = (
    "", " ", "  ", "\n", "\r\n\r\n", "\t \u00a0\u2003 \u3000x", "a  b   c\n\n\n d\n", " leading", "trailing ",
    "Zażółć gęślą jaźń. ZAŻÓŁĆ GĘŚLĄ JAŹŃ!", "z\u0307a\u0328 c\u0301 e\u0328", "Ala ma 12345 kotów, 3,14 i 1 000 000 psów.",
    "don't I'LL we've 'tis l'été", "foo_bar(x[0], y={'a': 1}) // #!/bin/sh && <tag attr=\"v\">&amp;</tag>",
    "„cytat” – myślnik — wielokropek… ‰ € § ©", "١٢٣ ²³ Ⅻ ½ ໑", "漢字かな交じり文。한국어 텍스트 עברית العربية ไทย हिन्दी",
    "😀👨‍👩‍👧‍👦🇵🇱🏳️‍🌈 ❤️ 👍🏽", "\u200b\u200d\ufeff\u00ad\u2028\u2029\u0085", "".join(map(chr, range(0, 160))),
    "\U0001f9d1\U000e0067\U0010fffd\ue000\ufffd\ufffe", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 Ａｆｕｌｌｗｉｄｔｈ", "ǅ ŉ ﬁ İ ı ß ẞ",
    "https://przyklad.pl/a?b=c&d=%20 user@example.com", "x" * 300, "ą" * 300, "!?" * 100, " " * 100, "\n" * 50, "a \n b",
    "<0x0A> ▁▁ ▁a Ġb <unk> <pad> <|endoftext|> [INST] <s>x</s> <|im_start|>user\n<|im_end|>", "<s> </s></s>  <unk>\n<s>",
)  # fmt: skip


@dataclass(frozen=True)
class TokenizerFiles:
    """What preprocessing needs of a Hugging Face tokenizer folder.

    Attributes:
        folder: Where it was read from.
        json: Contents of tokenizer.json.
        eos_token, eos_id: End of a document.
        vocab_size: One more than the largest ID, added tokens included.
        special_ids: IDs of the special tokens.
        fingerprint: SHA-256 of tokenizer.json and the eos token.
    """

    folder: str
    json: str
    eos_token: str
    eos_id: int
    vocab_size: int
    special_ids: tuple[int, ...]
    fingerprint: str


def load_tokenizer(folder: str | Path) -> TokenizerFiles:
    """Read tokenizer.json, and the eos token from tokenizer_config.json or special_tokens_map.json.

    Raises:
        DataError: A file is missing or cannot be read, or there is no eos token in the vocabulary.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise DataError(
            f"--tokenizer {folder}: no tokenizer.json in it; give the folder of a fast Hugging Face tokenizer"
        )
    try:
        text = path.read_text(encoding="utf-8")
        content = orjson.loads(text)
        added = content.get("added_tokens") or []
        vocabulary = _vocabulary(content["model"]["vocab"], added)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read ({one_line(error)}); it is no tokenizer of the tokenizers library"
        ) from error
    eos = None
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        config = Path(folder) / name
        if eos is None and config.is_file():
            eos = json.loads(config.read_text(encoding="utf-8")).get("eos_token")
    eos = eos.get("content") if isinstance(eos, dict) else eos
    if not isinstance(eos, str) or eos not in vocabulary:
        raise DataError(
            f"--tokenizer {folder}: eos_token is {eos!r}, needs a token of the vocabulary; set it in tokenizer_config.json"
        )
    return TokenizerFiles(
        folder=str(folder),
        json=text,
        eos_token=eos,
        eos_id=vocabulary[eos],
        vocab_size=max(vocabulary.values()) + 1,
        special_ids=tuple(sorted(token["id"] for token in added if token.get("special"))),
        fingerprint=hashlib.sha256(f"{eos}\n{text}".encode()).hexdigest(),
    )


def _vocabulary(vocab: Any, added: list[dict[str, Any]]) -> dict[str, int]:
    """Tokens and their IDs; read from the JSON, as the library would take ten times as long to say the same."""
    ids = dict(vocab) if isinstance(vocab, dict) else {token: number for number, (token, _) in enumerate(vocab)}
    for token in added:
        ids.setdefault(token["content"], token["id"])
    return ids


class Encoder(Protocol):
    """Turns UTF-8 documents into IDs, flat uint32 [tokens], and their lengths, int64 [documents]; one thread."""

    name: str

    def encode(self, documents: Sequence[bytes]) -> Encoded: ...


class HuggingFaceEncoder:
    """The `tokenizers` library: defines what is right."""

    name = "tokenizers"

    def __init__(self, files: TokenizerFiles) -> None:
        # One worker is one thread; the pool of processes uses the cores.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_str(files.json)
        except Exception as error:  # tokenizers raises bare Exception
            raise DataError(f"{files.folder}/tokenizer.json cannot be read: {one_line(error)}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, documents: Sequence[bytes]) -> Encoded:
        encodings = self._tokenizer.encode_batch_fast([text.decode() for text in documents], add_special_tokens=False)
        rows = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        flat = np.fromiter((token for row in rows for token in row), dtype=np.uint32, count=int(lengths.sum()))
        return flat, lengths


class GigatokenEncoder:
    """The gigatoken library, ten times and more as fast. It knows the splits of published models, not every tokenizer."""

    name = "gigatoken"

    def __init__(self, files: TokenizerFiles) -> None:
        self._json = files.json
        self._seen = 0
        self._tokenizer = self._load()

    def _load(self) -> Any:
        from gigatoken import Tokenizer

        # The backend's call for one document: the one for many returns an awkward array, whose import takes 0.3 s.
        return Tokenizer.from_json(self._json).backend

    def encode(self, documents: Sequence[bytes]) -> Encoded:
        if self._seen > _RENEW_BYTES:
            self._tokenizer = None  # freed before the next one is there
            self._tokenizer, self._seen = self._load(), 0
        self._seen += sum(map(len, documents))
        rows = list(map(self._tokenizer.encode, documents))
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        return np.concatenate(rows) if rows else np.empty(0, np.uint32), lengths


def differences(first: Encoder, second: Encoder, documents: Sequence[bytes]) -> bytes | None:
    """The first document for which two encoders give different IDs; None if they agree on all."""
    (flat_a, lengths_a), (flat_b, lengths_b) = first.encode(documents), second.encode(documents)
    if np.array_equal(lengths_a, lengths_b) and np.array_equal(flat_a, flat_b):
        return None
    end_a, end_b = np.cumsum(lengths_a), np.cumsum(lengths_b)
    for text, a, la, b, lb in zip(documents, end_a, lengths_a, end_b, lengths_b, strict=True):
        if not np.array_equal(flat_a[a - la : a], flat_b[b - lb : b]):
            return text
    return None


def sample_of(documents: Sequence[bytes], count: int = 16) -> list[bytes]:
    """The beginnings of the first documents, whole characters each, as a check that costs milliseconds."""
    return [text[:_SAMPLE_BYTES].decode(errors="ignore").encode() for text in documents[:count]]


def nasty_texts(files: TokenizerFiles) -> list[bytes]:
    """Strings on which tokenizers differ: Unicode of every kind, white space, and this vocabulary's own special tokens."""
    special = [token["content"] for token in json.loads(files.json).get("added_tokens") or []]
    around = [f"a{token}b {token} c\n{token}{token}" for token in special[:64]]
    return [text.encode("utf-8", "replace") for text in (*NASTY, *around)]


@dataclass(frozen=True)
class Encoders:
    """The encoder to use, the one that defines what is right (the same where no other is right), and a line saying why."""

    used: Encoder
    reference: Encoder
    reason: str


def load_encoders(files: TokenizerFiles, wanted: EncoderName) -> Encoders:
    """Load both libraries' encoders and compare them on the test strings.

    Raises:
        DataError: gigatoken was asked for by name, but cannot load this tokenizer or gives other IDs; or a tokenizer.json
            that neither can load.
    """
    reference = HuggingFaceEncoder(files)
    if wanted == "tokenizers":
        return Encoders(reference, reference, "encoder: tokenizers, as asked")
    try:
        fast = GigatokenEncoder(files)
        wrong = differences(fast, reference, nasty_texts(files))
        reason = None if wrong is None else f"it gives other IDs for {wrong.decode()[:60]!r}"
    except Exception as error:  # whatever it is, the other library can do it
        reason = f"it cannot load this tokenizer: {str(error).splitlines()[0]}"
    if reason is None:
        why = "encoder: gigatoken, equal to the Hugging Face tokenizer on the test strings"
        return Encoders(fast, reference, why)
    if wanted == "gigatoken":
        raise DataError(f"--encoder is gigatoken, but {reason}; use auto or tokenizers")
    return Encoders(reference, reference, f"encoder: tokenizers (slower) instead of gigatoken, because {reason}")


def choose_encoder(files: TokenizerFiles, wanted: EncoderName) -> tuple[str, str]:
    """Name of the encoder to use, and one line that says why. Raises DataError as load_encoders does."""
    encoders = load_encoders(files, wanted)
    return encoders.used.name, encoders.reason


def make_encoder(files: TokenizerFiles, name: Literal["gigatoken", "tokenizers"]) -> Encoder:
    """An encoder for one process."""
    return GigatokenEncoder(files) if name == "gigatoken" else HuggingFaceEncoder(files)
