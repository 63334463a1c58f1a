"""Simplified text, shingles and signatures: equal to datatrove's, on every code point and on hostile texts."""

from __future__ import annotations

import pickle
from pathlib import Path
from random import Random

import numpy as np
import pytest
import xxhash
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import TextNormConfig, simplify_text

from megatron_bielik.corpus.minhash import (
    NO_SIGNATURE,
    Signer,
    SpaceWords,
    _native,
    simplified_words,
    simplify_tables,
)
from megatron_bielik.corpus.synthetic import generate_document

HOSTILE = [
    "",
    " ",
    "\0",
    "\n\t\x1c\x85\u2028\xa0 ",
    "słowo",
    "jedno dwa trzy cztery",
    "jedno dwa trzy cztery pięć",
    "ZAŻÓŁĆ GĘŚLĄ JAŹŃ, zażółć gęślą jaźń; Łódź!",
    "NFD: Zaz\u0307o\u0301\u0142c\u0301 ge\u0328s\u0301la\u0328 jaz\u0301n\u0301 koniec",
    "1.2.3 1,234,567 12٫5 ١٢،٣ ２０２６ 3. .5 v1.0 a1b2 1..2 1,,2 1.a 𝟙𝟚.𝟛 koniec zdania tu",
    "a \u0301 b \u0300\u0301 c\u0345\u0301 d e",
    "\U0001d15f\U0001d165\u0327\U0001d16d nuty \U0001d165\u0300\u302e\u0323 kilka słów dalej i jeszcze",
    "ΣΊΣΥΦΟΣ ΟΔΟΣ Σ ΑΣ. ΑΣ'Α ΣΣ ὈΔΥΣΣΕΎΣ",
    "İSTANBUL ıĞ ǅ ǈ ß ẞ ﬁ Å Ω K º ª",
    "한국어 문장 입니다 그리고 더 많은 단어",
    "क्षि नमस्ते दुनिया यह एक वाक्य है ।",
    "👩‍👩‍👧‍👦 rodzina 🏳️‍🌈 flaga 🇵🇱 polska ❤️ serce ️ koniec",
    "e\u0301" * 3000 + " koniec tego słowa jest tutaj teraz",
    "a" + "\u0315\u0323\u302e" * 500 + " b c d e f",
    "x" * 200_000,
    ("ą" * 99_999 + " ") * 7,
    "a\0b\0c d\0e f g",
    "\u200b\u200c\u200d\ufeff zero \u200bszerokość ma tu kilka znaków",
    "raz dwa " * 500,
    "\U0010ffff\U000e0100\U000e0001\uffff \ufffe \U00020000 a b c d e",
    "\u0344\u0f73\u0f75 \u0958 \u2adc \ufb1d \U0001d1bb słowa po nich idą dalej tak",
]


def datatrove_step(config: MinhashConfig, folder: str) -> MinhashDedupSignature:
    """datatrove's step on words cut at spaces; its xxhash64 gets bytes, since xxhash 4 refuses the str it is given."""
    step = MinhashDedupSignature(folder, config, SpaceWords())
    if config.hash_config.hash_fc == "xxhash":
        digest = xxhash.xxh64_intdigest if config.hash_config.precision == 64 else xxhash.xxh32_intdigest
        step._hash_func = lambda text: digest(text.encode())
    return step


def fuzz(count: int, seed: int) -> list[str]:
    """Texts of code points with a role in simplification, mixed with ordinary ones."""
    entries, _ = simplify_tables()
    special = [chr(code) for code in np.flatnonzero(entries >> 29) if not 0xD800 <= code < 0xE000]
    # Those from few to many: digits, spaces and marks are rare among all, and matter most.
    rare = [c for c in special if not "가" <= c <= "힣"]
    rng = Random(seed)
    pools = (special, rare, "abcXYZĄŻŹ ", "0123456789.,،٫⎖", "Σσς'·\u0345 ", "\u0301\u0323\u0315\u302e\U0001d165\u093c")
    return ["".join(rng.choice(rng.choice(pools)) for _ in range(rng.randrange(60))) for _ in range(count)]


@pytest.mark.parametrize(("before", "after"), [("", ""), ("1", "2"), ("a\u0315\U0001d165", "\u0323\u302e\u0301b")])
def test_every_code_point(before: str, after: str) -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    text = "|".join(before + character + after for character in characters)
    # Compared as one list: pytest would take minutes to show where two million words differ.
    same = simplified_words(text) == simplify_text(text).split()
    assert same


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text(text: str) -> None:
    assert simplified_words(text) == simplify_text(text).split()


def test_random_text() -> None:
    for text in fuzz(4000, 0):
        assert simplified_words(text) == simplify_text(text).split(), ascii(text)


def test_numbers_become_one_zero() -> None:
    assert simplified_words("1.2.3 a12b 1,5kg") == ["0", "0", "a0b", "0kg"]


def test_lone_surrogates_are_kept() -> None:
    assert simplified_words("\ud800a, B\udfff") == ["\ud800a", "b\udfff"]
    rows, found = Signer.of().signatures(["a b c d \ud800", "a b c d \ud801", "a b c d \ud800"])
    assert found.all()
    assert (rows[0] == rows[2]).all()
    assert (rows[0] != rows[1]).any()


def test_shingles_are_hashes_of_ngrams() -> None:
    words = simplified_words(HOSTILE[7])
    signer = Signer.of(MinhashConfig(n_grams=3))
    expected = [xxhash.xxh64_intdigest(" ".join(words[i : i + 3]).encode()) for i in range(len(words) - 2)]
    assert signer.shingles(HOSTILE[7]).tolist() == expected


@pytest.mark.parametrize("length", [*range(70), 127, 128, 1000])
def test_xxh64_of_every_short_length(length: int) -> None:
    text = "abcdefgh" * 125
    assert Signer.of(MinhashConfig(n_grams=1)).shingles(text[:length]).tolist() == (
        [xxhash.xxh64_intdigest(text[:length].encode())] if length else []
    )


CONFIGS = [
    MinhashConfig(),
    MinhashConfig(n_grams=1, seed=7),
    MinhashConfig(n_grams=13, num_buckets=9, hashes_per_bucket=13),
    MinhashConfig(num_buckets=1, hashes_per_bucket=1),
    MinhashConfig(hash_config=HashConfig(precision=64, hash_fc="sha1")),
    MinhashConfig(hash_config=HashConfig(precision=32, hash_fc="sha1")),
    MinhashConfig(hash_config=HashConfig(precision=32, hash_fc="xxhash")),
    MinhashConfig(norm_config=TextNormConfig(norm_numbers=False, norm_unicode_diacritics=False)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=[str(i) for i in range(len(CONFIGS))])
def test_signatures_are_those_of_datatrove(config: MinhashConfig, tmp_path: Path) -> None:
    texts = [*HOSTILE, *(generate_document(5, i)["text"] for i in range(12)), *fuzz(100, 1)]
    peer, signer = datatrove_step(config, str(tmp_path)), Signer.of(config)
    rows, found = signer.signatures(texts)
    assert rows.shape == (len(texts), config.num_buckets * config.hashes_per_bucket)
    for text, row, has in zip(texts, rows, found, strict=True):
        shingles = peer.get_shingles(text)
        assert has == bool(shingles.size)
        assert np.array_equal(signer.shingles(text), shingles.ravel())
        if has:
            assert row.tolist() == np.concatenate(peer.get_signature(shingles)).tolist()
        else:
            assert (row == NO_SIGNATURE).all()


def test_remainder_at_the_edges() -> None:
    """Products whose remainder is near 0 or 2^61 - 1, against Python's integers."""
    prime, edges = 2**61 - 1, []
    for high in range(8):
        edges += [(high << 61) + offset for offset in (-9, -8, -7, -2, -1, 0, 1, 7)]
    values = np.array([edge % 2**64 for edge in edges], np.uint64)
    one, zero = np.ones(1, np.uint64), np.zeros(1, np.uint64)
    for precision, mask in ((64, 2**64 - 1), (32, 2**32 - 1)):
        for value in values:
            assert _native.minima(np.array([value]), one, zero, precision)[0] == (int(value) % prime) & mask
    rng = np.random.RandomState(0)
    shingles, a, b = (rng.randint(0, 2**63, size=size, dtype=np.uint64) * np.uint64(2) for size in (37, 21, 21))
    expected = [min((int(x) * int(f) + int(o)) % 2**64 % prime for x in shingles) for f, o in zip(a, b, strict=True)]
    assert _native.minima(shingles, a, b, 64).tolist() == expected


def test_signer_travels_between_processes() -> None:
    text = generate_document(1, 1)["text"]
    signer = Signer.of(MinhashConfig(seed=3))
    copy = pickle.loads(pickle.dumps(signer))
    assert np.array_equal(copy.signatures([text])[0], signer.signatures([text])[0])


def test_no_texts() -> None:
    rows, found = Signer.of().signatures([])
    assert rows.shape == (0, 112)
    assert found.shape == (0,)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="n_grams is 0, needs 1 or more"):
        Signer.of(MinhashConfig(n_grams=0))
    with pytest.raises(TypeError):
        Signer.of().signatures(["a", b"b"])  # type: ignore[list-item]
    one = np.ones(1, np.uint64)
    with pytest.raises(ValueError, match="precision is 16"):
        _native.minima(one, one, one, 16)
    with pytest.raises(ValueError, match="5 hashes cannot be cut into 2 bands"):
        _native.band_keys(np.zeros((1, 5), np.uint64), 2)
    with pytest.raises(ValueError, match="outside the 2 nodes"):
        _native.unite(np.arange(2), np.array([0]), np.array([2]))


def test_rows_are_ordered_as_tuples() -> None:
    rng = np.random.RandomState(1)
    rows = rng.randint(0, 3, size=(500, 4)).astype(np.uint64)
    rows[::7] += np.uint64(2**63)
    expected = sorted(range(len(rows)), key=lambda i: (*rows[i].tolist(), i))
    assert _native.row_order(rows).tolist() == expected


def test_sentence_spans_lie_in_the_text() -> None:
    words, text = SpaceWords(), "Ala ma kota.\n\n  Kot ma Alę. \nAla"
    assert (
        [text[a:b] for a, b in words.span_tokenize(text)]
        == words.sent_tokenize(text)
        == ["Ala ma kota.", "Kot ma Alę.", "Ala"]
    )
