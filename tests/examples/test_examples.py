"""The examples: every stage is accepted and fits its GPUs, trains what it says, and the scripts do what they promise."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from megatron_bielik.config import Config
from megatron_bielik.corpus.prepare_config import CorpusConfig
from megatron_bielik.posttrain.config import DPOConfig, GRPOConfig, SFTConfig
from megatron_bielik.settings import load_config, make_parser, parse
from megatron_bielik.training.parameter_table import layer_of, parameter_table, trainable_names
from megatron_bielik.training.plan import make_plan

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
STAGES = sorted(EXAMPLES.glob("bielik-*/[0-9]*.sh"))
SOURCED = {"environment.sh", "stage.sh", "model.sh"}
SCRIPTS = sorted([*EXAMPLES.glob("bielik-*/*.sh"), *EXAMPLES.glob("launch/*.sh")])

BIN = Path(sys.executable).parent


def load(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


each_stage = pytest.mark.parametrize("script", STAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
check_options = load(EXAMPLES / "launch" / "check_options.py")
whole_checkpoint = load(EXAMPLES / "launch" / "whole_checkpoint.py")

GPUS = {"bielik-1.5b": 32, "bielik-4.5b": 64}
SOURCES = {
    "bielik-1.5b": [0, 0, 0, *range(1, 27), 27, 27, 27],
    "bielik-4.5b": [0, 0, 0, *range(1, 28), *range(8, 35), 35, 35, 35],
}


def stage(model: str, number: int) -> Config:
    return load_config(*(EXAMPLES / model / f"stage{n}.yaml" for n in range(1, number + 1)))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("model", GPUS)
def test_stage_fits_and_reaches_its_tokens(model: str, number: int) -> None:
    plan = make_plan(stage(model, number), GPUS[model], 80)
    assert plan.fits()
    assert plan.total_tokens == pytest.approx({1: 56e9, 2: 292e9}[number], rel=1e-4)
    assert plan.days() is not None
    assert plan.worst().trained == pytest.approx(
        (plan.parameters if number == 2 else plan.trained_from_start) / plan.config.parallel.tensor_parallel_size,
        rel=0.001,
    )


@pytest.mark.parametrize("model", GPUS)
def test_stage_1_trains_the_outermost_copies_and_the_embeddings(model: str) -> None:
    config = stage(model, 1)
    shape, sources = config.model.shape(), SOURCES[model]
    assert len(sources) == shape.num_layers
    copies = {n for n, source in enumerate(sources) if source in (sources[0], sources[-1])}
    chosen = trainable_names(parameter_table(shape), config.training.trainable)
    assert {layer_of(name) for name in chosen} == {None, *copies}
    assert {name for name in chosen if layer_of(name) is None} == {
        "embedding.word_embeddings.weight",
        "output_layer.weight",
    }


@pytest.mark.parametrize("model", GPUS)
def test_stage_2_goes_on_where_stage_1_ends(model: str) -> None:
    first, second = stage(model, 1), stage(model, 2)
    assert second.training.unfreeze_at_step == first.training.steps
    assert first.schedule == second.schedule
    assert second.schedule.decay_steps == second.training.steps
    assert (first.data, first.optimizer, first.checkpoint) == (second.data, second.optimizer, second.checkpoint)


@pytest.mark.parametrize("model", GPUS)
def test_other_pattern_in_the_comment(model: str) -> None:
    """The 4.5B's file offers a pattern for all layers that occur more than once."""
    text = (EXAMPLES / model / "stage1.yaml").read_text(encoding="utf-8")
    found = re.search(r"to train those as well: (\S+)", text)
    if model == "bielik-1.5b":
        assert found is None
        return
    assert found is not None
    sources = SOURCES[model]
    repeated = {n for n, source in enumerate(sources) if sources.count(source) > 1}
    names = trainable_names(parameter_table(stage(model, 1).model.shape()), [found[1] + r"\."])
    assert {layer_of(name) for name in names} == repeated


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_scripts_are_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True, timeout=30)
    text = script.read_text(encoding="utf-8")
    if script.name not in SOURCED:
        assert "set -euo pipefail" in text
        assert script.stat().st_mode & stat.S_IXUSR


def test_a_number_means_one_stage() -> None:
    """Both folders link to the same file under the same name; only GRPO is the larger model's alone."""
    names = {model: {path.name for path in STAGES if path.parent.name == model} for model in GPUS}
    assert names["bielik-4.5b"] - names["bielik-1.5b"] == {"13_grpo.sh"}
    assert names["bielik-4.5b"] == {path.name for path in EXAMPLES.glob("stages/*.sh")}
    assert [int(name[:2]) for name in sorted(names["bielik-4.5b"])] == list(range(1, 16))
    for script in STAGES:
        assert script.resolve() == EXAMPLES / "stages" / script.name


def fake(folder: Path, name: str, body: str) -> None:
    """A command of that name, first in the PATH."""
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def start(script: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{BIN}:{os.environ['PATH']}", **variables}
    command = [str(script), *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("model", GPUS)
@pytest.mark.parametrize("script", ["07_stage1.sh", "08_stage2.sh"])
def test_dry_run_of_pretraining_is_the_plan(model: str, script: str) -> None:
    done = start(EXAMPLES / model / script, DRY_RUN="1", DATA="/elsewhere")
    assert done.returncode == 0, done.stderr
    assert f"{GPUS[model]} GPUs" in done.stdout
    assert "Fits 80.0 GiB" in done.stdout
    assert "/elsewhere/polish" in done.stdout
    by_hand = start(
        EXAMPLES / model / script,
        *("--dry_run", "--world_size", str(GPUS[model]), "--device_memory_gib", "80"),
        LAUNCH="python -m megatron_bielik.pretrain",
    )
    assert by_hand.stdout.strip() == done.stdout.split("\n", 1)[1].strip()


def commands_of(script: Path, tmp_path: Path) -> list[list[str]]:
    """What a dry run starts, with a stand-in for python that writes its arguments down."""
    fake(tmp_path, "python", f'printf "%s\\0" "$@" $\'\\n\' >> {tmp_path}/called')
    done = start(script, DRY_RUN="1", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "called").read_text(encoding="utf-8").removesuffix("\n\0").split("\n\0")
    return [call.removesuffix("\0").split("\0") for call in calls]


@each_stage
def test_every_dry_run_is_accepted(script: Path, tmp_path: Path) -> None:
    """Each command that a stage would start has options that its tool or job takes."""
    calls = commands_of(script, tmp_path)
    for call in calls:
        if call[0] == "-m":
            job = importlib.import_module(call[1])
            options = {"pretrain": Config, "sft": SFTConfig, "dpo": DPOConfig, "grpo": GRPOConfig}
            parser = make_parser("", "", options=options[call[1].rpartition(".")[2]])
            known = {"--dry_run", "--print_config", "--world_size", "--device_memory_gib"}
            given = call[2 : next(n for n, word in enumerate(call) if word in known)]
            assert parse(parser, given)
            assert callable(job.main)
        else:
            assert call[0] == "examples/launch/check_options.py"
            assert check_options.accepts([str(ROOT / call[1]), *call[2:]])


def test_a_dry_run_refuses_what_the_tool_refuses() -> None:
    done = start(EXAMPLES / "bielik-4.5b" / "15_evaluate.sh", "--shots", "3", DRY_RUN="1")
    assert done.returncode != 0
    assert "unrecognized arguments: --shots 3" in done.stderr
    done = start(EXAMPLES / "bielik-4.5b" / "10_sft.sh", "--optimizer.learning", "3", DRY_RUN="1")
    assert done.returncode != 0
    assert "unknown option optimizer.learning" in done.stderr


def test_a_dry_run_names_what_is_missing_and_writes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "tokenizer"
    done = start(EXAMPLES / "bielik-1.5b" / "02_tokenizer.sh", DRY_RUN="1", TOKENIZER=str(output), POLISH="/none/*.zst")
    assert done.returncode == 0
    assert "not there yet: POLISH is /none/*.zst (01_corpus.sh)" in done.stderr
    assert not list(tmp_path.iterdir())


@each_stage
def test_a_missing_input_is_refused_in_one_line(script: Path, tmp_path: Path) -> None:
    text = script.read_text(encoding="utf-8")
    needs = [
        *re.findall(r"^(?:\[\[.*\]\] \|\| )?need (\w+)", text, re.MULTILINE),
        *re.findall(r"^(?=average )", text, re.MULTILINE),
    ]
    if not needs:
        assert script.name in ("07_stage1.sh", "08_stage2.sh")  # the job itself looks for its data, before it starts
        return
    fake(tmp_path, "python", f"touch {tmp_path}/started")
    first = needs[0] or "RUN"
    done = start(script, PATH=f"{tmp_path}:{os.environ['PATH']}", **{first: str(tmp_path / "none")})
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {first} is {tmp_path / 'none'}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "started").exists()


def test_a_finished_output_is_not_made_again(tmp_path: Path) -> None:
    fake(tmp_path, "python", f"touch {tmp_path}/started")
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    places = {"MODEL": str(tmp_path / "in"), "OUTPUT": str(tmp_path / "out")}
    done = start(EXAMPLES / "bielik-4.5b" / "04_depth.sh", PATH=f"{tmp_path}:{os.environ['PATH']}", **places)
    assert done.returncode == 0
    assert "is there already" in done.stdout
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("model", GPUS)
def test_the_mixture_is_the_published_one(model: str) -> None:
    """237B of 292B tokens are Polish, and the script's mixture is that of the YAML."""
    train = stage(model, 1).data.train
    weights = {Path(one.prefix).name: one.weight for one in train}
    assert weights["polish"] / sum(weights.values()) == pytest.approx(237 / 292)
    assert set(weights) == {"polish", "english", "instruction"}
    done = start(EXAMPLES / model / "07_stage1.sh", LAUNCH="echo", DATA="data/shards")
    given = done.stdout.split("--data.train ")[1].split(" --data.tokenizer")[0]
    assert yaml.safe_load(given) == [{"prefix": one.prefix, "weight": one.weight} for one in train]


def test_averages_take_the_end_and_the_two_checkpoints_before(tmp_path: Path) -> None:
    """By number, not by name; the newest checkpoint is the end itself."""
    fake(tmp_path, "python", f'echo "$@" >> {tmp_path}/called')
    run = tmp_path / "run"
    for name in ("final", "checkpoint-250", "checkpoint-1000", "checkpoint-750", "checkpoint-1100"):
        (run / name).mkdir(parents=True)
    (run / "checkpoint-1000" / "pytorch_model_fsdp_0").mkdir()
    places = {"RUN": str(run), "OUTPUT": str(tmp_path / "out")}
    done = start(EXAMPLES / "bielik-4.5b" / "11_merge_sft.sh", PATH=f"{tmp_path}:{os.environ['PATH']}", **places)
    assert done.returncode == 0, done.stderr
    whole, merge = (tmp_path / "called").read_text(encoding="utf-8").splitlines()
    assert whole == (
        f"examples/launch/whole_checkpoint.py --checkpoint {run}/checkpoint-1000 --like {run}/final --output {run}/whole-1000"
    )
    assert f"--models {run}/checkpoint-750 {run}/whole-1000 {run}/final --dtype bf16 --output {tmp_path}/out" in merge


def test_a_sharded_checkpoint_becomes_a_folder_that_loads(tmp_path: Path) -> None:
    import torch
    from torch.distributed import checkpoint
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 40,
    }
    model = LlamaForCausalLM(LlamaConfig(**shape))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "final")
    trained = {name: tensor.float() + 0.001 for name, tensor in model.state_dict().items()}
    # As accelerate writes it: https://huggingface.co/docs/accelerate/concept_guides/fsdp1_vs_fsdp2
    shards = tmp_path / "checkpoint-5" / "pytorch_model_fsdp_0"
    checkpoint.save({"model": trained}, checkpoint_id=shards, no_dist=True)
    whole_checkpoint.make_whole(tmp_path / "checkpoint-5", tmp_path / "final", tmp_path / "whole")
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "whole").state_dict()
    assert loaded.keys() == trained.keys()
    for name, tensor in loaded.items():
        assert tensor.dtype == torch.float32
        assert tensor.equal(trained[name]), name
    with pytest.raises(ValueError, match="no pytorch_model_fsdp_0 in it"):
        whole_checkpoint.make_whole(tmp_path / "final", tmp_path / "final", tmp_path / "other")


def test_conversations_become_documents(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "Ile to 2 + 2?"}, {"role": "assistant", "content": "Żółte 4."}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]},
        {"text": "no conversation"},
    ]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [sys.executable, "examples/stages/instruction_text.py", "--input", str(tmp_path / "chats.jsonl")]
    output = tmp_path / "text.jsonl"
    done = subprocess.run(
        [*command, "--output", str(output)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert [json.loads(line)["text"] for line in output.read_text(encoding="utf-8").splitlines()] == [
        "Ile to 2 + 2?\n\nŻółte 4."
    ]
    assert "1 documents, 2 rows without text" in done.stdout


def test_torchrun_passes_everything_on(tmp_path: Path) -> None:
    fake(tmp_path, "torchrun", 'printf "%s\\n" "$@"')
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "NNODES": "4", "NODE_RANK": "2"}
    command = [str(EXAMPLES / "launch" / "torchrun.sh"), "--config", "a b.yaml"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True)
    words = done.stdout.splitlines()
    assert words[:4] == ["--nnodes", "4", "--node-rank", "2"]
    assert words[-4:] == ["-m", "megatron_bielik.pretrain", "--config", "a b.yaml"]


SLURM = {"SLURM_JOB_ID": "41", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NODELIST": "n[0-1]", "SLURM_NTASKS": "16"}


def slurm(tmp_path: Path, srun: str) -> subprocess.Popen[str]:
    fake(tmp_path, "srun", srun)
    fake(tmp_path, "scontrol", f'echo "$@" >> {tmp_path}/scontrol.log; [[ $1 != show ]] || echo n0')
    environment = {**os.environ, **SLURM, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [str(EXAMPLES / "launch" / "slurm.sh"), "--config", "x.yaml"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    for _ in range(200):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


@pytest.mark.parametrize("exit_code", [0, 1])
def test_slurm_requeues_after_a_clean_stop_only(tmp_path: Path, exit_code: int) -> None:
    body = f'trap "sleep 0.2; exit {exit_code}" USR1; touch {tmp_path}/up; while :; do sleep 0.05; done'
    job = slurm(tmp_path, body)
    wait_for(tmp_path / "up")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=30) == exit_code
    calls = (tmp_path / "scontrol.log").read_text(encoding="utf-8")
    assert ("requeue 41" in calls) == (exit_code == 0)


@pytest.mark.parametrize("exit_code", [0, 3])
def test_slurm_without_a_signal_hands_on_the_status(tmp_path: Path, exit_code: int) -> None:
    job = slurm(tmp_path, f"exit {exit_code}")
    assert job.wait(timeout=30) == exit_code
    assert "requeue" not in (tmp_path / "scontrol.log").read_text(encoding="utf-8")


def test_slurm_gives_every_task_its_rank(tmp_path: Path) -> None:
    fake(tmp_path, "python", 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $*"')
    job = slurm(tmp_path, 'export SLURM_PROCID=9 SLURM_LOCALID=1; while [[ $1 == -* ]]; do shift; done; "$@"')
    assert job.communicate(timeout=30)[0].strip() == "9 1 16 n0 20041 -m megatron_bielik.pretrain --config x.yaml"


def test_the_corpus_example_is_accepted() -> None:
    """All its options are known; it has three sources and no model, and the rest are the defaults."""
    config, _ = parse(make_parser("", "", "", CorpusConfig), ["--config", str(EXAMPLES / "corpus" / "corpus.yaml")])
    assert [source.path for source in config.input] == ["raw/web", "raw/wiki.parquet", "raw/books"]
    assert config.quality.model is None
    assert config.near_duplicates == CorpusConfig().near_duplicates


def test_the_corpus_of_the_models_is_accepted_and_keeps_by_the_published_thresholds() -> None:
    config, _ = parse(make_parser("", "", "", CorpusConfig), ["--config", str(EXAMPLES / "stages" / "corpus.yaml")])
    assert (config.quality.min_high, config.quality.min_medium) == (0.5, 0.8)
    assert config.quality.model is not None
    assert config.language == "pl"
