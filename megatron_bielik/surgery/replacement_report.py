"""What became of each token when a tokenizer was replaced: counts, sources per token, and the neighbours of a few new ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich import box
from rich.console import Group
from rich.table import Table

from megatron_bielik.surgery.combinations import Initialization, SourceMatrix, new_rows
from megatron_bielik.surgery.methods import Initializer, Method, nearest

REPORT = "tokenizer_replacement.json"
_BINS = ((2, 5), (6, 10), (11, 20), (21, 50), (51, 100), (101, 10**9))
_SHOWN, _NEAREST = 8, 4


@dataclass(frozen=True)
class Report:
    """Figures of one replacement.

    Attributes:
        method: As asked for.
        reference: Whether the published rule for shared tokens was followed.
        parameters: Of the new model.
        tokens: Of the new vocabulary.
        source_tokens: Of the old one.
        kinds: Tokens copied, combined, predicted, random, mean.
        sources: Tokens by the number of sources that they combine.
        examples: New tokens and the source tokens whose rows are most similar to theirs, with the cosine.
        note: What the user must know, if anything.
    """

    method: Method
    reference: bool
    parameters: int
    tokens: int
    source_tokens: int
    kinds: dict[str, int]
    sources: dict[str, int]
    examples: dict[str, list[tuple[str, float]]]
    note: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For the file beside the weights."""
        return asdict(self)

    def table(self) -> Group:
        """For the screen."""
        counts = Table("tokens", "number", "share", box=box.SIMPLE_HEAD, title=f"{self.method}: {self.tokens:,} tokens")
        for kind, number in self.kinds.items():
            counts.add_row(kind, f"{number:,}", f"{number / self.tokens:.1%}")
        for width, number in self.sources.items():
            counts.add_row(f"  of {width} sources", f"{number:,}", f"{number / self.tokens:.1%}")
        near = Table("new token", "most similar source tokens (cosine)", box=box.SIMPLE_HEAD)
        for token, neighbours in self.examples.items():
            near.add_row(token, "  ".join(f"{text} {cosine:.2f}" for text, cosine in neighbours))
        return Group(counts, near) if self.examples else Group(counts)


def make_report(
    initializer: Initializer, method: Method, initialization: Initialization, source: SourceMatrix, parameters: int
) -> Report:
    """Count, and look up the neighbours of some tokens that were not copied, spread over the vocabulary."""
    kinds = initialization.kinds()
    counts = Counter(initialization.combinations.counts().tolist())
    sources = {
        f"{low} to {high}" if high < 10**9 else f"more than {low - 1}": sum(
            number for count, number in counts.items() if low <= count <= high
        )
        for low, high in _BINS
    }
    made = [
        token
        for token, kind in enumerate(kinds)
        if kind in ("combined", "predicted") and initializer.target.data[token]
    ]
    shown = made[len(made) // (2 * _SHOWN) :: max(1, len(made) // _SHOWN)][:_SHOWN]
    return Report(
        method,
        initializer.materials.reference,
        parameters,
        len(initializer.target),
        len(initializer.source),
        dict(Counter(kinds).most_common()),
        {width: number for width, number in sources.items() if number},
        _examples(initializer, initialization, source, shown),
    )


def _examples(
    initializer: Initializer, initialization: Initialization, source: SourceMatrix, shown: list[int]
) -> dict[str, list[tuple[str, float]]]:
    if not shown:
        return {}
    found, start = [], 0
    wanted = torch.tensor(shown)
    for block in new_rows(initialization, source):
        found.append(block[wanted[(wanted >= start) & (wanted < start + len(block))] - start])
        start += len(block)
    ids, cosines = nearest(torch.cat(found), source.blocks(), _NEAREST)
    name = initializer.source.shown
    return {
        initializer.target.shown(token): [
            (name(number), round(cosine, 4)) for number, cosine in zip(row.tolist(), near.tolist(), strict=True)
        ]
        for token, row, near in zip(shown, ids, cosines, strict=True)
    }
