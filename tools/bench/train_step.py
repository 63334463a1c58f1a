"""Full training steps on one GPU: this package, transformers + Liger, and megatron-core's local layers, on the same work.

Each measurement runs in a process of its own. Tokens per second come from the time between two waits for the device around
several steps; MFU is FLOPs/token x tokens/s / dense bf16 peak in both conventions (training/flops.py). The parts are one
step's kernel times by name, from torch's profiler.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, get_args

import torch
from contenders import CONTENDERS, job
from rich import box
from rich.console import Console
from rich.table import Table

from megatron_bielik.kernels.attention import Backend
from megatron_bielik.presets import PRESETS, ModelShape

# transformers asks for a package named kernels, which the file beside this one is not.
sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]

EXAMPLES = """examples:
  python tools/bench/train_step.py                         # everything, under 8 minutes on one H100
  python tools/bench/train_step.py --model bielik-1.5b-v3 --sequence-length 4096 --contender ours --fp8 rowwise
  python tools/bench/train_step.py --check                 # tiny shapes, any device, no timing worth reading
"""
MODELS = ("bielik-1.5b-v3", "bielik-4.5b-v3")
SEQUENCE_LENGTHS = (4096, 8192)
WARM_UP, STEPS, MICRO_BATCHES = 3, 5, 4
# First match wins. Names of kernels as cuBLAS, flash attention, Triton and torch give them.
PARTS = {
    "attention": r"flash|fmha|cudnn.*attn|sdpa|softmax_warp",
    "matrix products": r"gemm|cutlass|nvjet|xmma|cublas|sm90_|_scaled_mm|\bmm\b",
    "optimizer": r"adamw|adam_|square_sum|multi_tensor",
    "loss": r"cross_entropy|nll_loss|logsumexp",
    "norms": r"rms_norm|layer_norm|_sum_rows",
    "rotation": r"rope|rotate|rotary",
    "SwiGLU": r"swiglu|silu",
    "embedding": r"embedding|index|_accumulate\b",
    "communication": r"nccl",
    "copies and the rest": r"",
}


def layers_that_fit(shape: ModelShape, sequence_length: int, memory: float) -> int:
    """The most layers, up to the model's own, whose plan fits this many GiB on one GPU."""
    from megatron_bielik.training.plan import make_plan

    for layers in range(shape.num_layers, 0, -2):
        if make_plan(job(replace(shape, num_layers=layers), sequence_length, 1), 1, memory).fits():
            return layers
    raise SystemExit(f"error: not even two layers at {sequence_length} tokens fit {memory:.0f} GiB")


def measure(contender: str, shape: ModelShape, sequence_length: int, check: bool, **options: Any) -> dict[str, Any]:
    """Run one contender in this process."""
    from megatron_bielik.config import ParallelConfig
    from megatron_bielik.parallel import runtime
    from megatron_bielik.training.flops import dense_bf16_peak, flops_per_token, model_flops_utilisation

    here = runtime.start(ParallelConfig(), seed=1)
    step = CONTENDERS[contender](shape, sequence_length, 1, here, **options)
    generator = torch.Generator(here.device).manual_seed(1)
    size = (1, sequence_length + 1)
    rows = [
        torch.randint(shape.vocab_size, size, generator=generator, device=here.device) for _ in range(MICRO_BATCHES)
    ]

    def seconds(steps: int) -> float:
        _wait(here.on_gpu)
        started = time.perf_counter()
        for _ in range(steps):
            step(rows)
        _wait(here.on_gpu)
        return (time.perf_counter() - started) / steps

    seconds(1 if check else WARM_UP)
    took = seconds(1 if check else STEPS)
    memory = here.peak_memory_bytes()
    speed = MICRO_BATCHES * sequence_length / took
    result: dict[str, Any] = {
        "contender": contender, "layers": shape.num_layers, "sequence_length": sequence_length, "options": options,
        "step_ms": took * 1e3, "tokens_per_second": speed, "peak_gib": memory / 2**30, "device": here.device_name,
    }  # fmt: skip
    flops = {kind: flops_per_token(shape, sequence_length, kind) for kind in ("causal", "full")}
    result["tflops_causal"] = flops["causal"] * speed / 1e12
    if peak := dense_bf16_peak(here.device_name):
        result |= {f"mfu_{kind}": model_flops_utilisation(value, speed, peak) for kind, value in flops.items()}
    result["parts_ms"] = parts(lambda: step(rows), here.on_gpu)
    runtime.stop()
    return result


def _wait(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()


def parts(step: Any, on_gpu: bool) -> dict[str, float]:
    """Milliseconds of one step's kernels (operators on a CPU) by part, and the time in which the device had none."""
    from torch.profiler import ProfilerActivity, profile

    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        step()
        _wait(on_gpu)
    whole = (time.perf_counter() - started) * 1e3
    sums = dict.fromkeys(PARTS, 0.0)
    for event in profiler.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        part = next(name for name, pattern in PARTS.items() if re.search(pattern, event.key, re.IGNORECASE))
        sums[part] += spent / 1e3
    return {**sums, "idle": max(0.0, whole - sum(sums.values()))}


def runs(options: argparse.Namespace, memory: float) -> Iterator[list[str]]:
    """Arguments of every measurement."""
    for model in options.model:
        for length in options.sequence_length:
            fit = 2 if options.check else options.layers
            layers = fit or layers_that_fit(PRESETS[model], length, memory)
            for contender in options.contender:
                yield [
                    f"--model={model}", f"--sequence-length={length}", f"--contender={contender}", f"--layers={layers}",
                    f"--fp8={options.fp8}", f"--attention={options.attention}", f"--recompute={options.recompute}",
                ]  # fmt: skip


def table(results: list[dict[str, Any]]) -> Table:
    """One line per measurement; the ratio is ours over the contender's, tokens per second."""
    shown = Table(title="Training step, one GPU, bf16; ours: our tokens/s over the line's", box=box.SIMPLE_HEAD)
    for column in (
        "model",
        "layers",
        "tokens",
        "contender",
        "tokens/s",
        "TFLOP/s",
        "causal MFU",
        "full",
        "GiB",
        "ours",
    ):
        shown.add_column(column, justify="right", no_wrap=True)
    speeds = {(r["model"], r["sequence_length"]): r["tokens_per_second"] for r in results if r["contender"] == "ours"}
    for r in results:
        name = [r["model"], str(r["layers"]), str(r["sequence_length"]), r["contender"]]
        if "error" in r:
            shown.add_row(*name, r["error"])
            continue
        first = speeds.get((r["model"], r["sequence_length"]))
        ratio = f"{first / r['tokens_per_second']:.2f}x" if first else "-"
        mfu = [f"{r[key]:.1%}" if key in r else "-" for key in ("mfu_causal", "mfu_full")]
        shown.add_row(
            *name, f"{r['tokens_per_second']:,.0f}", f"{r['tflops_causal']:.1f}", *mfu, f"{r['peak_gib']:.1f}", ratio
        )
    return shown


def one(arguments: list[str], model: str, check: bool, timeout: float) -> dict[str, Any]:
    """A measurement in its own process; what it ran out of, if anything."""
    fields = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    base = {"model": model, "layers": int(fields["layers"]), "sequence_length": int(fields["sequence-length"]),
            "contender": fields["contender"]}  # fmt: skip
    command = [sys.executable, __file__, "--measure", *arguments, *(["--check"] if check else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {**base, "error": f"took longer than {timeout:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        if "OutOfMemoryError" in done.stderr:
            return {**base, "error": "out of memory"}
        return {**base, "error": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}
    return {**base, **json.loads(lines[-1])}


def main() -> int:
    """Returns 0, 1 where a measurement failed, or 2 without a GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", choices=PRESETS, help="presets; both Bielik shapes by default")
    parser.add_argument("--sequence-length", action="append", type=int, help="tokens; 4096 and 8192 by default")
    parser.add_argument("--contender", action="append", choices=CONTENDERS, help="all by default")
    parser.add_argument("--layers", type=int, help="instead of as many as fit")
    parser.add_argument("--fp8", default="none", choices=("none", "tensorwise", "rowwise"), help="of our linears")
    parser.add_argument("--attention", default="auto", choices=get_args(Backend), help="our model.attention")
    parser.add_argument("--recompute", default="none", choices=("none", "selective", "full"), help="ours")
    parser.add_argument("--output", type=Path, default=Path("train_step.json"), help="JSON with every figure")
    parser.add_argument("--check", action="store_true", help="tiny shapes on any device: does everything still run?")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.check and not torch.cuda.is_available():
        print("no GPU: nothing to measure here; --check runs every contender once at tiny shapes", file=sys.stderr)
        return 2
    options.model = options.model or (["tiny"] if options.check else list(MODELS))
    options.sequence_length = options.sequence_length or ([64] if options.check else list(SEQUENCE_LENGTHS))
    options.contender = options.contender or list(CONTENDERS)
    if options.measure:
        shape = replace(PRESETS[options.model[0]], num_layers=options.layers)
        ours = {name: getattr(options, name) for name in ("fp8", "attention", "recompute")}
        found = measure(options.contender[0], shape, options.sequence_length[0], options.check, **ours)
        print(json.dumps(found))
        return 0
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0.0
    results = []
    for arguments in runs(options, memory):
        print(" ".join(arguments), flush=True)
        results.append(one(arguments, arguments[0].split("=")[1], options.check, timeout=180))
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "date": date.today().isoformat()}
    options.output.write_text(json.dumps({"versions": versions, "command": sys.argv, "results": results}, indent=1))
    Console(width=120).print(table(results))
    for result in results:
        if "parts_ms" in result:
            shares = ", ".join(f"{name} {ms:.1f}" for name, ms in result["parts_ms"].items() if ms >= 0.05)
            print(f"{result['model']} {result['sequence_length']} {result['contender']}, ms per step: {shares}")
    return 1 if any("error" in result and result["error"] != "out of memory" for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
