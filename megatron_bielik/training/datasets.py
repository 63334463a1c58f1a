"""The data of a run: its training mixture from where it stands, and the fixed batches of every evaluation set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch.distributed as dist
from megatron.core import parallel_state

from megatron_bielik.config import Config
from megatron_bielik.data.batches import Batch, StepLoader
from megatron_bielik.data.epochs import ShardStream, split_documents
from megatron_bielik.data.errors import DataError
from megatron_bielik.data.mixture import Mixture, MixtureState
from megatron_bielik.data.shards import ShardReader
from megatron_bielik.parallel.runtime import Runtime

Streams = dict[str, ShardStream]


def open_data(
    config: Config, runtime: Runtime, step: int, state: MixtureState | None
) -> tuple[StepLoader, dict[str, list[Batch]]]:
    """Open the shards and build the sample orders that are not in the cache yet.

    Args:
        step: Steps done.
        state: Position in the mixture, from a checkpoint.

    Returns:
        The loader of the training steps, and this rank's batches of each evaluation set, the same at every evaluation.

    Raises:
        DataError: A damaged shard, or one with too few tokens.
    """
    parts = _split(config)
    weights = {spec.prefix: spec.weight for spec in config.data.train}
    mixture = Mixture(weights, state)
    training = parts.pop("train")
    held_out = parts if config.training.eval_interval else {}
    if config.training.eval_interval:
        held_out |= {name: {prefix: _stream(config, prefix, None)} for name, prefix in config.data.valid.items()}
    if runtime.local_rank == 0:  # one process per node builds, the others wait and open the files
        # One step more than is left: the loader reads ahead.
        left = (config.training.steps - step + 1) * config.training.global_batch_size
        for prefix, stream in training.items():
            stream.prepare(mixture.consumed[prefix] + math.ceil(left * mixture.weights[prefix]) + 1)
        for members in held_out.values():
            for stream in members.values():
                stream.prepare(1)
    dist.barrier()
    evaluation = {}
    for name, members in held_out.items():
        loader = _loader(config, members, Mixture({prefix: weights.get(prefix, 1.0) for prefix in members}))
        evaluation[name] = [batch for _ in range(config.training.eval_batches) for batch in loader.next_step()]
        loader.close()
    return _loader(config, training, mixture), evaluation


def _split(config: Config) -> dict[str, Streams]:
    """Streams of the training shards' documents by part (train, valid, test) and shard."""
    parts: dict[str, Streams] = {"train": {}}
    for spec in config.data.train:
        ranges = split_documents(len(ShardReader(spec.prefix)), config.data.split)
        if "train" not in ranges:
            raise DataError(
                f"data.split {config.data.split} leaves none of the {len(ShardReader(spec.prefix))} documents of "
                f"{spec.prefix} for training: raise its first share, or leave the shard out of data.train"
            )
        for part, documents in ranges.items():
            parts.setdefault(part, {})[spec.prefix] = _stream(config, spec.prefix, documents)
    return parts


def _stream(config: Config, prefix: str, documents: tuple[int, int] | None) -> ShardStream:
    cache = config.data.index_cache or Path(config.checkpoint.dir) / "index_cache"
    vocabulary = config.model.shape().vocab_size
    return ShardStream(prefix, config.data.sequence_length, config.training.seed, cache, documents, vocabulary)


def _loader(config: Config, streams: Mapping[str, ShardStream], mixture: Mixture) -> StepLoader:
    return StepLoader(
        streams,
        mixture,
        config.training.micro_batch_size,
        config.training.global_batch_size,
        parallel_state.get_data_parallel_rank(),
        parallel_state.get_data_parallel_world_size(),
        config.data.respect_document_boundaries,
    )
