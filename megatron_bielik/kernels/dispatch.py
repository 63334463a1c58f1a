"""Whether an operation runs its Triton kernel or its plain-torch definition, and Triton itself where it is installed."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import torch


class _WithoutTriton:
    """Lets a kernel file be imported: decorators give back the function, which nobody launches."""

    def __getattr__(self, name: str) -> Any:
        return lambda function=None, **options: function


triton: Any
tl: Any
try:
    triton, tl = importlib.import_module("triton"), importlib.import_module("triton.language")
except ImportError:  # CPU builds of torch bring no Triton; the definitions serve there
    triton = tl = _WithoutTriton()

# Streaming multiprocessors of an H100 or H200: the number of programs of a persistent kernel, a constant so that the
# order of its sums does not depend on the device.
MULTIPROCESSORS = 132

_forced = False


def use_kernels(x: torch.Tensor) -> bool:
    """Whether an operation on x takes its Triton kernel: on a GPU, or where a test or bench asks for it."""
    return x.is_cuda or _forced


@contextlib.contextmanager
def forced_kernels() -> Iterator[None]:
    """Take the Triton kernels for CPU tensors too: for tests, through Triton's interpreter (TRITON_INTERPRET=1)."""
    global _forced
    before, _forced = _forced, True
    try:
        yield
    finally:
        _forced = before


def accumulate_type(x: torch.Tensor) -> Any:
    """The dtype kernels compute in: fp32, or fp64 for fp64 input, which gradcheck needs. A tl.constexpr argument."""
    return tl.float64 if x.dtype is torch.float64 else tl.float32


def widened(x: torch.Tensor) -> torch.Tensor:
    """x in the dtype the definitions compute in: fp32, or fp64 for fp64 input."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
