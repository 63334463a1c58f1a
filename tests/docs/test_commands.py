"""Every command of the README and the documentation is run as it stands but for its size, or named here with the reason."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docs.conftest import shell
from tests.docs.documents import DOCUMENTS, ROOT, Command, commands, commands_of, python_blocks

pytestmark = pytest.mark.distributed

# Where a size or a device of the documentation is not one of a test: what is found, and what is put in its place.
INSTEAD = [
    (r"--nproc-per-node [78]", "--nproc-per-node 2"),
    (r"\.venv/bin/", ""),
    (r"pytest -m gpu$", "pytest -m gpu tests/kernels"),
    (r"(pytest .*)", r"\1 --collect-only"),  # they select tests; the tests themselves are run as the suite
    (r"accelerate launch (-m \S+) \.\.\.", r"accelerate launch --cpu \1 --config sft.yaml"),
    (r"cuda:7", "cpu"),
    (r"--benchmarks.interval 2000", "--benchmarks.interval 2"),
    (r"\[polish_mc\]", "[polish_dyk_mc]"),
    (r"--tasks polish\b(?!_)", "--tasks polish_dyk_mc"),
    (r"^make demo && (examples/posttrain/run.sh)$", r"QUICK=1 \1"),
    (r"^make demo$", "make -n -o .venv/.ready demo | grep -x examples/demo/demo.sh && examples/demo/demo.sh"),
    (r"^make (format|test|recipe|docs)$", r"make -n -o .venv/.ready \1"),
    (r"^(LAUNCH=|NNODES=)", r"DRY_RUN=1 \1"),
    (r"^(examples/bielik)", r"DRY_RUN=1 \1"),
]
# Options put behind those of the documentation, of which the last one counts.
SMALLER = [
    (r"tools/generate_corpus.py", "--megabytes 0.3"),
    (r"tools/generate_problems.py", "--count 20"),
    (r"tools/train_tokenizer.py", "--vocab-size 700"),
    (r"tools/replace_tokenizer.py", "--bucket 10000 --documents 2"),
    (r"tools/train_quality_classifier.py", "--rounds 3"),
    (r"tools/evaluate.py(?!.*--data)", "--data fixtures"),  # the Hub
    (r"^lm_eval ", """--limit 2 --device cpu --metadata '{"data": "megatron_bielik/evaluation/fixtures"}'"""),
    (r"tools/bench/features.py", "--megabytes 0.2 --peer-megabytes 0.05 --rounds 1"),
    (r"tools/bench/quality.py", "--megabytes 0.2 --peer-megabytes 0.05 --train 100 --rounds 1"),
    (r"tools/bench/minhash.py", "--megabytes 0.2 --rounds 1"),
    (r"tools/bench/personal_data.py", "--per-kind 5 --megabytes 0.1 --rounds 1"),
    (r"tools/bench/index.py", "--documents 2000 --rounds 1 --only 'sample index'"),
    (r"tools/bench/packing.py", "--documents 2000 --compared 1000 --rounds 1"),
    (r"tools/bench/preprocess.py", "--megabytes 1 --rounds 1 --vocab-size 1000"),
    (r"tools/bench/focus.py", "--new 50 --anchors 200 --hidden 16 --runs 1"),
    (r"examples/demo/demo.sh$", "--training.steps 50 --schedule.warmup_steps 5"),
]
# Run by other tests, at the smallest sizes: the command, the test, and what of the command stands in it.
ELSEWHERE = [
    (r"^QUICK=1 examples/recipe/run.sh", "tests/examples/recipe_runs.py", "run.sh"),
    (r"^examples/recipe/run.sh FOLDER sft$", "tests/examples/test_recipe.py", "start(folder, last)"),
    (r"^dvc (status|dag|repro --force --single-item STAGE)$", "tests/examples/test_recipe.py", '"--single-item"'),
    (r"^(QUICK=1 )?examples/czech/run.sh", "tests/examples/test_czech.py", "run.sh"),
    (
        r"^examples/experiments/(tokenizer_replacement|quality_classifier)/run.sh$",
        "tests/examples/test_experiments.py",
        "run.sh",
    ),
    (r"^examples/experiments/sft_alr/run.sh$", "tests/examples/test_sft_alr.py", "run.sh"),
    (r"^examples/experiments/dpo_positive/run.sh$", "tests/examples/test_dpo_positive.py", "run.sh"),
    (r"^examples/experiments/grpo_math/run.sh$", "tests/examples/test_grpo_math.py", "run.sh"),
    (r"^(transformers serve|curl) ", "tests/evaluation/test_serving.py", "chat/completions"),
    (r"^python tools/bench/kernels.py$", "tests/tools/test_bench_kernels.py", "kernels.py"),
    (r"^python tools/bench/train_step.py$", "tests/tools/test_bench_train_step.py", "train_step.py"),
    (
        r"^python tools/bench/posttrain_kernels.py$",
        "tests/tools/test_bench_posttrain_kernels.py",
        "posttrain_kernels.py",
    ),
]
NOT_RUN = [
    (r"^vllm serve", "a GPU and a package that is not installed"),
    (
        r"^python -m venv mk && mk/bin/pip install|--mergekit mk/bin/mergekit-yaml",
        "a second environment, from the network",
    ),
    (r"^(make help|make demo PIP_FLAGS=.*)$", "looked at in test_the_makefile"),
    (r"^pip install ", "the network; test_extras_exist looks at the names"),
    (r"^\S*pre-commit install$", "it would change this repository's hooks"),
    (r"^sbatch$", "the name of a program"),
]
EVERY = commands()


def matching(table: list[tuple[str, ...]], text: str) -> list[tuple[str, ...]]:
    return [row for row in table if re.search(row[0], text)]


HERE = [one for one in EVERY if not matching(ELSEWHERE, one.text) and not matching(NOT_RUN, one.text)]


def instead(text: str) -> str:
    for pattern, replacement in INSTEAD:
        text = re.sub(pattern, replacement, text)
    return text


def in_a_test(text: str) -> str:
    """The command at the size of a test."""
    text = instead(text)
    return " ".join([text, *(options for _, options in matching(SMALLER, text))])


@contextmanager
def out_of_the_way(paths: list[Path], folder: Path) -> Iterator[None]:
    """What a command writes is not there before it; afterwards what was there is back, for the other commands."""
    before = {path: folder / str(number) for number, path in enumerate(paths) if path.exists()}
    for path, aside in before.items():
        path.rename(aside)
    try:
        yield
    finally:
        for path, aside in before.items():
            if path.is_dir():
                shutil.rmtree(path)
            aside.replace(path)


@pytest.mark.timeout(1500)  # the first waits for the recipe; a command has four minutes
@pytest.mark.parametrize("command", HERE, ids=lambda one: f"{one.place}: {one.text}")
def test_command(command: Command, world: Path, tmp_path: Path) -> None:
    shutil.rmtree(world / "runs" / "new", ignore_errors=True)
    if command.text == "make demo":
        (world / "demo").mkdir(exist_ok=True)
        shutil.copyfile(world / "corpus.jsonl", world / "demo" / "corpus.jsonl")
    outputs = re.findall(r"--(?:output|output-prefix|json|chart) (\S+)", command.text)
    line = in_a_test(command.text)
    with out_of_the_way([path for name in outputs for path in (world / name, *world.glob(f"{name}.*"))], tmp_path):
        done = shell(line, world)
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        for name in outputs:
            assert [*world.glob(f"{name}*")], name


def test_every_command_is_found() -> None:
    """A few of each kind: a search that finds nothing would pass everything."""
    texts = {one.text for one in EVERY}
    assert len(texts) > 80
    assert "make demo" in texts
    assert "torchrun --nproc-per-node 8 -m megatron_bielik.pretrain --config run.yaml" in texts
    assert any(text.startswith("curl ") and text.endswith("}'") for text in texts)
    assert commands_of("a `python x.py` b\n\n    make y  # z\n    QUICK=1 examples/a/run.sh \\\n      b\n    loss  1.0\n") == [
        "python x.py", "make y", "QUICK=1 examples/a/run.sh b",
    ]  # fmt: skip


def test_every_exception_is_needed() -> None:
    for table in (ELSEWHERE, NOT_RUN):
        for pattern, *_ in table:
            assert any(re.search(pattern, one.text) for one in EVERY), pattern
    for pattern, _ in SMALLER:
        assert any(re.search(pattern, instead(one.text)) for one in HERE), pattern


@pytest.mark.parametrize(("pattern", "file", "part"), ELSEWHERE)
def test_the_other_test_is_there(pattern: str, file: str, part: str) -> None:
    assert part in (ROOT / file).read_text(encoding="utf-8")


def test_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for one in EVERY for name in re.findall(r"^pip install -e '\.\[(\w+)\]'$", one.text)}
    assert named
    assert named <= extras.keys()


def test_the_makefile() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    for one in EVERY:
        if match := re.match(r"make (\w+)", one.text):
            assert f"  make {match[1]} " in listed
    line = ["make", "-n", "-B", "venv", "PIP_FLAGS=--extra-index-url=x"]
    assert (
        "--extra-index-url=x"
        in subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_of_a_document(document: Path, tmp_path: Path) -> None:
    for block in python_blocks(document.read_text(encoding="utf-8")):
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
