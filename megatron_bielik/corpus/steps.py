"""Steps of the corpus pipeline as datatrove runs them: repair, anonymise, filter, quality, topics, features, write.

Each is a plain datatrove step; Observed wraps it (and datatrove's own filters), counts what leaves it and writes the log of
the task. What is heavy to make (dictionary, models) is made where the task runs, once per process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from megatron_bielik.corpus.anonymise import Anonymiser
from megatron_bielik.corpus.features import FEATURE_NAMES, FeatureExtractor, default_cache
from megatron_bielik.corpus.prepare_config import AnonymiseConfig, QualityConfig, TopicsConfig
from megatron_bielik.corpus.quality import HIGH, load_quality_model
from megatron_bielik.corpus.records import batches, dump, record_writer, utf8_size, with_results
from megatron_bielik.corpus.repair import repair
from megatron_bielik.corpus.scoring import Thresholds, quality_entries
from megatron_bielik.corpus.step_log import StepLog
from megatron_bielik.corpus.topics import load_topic_model

_BATCH = 512


@cache
def extractor(language: str) -> FeatureExtractor:
    """The process's feature extractor."""
    return FeatureExtractor(language, default_cache())


@cache
def _tokenizer(folder: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))


class LoggedStep(PipelineStep):
    """A step with a log. Observed sets it before the step runs."""

    type = "🪵 - CORPUS"
    log: StepLog
    samples: int = 3

    def drop(self, reason: str, document: Document) -> None:
        """Let a document go, for a reason."""
        self.log.drop(reason, document.id, document.text, self.samples)


class Observed(PipelineStep):
    """A step, its name and place, and where its log goes.

    Args:
        step: Any datatrove step that yields documents.
        name: For the report.
        order: Place in the pipeline.
        logs: Folder of the logs.
        samples: Dropped documents kept per reason.
        tokenizer: Counts tokens, where given.
        reason: Why a filter of datatrove's drops documents.
    """

    type = "🪵 - CORPUS"

    def __init__(
        self,
        step: PipelineStep,
        name: str,
        order: int,
        logs: Path,
        samples: int,
        tokenizer: str | None,
        reason: str = "",
    ) -> None:
        super().__init__()
        self.step, self.name, self.order, self.logs = step, name, order, logs
        self.samples, self.tokenizer, self.reason = samples, tokenizer, reason

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Run the step and count what it lets through."""
        log = StepLog(self.name)
        step: Any = self.step
        step.log, step.samples = log, self.samples
        if self.reason:
            step.exclusion_writer = _Dropped(log, self.reason, self.samples)
        for document in step.run(data, rank, world_size) or ():
            log.documents += 1
            log.text_bytes += utf8_size(document.text)
            if self.tokenizer:
                log.tokens += len(_tokenizer(self.tokenizer).encode(document.text, add_special_tokens=False).ids)
            yield document
        log.save(self.logs, self.order, rank)


class _Dropped(contextlib.AbstractContextManager["_Dropped"]):
    """What datatrove's filters call an exclusion writer: takes what they drop."""

    def __init__(self, log: StepLog, reason: str, samples: int) -> None:
        self._log, self._reason, self._samples = log, reason, samples

    def __exit__(self, *_: object) -> None:
        return None

    def write(self, document: Document, rank: int) -> None:
        """Count a dropped document."""
        self._log.drop(self._reason, document.id, document.text, self._samples)


class Read(LoggedStep):
    """Several readers, by the name of their source, one after the other; the log has the documents of each."""

    name = "read"

    def __init__(self, readers: dict[str, PipelineStep]) -> None:
        super().__init__()
        self.readers = readers

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Documents of this task's share of each reader's files."""
        for name, reader in self.readers.items():
            source: Any = reader
            source.log, source.samples = self.log, self.samples
            documents = 0
            for document in source.run(None, rank, world_size):
                documents += 1
                yield document
            self.log.change({name: documents})


class Repair(LoggedStep):
    """corpus/repair.py; a document of which nothing is left is dropped."""

    name = "repair"

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Documents with repaired texts."""
        for document in data:
            with self.track_time():
                repaired = repair(document.text)
            self.log.change(repaired.changes)
            if not repaired.text.strip():
                self.drop("nothing left", document)
                continue
            document.text = repaired.text
            yield document


class Anonymise(LoggedStep):
    """corpus/anonymise.py."""

    name = "anonymise"

    def __init__(self, config: AnonymiseConfig) -> None:
        super().__init__()
        self.config = config

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Documents without personal data."""
        anonymiser = Anonymiser(self.config.mode, self.config.types, self.config.seed)
        for document in data:
            with self.track_time():
                made = anonymiser.anonymise(document.text)
            self.log.change(made.found)
            document.text = made.text
            yield document


class FeatureFilter(LoggedStep):
    """Drops documents with a feature outside its range; the reason names the first such feature."""

    name = "filter"

    def __init__(self, language: str, rules: dict[str, list[float]]) -> None:
        super().__init__()
        self.language = language
        self.columns = [FEATURE_NAMES.index(name) for name in rules]
        self.low, self.high = (np.array([bounds[i] for bounds in rules.values()], np.float32) for i in (0, 1))

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Documents inside all ranges."""
        features = extractor(self.language)
        for batch in batches(data, _BATCH):
            with self.track_time("batch"):
                rows = features([document.text for document in batch])[:, self.columns]
                outside = (rows < self.low) | (rows > self.high)
            for document, row, wrong in zip(batch, rows, outside, strict=True):
                if not wrong.any():
                    yield document
                    continue
                first = int(wrong.argmax())
                side = "below" if row[first] < self.low[first] else "above"
                bound = (self.low if side == "below" else self.high)[first]
                self.drop(f"{FEATURE_NAMES[self.columns[first]]} {side} {bound:g}", document)
        features.save()


class Score(LoggedStep):
    """Quality probabilities and the topic, where there are models; both go into the record."""

    name = "score"

    def __init__(self, quality: QualityConfig, topics: TopicsConfig, language: str) -> None:
        super().__init__()
        self.quality, self.topics, self.language = quality, topics, language

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Documents that the thresholds keep."""
        features = extractor(self.language)
        model = load_quality_model(Path(self.quality.model), features.version) if self.quality.model else None
        topics = load_topic_model(Path(self.topics.model)) if self.topics.model else None
        thresholds = Thresholds(self.quality.min_high, self.quality.min_medium)
        for batch in batches(data, _BATCH):
            kept = [True] * len(batch)
            texts = [document.text for document in batch]
            if model:
                with self.track_time("batch"):
                    probabilities = model.probabilities(features(texts))
                kept = thresholds.keep(probabilities).tolist()
                entries = quality_entries(probabilities)
                for document, entry, high in zip(batch, entries, probabilities[:, HIGH].tolist(), strict=True):
                    document.metadata = with_results(document.metadata, {"quality": entry})
                    self.log.measure("P(HIGH)", high)
                    self.log.change({f"likeliest {entry['label']}": 1})
            for document, keep in zip(batch, kept, strict=True):
                if not keep and not self.quality.keep_all:
                    self.drop(f"quality {document.metadata['quality']['label']}", document)
            batch = [d for d, keep in zip(batch, kept, strict=True) if keep or self.quality.keep_all]
            if topics and batch:
                for document, (topic, probability) in zip(
                    batch, topics.topics([d.text for d in batch], self.topics.least), strict=True
                ):
                    found = {"predicted_topic": topic, "topic_probability": round(probability, 4)}
                    document.metadata = with_results(document.metadata, found)
                    self.log.change({f"topic {topic}": 1})
                    self.log.measure("P(topic)", probability)
            yield from batch
        features.save()


class WriteFeatures(LoggedStep):
    """id and the 200 features of each document as parquet, a file per task; documents pass."""

    name = "features"

    def __init__(self, folder: Path, language: str) -> None:
        super().__init__()
        self.folder, self.language = folder, language

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """The documents, unchanged."""
        import pyarrow as pa
        import pyarrow.parquet

        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{rank:05d}.parquet"
        temporary = path.with_suffix(".tmp")
        features = extractor(self.language)
        schema = pa.schema([("id", pa.string()), *((name, pa.float32()) for name in FEATURE_NAMES)])
        try:
            with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
                for batch in batches(data, _BATCH):
                    rows = features([document.text for document in batch])
                    columns = [pa.array([document.id for document in batch]), *(pa.array(c) for c in rows.T)]
                    writer.write_batch(pa.record_batch(columns, schema=schema))
                    yield from batch
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


class WriteDocuments(LoggedStep):
    """One jsonl file per task, which appears when the task has written its last document; documents pass.

    Their other fields stand beside text and id: one that has such a name gives way (records.with_results).
    """

    name = "write"

    def __init__(self, folder: Path, suffix: str) -> None:
        super().__init__()
        self.folder, self.suffix = folder, suffix

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """The documents, unchanged."""
        with record_writer(self.folder / f"{rank:05d}.jsonl{self.suffix}") as stream:
            for document in data:
                own = {"id": document.id, "text": document.text}
                stream.write(dump(own | with_results(document.metadata, own)))
                yield document


class ReadDocuments(PipelineStep):
    """The file that WriteDocuments made in the task of the same rank."""

    type = "🪵 - CORPUS"
    name = "read again"

    def __init__(self, folder: Path, suffix: str) -> None:
        super().__init__()
        self.folder, self.suffix = folder, suffix

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Documents in the order in which they were written."""
        from megatron_bielik.corpus.records import ReadCount, read_records

        path = str(self.folder / f"{rank:05d}.jsonl{self.suffix}")
        for record in read_records([path], "text", ReadCount(), may_be_empty=True):
            yield Document(text=record.pop("text"), id=record.pop("id"), metadata=record)
