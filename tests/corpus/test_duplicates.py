"""Clusters in one process and over tasks: the partition of datatrove's four steps; exact duplicates; who stays."""

from __future__ import annotations

import hashlib
import struct
import unicodedata
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import orjson
import pytest
import xxhash
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.exact_dedup import ExactDedupFilter, ExactFindDedups
from datatrove.pipeline.dedup.minhash import (
    MinhashBuildIndex,
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.readers import JsonlReader

from megatron_bielik.corpus.duplicates import Clusters, KeepFirst, MinhashSignature, find_duplicates
from megatron_bielik.corpus.exact import (
    ExactDuplicates,
    ExactSignature,
    FindFirst,
    exact_config,
    normalized,
    text_digest,
)
from megatron_bielik.corpus.minhash import Signer, SpaceWords, _native
from megatron_bielik.corpus.synthetic import generate_document

ODD = [
    "",
    " ",
    "słowo",
    "jedno dwa trzy cztery",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇵🇱 ❤️ ️",
    "a\0b\0c d\0e f",
    "x" * 50_000,
    "e\u0301" * 100,
    "raz " * 400,
]
Patch = pytest.MonkeyPatch
Peer = tuple[Path, set[frozenset[int]], list[int]]  # folder, clusters, who stays
BOILERPLATE = " Wszelkie prawa zastrzeżone. Kopiowanie bez zgody redakcji zabronione."


def edit(text: str, level: int, rng: Random) -> str:
    """A near duplicate: level 0 is the same words written otherwise, then ever more words change."""
    if level == 0:
        text = unicodedata.normalize(rng.choice(["NFC", "NFD"]), text)
        return rng.choice([text.upper(), text.replace(",", " ;"), text.replace(" ", "  \n"), text.replace(".", "!!")])
    if level == 1:
        return text + BOILERPLATE
    words = text.split(" ")
    for _ in range(max(1, len(words) * level // 100)):
        at = rng.randrange(len(words))
        words[at] = rng.choice(["zamiast", "tego", "inne", words[at - 1]])
    return " ".join(words)


def corpus(documents: int, seed: int) -> list[str]:
    """Synthetic documents, near duplicates of 0 to 12% changed words, chains of edits, and odd texts; shuffled."""
    rng = Random(seed)
    texts = [generate_document(seed, i)["text"] for i in range(documents)]
    for _ in range(documents):
        # Edits of edits make chains, where only neighbours are near enough.
        texts.append(edit(rng.choice(texts), rng.choice([0, 0, 1, 2, 4, 8, 12]), rng))
    texts += ODD + ODD
    rng.shuffle(texts)
    return texts


def parts(texts: list[str], tasks: int) -> list[list[Document]]:
    """Consecutive shares of the texts, one a task, of uneven size."""
    cuts = [0, *sorted(Random(1).sample(range(len(texts)), tasks - 1)), len(texts)]
    return [[Document(texts[i], id=str(i)) for i in range(start, stop)] for start, stop in pairwise(cuts)]


def peer_step(folder: Path, config: MinhashConfig) -> MinhashDedupSignature:
    """datatrove's signatures on words cut at spaces; its xxhash64 gets bytes, since xxhash 4 refuses its str."""
    step = MinhashDedupSignature(str(folder), config, SpaceWords())
    step._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())
    return step


def partition(clusters: Clusters) -> set[frozenset[int]]:
    """Clusters of two and more."""
    members = defaultdict(set)
    for document, first in enumerate(clusters.first.tolist()):
        members[first].add(document)
    return {frozenset(group) for group in members.values() if len(group) > 1}


def run_steps(
    shares: list[list[Document]],
    folder: Path,
    config: MinhashConfig,
    signature: PipelineStep,
    cluster: type[MinhashDedupCluster],
    workers: int = 1,
) -> tuple[set[frozenset[int]], list[int]]:
    """Signatures, buckets, clusters and filter; returns the clusters of two and more and who stays."""
    for rank, share in enumerate(shares):
        signature.run(iter(share), rank, len(shares))
    for rank in range(config.num_buckets * workers):
        step = MinhashDedupBuckets(str(folder / "sigs"), str(folder / "pairs"), config=config)
        step.run(None, rank, config.num_buckets * workers)
    removed = folder / "removed"
    cluster(str(folder / "pairs"), str(removed), config, save_cluster_id=True, save_cluster_size=True).run(None, 0, 1)
    members, stays = defaultdict(set), []
    for rank, share in enumerate(shares):
        stays += [int(document.id) for document in MinhashDedupFilter(str(removed)).run(iter(share), rank)]
        file, sizes = (removed / f"{rank:06d}.{suffix}" for suffix in ("clusters", "sizes"))
        if file.exists():
            for (place, number), (other, size) in zip(
                struct.iter_unpack("<2I", file.read_bytes()), struct.iter_unpack("<2I", sizes.read_bytes()), strict=True
            ):
                assert place == other
                members[number, size].add(int(share[place].id))
    for (_, size), group in members.items():
        assert len(group) == size
    return {frozenset(group) for group in members.values()}, stays


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return corpus(120, 4)


@pytest.fixture(scope="module")
def peer(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """datatrove's own four steps over three tasks."""
    folder, config = tmp_path_factory.mktemp("peer"), MinhashConfig()
    step = peer_step(folder / "sigs", config)
    return folder, *run_steps(parts(texts, 3), folder, config, step, MinhashDedupCluster)


@pytest.mark.parametrize("threads", [1, 3])
def test_one_process_finds_the_clusters_of_datatrove(
    texts: list[str], peer: Peer, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megatron_bielik.corpus.duplicates._BATCH_DOCUMENTS", 17)
    clusters = find_duplicates(iter(texts), threads=threads)
    _, expected, stays = peer
    assert partition(clusters) == expected
    assert len(expected) > 20
    assert max(map(len, expected)) > 3
    # datatrove keeps as many, but not always the first.
    assert int(clusters.keep.sum()) == len(stays)
    for group in expected:
        assert [i for i in sorted(group) if clusters.keep[i]] == [min(group)]
        assert clusters.sizes[min(group)] == len(group)


def test_step_writes_the_files_of_datatrove(
    texts: list[str], peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megatron_bielik.corpus.duplicates._BATCH_LETTERS", 10_000)
    step = MinhashSignature(str(tmp_path))
    for rank, share in enumerate(parts(texts, 3)):
        step.run(iter(share), rank, 3)
    expected = sorted(path.relative_to(peer[0] / "sigs") for path in (peer[0] / "sigs").rglob("*.sig"))
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.sig")) == expected
    assert len(expected) == 3 * 14
    for name in expected:
        assert (tmp_path / name).read_bytes() == (peer[0] / "sigs" / name).read_bytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_first_stays_over_tasks_as_in_one_process(texts: list[str], peer: Peer, tmp_path: Path, workers: int) -> None:
    config = MinhashConfig()
    signature = MinhashSignature(str(tmp_path / "sigs"), config)
    found, stays = run_steps(parts(texts, 4), tmp_path, config, signature, KeepFirst, workers)
    assert found == peer[1]
    assert stays == np.flatnonzero(find_duplicates(texts).keep).tolist()


def test_keep_first_writes_the_cluster_files_of_datatrove(peer: Peer, tmp_path: Path) -> None:
    KeepFirst(str(peer[0] / "pairs"), str(tmp_path), save_cluster_id=True, save_cluster_size=True).run(None, 0, 1)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in (peer[0] / "removed").iterdir())
    for name in names:
        if not name.endswith(".remove"):
            assert (tmp_path / name).read_bytes() == (peer[0] / "removed" / name).read_bytes()


@pytest.mark.parametrize("ignore", [False, True])
def test_matches_with_an_index(texts: list[str], tmp_path: Path, ignore: bool) -> None:
    """Documents of an earlier data set: all that are like one of them go, unless such matches are ignored."""
    config, (old, new) = MinhashConfig(), parts(texts, 2)
    for name, share in (("old", old), ("new", new)):
        MinhashSignature(str(tmp_path / name), config).run(iter(share), 0, 1)
    for bucket in range(14):
        MinhashBuildIndex(str(tmp_path / "old"), str(tmp_path / "index"), "old", config).run(None, bucket, 14)
        MinhashDedupBuckets(
            str(tmp_path / "new"), str(tmp_path / "pairs"), str(tmp_path / "index"), config, only_dedup_in_index=False
        ).run(None, bucket, 14)
    removed = {}
    for step in (MinhashDedupCluster, KeepFirst):
        out = tmp_path / step.__name__
        step(str(tmp_path / "pairs"), str(out), config, True, True, ignore_index_matches=ignore).run(None, 0, 1)
        removed[step] = (out / "000000.remove").read_bytes(), (out / "000000.sizes").read_bytes()
    assert len(removed[KeepFirst][0]) == len(removed[MinhashDedupCluster][0]) > 0
    assert removed[KeepFirst][1] == removed[MinhashDedupCluster][1]
    if not ignore:
        # Clusters inside the new data alone keep another document in datatrove; compare those that the index holds.
        sizes = dict(struct.iter_unpack("<2I", removed[KeepFirst][1]))
        with_index = {d for d in sizes if not any(sizes[d] == n for n in range(2, 40))}
        gone = [{d for (d,) in struct.iter_unpack("<I", removed[step][0])} for step in removed]
        assert with_index <= gone[0] & gone[1]


def test_pipeline_in_processes(texts: list[str], peer: Peer, tmp_path: Path) -> None:
    """The step is sent to worker processes and reads its share there."""
    source = tmp_path / "texts"
    source.mkdir()

    for rank, share in enumerate(parts(texts, 3)):
        lines = [orjson.dumps({"id": document.id, "text": document.text}) for document in share]
        (source / f"{rank}.jsonl").write_bytes(b"\n".join(lines))
    # datatrove's reader leaves blank texts out; they have no signature, but their absence moves the numbers.
    config = MinhashConfig()
    LocalPipelineExecutor(
        [JsonlReader(str(source)), MinhashSignature(str(tmp_path / "sigs"), config)],
        tasks=3,
        workers=2,
        logging_dir=str(tmp_path / "logs"),
    ).run()
    shares = [[d for d in share if d.text] for share in parts(texts, 3)]
    step = MinhashSignature(str(tmp_path / "direct"), config)
    for rank, share in enumerate(shares):
        step.run(iter(share), rank, 3)
    for path in (tmp_path / "direct").rglob("*.sig"):
        assert path.read_bytes() == (tmp_path / "sigs" / path.relative_to(tmp_path / "direct")).read_bytes()


def test_stopped_task_is_run_again_and_complete_one_is_not(
    texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = parts(texts, 1)[0]
    whole = MinhashSignature(str(tmp_path / "whole"))
    again = MinhashSignature(str(tmp_path / "again"), skip_existing_sigs=True)
    whole.run(iter(share), 0, 1)
    sort, left = MinhashSignature._sort, iter(range(5))
    with monkeypatch.context() as patch:
        patch.setattr(MinhashSignature, "_sort", lambda *args: sort(*args) if next(left) < 4 else None)
        with pytest.raises(StopIteration):
            again.run(iter(share), 0, 1)
    assert {path.parts[-3] for path in (tmp_path / "again").rglob("*.sig")} == {"unsorted", "again"}
    again.run(iter(share), 0, 1)
    again.run(iter([Document("nie czytaj tego tekstu wcale bo gotowe", id="0")]), 0, 1)
    files = {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.sig")}
    for name in files:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_damaged_signature_file_is_named(tmp_path: Path, monkeypatch: Patch) -> None:
    step, write = MinhashSignature(str(tmp_path)), MinhashSignature._write
    monkeypatch.setattr(MinhashSignature, "_write", lambda *args: write(*args) + 1)
    with pytest.raises(ValueError, match=r"bucket_000/00000\.minhash\.sig has 1 signatures, 2 were written"):
        step.run(iter([Document("jeden dwa trzy cztery pięć", id="0")]), 0, 1)


def test_equal_bands_are_duplicates_and_nothing_else_is() -> None:
    """Against the definition: the transitive closure of agreeing in all hashes of a bucket."""
    texts = corpus(40, 9)
    config = MinhashConfig(n_grams=3, num_buckets=6, hashes_per_bucket=2)
    rows, found = Signer.of(config).signatures(texts)
    bands = rows.reshape(len(texts), 6, 2)
    first = list(range(len(texts)))
    changed = True
    while changed:
        changed = False
        for i in np.flatnonzero(found).tolist():
            for j in np.flatnonzero(found[:i]).tolist():
                if first[i] != first[j] and (bands[i] == bands[j]).all(axis=1).any():
                    first[i] = first[j] = min(first[i], first[j])
                    changed = True
    assert find_duplicates(texts, config).first.tolist() == first


@pytest.mark.parametrize("texts", [[], [""], ["", "", "za krótki tekst", "za krótki tekst"]])
def test_documents_without_a_signature_stay(texts: list[str]) -> None:
    clusters = find_duplicates(texts)
    assert clusters.first.tolist() == list(range(len(texts)))
    assert clusters.keep.all()
    assert clusters.sizes.tolist() == [1] * len(texts)


def test_no_documents_and_short_ones_over_tasks(tmp_path: Path) -> None:
    config, shares = MinhashConfig(), [[], [Document("krótki", id="0")], [Document("", id="1")]]
    step = MinhashSignature(str(tmp_path / "sigs"), config)
    assert run_steps(shares, tmp_path, config, step, KeepFirst) == (set(), [0, 1])


def test_wrong_numbers_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="threads is 0"):
        find_duplicates([], threads=0)
    with pytest.raises(ValueError, match="num_buckets is 0"):
        find_duplicates([], MinhashConfig(num_buckets=0))
    with pytest.raises(ValueError, match="exactly 1"):
        KeepFirst(str(tmp_path), str(tmp_path)).run(None, 0, 2)
    (tmp_path / "00000_00.dups").touch()
    with pytest.raises(ValueError, match=r"there are 1 \.dups files, needs a multiple of 14"):
        KeepFirst(str(tmp_path), str(tmp_path)).run(None, 0, 1)


SAME = [
    "Zażółć  GĘŚLĄ\njaźń 12",
    "zaz\u0307o\u0301\u0142c\u0301 ge\u0328s\u0301la\u0328 jaz\u0301n\u0301 12",
    " zażółć gęślą jaźń 12\t",
]
OTHER = ["zażółć gęślą jaźń 13", "zażółć gęślą jaźń, 12", "zazolc gesla jazn 12", "zażółćgęślą jaźń 12"]


def test_what_counts_as_the_same_text() -> None:
    assert {normalized(text).decode() for text in SAME} == {"zażółć gęślą jaźń 12"}
    assert len({normalized(text) for text in OTHER + SAME}) == len(OTHER) + 1
    # Composed after lower case: there is a small ǰ but no capital one.
    assert normalized("J\u030c") == normalized("ǰ")
    assert text_digest("\ud800") == hashlib.sha256(b"\xed\xa0\x80").digest()


@pytest.mark.parametrize("wide", ["", "ż", "ÿ", "😀"])
def test_spaces_are_folded_as_by_split(wide: str) -> None:
    """Every code point between letters, in strings of one, two and four bytes a code point."""
    limit = {"": 0x80, "ÿ": 0x100, "ż": 0x10000, "😀": 0x110000}[wide]
    text = " ".join(f"{wide}a{chr(code)}{chr(code)}b" for code in range(limit)) + wide
    same = _native.fold_spaces(text) == " ".join(text.split()).encode("utf-8", "surrogatepass")
    assert same
    for edge in ("", " ", "\n" + wide, wide + "\x1f\u3000" * bool(wide)):
        assert _native.fold_spaces(edge) == " ".join(edge.split()).encode()


def test_first_of_equal_texts_is_new() -> None:
    seen = ExactDuplicates()
    assert [seen.is_new(text) for text in [SAME[0], OTHER[0], SAME[1], "", " \n", SAME[2], OTHER[0]]] == (
        [True, True, False, True, False, False, False]
    )
    assert len(seen) == 3


@pytest.mark.parametrize("ranges", [1, 3])
def test_exact_duplicates_over_tasks(tmp_path: Path, ranges: int) -> None:
    rng = Random(3)
    texts = [rng.choice([*SAME, *OTHER, "", " ", *(f"tekst {i}" for i in range(150))]) for _ in range(400)]
    shares, config = parts([*texts, *texts[:50]], 5), exact_config()
    shares.insert(2, [])
    for rank, share in enumerate(shares):
        ExactSignature(str(tmp_path / "hashes"), config, ranges).run(iter(share), rank, len(shares))
    for rank in range(ranges):
        FindFirst(str(tmp_path / "hashes"), str(tmp_path / "found"), config).run(None, rank, ranges)
    stays, copies = [], {}
    for rank, share in enumerate(shares):
        for document in ExactDedupFilter(str(tmp_path / "found"), config).run(iter(share), rank):
            stays.append(int(document.id))
            copies[int(document.id)] = document.metadata["duplicate_count"]
    seen = ExactDuplicates()
    assert stays == [i for i, text in enumerate([*texts, *texts[:50]]) if seen.is_new(text)]
    assert sum(copies.values()) + len(copies) == 450
    if ranges == 1:
        # datatrove's own second step finds as many.
        ExactFindDedups(str(tmp_path / "hashes"), str(tmp_path / "peer"), config).run(None, 0, 1)
        sizes = [sum(f.stat().st_size for f in (tmp_path / name).rglob("*_dup*")) for name in ("found", "peer")]
        assert sizes[0] == sizes[1] > 0


def test_too_few_tasks_for_the_ranges(tmp_path: Path) -> None:
    documents = [Document(f"tekst {i}", id=str(i)) for i in range(50)]
    ExactSignature(str(tmp_path / "hashes"), exact_config(), 4).run(iter(documents), 0, 1)
    with pytest.raises(ValueError, match="FindFirst runs with 2 tasks, needs the 4"):
        FindFirst(str(tmp_path / "hashes"), str(tmp_path / "found"), exact_config()).run(None, 0, 2)


def test_priority_goes_before_order(tmp_path: Path) -> None:
    config = exact_config()
    config.document_priority = lambda document: document.metadata["priority"]
    shares = [[Document("Ten sam tekst", id=str(rank), metadata={"priority": 1 + rank % 2})] for rank in range(4)]
    for rank, share in enumerate(shares):
        ExactSignature(str(tmp_path / "hashes"), config).run(iter(share), rank, 4)
    FindFirst(str(tmp_path / "hashes"), str(tmp_path / "found"), config).run(None, 0, 1)
    found = ExactDedupFilter(str(tmp_path / "found"), config)
    assert [d.id for rank, share in enumerate(shares) for d in found.run(iter(share), rank)] == ["1"]
