"""Context-parallel attention on several ranks against one rank with the whole row, and the balance of the split."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_bielik.kernels.attention import document_attention, stretches
from megatron_bielik.model.context_parallel import (
    context_layout,
    context_parallel_attention,
    piece_numbers,
    plan_pieces,
    take_pieces,
)
from tests.conftest import run

LENGTHS = [(48,), (5, 7, 36), (1, 1, 1, 45), (24, 24), (12, 12, 12, 12), (47, 1)]


def test_pieces() -> None:
    row = torch.arange(12)
    assert [take_pieces(row, rank, 3).tolist() for rank in range(3)] == [[0, 1, 10, 11], [2, 3, 8, 9], [4, 5, 6, 7]]
    assert sorted(number for rank in range(4) for number in piece_numbers(rank, 4)) == list(range(8))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_every_pair_of_tokens_is_covered_once(lengths: list[int], ranks: int) -> None:
    """Rows of scores, stretch by stretch and rectangle by rectangle, add up to the documents' causal triangles."""
    lengths[-1] += -sum(lengths) % (2 * ranks)
    starts = {}
    first = 0
    for length in lengths:
        starts.update({first + i: first for i in range(length)})
        first += length
    for rank in range(ranks):
        inside, before = plan_pieces(tuple(lengths), rank, ranks)
        own = take_pieces(torch.arange(sum(lengths)), rank, ranks).tolist()
        seen: list[set[int]] = []
        row = 0
        for length in inside:
            seen += [set(own[row : row + i + 1]) for i in range(length)]
            row += length
        for rows, keys in before:
            for position in range(rows.start, rows.stop):
                assert not seen[position] & set(range(keys.start, keys.stop))
                seen[position] |= set(range(keys.start, keys.stop))
        assert seen == [set(range(starts[token], token + 1)) for token in own]


def test_causal_work_is_balanced() -> None:
    def scores(rank: int) -> int:
        inside, before = plan_pieces((4096,), rank, 4)
        rectangles = sum((rows.stop - rows.start) * (keys.stop - keys.start) for rows, keys in before)
        return sum(n * (n + 1) // 2 for n in inside) + rectangles

    assert len({scores(rank) for rank in range(4)}) == 1


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [2, 3])
def test_against_one_rank(ranks: int) -> None:
    run(["-m", "tests.model.test_context_parallel"], processes=ranks)


def compare() -> None:
    """On every rank: its part of the output and of the gradients equals that of the whole row on one rank."""
    dist.init_process_group("gloo")
    rank, ranks, group = dist.get_rank(), dist.get_world_size(), dist.group.WORLD
    for lengths in LENGTHS:
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 4e-2)):
            generator = torch.Generator().manual_seed(sum(lengths) + len(lengths))
            whole = [torch.randn(48, heads, 8, generator=generator).to(dtype).requires_grad_() for heads in (6, 2, 2)]
            grad = torch.randn(48, 6, 8, generator=generator).to(dtype)
            wanted = document_attention(*whole, stretches(lengths, lengths, True, torch.device("cpu")))
            wanted.backward(grad)
            mine = [take_pieces(x.detach(), rank, ranks).requires_grad_() for x in whole]
            out = context_parallel_attention(*mine, context_layout(lengths, group, torch.device("cpu")))
            out.backward(take_pieces(grad, rank, ranks))
            pairs = [(out, wanted), *((own.grad, full.grad) for own, full in zip(mine, whole, strict=True))]
            for found, full in pairs:
                torch.testing.assert_close(found, take_pieces(full, rank, ranks), atol=tolerance, rtol=tolerance)
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(compare())
