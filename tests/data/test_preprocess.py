"""Text to shard: equal to a plain loop over the Hugging Face tokenizer, whatever the format, workers, kills and failures."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from megatron_bielik.corpus.synthetic import generate_document
from megatron_bielik.data import encode, pieces
from megatron_bielik.data import preprocess as module
from megatron_bielik.data.encode import GigatokenEncoder, choose_encoder, differences, load_tokenizer, make_encoder
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.inputs import find_inputs, plan_pieces
from megatron_bielik.data.preprocess import PreprocessOptions, Summary, preprocess
from megatron_bielik.data.readers import read_piece
from megatron_bielik.data.shards import ShardReader
from megatron_bielik.tokenizer.train import build_tokenizer

TOOL = Path(__file__).parents[2] / "tools" / "preprocess_data.py"
TEXTS = [generate_document(0, i)["text"] for i in range(300)]
TEXTS[3] = "Emoji 😀👨‍👩‍👧, control \u0000\u0007\u001b, „cytat” \u2028 \ufeff漢字 ﷽ z\u0307"
TEXTS[4] = ""
TEXTS[5] = "Ala </s> ma <|im_start|> kota"
TEXTS[6] = "\n\n \t"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer([text.encode() for text in TEXTS], 700, folder)
    return folder


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of the kind of Qwen2.5: its split, bytes as the alphabet."""
    folder = tmp_path_factory.mktemp("byte_level")
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    hf = Tokenizer(models.BPE())
    hf.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    hf.decoder = decoders.ByteLevel()
    special = [AddedToken("</s>", special=True, normalized=False)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    hf.train_from_iterator(TEXTS, trainer)
    hf.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return folder


@pytest.fixture(scope="module")
def expected(tokenizer: Path) -> list[list[int]]:
    """What the Hugging Face tokenizer gives, document by document; empty ones are left out."""
    hf = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    return [[*hf.encode(text, add_special_tokens=False).ids, 2] for text in TEXTS if text]


@pytest.fixture
def run(tmp_path: Path, tokenizer: Path) -> Callable[..., Summary]:
    def call(*inputs: Path, **options: object) -> Summary:
        base = PreprocessOptions(tuple(map(str, inputs)), str(tokenizer), str(tmp_path / "out"), piece_bytes=20_000)
        return preprocess(replace(base, **options))  # type: ignore[arg-type]

    return call


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=bool(i % 2)) + "\n" for i, text in enumerate(texts)).encode()


def write_input(folder: Path, kind: str) -> Path:
    path = folder / f"in.{kind}"
    if kind == "jsonl":
        path.write_bytes(lines(TEXTS))
    elif kind == "jsonl.gz":  # two members, cut in the middle of a line
        data = lines(TEXTS)
        path.write_bytes(gzip.compress(data[:9001]) + gzip.compress(data[9001:]))
    elif kind == "jsonl.zst":  # several frames
        data = lines(TEXTS)
        path.write_bytes(b"".join(zstandard.compress(data[i : i + 50_001]) for i in range(0, len(data), 50_001)))
    else:
        pq.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), path, row_group_size=37)
    return path


def result(folder: Path) -> list[list[int]]:
    reader = ShardReader(folder / "out")
    reader.verify(700)
    return [document.tolist() for document in reader]


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("out.bin", "out.idx")}


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_every_format_gives_the_tokens_of_the_reference(
    tmp_path: Path, run: Callable[..., Summary], expected: list[list[int]], kind: str
) -> None:
    summary = run(write_input(tmp_path, kind))
    assert result(tmp_path) == expected
    assert summary.encoder == "gigatoken"
    assert (summary.documents, summary.empty_documents, summary.bad_records) == (len(expected), 1, 0)
    assert summary.tokens == sum(map(len, expected))
    assert summary.text_bytes == sum(len(text.encode()) for text in TEXTS)
    assert summary.special_tokens_in_text == 2
    assert json.loads((tmp_path / "out.json").read_text())["tokens"] == summary.tokens
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["out.bin", "out.idx", "out.json", "out.manifest.json", f"in.{kind}"]
    )


def test_workers_pieces_and_encoders_give_the_same_bytes(tmp_path: Path, run: Callable[..., Summary]) -> None:
    source, seen = write_input(tmp_path, "jsonl"), []
    for options in (
        {},
        {"workers": 2},
        {"workers": 3, "piece_bytes": 3_001},
        {"encoder": "tokenizers", "piece_bytes": 10_000_000},
    ):
        run(source, overwrite=True, **options)
        seen.append(contents(tmp_path))
    assert all(other == seen[0] for other in seen)


def test_options_and_order_of_inputs(tmp_path: Path, run: Callable[..., Summary], tokenizer: Path) -> None:
    hf = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"body": "Plik {name}"}}\n\n{{"body": "drugi"}}', encoding="utf-8")
    run(tmp_path / "b.jsonl", tmp_path / "[ab].jsonl", json_key="body", append_eod=False)
    texts = ["Plik b", "drugi", "Plik a", "drugi", "Plik b", "drugi"]
    assert result(tmp_path) == [hf.encode(text).ids for text in texts]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "0 bad records, 0 empty ones; is"),
        (b'{"text": ""}\n' * 3, "0 bad records, 3 empty ones; is"),
        (b'{"content": "a"}\n' * 50, "50 bad records, 0 empty ones; first: {path}, line 1: no key 'text'; is"),
        (b'{"text": 7}\n{"text": ""}\n', "1 bad records, 1 empty ones; first: {path}, line 1: 'text' is a int"),
    ],
)
def test_e9_nothing_usable_is_an_error(content: bytes, found: str, tmp_path: Path, run: Callable[..., Summary]) -> None:
    """Also the second time, also where an earlier version has left an empty result."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    for share in (0.1, 1.0):
        with pytest.raises(DataError) as error:
            run(path, max_bad_share=share)
        assert f"--input holds no document with a token: {found.format(path=path)}" in str(error.value)
        assert "is --json-key 'text' right?" in str(error.value)
        assert not (tmp_path / "out.idx").exists()
        assert not (tmp_path / "out.manifest.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_refuse_if_bad", lambda *_: None)
        patch.setattr(module, "_clear", lambda _: None)
        assert run(path).documents == 0
    with pytest.raises(DataError, match="--input holds no document"):
        run(path)
    path.write_text('{"text": "Tekst."}\n')
    assert run(path, overwrite=True).documents == 1


def test_e9_the_same_command_with_the_right_key_begins(tmp_path: Path, run: Callable[..., Summary]) -> None:
    path = write_input(tmp_path, "jsonl")
    for workers in (1, 2):
        with pytest.raises(DataError, match="is --json-key 'content' right"):
            run(path, json_key="content", workers=workers)
    assert run(path).documents > 100
    before = contents(tmp_path)
    with pytest.raises(DataError, match="is --json-key 'content' right"):
        run(path, json_key="content", overwrite=True)
    assert contents(tmp_path) == before, "a result that is there stays"


def test_e9_the_share_of_bad_records_is_bounded(tmp_path: Path, run: Callable[..., Summary]) -> None:
    """Nothing is made above it; with a larger one the same command goes on from the finished pieces."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "Dobry wiersz."}\n' * 8 + '{"text": ""}\n{"body": "zły"}\n' + "{\n")
    with pytest.raises(
        DataError, match=r"2 of 11 records are bad, more than --max-bad-share 0\.1; first: .*, line 10: no key"
    ):
        run(path, piece_bytes=64)
    assert not (tmp_path / "out.idx").exists()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out.pieces").glob("0*")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces.PieceWorker, "run", None)  # no piece is done again
        assert run(path, piece_bytes=64, max_bad_share=2 / 11).documents == 8
    assert len(before) > 3
    with pytest.raises(DataError, match="more than --max-bad-share"):
        run(path, piece_bytes=64)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(DataError, match=r"--max-bad-share is .*, needs 0 to 1"):
            run(path, max_bad_share=share)


def test_e9_nested_keys_are_read(tmp_path: Path, run: Callable[..., Summary], tokenizer: Path) -> None:
    """a.b is the field b of the object under a, in every format; a field whose name has a dot goes first."""
    hf = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    rows: list[dict[str, Any]] = [
        {"page": {"text": "pierwszy", "n": 1}, "text": "nie ten"},
        {"page": {"text": None, "n": 2}, "text": "nie ten"},
        {"page": None, "text": "nie ten"},
        {"page": {"text": "drugi", "n": 3}, "text": "nie ten"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name, reasons in (
        ("a.jsonl", ["line 2: 'page.text' is a NoneType, needs a string", "line 3: no key 'page.text'"]),
        ("a.parquet", ["row 2: null, needs a string", "row 3: null, needs a string"]),
    ):
        summary = run(tmp_path / name, json_key="page.text", append_eod=False, max_bad_share=0.5, overwrite=True)
        assert result(tmp_path) == [hf.encode(text).ids for text in ("pierwszy", "drugi")]
        assert summary.first_bad_records == [f"{tmp_path / name}, {reason}" for reason in reasons]
    (tmp_path / "b.jsonl").write_text('{"a.b": "z kropką", "a": {"b": "nie ten"}}\n{"a": {"b": {"c": "x"}}}\n')
    summary = run(tmp_path / "b.jsonl", json_key="a.b", append_eod=False, max_bad_share=0.5, overwrite=True)
    assert result(tmp_path) == [hf.encode("z kropką").ids]
    assert "'a.b' is a dict, needs a string" in summary.first_bad_records[0]
    both = pa.table({"page": [{"text": "nie ten"}], "page.text": ["z kropką"], "n": [1]})
    pq.write_table(both, tmp_path / "c.parquet")
    run(tmp_path / "c.parquet", json_key="page.text", append_eod=False, overwrite=True)
    assert result(tmp_path) == [hf.encode("z kropką").ids]
    pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "d.parquet")
    with pytest.raises(DataError, match="there are 2 columns 'text'"):
        run(tmp_path / "d.parquet", overwrite=True)
    for key in ("page.body", "body.text", "page.text.x", "page."):
        with pytest.raises(DataError, match=f"has columns page, text, none is '{key}'"):
            run(tmp_path / "a.parquet", json_key=key, overwrite=True)


BAD_LINES = [
    (b'{"text": "a"', "invalid JSON"),
    (b'{"body": "a"}', "no key 'text'"),
    (b'{"text": 3}', "'text' is a int, needs a string"),
    (b'{"text": null}', "'text' is a NoneType, needs a string"),
    (b'["text"]', "a JSON list, needs an object"),
    (b'{"text": "\xff\xfe"}', "invalid UTF-8 at byte 10"),
    (b'{"text": "\\ud800"}', "lone surrogate in 'text'"),
    (b"[" * 100_000, "nested too deeply"),
]


def test_bad_lines_are_counted_and_named(tmp_path: Path, run: Callable[..., Summary]) -> None:
    good = b'{"text": "dobry"}\n'
    data = b"".join(good * 3 + bad + b"\n" for bad, _ in BAD_LINES) + good
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(data))
    summary = run(tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz", piece_bytes=3_000, max_bad_share=0.3)
    assert summary.documents == 2 * (3 * len(BAD_LINES) + 1)
    assert summary.bad_records == 2 * len(BAD_LINES)
    told = iter(summary.first_bad_records)
    for name in ("a.jsonl", "b.jsonl.gz"):
        for number, (_, reason) in enumerate(BAD_LINES):
            line = next(told)
            assert line.startswith(f"{tmp_path / name}, line {4 * number + 4}: ")
            assert reason in line


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz"])
def test_fatal_ends_the_run_and_a_mended_option_goes_on(tmp_path: Path, run: Callable[..., Summary], kind: str) -> None:
    data = b'{"text": "dobry"}\n' * 20 + b"{zle}\n" + b'{"text": "dobry"}\n'
    path = tmp_path / f"a.{kind}"
    path.write_bytes(gzip.compress(data) if kind == "jsonl.gz" else data)
    with pytest.raises(DataError, match=r"a\.jsonl.*, line 21: invalid JSON.*--on-error skip"):
        run(path, on_error="fatal", piece_bytes=100)
    assert not (tmp_path / "out.idx").exists()
    assert run(path, on_error="skip", piece_bytes=100).documents == 21
    with pytest.raises(DataError, match="line 21"):
        run(path, on_error="fatal", piece_bytes=100)


def test_bad_rows_of_parquet(tmp_path: Path, run: Callable[..., Summary]) -> None:
    pq.write_table(pa.table({"text": ["a", None, "b"], "n": [1, 2, 3]}), tmp_path / "a.parquet", row_group_size=1)
    summary = run(tmp_path / "a.parquet", max_bad_share=0.5)
    assert summary.first_bad_records == [f"{tmp_path / 'a.parquet'}, row 2: null, needs a string"]
    with pytest.raises(DataError, match="column 'n' is int64, needs string"):
        run(tmp_path / "a.parquet", json_key="n", overwrite=True)
    with pytest.raises(DataError, match="has columns text, n, none is 'body'"):
        run(tmp_path / "a.parquet", json_key="body", overwrite=True)


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst", "parquet"])
def test_truncated_files_are_errors(tmp_path: Path, run: Callable[..., Summary], kind: str) -> None:
    path = write_input(tmp_path, kind)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=rf"in\.{kind} (is truncated|is no complete parquet file).*fetch it again"):
        run(path)
    path.write_bytes(b"garbage garbage garbage")
    with pytest.raises(DataError, match=rf"in\.{kind} is (damaged|no complete)"):
        run(path, overwrite=True)
    assert not (tmp_path / "out.bin").exists()


def test_txt_is_one_document_or_paragraphs(tmp_path: Path, run: Callable[..., Summary], tokenizer: Path) -> None:
    hf = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfraz\ndwa\n\n\n  \ntrzy\r\n\r\ncztery")
    (tmp_path / "b.txt").write_bytes(b"zle \xff")
    summary = run(tmp_path / "a.txt", tmp_path / "b.txt", append_eod=False, max_bad_share=0.5)
    assert result(tmp_path) == [hf.encode("raz\ndwa\n\n\n  \ntrzy\r\n\r\ncztery").ids]
    assert summary.first_bad_records == [f"{tmp_path / 'b.txt'}, line 1: invalid UTF-8 at byte 4 of the file"]
    run(tmp_path / "a.txt", append_eod=False, txt_split="blank-line", overwrite=True)
    assert result(tmp_path) == [hf.encode(text).ids for text in ("raz\ndwa", "trzy", "cztery")]


@settings(max_examples=150, deadline=None)
@given(st.text("ab \n", max_size=60), st.integers(1, 30), st.sampled_from(["x.txt", "x.jsonl"]))
def test_pieces_lose_and_repeat_nothing(
    tmp_path_factory: pytest.TempPathFactory, text: str, piece_bytes: int, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    content = text if name == "x.txt" else "\n".join(json.dumps({"text": word}) for word in text.split("\n"))
    path.write_text(content, encoding="utf-8")

    def read(size: int) -> list[bytes]:
        plan = plan_pieces(find_inputs([str(path)]), size, "blank-line")
        return [t for piece in plan for batch in read_piece(piece, "text", "blank-line") for t in batch.texts]

    assert read(piece_bytes) == read(1 << 20)


def test_a_full_disk_is_one_line_and_the_run_can_go_on(
    tmp_path: Path, run: Callable[..., Summary], expected: list[list[int]]
) -> None:
    source = write_input(tmp_path, "jsonl")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The final file does not fit; its pieces do.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(DataError, match=r"cannot write .*out\.bin: file too large; nothing was left"):
            run(source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.pieces"]
    run(source)
    assert result(tmp_path) == expected


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, tokenizer: Path, run: Callable[..., Summary]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(lines(TEXTS * 6))
    run(source, piece_bytes=50_000)
    whole = contents(tmp_path)
    for path in tmp_path.glob("out.*"):
        path.unlink()
    command = [sys.executable, str(TOOL), "--input", str(source), "--tokenizer", str(tokenizer), "--workers", "2"]
    command += ["--output-prefix", str(tmp_path / "out"), "--piece-megabytes", "0.05", "--encoder", "tokenizers"]
    folder, kills = tmp_path / "out.pieces", 0
    done: set[str] = set()
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            now = {path.name for path in folder.glob("0*.json")} if folder.is_dir() else set()
            if len(now) >= len(done) + 3:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        process.wait(timeout=20)
        now = {path.name for path in folder.glob("0*.json")}
        assert done <= now
        done = now
    assert kills == 2
    assert not (tmp_path / "out.idx").exists()
    finish = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert finish.returncode == 0, finish.stderr
    assert contents(tmp_path) == whole
    assert not folder.exists()


def test_finished_pieces_are_not_done_again(
    tmp_path: Path, run: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_input(tmp_path, "jsonl")
    real, calls = pieces.PieceWorker.run, list[str]()

    def interrupted(self: pieces.PieceWorker, piece: pieces.Piece) -> pieces.PieceResult:
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(piece.name)
        return real(self, piece)

    monkeypatch.setattr(pieces.PieceWorker, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(source)
    before = list(calls)
    # A piece whose shard was damaged afterwards is not taken for done.
    (tmp_path / "out.pieces" / f"{before[1]}.bin").write_bytes(b"")
    monkeypatch.setattr(pieces.PieceWorker, "run", lambda self, piece: (calls.append(piece.name), real(self, piece))[1])
    run(source)
    assert set(calls[4:]) & set(before) == {before[1]}


def test_changed_work_is_refused(tmp_path: Path, run: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_input(tmp_path, "jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(pieces, "write_marker", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(source)
    with pytest.raises(DataError, match=r"pieces of other work \(changed: append_eod\).*--overwrite"):
        run(source, append_eod=False)
    os.utime(source, (1, 1))
    with pytest.raises(DataError, match=r"changed: inputs"):
        run(source)
    run(source, overwrite=True)
    first = contents(tmp_path)
    assert run(source).documents  # complete: nothing is done
    with pytest.raises(DataError, match=r"exists and was made from something else \(json_key\)"):
        run(source, json_key="id")
    (tmp_path / "out.json").unlink()
    with pytest.raises(DataError, match="its origin is not known"):
        run(source)
    assert contents(tmp_path) == first


def test_a_strangers_folder_is_left_alone(tmp_path: Path, run: Callable[..., Summary]) -> None:
    (tmp_path / "out.pieces").mkdir()
    (tmp_path / "out.pieces" / "diary.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds diary\.txt, which is not of this tool"):
        run(write_input(tmp_path, "jsonl"))
    assert (tmp_path / "out.pieces" / "diary.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ("missing.jsonl",)}, "--input missing.jsonl: no such file"),
        ({"inputs": (__file__,)}, "unknown suffix, needs one of .jsonl"),
        ({"workers": 0}, "--workers is 0, needs at least 1"),
        ({"piece_bytes": 0}, "--piece-megabytes gives 0 bytes"),
        ({"tokenizer": "/nowhere"}, "--tokenizer /nowhere: no tokenizer.json"),
        ({"output_prefix": f"{__file__}/x"}, f"cannot write {__file__}/x.pieces: Not a directory"),
        ({"shard_tokens": 0}, "--shard-tokens is 0, needs at least 1"),
    ],
)
def test_wrong_options_are_named(
    tmp_path: Path, run: Callable[..., Summary], options: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError) as error:
        run(write_input(tmp_path, "jsonl"), **options)
    assert message in str(error.value)


def test_an_encoder_that_differs_is_not_used(
    tmp_path: Path,
    run: Callable[..., Summary],
    tokenizer: Path,
    expected: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = GigatokenEncoder.encode

    def wrong_for_emoji(self: GigatokenEncoder, documents: list[bytes]) -> encode.Encoded:
        flat, lengths = real(self, documents)
        flat = flat.copy()
        if any(b"Emoji" in text for text in documents):
            flat[-1] += 1
        return flat, lengths

    monkeypatch.setattr(GigatokenEncoder, "encode", wrong_for_emoji)
    source = write_input(tmp_path, "jsonl")
    # The fixed strings do not show it, the beginning of a piece does: that piece falls back.
    assert run(source, piece_bytes=10_000_000).encoder == "gigatoken"
    assert result(tmp_path) == expected
    with pytest.raises(DataError, match="--encoder is gigatoken, but it gives other IDs for"):
        run(source, encoder="gigatoken", overwrite=True)
    monkeypatch.setattr(encode, "NASTY", ("Emoji",))
    assert "because it gives other IDs for" in choose_encoder(load_tokenizer(tokenizer), "auto")[1]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=8))
def test_the_two_encoders_agree_on_any_text(tokenizer: Path, byte_level: Path, texts: list[str]) -> None:
    documents = [text.encode() for text in texts]
    for folder in (tokenizer, byte_level):
        files = load_tokenizer(folder)
        assert differences(make_encoder(files, "gigatoken"), make_encoder(files, "tokenizers"), documents) is None


def test_gigatoken_knows_both_kinds_of_tokenizer(tokenizer: Path, byte_level: Path) -> None:
    assert [choose_encoder(load_tokenizer(folder), "auto")[0] for folder in (tokenizer, byte_level)] == [
        "gigatoken"
    ] * 2


def test_a_tokenizer_gigatoken_does_not_know(tmp_path: Path, tokenizer: Path) -> None:
    config = json.loads((tokenizer / "tokenizer.json").read_text())
    pattern = {"Regex": r"\p{L}+|[^\p{L}]"}
    config["pre_tokenizer"] = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "</s>"}}')
    name, reason = choose_encoder(load_tokenizer(tmp_path), "auto")
    assert name == "tokenizers"
    assert "it cannot load this tokenizer" in reason
    with pytest.raises(DataError, match="--encoder is gigatoken, but it cannot load"):
        choose_encoder(load_tokenizer(tmp_path), "gigatoken")
    (tmp_path / "special_tokens_map.json").unlink()
    with pytest.raises(DataError, match="eos_token is None"):
        load_tokenizer(tmp_path)
