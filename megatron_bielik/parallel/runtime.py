"""The device, the process groups and the seeds of a run: started once, before anything else touches torch."""

from __future__ import annotations

import contextlib
import os
import random
import resource
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from megatron_bielik.config import ParallelConfig
from megatron_bielik.parallel.cpu import CPU, keep_megatron_on_cpu, tensor_types_as_on_gpu


@dataclass(frozen=True)
class Runtime:
    """Where this process stands.

    Args:
        device: cuda:LOCAL_RANK, or cpu.
        backend: nccl or gloo.
        rank: Global rank.
        local_rank: Rank on this node.
        world_size: All processes.
        device_name: As the driver names it; "cpu" without a GPU.
    """

    device: torch.device
    backend: str
    rank: int
    local_rank: int
    world_size: int
    device_name: str

    @property
    def on_gpu(self) -> bool:
        """Whether tensors live on a GPU."""
        return self.device.type == "cuda"

    def optimizer_construction(self) -> AbstractContextManager[None]:
        """Context in which megatron-core's optimizers can be built on this device."""
        return contextlib.nullcontext() if self.on_gpu else tensor_types_as_on_gpu()

    def peak_memory_bytes(self) -> int:
        """Largest number of bytes held so far: allocated device memory, or peak resident memory on a CPU."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def current_device() -> torch.device:
    """The device this process builds its model on; after start()."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else CPU


def sends_are_stream_ordered() -> bool:
    """Whether a tensor may be freed once its send was issued. True for nccl; gloo still reads it in the background, and
    freeing it early sends garbage in interleaved pipelines (seen: losses wrong in the fourth digit, no error)."""
    return dist.get_backend() == "nccl"


def world_size_of_launch() -> int:
    """Processes of this job as the launcher set them; 1 without a launcher. Needs no process group."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start(parallel: ParallelConfig, seed: int) -> Runtime:
    """Start torch.distributed and megatron-core's groups, and seed every generator.

    Without a launcher's environment variables the run is a single process. Raises RuntimeError where nccl is asked for
    without a GPU.
    """
    # Set before any checkpoint is opened: torch.load then refuses everything but tensors and plain data.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    # One hardware queue keeps tensor-parallel communication in front of the GEMM it overlaps with (Hopper and before).
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    has_gpu = torch.cuda.is_available() and parallel.backend != "gloo"
    if parallel.backend == "nccl" and not has_gpu:
        raise RuntimeError("parallel.backend is nccl but there is no GPU: use auto or gloo")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if has_gpu:
        torch.cuda.set_device(local_rank)
        device, name = torch.device("cuda", local_rank), torch.cuda.get_device_name()
    else:
        keep_megatron_on_cpu()
        device, name = CPU, "cpu"
    backend = "nccl" if has_gpu else "gloo"
    timeout = timedelta(minutes=parallel.timeout_minutes)
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout, device_id=device if has_gpu else None)
    else:
        dist.init_process_group(backend, timeout=timeout, store=dist.HashStore(), rank=0, world_size=1)
    _start_model_parallel(parallel, timeout)
    build_torch_adamw()
    _seed(seed)
    return Runtime(device, backend, dist.get_rank(), local_rank, dist.get_world_size(), name)


def build_torch_adamw() -> None:
    """Make megatron-core build torch's AdamW also where Apex or transformer-engine is installed.

    Their FusedAdam counts steps itself, inside a step() that is never called here (training/optimizer.py makes the update).
    """
    from megatron.core import optimizer
    from megatron.core.optimizer import distrib_optimizer

    optimizer.USING_PYTORCH_OPTIMIZER = True
    distrib_optimizer.HAVE_APEX_OR_TE = False  # the form of checkpoints depends on it


def _start_model_parallel(parallel: ParallelConfig, timeout: timedelta) -> None:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_parallel_size,
        context_parallel_size=parallel.context_parallel_size,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline_parallel_size,
        distributed_timeout_minutes=max(1, int(timeout.total_seconds() // 60)),
        create_gloo_process_groups=True,
    )


def _seed(seed: int) -> None:
    from megatron.core import tensor_parallel

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)


def stop() -> None:
    """Leave the process groups."""
    from megatron.core import parallel_state

    if dist.is_initialized():
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
