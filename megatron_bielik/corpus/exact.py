"""Exact duplicates of a corpus: documents whose normalized text is the same, the first stays.

Normalized: lower case, then canonical composition (NFC), then each run of white space one space, none at the ends. Digits,
punctuation and diacritics count: texts that differ in them are the business of corpus/duplicates.py. Texts that are blank
are all equal.

One process: ExactDuplicates, a set of 128 bits of SHA-256. Many tasks: ExactSignature, FindFirst and DropCopies (or
datatrove's own ExactDedupFilter, which counts in bars on the screen), with 64 bits of the same digest in datatrove's file
format. datatrove's other steps do not fit: bloom filters lose some documents that have no double and know only their own
task, url looks at addresses, sentences and substrings work on parts of documents.
"""

from __future__ import annotations

import contextlib
import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.io import DataFolderLike, get_datafolder
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupSignature,
    ExactFindDedups,
    get_sig_dtype,
)
from datatrove.utils.hashing import HashConfig
from datatrove.utils.typeshelper import ExtensionHelperSD

from megatron_bielik.corpus.minhash import _native


def normalized(text: str) -> bytes:
    """The text in lower case, composed (NFC), with single spaces, in UTF-8. A lone surrogate becomes its three bytes."""
    return _native.fold_spaces(unicodedata.normalize("NFC", text.lower()))


def text_digest(text: str) -> bytes:
    """SHA-256 of the normalized text, 32 bytes."""
    return hashlib.sha256(normalized(text)).digest()


class ExactDuplicates:
    """The texts seen so far, about 100 bytes each."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def __len__(self) -> int:
        """Different texts seen."""
        return len(self._seen)

    def is_new(self, text: str) -> bool:
        """Whether no equal text came before; from now on one has."""
        # 128 bits: for 10^10 texts, two different ones agree with probability 2 * 10^-19.
        digest = text_digest(text)[:16]
        before = len(self._seen)
        self._seen.add(digest)
        return len(self._seen) > before


def exact_config() -> ExactDedupConfig:
    """The configuration to give to ExactSignature, FindFirst and ExactDedupFilter."""
    return ExactDedupConfig(content_getter=_content, hash_config=HashConfig(precision=64, hash_fc="sha1"))


def _content(document: Document) -> bytes:
    return normalized(document.text)


class ExactSignature(ExactDedupSignature):
    """datatrove's first step of exact deduplication, with the first 64 bits of text_digest as hash.

    Args:
        output_folder: Gets one file a task and hash range.
        config: exact_config(), or one with a document_priority; its content_getter and hash function are not asked.
        finder_workers: Ranges that the hashes are cut into: the number of tasks of FindFirst.
    """

    def get_hashes(self, doc: Document, doc_idx: int) -> list[tuple[int, int, int]]:
        """The hash, the priority and the number of a document."""
        priority = self.config.document_priority(doc) if self.config.document_priority else 1
        return [(int.from_bytes(text_digest(doc.text)[:8], "little"), priority, doc_idx)]


class FindFirst(ExactFindDedups):
    """datatrove's second step of exact deduplication, but of equal documents the first stays.

    Of those with the highest priority, that is the one in the lowest task, and there the one that comes first; the
    original keeps the one with the lowest place within its task, whichever task that is. Run it with as many tasks as
    ExactSignature had finder_workers; each holds its range of the hashes in memory, about 60 bytes a document. With an
    index the original does the work.
    """

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Read the hashes of this range, write the numbers of the documents to remove and how many each kept one had.

        Raises:
            ValueError: There are hashes of more ranges than tasks.
        """
        if self.index_folder:
            super().run(data, rank, world_size)
            return
        with self.track_time():
            names = self.data_folder.list_files(glob_pattern=f"*/*{ExtensionHelperSD.stage_1_signature}")
            ranges = max([int(name.split("/")[0]) for name in names], default=0) + 1
            if ranges > world_size:
                raise ValueError(
                    f"FindFirst runs with {world_size} tasks, needs the {ranges} that ExactSignature's finder_workers says"
                )
            mine = [name for name in names if int(name.split("/")[0]) == rank]
            self._find(mine, rank)

    def _find(self, names: list[str], rank: int) -> None:
        record = get_sig_dtype(self.config.hash_config)
        stems = [PurePosixPath(name).name.removesuffix(ExtensionHelperSD.stage_1_signature) for name in names]
        parts = [np.empty(0, record)]
        for name in names:
            with self.data_folder.open(name, "rb") as file:
                parts.append(np.frombuffer(file.read(), record))
        files = np.repeat(np.array([int(stem) for stem in stems], np.int64), [len(part) for part in parts[1:]])
        records = np.concatenate(parts)
        order = np.lexsort((records["doc"], files, -records["priority"].astype(np.int32), records["hash"]))
        records, files = records[order], files[order]
        again = np.zeros(len(records), bool)
        again[1:] = records["hash"][1:] == records["hash"][:-1]
        # For each document the place of the one that stays, and how many go for its sake.
        firsts = np.flatnonzero(~again)
        copies = np.diff(firsts, append=len(records)) - 1
        kept, counts = firsts[copies > 0], copies[copies > 0]
        with self.output_folder.get_output_file_manager(mode="wb") as output:
            for stem in stems:
                removed = records["doc"][again & (files == int(stem))]
                if len(removed):
                    output.write(f"{rank:05d}/{stem}{ExtensionHelperSD.stage_2_duplicates}", np.sort(removed).tobytes())
                mine = files[kept] == int(stem)
                if mine.any():
                    rows = np.stack([records["doc"][kept[mine]], counts[mine].astype("<u4")], axis=1)
                    output.write(f"{rank:05d}/{stem}{ExtensionHelperSD.stage_2_counts}", rows.tobytes())


class DropCopies(PipelineStep):
    """The third step: documents that FindFirst wrote down for this task do not go on.

    Args:
        folder: Where FindFirst wrote.
        exclusion_writer: Takes the dropped ones: a context manager with write(document, rank).
    """

    type = "🫂 - DEDUPS"
    name = "exact duplicates"

    def __init__(self, folder: DataFolderLike, exclusion_writer: Any = None) -> None:
        super().__init__()
        self.folder, self.exclusion_writer = get_datafolder(folder), exclusion_writer

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """The first of each group of equal documents."""
        pattern = f"*/{rank:05d}{ExtensionHelperSD.stage_2_duplicates}"
        copies: set[int] = set()
        for name in self.folder.list_files(glob_pattern=pattern):
            with self.folder.open(name, "rb") as file:
                copies.update(np.frombuffer(file.read(), "<u4").tolist())
        with self.exclusion_writer or contextlib.nullcontext() as writer:
            for number, document in enumerate(data):
                if number not in copies:
                    yield document
                elif writer is not None:
                    writer.write(document, rank)
