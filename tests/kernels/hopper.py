"""Compiles every Triton kernel that a piece of code launches for sm_90, without a GPU, and reads the result.

A test module holds a function `launches` that yields (case, call) pairs; each call runs a public operation on CPU tensors.
The fixture `compiled` runs this file as a program, since Triton decides at import whether it interprets or compiles;
there launches are compiled instead of run, with the very arguments, block sizes and warps of production.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

WIDTH = re.compile(r"\b(?:ld|st)\.global(?:\.\w+)*?\.(?:v(\d)\.)?[bfus](\d+)\b")


@dataclass(frozen=True)
class Compiled:
    """One compiled kernel.

    Args:
        case: Name of the launching function's case.
        kernel: Name of the kernel.
        registers: Per thread.
        spilled_bytes: Stores and loads of spilled registers.
        shared_bytes: Shared memory.
        widths: Bytes of each global load and store instruction in the PTX, in order.
    """

    case: str
    kernel: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    widths: tuple[int, ...]


def compile_launches(test_file: str) -> list[Compiled]:
    """Compile what test_file's `launches` launches, in a process of its own. Raises RuntimeError with its output."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, __file__, test_file], capture_output=True, text=True, env=environment, timeout=280
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [Compiled(**{**line, "widths": tuple(line["widths"])}) for line in lines]


def _read(case: str, kernel: object) -> Compiled:
    """Registers and spills from the assembler's report, widths from the PTX."""
    from triton.backends.nvidia.compiler import get_ptxas

    ptx = kernel.asm["ptx"]
    try:
        assembler = get_ptxas(90)
    except TypeError:  # older Triton
        assembler = get_ptxas()
    path = getattr(assembler, "path", None) or assembler[0]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        report = subprocess.run(
            [path, "-v", "--gpu-name=sm_90a", str(source), "-o", str(Path(folder) / "kernel.cubin")],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
    text = report.stderr + report.stdout
    spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", text))
    registers = int(re.search(r"Used (\d+) registers", text).group(1))
    widths = tuple(int(count or 1) * int(bits) // 8 for count, bits in WIDTH.findall(ptx))
    return Compiled(case, kernel.metadata.name, registers, spills, kernel.metadata.shared, widths)


def main(test_file: str) -> None:
    """Compile what the test file's `launches` launches; one JSON line per kernel."""
    import importlib.util

    import torch
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Hopper:
        """The driver of a GPU that is not there."""

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

    driver.set_active(Hopper())
    launch = JITFunction.run
    case = ""
    seen: set[tuple[str, str]] = set()

    def compile_only(self: JITFunction, *args: object, grid: object, warmup: bool, **options: object) -> object:
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        if (case, kernel.hash) not in seen:
            seen.add((case, kernel.hash))
            print(json.dumps(asdict(_read(case, kernel))), flush=True)
        return kernel

    JITFunction.run = compile_only
    sys.path[:0] = [str(Path(__file__).parent)]
    spec = importlib.util.spec_from_file_location("launching", test_file)
    launching = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launching)

    from megatron_bielik.kernels.dispatch import forced_kernels

    with forced_kernels():
        for case, call in launching.launches():  # noqa: B007 - compile_only reads it
            call()


if __name__ == "__main__":
    main(sys.argv[1])
