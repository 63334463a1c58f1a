"""The corpus pipeline: its documents are those of its parts put together by hand, at any number of workers and kills."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from megatron_bielik.corpus.anonymise import Anonymiser
from megatron_bielik.corpus.duplicates import find_duplicates
from megatron_bielik.corpus.exact import ExactDuplicates
from megatron_bielik.corpus.features import FEATURE_NAMES, FeatureExtractor
from megatron_bielik.corpus.labelled import labelled_document
from megatron_bielik.corpus.prepare import make_plan
from megatron_bielik.corpus.prepare_config import (
    CorpusConfig,
    ExactDuplicatesConfig,
    ExecutorConfig,
    FilterConfig,
    InputSpec,
    NearDuplicatesConfig,
    OutputConfig,
    QualityConfig,
    RepairConfig,
)
from megatron_bielik.corpus.prepare_run import run
from megatron_bielik.corpus.quality import HIGH, MEDIUM, QualityOptions, label_numbers, train_quality_model
from megatron_bielik.corpus.records import ReadCount, dump, read_records
from megatron_bielik.corpus.repair import repair
from megatron_bielik.corpus.synthetic import generate_document
from megatron_bielik.corpus.topics import train_topic_model
from megatron_bielik.data.errors import DataError

TOOL = Path(__file__).parents[2] / "tools" / "prepare_corpus.py"


def records(count: int) -> list[dict[str, Any]]:
    """Generated documents, some twice, some with an ending, one with personal data."""
    made = [labelled_document(3, i, 1 + i % 5).record() for i in range(count)]
    made += [{**r, "id": f"{r['id']}-again"} for r in made[:10]]
    made += [
        {**r, "id": f"{r['id']}-longer", "text": f"{r['text']} I jeszcze jedno krótkie zdanie."} for r in made[10:30]
    ]
    private = "Napisz na adres jan.kowalski@firma.pl, a odpowiem. " + made[2]["text"]
    return [*made, {"id": "private", "text": private}]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    made = records(90)
    for part in range(3):
        content = b"".join(dump(r) for r in made[part * 41 : (part + 1) * 41])
        (folder / f"{part}.jsonl").write_bytes(content + b'{broken\n{"text": 5}\n\n')
    return folder


def config(inputs: Path, folder: Path, /, **options: Any) -> CorpusConfig:
    options = dict(options)
    executor = ExecutorConfig(tasks=options.pop("tasks", 3), workers=options.pop("workers", 1))
    out = OutputConfig(str(folder), compression="none", **options.pop("output", {}))
    return CorpusConfig([InputSpec(str(inputs))], executor=executor, output=out, **options)


def result(folder: Path) -> list[dict[str, Any]]:
    return list(read_records([str(folder / "documents" / "*.jsonl*")], "text", ReadCount()))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def by_hand(inputs: Path) -> list[dict[str, Any]]:
    """The same steps, one after the other, on a list."""
    kept = list(read_records([str(inputs / "*.jsonl")], "text", ReadCount()))
    anonymiser, extractor, exact = Anonymiser(), FeatureExtractor(), ExactDuplicates()
    kept = [{**r, "text": anonymiser.anonymise(repair(r["text"]).text).text} for r in kept]
    for name, (low, high) in FilterConfig().rules.items():
        column = extractor([r["text"] for r in kept])[:, FEATURE_NAMES.index(name)]
        kept = [r for r, value in zip(kept, column.tolist(), strict=True) if low - 1e-6 <= value <= high + 1e-6]
    kept = [r for r in kept if exact.is_new(r["text"])]
    stays = find_duplicates(r["text"] for r in kept).keep
    return [r for r, keep in zip(kept, stays.tolist(), strict=True) if keep]


def test_the_pipeline_is_its_parts(inputs: Path, tmp_path: Path) -> None:
    report = run(make_plan(config(inputs, tmp_path / "out")))
    expected = by_hand(inputs)
    assert result(tmp_path / "out") == expected
    assert report is not None
    steps = {step["step"]: step for step in report["steps"]}
    assert list(steps) == ["read", "repair", "anonymise", "filter", "exact duplicates", "near duplicates"]
    assert steps["read"]["dropped"] == {"no JSON": 3, "no text": 3}
    assert steps["read"]["out"]["documents"] == len(records(90))
    assert steps["anonymise"]["changes"]["email"] >= 1
    assert steps["exact duplicates"]["dropped"]["exact duplicate"] >= 10
    assert steps["near duplicates"]["dropped"]["near duplicate"] >= 10
    assert steps["near duplicates"]["out"]["documents"] == len(expected)
    assert steps["near duplicates"]["out"]["text_bytes"] == sum(len(r["text"].encode()) for r in expected)
    assert all("@firma" not in r["text"] for r in expected)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["documents", "report.json", "report.md"]


def test_workers_change_nothing_and_finished_work_is_not_repeated(inputs: Path, tmp_path: Path) -> None:
    run(make_plan(config(inputs, tmp_path / "one")))
    run(make_plan(config(inputs, tmp_path / "two", workers=2)))
    one, two = tree(tmp_path / "one" / "documents"), tree(tmp_path / "two" / "documents")
    assert one == two
    assert len(one) == 3
    said: list[str] = []
    before = (tmp_path / "one" / "documents" / "00000.jsonl").stat().st_mtime_ns
    run(make_plan(config(inputs, tmp_path / "one")), say=said.append)
    assert said == [f"{tmp_path}/one is complete already; nothing to do"]
    assert (tmp_path / "one" / "documents" / "00000.jsonl").stat().st_mtime_ns == before


def test_one_task_and_many_keep_the_same_documents(inputs: Path, tmp_path: Path) -> None:
    run(make_plan(config(inputs, tmp_path / "one", tasks=1)))
    run(make_plan(config(inputs, tmp_path / "three")))
    assert result(tmp_path / "one") == result(tmp_path / "three")


def test_every_step_can_be_left_out(inputs: Path, tmp_path: Path) -> None:
    plain = config(
        inputs, tmp_path / "out", repair=RepairConfig(False), filter=FilterConfig(False),
        exact_duplicates=ExactDuplicatesConfig(False), near_duplicates=NearDuplicatesConfig(False),
    )  # fmt: skip
    plain = replace(plain, anonymise=replace(plain.anonymise, enabled=False))
    report = run(make_plan(plain))
    assert report is not None
    assert [step["step"] for step in report["steps"]] == ["read"]
    assert result(tmp_path / "out") == list(read_records([str(inputs / "*.jsonl")], "text", ReadCount()))


def test_other_options_are_other_work(inputs: Path, tmp_path: Path) -> None:
    run(make_plan(config(inputs, tmp_path / "out")))
    other = make_plan(config(inputs, tmp_path / "out", repair=RepairConfig(False)))
    with pytest.raises(
        DataError, match=r"holds results of other options or inputs; give another output\.folder, or --overwrite"
    ):
        run(other)
    run(other, overwrite=True)
    assert len(result(tmp_path / "out")) > 0
    (inputs / "0.jsonl").write_bytes((inputs / "0.jsonl").read_bytes() + b"\n")
    with pytest.raises(DataError, match="other options or inputs"):
        run(make_plan(config(inputs, tmp_path / "out", repair=RepairConfig(False))))


def test_later_stages_go_on_from_earlier_ones(inputs: Path, tmp_path: Path) -> None:
    """Another quality threshold does not clean again, where work/ was kept."""
    extractor = FeatureExtractor()
    documents = [labelled_document(1, i, 2) for i in range(300)]
    rows, labels = extractor([d.text for d in documents]), label_numbers([d.label for d in documents])
    model = train_quality_model(rows, labels, extractor.version, QualityOptions(n_estimators=10))
    model.save(tmp_path / "q.json")
    topics = train_topic_model([d.text for d in documents], [d.topic for d in documents])
    topics.save(tmp_path / "t.npz")
    kept = {"output": {"keep_work": True, "features": True, "samples": 1}}
    first = config(inputs, tmp_path / "out", quality=QualityConfig(str(tmp_path / "q.json"), keep_all=True), **kept)
    first = replace(first, topics=replace(first.topics, model=str(tmp_path / "t.npz")))
    report = run(make_plan(first))
    found = result(tmp_path / "out")
    texts = [r["text"] for r in found]
    expected = model.probabilities(extractor(texts))
    assert [r["quality"]["high"] for r in found] == pytest.approx(expected[:, HIGH].tolist(), abs=6e-5)
    assert [r["predicted_topic"] for r in found] == [topic for topic, _ in topics.topics(texts)]
    tables = [pq.read_table(tmp_path / "out" / "features" / f"{rank:05d}.parquet") for rank in range(3)]
    table = pa.concat_tables(tables)
    assert table.column("id").to_pylist() == [r["id"] for r in found]
    assert table.column("oovs").to_numpy().tolist() == extractor(texts)[:, FEATURE_NAMES.index("oovs")].tolist()
    assert report is not None
    assert report["pictures"] == ["P_HIGH.png", "P_topic.png"]
    assert (tmp_path / "out" / "P_HIGH.png").read_bytes().startswith(b"\x89PNG")
    clean = next((tmp_path / "out" / "work").glob("clean-*")) / "documents" / "00000.jsonl.zst"
    before = clean.stat().st_mtime_ns
    second = replace(first, quality=replace(first.quality, keep_all=False))
    run(make_plan(second), overwrite=True)
    high = [r["id"] for r, p in zip(found, expected, strict=True) if p[HIGH] > 0.5 or p[MEDIUM] > 0.8]
    assert [r["id"] for r in result(tmp_path / "out")] == high
    assert clean.stat().st_mtime_ns == before


def test_tokens_are_counted_where_a_tokenizer_is_given(inputs: Path, tmp_path: Path) -> None:
    from megatron_bielik.tokenizer.byte_level import train_byte_level, write_byte_level

    tokenizer = train_byte_level([r["text"] for r in records(30)], 400)
    (tmp_path / "tokenizer").mkdir()
    write_byte_level(tokenizer, tmp_path / "tokenizer")
    report = run(make_plan(config(inputs, tmp_path / "out", output={"tokenizer": str(tmp_path / "tokenizer")})))
    assert report is not None
    expected = sum(len(tokenizer.encode(r["text"], add_special_tokens=False).ids) for r in result(tmp_path / "out"))
    assert report["steps"][-1]["out"]["tokens"] == expected
    assert report["steps"][-1]["in"]["tokens"] > expected


def test_every_input_format(tmp_path: Path) -> None:
    texts = [labelled_document(8, i, 1).text for i in range(4)]
    pq.write_table(pa.table({"body": texts[:2], "n": [1, 2]}), tmp_path / "a.parquet")
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt" / "b.txt").write_text(texts[2], encoding="utf-8")
    (tmp_path / "txt" / "c.txt").write_bytes(b"\xff\xfe\x00")
    with (tmp_path / "d.warc.gz").open("wb") as stream:
        writer = WARCWriter(stream, gzip=True)
        page = "<html><head><title>T</title></head><body><article>" + "".join(
            f"<p>{p}</p>" for p in texts[3].split("\n\n")
        )
        for address, content, kind in (
            ("http://a.pl/1", page + "</article></body></html>", "text/html; charset=utf-8"),
            ("http://a.pl/2", "<html></html>", "text/html"),
            ("http://a.pl/3", "obraz", "image/png"),
        ):
            headers = StatusAndHeaders("200 OK", [("Content-Type", kind)], protocol="HTTP/1.1")
            writer.write_record(
                writer.create_warc_record(address, "response", io.BytesIO(content.encode()), http_headers=headers)
            )
    sources = [
        InputSpec(str(tmp_path / "a.parquet"), text_key="body"),
        InputSpec(str(tmp_path / "txt")),
        InputSpec(str(tmp_path / "d.warc.gz")),
    ]
    options = config(tmp_path, tmp_path / "out", tasks=1, filter=FilterConfig(False))
    report = run(make_plan(replace(options, input=sources)))
    found = result(tmp_path / "out")
    assert report is not None
    assert report["steps"][0]["dropped"] == {"no UTF-8": 1, "no text in the page": 1}
    assert len(found) == 4
    assert [r.get("n") for r in found] == [1, 2, None, None]
    assert found[3]["url"] == "http://a.pl/1"
    assert found[3]["text"].split()[:3] == texts[3].split()[:3]


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("zst", zstandard.compress)])
def test_compressed_input(suffix: str, compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """Several members or frames are one file; one that ends too early is refused by name."""
    rows = [json.dumps(generate_document(8, number)).encode() + b"\n" for number in range(4)]
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(b"".join(map(compress, [rows[0] + rows[1][:50], rows[1][50:], b"", *rows[2:]])))
    options = replace(config(tmp_path, tmp_path / "out", tasks=1), input=[InputSpec(str(path))])
    run(make_plan(options))
    assert [row["text"] for row in result(tmp_path / "out")] == [json.loads(row)["text"] for row in rows]
    path.write_bytes(compress(b"".join(rows))[:-9])
    options = replace(config(tmp_path, tmp_path / "cut", tasks=1), input=[InputSpec(str(path))])
    with pytest.raises(DataError, match=f"a.jsonl.{suffix} is truncated"):
        run(make_plan(options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": []}, "input is empty"),
        ({"input": [InputSpec("nowhere/*.jsonl")]}, "no file there"),
        ({"executor": ExecutorConfig(tasks=0)}, "executor.tasks is 0"),
        ({"executor": ExecutorConfig(workers=0)}, "executor.workers is 0"),
        ({"executor": ExecutorConfig(kind="slurm")}, "executor.partition is empty"),
        ({"filter": FilterConfig(rules={"beauty": [0, 1]})}, "names beauty, which is no feature"),
        ({"filter": FilterConfig(rules={"oovs": [1, 0]})}, "needs the least and the largest"),
        ({"language": "klingon"}, "language 'klingon' is not known"),
        ({"quality": QualityConfig("none.json")}, "quality.model is none.json"),
        ({"output": OutputConfig(tokenizer="none")}, "output.tokenizer is none"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_used(options: dict[str, Any], message: str, inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(replace(config(inputs, tmp_path / "out"), **options))
    assert not (tmp_path / "out").exists()


def command(inputs: Path, output: Path, *more: str) -> list[str]:
    (output.parent / "c.yaml").write_text(
        f"input: [{{path: {inputs}}}]\noutput: {{folder: {output}, compression: none}}\nexecutor: {{tasks: 3}}\n"
    )
    return [sys.executable, str(TOOL), "--config", str(output.parent / "c.yaml"), *more]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_killed_anywhere_it_ends_with_the_same_bytes(inputs: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    run(make_plan(config(inputs, tmp_path / "whole")))
    output = tmp_path / "killed"
    for seconds in (0.2, 1.2):  # after the first stage has begun
        process = subprocess.Popen(
            command(inputs, output, "--executor.workers", "2"), env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _wait_for(output / "work", process)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=20)
        _wait_until_alone(process.pid)
        assert not (output / "report.json").exists() or tree(output / "documents")
    done = subprocess.run(
        command(inputs, output), capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert tree(output / "documents") == tree(tmp_path / "whole" / "documents")
    assert f"of {len(records(90)) + 6} documents" in done.stdout


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def _wait_until_alone(group: int) -> None:
    """Workers of a killed parent end by themselves."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    raise AssertionError("workers outlived their killed parent")


@pytest.fixture
def small_files(inputs: Path) -> Iterator[None]:
    """Behind the inputs, no file may grow over 8 kB, which fails as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_one_line_and_the_work_goes_on_later(inputs: Path, tmp_path: Path) -> None:
    plan = make_plan(config(inputs, tmp_path / "out"))
    with pytest.raises(DataError, match="nothing was left under that name") as caught:
        run(plan)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "documents").exists()
    assert not list((tmp_path / "out").rglob("*.jsonl.zst"))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    run(plan)
    assert result(tmp_path / "out") == by_hand(inputs)


def test_slurm_jobs_do_the_same(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an sbatch that runs each array task at once, in the order of the dependencies."""
    programs = tmp_path / "bin"
    programs.mkdir()
    sbatch = r"""#!/usr/bin/env bash
for word in "$@"; do case $word in --export=*RUN_OFFSET=*) export RUN_OFFSET=${word##*=};; *) script=$word;; esac; done
tasks=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$script")
export SLURM_NODELIST=n0
for ((i = 0; i <= ${tasks:-0}; i++)); do SLURM_ARRAY_TASK_ID=$i bash "$script" >> LOG 2>&1 || exit 1; done
echo "Submitted batch job $RANDOM"
""".replace("LOG", str(tmp_path / "slurm.log"))
    for name, text in (
        ("sbatch", sbatch),
        ("scontrol", "#!/bin/sh\necho n0\n"),
        ("srun", '#!/usr/bin/env bash\nwhile [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done\n"$@"\n'),
    ):
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    few = {
        "tasks": 2,
        "near_duplicates": NearDuplicatesConfig(num_buckets=2),
        "exact_duplicates": ExactDuplicatesConfig(False),
    }
    run(make_plan(config(inputs, tmp_path / "here", **few)))
    options = config(inputs, tmp_path / "slurm", **few)
    options = replace(options, executor=replace(options.executor, kind="slurm", partition="cpu", workers=-1))
    assert run(make_plan(options)) is None
    log = tmp_path / "slurm.log"
    assert (tmp_path / "slurm" / "report.json").exists(), (
        log.read_text()[-3000:] if log.exists() else "sbatch was not called"
    )
    assert tree(tmp_path / "slurm" / "documents") == tree(tmp_path / "here" / "documents")


def test_options_from_the_command_line(inputs: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    def call(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(inputs, tmp_path / "out", *more),
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            check=False,
        )

    shown = call("--near_duplicates.n_grams", "3", "--show_config")
    assert shown.returncode == 0, shown.stderr
    assert "n_grams: 3" in shown.stdout
    for words, message in (
        (
            ["--near_duplicates.n_gram", "3"],
            "unknown option near_duplicates.n_gram; did you mean near_duplicates.n_grams?",
        ),
        (["--executor.tasks", "many"], "executor.tasks is 'many', it must be a whole number"),
        (
            ["--executor.kind", "slurm", "--executor.partition", "p", "--executor.workers", "1"],
            "no sbatch on this machine",
        ),
    ):
        done = call(*words)
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.count("\n") == 1, json.dumps(done.stderr)
