"""Rows of a new vocabulary's matrix as sparse combinations of the old one's rows, made block by block.

One initialisation serves the input and the output matrix: which source tokens a new token is made of does not depend on the
matrix. Only rows that a block needs are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F

from megatron_bielik.surgery.safetensors_files import SafetensorsReader

Sources = Mapping[int, tuple[torch.Tensor, torch.Tensor]]
BLOCK = 4096  # new tokens made at a time
_GAP = 32  # unneeded rows read along rather than asking again
_READ_ROWS = 8192  # at most at a time


@dataclass(frozen=True)
class Combinations:
    """New token t is the sum over j in offsets[t]:offsets[t+1] of weights[j] * source row sources[j]; none: no source.

    Attributes:
        offsets: int64 [tokens + 1].
        sources: int64 [entries], source ids.
        weights: fp32 [entries].
    """

    offsets: torch.Tensor
    sources: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, tokens: int, sources: Sources) -> Combinations:
        """From the source ids and weights of those of `tokens` new tokens that have any."""
        counts = torch.zeros(tokens, dtype=torch.int64)
        for token, (ids, _) in sources.items():
            counts[token] = len(ids)
        ordered = sorted(sources)
        empty = (torch.empty(0, dtype=torch.int64), torch.empty(0))
        ids, weights = (torch.cat([empty[n], *(sources[token][n] for token in ordered)]) for n in (0, 1))
        return cls(torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]), ids, weights)

    @classmethod
    def copies(cls, tokens: int, matches: Mapping[int, int]) -> Combinations:
        """One source each, as it is."""
        return cls.of(tokens, copied(matches))

    def __len__(self) -> int:
        """New tokens."""
        return len(self.offsets) - 1

    def counts(self) -> torch.Tensor:
        """Number of sources of each new token, int64 [tokens]."""
        return self.offsets.diff()

    def sources_of(self, token: int) -> list[tuple[int, float]]:
        """Source ids and weights of one new token, largest weight first."""
        part = slice(int(self.offsets[token]), int(self.offsets[token + 1]))
        pairs = zip(self.sources[part].tolist(), self.weights[part].tolist(), strict=True)
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


def copied(matches: Mapping[int, int]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Each new token as its one source."""
    one = torch.ones(1)
    return {token: (torch.tensor([source]), one) for token, source in matches.items()}


@dataclass(frozen=True)
class Regression:
    """Rows predicted from auxiliary vectors by the affine map that fits the anchors' rows best: y = a x + b.

    Attributes:
        tokens: int64 [n], new tokens that are predicted.
        features: fp32 [n, d], their vectors.
        anchor_sources: int64 [m], source ids with a known row.
        anchor_features: fp32 [m, d], the vectors that belong to them.
    """

    tokens: torch.Tensor
    features: torch.Tensor
    anchor_sources: torch.Tensor
    anchor_features: torch.Tensor


@dataclass(frozen=True)
class Initialization:
    """How every row of a new matrix is made.

    Attributes:
        combinations: Rows made of source rows.
        fill: What rows without sources are: normal with mean and standard deviation of the source, or the mean.
        regression: Rows predicted from vectors, of tokens without sources.
        projection_rank: Rows that are no copies keep their part in this many leading right singular directions of the source.
        all_rows: Take mean and standard deviation over all rows of the source, padding too, in the order of torch.mean.
    """

    combinations: Combinations
    fill: Literal["random", "mean"] = "random"
    regression: Regression | None = None
    projection_rank: int | None = None
    all_rows: bool = False

    def kinds(self) -> list[str]:
        """Of every new token: copied, combined, predicted, random or mean."""
        counts = self.combinations.counts().tolist()
        first = self.combinations.offsets[:-1].tolist()
        weights = self.combinations.weights
        kinds = [
            self.fill if not count else "copied" if count == 1 and float(weights[at]) == 1 else "combined"
            for count, at in zip(counts, first, strict=True)
        ]
        for token in self.regression.tokens.tolist() if self.regression else []:
            kinds[token] = "predicted"
        return kinds


class SourceMatrix:
    """Rows of an embedding or output matrix, read as they are needed.

    Args:
        read: Rows start to stop in any floating type.
        rows: Of the matrix.
        tokens: How many of them belong to tokens; the rest is padding.
        hidden: Width.
    """

    def __init__(self, read: Callable[[int, int], torch.Tensor], rows: int, tokens: int, hidden: int) -> None:
        self._read, self.rows, self.tokens, self.hidden = read, rows, min(tokens, rows), hidden

    @classmethod
    def of_tensor(cls, matrix: torch.Tensor, tokens: int | None = None) -> SourceMatrix:
        """A matrix in memory, [rows, hidden]."""
        return cls(lambda start, stop: matrix[start:stop], len(matrix), tokens or len(matrix), matrix.size(1))

    @classmethod
    def of_file(cls, reader: SafetensorsReader, name: str, tokens: int) -> SourceMatrix:
        """A matrix in a model folder."""
        rows, hidden = reader.shape(name)
        return cls(lambda start, stop: reader.read_rows(name, start, stop), rows, tokens, hidden)

    def gather(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of ascending ids: fp32 [n, hidden]."""
        out = torch.empty(len(ids), self.hidden)
        breaks = (ids.diff() > _GAP).nonzero().flatten() + 1
        edges = [0, *breaks.tolist(), len(ids)]
        for at, stop in pairwise(edges):
            while at < stop:
                first = int(ids[at])
                part = ids[at : min(stop, int(torch.searchsorted(ids, first + _READ_ROWS)))]
                out[at : at + len(part)] = self._read(first, int(part[-1]) + 1)[part - first]
                at += len(part)
        return out

    def blocks(self) -> Iterator[torch.Tensor]:
        """The rows of tokens, fp32 in blocks."""
        for start in range(0, self.tokens, _READ_ROWS):
            yield self._read(start, min(start + _READ_ROWS, self.tokens)).float()

    def moments(self, all_rows: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (n - 1) of each column, fp32 [hidden]; with all_rows bit for bit as torch's own."""
        if all_rows:
            whole = self._read(0, self.rows).float()
            return whole.mean(0), whole.std(0)
        total, squares = (torch.zeros(self.hidden, dtype=torch.float64) for _ in range(2))
        for block in self.blocks():
            total += block.sum(0, dtype=torch.float64)
        mean = total / self.tokens
        for block in self.blocks():
            squares += (block.double() - mean).square().sum(0)
        return mean.float(), (squares / max(self.tokens - 1, 1)).sqrt().float()


def new_rows(initialization: Initialization, source: SourceMatrix, seed: int = 42) -> Iterator[torch.Tensor]:
    """The new matrix in blocks of rows, fp32 [<= BLOCK, hidden].

    Random rows are drawn one by one in the order of ids from a generator of their own, so they do not depend on the blocks.
    """
    combinations, generator = initialization.combinations, torch.Generator().manual_seed(seed)
    counts = combinations.counts()
    lacking = counts == 0
    predicted = initialization.regression
    weights = _fit(predicted, source) if predicted is not None else None
    if predicted is not None:
        lacking[predicted.tokens] = False
    mean, std = source.moments(initialization.all_rows) if lacking.any() else (torch.empty(0), torch.empty(0))
    directions = _directions(source, initialization.projection_rank) if initialization.projection_rank else None
    for start in range(0, len(combinations), BLOCK):
        stop = min(start + BLOCK, len(combinations))
        rows = _combine(combinations, source, start, stop)
        if directions is not None:
            made = counts[start:stop] > 1
            rows[made] = rows[made] @ directions @ directions.T
        if predicted is not None and weights is not None:
            inside = (predicted.tokens >= start) & (predicted.tokens < stop)
            rows[predicted.tokens[inside] - start] = _affine(predicted.features[inside]) @ weights
        for token in lacking[start:stop].nonzero().flatten().tolist():
            rows[token] = mean if initialization.fill == "mean" else torch.normal(mean, std, generator=generator)
        yield rows


def _combine(combinations: Combinations, source: SourceMatrix, start: int, stop: int) -> torch.Tensor:
    offsets = combinations.offsets[start : stop + 1]
    part = slice(int(offsets[0]), int(offsets[-1]))
    ids, places = combinations.sources[part].unique(return_inverse=True)
    if not len(ids):
        return torch.zeros(stop - start, source.hidden)
    return F.embedding_bag(
        places, source.gather(ids), offsets[:-1] - offsets[0], mode="sum", per_sample_weights=combinations.weights[part]
    )


def _affine(features: torch.Tensor) -> torch.Tensor:
    return torch.cat([features, torch.ones(len(features), 1)], dim=1)


def _fit(regression: Regression, source: SourceMatrix) -> torch.Tensor:
    """Least squares over the anchors, [d + 1, hidden]; a ridge of a millionth keeps it solvable with few anchors."""
    order = regression.anchor_sources.argsort()
    features = _affine(regression.anchor_features[order]).double()
    gram = features.T @ features
    targets = torch.zeros(features.size(1), source.hidden, dtype=torch.float64)
    for start in range(0, len(order), BLOCK):
        part = order[start : start + BLOCK]
        targets += features[start : start + BLOCK].T @ source.gather(regression.anchor_sources[part]).double()
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    return torch.linalg.solve(gram + ridge, targets).float()


def _directions(source: SourceMatrix, rank: int) -> torch.Tensor:
    """The leading right singular vectors of the source, [hidden, rank]."""
    gram = torch.zeros(source.hidden, source.hidden, dtype=torch.float64)
    for block in source.blocks():
        gram += (block.T @ block).double()
    return torch.linalg.eigh(gram).eigenvectors[:, -rank:].float()
