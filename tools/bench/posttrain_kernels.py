"""Forward and backward of a transformers model: untouched, with this package's kernels, with TRL's head, with Liger-Kernel.

Every measurement is a process of its own, as Liger changes transformers' modules; rounds alternate between the contenders. All
get the same weights and the same batch of packed documents, a third of whose labels are ignored as in instruction tuning. Loss
and gradient norm must be those of the untouched model, or the run fails. No optimizer: it is the same for all.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from megatron_bielik.presets import PRESETS, ModelShape

# transformers asks for a package named kernels, which the file beside this one is not.
sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]

EXAMPLES = """examples:
  python tools/bench/posttrain_kernels.py --json posttrain_kernels.json          # about 6 minutes on one H100
  python tools/bench/posttrain_kernels.py --model bielik-1.5b-v3 --sequence-length 8192 --gradient-checkpointing
  python tools/bench/posttrain_kernels.py --check                                # tiny shapes, any device, values only
"""
LAYERS = ("norm", "swiglu", "rope")
# Kernels put into the model, and whether the loss comes from TRL's fused head.
OURS: dict[str, tuple[tuple[str, ...], bool]] = {
    "transformers": ((), False),
    "norm": (("norm",), False),
    "swiglu": (("swiglu",), False),
    "rope": (("rope",), False),
    "cross_entropy": (("cross_entropy",), False),
    "ours": ((*LAYERS, "cross_entropy"), False),
    "TRL's head": ((), True),
    "ours, TRL's head": (LAYERS, True),
}
CONTENDERS = (*OURS, "liger")
WARM_UP, STEPS = 3, 8
TOLERANCE = 0.02  # of loss and gradient norm in bf16


def make_model(shape: ModelShape, layers: int, device: torch.device, dtype: torch.dtype) -> Any:
    """A model with random weights of the Bielik form where the preset has it, of Qwen2's otherwise."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    sizes = {
        "vocab_size": shape.vocab_size, "hidden_size": shape.hidden_size, "intermediate_size": shape.ffn_hidden_size,
        "num_hidden_layers": layers, "num_attention_heads": shape.num_attention_heads, "head_dim": shape.head_dim,
        "num_key_value_heads": shape.num_query_groups, "max_position_embeddings": shape.max_position_embeddings,
        "rms_norm_eps": shape.norm_epsilon, "tie_word_embeddings": shape.tie_embeddings, "use_cache": False,
        "attn_implementation": "sdpa", "dtype": dtype,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(shape.rope_theta)},
    }  # fmt: skip
    torch.manual_seed(1)
    with device:
        if shape.architecture == "bielik":
            model = LlamaForCausalLM(LlamaConfig(**sizes, attention_bias=True, mlp_bias=True))
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**sizes))
    return model.to(dtype).train()


def put(name: str, model: Any, shape: ModelShape) -> bool:
    """Change the model into a contender; returns whether it is asked for the loss of TRL's head."""
    if name == "liger":
        from liger_kernel import transformers as liger

        kind = "llama" if shape.architecture == "bielik" else "qwen2"
        getattr(liger, f"apply_liger_kernel_to_{kind}")(model=model)
        return False
    from megatron_bielik.posttrain.fused import put_kernels

    names, head = OURS[name]
    if head:
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    put_kernels(model, names)
    return head


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One contender in this process: milliseconds of a step, peak memory, loss and gradient norm of the first step."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    shape = PRESETS[options.model]
    model = make_model(shape, options.layers or shape.num_layers, device, torch.bfloat16)
    head = put(options.measure, model, shape)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    generator = torch.Generator().manual_seed(1)
    size = (options.rows, options.sequence_length)
    tokens = torch.randint(shape.vocab_size, size, generator=generator)
    labels = tokens.masked_fill(torch.rand(size, generator=generator) < 1 / 3, -100)
    quarter = -(-options.sequence_length // 4)
    positions = (torch.arange(options.sequence_length) % quarter).repeat(options.rows, 1)
    inputs = {"input_ids": tokens, "labels": labels, "position_ids": positions}
    inputs = {name: value.to(device) for name, value in inputs.items()}

    def step() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        loss = model(**inputs, **({"fused_lm_head": True} if head else {})).loss
        loss.backward()
        return loss.detach()

    loss = float(step())
    norm = float(torch.stack([p.grad.float().norm() for p in model.parameters()]).norm())
    for _ in range(0 if options.check else WARM_UP):
        step()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    took = seconds(step, 1 if options.check else STEPS, on_gpu)
    memory = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    return {"step_ms": took * 1e3, "peak_gib": memory, "loss": loss, "gradient_norm": norm, "device": name}


def seconds(step: Callable[[], Any], steps: int, on_gpu: bool) -> float:
    """Mean time of a step between two waits for the device."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    if on_gpu:
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / steps


def one(name: str, arguments: list[str]) -> dict[str, Any]:
    """A measurement in its own process, or what it ended with."""
    command = [sys.executable, __file__, *arguments, f"--measure={name}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    if "OutOfMemoryError" in done.stderr:
        return {"error": "out of memory"}
    return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}


def table(results: dict[str, list[dict[str, Any]]]) -> Table:
    """One line a contender; the ratio is the untouched model's time over the line's, medians of the rounds."""
    shown = Table(title="forward and backward, bf16", box=box.SIMPLE_HEAD)
    for column in ("", "ms (median)", "min", "max", "peak GiB", "transformers / line", "loss", "gradient norm"):
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    first = [r["step_ms"] for r in results["transformers"] if "error" not in r]
    for name, rounds in results.items():
        if errors := [r["error"] for r in rounds if "error" in r]:
            shown.add_row(name, errors[0])
            continue
        times = [r["step_ms"] for r in rounds]
        ratio = f"{statistics.median(first) / statistics.median(times):.2f}x" if first else "-"
        shown.add_row(
            name, f"{statistics.median(times):.1f}", f"{min(times):.1f}", f"{max(times):.1f}",
            f"{max(r['peak_gib'] for r in rounds):.1f}", ratio, f"{rounds[0]['loss']:.4f}",
            f"{rounds[0]['gradient_norm']:.4f}",
        )  # fmt: skip
    return shown


def differing(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Contenders whose loss or gradient norm is not that of the untouched model, and those that failed."""
    wanted = results["transformers"][0]
    found = []
    for name, rounds in results.items():
        for result in rounds:
            if result.get("error") == "out of memory":
                continue
            keys = ("loss", "gradient_norm")
            if "error" in result or any(abs(result[k] / wanted.get(k, 0.0) - 1) > TOLERANCE for k in keys):
                found.append(name)
    return sorted(set(found))


def main() -> int:
    """Returns 0, 1 where a contender failed or computed something else, or 2 without a GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", choices=PRESETS, help="preset; bielik-1.5b-v3 by default")
    add("--layers", type=int, help="instead of the preset's")
    add("--sequence-length", type=int, help="tokens of a row; 4096 by default")
    add("--rows", type=int, default=2, help="of a batch (default 2)")
    add("--rounds", type=int, default=3, help="processes per contender (default 3)")
    add("--contender", action="append", choices=CONTENDERS, help="all by default; transformers always")
    add("--gradient-checkpointing", action="store_true", help="in all of them")
    add("--json", type=Path, help="write every figure here")
    add("--check", action="store_true", help="tiny shapes on any device: does everything run and agree?")
    add("--measure", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.check and not torch.cuda.is_available():
        print("no GPU: nothing to measure here; --check runs every contender once at tiny shapes", file=sys.stderr)
        return 2
    options.model = options.model or ("tiny" if options.check else "bielik-1.5b-v3")
    options.sequence_length = options.sequence_length or (64 if options.check else 4096)
    if options.measure:
        print(json.dumps(measure(options)))
        return 0
    names = [name for name in CONTENDERS if name == "transformers" or name in (options.contender or CONTENDERS)]
    if "liger" in names and (importlib.util.find_spec("liger_kernel") is None or not torch.cuda.is_available()):
        names.remove("liger")
        print("liger left out: needs the package liger-kernel and a GPU")
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(1 if options.check else options.rounds):
        for name in names:
            results[name].append(one(name, sys.argv[1:]))
            print(f"round {number + 1}: {name}", flush=True)
    Console(width=120).print(table(results))
    wrong = differing(results)
    if wrong:
        print(f"not as the untouched model: {', '.join(wrong)}", file=sys.stderr)
    if options.json:
        versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "date": date.today().isoformat()}
        content = {"versions": versions, "command": sys.argv, "results": results, "not_as_transformers": wrong}
        options.json.write_text(json.dumps(content, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
