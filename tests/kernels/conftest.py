"""Shared by the kernels' tests: every operation as its definition and as its kernel, and what it compiles to for Hopper."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import pytest
import torch

from megatron_bielik.kernels.dispatch import forced_kernels

if TYPE_CHECKING:
    from tests.kernels.hopper import Compiled

IMPLEMENTATIONS = ["reference", "kernel"]


@contextmanager
def _in_force(implementation: str) -> Iterator[None]:
    """Through Triton's interpreter where there is no GPU."""
    if implementation == "kernel":
        pytest.importorskip("triton")
    context: AbstractContextManager[None] = forced_kernels() if implementation == "kernel" else nullcontext()
    with context:
        yield


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """The definition or the kernel in force, for tensors on the machine's device."""
    if request.param == "reference" and torch.cuda.is_available():
        pytest.skip("a GPU takes the kernels")
    with _in_force(request.param):
        yield request.param


@pytest.fixture(params=IMPLEMENTATIONS)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the tensors must be for an implementation, which is then in force."""
    with _in_force(request.param):
        yield "cuda" if request.param == "kernel" and torch.cuda.is_available() else "cpu"


@pytest.fixture
def compiled(request: pytest.FixtureRequest) -> list[Compiled]:
    """What the test module's `launches` compiles to; see hopper.py."""
    pytest.importorskip("triton")
    from tests.kernels.hopper import compile_launches

    return compile_launches(str(request.path))
