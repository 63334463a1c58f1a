"""A run's folder belongs to its method, model, data and seed: another run is refused there by name, or declared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_bielik.posttrain import checkpoints, dpo, grpo, sft
from megatron_bielik.posttrain.config import DPOConfig, DPOData, GRPOConfig, GRPOData, Sampling, SFTConfig, SFTData
from megatron_bielik.posttrain.errors import RunError
from megatron_bielik.posttrain.identity import CONFIG, IDENTITY, claim
from megatron_bielik.settings import as_yaml
from tests.conftest import records
from tests.posttrain.conftest import chats, pairs, small, write_rows
from tests.posttrain.test_grpo import prompts

METHODS = ["sft", "dpo", "grpo"]


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


def begun(config: Any) -> Path:
    """A run with a checkpoint, as far as its folder shows."""
    folder = Path(config.checkpoint.dir)
    claim(config)
    (folder / CONFIG).write_text(as_yaml(config), encoding="utf-8")
    checkpoints.begin(folder / "checkpoint-1")
    checkpoints.complete(folder / "checkpoint-1", {}, 0)
    return folder


def with_option(config: Any, name: str, value: Any) -> Any:
    section, _, option = name.partition(".")
    return replace(config, **{section: replace(getattr(config, section), **{option: value})})


@pytest.mark.parametrize("method", METHODS)
def test_p2_the_same_run_goes_on(method: str, config: Callable[[str], Any], tmp_path: Path) -> None:
    """With other steps, rates and layouts, too: they are no part of whose the folder is."""
    folder = begun(config(method))
    before = (folder / IDENTITY).read_bytes()
    assert claim(config(method)) == []
    longer = with_option(config(method), "training.steps", 7)
    assert claim(with_option(longer, "optimizer.lr", 1e-3)) == []
    assert claim(with_option(longer, "data.valid", [str(tmp_path / f"{method}.jsonl")])) == []
    assert (folder / IDENTITY).read_bytes() == before


@pytest.mark.parametrize("earlier", [False, True], ids=["identity", "earlier version"])
@pytest.mark.parametrize("first", METHODS)
@pytest.mark.parametrize("second", METHODS)
def test_p2_another_method_is_refused(first: str, second: str, earlier: bool, config: Callable[[str], Any]) -> None:
    folder = begun(config(first))
    if earlier:
        (folder / IDENTITY).unlink()
    if first == second:
        assert claim(config(second)) == []
        return
    other = with_option(config(second), "checkpoint.allow_changed", ["model", "data", "seed"])
    with pytest.raises(RunError) as error:
        claim(other)
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


def change_template(config: Any, tmp_path: Path) -> Any:
    (tmp_path / "t.jinja").write_text("{% generation %}{% endgeneration %}")
    return with_option(config, "data.chat_template", str(tmp_path / "t.jinja"))


def change_seed(config: Any, tmp_path: Path) -> Any:
    return with_option(config, "training.seed", 43)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        (change_model, "model", "model.path was "),
        (change_tokenizer, "model", "of other content"),
        (change_data, "data", "data.train was "),
        (change_order, "data", "data.train was "),
        (change_length, "data", "is 99"),
        (change_template, "data", "of other content"),
        (change_seed, "seed", "training.seed was 42, is 43"),
    ],
)
def test_p2_a_difference_is_refused_by_name_or_declared(
    change: Callable[[Any, Path], Any], kind: str, told: str, method: str, config: Callable[[str], Any], tmp_path: Path
) -> None:
    folder = begun(config(method))
    before = (folder / IDENTITY).read_bytes()
    other = change(config(method), tmp_path)
    others = [name for name in ("model", "data", "seed") if name != kind]
    with pytest.raises(RunError, match=f"holds a run with other {kind} ") as error:
        claim(with_option(other, "checkpoint.allow_changed", others))
    assert told in str(error.value)
    assert str(error.value).endswith(f"--checkpoint.allow_changed '[{kind}]'")
    assert "\n" not in str(error.value)
    assert (folder / IDENTITY).read_bytes() == before
    declared = with_option(other, "checkpoint.allow_changed", [kind])
    assert claim(declared, write=False) == claim(declared)
    assert claim(other) == [], "from now on the folder is the changed run's"
    with pytest.raises(RunError):
        claim(config(method) if change not in (change_tokenizer, change_data) else change(other, tmp_path))


def test_p2_moved_and_copied_files_are_no_others(config: Callable[[str], Any], tmp_path: Path) -> None:
    begun(config("sft"))
    moved = with_option(config("sft"), "model.path", str(shutil.copytree(tmp_path / "model", tmp_path / "elsewhere")))
    shutil.copyfile(tmp_path / "sft.jsonl", tmp_path / "copy.jsonl")
    assert claim(with_option(moved, "data.train", [str(tmp_path / "copy.jsonl")])) == []


def test_p2_a_run_of_an_earlier_version_is_known_by_its_options(config: Callable[[str], Any], tmp_path: Path) -> None:
    folder = begun(config("sft"))
    for change, name in ((change_model, "model"), (change_seed, "seed"), (change_length, "data")):
        (folder / IDENTITY).unlink(missing_ok=True)
        with pytest.raises(RunError, match=f"other {name} "):
            claim(change(config("sft"), tmp_path))
    assert claim(config("sft")) == []
    assert json.loads((folder / IDENTITY).read_text())["method"] == "sft"
    for content in (None, "no: [yaml", "7", "data: 3"):
        (folder / IDENTITY).unlink(missing_ok=True)
        (folder / CONFIG).unlink() if content is None else (folder / CONFIG).write_text(content)
        with pytest.raises(RunError, match=r"neither identity\.json nor config\.yaml tells whose"):
            claim(config("sft"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}', "\xff"])
def test_p2_a_damaged_identity_is_one_line(content: str, config: Callable[[str], Any]) -> None:
    folder = begun(config("dpo"))
    (folder / IDENTITY).write_bytes(content.encode("latin-1"))
    with pytest.raises(RunError, match=r"identity\.json") as error:
        claim(config("dpo"))
    assert "\n" not in str(error.value)


def test_p2_a_result_without_a_checkpoint_is_not_replaced(config: Callable[[str], Any], tmp_path: Path) -> None:
    (tmp_path / "run" / "final").mkdir(parents=True)
    with pytest.raises(RunError, match=r"holds the result of a run \(final\) and no checkpoint to go on from"):
        claim(config("sft"))


def test_p2_what_never_began_is_nobodys(config: Callable[[str], Any], tmp_path: Path) -> None:
    claim(config("sft"))
    (tmp_path / "run" / "checkpoint-5").mkdir()
    assert claim(config("dpo")) == []
    assert claim(with_option(config("dpo"), "training.seed", 1), write=False) == []
    assert json.loads((tmp_path / "run" / IDENTITY).read_text())["seed"] == 42


def test_p2_dpo_in_the_folder_of_sft(config: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Through the jobs themselves: nothing is loaded, trained or overwritten, and the folder goes on as what it is."""
    assert sft.train(config("sft"), 2) == 0
    folder = Path(config("sft").checkpoint.dir)
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    for job, method in ((dpo, "dpo"), (grpo, "grpo")):
        with pytest.raises(RunError, match=f"holds a run of sft, this is {method}"):
            job.train(config(method), 2)
    with pytest.raises(RunError, match="holds a run with other seed"):
        sft.train(with_option(config("sft"), "training.seed", 1), 2, dry_run=True)
    assert {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()} == before
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
