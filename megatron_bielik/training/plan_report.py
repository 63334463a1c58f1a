"""The dry-run plan as tables for the terminal: memory of every stage, the verdict, the schedule, what was assumed."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from megatron_bielik.training.live import duration, short_number
from megatron_bielik.training.memory import RECOMPUTE_MODES, Recompute
from megatron_bielik.training.plan import ASSUMED_MFU, GIB, RESERVED_BYTES, Plan


def render(plan: Plan) -> RenderableType:
    """The whole plan, for rich's print."""
    return Group(_job(plan), Text(), _memory(plan), _modes(plan), verdict(plan), Text(), _schedule(plan), *_notes(plan))


def gib(size: float) -> str:
    """Bytes as GiB with the figures that matter."""
    value = size / GIB
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _job(plan: Plan) -> Table:
    """Model, layout, speed: a name and a value per line."""
    parallel, training = plan.config.parallel, plan.config.training
    table = Table(
        title="Dry run", title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False
    )
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    frozen = plan.parameters - plan.trained_from_start
    trained = f", {plan.trained_from_start:,} trained" if frozen else ""
    virtual = parallel.virtual_pipeline_parallel_size
    rows = [
        (
            "model",
            f"{plan.config.model.preset}, {plan.shape.num_layers} layers, {plan.parameters:,} parameters{trained}",
        ),
        (
            "layout",
            f"{plan.world_size} GPUs = tensor {parallel.tensor_parallel_size}"
            f" x pipeline {parallel.pipeline_parallel_size}"
            + (f" x context {parallel.context_parallel_size}" if parallel.context_parallel_size > 1 else "")
            + f" x data {plan.data_parallel}"
            + (f", {virtual} model chunks per pipeline rank" if virtual else "")
            + (", sequence parallel" if parallel.sequence_parallel else ""),
        ),
        (
            "step",
            f"{training.global_batch_size:,} samples x {plan.config.data.sequence_length:,} tokens = "
            f"{plan.tokens_per_step:,} tokens, in {plan.micro_batches} micro-batches of {training.micro_batch_size}"
            " per data-parallel rank",
        ),
        (
            "pipeline bubble",
            f"{plan.bubble_of_total:.1%} of the step, {plan.bubble_of_ideal:.1%} on top of the ideal time",
        ),
        ("FLOPs per token", f"{plan.flops_causal / 1e9:.2f} G causal, {plan.flops_full / 1e9:.2f} G full"),
    ]
    for name, value in rows:
        table.add_row(name, value)
    return table


def _memory(plan: Plan) -> Table:
    """One line per pipeline stage; GiB on one of its GPUs."""
    table = _table(f"Memory of one GPU, GiB, recompute {plan.recompute}")
    for column in ("stage", "layers", "params", "weights", "grads", "optim.", "activ.", "logits", "work", "peak"):
        table.add_column(column, justify="right", no_wrap=True)
    worst = plan.worst()
    for stage in plan.stages:
        sizes = (stage.weights, stage.gradients, stage.optimizer, stage.activations[plan.recompute], stage.logits,
                 stage.working[plan.recompute], stage.peak(plan.recompute))  # fmt: skip
        table.add_row(
            str(stage.stage), _layers(plan, stage.layers), short_number(stage.parameters), *map(gib, sizes),
            style="bold" if stage is worst and len(plan.stages) > 1 else None,
        )  # fmt: skip
    return table


def _layers(plan: Plan, layers: tuple[int, ...]) -> str:
    """Global numbers of a stage's layers; chunks x layers when interleaved, to keep the table narrow."""
    chunks = plan.config.parallel.virtual_pipeline_parallel_size or 1
    return f"{layers[0]}-{layers[-1]}" if chunks == 1 else f"{chunks} x {len(layers) // chunks}"


def _modes(plan: Plan) -> Table:
    """What each recompute mode needs on the most loaded GPU."""
    table = _table(f"Most loaded GPU, GiB, with {gib(RESERVED_BYTES)} reserved")
    for column in ("recompute", "activations", "saved", "needed", "headroom"):
        table.add_column(column, justify="left" if column == "recompute" else "right")
    for mode in RECOMPUTE_MODES:
        chosen = mode == plan.recompute
        table.add_row(
            mode + (" *" if chosen else ""), gib(plan.worst(mode).activations[mode]),
            gib(plan.needed("none") - plan.needed(mode)), gib(plan.needed(mode)),
            _headroom(plan, mode), style="bold" if chosen else None,
        )  # fmt: skip
    return table


def _headroom(plan: Plan, mode: Recompute) -> str:
    left = plan.headroom(mode)
    return "-" if left is None else f"{'+' if left >= 0 else ''}{gib(left)}"


def verdict(plan: Plan) -> Text:
    """One sentence: fits or not, and if not, what to change."""
    left = plan.headroom()
    if left is None or plan.device_memory is None:
        return Text(f"Needs {gib(plan.needed())} GiB per GPU; give --device_memory_gib to see whether it fits.")
    size = gib(plan.device_memory)
    if left >= 0:
        return Text(
            f"Fits {size} GiB with {gib(left)} GiB ({left / plan.device_memory:.0%}) to spare.", style="bold green"
        )
    modes = [mode for mode in RECOMPUTE_MODES if plan.fits(mode)]
    way_out = (
        f"parallel.recompute: {modes[0]} would fit"
        if modes
        else "raise parallel.tensor_parallel_size or pipeline_parallel_size, or lower training.micro_batch_size"
    )
    return Text(f"Does not fit {size} GiB: {gib(-left)} GiB too much; {way_out}.", style="bold red")


def _schedule(plan: Plan) -> Table:
    """The learning rate's phases and the whole run."""
    table = _table("Schedule")
    for column in ("phase", "steps", "from step", "to step", "tokens"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase in plan.phases:
        steps = phase.last_step - phase.first_step
        tokens = short_number(steps * plan.tokens_per_step)
        table.add_row(phase.name, f"{steps:,}", f"{phase.first_step:,}", f"{phase.last_step:,}", tokens)
    steps = plan.config.training.steps
    table.add_row("whole run", f"{steps:,}", "0", f"{steps:,}", short_number(plan.total_tokens), style="bold")
    return table


def _notes(plan: Plan) -> list[Text]:
    """Time and assumptions."""
    days = plan.days()
    if days is None or plan.peak is None:
        time = "Time: not estimated; set training.peak_tflops to the dense peak of the GPU (H100 SXM: 989.5)."
    else:
        speed = plan.peak * ASSUMED_MFU / plan.flops_causal
        time = (
            f"Time: {duration(days * 86_400)} ({days * plan.world_size:,.0f} GPU-days), assuming {ASSUMED_MFU:.0%} "
            f"causal MFU of {plan.peak / 1e12:g} TFLOP/s, that is {short_number(speed)} tokens/s per GPU."
        )
    return [Text(time), *(Text(note, style="dim") for note in plan.notes)]
