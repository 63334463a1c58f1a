"""The walls that import-linter cannot see: who may ask for the device, and where optional packages are imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "megatron_bielik"
OPTIONAL = ("transformer_engine", "apex", "flash_attn", "vllm", "wandb", "liger_kernel")


def sources() -> Iterator[tuple[str, str]]:
    """Every file of the package: its path inside it, and its text."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), path.read_text()


@pytest.mark.parametrize("words", ["torch.cuda", "parallel_state.initialize", "is_available()"])
def test_only_parallel_knows_the_device(words: str) -> None:
    users = [name for name, text in sources() if words in text]
    assert users
    assert [name for name in users if not name.startswith("parallel/")] == []


def test_nothing_runs_code_from_data() -> None:
    """No shell strings, no remote code, and unpickling in the one place that runs nothing."""
    for name, text in sources():
        words = [
            "trust_remote_code",
            "shell=True",
            "os.system",
            "allow_pickle=True",
            "weights_only=False",
            "pickle.load",
        ]
        for word in words:
            assert word not in text, f"{word} in {name}"
        assert "Unpickler(" not in text or name == "checkpoint_files.py"


def imports(text: str) -> set[str]:
    """Top-level names of the packages that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", OPTIONAL)
def test_optional_packages_are_imported_in_one_place(package: str) -> None:
    importers = [name for name, text in sources() if package in imports(text)]
    assert len(importers) <= 1, importers
