"""The commands of the documentation: what stands in its indented blocks and between its backticks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("README.md")),
]
_PROGRAMS = (
    r"accelerate|curl|dvc|lm_eval|make|pip|python|sbatch|torchrun|transformers|vllm|\.venv/bin/\S+|examples/\S+\.sh"
)
_COMMAND = re.compile(rf"(?:[A-Z_]+=(?:\"[^\"]*\"|\S+) )*(?:{_PROGRAMS})(?: |$)")


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        text: As one line, without its comment.
        place: File, from the repository's root.
    """

    text: str
    place: str


def commands() -> list[Command]:
    """Every command of every document once, in the order in which they stand."""
    found: dict[str, str] = {}
    for document in DOCUMENTS:
        for text in commands_of(document.read_text(encoding="utf-8")):
            found.setdefault(text, str(document.relative_to(ROOT)))
    return [Command(text, place) for text, place in found.items()]


def commands_of(markdown: str) -> list[str]:
    """Commands of one document: lines of indented blocks, joined where they end with a backslash, and code between backticks."""
    joined = re.sub(r"\\\n\s*", "", markdown)
    found = []
    for line in joined.split("\n"):
        if line.startswith("    "):
            found.append(re.sub(r"\s{2,}#.*", "", line.strip()))
        else:
            found += re.findall(r"`([^`]+)`", line)
    return [one for one in found if _COMMAND.match(one)]


def python_blocks(markdown: str) -> list[str]:
    """Indented blocks that begin with an import: Python."""
    blocks = re.findall(r"(?:^ {4}.*\n)+", markdown, re.MULTILINE)
    return [re.sub(r"(?m)^ {4}", "", block) for block in blocks if re.match(r" {4}(from|import) ", block)]
