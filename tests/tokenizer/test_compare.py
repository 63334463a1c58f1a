"""The comparison counts what it says, for SentencePiece, fast and byte-level tokenizers alike; chart and JSON hold it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from megatron_bielik.tokenizer.compare import Measurement, Text, compare, load_tokenizer, read_text
from megatron_bielik.tokenizer.compare_report import draw, table, write_chart, write_json
from megatron_bielik.tokenizer.sentencepiece_model import TokenizerError
from megatron_bielik.tokenizer.train import build_tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Ours in both forms; a byte-level one with an alphabet only; a word-level-like BPE that knows two letters."""
    root = tmp_path_factory.mktemp("compare")
    build_tokenizer([b"ala ma kota i psa\n"] * 30, 430, root / "fast")
    (root / "model").mkdir()
    (root / "model/tokenizer.model").write_bytes((root / "fast/tokenizer.model").read_bytes())
    level = Tokenizer(models.BPE())
    level.pre_tokenizer, level.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    level.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    unknown = Tokenizer(models.BPE({"<unk>": 0, "a": 1, "b": 2}, [], unk_token="<unk>"))
    unknown.add_special_tokens([AddedToken("<unk>", special=True)])
    for name, tokenizer in (("level", level), ("unknown", unknown)):
        (root / name).mkdir()
        tokenizer.save(str(root / name / "tokenizer.json"))
    return {name: root / name for name in ("fast", "model", "level", "unknown")}


def measure(folders: dict[str, Path], name: str, *documents: str) -> Measurement:
    (found,) = compare([load_tokenizer(name, folders[name])], [Text("t", documents)], rounds=1)
    return found


def test_counts_and_rates(folders: dict[str, Path]) -> None:
    found = measure(folders, "fast", "ala ma\u00a0kota,\n\n", "żółw 漢")
    assert found.characters == 14 + 6
    assert found.words == 5  # a no-break space is white space; the comma belongs to its word
    assert found.byte_tokens == 2 + 3  # the no-break space and one Chinese character
    assert found.line_end_tokens == 2
    assert found.unknown_tokens == 0
    assert found.bytes == len("ala ma\u00a0kota,\n\nżółw 漢".encode())
    assert found.characters_per_token == pytest.approx(20 / found.tokens)
    assert found.tokens_per_word == pytest.approx(found.tokens / 5)
    assert found.byte_rate == pytest.approx(5 / found.tokens)
    assert found.megabytes_per_second > 0


def test_both_forms_of_a_tokenizer_measure_the_same(folders: dict[str, Path]) -> None:
    documents = ("ala ma kota\nżółw\x07 😀", "", " ▁ ")
    first, second = (measure(folders, name, *documents).as_dict() for name in ("fast", "model"))
    assert (first.pop("library"), second.pop("library")) == ("tokenizers", "sentencepiece")
    for record in (first, second):
        del record["tokenizer"], record["megabytes_per_second"]
    assert first == second


def test_byte_level_tokens_that_are_no_characters(folders: dict[str, Path]) -> None:
    found = measure(folders, "level", "aż\n漢")
    assert (found.tokens, found.byte_tokens, found.line_end_tokens) == (7, 5, 0)


def test_unknown_tokens(folders: dict[str, Path]) -> None:
    found = measure(folders, "unknown", "abxab")
    assert (found.tokens, found.unknown_tokens, found.unknown_rate) == (5, 1, 0.2)


def test_texts_are_read_up_to_the_limit(tmp_path: Path) -> None:
    text = "pierwszy wiersz\n\n drugi ą\r\n" * 10_000
    with gzip.open(tmp_path / "a.txt.gz", "wb") as stream:
        stream.write(text.encode())
    assert "".join(read_text("t", str(tmp_path / "a.txt.gz"), 10**9).documents) == text  # blank lines and all
    cut = "".join(read_text("t", str(tmp_path / "a.txt.gz"), 100_025).documents)
    assert text.startswith(cut)
    assert 100_023 <= len(cut.encode()) <= 100_025
    (tmp_path / "b.jsonl").write_text('{"t": "a b"}\n{"t": "c"}\n', encoding="utf-8")
    assert read_text("t", str(tmp_path / "b.jsonl"), 100, "t") == Text("t", ("a b", "c"))
    with pytest.raises(TokenizerError, match="no text in it; name another file, or the right --json-key"):
        read_text("t", str(tmp_path / "b.jsonl"), 100)


def test_what_is_no_tokenizer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json and no tokenizer\.model in it"):
        load_tokenizer("x", tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(TokenizerError, match="cannot be read as a SentencePiece model"):
        load_tokenizer("x", tmp_path)


def test_table_json_and_chart(folders: dict[str, Path], tmp_path: Path) -> None:
    tokenizers = [load_tokenizer(name, folders[name]) for name in ("fast", "level")]
    found = compare(tokenizers, [Text("pl", ("ala ma kota",)), Text("en", ("a cat",))], rounds=1)
    assert [(m.text, m.tokenizer) for m in found] == [("pl", "fast"), ("pl", "level"), ("en", "fast"), ("en", "level")]
    assert table(found).row_count == 4
    write_json(found, tmp_path / "new/c.json")
    assert json.loads((tmp_path / "new/c.json").read_text()) == [m.as_dict() for m in found]
    figure = draw(found)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == pytest.approx([found[at].characters_per_token for at in (0, 2, 1, 3)])
    labels = [text.get_text() for text in figure.axes[1].texts]
    assert labels == [f"{found[at].tokens_per_word:.2f}" for at in (0, 2, 1, 3)]
    write_chart(found, tmp_path / "new/c.svg")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["c.json", "c.svg"]
    with pytest.raises(TokenizerError, match=r"must be one of \.png, \.svg, \.pdf"):
        write_chart(found, tmp_path / "c.bmp")
