"""Shared by all tests: a launcher with a time limit, toy shards, and reading a run's results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    # Before Triton is imported: kernels run on CPU tensors, where a test forces them.
    os.environ["TRITON_INTERPRET"] = "1"

from megatron_bielik.data.shards import ShardWriter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from megatron_bielik.parallel.runtime import Runtime

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="run the tests marked full too: every kernel at all of its sizes, minutes through Triton's interpreter "
        "(on a GPU they always run)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: a size of the full matrix; needs --full where there is no GPU")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a GPU, tests marked gpu have nothing to run on, and those marked full take long."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
        if item.get_closest_marker("full") and not config.getoption("--full"):
            item.add_marker(pytest.mark.skip(reason="the full matrix of sizes: pytest --full tests/kernels"))


def script_environment(**more: str) -> dict[str, str]:
    """What a shell script of the examples needs to find this environment's programs, and what else is given."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **more}


def run(
    arguments: list[str],
    processes: int = 1,
    timeout: float = 180,
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m` or torchrun with arguments such as ["-m", "megatron_bielik.pretrain", ...]; never longer than timeout."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(torchrun if processes > 1 else []), *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        timeout=timeout,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{command} returned {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}")
    return done


@pytest.fixture(name="run")
def run_fixture() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The function run."""
    return run


def write_shard(prefix: Path, documents: int = 300, vocab_size: int = 1000, seed: int = 0) -> None:
    """A shard of learnable toy documents (slow random walks over the vocabulary), empty and one-token ones among them."""
    generator = np.random.default_rng(seed)
    with ShardWriter(prefix, vocab_size) as writer:
        for number in range(documents):
            length = number if number < 2 else int(generator.integers(2, 150))
            walk = np.cumsum(generator.integers(0, 7, length)) % (vocab_size // 4)
            writer.add_document(np.append(walk[:-1] + 3, 2) if length else walk)


@pytest.fixture(scope="session")
def quick_recipe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of the whole recipe at its smallest sizes, and what it printed. Two minutes, once."""
    from tests.examples import recipe_runs

    folder = tmp_path_factory.mktemp("recipe") / "whole"
    return folder, recipe_runs.run(folder)


@pytest.fixture(scope="session")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefix of a toy shard with ids below 1000."""
    prefix = tmp_path_factory.mktemp("shard") / "toy"
    write_shard(prefix)
    return prefix


def records(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    """Log records of one type of a run."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["type"] == kind]


@pytest.fixture(scope="module")
def single_process() -> Iterator[Runtime]:
    """megatron-core's process groups with one rank, in this process, for one test file."""
    from megatron_bielik.config import ParallelConfig
    from megatron_bielik.parallel import runtime

    yield runtime.start(ParallelConfig(backend="gloo"), seed=1)
    runtime.stop()


def make_hf_model(kind: str, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> PreTrainedModel:
    """A small transformers model of odd sizes with random weights, biases and norms: kind is qwen2, qwen2-tied or bielik.

    Args:
        options: Other values of its config.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 1001,
        "hidden_size": 96,
        "intermediate_size": 260,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 12_345.0, "rope_type": "default"},
        "tie_word_embeddings": kind == "qwen2-tied",
        "attn_implementation": "eager",
        **options,
    }
    if kind == "bielik":
        # Wider than the residual stream: nothing may take head_dim for hidden_size / heads.
        biases = {"attention_bias": True, "mlp_bias": True}
        model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**{"head_dim": 20, **biases, **sizes}))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**{"head_dim": 16, **sizes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.1 * noise)
    return model.to(dtype).eval()


@pytest.fixture(scope="session")
def hf_model() -> Callable[..., PreTrainedModel]:
    """The function make_hf_model."""
    return make_hf_model
