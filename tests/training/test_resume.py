"""A run that was killed or stopped goes on as if nothing had happened: same losses, same weights, bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_bielik.checkpoint_files import CHECKPOINTS, LATEST, find_checkpoint, name_of_step, step_of_name
from megatron_bielik.surgery.native_files import NativeReader
from tests.conftest import ROOT, records

STEPS = 12
pytestmark = pytest.mark.distributed


def command(shard: Path, folder: Path, processes: int, *extra: str) -> list[str]:
    """A run that saves every second step in the background, and first trains only a part of the model."""
    options = {
        "model.vocab_size": 1001,
        "data.train": f"[{{prefix: {shard}}}]",
        "data.split": "90,10,0",
        "data.sequence_length": 48,
        "training.steps": STEPS,
        "training.micro_batch_size": 2,
        "training.global_batch_size": 8,
        "training.precision": "bf16",
        "training.trainable": "['^embedding', 'layers.[03].', '^output_layer']",
        "training.unfreeze_at_step": 6,
        "training.eval_interval": 4,
        "training.eval_batches": 1,
        "checkpoint.dir": folder,
        "checkpoint.save_interval": 2,
        "logging.tensorboard": "false",
    }
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, *torchrun, "-m", "megatron_bielik.pretrain", *flags, *extra]


class Job:
    """A run in a process group of its own, with everything it prints in a file."""

    def __init__(self, arguments: list[str], output: Path) -> None:
        self._output = output
        with output.open("w") as stream:
            self._process = subprocess.Popen(
                arguments,
                cwd=ROOT,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def wait_until(self, happened: Callable[[], bool], timeout: float = 120) -> None:
        """Wait for a condition while the job runs."""
        deadline = time.monotonic() + timeout
        while not happened():
            assert self._process.poll() is None, f"the job ended early:\n{self.output()[-3000:]}"
            assert time.monotonic() < deadline, f"it did not happen in {timeout} s:\n{self.output()[-3000:]}"
            time.sleep(0.005)

    def signal(self, number: int) -> None:
        """Send a signal to every process of the job."""
        os.killpg(self._process.pid, number)

    def wait(self, timeout: float = 120) -> int:
        """Exit code; the whole group is killed if it takes longer."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            raise

    def output(self) -> str:
        """What it has printed."""
        return self._output.read_text()


def steps_done(folder: Path) -> int:
    """Last step in the log, 0 before there is one."""
    return max((r["step"] for r in records(folder)), default=0) if (folder / "log.jsonl").is_file() else 0


def everything_stored(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint: weights, master weights and moments."""
    reader = NativeReader(find_checkpoint(folder))
    return {key: reader.read(key) for key in reader.keys()}  # noqa: SIM118  (not a mapping)


def assert_identical(folder: Path, reference: Path) -> None:
    """Same losses, norms and evaluations, and the same bits in every stored tensor."""
    for kind, fields in (("train", ("step", "loss", "grad_norm", "lr")), ("eval", ("step", "set", "loss"))):
        assert [[r[f] for f in fields] for r in records(folder, kind)] == [
            [r[f] for f in fields] for r in records(reference, kind)
        ]
    ours, theirs = everything_stored(folder), everything_stored(reference)
    assert ours.keys() == theirs.keys()
    assert any(key.startswith("optimizer.state.exp_avg_sq.") for key in ours)
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key]), key


@pytest.fixture(scope="module", params=["one", "two"])
def uninterrupted(
    request: pytest.FixtureRequest, shard: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int, list[str]]:
    """A finished run: one process saving in the background, or two tensor-parallel ones that wait for their saves."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    processes, extra = {
        "one": (1, ["--checkpoint.async_save=true"]),
        "two": (2, ["--parallel.tensor_parallel_size=2"]),
    }[request.param]
    job = Job(command(shard, folder, processes, *extra), folder.parent / "output")
    assert job.wait() == 0, job.output()
    return folder, processes, extra


def test_killed_run_repeats_itself_bit_for_bit(
    uninterrupted: tuple[Path, int, list[str]], shard: Path, tmp_path: Path
) -> None:
    reference, processes, extra = uninterrupted
    folder = tmp_path / "run"
    checkpoints = folder / CHECKPOINTS
    # Between two checkpoints, while a checkpoint is being written, and after the unfreezing at step 6.
    moments: list[Callable[[], bool]] = [
        lambda: steps_done(folder) == 3,
        lambda: steps_done(folder) >= 3 and any(checkpoints.glob(".writing-*")),
        lambda: steps_done(folder) >= 7,
    ]
    for number, moment in enumerate(moments[1:] if processes > 1 else moments):
        job = Job(command(shard, folder, processes, *extra), tmp_path / f"output{number}")
        job.wait_until(moment)
        job.signal(signal.SIGKILL)
        assert job.wait() != 0
    job = Job(command(shard, folder, processes, *extra), tmp_path / "output")
    assert job.wait() == 0, job.output()
    assert_identical(folder, reference)
    assert not list(checkpoints.glob(".writing-*"))


def test_sigterm_saves_and_leaves_cleanly(
    uninterrupted: tuple[Path, int, list[str]], shard: Path, tmp_path: Path
) -> None:
    reference, processes, extra = uninterrupted
    folder = tmp_path / "run"
    job = Job(command(shard, folder, processes, *extra), tmp_path / "output")
    # A checkpoint was written before: what writes them must outlive the signal, which launchers send to whole groups.
    job.wait_until(lambda: steps_done(folder) >= 3 and any(folder.glob(f"{CHECKPOINTS}/step_*")))
    job.signal(signal.SIGTERM)
    code = job.wait()
    assert processes > 1 or code == 0, job.output()  # torchrun itself reports that it was told to end
    (stop,) = [r for r in records(folder, "event") if r["kind"] == "stop"]
    assert "SIGTERM" in stop["message"]
    assert step_of_name(find_checkpoint(folder).name) == stop["step"] == steps_done(folder) < STEPS
    job = Job(command(shard, folder, processes, *extra), tmp_path / "output2")
    assert job.wait() == 0, job.output()
    assert_identical(folder, reference)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a checkpoint."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_e1_a_lost_pointer_loses_nothing(
    uninterrupted: tuple[Path, int, list[str]], shard: Path, tmp_path: Path
) -> None:
    """Stopped at step 8, its pointer deleted: it goes on from 8, says so, and keeps log and checkpoints."""
    reference, processes, extra = uninterrupted
    folder = tmp_path / "run"
    checkpoints = folder / CHECKPOINTS
    shutil.copytree(reference, folder)
    kept = {step: contents(checkpoints / name_of_step(step)) for step in (8, 10, 12)}
    shutil.rmtree(checkpoints / name_of_step(10))
    (checkpoints / name_of_step(12) / "model.json").unlink()  # copied in part
    (checkpoints / LATEST).unlink()
    job = Job(command(shard, folder, processes, *extra), tmp_path / "output")
    assert job.wait() == 0, job.output()
    assert_identical(folder, reference)
    assert [r["step"] for r in records(folder)] == list(range(1, STEPS + 1))
    said = [r["message"] for r in records(folder, "event") if r["kind"] == "resume"]
    assert len(said) == 2
    assert "latest was missing: step_00000008, the newest complete checkpoint, is taken" in said[0]
    assert said[1] == "step_00000012 is later than step 8: renamed to abandoned-step_00000012"
    assert said[0] in job.output()
    assert contents(checkpoints / name_of_step(8)) == kept[8]
    del kept[12]["model.json"]
    assert contents(checkpoints / "abandoned-step_00000012") == kept[12]
    assert (checkpoints / LATEST).read_text() == f"{name_of_step(STEPS)}\n"
