"""Options: unknown, malformed and contradictory ones are refused in one line that says the way out; presets' exact sizes."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_bielik.checks import check, check_run
from megatron_bielik.config import Config, ModelConfig
from megatron_bielik.presets import PRESETS
from megatron_bielik.settings import SettingsError, as_yaml, load_config, option_names

PACKAGE = Path(__file__).parent.parent / "megatron_bielik"


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(SettingsError) as found:
        call()
    message = str(found.value)
    assert "\n" not in message
    assert 10 < len(message) < 400
    return message


def written(folder: Path, text: str, name: str = "run.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


UNKNOWN = [
    ("optimzer: {lr: 1}", "unknown option optimzer.lr; did you mean optimizer.lr?"),
    ("optimizer: {lrr: 1}", "unknown option optimizer.lrr; did you mean optimizer.lr?"),
    ("model: {num_layer: 2}", "unknown option model.num_layer; did you mean model.num_layers?"),
    ("data: {train: [{prefx: a}]}", "unknown option data.train.prefx; did you mean data.train.prefix?"),
    ("data: {train: [{prefix: a, wieght: 2}]}", "unknown option data.train.wieght; did you mean data.train.weight?"),
    ("learning_rate: 1", "unknown option learning_rate"),
    ("training: {micro_batch: 2}", "did you mean training.micro_batch_size?"),
    ("training: {sequence_length: 2}", "did you mean data.sequence_length?"),  # right name, wrong section
]


@pytest.mark.parametrize(("text", "expected"), UNKNOWN)
def test_unknown_option_in_a_file(text: str, expected: str, tmp_path: Path) -> None:
    assert expected in refused(lambda: load_config(written(tmp_path, text)))


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--optimizer.lrr=1", "unknown option optimizer.lrr; did you mean optimizer.lr?"),
        ("--lr=1", "unknown option lr; did you mean optimizer.lr?"),
        ("--optimizer.l=1", "unknown option optimizer.l; did you mean optimizer.lr?"),  # no abbreviations
        ("--confg=x.yaml", "unknown option confg; did you mean config?"),
        ("stray", "unrecognized arguments: stray"),
        ("--optimizer.lr", "--optimizer.lr: expected one argument"),
        ("--config=/nowhere.yaml", "--config: /nowhere.yaml not found"),
    ],
)
def test_unknown_option_on_the_command_line(argument: str, expected: str) -> None:
    assert expected in refused(lambda: load_config(overrides=[argument]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: {num_layers: two}", "model.num_layers is 'two', it must be a whole number or null"),
        ("model: {tie_embeddings: maybe}", "model.tie_embeddings is 'maybe', it must be true or false or null"),
        ("model: {architecture: gpt2}", "model.architecture is 'gpt2', it must be one of qwen2, bielik or null"),
        ("training: {steps: 1.5}", "training.steps is '1.5', it must be a whole number"),
        ("optimizer: {lr: fast}", "optimizer.lr is 'fast', it must be a finite number"),
        ("parallel: {recompute: some}", "parallel.recompute is 'some', it must be one of none, selective, full"),
        ("training: {trainable: [1]}", "training.trainable is '1', it must be a list, each entry text"),
        ("data: {train: 3}", "data.train is '3', it must be a list, each entry a mapping of prefix, weight"),
        ("data: {train: [{weight: 1}]}", "data.train: an entry lacks prefix"),
        ("data: {train: [{prefix: a, weight: b}]}", "data.train.weight is 'b', it must be a finite number"),
        ("data: {valid: [a]}", "data.valid is '['a']', it must be a mapping from names, each value text"),
        ("model: 3", "model is 3, it must be a mapping of options"),
        ("model: null", "model is None, it must be a mapping of options"),
        ("[1]", "--config: the file must be a YAML mapping"),
        ("{", "--config: the file must be a YAML mapping"),
        ("", "--config: the file must be a YAML mapping"),
    ],
)
def test_wrong_types(text: str, expected: str, tmp_path: Path) -> None:
    message = refused(lambda: load_config(written(tmp_path, text)))
    assert expected.replace("'['a']'", "\"['a']\"") in message


TENSOR, PIPELINE = "parallel.tensor_parallel_size", "parallel.pipeline_parallel_size"
CONTRADICTIONS: list[tuple[list[str], int, list[str]]] = [
    (["model.preset=bielik-4.5b"], 1, ["model.preset is 'bielik-4.5b'", "did you mean bielik-4.5b-v3?"]),
    (["model.head_dim=33"], 1, ["model.head_dim is 33", "even"]),
    (["model.head_dim=36", "model.attention=flash"], 1, ["model.attention is flash", "head_dim is 36", "auto"]),
    (["model.head_dim=264", "model.attention=cudnn"], 1, ["model.attention is cudnn", "head_dim is 264", "auto"]),
    (["model.num_query_groups=3"], 1, ["num_attention_heads is 4", "num_query_groups = 3", "3 divides 3 and 6"]),
    (["data.sequence_length=2048"], 1, ["data.sequence_length is 2048", "1024", "raise model.max_position_embeddings"]),
    (["parallel.tensor_parallel_size=3"], 3, ["model.num_attention_heads is 4", "tensor_parallel_size = 3"]),
    (["model.ffn_hidden_size=354", "parallel.tensor_parallel_size=4"], 4, ["ffn_hidden_size is 354", "352 and 356"]),
    (
        ["model.num_attention_heads=12", "model.num_query_groups=4", "model.ffn_hidden_size=360", f"{TENSOR}=6"],
        6,
        ["tensor_parallel_size is 6", "num_query_groups 4", "multiple"],
    ),
    (["parallel.sequence_parallel=true"], 1, ["tensor_parallel_size is 1", "turn sequence_parallel off"]),
    (
        ["parallel.sequence_parallel=true", "parallel.tensor_parallel_size=2", "data.sequence_length=63"],
        2,
        ["data.sequence_length is 63", "tensor_parallel_size = 2", "62 and 64"],
    ),
    (["parallel.virtual_pipeline_parallel_size=2"], 1, ["virtual_pipeline_parallel_size is 2", "set it to null"]),
    (
        ["parallel.virtual_pipeline_parallel_size=1", "parallel.pipeline_parallel_size=2"],
        2,
        ["virtual_pipeline_parallel_size is 1", "at least 2"],
    ),
    (["parallel.pipeline_parallel_size=3"], 3, ["model.num_layers is 4", "= 3", "3 divides 3 and 6"]),
    (["parallel.tensor_parallel_size=2"], 3, ["world_size is 3", "pipeline_parallel_size * context_parallel_size = 2"]),
    (
        ["training.global_batch_size=10", "training.micro_batch_size=4"],
        1,
        ["training.global_batch_size is 10", "8 and 12"],
    ),
    (["training.global_batch_size=2"], 4, ["training.global_batch_size is 2", "= 4", "4 divides 4"]),
    (
        [f"{PIPELINE}=2", "parallel.virtual_pipeline_parallel_size=2", "training.global_batch_size=3"],
        2,
        ["3 micro-batches", "multiple of pipeline_parallel_size 2", "change training.global_batch_size"],
    ),
    (["schedule.warmup_steps=101"], 1, ["warmup_steps 101", "100 steps", "raise schedule.decay_steps"]),
    (
        ["schedule.decay=wsd", "schedule.cooldown_steps=60", "schedule.warmup_steps=50"],
        1,
        ["warmup_steps 50", "cooldown_steps 60", "100 steps"],
    ),
    (["schedule.cooldown_steps=10"], 1, ["cooldown_steps is for decay: wsd", "decay is cosine"]),
    (["optimizer.min_lr=1e-3"], 1, ["optimizer.min_lr 0.001", "above optimizer.lr 0.0003"]),
    (["training.trainable=['(']"], 1, ["training.trainable: '('", "no regular expression"]),
    (["training.unfreeze_at_step=5"], 1, ["unfreeze_at_step is set", "training.trainable is empty"]),
    (["training.micro_batch_size=0"], 1, ["training.micro_batch_size is 0", "at least 1"]),
    (["training.eval_interval=-1"], 1, ["training.eval_interval is -1", "must not be negative"]),
    (["optimizer.beta2=1"], 1, ["optimizer.beta2 is 1.0", "[0, 1)"]),
    (["optimizer.epsilon=0"], 1, ["optimizer.epsilon is 0.0", "above 0"]),
    (["model.rope_theta=-1"], 1, ["model.rope_theta is -1.0", "above 0"]),
    (["training.time_limit_minutes=0"], 1, ["training.time_limit_minutes is 0.0", "above 0"]),
    (["schedule.decay_steps=0"], 1, ["schedule.decay_steps is 0", "above 0"]),
    ([], 0, ["world_size is 0", "at least 1"]),
]


@pytest.mark.parametrize(("overrides", "world_size", "fragments"), CONTRADICTIONS)
def test_contradictions(overrides: list[str], world_size: int, fragments: list[str]) -> None:
    config = load_config(overrides=[f"--{override}" for override in overrides])
    message = refused(lambda: check(config, world_size))
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
@pytest.mark.parametrize("option", ["optimizer.lr", "optimizer.clip_grad", "model.init_std", "training.peak_tflops"])
def test_numbers_are_finite(option: str, value: str, tmp_path: Path) -> None:
    section, name = option.split(".")
    config = load_config(written(tmp_path, f"{section}: {{{name}: {value}}}"))
    assert f"{option} is {value.replace('.', '')}, it must be a finite number" in refused(lambda: check(config, 1))


def test_a_sound_layout() -> None:
    overrides = ["--parallel.tensor_parallel_size=2", "--parallel.pipeline_parallel_size=2"]
    config = load_config(overrides=[*overrides, "--training.micro_batch_size=2", "--training.global_batch_size=24"])
    assert check(config, 16) == (4, 3)  # data-parallel ranks, micro-batches
    assert check(load_config(), 8) == (8, 1)


def test_data_files(tmp_path: Path) -> None:
    def config(*prefixes: str, extra: str = "") -> Config:
        entries = ", ".join(f"{{prefix: {tmp_path / prefix}{extra}}}" for prefix in prefixes)
        return load_config(overrides=[f"--data.train=[{entries}]"])

    assert "data.train is empty: give shards" in refused(lambda: check_run(load_config()))
    assert f"data.train: {tmp_path}/a.bin not found" in refused(lambda: check_run(config("a")))
    (tmp_path / "a.bin").touch()
    assert f"data.train: {tmp_path}/a.idx not found; make it with" in refused(lambda: check_run(config("a")))
    (tmp_path / "a.idx").touch()
    check_run(config("a"))
    (tmp_path / "a.json").write_text('{"vocab_size": 32000}')
    message = refused(lambda: check_run(config("a")))
    assert "a was made with a vocabulary of 32000, the model has 2048: use the model's tokenizer" in message
    (tmp_path / "a.json").write_text('{"vocab_size": 2048}')
    check_run(config("a"))
    assert "twice: give it once" in refused(lambda: check_run(config("a", "a")))
    assert "is 0, it must be above 0 and finite" in refused(lambda: check_run(config("a", extra=", weight: 0")))
    with_tokenizer = load_config(
        overrides=[f"--data.train=[{{prefix: {tmp_path / 'a'}}}]", f"--data.tokenizer={tmp_path}"]
    )
    assert "has no tokenizer.json, needs a Hugging Face tokenizer" in refused(lambda: check_run(with_tokenizer))


def test_evaluation_sets_do_not_hide_each_other(tmp_path: Path) -> None:
    overrides = [f"--data.train=[{{prefix: {tmp_path / 'a'}}}]", f"--data.valid.valid={tmp_path / 'b'}"]
    message = refused(lambda: check_run(load_config(overrides=[*overrides, "--data.split=98,2,0"])))
    assert "data.valid names a set 'valid', which data.split 98,2,0 makes too" in message


@pytest.mark.skipif(find_spec("transformer_engine") is not None, reason="the package is there")
def test_missing_transformer_engine_names_the_extra() -> None:
    config = load_config(overrides=["--model.implementation=transformer_engine"])
    check(config, 1)  # a plan may be made without it
    assert "pip install 'megatron-bielik[te]'" in refused(lambda: check_run(config))


@pytest.mark.skipif(find_spec("wandb") is not None, reason="the package is there")
def test_missing_wandb_names_the_extra() -> None:
    config = load_config(overrides=["--logging.wandb_project=bielik"])
    assert "pip install 'megatron-bielik[wandb]'" in refused(lambda: check_run(config))


def unusual() -> Config:
    """Another value than the default for every option."""

    def other(section: Any) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for field in fields(section):
            value = getattr(section, field.name)
            if is_dataclass(value):
                changed[field.name] = other(value)
            elif isinstance(value, bool):
                changed[field.name] = not value
            elif isinstance(value, int | float):
                changed[field.name] = value * 2 + 1
        return changed

    changed = other(Config())
    changed["data"] |= {"train": [{"prefix": "ą b", "weight": 2.5}, {"prefix": "c"}], "valid": {"x": "y: z"}}
    changed["model"] |= {"preset": "qwen2.5-3b", "rope_theta": 1e6, "norm_epsilon": 1e-6, "tie_embeddings": False}
    changed["training"] |= {"trainable": [r"layers\.[01]\.", "'quoted'"], "precision": "fp32"}
    return load_config(overrides=[f"--{name}={value}" for name, value in flat(changed)])


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name, value in values.items():
        if isinstance(value, dict) and name != "valid":
            found += flat(value, f"{prefix}{name}.")
        else:
            found.append(
                (f"{prefix}{name}", yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip())
            )
    return found


@pytest.mark.parametrize("make", [Config, unusual])
def test_yaml_round_trip(make: Callable[[], Config], tmp_path: Path) -> None:
    config = make()
    assert load_config(written(tmp_path, as_yaml(config))) == config
    assert (config == Config()) == (make is Config)


@pytest.mark.parametrize("make", [Config, unusual])
def test_print_config_round_trip(
    make: Callable[[], Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from megatron_bielik.pretrain import main

    config = make()
    with pytest.raises(SystemExit) as leaving:
        main(["--config", str(written(tmp_path, as_yaml(config))), "--print_config"])
    assert leaving.value.code in (0, None)
    printed = yaml.safe_load(capsys.readouterr().out)
    text = yaml.safe_dump({name: value for name, value in printed.items() if name in asdict(config)})
    assert load_config(written(tmp_path, text)) == config


def test_later_files_win_and_the_command_line_last(tmp_path: Path) -> None:
    base = written(
        tmp_path, "optimizer: {lr: 1e-4, beta1: 0.8}\ntraining: {steps: 10}\ndata: {train: [{prefix: a}]}", "a"
    )
    over = written(tmp_path, "optimizer: {lr: 2e-4}\ndata: {train: [{prefix: b}]}", "b")
    config = load_config(base, over, overrides=["--training.steps=30"])
    assert (config.optimizer.lr, config.optimizer.beta1, config.training.steps) == (2e-4, 0.8, 30)
    assert [spec.prefix for spec in config.data.train] == ["b"]
    assert load_config(over, base).optimizer.lr == 1e-4
    assert load_config(over, base).optimizer.beta2 == 0.95


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("bielik-1.5b-v3", 1_596_507_648),
        ("bielik-4.5b-v3", 4_757_260_288),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-3b", 3_085_938_688),
    ],
)
def test_published_sizes(name: str, parameters: int) -> None:
    assert PRESETS[name].num_parameters() == parameters


def test_own_values_over_the_preset() -> None:
    shape = ModelConfig(preset="qwen2.5-3b", num_layers=7, tie_embeddings=False, rope_theta=5.0).shape()
    assert (shape.num_layers, shape.tie_embeddings, shape.rope_theta) == (7, False, 5.0)
    assert (shape.hidden_size, shape.vocab_size) == (2048, 151_936)
    assert ModelConfig(preset="tiny", vocab_size=1001).padded_vocab_size(1) == 1024
    assert ModelConfig(preset="tiny", vocab_size=1001).padded_vocab_size(3) == 1152
    assert ModelConfig(preset="tiny", vocab_size=1024).padded_vocab_size(4) == 1024


def test_the_job_refuses_options_before_torch(tmp_path: Path, run: Callable[..., Any]) -> None:
    """Exit code 2, one line, and neither torch nor megatron-core was imported to find out."""
    bad = written(tmp_path, "optimizer: {lrr: 1}")
    arguments = ["-X", "importtime", "-m", "megatron_bielik.pretrain", "--config", str(bad)]
    done: subprocess.CompletedProcess[str] = run(arguments, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    times = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    rest = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert rest == ["error: unknown option optimizer.lrr; did you mean optimizer.lr?"]
    imported = {line.split("|")[-1].strip() for line in times}
    assert "megatron_bielik.settings" in imported
    assert not imported & {"torch", "megatron", "megatron.core", "transformers", "triton"}


def test_every_option_is_read_somewhere() -> None:
    """An option that only exists and is checked, but changes nothing, is a lie."""
    read = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name in ("config.py", "settings.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
    names = {name: name.split(".")[-1] for name in option_names()}
    assert len(names) > 60
    names |= {"model.preset": "shape", "model.make_vocab_size_divisible_by": "padded_vocab_size"}  # by these methods
    assert [name for name, leaf in names.items() if leaf not in read] == []


def test_every_option_is_described() -> None:
    """Each dataclass says of each of its options what it is: --help shows these lines."""
    for section in [Config(), *vars(Config()).values()]:
        lines = (type(section).__doc__ or "").splitlines()
        described = {line.split(":")[0].strip() for line in lines if line.startswith(" " * 8)}
        assert {field.name for field in fields(section)} <= described, type(section)
