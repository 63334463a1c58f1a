"""Near duplicates of a corpus by MinHash: in one process, or as steps of a datatrove pipeline over many tasks.

One machine: find_duplicates(texts) gives each document its cluster. Many tasks: MinhashSignature takes the place of
datatrove's MinhashDedupSignature and writes the same files; MinhashDedupBuckets, MinhashDedupCluster and MinhashDedupFilter
go on as they are. All three ways give the same clusters: documents are joined that agree in all hashes of a bucket, and
whoever is joined to the same document belongs together.

Which document stays: here the first of its cluster, in the order of the input. datatrove's MinhashDedupCluster keeps the
root of its union by size instead, which is any of them and changes with the number of tasks per bucket. KeepFirst is that
step with the rule of this file, so that one machine and many tasks keep the same documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from datatrove.data import Document
from datatrove.io import DataFolderLike
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupCluster, MinhashDedupSignature
from datatrove.utils.typeshelper import StatHints
from datatrove.utils.word_tokenizers import WordTokenizer

from megatron_bielik.corpus.minhash import U64, Signer, SpaceWords, _native

I64 = npt.NDArray[np.int64]
_BATCH_DOCUMENTS, _BATCH_LETTERS = 1024, 4_000_000
_INDEX = np.uint64(2**64 - 1)  # (SENTINEL, SENTINEL) of datatrove: a document of an earlier data set


@dataclass(frozen=True)
class Clusters:
    """Which documents are near duplicates of each other.

    Attributes:
        first: int64 [documents], the number of the first document of each one's cluster; its own if it is alone.
    """

    first: I64

    @property
    def keep(self) -> npt.NDArray[np.bool_]:
        """bool [documents], True for the first of each cluster."""
        return self.first == np.arange(len(self.first))

    @property
    def sizes(self) -> I64:
        """int64 [documents], members of each one's cluster."""
        return np.bincount(self.first, minlength=len(self.first))[self.first]


def roots(parents: I64) -> I64:
    """The root of each node, int64 [nodes], from parents with parents[i] <= i, as _minhash.unite leaves them."""
    while True:
        grandparents = parents[parents]
        if np.array_equal(grandparents, parents):
            return parents
        parents = grandparents


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    letters = 0
    for text in texts:
        batch.append(text)
        letters += len(text)
        if len(batch) == _BATCH_DOCUMENTS or letters >= _BATCH_LETTERS:
            yield batch
            batch, letters = [], 0
    if batch:
        yield batch


def find_duplicates(
    texts: Iterable[str], config: MinhashConfig | None = None, words: WordTokenizer | None = None, threads: int = 1
) -> Clusters:
    """Near duplicates among texts, read once and not kept.

    Of each document its bands' 64-bit keys stay in memory, 8 bytes a bucket: 112 bytes by default, and about 50 more while
    the clusters are made. Two different bands have the same key with probability 2^-64: among 100 million documents in 14
    buckets, one pair is expected to be joined wrongly in 260 such runs.

    Args:
        texts: In the order of the corpus; that order decides which document of a cluster stays.
        config: datatrove's MinhashConfig; its default joins texts whose 5-grams overlap by about 0.72 or more.
        words: Cuts simplified text into words; white space if not given (see corpus/minhash.py).
        threads: Threads that sign; they run beside each other where all is done in C++. At most two batches of 4 million
            letters or one longer text wait per thread.

    Raises:
        ValueError: threads below 1, or a configuration that Signer refuses.
        TypeError: A text that is not a str.
    """
    if threads < 1:
        raise ValueError(f"threads is {threads}, needs 1 or more")
    signer = Signer.of(config, words)
    documents, blocks = 0, []
    for count, numbers, keys in _signed(texts, signer, threads):
        blocks.append((documents + numbers, keys))
        documents += count
    parents = np.arange(documents)
    if blocks:
        numbers = np.concatenate([block[0] for block in blocks])
        for band in range(signer.config.num_buckets):
            _unite_equal(parents, numbers, np.concatenate([block[1][band] for block in blocks]))
    return Clusters(roots(parents))


def _signed(texts: Iterable[str], signer: Signer, threads: int) -> Iterator[tuple[int, I64, U64]]:
    """For each batch in order: documents in it, which of them have a signature, and the keys [buckets, those]."""

    def sign(batch: list[str]) -> tuple[int, I64, U64]:
        rows, found = signer.signatures(batch)
        return len(batch), np.flatnonzero(found), _native.band_keys(rows[found], signer.config.num_buckets)

    if threads == 1:
        yield from map(sign, _batches(texts))
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: list[Future[tuple[int, I64, U64]]] = []
        for batch in _batches(texts):
            waiting.append(pool.submit(sign, batch))
            if len(waiting) == 2 * threads:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _unite_equal(parents: I64, numbers: I64, keys: U64) -> None:
    order = np.argsort(keys)
    keys = keys[order]
    equal = np.flatnonzero(keys[1:] == keys[:-1])
    _native.unite(parents, numbers[order[equal]], numbers[order[equal + 1]])


class MinhashSignature(MinhashDedupSignature):
    """datatrove's first MinHash step with signatures from C++: the same files, byte for byte, for the same words.

    Args:
        output_folder: Gets bucket_BBB/RRRRR.minhash.sig, as MinhashDedupBuckets reads them.
        config: The same for all steps.
        words: Cuts simplified text into words; white space if not given. A language's code asks datatrove for its own
            tokenizer, with which the n-grams are made in Python.
        skip_existing_sigs: Leave a task's files alone if they are there and complete; a stopped task leaves none that are.
    """

    name = "🎯 MinHash stage 1 (C++)"

    def __init__(
        self,
        output_folder: DataFolderLike,
        config: MinhashConfig | None = None,
        words: str | WordTokenizer | None = None,
        skip_existing_sigs: bool = False,
    ) -> None:
        super().__init__(output_folder, config, words or SpaceWords(), skip_existing_sigs)
        self.signer = Signer.of(self.config, self.word_tokenizer)

    def get_shingles(self, text: str) -> U64:
        """Hashed n-grams: uint64 [n-grams, 1]."""
        return self.signer.shingles(text).reshape(-1, 1)

    def get_signature(self, shingles: U64) -> list[list[int]]:
        """num_buckets lists of hashes_per_bucket hashes."""
        rows: list[list[int]] = self.signer.minima(shingles).reshape(self.config.num_buckets, -1).tolist()
        return rows

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> None:
        """Sign the documents of this task and write them sorted, one file a bucket.

        Raises:
            ValueError: A file reads back other than it was written.
        """
        with self.track_time():
            if self.check_can_skip_sig_writing(rank)[0]:
                return
            names = [f"bucket_{bucket:03d}/{rank:05d}.minhash.sig" for bucket in range(self.config.num_buckets)]
            # Outside the buckets' folders, where the next step would take what a stopped task left for signatures.
            unsorted = [f"unsorted/{name}" for name in names]
            files = [self.output_folder.open(name, mode="wb") for name in unsorted]
            try:
                records = self._write(data, files)
            finally:
                for file in files:
                    file.close()
            for source, target in zip(unsorted, names, strict=True):
                self._sort(source, target, records)
            for name in unsorted:
                self.output_folder.rm(name)

    @property
    def _record(self) -> np.dtype[Any]:
        hash_type = f"<{self.config.hash_config.struct_format}"
        return np.dtype([("hashes", hash_type, (self.config.hashes_per_bucket,)), ("document", "<u4")])

    def _write(self, data: Iterable[Document], files: list[Any]) -> int:
        """Append the records of all documents, unsorted; returns how many there are in each file."""
        documents = written = 0
        for batch in _batches(document.text for document in data):
            rows, found = self.signer.signatures(batch)
            bands = rows[found].reshape(-1, self.config.num_buckets, self.config.hashes_per_bucket)
            records = np.empty(len(bands), self._record)
            records["document"] = documents + np.flatnonzero(found)
            for bucket, file in enumerate(files):
                records["hashes"] = bands[:, bucket]
                file.write(records.tobytes())
            self.stat_update(StatHints.total, value=len(batch))
            documents += len(batch)
            written += len(bands)
        return written

    def _sort(self, source: str, target: str, count: int) -> None:
        """Put a file's records in the order of their hashes, then of the documents, and read them back."""
        records = np.frombuffer(self._read(source), self._record)
        if len(records) != count:
            raise ValueError(f"{source} has {len(records)} signatures, {count} were written; run the task again")
        # Documents were written in order, and equal rows keep it.
        data = records[_native.row_order(records["hashes"].astype(np.uint64))].tobytes()
        with self.output_folder.open(target, mode="wb") as file:
            file.write(data)
        if self._read(target) != data:
            raise ValueError(f"{target} reads back other than it was written; check the disk and run the task again")

    def _read(self, name: str) -> bytes:
        with self.output_folder.open(name, mode="rb") as file:
            content: bytes = file.read()
        return content


class KeepFirst(MinhashDedupCluster):
    """datatrove's third MinHash step, but the first document of a cluster stays (by task, then place in the task).

    Arguments and files are those of MinhashDedupCluster. A cluster with a document of the index loses all the others.
    Memory is 40 bytes a pair, where the original holds dictionaries of tuples.
    """

    name = "🎯 MinHash stage 3 (first stays)"

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Read all pairs of duplicates, write what is to be removed.

        Raises:
            ValueError: More than one task, or the files of some buckets are missing.
        """
        if world_size != 1:
            raise ValueError(
                f"KeepFirst runs with {world_size} tasks, needs exactly 1: it joins what all buckets found"
            )
        with self.track_time():
            nodes, ends = np.unique(self._pairs(), return_inverse=True)
            ends = ends.reshape(-1, 2)
            parents = np.arange(len(nodes))
            _native.unite(parents, np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1]))
            first = roots(parents)
            sizes = np.bincount(first, minlength=len(nodes))[first]
            if len(nodes) and nodes[-1] == _INDEX:
                first[first == first[-1]] = len(nodes) - 1
            # Numbers of clusters, in the order in which their first members stand.
            _, seen, cluster = np.unique(first, return_index=True, return_inverse=True)
            cluster = np.argsort(np.argsort(seen))[cluster]
            self._write(nodes, first == np.arange(len(nodes)), cluster, sizes)

    def _pairs(self) -> U64:
        """The pairs of all buckets: uint64 [pairs, 2], task << 32 | document."""
        names = self.input_folder.list_files(glob_pattern="*.dups")
        if len(names) % self.config.num_buckets:
            raise ValueError(
                f"there are {len(names)} .dups files, needs a multiple of {self.config.num_buckets} buckets"
            )
        blocks = [np.empty((0, 2), np.uint64)]
        for name in names:
            with self.input_folder.open(name, "rb") as file:
                ends = np.frombuffer(file.read(), "<u4").reshape(-1, 2, 2).astype(np.uint64)
            pairs = ends[:, :, 0] << np.uint64(32) | ends[:, :, 1]
            blocks.append(pairs[pairs[:, 0] != _INDEX] if self.ignore_index_matches else pairs)
        return np.concatenate(blocks)

    def _write(self, nodes: U64, stays: npt.NDArray[np.bool_], cluster: I64, sizes: I64) -> None:
        self.stat_update("duplicates", value=len(nodes))
        self.stat_update("to_remove", value=int((~stays).sum()))
        for size in sizes[stays].tolist():
            self.stat_update("cluster_size", value=size, unit="cluster")
        if self.save_cluster_id:
            self.stat_update("clusters", value=int(stays.sum()))
        tasks, documents = (nodes >> np.uint64(32)).tolist(), (nodes & np.uint64(0xFFFFFFFF)).astype("<u4")
        starts = np.flatnonzero(np.diff(np.array(tasks, np.int64), prepend=-1)).tolist()
        with self.output_folder.get_output_file_manager(mode="wb") as output:
            for start, stop in pairwise([*starts, len(tasks)]):
                part, task = slice(start, stop), tasks[start]
                removed = documents[part][~stays[part]]
                if len(removed):
                    output.write(f"{task:06d}.remove", removed.tobytes())
                for wanted, suffix, column in (
                    (self.save_cluster_id, "clusters", cluster),
                    (self.save_cluster_size, "sizes", sizes),
                ):
                    if wanted:
                        rows = np.stack([documents[part], column[part].astype("<u4")], axis=1)
                        output.write(f"{task:06d}.{suffix}", rows.tobytes())
