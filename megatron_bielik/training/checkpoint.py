"""Saves and loads the sharded state of a run; what is saved under one layout loads under any other.

Keys are global names (decoder.layers.7.mlp.linear_fc1.weight, optimizer.state.exp_avg.<name>) with each rank's slices, in
megatron-core's distributed format. Folders appear under their name, and `latest` moves, only when every rank is done.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedBase, ShardedObject, ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue, AsyncRequest
from megatron.core.optimizer import MegatronOptimizer, param_group_identifier_keys
from torch.distributed.checkpoint.api import CheckpointException

from megatron_bielik import checkpoint_files as files
from megatron_bielik.checkpoint_files import CheckpointError
from megatron_bielik.model.gpt import BielikModel
from megatron_bielik.presets import ModelShape
from megatron_bielik.training.results_queue import start_results_queue

_SHARDING = {
    # A key per layer, so that tools can read one layer at a time.
    "non_homogeneous_layers": True,
    # The only optimizer format that loads under another tensor- or pipeline-parallel layout.
    "distrib_optim_sharding_type": "fully_reshardable",
    # Gather optimizer shards in host memory of the first data-parallel rank, not on every device.
    "distrib_optim_fully_reshardable_mem_efficient": True,
    "chained_optim_avoid_prefix": True,
}


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        root: Folder that holds step_* and latest.
        keep_last, keep_every: See CheckpointConfig.
        asynchronous: Write in a background process while training goes on.

    Attributes:
        notices: What a start found or did in the folder that the user should know, on rank 0.
    """

    def __init__(self, root: Path, keep_last: int, keep_every: int, asynchronous: bool) -> None:
        self._root, self._keep_last, self._keep_every = root, keep_last, keep_every
        self.notices: list[str] = []
        self._asynchronous = asynchronous
        self._queue = AsyncCallsQueue(persistent=False)
        start_results_queue()

    def save(
        self,
        step: int,
        shape: ModelShape,
        chunks: Sequence[BielikModel],
        optimizer: MegatronOptimizer,
        common: dict[str, Any],
        write_companions: Callable[[Path], None],
    ) -> None:
        """Save a step. With asynchronous writing the call returns before the files are complete.

        Args:
            common: Plain data, equal on every rank.
            write_companions: Called on rank 0 with the unfinished folder: run.yaml, tokenizer.

        Raises:
            CheckpointError: It cannot be written; also from poll, finish and close.
        """
        with self._failures_in_one_line():
            self._finalize(wait=True)
            name = files.name_of_step(step)
            unfinished = self._root / f".writing-{name}"
            if dist.get_rank() == 0:
                self._root.mkdir(parents=True, exist_ok=True)
                for left_over in self._root.glob(".writing-*"):
                    shutil.rmtree(left_over)
                unfinished.mkdir()
            dist.barrier()
            state = _model_state(chunks)
            state["optimizer"] = optimizer.sharded_state_dict(state, metadata=_SHARDING)
            # Only the first data-parallel rank holds the gathered states; the plain part must look alike on all.
            state["optimizer"]["param_state"] = state["optimizer"]["param_state"] or {}
            state["common"] = common
            request: AsyncRequest | None = dist_checkpointing.save(
                state, str(unfinished), async_sharded_save=self._asynchronous, content_metadata=dict(_SHARDING)
            )

            def complete() -> None:
                self._complete(unfinished, name, step, shape, write_companions)

            if request is None:
                complete()
            else:
                request.finalize_fns.append(complete)
                self._queue.schedule_async_request(request)

    def poll(self) -> None:
        """Complete a background save if all ranks have written their part. To be called at the same step on every rank."""
        with self._failures_in_one_line():
            self._finalize(wait=False)

    def finish(self) -> None:
        """Wait for a background save."""
        with self._failures_in_one_line():
            self._finalize(wait=True)

    def _finalize(self, wait: bool) -> None:
        if self._queue.get_num_unfinalized_calls():
            self._queue.maybe_finalize_async_calls(blocking=wait)

    @contextmanager
    def _failures_in_one_line(self) -> Iterator[None]:
        """A full disk and the like as CheckpointError; nothing that was complete is touched."""
        try:
            yield
        except (OSError, CheckpointException) as error:
            causes = (
                [cause for cause, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
            )
            cause = str(causes[0] if causes else error).splitlines()[0]
            newest = files.latest_checkpoint(self._root)
            left = f"the newest complete one is {newest.name}" if newest else "there is no complete one yet"
            raise CheckpointError(
                f"cannot write a checkpoint under {self._root}: {cause}; {left}; make room and start the same command again"
            ) from None

    def close(self) -> None:
        """Wait for a background save and end its process."""
        self.finish()
        self._queue.close()

    def latest(self) -> Path | None:
        """The checkpoint to go on from, as rank 0 sees it: on a shared file system another rank may see an older one.

        A lost pointer is written again.
        """
        found: list[Path | None] = [None]
        if dist.get_rank() == 0:
            newest = found[0] = files.latest_checkpoint(self._root)
            if newest is not None and not (self._root / files.LATEST).is_file():
                files.point_latest(self._root, newest.name)
                self.notices.append(
                    f"{self._root / files.LATEST} was missing: {newest.name}, the newest complete checkpoint, is taken and "
                    "the pointer written again"
                )
        dist.broadcast_object_list(found, src=0)
        return found[0]

    def set_aside_after(self, step: int) -> None:
        """Rename checkpoints of later steps, left by a run that was taken back to this one: they are no part of it now."""
        if dist.get_rank() == 0 and self._root.is_dir():
            for path in sorted(self._root.iterdir()):
                later = files.step_of_name(path.name)
                if later is not None and later > step:
                    self.notices.append(
                        f"{path.name} is later than step {step}: renamed to {files.set_aside(path).name}"
                    )
        dist.barrier()

    def _complete(
        self, unfinished: Path, name: str, step: int, shape: ModelShape, write_companions: Callable[[Path], None]
    ) -> None:
        rank, world = dist.get_rank(), dist.get_world_size()
        names: list[list[str]] = [[]]
        if rank == 0:
            write_companions(unfinished)
            names = [files.payload_files(unfinished)]
        dist.broadcast_object_list(names, src=0)  # one listing, so that no file is left out
        sums: list[dict[str, str]] = [{}] * world
        dist.all_gather_object(sums, files.checksums(unfinished, names[0][rank::world]))
        if rank == 0:
            files.write_checksums(unfinished, {name: value for part in sums for name, value in part.items()})
            files.write_description(unfinished, shape, step)
            final = self._root / name
            if final.exists():  # the same step saved again
                files.set_aside(final)
            unfinished.rename(final)
            files.point_latest(self._root, name)
            self._remove_old(name)
        dist.barrier()

    def _remove_old(self, newest: str) -> None:
        steps = sorted(step for path in self._root.iterdir() if (step := files.step_of_name(path.name)) is not None)
        keep = set(steps[-self._keep_last :] if self._keep_last else steps)
        for step in steps:
            permanent = self._keep_every > 0 and step % self._keep_every == 0
            if step not in keep and not permanent and files.name_of_step(step) != newest:
                shutil.rmtree(self._root / files.name_of_step(step))


def load(
    checkpoint: Path,
    shape: ModelShape,
    chunks: Sequence[BielikModel],
    optimizer: MegatronOptimizer | None,
    verify: bool,
) -> dict[str, Any]:
    """Fill model and optimizer from a checkpoint written under any layout.

    Without an optimizer only the weights are read. Parameters that were frozen when it was written have no moments there:
    theirs start at zero, and their fp32 master weights from the weights.

    Returns:
        The plain data given to save().

    Raises:
        CheckpointError: Damaged, unsafe, of another shape, or tensors are missing.
    """
    _check(checkpoint, shape, verify)
    state = _model_state(chunks)
    available = set(dist_checkpointing.load_tensors_metadata(str(checkpoint)))
    missing = sorted({leaf.key for leaf in _leaves(state)} - available)
    if missing:
        raise CheckpointError(f"{checkpoint} lacks {len(missing)} tensors of the model, the first is {missing[0]}")
    if optimizer is not None:
        state["optimizer"] = optimizer.sharded_state_dict(state, is_loading=True, metadata=_SHARDING)
        never_stored = _take_out_missing(state["optimizer"]["param_state"], available, chunks)
    loaded = _read(state, checkpoint)
    for number, chunk in enumerate(chunks):
        chunk.load_state_dict(loaded[f"model{number}"], strict=False)
    if optimizer is not None:
        param_state = loaded["optimizer"].pop("param_state", {})
        for number, tensors in never_stored.items():
            param_state.setdefault(number, {}).update(tensors)
        _load_optimizer(optimizer, loaded["optimizer"], param_state)
    return loaded.get("common", {})


def _read(state: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """dist_checkpointing.load, with what torch refuses to unpickle told in one line."""
    try:
        return dist_checkpointing.load(state, str(checkpoint))
    except CheckpointException as error:
        refused = [cause for cause, _ in error.failures.values() if isinstance(cause, pickle.UnpicklingError)]
        if not refused:
            raise
        raise CheckpointError(f"{checkpoint} {files.refused_content(refused[0])}; do not load it") from None


def _load_optimizer(
    optimizer: MegatronOptimizer, state: dict[str, Any], param_state: dict[int, dict[str, torch.Tensor]]
) -> None:
    """optimizer.load_state_dict, around what megatron-core 0.16.1 does wrong with torch's AdamW.

    It looks for AdamW's per-parameter `step` among the stored tensors, where there is none, and gives all parameters one
    step tensor, which AdamW would then count up once per parameter.
    """
    (part,) = optimizer.chained_optimizers
    # Groups of parameters that were all frozen when it was written: norms and biases after a stage of matrices alone.
    groups = state["optimizer"]["param_groups"]
    stored = {_kind_of_group(group) for group in groups}
    own = [group for group in part.param_groups if _kind_of_group(group) not in stored]
    groups += [{**group, "step": groups[0]["step"]} for group in own]
    part.load_state_dict(state)
    states = part.optimizer.state.items()
    steps = {parameter: moments.pop("step") for parameter, moments in states if "step" in moments}
    part.load_parameter_state_from_fully_reshardable(param_state)
    for parameter, step in steps.items():
        part.optimizer.state[parameter]["step"] = step.clone()


def _kind_of_group(group: dict[str, Any]) -> tuple[Any, ...]:
    """What megatron-core tells parameter groups apart by."""
    return tuple(group[key] for key in param_group_identifier_keys)


def _check(checkpoint: Path, shape: ModelShape, verify: bool) -> None:
    """Raise CheckpointError on every rank if any rank finds the checkpoint unfit."""
    problem: str | None = None
    try:
        files.refuse_code(checkpoint)
        stored, _ = files.read_description(checkpoint)
        for name, value in vars(shape).items():
            # Context length is no property of the weights.
            if getattr(stored, name) != value and name != "max_position_embeddings":
                raise CheckpointError(
                    f"{checkpoint} has model.{name} {getattr(stored, name)}, this run {value}: use the shape it was saved with"
                )
        if verify:
            damaged = files.damaged_files(checkpoint, dist.get_rank(), dist.get_world_size())
            if damaged:
                raise CheckpointError(
                    f"{checkpoint / damaged[0]} is not what was written (checksum); write another step's folder name into "
                    f"{checkpoint.parent / files.LATEST}"
                )
    except CheckpointError as error:
        problem = str(error)
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    for found in problems:
        if found is not None:
            raise CheckpointError(found)


def _model_state(chunks: Sequence[BielikModel]) -> dict[str, Any]:
    """Sharded weights of the chunks. Objects are left out: only tensors and plain data are ever stored."""
    return {
        f"model{number}": {
            key: value
            for key, value in chunk.sharded_state_dict(metadata=dict(_SHARDING)).items()
            if not isinstance(value, ShardedObject)
        }
        for number, chunk in enumerate(chunks)
    }


def _leaves(state: Any) -> Iterator[ShardedTensor]:
    if isinstance(state, ShardedTensorFactory):
        yield from _leaves(state.build())
    elif isinstance(state, ShardedTensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _leaves(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _leaves(value)


def _take_out_missing(
    param_state: dict[int, dict[str, ShardedBase]], available: set[str], chunks: Sequence[BielikModel]
) -> dict[int, dict[str, torch.Tensor]]:
    """Take what the checkpoint has no optimizer state for out of the request.

    Returns:
        Its values from which training starts, in the same structure: moments zero, master weights the weights. They share
        storage with the model's weights and are to be read after those were loaded.
    """
    weights = {name: parameter for chunk in chunks for name, parameter in chunk.global_names()}
    missing: dict[int, dict[str, torch.Tensor]] = {}
    for number, tensors in param_state.items():
        for kind in [kind for kind, sharded in tensors.items() if sharded.key not in available]:
            weight = weights[tensors.pop(kind).key.removeprefix(f"optimizer.state.{kind}.")].detach()
            missing.setdefault(number, {})[kind] = torch.zeros_like(weight) if kind.startswith("exp_avg") else weight
    return missing
