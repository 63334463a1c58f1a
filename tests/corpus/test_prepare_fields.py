"""Through the corpus pipeline a document keeps its text, its id and every other field, whatever the columns are called."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_bielik.corpus.features import FeatureExtractor
from megatron_bielik.corpus.labelled import labelled_document
from megatron_bielik.corpus.prepare import make_plan
from megatron_bielik.corpus.prepare_config import (
    CorpusConfig,
    ExecutorConfig,
    FilterConfig,
    InputSpec,
    NearDuplicatesConfig,
    OutputConfig,
    QualityConfig,
)
from megatron_bielik.corpus.prepare_run import run
from megatron_bielik.corpus.quality import QualityOptions, label_numbers, train_quality_model
from megatron_bielik.corpus.records import ReadCount, read_records
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.fields import replace_field, take_field

TEXT_KEYS = ["text", "body", "id", "metadata", "media", "quality", "source_text", "page.text"]
ID_KEYS = ["id", "title", "text", "url", "page.id"]
# Names that the pipeline itself uses, or datatrove does.
COLUMNS: dict[str, Any] = {
    "text": "Kolumna, która tylko tak się nazywa.",
    "id": "inny-identyfikator",
    "title": "Tytuł",
    "body": "Inna kolumna.",
    "metadata": {"text": "wewnątrz", "id": "w-metadanych", "n": 1},
    "media": ["obraz.png"],
    "url": "https://przyklad.pl/strona",
    "quality": "ręcznie: dobra",
    "predicted_topic": "Ogrody",
    "source_text": "skan",
    "source_quality": 3,
    "file_path": "/gdzie/indziej",
    "page": {"id": "strona-7", "text": "tekst strony", "number": 7},
}


def texts(count: int) -> list[str]:
    """Different documents, each with an address that has to go."""
    return [f"Ogród numer {i} ma jabłonie, staw i ławkę. Adres: jan.{i}@firma.pl, napisz." for i in range(count)]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


@pytest.fixture(scope="module")
def quality_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier, so that the pipeline writes its own field "quality"."""
    path = tmp_path_factory.mktemp("quality") / "q.json"
    extractor = FeatureExtractor()
    documents = [labelled_document(1, i, 2) for i in range(200)]
    rows, labels = extractor([d.text for d in documents]), label_numbers([d.label for d in documents])
    train_quality_model(rows, labels, extractor.version, QualityOptions(n_estimators=5)).save(path)
    return path


def expected_fields(row: dict[str, Any], text_key: str, id_key: str, scored: bool) -> dict[str, Any]:
    """What is left of a record when text and id are taken out, under the names that it must have afterwards."""
    rest = json.loads(json.dumps(row))
    take_field(rest, text_key)
    take_field(rest, id_key)
    taken = {"id", "text", *(["quality"] if scored else [])}
    made = {}
    for name, value in rest.items():
        free = name
        while free in taken or (free != name and free in rest):
            free = f"source_{free}"
        made[free] = value
    return made


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("scored", [False, True], ids=["plain", "scored"])
def test_c1_every_combination_of_keys(suffix: str, scored: bool, quality_model: Path, tmp_path: Path) -> None:
    """One run with a source for each pair of keys: cleaned text and id win, nothing else is lost."""
    pairs = list(itertools.product(TEXT_KEYS, ID_KEYS))
    made, sources = texts(len(pairs)), []
    rows: dict[str, dict[str, Any]] = {}
    for number, ((text_key, id_key), text) in enumerate(zip(pairs, made, strict=True)):
        row = json.loads(json.dumps(COLUMNS))
        if "." not in id_key:
            row[id_key] = f"id-{number}"
        else:
            replace_field(row, id_key, f"id-{number}")
        if "." not in text_key:
            row[text_key] = text
        else:
            replace_field(row, text_key, text)
        path = tmp_path / f"{number:02d}.{suffix}"
        write(path, [row])
        sources.append(InputSpec(str(path), text_key=text_key, id_key=id_key))
        rows[text] = row
    config = CorpusConfig(
        sources,
        executor=ExecutorConfig(tasks=2, workers=1),
        filter=FilterConfig(False),
        near_duplicates=NearDuplicatesConfig(False),  # exact ones are looked for, so that documents are read again
        output=OutputConfig(str(tmp_path / "out"), compression="none"),
    )
    if scored:
        config = replace(config, quality=QualityConfig(str(quality_model), keep_all=True))
    run(make_plan(config))
    found = list(read_records([str(tmp_path / "out" / "documents" / "*.jsonl")], "text", ReadCount()))
    by_number = {record["text"].split("Adres: ")[0]: record for record in found}
    assert len(by_number) == len(pairs)
    for number, ((text_key, id_key), text) in enumerate(zip(pairs, made, strict=True)):
        record = by_number[text.split("Adres: ")[0]]
        assert record["text"].endswith("Adres: <EMAIL>, napisz."), (text_key, id_key)
        assert record["id"] == (f"{number:02d}.{suffix}/0" if text_key == id_key else f"id-{number}")
        if scored:
            assert set(record.pop("quality")) == {"label", "low", "medium", "high"}
        rest = {name: value for name, value in record.items() if name not in ("id", "text")}
        assert rest == expected_fields(rows[text], text_key, id_key, scored), (text_key, id_key)
        assert "@firma.pl" not in json.dumps(record), "no field holds the text as it was"


@pytest.mark.parametrize(("value", "name"), [(0, "0"), (7, "7"), (False, "False"), ("", None), (None, None)])
def test_c1_any_id_is_an_id(value: Any, name: str | None, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"id": value, "text": texts(1)[0]}])
    assert [r["id"] for r in prepared(tmp_path, InputSpec(str(tmp_path / "a.jsonl")))] == [name or "a.jsonl/0"]


@pytest.mark.parametrize("media", ["plakat.png", ["a.png"], [], {"a": 1}, None, 3])
@pytest.mark.parametrize("metadata", ["tekst", ["a"], {"a": 1, "text": "b"}, None, 3])
def test_c1_c10_fields_that_datatrove_has_a_meaning_for(media: Any, metadata: Any, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": texts(1)[0], "media": media, "metadata": metadata}])
    (record,) = prepared(tmp_path, InputSpec(str(tmp_path / "a.jsonl")))
    assert (record["media"], record["metadata"]) == (media, metadata)


def test_c1_pages_and_texts_win_too(tmp_path: Path) -> None:
    """A key given for text files may be the name of a field that the reader itself adds."""
    (tmp_path / "a.txt").write_text(texts(1)[0], encoding="utf-8")
    spec = InputSpec(str(tmp_path / "a.txt"), text_key="url", id_key="url")
    (record,) = prepared(tmp_path, spec)
    assert record["text"].endswith("<EMAIL>, napisz.")
    assert record["id"] == "a.txt/0"


def prepared(folder: Path, *sources: InputSpec, output: str = "out") -> list[dict[str, Any]]:
    config = CorpusConfig(
        list(sources),
        executor=ExecutorConfig(tasks=1, workers=1),
        filter=FilterConfig(False),
        near_duplicates=NearDuplicatesConfig(False),
        output=OutputConfig(str(folder / output), compression="none"),
    )
    run(make_plan(config))
    return list(read_records([str(folder / output / "documents" / "*.jsonl")], "text", ReadCount()))


@pytest.mark.parametrize(
    ("rows", "reasons"),
    [([{"content": "a"}] * 4, "4 no text"), ([], "nothing"), ([{"text": " "}, {"text": 3}], "2 no text")],
)
def test_e9_a_source_of_nothing_is_an_error(rows: list[dict[str, Any]], reasons: str, tmp_path: Path) -> None:
    """Alone or beside others; an earlier result stays as it is."""
    write(tmp_path / "good.jsonl", [{"text": texts(1)[0]}])
    prepared(tmp_path, InputSpec(str(tmp_path / "good.jsonl")))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    write(tmp_path / "bad.jsonl", rows)
    good, bad = (InputSpec(str(tmp_path / f"{name}.jsonl")) for name in ("good", "bad"))
    for sources in ([bad], [good, bad]):
        config = CorpusConfig(sources, output=OutputConfig(str(tmp_path / "out")))
        with pytest.raises(DataError) as error:
            run(make_plan(replace(config, executor=ExecutorConfig(tasks=2, workers=1))), overwrite=True)
        assert str(error.value) == (
            f"input {tmp_path}/bad.jsonl: no document (passed over in all sources: {reasons}); is text_key right?"
        )
    after = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if "work" not in path.parts} == before


@pytest.mark.parametrize("make", [lambda row: row, lambda row: row | {"score": 0.5}])
def test_c1_the_result_prepared_again_is_the_same(
    make: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path
) -> None:
    rows = [make({"id": f"d{i}", "text": text, "url": "u"}) for i, text in enumerate(texts(5))]
    write(tmp_path / "a.jsonl", rows)
    first = prepared(tmp_path, InputSpec(str(tmp_path / "a.jsonl")))
    assert len(first) == 5
    assert first[0].keys() == rows[0].keys()
    assert prepared(tmp_path, InputSpec(str(tmp_path / "out" / "documents")), output="again") == first
