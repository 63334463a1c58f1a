"""A checkpoint can be damaged or hostile: nothing in it may run code, and what is wrong is said in one line."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from megatron_bielik import checkpoint_files as files
from megatron_bielik.checkpoint_files import CheckpointError, read_index, refuse_code
from megatron_bielik.config import Config, ModelConfig
from megatron_bielik.surgery.convert import export_hf, import_hf
from megatron_bielik.surgery.native_files import NativeReader

KEY = "decoder.final_layernorm.weight"
Run = Callable[..., subprocess.CompletedProcess[str]]


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._marker),)


@pytest.fixture(scope="module")
def sound(hf_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound checkpoint, as import writes it."""
    folder = tmp_path_factory.mktemp("sound")
    hf_model("bielik").save_pretrained(folder / "hf")
    import_hf(folder / "hf", folder / "checkpoint")
    return folder / "checkpoint"


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "checkpoint"))


def index_of(checkpoint: Path) -> Metadata:
    content: Metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    return content


def place_of(index: Metadata, key: str) -> Any:
    return next(stored for place, stored in index.storage_data.items() if place.fqn == key)


def append(checkpoint: Path, content: bytes) -> tuple[int, int]:
    """Put bytes at the end of the payload. Returns where they begin and their number."""
    with (checkpoint / "__0_0.distcp").open("ab") as stream:
        begin = stream.tell()
        stream.write(content)
    return begin, len(content)


def poison_metadata(checkpoint: Path, marker: Path) -> None:
    index = index_of(checkpoint)
    index.planner_data = Payload(marker)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(index))


def poison_common(checkpoint: Path, marker: Path) -> None:
    torch.save({"step": Payload(marker)}, checkpoint / "common.pt")


def poison_tensor(checkpoint: Path, marker: Path) -> None:
    """The final norm's bytes are a pickle that runs code."""
    blob = io.BytesIO()
    torch.save(Payload(marker), blob)
    index = index_of(checkpoint)
    stored = place_of(index, KEY)
    stored.offset, stored.length = append(checkpoint, blob.getvalue())
    (checkpoint / ".metadata").write_bytes(pickle.dumps(index))


def poison_bytes_entry(checkpoint: Path, marker: Path) -> None:
    """The final norm is listed as an object, which torch's planner loads with weights_only=False."""
    poison_tensor(checkpoint, marker)
    index = index_of(checkpoint)
    index.state_dict_metadata[KEY] = BytesStorageMetadata()
    (checkpoint / ".metadata").write_bytes(pickle.dumps(index))


MKDIR = f"{os.mkdir.__module__}.mkdir"
POISONS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "metadata": (poison_metadata, "which no checkpoint index needs: it could run code; do not load it"),
    "common": (poison_common, f"common.pt holds more than tensors and plain data ({MKDIR}): it could run code"),
    "bytes entry": (poison_bytes_entry, f"lists {KEY} as BytesStorageMetadata, checkpoints hold tensors only"),
    "tensor": (poison_tensor, f"{KEY} holds more than tensors and plain data ({MKDIR}): it could run code"),
}
ON_OPENING = ["metadata", "common", "bytes entry"]


def poisoned(checkpoint: Path, name: str, marker: Path) -> str:
    """Poison a checkpoint whose checksums are right all the same: an attacker computes them too. Returns the message."""
    poison, fragment = POISONS[name]
    poison(checkpoint, marker)
    files.write_checksums(checkpoint, files.checksums(checkpoint, files.payload_files(checkpoint)))
    return fragment


def one_line(found: pytest.ExceptionInfo[Any]) -> str:
    message = str(found.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", POISONS)
def test_the_poison_works(name: str, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the careless way, each of these would have run: the tests below test something.

    And the variable that a run sets overrules weights_only=False, but it does not reach the pickle of the index.
    """
    marker = tmp_path / "marker"
    poisoned(copy, name, marker)
    if name == "metadata":
        monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
        FileSystemReader(copy).read_metadata()
    else:
        blob = (copy / "common.pt").read_bytes()
        if name != "common":
            stored = place_of(index_of(copy), KEY)
            blob = (copy / "__0_0.distcp").read_bytes()[stored.offset : stored.offset + stored.length]
        monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
        with pytest.raises(pickle.UnpicklingError):
            torch.load(io.BytesIO(blob), weights_only=False)
        assert not marker.exists()
        monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
        torch.load(io.BytesIO(blob), weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("name", ON_OPENING)
def test_refuse_code(name: str, copy: Path, tmp_path: Path) -> None:
    fragment = poisoned(copy, name, tmp_path / "marker")
    with pytest.raises(CheckpointError) as found:
        refuse_code(copy)
    assert fragment in one_line(found)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", [name for name in POISONS if name != "common"])
def test_export(name: str, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without the environment variable that a run sets: export is safe by itself."""
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    fragment = poisoned(copy, name, tmp_path / "marker")
    with pytest.raises(CheckpointError) as found:
        export_hf(copy, tmp_path / "output")
    assert fragment in one_line(found)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint"}


def test_export_never_opens_common(copy: Path, tmp_path: Path) -> None:
    poisoned(copy, "common", tmp_path / "marker")
    export_hf(copy, tmp_path / "output")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "output"}


def job(checkpoint: Path, shard: Path, folder: Path, **model: Any) -> list[str]:
    """Arguments of a one-step run from a checkpoint of tests/conftest.py's small model."""
    shape = vars(files.read_description(checkpoint)[0])
    options = {
        "model": {**shape, **model},
        "data": {"train": [{"prefix": str(shard)}], "sequence_length": 64},
        "training": {"steps": 1, "global_batch_size": 1, "precision": "fp32"},
        "checkpoint": {"dir": str(folder / "run"), "init_from": str(checkpoint)},
        "logging": {"tensorboard": False},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(options))
    return ["-m", "megatron_bielik.pretrain", "--config", str(folder / "run.yaml")]


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("name", ["common", "tensor"])
def test_training_from_a_poisoned_checkpoint(name: str, copy: Path, shard: Path, tmp_path: Path, run: Run) -> None:
    poisoned(copy, name, tmp_path / "marker")
    done = run(job(copy, shard, tmp_path), check=False)
    assert done.returncode == 1
    assert not (tmp_path / "marker").exists()
    assert MKDIR in done.stderr
    if name == "common":
        assert "Traceback" not in done.stderr
        assert last_line(done).startswith(f"error: {copy / 'common.pt'} holds more than")


def test_resuming_with_a_stale_pointer(sound: Path, shard: Path, tmp_path: Path, run: Run) -> None:
    """A run must not start from scratch in silence where its newest checkpoint is gone."""
    arguments = job(sound, shard, tmp_path)
    root = tmp_path / "run" / files.CHECKPOINTS
    root.mkdir(parents=True)
    files.point_latest(root, files.name_of_step(5))
    done = run(arguments, check=False)
    assert done.returncode == 1
    assert "latest names 'step_00000005', which is no complete checkpoint" in last_line(done)


@pytest.fixture(scope="module")
def chunks(sound: Path, single_process: Any) -> list[Any]:
    """The model that training would load the checkpoint into."""
    from megatron_bielik.model.gpt import build_model

    return build_model(Config(model=ModelConfig(**vars(files.read_description(sound)[0]))))


def load_in_training(checkpoint: Path, chunks: list[Any], verify: bool = True, **other: Any) -> None:
    from megatron_bielik.training.checkpoint import load

    shape = replace(files.read_description(checkpoint)[0], **other)
    load(checkpoint, shape, chunks, None, verify)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", POISONS)
def test_loading_a_poisoned_checkpoint(
    name: str, verify: bool, copy: Path, chunks: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What init_from and resuming call. A tensor's bytes are read by torch itself, which refuses with its own exception."""
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")  # as runtime.start() sets it
    fragment = poisoned(copy, name, tmp_path / "marker")
    with pytest.raises(BaseException, match=re.escape(MKDIR if name in ("tensor", "metadata") else fragment)) as found:
        load_in_training(copy, chunks, verify)
    assert not (tmp_path / "marker").exists()
    if name in ON_OPENING:
        assert isinstance(found.value, CheckpointError)
        assert fragment in one_line(found)


def test_loading_a_sound_checkpoint(sound: Path, chunks: list[Any]) -> None:
    """The counterpart: only the poison was refused."""
    load_in_training(sound, chunks)
    weight = dict(chunks[0].global_names())[KEY]
    assert torch.equal(weight.float(), NativeReader(sound).read(KEY).bfloat16().float())


def test_loading_a_damaged_checkpoint(copy: Path, chunks: list[Any]) -> None:
    """A flipped bit in a tensor: the checksum names the file and the way out."""
    payload = copy / "__0_0.distcp"
    content = bytearray(payload.read_bytes())
    content[20_000] ^= 1
    payload.write_bytes(content)
    with pytest.raises(CheckpointError) as found:
        load_in_training(copy, chunks)
    assert one_line(found).startswith(f"{payload} is not what was written (checksum); write another step's folder name")
    load_in_training(copy, chunks, verify=False)


@pytest.mark.parametrize(("field", "value"), [("num_layers", 2), ("vocab_size", 1002), ("architecture", "qwen2")])
def test_loading_another_shape(field: str, value: Any, sound: Path, chunks: list[Any]) -> None:
    with pytest.raises(CheckpointError) as found:
        load_in_training(sound, chunks, **{field: value})
    stored = vars(files.read_description(sound)[0])[field]
    assert one_line(found) == f"{sound} has model.{field} {stored}, this run {value}: use the shape it was saved with"


def test_another_context_length_is_no_other_shape(sound: Path, chunks: list[Any]) -> None:
    load_in_training(sound, chunks, max_position_embeddings=4096)


def test_index_that_points_outside(copy: Path) -> None:
    index = index_of(copy)
    place_of(index, KEY).relative_path = "../../other/__0_0.distcp"
    (copy / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(CheckpointError) as found:
        read_index(copy)
    assert "names ../../other/__0_0.distcp, a file outside of the checkpoint" in one_line(found)


@pytest.mark.parametrize(
    "content",
    [b"", b"no pickle", b"\x80\x04K\x01.", b"\x80\x04h\x05.", b"\x80\x04X\xff\xff\xff\xff.", b"(" * 100],
    ids=["empty", "text", "another object", "no memo", "cut", "nested"],
)
def test_damaged_index(copy: Path, content: bytes) -> None:
    (copy / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError) as found:
        read_index(copy)
    assert ".metadata is damaged" in one_line(found)


@pytest.mark.parametrize("position", range(0, 3000, 375))
def test_no_flipped_byte_of_the_index_escapes(copy: Path, position: int) -> None:
    """Whatever a damaged index does to the unpickler, it is an error of ours or still a table of tensors."""
    content = bytearray((copy / ".metadata").read_bytes())
    content[position] ^= 0xFF
    (copy / ".metadata").write_bytes(content)
    try:
        NativeReader(copy)
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either outcome is right)


@pytest.mark.parametrize("name", [".metadata", "common.pt"])
def test_missing_files(name: str, copy: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}: not a complete checkpoint"):
        refuse_code(copy)


def test_damaged_common(copy: Path) -> None:
    (copy / "common.pt").write_bytes((copy / "common.pt").read_bytes()[:50])
    with pytest.raises(CheckpointError) as found:
        refuse_code(copy)
    assert "common.pt" in one_line(found)


def test_checksums_cover_every_file_and_can_be_split(copy: Path) -> None:
    (copy / files.TOKENIZER / "tokenizer.json").write_text("{}")
    names = files.payload_files(copy)
    assert {".metadata", "common.pt", "metadata.json", "__0_0.distcp", "tokenizer/tokenizer.json"} <= set(names)
    files.write_checksums(copy, files.checksums(copy, names))
    assert files.damaged_files(copy) == []
    for name in names:
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content + b"x")
        found = [files.damaged_files(copy, part, 3) for part in range(3)]
        assert sorted(name for part in found for name in part) == files.damaged_files(copy) == [name]
        (copy / name).unlink()
        assert files.damaged_files(copy) == [name]
        (copy / name).write_bytes(content)


def test_missing_checksums(copy: Path) -> None:
    (copy / files.CHECKSUMS).unlink()
    with pytest.raises(
        CheckpointError, match=r"has no checksums\.json; to load it all the same set checkpoint\.verify=false"
    ):
        files.damaged_files(copy)


def steps_of_a_run(copy: Path, run: Path, *steps: int) -> Path:
    """The checkpoints folder of a run with complete checkpoints and no pointer."""
    root = run / files.CHECKPOINTS
    root.mkdir(parents=True)
    for step in steps:
        shutil.copytree(copy, root / files.name_of_step(step))
        files.write_description(root / files.name_of_step(step), files.read_description(copy)[0], step)
    return root


def test_finding_a_checkpoint(copy: Path, tmp_path: Path) -> None:
    """A checkpoint, a checkpoints folder or a run; the pointer decides."""
    with pytest.raises(CheckpointError, match=r"holds no checkpoint: neither model\.json nor a step's folder"):
        files.find_checkpoint(tmp_path / "run")
    root = steps_of_a_run(copy, tmp_path / "run", 1, 20)
    files.point_latest(root, files.name_of_step(1))
    for path in (tmp_path / "run", root, root / files.name_of_step(1)):
        assert files.find_checkpoint(path) == root / files.name_of_step(1)
    assert files.find_checkpoint(root / files.name_of_step(20)) == root / files.name_of_step(20)


def test_e1_without_a_pointer_the_newest_complete_checkpoint_is_found(copy: Path, tmp_path: Path) -> None:
    root = steps_of_a_run(copy, tmp_path / "run", 1, 9, 10, 100)
    (root / ".writing-step_00000200").mkdir()
    (root / "step_x").mkdir()
    shutil.copytree(root / files.name_of_step(100), root / "abandoned-step_00000300")
    assert files.find_checkpoint(tmp_path / "run") == root / files.name_of_step(100)
    assert not (root / files.LATEST).exists(), "readers leave a run as it is"


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("model.json", "has no model.json"),
        ("checksums.json", "lacks checksums.json"),
        ("common.pt", "lacks common.pt"),
        (".metadata", "lacks .metadata"),
        ("__0_0.distcp", "lacks __0_0.distcp"),
    ],
)
def test_e1_an_incomplete_checkpoint_is_none(lost: str, reason: str, copy: Path, tmp_path: Path) -> None:
    """The next newest is taken; where none is complete, a run must not start from scratch over what is left."""
    root = steps_of_a_run(copy, tmp_path / "run", 3, 7)
    (root / files.name_of_step(7) / lost).unlink()
    assert files.latest_checkpoint(root) == root / files.name_of_step(3)
    (root / files.name_of_step(3) / lost).unlink()
    with pytest.raises(CheckpointError) as found:
        files.latest_checkpoint(root)
    assert one_line(found).startswith(f"{root} has neither latest nor a complete checkpoint (")
    assert f"{files.name_of_step(7)} {reason}" in str(found.value)


def test_e1_a_checkpoint_of_another_step_is_none(copy: Path, tmp_path: Path) -> None:
    root = steps_of_a_run(copy, tmp_path / "run", 3)
    shutil.copytree(root / files.name_of_step(3), root / files.name_of_step(50))
    assert files.latest_checkpoint(root) == root / files.name_of_step(3)


def test_e1_what_is_set_aside_takes_no_ones_place(tmp_path: Path) -> None:
    kept = []
    for content in "abc":
        (tmp_path / "step_1").mkdir()
        (tmp_path / "step_1" / "file").write_text(content)
        kept.append(files.set_aside(tmp_path / "step_1"))
    assert [path.name for path in kept] == ["abandoned-step_1", "abandoned-step_1.2", "abandoned-step_1.3"]
    assert [(path / "file").read_text() for path in kept] == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["step_00000099", "../elsewhere", "", "step_00000001/../x"])
def test_stale_pointer(name: str, copy: Path, tmp_path: Path) -> None:
    root = tmp_path / "run" / files.CHECKPOINTS
    root.mkdir(parents=True)
    shutil.copytree(copy, root / files.name_of_step(1))
    shutil.copytree(copy, root.parent / "elsewhere")
    files.point_latest(root, name)
    with pytest.raises(CheckpointError) as found:
        files.find_checkpoint(tmp_path / "run")
    assert f"latest names {name!r}, which is no complete checkpoint; write another folder's name there" in one_line(
        found
    )


@pytest.mark.parametrize(
    ("name", "step"), [("step_00000012", 12), ("step_x", None), ("latest", None), (".writing-step_00000001", None)]
)
def test_names_of_steps(name: str, step: int | None) -> None:
    assert files.step_of_name(name) == step
    if step is not None:
        assert files.name_of_step(step) == name
