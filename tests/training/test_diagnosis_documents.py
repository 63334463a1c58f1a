"""A real run with one poisoned document: it spikes, and the document is found by name through training's own sample order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from megatron_bielik.checkpoint_files import read_description
from megatron_bielik.config import DatasetSpec
from megatron_bielik.data.epochs import ShardStream
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.shards import ShardWriter
from megatron_bielik.parallel.runtime import Runtime
from megatron_bielik.training.diagnosis.diagnose import diagnose
from megatron_bielik.training.diagnosis.documents import Frequencies
from megatron_bielik.training.diagnosis.finding import Finding, Severity
from megatron_bielik.training.diagnosis.history import History, Start, read_history
from megatron_bielik.training.diagnosis.samples import SampleOrder, TracedStream, samples_of_message
from megatron_bielik.training.parameter_table import parameter_table
from tests.training.in_process import small_config, train

VOCABULARY, LENGTH, STEPS = 1001, 16, 160
POISONED = 37  # number of the document


class Run(NamedTuple):
    folder: Path
    shards: tuple[Path, Path]


def write_documents(prefix: Path, seed: int, poisoned: int | None = None) -> None:
    """Documents that count upwards, easily learnt; the poisoned one holds tokens that occur nowhere else."""
    generator = np.random.default_rng(seed)
    with ShardWriter(prefix, VOCABULARY) as writer:
        for number in range(120):
            length = 0 if number == 5 else int(generator.integers(20, 60))
            text = (generator.integers(0, 50) + np.arange(length)) % 50 + 3
            writer.add_document(generator.integers(600, 1000, 60) if number == poisoned else text)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory, single_process: Runtime) -> Run:
    """A finished run over two shards, the first of them with a poisoned document, checkpoints every 20 steps."""
    root = tmp_path_factory.mktemp("poisoned")
    shards = root / "web", root / "books"
    write_documents(shards[0], 1, POISONED)
    write_documents(shards[1], 2)
    words = {f"słowo{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="słowo0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    (root / "tokenizer").mkdir()
    tokenizer.save(str(root / "tokenizer" / "tokenizer.json"))
    config = small_config(
        root / "run", training__steps=STEPS, checkpoint__save_interval=20, checkpoint__keep_last=0,
        training__trainable=["mlp", "embedding", "output_layer", "norm"], data__tokenizer=str(root / "tokenizer"),
        data__split="99,1,0",
    )  # fmt: skip
    config = replace(
        config, data=replace(config.data, train=[DatasetSpec(str(shards[0]), 2.0), DatasetSpec(str(shards[1]), 1.0)])
    )
    train(config, single_process)
    return Run(root / "run", shards)


def found(run: Path, check: str, **options: Any) -> list[Finding]:
    return [one for one in diagnose(run, **options).findings if one.check == check]


def test_the_poisoned_document_is_named_first(poisoned: Run) -> None:
    (spikes,) = found(poisoned.folder, "loss spikes", checkpoints=0)
    assert spikes.severity >= Severity.WARNING
    assert spikes.details[0].startswith(f"{poisoned.shards[0]} document {POISONED} (tokens ")
    first = json.loads(f'"{spikes.details[0].rsplit(": ", 1)[1][1:-1]}"').split()[0]
    number = int(first.removeprefix("słowo"))
    assert 600 <= number < 1000
    lengths = np.fromfile(f"{poisoned.shards[0]}.bin", dtype=np.uint16)
    begin = int(spikes.details[0].split("(tokens ")[1].split(" to ")[0].replace(",", ""))
    assert lengths[begin] == number  # the place that is told is where the document lies in the file
    assert all(f"document {POISONED} " not in line for line in spikes.details[1:])
    (short,) = found(poisoned.folder, "loss spikes", checkpoints=0, documents=1)
    assert len(short.details) == 2
    assert short.details[0] == spikes.details[0]
    assert short.details[1].endswith(" more, less unusual")


def test_the_samples_of_a_step_are_those_that_training_logged(poisoned: Run) -> None:
    history = read_history(poisoned.folder)
    events = history.events_of("spike")
    assert events
    for event in events:
        assert SampleOrder(history).samples(event.step) == samples_of_message(event.message)
    # Without checkpoints all is drawn from the start.
    bare = History(
        poisoned.folder / "nowhere", history.starts, history.train, events=history.events, times=history.times
    )
    assert SampleOrder(bare).samples(events[-1].step) == samples_of_message(events[-1].message)


def test_two_mixtures_one_after_the_other() -> None:
    def start(step: int, weights: tuple[float, float]) -> Start:
        train_sets = [{"prefix": name, "weight": weight} for name, weight in zip("ab", weights, strict=True)]
        return Start(step, {"data": {"train": train_sets}, "training": {"global_batch_size": 4}}, None)

    history = History(Path("nowhere"), (start(0, (1, 1)), start(3, (3, 1)), start(3, (1, 3)), start(5, (1, 3))))
    order = SampleOrder(history)
    assert [order.samples(step) for step in (1, 3)] == [{"a": (0, 2), "b": (0, 2)}, {"a": (4, 6), "b": (4, 6)}]
    # From step 4 on three of four samples are from b, and no sample comes twice.
    assert [order.samples(step) for step in (4, 5, 6)] == [
        {"a": (6, 7), "b": (6, 9)}, {"a": (7, 8), "b": (9, 12)}, {"a": (8, 9), "b": (12, 15)},
    ]  # fmt: skip
    with pytest.raises(DataError, match="the log begins at step 3 and no checkpoint"):
        SampleOrder(History(Path("nowhere"), history.starts[1:])).samples(4)


def test_pieces_laid_end_to_end_are_the_sample(poisoned: Run, tmp_path: Path) -> None:
    arguments = (poisoned.shards[0], LENGTH, 42, tmp_path, (0, 100))
    plain, traced = ShardStream(*arguments), TracedStream(*arguments)
    for number in range(0, 2 * plain.samples_per_pass, 7):
        pieces = traced.pieces(number)
        tokens = np.concatenate([traced.reader[piece.document][piece.begin : piece.end] for piece in pieces])
        assert np.array_equal(tokens, plain.sample(number).tokens)


def test_a_prefix_with_commas_and_spaces_in_an_event() -> None:
    message = "loss 9 is 7.0 deviations above 2; samples of the step: my data/a, b 3 to 5, data/c 0 to 0"
    assert samples_of_message(message) == {"my data/a, b": (3, 6), "data/c": (0, 1)}
    assert samples_of_message("loss 9 is 7.0 deviations above 2") == {}


def test_surprise_leaves_the_document_itself_out(poisoned: Run) -> None:
    from megatron_bielik.data.shards import ShardReader

    reader = ShardReader(poisoned.shards[0])
    document = reader[POISONED].astype(np.int64)
    others = np.concatenate([reader[n] for n in range(len(reader)) if n != POISONED]).astype(np.int64)
    vocabulary = int(reader.tokens.max()) + 1
    counts = np.bincount(others, minlength=vocabulary)
    expected = [-np.log((counts[token] + 1) / (len(others) + vocabulary)) for token in document]
    np.testing.assert_allclose(Frequencies(reader).surprise(document), expected)


def test_shards_that_are_gone_are_said_and_the_rest_is_told(poisoned: Run, tmp_path: Path) -> None:
    log = (poisoned.folder / "log.jsonl").read_text().replace(str(poisoned.shards[0]), "/gone/web")
    (tmp_path / "log.jsonl").write_text(log)
    (spikes,) = found(tmp_path, "loss spikes")
    assert spikes.steps
    assert "/gone/web.idx not found" in spikes.details[0]
    assert found(tmp_path, "loss spikes", documents=0)[0].details == ()


def test_frozen_parameters_did_not_move_and_norms_are_told(poisoned: Run) -> None:
    (frozen,) = found(poisoned.folder, "frozen weights", documents=0)
    assert (frozen.severity, frozen.steps) == (Severity.OK, (20, STEPS))
    assert frozen.message.startswith(
        "8 frozen parameters"
    )  # in two layers: weight and bias of qkv and of the projection
    groups = {one.message.split(":")[0] for one in found(poisoned.folder, "weight norms", documents=0)}
    assert groups == {"embedding", "output", "attention", "mlp", "norms"}


def test_frozen_parameters_that_moved(poisoned: Run, tmp_path: Path) -> None:
    lines = (poisoned.folder / "log.jsonl").read_text().splitlines()
    start = json.loads(lines[0])
    start["config"]["training"]["trainable"] = ["self_attention"]  # which did not move, and the others did
    (tmp_path / "log.jsonl").write_text("\n".join([json.dumps(start), *lines[1:]]) + "\n")
    (tmp_path / "checkpoints").symlink_to(poisoned.folder / "checkpoints")
    (frozen,) = found(tmp_path, "frozen weights", documents=0)
    assert frozen.severity is Severity.PROBLEM
    table = parameter_table(read_description(poisoned.folder / "checkpoints" / "step_00000020")[0])
    assert frozen.value == sum("self_attention" not in parameter.name for parameter in table)
