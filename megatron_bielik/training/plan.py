"""The dry run: what a job will need and do, without a GPU, a process group or torch, in milliseconds.

`make_plan` computes, plan_report.py shows. docs/planning.md derives the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from megatron_bielik.checks import check
from megatron_bielik.config import Config
from megatron_bielik.presets import ModelShape
from megatron_bielik.settings import SettingsError
from megatron_bielik.training.flops import dense_bf16_peak, flops_per_token
from megatron_bielik.training.memory import Recompute, StageMemory, pipeline_sizes, stage_memory
from megatron_bielik.training.parameter_table import parameter_table, trainable_names

GIB = 1024**3

# CUDA context, cuBLAS workspaces, NCCL buffers, what the allocator loses to fragmentation. Assumed, not measured.
RESERVED_BYTES = 4 * GIB

ASSUMED_MFU = 0.40  # causal convention; well-kept dense 1-8B runs on one node of H100 reach 0.36 to 0.48


@dataclass(frozen=True)
class Phase:
    """A stretch of the learning-rate schedule, in steps [first, last)."""

    name: str
    first_step: int
    last_step: int


@dataclass(frozen=True)
class Plan:
    """What a job needs and does. Bytes, tokens, FLOPs; memory is per GPU.

    Args:
        config: The job.
        shape: The model's shape, preset and own values put together.
        world_size: GPUs.
        data_parallel: Copies of the model: world_size / (tensor * pipeline * context).
        micro_batches: Micro-batches of one step on one data-parallel rank.
        parameters: Of the model, tied matrix once, vocabulary not padded.
        trained_from_start: Parameters that training.trainable selects.
        stages: Memory of one GPU of every pipeline stage, all parameters trained if they will be later.
        device_memory: Bytes of one GPU; None when not given.
        flops_causal: FLOPs per token, causal convention.
        flops_full: FLOPs per token, full convention.
        peak: Dense peak of one GPU, FLOP/s; None when not known.
        phases: The schedule.
        notes: What the figures do not show.
    """

    config: Config
    shape: ModelShape
    world_size: int
    data_parallel: int
    micro_batches: int
    parameters: int
    trained_from_start: int
    stages: tuple[StageMemory, ...]
    device_memory: int | None
    flops_causal: float
    flops_full: float
    peak: float | None
    phases: tuple[Phase, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def recompute(self) -> Recompute:
        """The mode the job asks for."""
        return self.config.parallel.recompute

    @property
    def tokens_per_step(self) -> int:
        """global_batch_size * sequence_length."""
        return self.config.training.global_batch_size * self.config.data.sequence_length

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole run."""
        return self.tokens_per_step * self.config.training.steps

    def worst(self, mode: Recompute | None = None) -> StageMemory:
        """The stage whose GPUs hold the most, in this recompute mode or the job's own."""
        return max(self.stages, key=lambda stage: stage.peak(mode or self.recompute))

    def needed(self, mode: Recompute | None = None) -> int:
        """Bytes of the most loaded GPU, RESERVED_BYTES included."""
        return self.worst(mode).peak(mode or self.recompute) + RESERVED_BYTES

    def headroom(self, mode: Recompute | None = None) -> int | None:
        """Bytes left on the most loaded GPU, negative when it does not fit; None when its size was not given."""
        return None if self.device_memory is None else self.device_memory - self.needed(mode)

    def fits(self, mode: Recompute | None = None) -> bool | None:
        """Whether the most loaded GPU is large enough; None when its size was not given."""
        headroom = self.headroom(mode)
        return None if headroom is None else headroom >= 0

    @property
    def bubble_of_ideal(self) -> float:
        """Idle time over the time of the same work without a pipeline: (p - 1) / (m v)."""
        pipeline, virtual = pipeline_sizes(self.config)
        return (pipeline - 1) / (self.micro_batches * virtual)

    @property
    def bubble_of_total(self) -> float:
        """Idle time over the whole step: (p - 1) / (m v + p - 1)."""
        pipeline, virtual = pipeline_sizes(self.config)
        return (pipeline - 1) / (self.micro_batches * virtual + pipeline - 1)

    def days(self, mfu: float = ASSUMED_MFU) -> float | None:
        """Days of the run at this causal MFU on every GPU, without stops; None when the peak is not known."""
        if self.peak is None:
            return None
        return self.total_tokens * self.flops_causal / (self.world_size * self.peak * mfu) / 86_400


def make_plan(
    config: Config, world_size: int, device_memory_gib: float | None = None, device_name: str | None = None
) -> Plan:
    """Computes the plan of a job.

    Args:
        config: The job.
        world_size: GPUs (processes) in all.
        device_memory_gib: Memory of one GPU; None leaves open whether the job fits.
        device_name: Name of the GPU, for its peak; training.peak_tflops goes before it.

    Raises SettingsError, in one line, for options that settings.check refuses, patterns that match no parameter, or a
    pipeline stage without trained parameters.
    """
    data_parallel, micro_batches = check(config, world_size)
    if device_memory_gib is not None and device_memory_gib <= 0:
        raise SettingsError(f"device_memory_gib is {device_memory_gib:g}; it must be positive, 80 for an 80 GB H100")
    shape = config.model.shape()
    table = parameter_table(shape)
    from_start = trainable_names(table, config.training.trainable)
    trained = trainable_names(table, []) if _unfreezes(config) else from_start
    stated_peak = config.training.peak_tflops

    def memory(names: set[str]) -> tuple[StageMemory, ...]:
        stages = range(config.parallel.pipeline_parallel_size)
        return tuple(stage_memory(config, stage, table, names, data_parallel, micro_batches) for stage in stages)

    _check_every_stage_trains(memory(from_start))
    return Plan(
        config=config,
        shape=shape,
        world_size=world_size,
        data_parallel=data_parallel,
        micro_batches=micro_batches,
        parameters=shape.num_parameters(),
        trained_from_start=sum(parameter.size for parameter in table if parameter.name in from_start),
        stages=memory(trained),
        device_memory=None if device_memory_gib is None else round(device_memory_gib * GIB),
        flops_causal=flops_per_token(shape, config.data.sequence_length, "causal"),
        flops_full=flops_per_token(shape, config.data.sequence_length, "full"),
        peak=dense_bf16_peak(device_name) if stated_peak is None else stated_peak * 1e12,
        phases=_phases(config),
        notes=_notes(config, frozen=len(from_start) < len(table)),
    )


def _unfreezes(config: Config) -> bool:
    """Whether the run trains everything at some later step."""
    step = config.training.unfreeze_at_step
    return step is not None and step < config.training.steps


def _check_every_stage_trains(stages: Sequence[StageMemory]) -> None:
    """SettingsError for a pipeline stage without trained parameters: its optimizer would have nothing to do."""
    for stage in stages:
        if not stage.trained:
            raise SettingsError(
                f"training.trainable leaves pipeline stage {stage.stage} of {len(stages)} nothing to train; "
                "use fewer pipeline stages, or patterns that reach every stage"
            )


def _phases(config: Config) -> tuple[Phase, ...]:
    """Warm-up, hold, decay and tail of the learning rate; empty stretches are left out."""
    steps, schedule = config.training.steps, config.schedule
    warm = min(schedule.warmup_steps, steps)
    lr, min_lr = f"{config.optimizer.lr:g}", f"{config.optimizer.min_lr:g}"
    curve_end = schedule.decay_steps or steps  # may lie behind the end of the run, or before it
    end = min(curve_end, steps)
    reached = "to" if curve_end <= steps else "towards"
    phases = [Phase(f"warm-up, 0 to {lr}", 0, warm)]
    if schedule.decay == "constant":
        phases.append(Phase(f"constant at {lr}", warm, steps))
    elif schedule.decay == "wsd":
        fall = min(max(curve_end - schedule.cooldown_steps, warm), steps)
        phases += [Phase(f"hold at {lr}", warm, fall), Phase(f"cool-down {reached} {min_lr}, 1 - sqrt", fall, end)]
    else:
        phases.append(Phase(f"{schedule.decay} decay {reached} {min_lr}", warm, end))
    if schedule.decay != "constant":
        phases.append(Phase(f"tail at {min_lr}", end, steps))
    return tuple(phase for phase in phases if phase.last_step > phase.first_step)


def _notes(config: Config, frozen: bool) -> tuple[str, ...]:
    """What a reader of the figures has to know about this job."""
    notes = ["Activations: what the fused kernels keep, attention without an S x S matrix."]
    if config.data.respect_document_boundaries:
        notes.append(
            "FLOPs: every sample is counted as one document; masked attention over shorter ones computes less."
        )
    if frozen:
        notes.append(
            "Frozen layers: FLOPs and days count their weight gradients, which are not computed; both are upper."
        )
    if frozen and _unfreezes(config):
        notes.append(f"Memory is that from step {config.training.unfreeze_at_step:,} on, when everything is trained.")
    if config.model.implementation == "transformer_engine":
        notes.append(
            "transformer_engine keeps other tensors than the operations of this package, which are counted here."
        )
    return tuple(notes)
