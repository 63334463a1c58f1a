"""Generates text of any size, deterministic by seed: for demos, tests and benchmarks without a corpus at hand.

Polish sentences come from a grammar with real inflection (case, number, gender, aspect, agreement, government of verbs and
prepositions, genitive of negation), other languages from packs of data (template_grammar.py). A document has a title, a topic,
a small cast of people and things that it keeps returning to, and several paragraphs; words within a list follow a skewed
(Zipf-like) distribution. It is no substitute for real text: it says nothing, but a small language model finds spelling,
agreement and topics to learn in it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import zstandard

from megatron_bielik.corpus import template_grammar
from megatron_bielik.corpus.polish_grammar import Document
from megatron_bielik.corpus.polish_lexicon import TOPICS
from megatron_bielik.corpus.template_grammar import load_grammar, pack_name


def generate_document(seed: int, index: int, language: str = "pl") -> dict[str, str]:
    """Document `index` of the corpus `seed`: {"id", "topic", "text"}. It depends on these two numbers and the pack only.

    Args:
        seed: Chooses the corpus.
        index: Number in it.
        language: pl, a pack in languages/, or the path of one (template_grammar.py).

    Raises:
        ValueError: An unknown pack, or one that cannot be used.
    """
    if language != "pl":
        grammar, name = load_grammar(language), pack_name(language)
        rng = Random(f"{name}/{seed}/{index}")
        topic = rng.choice(sorted(grammar.topics))
        text = template_grammar.Document(rng, grammar, topic).text()
        return {"id": f"synthetic-{name}-{seed}-{index}", "topic": topic, "text": text}
    rng = Random(f"{seed}/{index}")
    topic = rng.choice(sorted(TOPICS))
    return {"id": f"synthetic-{seed}-{index}", "topic": topic, "text": Document(rng, topic).text()}


def generate_corpus(seed: int, size: int, language: str = "pl") -> Iterator[str]:
    """JSON lines (without line end) until their UTF-8 size, line ends included, has reached `size` bytes."""
    written, index = 0, 0
    while written < size:
        line = json.dumps(generate_document(seed, index, language), ensure_ascii=False)
        written += len(line.encode()) + 1
        index += 1
        yield line


def write_corpus(
    output: Path, size: int, seed: int, progress: Callable[[int], None] = lambda _: None, language: str = "pl"
) -> int:
    """Write a corpus as .jsonl, .jsonl.gz or .jsonl.zst; the file appears under its name when it is complete.

    Args:
        output: File; its suffix chooses the compression.
        size: Uncompressed bytes asked for; the last document may go over it.
        seed: Chooses the text.
        progress: Called with the number of bytes that each block added.
        language: As in generate_document.

    Returns:
        Documents written.

    Raises:
        ValueError: Another suffix, a size below one, or a pack that cannot be used.
        OSError: The file cannot be written; nothing is left under its name.
    """
    if not output.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
        raise ValueError(f"--output is {output}, needs a name ending in .jsonl, .jsonl.gz or .jsonl.zst")
    if size < 1:
        raise ValueError(f"--megabytes gives {size} bytes, needs a positive size")
    temporary = output.with_name(output.name + ".tmp")
    documents = 0
    try:
        with _open(temporary, output.suffix) as stream:
            block: list[str] = []
            for line in generate_corpus(seed, size, language):
                block.append(line)
                documents += 1
                if len(block) == 256:
                    _write(stream, block, progress)
            _write(stream, block, progress)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return documents


def _write(stream: Any, block: list[str], progress: Callable[[int], None]) -> None:
    data = "".join([line + "\n" for line in block]).encode()
    stream.write(data)
    progress(len(data))
    block.clear()


@contextmanager
def _open(path: Path, suffix: str) -> Iterator[Any]:
    with path.open("wb") as raw:
        if suffix == ".gz":
            # No time and no name in the header: the same seed gives the same file.
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as stream:
                yield stream
        elif suffix == ".zst":
            with zstandard.ZstdCompressor(level=3).stream_writer(raw, closefd=False) as stream:
                yield stream
        else:
            yield raw
