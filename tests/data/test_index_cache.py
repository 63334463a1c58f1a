"""The cache of indices: megatron-core's arrays for its data sets, built once, whatever disks and other processes do."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import megatron_bielik.parallel  # noqa: F401  (hides megatron-core's notes about optional packages)
from megatron_bielik.data import index as ours
from megatron_bielik.data import index_cache
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.index_cache import IndexCache, IndexRequest
from megatron_bielik.data.shards import ShardReader, ShardWriter

TOOL = Path(__file__).parents[2] / "tools" / "build_index.py"


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())


def write(prefix: Path, lengths: list[int], first: int = 0) -> Path:
    with ShardWriter(prefix, 70_000) as writer:
        for length in lengths:
            writer.add_document(np.arange(first, first + length) % 70_000)
    return prefix


LENGTHS = [9, 0, 31, 1, 150, 7, 64] * 30
REQUEST = IndexRequest(2000, 16, 7)


def arrays_of(cache: Path, prefix: Path, request: IndexRequest = REQUEST) -> list[np.ndarray]:
    found = IndexCache(cache).dataset(prefix, request)
    return [found.documents, found.samples, found.shuffle]


def equal_all(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(same(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("samples", [None, 1, 100, 480, 500, 800, 940, 1000, 2000, 5001])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_cached_indices_are_those_of_gpt_dataset(tmp_path: Path, samples: int | None, split: str) -> None:
    from megatron.core.datasets import gpt_dataset
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split

    class Tokenizer:
        eod, pad, vocab_size, unique_identifiers = 0, -1, 70_000, {"name": "test"}

    # An empty document at the very end of the order stops megatron-core where partial samples are kept.
    lengths = [length for length in LENGTHS if length or split == "train"]
    prefix = write(tmp_path / "shard", lengths)
    config = gpt_dataset.GPTDatasetConfig(
        random_seed=7,
        sequence_length=16,
        blend=([str(prefix)], None),
        split="1",
        path_to_cache=str(tmp_path / "theirs"),
        tokenizer=Tokenizer(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        drop_last_partial_validation_sequence=False,
        mid_level_dataset_surplus=0.005,
    )
    documents = np.arange(5, len(lengths), dtype=np.int32)
    theirs = gpt_dataset.GPTDataset(IndexedDataset(str(prefix)), str(prefix), documents, samples, Split[split], config)
    expected = [theirs.document_index, theirs.sample_index, theirs.shuffle_index]
    request = IndexRequest(samples, 16, 7, (5, len(lengths)), drop_last_partial_sequence=split == "train")
    assert equal_all(expected, arrays_of(tmp_path / "cache", prefix, request))


def test_cached_blend(tmp_path: Path) -> None:
    cache = IndexCache(tmp_path)
    weights = [3.0, 1.0, 2.5]
    for _ in range(2):
        found = cache.blend(weights, 1000)
        expected = ours.build_blending_indices(weights_given(weights), 1000)
        assert all(same(a, b) for a, b in zip(found, expected, strict=True))
        exact = cache.blend([4, 5], None)
        assert np.bincount(exact[0]).tolist() == [4, 5]
    assert len(list(tmp_path.iterdir())) == 2


def weights_given(weights: list[float]) -> np.ndarray:
    from megatron.core.datasets.utils import normalize

    assert normalize(weights) == ours.normalised(weights)
    return np.array(normalize(weights))


def test_cache_is_built_once_and_follows_the_content(tmp_path: Path) -> None:
    prefix, said = write(tmp_path / "shard", LENGTHS), list[str]()
    cache = IndexCache(tmp_path / "cache", said.append)
    first = cache.dataset(prefix, REQUEST)
    assert isinstance(first.samples, np.memmap)
    assert len(said) == 3
    cache.dataset(prefix, REQUEST)
    shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-moved"))
    cache.dataset(tmp_path.with_name(f"{tmp_path.name}-moved") / "shard", REQUEST)
    assert len(said) == 3
    for number, changed in enumerate((LENGTHS[::-1], [*LENGTHS, 1])):
        write(prefix, changed)
        cache.dataset(prefix, REQUEST)
        assert len(said) == 3 * (number + 2)
    write(prefix, LENGTHS, first=1)  # the same lengths, other text
    cache.dataset(prefix, REQUEST)
    assert len(said) == 12
    for request in (IndexRequest(2001, 16, 7), IndexRequest(2000, 17, 7), IndexRequest(2000, 16, 8)):
        cache.dataset(prefix, request)
    assert len(said) == 21


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def damage_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def damage_longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def damage_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", ["documents.npy", "samples.npy", "shuffle.npy", "description.json"])
@pytest.mark.parametrize("damage", [Path.unlink, damage_cut, damage_byte, damage_longer, damage_folder])
def test_damaged_files_are_built_again(tmp_path: Path, name: str, damage: object) -> None:
    prefix, cache = write(tmp_path / "shard", LENGTHS), tmp_path / "cache"
    before = [array.copy() for array in arrays_of(cache, prefix)]
    (folder,) = cache.iterdir()
    whole = (folder / name).stat().st_size
    damage(folder / name)  # type: ignore[operator]
    assert equal_all(before, arrays_of(cache, prefix))
    assert [path.name for path in cache.iterdir()] == [folder.name]
    if (name, damage) != ("description.json", damage_longer):
        assert (folder / name).stat().st_size == whole


def test_a_file_in_the_way_and_leftovers(tmp_path: Path) -> None:
    prefix, cache = write(tmp_path / "shard", LENGTHS), tmp_path / "cache"
    arrays_of(cache, prefix)
    (folder,) = cache.iterdir()
    shutil.rmtree(folder)
    folder.write_text("a file")
    old, fresh = cache / ".building-1-00", cache / ".building-2-00"
    for path in (old, fresh):
        path.mkdir()
    os.utime(old, (time.time() - 2 * 86_400,) * 2)
    arrays_of(cache, prefix)
    assert folder.is_dir()
    assert not old.exists()
    assert fresh.exists(), "another process may be writing it"


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    prefix, cache = write(tmp_path / "shard", LENGTHS), tmp_path / "cache"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(DataError, match=r"^cannot write .*dataset-.*: file too large; nothing was left") as caught:
            arrays_of(cache, prefix)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []
    arrays_of(cache, prefix)


def build_at(prefix: Path, cache: Path, start: float, answers: multiprocessing.Queue[bool]) -> None:
    """One of several processes that begin at the same moment."""
    while time.time() < start:
        pass
    one, two = (arrays_of(cache, prefix, IndexRequest(2000, 16, seed)) for seed in (1, 2))
    answers.put(not equal_all(one, two))


def test_processes_that_build_at_once_do_not_harm_each_other(tmp_path: Path) -> None:
    prefix, cache = write(tmp_path / "shard", LENGTHS), tmp_path / "cache"
    arrays_of(cache, prefix, IndexRequest(2000, 16, 1))
    damage_cut(next(cache.glob("*/samples.npy")))  # they find one damaged and one missing
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[bool] = context.Queue()
    start = time.time() + 0.3
    processes = [context.Process(target=build_at, args=(prefix, cache, start, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    assert all(answers.get(timeout=20) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(list(cache.iterdir())) == 2
    for seed in (1, 2):
        request = IndexRequest(2000, 16, seed)
        assert equal_all(arrays_of(cache, prefix, request), arrays_of(tmp_path / "alone", prefix, request))


def test_killed_builders_leave_nothing_that_is_used(tmp_path: Path) -> None:
    prefix, cache = write(tmp_path / "shard", [3] * 20_000), tmp_path / "cache"
    code = (
        "import sys, os, signal; from megatron_bielik.data import index_cache as c\n"
        "write = c.write_array\n"
        "def die(path, *rest):\n"
        "    write(path, *rest)\n"
        "    if path.stem == 'samples': os.kill(os.getpid(), signal.SIGKILL)\n"
        "c.write_array = die\n"
        "c.IndexCache(sys.argv[1]).dataset(sys.argv[2], c.IndexRequest(9000, 16, 7))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(cache), str(prefix)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = cache.iterdir()
    assert left.name.startswith(".building-")
    request = IndexRequest(9000, 16, 7)
    assert equal_all(arrays_of(cache, prefix, request), arrays_of(tmp_path / "alone", prefix, request))


def test_requests_that_cannot_be_met(tmp_path: Path) -> None:
    prefix, cache = write(tmp_path / "shard", [0, 3, 0]), IndexCache(tmp_path / "cache")
    assert cache.dataset(prefix, IndexRequest(None, 64, 1)).samples.tolist() == [[0, 0]]
    for request, message in (
        (IndexRequest(5, 16, 1, (0, 1)), "have 0 tokens, an index needs at least 2"),
        (IndexRequest(5, 16, 1, (0, 4)), "documents are 0 to 4"),
        (IndexRequest(5, 0, 1), "sequence_length is 0"),
        (IndexRequest(0, 16, 1), "num_samples is 0"),
    ):
        with pytest.raises(DataError, match=message):
            cache.dataset(prefix, request)
    with pytest.raises(DataError, match="not found"):
        cache.dataset(tmp_path / "missing", REQUEST)


def test_tool_builds_what_a_run_then_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, lengths in (("web", LENGTHS), ("books", [500] * 20)):
        write(tmp_path / name, lengths)
    command = [
        sys.executable,
        str(TOOL),
        "--shard",
        str(tmp_path / "web"),
        str(tmp_path / "books"),
        "--weights",
        "3",
        "1",
    ]
    command += ["--samples", "1000", "--sequence-length", "16", "--seed", "7", "--cache", str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "blend: 1,000 samples, 750" in done.stdout
    monkeypatch.setattr(IndexCache, "_build", None)
    cache = IndexCache(tmp_path / "cache")
    assert len(cache.dataset(tmp_path / "web", IndexRequest(754, 16, 7)).shuffle) >= 754
    assert np.bincount(cache.blend([3.0, 1.0], 1000)[0]).tolist() == [750, 250]
    command[command.index("1")] = "0"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --weights is [3.0, 0.0], needs a number above 0")
    described = json.loads(next((tmp_path / "cache").glob("dataset-*/description.json")).read_text())
    assert described["what"]["sequence_length"] == 16
    assert len(ShardReader(tmp_path / "web")) == len(LENGTHS)
    assert index_cache.shard_identity(tmp_path / "web") != index_cache.shard_identity(tmp_path / "books")
