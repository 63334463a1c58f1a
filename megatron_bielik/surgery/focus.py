"""FOCUS (Dobler and de Melo, 2023): a new token is a combination of the shared tokens that auxiliary vectors find similar.

weights = sparsemax(cosine similarity to every shared token that has a vector); row = weights @ their source rows.
Similarities exist for a block of new tokens at a time; of each row only the support of the sparsemax is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from megatron_bielik.surgery.combinations import Combinations, Initialization, copied

_BLOCK_BYTES = 64 << 20  # of similarities
_FIRST_WIDTH = 64  # largest similarities looked at first; the support is mostly smaller


@dataclass(frozen=True)
class TokenVectors:
    """Auxiliary vectors of some new tokens.

    Attributes:
        tokens: int64 [n], ascending.
        vectors: fp32 [n, d].
    """

    tokens: torch.Tensor
    vectors: torch.Tensor

    def useful(self) -> TokenVectors:
        """Without zero vectors, which are similar to nothing."""
        kept = self.vectors.abs().sum(1) > 0
        return TokenVectors(self.tokens[kept], self.vectors[kept])

    def split(self, chosen: torch.Tensor) -> tuple[TokenVectors, TokenVectors]:
        """Those whose token is among `chosen` (int64), and the others."""
        among = torch.isin(self.tokens, chosen)
        return (
            TokenVectors(self.tokens[among], self.vectors[among]),
            TokenVectors(self.tokens[~among], self.vectors[~among]),
        )


def focus(
    tokens: int, matches: Mapping[int, int], anchors: set[int], vectors: TokenVectors, all_rows: bool = False
) -> Initialization:
    """Copy what is shared, combine the rest.

    Args:
        tokens: Size of the new vocabulary.
        matches: Source id of every shared token.
        anchors: Shared tokens that may take part in combinations.
        vectors: Auxiliary vectors of new tokens.
        all_rows: See Initialization.
    """
    shared = torch.tensor(sorted(matches), dtype=torch.int64)
    known, new = vectors.useful().split(shared)
    used, _ = known.split(torch.tensor(sorted(anchors & set(matches)), dtype=torch.int64))
    sources = copied(matches)
    if len(used.tokens) and len(new.tokens):
        ids = torch.tensor([matches[token] for token in used.tokens.tolist()])
        offsets, columns, weights = similar_mixture(new.vectors, used.vectors)
        edges = offsets.tolist()
        for number, token in enumerate(new.tokens.tolist()):
            part = slice(edges[number], edges[number + 1])
            sources[token] = (ids[columns[part]], weights[part])
    return Initialization(Combinations.of(tokens, sources), all_rows=all_rows)


def similar_mixture(new: torch.Tensor, anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sparsemax of the cosine similarities between rows of new [n, d] and of anchors [m, d], none of them zero.

    Returns:
        Offsets int64 [n + 1], anchor numbers int64 [entries] and weights fp32 [entries]; each row's weights sum to 1.
    """
    new, anchors = (x / x.norm(dim=1, keepdim=True) for x in (new.float(), anchors.float()))
    counts, columns, weights = [torch.zeros(1, dtype=torch.int64)], [], []
    step = max(1, _BLOCK_BYTES // (4 * len(anchors)))
    for block in new.split(step):
        size, column, weight = sparsemax(block @ anchors.T)
        counts.append(size)
        columns.append(column)
        weights.append(weight)
    return torch.cat(counts).cumsum(0), torch.cat(columns), torch.cat(weights)


def sparsemax(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Euclidean projection of each row onto the simplex (Martins and Astudillo, 2016): max(z - tau, 0), sums of 1.

    With z sorted downwards the support is the largest k for which 1 + k z_k > z_1 + ... + z_k, and tau = (that sum - 1) / k.
    The largest few of a row decide it if the support ends among them; only rows where it does not are looked at again.

    Args:
        scores: [n, m].

    Returns:
        Size of each support int64 [n]; columns int64 and weights fp32 of all supports, row after row, largest first.
    """
    rows, columns = scores.shape
    sizes = torch.zeros(rows, dtype=torch.int64)
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    left, width = torch.arange(rows), min(_FIRST_WIDTH, columns)
    while len(left):
        top, places = (scores if len(left) == rows else scores[left]).topk(width, dim=1)
        wide = top.double()
        sums = wide.cumsum(1)
        size = (1 + torch.arange(1, width + 1) * wide > sums).sum(1)
        done = (size < width) | (width == columns)
        tau = (sums.gather(1, size[:, None] - 1) - 1) / size[:, None]
        inside = (torch.arange(width) < size[:, None]) & done[:, None]
        sizes[left[done]] = size[done]
        found.append((left[:, None].expand_as(places)[inside], places[inside], (wide - tau)[inside].float()))
        left, width = left[~done], min(width * 8, columns)
    row, column, weight = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = row.argsort(stable=True)
    return sizes, column[order], weight[order]
