"""Models with another tokenizer, by every method: what transformers loads, what stays as it was, and what the report says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from megatron_bielik.surgery import replace_tokenizer as module
from megatron_bielik.surgery.auxiliary_vectors import FastTextOptions
from megatron_bielik.surgery.methods import METHODS, Initializer, Materials, Method
from megatron_bielik.surgery.replace_tokenizer import replace_tokenizer
from megatron_bielik.surgery.replacement_report import REPORT
from megatron_bielik.surgery.safetensors_files import ConversionError, SafetensorsReader
from megatron_bielik.surgery.word_vectors import write_vectors
from megatron_bielik.tokenizer.vocabulary import read_vocabulary
from tests.surgery.vocabularies import byte_level, qwen2, sentencepiece_like, texts

PADDING = 7  # rows that belong to no token, as Qwen2.5 has
INPUT, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Materials:
    """An old and a new tokenizer, and something for every method."""
    folder, made = tmp_path_factory.mktemp("given"), texts(120)
    old, new = byte_level(folder / "old", made[:60], 700), sentencepiece_like(folder / "new", made, 1100)
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in made))
    words = sorted({word for text in made for word in text.split() if word.isalpha()})
    vectors = torch.randn(len(words), 6, generator=torch.Generator().manual_seed(0)).numpy()
    write_vectors(folder / "words.npz", words, vectors)
    (folder / "dictionary.tsv").write_text("".join(f"{word}\t{word}\n" for word in words[::3]), encoding="utf-8")
    return Materials(
        old, new, folder / "cache", corpus=(str(folder / "corpus.jsonl"),),
        fasttext=FastTextOptions(dim=10, bucket=1000, minCount=3), source_words=folder / "words.npz",
        target_words=folder / "words.npz", dictionary=folder / "dictionary.tsv", factorized_dim=20,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(given: Materials, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a model folder with the old tokenizer in it, once of each kind."""
    made: dict[tuple[bool, torch.dtype], Path] = {}

    def make(tied: bool = True, dtype: torch.dtype = torch.bfloat16) -> Path:
        if (tied, dtype) not in made:
            folder = tmp_path_factory.mktemp("model") / "old"
            shutil.copytree(given.source, folder)
            qwen2(folder, len(read_vocabulary(given.source)) + PADDING, tied, dtype)
            made[tied, dtype] = folder
        return made[tied, dtype]

    return make


def load(folder: Path) -> Any:
    """The model as transformers loads it, which has to find every tensor and no other."""
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype="auto")
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return loaded


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: Method, given: Materials, model: Callable[..., Path], tmp_path: Path) -> None:
    source = model(tied=True)
    initializer = Initializer(given)
    report = replace_tokenizer(initializer, source, method, tmp_path / "new")
    before, after = SafetensorsReader(source), SafetensorsReader(tmp_path / "new")
    assert set(after.files) == set(before.files) | {OUTPUT}
    for name in set(before.files) - {INPUT}:
        assert torch.equal(before.read(name), after.read(name)), name
    size = len(initializer.target)
    assert after.shape(INPUT) == after.shape(OUTPUT) == (size, 48)
    assert torch.equal(after.read(INPUT), after.read(OUTPUT))  # a tied source: both from the same rows
    assert after.dtype(INPUT) == torch.bfloat16
    rows, old = after.read(INPUT), before.read(INPUT)
    for token, kind in enumerate(initializer.build(method).kinds()):
        if kind == "copied" and method not in ("wechsel", "ramen", "fvt"):
            assert torch.equal(rows[token], old[initializer.matches[token]])
    loaded = load(tmp_path / "new")
    assert not loaded.config.tie_word_embeddings
    assert report.parameters == sum(parameter.numel() for parameter in loaded.parameters())
    assert sum(report.kinds.values()) == report.tokens == size == loaded.config.vocab_size
    assert json.loads((tmp_path / "new" / REPORT).read_text()) == json.loads(json.dumps(report.as_json()))
    expected = {"random": {"random"}, "mean": {"mean"}, "linear": {"copied", "predicted"}}
    assert expected.get(method, {"copied", "combined"}) <= set(report.kinds)
    assert bool(report.examples) == (method not in ("random", "mean"))
    # AutoTokenizer is no way to load it, and the report says so: see test_the_note.
    tokenizer, text = PreTrainedTokenizerFast.from_pretrained(tmp_path / "new"), "Kot śpi.\n😀"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert torch.isfinite(loaded(input_ids=tokenizer(text, return_tensors="pt").input_ids).logits).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_untied_source_gets_each_matrix_from_its_own(
    dtype: torch.dtype, given: Materials, model: Callable[..., Path], tmp_path: Path
) -> None:
    source, initializer = model(tied=False, dtype=dtype), Initializer(given)
    replace_tokenizer(initializer, source, "focus", tmp_path / "new")
    before, after = SafetensorsReader(source), SafetensorsReader(tmp_path / "new")
    combinations = initializer.build("focus").combinations
    for name in (INPUT, OUTPUT):
        old, new = before.read(name).double(), after.read(name)
        for token in range(0, len(initializer.target), 5):
            parts = combinations.sources_of(token)
            if parts:
                ids, weights = zip(*parts, strict=True)
                row = torch.tensor(weights, dtype=torch.float64) @ old[list(ids)]
                torch.testing.assert_close(
                    new[token].double(), row, atol=2e-3 if dtype == torch.bfloat16 else 1e-6, rtol=0
                )
    assert not torch.equal(after.read(INPUT), after.read(OUTPUT))
    load(tmp_path / "new")


def test_keep_tied(given: Materials, model: Callable[..., Path], tmp_path: Path) -> None:
    replace_tokenizer(Initializer(given), model(tied=True), "focus", tmp_path / "tied", keep_tied=True)
    loaded = load(tmp_path / "tied")
    assert loaded.config.tie_word_embeddings
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def test_configs_follow(given: Materials, model: Callable[..., Path], tmp_path: Path) -> None:
    """Token ids are the new tokenizer's, whatever ended a text or a turn before ends it still."""
    source = tmp_path / "old"
    shutil.copytree(model(), source)
    old = read_vocabulary(source)
    ends = [old.control["<|im_end|>"], old.control["<|endoftext|>"]]
    (source / "generation_config.json").write_text(
        json.dumps({"eos_token_id": ends, "temperature": 0.7, "do_sample": True})
    )
    (source / "added_code.py").write_text("raise SystemExit")
    replace_tokenizer(Initializer(given), source, "focus", tmp_path / "new")
    new = read_vocabulary(tmp_path / "new")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 2)
    assert config["vocab_size"] == len(new)
    before = json.loads((source / "config.json").read_text())
    changed = {"vocab_size", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"}
    assert {k: v for k, v in before.items() if k not in changed} == {
        k: v for k, v in config.items() if k not in changed | {"rope_theta"}
    }
    assert config["rope_theta"] == before["rope_parameters"]["rope_theta"]
    settings = json.loads((tmp_path / "new" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [new.control["</s>"], new.control["<|im_end|>"]]
    assert settings["temperature"] == 0.7
    assert (tmp_path / "new" / "tokenizer.json").read_bytes() == (given.target / "tokenizer.json").read_bytes()
    assert not (tmp_path / "new" / "added_code.py").exists()


def test_the_same_twice(given: Materials, model: Callable[..., Path], tmp_path: Path) -> None:
    """Trained vectors, random rows and all: every file has the same bytes, in shards of any size the same weights."""
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, shard_bytes in zip(folders, (10**9, 10**9, 60_000), strict=True):
        replace_tokenizer(Initializer(given), model(), "focus", folder, shard_bytes=shard_bytes)
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == sorted(path.name for path in folders[1].iterdir())
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    whole, parts = SafetensorsReader(folders[0]), SafetensorsReader(folders[2])
    assert len(set(parts.files.values())) > 2
    for name in whole.files:
        assert torch.equal(whole.read(name), parts.read(name))


def test_the_note(given: Materials, model: Callable[..., Path], tmp_path: Path) -> None:
    """transformers splits the text of any Qwen2 as Qwen2's own tokenizer does: true of it today, and told."""
    text = "Zażółć gęślą jaźń (17 km)."
    for target, told in ((given.target, True), (given.source, False)):
        folder = tmp_path / target.name
        report = replace_tokenizer(
            Initializer(Materials(given.source, target, tmp_path)), model(), "fvt", folder, keep_tied=True
        )
        own = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
        assert PreTrainedTokenizerFast.from_pretrained(folder).encode(text, add_special_tokens=False) == own
        differs = AutoTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False) != own
        assert differs == (report.note is not None) == told


def test_progress(given: Materials, model: Callable[..., Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    replace_tokenizer(
        Initializer(given), model(), "mean", tmp_path / "new", progress=lambda done, total: seen.append((done, total))
    )
    total = len(SafetensorsReader(tmp_path / "new").files)
    assert seen == [(done, total) for done in range(1, total + 1)]


def damage(folder: Path, how: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "missing":
        weights.unlink()
    elif how == "config":
        config.write_text(config.read_text()[:50])
    elif how == "vocabulary":
        changed = json.loads(config.read_text()) | {"vocab_size": 12}
        config.write_text(json.dumps(changed))
    elif how == "tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "generation":
        (folder / "generation_config.json").write_text("[")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "model.safetensors is damaged or truncated"),
        ("missing", "has neither model.safetensors.index.json nor model.safetensors"),
        ("config", "config.json is damaged"),
        ("vocabulary", "config.json says 12 tokens"),
        ("tokenizer", "tokenizer.json not found"),
        ("generation", "generation_config.json is damaged"),
    ],
)
def test_damaged_models(how: str, message: str, given: Materials, model: Callable[..., Path], tmp_path: Path) -> None:
    source = tmp_path / "old"
    shutil.copytree(model(), source)
    damage(source, how)
    with pytest.raises(ValueError, match=message) as caught:
        replace_tokenizer(Initializer(Materials(source, given.target, tmp_path)), source, "random", tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_tokenizer_larger_than_the_model(given: Materials, model: Callable[..., Path], tmp_path: Path) -> None:
    swapped = Initializer(Materials(given.target, given.source, tmp_path))
    with pytest.raises(ConversionError, match=r"has 1,100 tokens, .* has rows for 7\d\d: .* give --source-tokenizer"):
        replace_tokenizer(swapped, model(), "random", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "needed"),
    [("focus", "--corpus"), ("linear", "--vectors"), ("wechsel", "--source-word-vectors"), ("ofa", "--target-word"),
     ("ramen", "--dictionary")],
)  # fmt: skip
def test_what_a_method_needs(
    method: Method, needed: str, given: Materials, model: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match=f"method {method} needs .*{needed}"):
        replace_tokenizer(
            Initializer(Materials(given.source, given.target, tmp_path)), model(), method, tmp_path / "new"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_of_an_interrupted_run(
    error: BaseException, given: Materials, model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up, or the user stops it, when half of the tensors are written."""

    def progress(done: int, total: int) -> None:
        if done > total // 2:
            raise error

    with pytest.raises((ConversionError, KeyboardInterrupt), match=r"became full|^$"):
        replace_tokenizer(Initializer(given), model(), "mean", tmp_path / "new", progress=progress)
    assert list(tmp_path.iterdir()) == []


def test_memory_is_not_that_of_the_matrix(
    given: Materials, model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are asked for block by block; of the source only those that a block needs."""
    source = module.SourceModel.open(model(), read_vocabulary(given.source))
    asked: list[int] = []
    read_rows = SafetensorsReader.read_rows

    def counted(reader: SafetensorsReader, name: str, start: int, stop: int) -> torch.Tensor:
        asked.append(stop - start)
        return read_rows(reader, name, start, stop)

    monkeypatch.setattr(SafetensorsReader, "read_rows", counted)
    monkeypatch.setattr("megatron_bielik.surgery.combinations.BLOCK", 16)
    monkeypatch.setattr("megatron_bielik.surgery.combinations._READ_ROWS", 32)
    monkeypatch.setattr("megatron_bielik.surgery.combinations._GAP", 4)
    initialization = Initializer(given).build("fvt")
    blocks = [len(block) for block in module.new_rows(initialization, source.matrix(INPUT, 700))]
    assert max(blocks) == 16
    assert max(asked) <= 32
