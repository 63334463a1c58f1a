"""Lets megatron-core run without a GPU: inside its modules, and only there, `torch` is a view that keeps to the CPU.

megatron-core names "cuda" and torch.cuda throughout. Instead of changing torch for the whole process, or paying for a
torch-function mode on every operation, each loaded megatron.core module gets a stand-in for its global `torch`: factories
ignore device="cuda", torch.cuda's streams, events and synchronisation do nothing, everything else is torch itself.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

CPU = torch.device("cpu")

_FACTORIES = (
    "tensor",
    "zeros",
    "ones",
    "empty",
    "full",
    "arange",
    "rand",
    "randn",
    "zeros_like",
    "ones_like",
    "empty_like",
)
# What a training run touches; lazily imported modules would otherwise still see the real torch.
_MODULES = (
    "megatron.core.models.gpt",
    "megatron.core.distributed",
    "megatron.core.distributed.finalize_model_grads",
    "megatron.core.optimizer",
    "megatron.core.optimizer.distrib_optimizer",
    "megatron.core.pipeline_parallel.schedules",
    "megatron.core.pipeline_parallel.p2p_communication",
    "megatron.core.dist_checkpointing",
    "megatron.core.dist_checkpointing.strategies.async_utils",
    "megatron.core.dist_checkpointing.strategies.filesystem_async",
    "megatron.core.dist_checkpointing.strategies.fully_parallel",
    "megatron.core.dist_checkpointing.strategies.state_dict_saver",
    "megatron.core.dist_checkpointing.strategies.torch",
    "megatron.core.tensor_parallel.random",
)


class _Nothing:
    """A stream or event on a device that has neither."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *error: object) -> None: ...


class _View(ModuleType):
    """A module that answers from its own attributes first and from the original otherwise."""

    def __init__(self, original: ModuleType, **own: Any) -> None:
        super().__init__(original.__name__)
        self.__dict__.update(own, _original=original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def _without_cuda(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def on_cpu(*args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            kwargs["device"] = CPU
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return on_cpu


def _cpu_view_of_torch() -> ModuleType:
    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    cuda = _View(
        torch.cuda,
        current_device=lambda: CPU,
        synchronize=nothing,
        empty_cache=nothing,
        set_device=nothing,
        Stream=_Nothing,
        Event=_Nothing,
        stream=lambda stream: contextlib.nullcontext(),
        current_stream=lambda *args: _Nothing(),
        default_stream=lambda *args: _Nothing(),
        nvtx=_Nothing(),
        get_rng_state=lambda *args, **kwargs: torch.get_rng_state(),
        set_rng_state=lambda state, *args, **kwargs: torch.set_rng_state(state),
        manual_seed=torch.manual_seed,
    )
    return _View(torch, cuda=cuda, **{name: _without_cuda(getattr(torch, name)) for name in _FACTORIES})


def keep_megatron_on_cpu() -> None:
    """Give every loaded megatron.core module the CPU view of torch. Safe to call again after further imports."""
    for name in _MODULES:
        importlib.import_module(name)
    view = _cpu_view_of_torch()
    loaded: list[tuple[str, Any]] = list(sys.modules.items())
    for name, module in loaded:
        if name.startswith("megatron.core") and getattr(module, "torch", None) is torch:
            module.torch = view
    random: Any = sys.modules["megatron.core.tensor_parallel.random"]
    random._get_cuda_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    # A method cannot be seen differently per module; without CUDA the original could only raise.
    torch.Tensor.cuda = lambda self, *args, **kwargs: self


@contextlib.contextmanager
def tensor_types_as_on_gpu() -> Iterator[None]:
    """While the optimizers are built: Tensor.type() names CUDA types, the only ones megatron-core's optimizers accept."""
    original = torch.Tensor.type

    def named(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found = original(self, *args, **kwargs)
        return found.replace("torch.", "torch.cuda.", 1) if isinstance(found, str) else found

    torch.Tensor.type = named
    try:
        yield
    finally:
        torch.Tensor.type = original
