"""A run's folder belongs to its method, model, data and seed: another run is refused there by name, or declared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_bielik.data.errors import DataError
from megatron_bielik.posttrain import checkpoints, dpo, grpo, identity, sft
from megatron_bielik.posttrain.config import DPOConfig, DPOData, GRPOConfig, GRPOData, Sampling, SFTConfig, SFTData
from megatron_bielik.posttrain.errors import RunError
from megatron_bielik.posttrain.identity import CONFIG, claim
from megatron_bielik.settings import as_yaml
from tests.conftest import records
from tests.posttrain.conftest import chats, pairs, small, write_rows
from tests.posttrain.test_grpo import prompts

METHODS = ["sft", "dpo", "grpo"]
TEMPLATE = "{{ messages }}"


@pytest.fixture
def model(models_folder: Path, tmp_path: Path) -> Path:
    """A model of this test's own."""
    return Path(shutil.copytree(models_folder / "qwen2", tmp_path / "model"))


@pytest.fixture
def config(model: Path, tmp_path: Path) -> Callable[[str], Any]:
    """A run's options by method, all in one folder."""
    write_rows(tmp_path / "sft.jsonl", chats(12))
    write_rows(tmp_path / "dpo.jsonl", pairs(8))
    write_rows(tmp_path / "grpo.jsonl", prompts(3))
    made = {
        "sft": SFTConfig(data=SFTData([str(tmp_path / "sft.jsonl")], sequence_length=160)),
        "dpo": DPOConfig(data=DPOData([str(tmp_path / "dpo.jsonl")], sequence_length=160)),
        "grpo": GRPOConfig(data=GRPOData([str(tmp_path / "grpo.jsonl")]), sampling=Sampling(group_size=2)),
    }
    return lambda method: small(made[method], model, tmp_path / "run", training__steps=2)


def look(config: Any, template: str = TEMPLATE) -> list[str]:
    """The differences that are declared."""
    return claim(config, template)[1]


def begun(config: Any, step: int = 1, earlier: bool = False) -> Path:
    """A run with a checkpoint, as far as its folder shows; earlier versions kept no identity there."""
    folder = Path(config.checkpoint.dir)
    own, _ = claim(config, TEMPLATE)
    checkpoints.begin(folder / f"checkpoint-{step}")
    checkpoints.complete(folder / f"checkpoint-{step}", {} if earlier else {"identity": own}, 0)
    (folder / CONFIG).write_text(as_yaml(config), encoding="utf-8")
    return folder


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def with_option(config: Any, name: str, value: Any) -> Any:
    section, _, option = name.partition(".")
    return replace(config, **{section: replace(getattr(config, section), **{option: value})})


@pytest.mark.parametrize("method", METHODS)
def test_p2_the_same_run_goes_on(method: str, config: Callable[[str], Any], tmp_path: Path) -> None:
    """With other steps, rates and layouts, too: they are no part of whose the folder is."""
    folder = begun(config(method))
    before = everything(folder)
    assert look(config(method)) == []
    longer = with_option(config(method), "training.steps", 7)
    assert look(with_option(longer, "optimizer.lr", 1e-3)) == []
    assert look(with_option(longer, "data.valid", [str(tmp_path / f"{method}.jsonl")])) == []
    assert everything(folder) == before, "to look writes nothing"


@pytest.mark.parametrize("earlier", [False, True], ids=["now", "earlier version"])
@pytest.mark.parametrize("first", METHODS)
@pytest.mark.parametrize("second", METHODS)
def test_p2_another_method_is_refused(first: str, second: str, earlier: bool, config: Callable[[str], Any]) -> None:
    folder = begun(config(first), earlier=earlier)
    if first == second:
        assert look(config(second)) == []
        return
    other = with_option(config(second), "checkpoint.allow_changed", ["model", "data", "seed"])
    with pytest.raises(RunError) as error:
        look(other)
    assert str(error.value) == (
        f"checkpoint.dir {folder} holds a run of {first}, this is {second}: take another checkpoint.dir"
    )


def change_model(config: Any, tmp_path: Path) -> Any:
    """The other model's weights differ in one byte."""
    other = Path(shutil.copytree(config.model.path, tmp_path / "other"))
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    return with_option(config, "model.path", str(other))


def change_config(config: Any, tmp_path: Path) -> Any:
    path = Path(config.model.path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 1e-3}))
    return config


def change_tokenizer(config: Any, tmp_path: Path) -> Any:
    path = Path(config.model.path) / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    return config


def change_data(config: Any, tmp_path: Path) -> Any:
    """One more row under the same name."""
    path = Path(config.data.train[0])
    lines = path.read_text()
    path.write_text(lines + lines.splitlines()[0] + "\n")
    return config


def change_order(config: Any, tmp_path: Path) -> Any:
    """The same rows in two files, in another order."""
    lines = Path(config.data.train[0]).read_text().splitlines(keepends=True)
    for name, part in (("z.jsonl", lines[:2]), ("a.jsonl", lines[2:])):
        (tmp_path / name).write_text("".join(part))
    return with_option(config, "data.train", [str(tmp_path / "a.jsonl"), str(tmp_path / "z.jsonl")])


def change_length(config: Any, tmp_path: Path) -> Any:
    name = "max_prompt_tokens" if isinstance(config, GRPOConfig) else "sequence_length"
    return with_option(config, f"data.{name}", 99)


def change_seed(config: Any, tmp_path: Path) -> Any:
    return with_option(config, "training.seed", 43)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        (change_model, "model", "model.path was {model}, is {other}, of other content"),
        (change_config, "model", "model.path {model} has other content"),
        (change_tokenizer, "model", "model.path {model} has other content"),
        (change_data, "data", "data.train {data} has other content"),
        (change_order, "data", "data.train was {data}, is "),
        (change_length, "data", "is 99"),
        (change_seed, "seed", "training.seed was 42, is 43"),
    ],
)
def test_p2_a_difference_is_refused_by_name_or_declared(
    change: Callable[[Any, Path], Any], kind: str, told: str, method: str, config: Callable[[str], Any], tmp_path: Path
) -> None:
    folder = begun(config(method))
    other = change(config(method), tmp_path)
    others = [name for name in ("model", "data", "seed") if name != kind]
    before = everything(folder)
    with pytest.raises(RunError, match=f"holds a run with other {kind} ") as error:
        look(with_option(other, "checkpoint.allow_changed", others))
    places = {"model": tmp_path / "model", "other": tmp_path / "other", "data": tmp_path / f"{method}.jsonl"}
    assert told.format(**places) in str(error.value)
    assert str(error.value).endswith(f"--checkpoint.allow_changed '[{kind}]'")
    assert "\n" not in str(error.value)
    declared = with_option(other, "checkpoint.allow_changed", [kind])
    (said,) = look(declared)
    assert told.format(**places) in said
    assert everything(folder) == before
    with pytest.raises(RunError):
        look(other)  # a change that no checkpoint has come to is none yet
    begun(declared, step=2)
    assert look(other) == [], "from then on the folder is the changed run's"


@pytest.mark.parametrize("method", METHODS)
def test_p2_another_template_makes_other_rows(method: str, config: Callable[[str], Any]) -> None:
    begun(config(method))
    with pytest.raises(RunError, match=r"holds a run with other data \(data\.chat_template was another\)"):
        look(config(method), TEMPLATE + " ")


def test_p2_what_is_no_other_model_or_data(config: Callable[[str], Any], tmp_path: Path) -> None:
    """Moved and copied files, other notations of config.json, and files that the loader does not take."""
    begun(config("sft"))
    model = Path(shutil.copytree(tmp_path / "model", tmp_path / "elsewhere"))
    written = json.loads((model / "config.json").read_text()) | {"transformers_version": "9.9.9"}
    written["rope_theta"] = written.pop("rope_parameters")["rope_theta"]
    (model / "config.json").write_text(json.dumps(dict(sorted(written.items(), reverse=True))))
    for name in ("training_args.bin", "pytorch_model.bin", "README.md"):
        (model / name).write_text("x")
    shutil.copyfile(tmp_path / "sft.jsonl", tmp_path / "copy.jsonl")
    moved = with_option(config("sft"), "model.path", str(model))
    assert look(with_option(moved, "data.train", [str(tmp_path / "copy.jsonl")])) == []
    assert look(with_option(config("sft"), "model.path", f"{tmp_path}/elsewhere/../model/")) == []


def test_p2_a_run_of_an_earlier_version_is_known_by_its_options(config: Callable[[str], Any], tmp_path: Path) -> None:
    folder = begun(config("sft"), earlier=True)
    assert look(with_option(config("sft"), "model.path", f"{tmp_path}/./model/"), "any template") == []
    for change, name, told in (
        (change_model, "model", f"model.path was {tmp_path}/model, is {tmp_path}/other)"),
        (change_seed, "seed", "training.seed was 42, is 43"),
        (change_length, "data", "data.sequence_length was 160, is 99"),
    ):
        with pytest.raises(RunError, match=f"other {name} ") as error:
            look(change(config("sft"), tmp_path))
        assert told in str(error.value)
    moved = tmp_path / "moved.jsonl"
    (tmp_path / "sft.jsonl").rename(moved)
    with pytest.raises(RunError, match=rf"data\.train was {tmp_path}/sft\.jsonl, is {moved}\)"):
        look(with_option(config("sft"), "data.train", [str(moved)]))
    moved.rename(tmp_path / "sft.jsonl")
    for content in (None, "no: [yaml", "7", "data: 3"):
        (folder / CONFIG).unlink() if content is None else (folder / CONFIG).write_text(content)
        with pytest.raises(RunError, match=r"neither they nor config\.yaml tell whose"):
            look(config("sft"))


@pytest.mark.parametrize("content", ["", "{", "[3]", "7", "\xff"])
def test_p2_a_damaged_checkpoint_is_one_line(content: str, config: Callable[[str], Any]) -> None:
    folder = begun(config("dpo"))
    (folder / "checkpoint-1" / "run_state.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RunError, match=r"run_state\.json is damaged .*: remove .*checkpoint-1 to go on from") as error:
        look(config("dpo"))
    assert "\n" not in str(error.value)


def test_p2_a_result_without_a_checkpoint_is_not_replaced(config: Callable[[str], Any], tmp_path: Path) -> None:
    (tmp_path / "run" / "final").mkdir(parents=True)
    with pytest.raises(RunError, match=r"holds the result of a run \(final\) and no checkpoint to go on from"):
        look(config("sft"))


def test_p2_what_never_came_to_a_checkpoint_is_nobodys(config: Callable[[str], Any], tmp_path: Path) -> None:
    checkpoints.begin(tmp_path / "run" / "checkpoint-5")
    (tmp_path / "run" / CONFIG).write_text(as_yaml(config("sft")))
    assert look(config("dpo")) == []


def test_p2_files_that_were_not_touched_are_not_read_again(
    config: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(config("sft"))
    monkeypatch.setattr(identity, "checksum", None)
    assert look(config("sft")) == []
    assert claim(with_option(config("sft"), "checkpoint.dir", "nowhere"), TEMPLATE, dry_run=True) == ({}, [])
    Path(config("sft").data.train[0]).touch()
    with pytest.raises(TypeError):
        look(config("sft"))


def test_p2_declared_data_that_cannot_be_used_lock_nobody_out(config: Callable[[str], Any], tmp_path: Path) -> None:
    assert sft.train(config("sft"), 2) == 0
    write_rows(tmp_path / "bad.jsonl", [{"no": "messages"}])
    bad = with_option(with_option(config("sft"), "data.train", [str(tmp_path / "bad.jsonl")]), "training.steps", 3)
    with pytest.raises(DataError, match="no usable row"):
        sft.train(with_option(bad, "checkpoint.allow_changed", ["data"]), 2)
    with pytest.raises(RunError, match="with other data"):
        sft.train(bad, 2)
    assert sft.train(with_option(config("sft"), "training.steps", 3), 2) == 0
    assert [record["step"] for record in records(tmp_path / "run")] == [1, 2, 3]


def test_p2_dpo_in_the_folder_of_sft(config: Callable[[str], Any]) -> None:
    """Through the jobs themselves: nothing is loaded, trained or overwritten, and the folder goes on as what it is."""
    assert sft.train(config("sft"), 2) == 0
    folder = Path(config("sft").checkpoint.dir)
    before = everything(folder)
    for job, method in ((dpo, "dpo"), (grpo, "grpo")):
        with pytest.raises(RunError, match=f"holds a run of sft, this is {method}"):
            job.train(config(method), 2)
    with pytest.raises(RunError, match="holds a run with other seed"):
        sft.train(with_option(config("sft"), "training.seed", 1), 2, dry_run=True)
    assert everything(folder) == before
    longer = with_option(with_option(config("sft"), "training.steps", 3), "training.seed", 1)
    assert sft.train(with_option(longer, "checkpoint.allow_changed", ["seed"]), 2) == 0
    assert [record["step"] for record in records(folder)] == [1, 2, 3]
    said = [record["message"] for record in records(folder, "event") if record["kind"] == "resume"]
    assert said == ["training.seed was 42, is 1 (declared by checkpoint.allow_changed)"]


def test_e1_a_checkpoint_that_nobody_began_is_not_removed(config: Callable[[str], Any], tmp_path: Path) -> None:
    """A half-written one of a killed run goes; one whose mark was lost, or of another program, is renamed."""
    folder = tmp_path / "run"
    checkpoints.begin(folder / "checkpoint-2")
    for name in ("checkpoint-4", "checkpoint-notes"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_text(name)
    said = checkpoints.remove_unfinished(folder)
    assert said == ["checkpoint-4 has no run_state.json, so no run goes on from it: renamed to abandoned-checkpoint-4"]
    assert sorted(path.name for path in folder.iterdir()) == ["abandoned-checkpoint-4", "checkpoint-notes"]
    assert (folder / "abandoned-checkpoint-4" / "model.safetensors").read_text() == "checkpoint-4"
    checkpoints.begin(folder / "checkpoint-6")
    checkpoints.complete(folder / "checkpoint-6", {"tokens": 1}, 1)
    assert checkpoints.remove_unfinished(folder) == []
    assert [path.name for path in (folder / "checkpoint-6").iterdir()] == ["run_state.json"]


def test_e1_killed_while_it_removes_an_old_checkpoint(
    config: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start finishes that, and renames nothing."""
    folder = tmp_path / "run"
    for step in (1, 2):
        checkpoints.begin(folder / f"checkpoint-{step}")
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints.shutil, "rmtree", lambda path: None)
            checkpoints.complete(folder / f"checkpoint-{step}", {}, 1)
    assert (folder / "checkpoint-1").is_dir()
    assert [path.name for path in checkpoints.all_complete(folder)] == ["checkpoint-2"]
    assert checkpoints.remove_unfinished(folder) == []
    assert [path.name for path in folder.iterdir()] == ["checkpoint-2"]
