"""What FOCUS is compared with: other ways to initialise the rows of a new vocabulary.

random and mean use nothing of the tokens; fvt needs only the source tokenizer; linear the auxiliary vectors of FOCUS; wechsel
and ofa static word vectors of both languages in one space; ramen a bilingual dictionary. Where a paper leaves room the
simplest reading is taken, and said: these are for comparison ("-like").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from tokenizers import Tokenizer

from megatron_bielik.surgery.combinations import Combinations, Initialization, Regression, copied
from megatron_bielik.surgery.focus import TokenVectors
from megatron_bielik.surgery.word_vectors import DictionaryEntry, WordVectors
from megatron_bielik.tokenizer.vocabulary import Vocabulary

NEIGHBOURS, TEMPERATURE = 10, 0.1  # of WECHSEL and OFA
_BLOCK_BYTES = 64 << 20


def random(tokens: int) -> Initialization:
    """Every row from the normal distribution of the source's rows; nothing is copied."""
    return Initialization(Combinations.of(tokens, {}), fill="random")


def mean(tokens: int) -> Initialization:
    """Every row the mean of the source's rows; nothing is copied."""
    return Initialization(Combinations.of(tokens, {}), fill="mean")


def fvt(target: Vocabulary, source: Vocabulary, matches: Mapping[int, int], encoder: Tokenizer) -> Initialization:
    """Fast vocabulary transfer (Gee et al., 2022): the mean of the source tokens that the token's text splits into.

    Bytes that are no text of their own become the source's single-byte tokens.
    """
    bytewise = {data: number for number, data in enumerate(source.data) if data is not None and len(data) == 1}
    sources = copied(matches)
    for token, data in enumerate(target.data):
        if token in sources or not data:
            continue
        try:
            ids = encoder.encode(data.decode(), add_special_tokens=False).ids
        except UnicodeDecodeError:
            ids = [bytewise[bytes([byte])] for byte in data if bytes([byte]) in bytewise]
        if ids:
            sources[token] = _weighted([(number, 1.0) for number in ids])
    return Initialization(Combinations.of(len(target), sources))


def linear(tokens: int, matches: Mapping[int, int], anchors: set[int], vectors: TokenVectors) -> Initialization:
    """a x + b of the auxiliary vector x: the affine map that fits the shared tokens' rows best; shared tokens are copied."""
    known, new = vectors.useful().split(torch.tensor(sorted(matches), dtype=torch.int64))
    used, _ = known.split(torch.tensor(sorted(anchors & set(matches)), dtype=torch.int64))
    sources = torch.tensor([matches[token] for token in used.tokens.tolist()], dtype=torch.int64)
    regression = Regression(new.tokens, new.vectors, sources, used.vectors) if len(sources) else None
    return Initialization(Combinations.copies(tokens, matches), regression=regression)


def wechsel(tokens: int, roles: Mapping[int, int], target: TokenVectors, source: TokenVectors) -> Initialization:
    """WECHSEL-like (Minixhofer et al., 2022): softmax(cosine / 0.1) over the 10 most similar source tokens.

    Shared text is not copied: it may mean something else in the other language; control tokens (`roles`) are.
    """
    return Initialization(Combinations.of(tokens, {**_neighbours(target, source), **copied(roles)}))


def ofa(
    tokens: int, matches: Mapping[int, int], target: TokenVectors, source: TokenVectors, factorized_dim: int | None = None
) -> Initialization:  # fmt: skip
    """OFA-like (Liu et al., 2024): shared tokens copied, others as softmax(cosine / 0.1) over 10 source tokens.

    With factorized_dim the mixed rows keep only their part in that many leading directions of the source matrix, where the
    paper factorises it.
    """
    sources = {**_neighbours(target, source), **copied(matches)}
    return Initialization(Combinations.of(tokens, sources), projection_rank=factorized_dim)


def ramen(
    target: Vocabulary, matches: Mapping[int, int], dictionary: Sequence[DictionaryEntry], ours: Tokenizer, theirs: Tokenizer
) -> Initialization:  # fmt: skip
    """RAMEN-like (Tran, 2020): a token as the source tokens that its words are translated to, by translation probability.

    Each pair of words gives each of its target tokens an equal share of its probability to every token of the source word.
    Control tokens are copied, and shared ones that the dictionary does not reach.
    """
    shares: dict[int, dict[int, float]] = {}
    for entry in dictionary:
        new = {number for text in _forms(entry.target) for number in ours.encode(text, add_special_tokens=False).ids}
        old = [number for text in _forms(entry.source) for number in theirs.encode(text, add_special_tokens=False).ids]
        for token in new:
            counts = shares.setdefault(token, {})
            for number in old:
                counts[number] = counts.get(number, 0.0) + entry.probability / len(old)
    control = set(target.control.values())
    sources = copied(matches)
    sources.update({token: _weighted(list(counts.items())) for token, counts in shares.items() if token not in control})
    return Initialization(Combinations.of(len(target), sources))


def token_vectors(words: WordVectors, encoder: Tokenizer, zipf: bool) -> TokenVectors:
    """Vectors of tokens: the mean of the vectors of the words they occur in.

    Args:
        words: In descending order of frequency, as such files are.
        encoder: Splits " word" into tokens.
        zipf: Weigh words by 1 / rank, their expected frequency (WECHSEL weighs by frequency; the files carry none); else equally.
    """
    pairs: dict[int, list[tuple[int, float]]] = {}
    for rank, word in enumerate(words.words):
        for token in set(encoder.encode(f" {word}", add_special_tokens=False).ids):
            pairs.setdefault(token, []).append((rank, 1 / (rank + 1) if zipf else 1.0))
    tokens = sorted(pairs)
    rows = [_weighted(pairs[token]) for token in tokens]
    vectors = [weights @ words.vectors[ids] for ids, weights in rows]
    matrix = torch.stack(vectors) if vectors else torch.empty(0, words.vectors.size(1))
    return TokenVectors(torch.tensor(tokens, dtype=torch.int64), matrix)


def _neighbours(target: TokenVectors, source: TokenVectors) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    target, source = target.useful(), source.useful()
    if not len(source.tokens):
        return {}
    theirs = source.vectors / source.vectors.norm(dim=1, keepdim=True)
    ours = target.vectors / target.vectors.norm(dim=1, keepdim=True)
    step = max(1, _BLOCK_BYTES // (4 * len(theirs)))
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for at in range(0, len(ours), step):
        near, places = (ours[at : at + step] @ theirs.T).topk(min(NEIGHBOURS, len(theirs)), dim=1)
        weights = (near / TEMPERATURE).softmax(1)
        for token, ids, row in zip(target.tokens[at : at + step].tolist(), source.tokens[places], weights, strict=True):
            found[token] = (ids, row)
    return found


def _forms(word: str) -> Iterator[str]:
    """A word as it stands at the beginning of a text and inside."""
    yield word
    yield f" {word}"


def _weighted(pairs: list[tuple[int, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights in proportion, with a sum of 1; a source named twice counts twice."""
    weights = torch.tensor([weight for _, weight in pairs], dtype=torch.float64)
    return torch.tensor([number for number, _ in pairs], dtype=torch.int64), (weights / weights.sum()).float()
