"""Readers of the corpus pipeline: datatrove's for jsonl and parquet, ours for txt and WARC; all count what gives no document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from datatrove.data import Document
from datatrove.io import DataFolder, get_datafolder
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import JsonlReader, ParquetReader
from datatrove.pipeline.readers.base import BaseDiskReader

from megatron_bielik.corpus.prepare_config import InputSpec
from megatron_bielik.corpus.records import Record, lines_of
from megatron_bielik.corpus.step_log import StepLog
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.fields import take_field

_SUFFIXES = {
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz"),
    "parquet": (".parquet",),
    "txt": (".txt",),
    "warc": (".warc", ".warc.gz", ".warc.zst"),
}
NO_JSON, NO_TEXT, NO_UTF8, NO_PAGE = "no JSON", "no text", "no UTF-8", "no text in the page"


class _Counts:
    """Takes records that give no document; the reader's step gets its log before it runs."""

    log: StepLog
    samples: int

    def pass_over(self, reason: str, place: str, what: str) -> None:
        self.log.drop(reason, place, what, self.samples)


class JsonLines(_Counts, JsonlReader):
    """JSON lines, compressed or not; lines that are no document are counted by reason."""

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Documents of a file."""
        suffix = filepath.rpartition(".")[2].lower()
        kind = f"jsonl.{suffix}" if suffix in ("gz", "zst") else "jsonl"
        with self.data_folder.open(filepath, "rb", compression=None) as stream:
            for number, line in enumerate(lines_of(stream, kind, filepath)):
                if not line.strip():
                    continue
                try:
                    record = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
                except orjson.JSONDecodeError:
                    self.pass_over(NO_JSON, f"{filepath}/{number}", line[:200].decode("utf-8", "replace"))
                    continue
                yield from _from_record(self, record, filepath, number)


class Parquet(_Counts, ParquetReader):
    """Parquet files, rows without a text counted."""

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Documents of a file."""
        import pyarrow.parquet

        number = 0
        with self.data_folder.open(filepath, "rb") as stream, pyarrow.parquet.ParquetFile(stream) as file:
            for batch in file.iter_batches(batch_size=self.batch_size):
                for row in batch.to_pylist():
                    yield from _from_record(self, row, filepath, number)
                    number += 1


class PlainText(_Counts, BaseDiskReader):
    """Text files, each a document."""

    name = "📄 Text"

    def read_file(self, filepath: str) -> Iterator[Document]:
        """The file as a document."""
        with self.data_folder.open(filepath, "rb") as stream:
            content = stream.read()
        try:
            yield from _document(self, content.decode("utf-8"), {}, filepath, 0)
        except UnicodeDecodeError:
            self.pass_over(NO_UTF8, filepath, content[:200].decode("utf-8", "replace"))


class WebArchive(_Counts, BaseDiskReader):
    """WARC files: HTML responses to text by trafilatura, plain text and conversion records as they are."""

    name = "🕸 WARC"
    _requires_dependencies = ("warcio", "trafilatura")

    def read_file(self, filepath: str) -> Iterator[Document]:
        """Documents of a file."""
        from trafilatura import extract
        from warcio.archiveiterator import ArchiveIterator

        with self.data_folder.open(filepath, "rb", compression=None) as stream:
            for number, record in enumerate(ArchiveIterator(stream)):
                if record.rec_type not in ("response", "conversion"):
                    continue
                headers = record.http_headers or record.rec_headers
                kind = (headers.get_header("Content-Type") or "").lower()
                content = record.content_stream().read()
                address = record.rec_headers.get_header("WARC-Target-URI") or f"{filepath}/{number}"
                if "html" in kind:
                    text = extract(content, include_comments=False, favor_precision=True)
                elif kind.startswith("text/plain") or record.rec_type == "conversion":
                    text = content.decode("utf-8", "replace")
                else:
                    continue
                if not text:
                    self.pass_over(NO_PAGE, address, "")
                    continue
                found = {"url": address, "date": record.rec_headers.get_header("WARC-Date")}
                yield from _document(self, text, found, filepath, number)


def _from_record(reader: Any, record: Any, filepath: str, number: int) -> Iterator[Document]:
    """A document of the field text_key; all other fields are kept."""
    fields = dict(record) if isinstance(record, dict) else {}
    text = take_field(fields, reader.text_key)
    if not isinstance(text, str):
        reader.pass_over(NO_TEXT, f"{filepath}/{number}", str(record)[:200])
        return
    yield from _document(reader, text, fields, filepath, number)


def _document(reader: Any, text: str, fields: Record, filepath: str, number: int) -> Iterator[Document]:
    """A document with its id, that of the field id_key or else its place, and its other fields, whatever they are called."""
    place = f"{filepath}/{number}"
    if not text.strip():
        reader.pass_over(NO_TEXT, place, str(fields)[:200])
        return
    name = take_field(fields, reader.id_key)
    yield Document(text=text, id=place if name is None or name == "" else str(name), metadata=fields)


def located(spec: InputSpec) -> tuple[DataFolder, str | None]:
    """The folder of a source, and the pattern of its files there: a path with a known suffix is a file."""
    if not spec.path.lower().endswith(tuple(suffix for group in _SUFFIXES.values() for suffix in group)):
        return get_datafolder(spec.path), spec.glob
    folder, _, name = spec.path.rpartition("/")
    return get_datafolder(folder or "."), name


def reader(spec: InputSpec) -> PipelineStep:
    """The reader of a source.

    Raises:
        DataError: A file or folder that is not there, or files of no known format.
    """
    folder, name = located(spec)
    files = folder.list_files(glob_pattern=name)
    if not files:
        raise DataError(
            f"input {spec.path}: no file there{f' matches {spec.glob}' if spec.glob else ''}; check input.path"
        )
    kinds = {next((k for k, ends in _SUFFIXES.items() if file.lower().endswith(ends)), file) for file in files}
    if spec.format == "auto" and (len(kinds) != 1 or not kinds <= set(_SUFFIXES)):
        found = ", ".join(sorted(kinds)[:4])
        raise DataError(f"input {spec.path} holds {found}, needs one known format; set input.format or input.glob")
    kind = spec.format if spec.format != "auto" else kinds.pop()
    classes = {"jsonl": JsonLines, "parquet": Parquet, "txt": PlainText, "warc": WebArchive}
    keys = {"text_key": spec.text_key, "id_key": spec.id_key}
    step: Any = classes[kind](folder, glob_pattern=name, **keys)
    step.add_file_path = False
    made: PipelineStep = step
    return made
