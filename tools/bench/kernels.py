"""Kernels on one GPU: ours against eager torch, torch.compile, Liger-Kernel and others, and against a copy's speed.

Times are medians of triton.testing.do_bench, which clears the L2 cache before every call. "of copy" is the roofline's bytes per
second over those of a 1 GiB copy in the same run; ! marks a kernel below its aim. A peer's figure is its time over ours.
Both passes together are the fair comparison with Liger's losses, which compute their gradient in the forward pass. "eager" is
the definition beside the kernel, except: attention, F.scaled_dot_product_attention per document; fp8, a bf16 F.linear; AdamW and
the norm, torch's foreach forms. "compile" is eager compiled; of fp8 it is ours compiled.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from kernel_cases import Case, Contender

EXAMPLES = """examples:
  python tools/bench/kernels.py                                        # everything, under 8 minutes on one H100
  python tools/bench/kernels.py --only 'rms_norm|swiglu' --tokens 16384 --output norms.json
  python tools/bench/kernels.py --check                                # tiny shapes, any device, values only
"""
TOKENS, PEER_TOKENS, CHECK_TOKENS = (8192, 16_384, 32_768), 16_384, 32
# Fractions of the copy rate that the project aims at.
AIMS = {
    "rms_norm": 0.70, "add_rms_norm": 0.70, "rotate_qkv": 0.85, "swiglu": 0.85, "vocab_parallel_cross_entropy": 0.75,
    "MultiTensorAdamW": 0.85, "gradient_square_sum": 0.85,
}  # fmt: skip
WORDS = {"ModuleNotFoundError": "missing", "OutOfMemoryError": "memory"}  # of errors in the table; others are "failed"


def passes(inputs: tuple[torch.Tensor, ...], contender: Contender) -> list[Callable[[], Any]]:
    """The forward and, where there is one, the backward pass as functions to be called any number of times."""
    leaves = [x for x in inputs if x.requires_grad]
    kept: list[Any] = []  # outputs of one forward pass, made when the first backward pass needs them

    def forward() -> Any:
        found = contender.function(*inputs)
        return inputs[0] if found is None else found

    def backward() -> Any:
        if not kept:
            kept.append(forward())
        if contender.before_backward is not None:
            contender.before_backward(kept[0])
        return torch.autograd.grad(kept[0], leaves, contender.grads, retain_graph=True)

    return [forward, backward] if contender.grads else [forward]


def names(case: Case) -> list[str]:
    """What the passes of a case are called."""
    return ["forward", "backward"] if len(case.work) == 2 else ["only"]


def prepare(name: str, case: Case, device: torch.device) -> list[Callable[[], Any]]:
    """Passes of a contender, on tensors of its own: several write over their inputs."""
    inputs, contenders = case.build(device)
    contender = contenders[name]
    if name == "compile":
        torch._dynamo.reset()
        contender = replace(contender, function=torch.compile(contender.function, dynamic=False))
    return passes(inputs, contender)


def measure(name: str, case: Case, device: torch.device) -> list[float] | str:
    """Milliseconds of a contender's passes, or one word."""
    from triton.testing import do_bench

    try:
        return [do_bench(each, return_mode="median") for each in prepare(name, case, device)]
    except Exception as error:  # a peer that fails must not stop the run
        print(f"{case.name}, {name}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
        return WORDS.get(type(error).__name__, "failed")
    finally:
        torch.cuda.empty_cache()


def copy_rate() -> float:
    """Bytes read and written per second by a copy of 1 GiB."""
    from triton.testing import do_bench

    source = torch.zeros(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return float(2 * source.nbytes / (do_bench(lambda: target.copy_(source), return_mode="median") / 1e3))


def queue_ahead() -> None:
    """Clear 1 GiB before each call, not 256 MiB: launches are queued meanwhile, and no kernel waits for the host in its time."""
    import triton

    triton.runtime.driver.active.get_empty_cache_for_benchmark = lambda: torch.empty(
        2**28, dtype=torch.int32, device="cuda"
    )


def rows_of(case: Case, times: dict[str, list[float] | str], copy: float) -> list[dict[str, Any]]:
    """A row of figures for every pass, and for both together where there are peers."""
    ours = times["ours"]
    works = dict(zip(names(case), case.work, strict=True))
    if len(works) == 2 and len(times) > 1:
        works["both"] = sum(case.work)
    rows = []
    for at, (which, work) in enumerate(works.items()):
        row: dict[str, Any] = {"kernel": case.name, "detail": case.detail, "tokens": case.tokens, "pass": which}
        each = {name: t if isinstance(t, str) else sum(t) if which == "both" else t[at] for name, t in times.items()}
        row |= {case.unit: work, "ours_ms": each.pop("ours"), "peers_ms": each}
        if not isinstance(ours, str):
            rate = work / row["ours_ms"] * 1e3
            row |= (
                {"gb_per_s": rate / 1e9, "of_copy": rate / copy}
                if case.unit == "bytes"
                else {"tflop_per_s": rate / 1e12}
            )
            aim = AIMS.get(case.name)
            if case.unit == "bytes" and aim is not None and which != "both":
                row |= {"aim": aim, "reached": row["of_copy"] >= aim}
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]], copy: float) -> None:
    """Print the table."""
    table = Table(title=f"Kernels, bf16; a copy moves {copy / 1e9:,.0f} GB/s; peers: their time / ours")
    for column in ("kernel", "", "tokens", "pass", "ms", "rate", "of copy", "eager", "compile", "Liger", "others"):
        table.add_column(column, justify="left" if column in ("kernel", "", "pass", "others") else "right")
    for row in rows:
        cells = [row["kernel"], row["detail"], f"{row['tokens'] or '-'}", row["pass"]]
        if isinstance(row["ours_ms"], str):
            table.add_row(*cells, row["ours_ms"])
            continue
        rate = f"{row['gb_per_s']:,.0f} GB/s" if "gb_per_s" in row else f"{row['tflop_per_s']:,.0f} TFLOP/s"
        share = f"{row['of_copy']:.1%}" if "of_copy" in row else "-"
        if row.get("reached") is False:
            share = f"[red]{share} ! < {row['aim']:.0%}[/red]"
        ratios = {
            name: ms if isinstance(ms, str) else f"{ms / row['ours_ms']:.2f}x" for name, ms in row["peers_ms"].items()
        }
        known = [ratios.pop(name, "-") for name in ("eager", "compile", "liger")]
        others = ", ".join(f"{name} {ratio}" for name, ratio in ratios.items())
        table.add_row(*cells, f"{row['ours_ms']:.4f}", rate, share, *known, others)
    console = Console()
    (console if console.is_terminal else Console(width=190)).print(table)


def values(found: Any) -> list[torch.Tensor]:
    """Copies of a pass's tensors: the next pass may write over them."""
    return [x.detach().to(torch.float64, copy=True) for x in ([found] if isinstance(found, torch.Tensor) else found)]


def compare(case: Case, device: torch.device) -> list[dict[str, Any]]:
    """Run every contender but the compiled and Liger's once: |theirs - eager| / |eager|, the largest of a pass's tensors."""
    wanted = [values(each()) for each in prepare("eager", case, device)]
    rows = []
    for contender in [name for name in case.build(device)[1] if name not in ("eager", "compile", "liger")]:
        base = {"kernel": case.name, "detail": case.detail, "tokens": case.tokens, "contender": contender}
        try:
            found = [values(each()) for each in prepare(contender, case, device)]
        except Exception as problem:  # a peer need not be there
            rows.append(base | {"error": f"{type(problem).__name__}: {problem}"[:300], "passed": contender != "ours"})
            print(f"---- {case.name}, {case.detail}, {contender}: {rows[-1]['error']}")
            continue
        for which, some, needed in zip(names(case), found, wanted, strict=True):
            pairs = zip(some, needed, strict=True)
            error = float(torch.stack([(x - y).norm() / y.norm() for x, y in pairs]).max())
            passed = error <= case.tolerance  # false where the error is no number
            rows.append(base | {"pass": which, "error": error, "tolerance": case.tolerance, "passed": passed})
            print(f"{'ok  ' if passed else 'FAIL'} {case.name}, {case.detail}, {which}, {contender}: {error:.1e}")
    return rows


def version(package: str) -> str | None:
    """Of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> int:
    """Returns 0, 1 where a kernel of ours failed or differs, or 2 without a GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose 'kernel detail tokens' contains it")
    parser.add_argument("--tokens", type=int, nargs="+", help="token counts; 8192 16384 32768 by default")
    parser.add_argument("--output", type=Path, default=Path("kernels.json"), help="JSON with every figure")
    parser.add_argument(
        "--budget", type=float, default=450, help="seconds after which peers are left out (default 450)"
    )
    parser.add_argument("--check", action="store_true", help="tiny shapes on any device: the values, no times")
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    if not options.check and not on_gpu:
        print("no GPU: nothing to measure here; --check compares every kernel's values at tiny shapes", file=sys.stderr)
        return 2
    if not on_gpu:
        os.environ["TRITON_INTERPRET"] = "1"  # before the first import of Triton, which the cases bring
    from kernel_cases import make_cases

    here = Path(__file__).resolve().parent  # where transformers would find this file for its optional package `kernels`
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != here]
    from megatron_bielik.kernels.dispatch import forced_kernels

    device = torch.device("cuda" if on_gpu else "cpu")
    tokens = options.tokens or ([CHECK_TOKENS] if options.check else list(TOKENS))
    cases = [
        case
        for case in make_cases(tokens, tiny=options.check)
        if re.search(options.only, f"{case.name} {case.detail} {case.tokens}")
    ]
    if not cases:
        parser.error(f"--only {options.only!r} matches no case")
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu", "date": datetime.now().isoformat(" ", "seconds"),
        "versions": {name: version(name) for name in ("torch", "triton", "liger-kernel")}, "command": sys.argv,
        "rows": [],
    }  # fmt: skip
    rows: list[dict[str, Any]] = report["rows"]

    def save() -> None:
        options.output.write_text(json.dumps(report, indent=1))

    if options.check:
        with forced_kernels():
            for case in cases:
                rows += compare(case, device)
        save()
        return 0 if all(row["passed"] for row in rows) else 1

    from torch._functorch import config

    # A compiled backward pass that may reuse its buffers refuses to run twice. The setting holds for this thread alone.
    config.donated_buffer = False
    torch.autograd.set_multithreading_enabled(False)
    queue_ahead()
    started, peers_at = time.monotonic(), PEER_TOKENS if PEER_TOKENS in tokens else max(tokens)
    report["copy_gb_per_s"] = (copy := copy_rate()) / 1e9
    for case in cases:
        print(f"{time.monotonic() - started:4.0f} s  {case.name}, {case.detail}, {case.tokens}", flush=True)
        times: dict[str, list[float] | str] = {"ours": measure("ours", case, device)}
        for name in list(case.build(device)[1]) if case.tokens in (0, peers_at) else []:
            if name != "ours":
                late = time.monotonic() - started > options.budget
                times[name] = "late" if late else measure(name, case, device)
        gc.collect()  # what was compiled may hold on to tensors
        rows += rows_of(case, times, copy)
        save()  # after every case: a run that is cut off keeps what it has
    show(rows, copy)
    return 1 if any(isinstance(row["ours_ms"], str) for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
