"""Merging models of one shape: linear, task arithmetic and spherical interpolation, planned first, then streamed.

All three are weighted sums of the models' tensors; they differ in where the weights come from:
- linear: w_i, divided by their sum (Wortsman et al. 2022, Model soups: arXiv 2203.05482, is the case of equal ones);
- task arithmetic: base + sum of w_i (model_i - base) (Ilharco et al. 2023, arXiv 2212.04089): the base weighs 1 - sum of w_i;
- slerp: for each tensor, from the angle between the two (Shoemake 1985, Animating rotation with quaternion curves).
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import reduce
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from megatron_bielik.rope_config import with_both_forms
from megatron_bielik.surgery.merge_sources import Source, check_alike, open_source
from megatron_bielik.surgery.model_card import write_model_card
from megatron_bielik.surgery.model_folder import (
    CONFIG,
    HEAD,
    SENTENCEPIECE,
    check_output,
    copy_companions,
    free_bytes,
    output_folder,
    write_json,
)
from megatron_bielik.surgery.safetensors_files import ConversionError, byte_counts, plan_shards, write_safetensors
from megatron_bielik.surgery.weighted_sums import Sum, Term, WeightedSums

Method = Literal["linear", "task-arithmetic", "slerp"]
METHODS: tuple[Method, ...] = ("linear", "task-arithmetic", "slerp")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_Stream: TypeAlias = tuple[str, Iterator[torch.Tensor]]
# Closer to parallel than this, vectors are interpolated linearly, as is usual; the sine of the angle is divided by.
_PARALLEL = 0.9995


@dataclass(frozen=True)
class MergeOptions:
    """What to merge.

    Args:
        models: Hugging Face folders.
        method: linear, task-arithmetic or slerp.
        weights: One for each model; 1 each by default.
        t: For slerp, in their place: the way from the first model (0) to the second (1); 0.5 by default.
        pattern_weights: Others for tensors whose name matches (as file names do: * and ?); the first match holds.
        base: Of task arithmetic.
        normalize: Divide linear weights by their sum.
        dtype: bf16, fp16 or fp32; by default the widest that the models have for a tensor.
        shard_bytes: Largest safetensors file.
    """

    models: tuple[Path, ...]
    method: Method = "linear"
    weights: tuple[float, ...] | None = None
    t: float | None = None
    pattern_weights: tuple[tuple[str, tuple[float, ...]], ...] = ()
    base: Path | None = None
    normalize: bool = True
    dtype: str | None = None
    shard_bytes: int = 5 * 10**9


@dataclass(frozen=True)
class MergePlan:
    """A merge that has been checked and can begin.

    Attributes:
        sources: The models, with a base as the last.
        shapes, dtypes: Of the result's tensors.
        weights: One for each source, by tensor: final ones, but for slerp the number that they are made of.
        rules: Pattern ("*" for the rest), weights as given, and how many tensors follow it.
        notes: What could not be compared.
    """

    options: MergeOptions
    sources: tuple[Source, ...]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    weights: dict[str, tuple[float, ...]]
    rules: list[tuple[str, tuple[float, ...], int]]
    notes: list[str]

    @property
    def tied(self) -> bool:
        """Whether the result's output matrix is its embedding matrix."""
        return HEAD not in self.shapes

    @property
    def output_bytes(self) -> int:
        """Size of the result's tensors."""
        return sum(byte_counts(self.shapes, self.dtypes).values())

    @property
    def shards(self) -> int:
        """Number of safetensors files."""
        return len(plan_shards(self.shapes, self.dtypes, self.options.shard_bytes))

    @property
    def parameters(self) -> int:
        """Elements of the result's tensors."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    def describe(self, output: Path) -> list[str]:
        """Lines for the user. Raises ConversionError if the output cannot be written."""
        check_output(output, self.output_bytes)
        rules = [f"  {pattern}: {_text(weights)} ({count} tensors)" for pattern, weights, count in self.rules]
        types = ", ".join(sorted({str(dtype).removeprefix("torch.") for dtype in self.dtypes.values()}))
        return [
            f"{self.options.method} of {', '.join(str(source.folder) for source in self.sources)}",
            *rules,
            f"{len(self.shapes)} tensors, {self.parameters:,} parameters, {types}, "
            f"{'tied' if self.tied else 'untied'} embeddings",
            f"{self.output_bytes / 1e9:.3f} GB in {self.shards} files -> {output} "
            f"({free_bytes(output) / 1e9:,.1f} GB free)",
            *(f"note: {note}" for note in self.notes),
        ]


def plan_merge(options: MergeOptions) -> MergePlan:
    """Open and compare the models, without reading a weight.

    Raises:
        ConversionError: The models differ or are damaged, or the options do not fit them.
    """
    _check_options(options)
    sources = tuple(open_source(folder) for folder in (*options.models, *([options.base] if options.base else [])))
    notes = check_alike(sources)
    fullest = next((source for source in sources if not source.tied), sources[0])
    shapes = {name: fullest.reader.shape(name) for name in fullest.names()}
    dtypes = {name: _dtype(options, sources, name) for name in shapes}
    given = [*options.pattern_weights, ("*", _for_the_rest(options))]
    counts = [0] * len(given)
    weights = {}
    for name in shapes:
        rule = next(number for number, (pattern, _) in enumerate(given) if fnmatchcase(name, pattern))
        counts[rule] += 1
        weights[name] = _final(options, given[rule][1])
    for (pattern, _), count in zip(given[:-1], counts, strict=False):
        if not count:
            raise ConversionError(
                f"--pattern-weights {pattern!r} is the first match of no tensor; names look like {next(iter(shapes))}"
            )
    rules = [(pattern, values, count) for (pattern, values), count in zip(given, counts, strict=True) if count]
    return MergePlan(options, sources, shapes, dtypes, weights, rules, notes)


def parse_pattern_weights(text: str) -> tuple[str, tuple[float, ...]]:
    """A pattern and its weights from the form PATTERN=0.5,0.3,0.2. Raises ConversionError, naming the form."""
    pattern, _, values = text.rpartition("=")
    try:
        weights = tuple(float(value) for value in values.split(","))
    except ValueError:
        weights = ()
    if not pattern or not weights:
        raise ConversionError(f"--pattern-weights {text!r}: write PATTERN=0.5,0.3,0.2, a weight for each model")
    return pattern, weights


def merge(
    plan: MergePlan, output: Path, progress: Callable[[int, int], None] = lambda done, total: None, threads: int = 0
) -> None:
    """Write the merged model: weights, config, the first model's tokenizer, and a model card that says what it is made of.

    Args:
        output: New folder; appears when it is complete.
        progress: Called with tensors done and in all.
        threads: Of the arithmetic; as many as there are cores by default, at most 8.

    Raises:
        ConversionError: The output exists, the disk is too small, or the models differ in tensors of whole numbers.
    """
    first, total = plan.sources[0], len(plan.shapes)
    with (
        output_folder(output, plan.output_bytes) as folder,
        WeightedSums(threads or min(8, os.cpu_count() or 1)) as pool,
    ):
        copy_companions(first.folder, folder)
        _copy_sentencepiece(plan.sources, folder)
        wanted = []
        for name in plan.shapes:
            terms = [Term(source.reader, source.stored_name(name), 1.0) for source in plan.sources]
            weights = plan.weights[name]
            if plan.options.method == "slerp":
                weights = slerp_weights(*pool.products(*terms), weights[0])
            weighed = [Term(term.reader, term.name, weight) for term, weight in zip(terms, weights, strict=True)]
            wanted.append(Sum(name, plan.shapes[name], plan.dtypes[name], weighed))
        tensors = _counted(pool.sums(wanted), total, progress)
        write_safetensors(folder, plan.shapes, plan.dtypes, tensors, plan.options.shard_bytes)
        floats = {dtype for dtype in plan.dtypes.values() if dtype.is_floating_point}
        kind = str(reduce(torch.promote_types, floats)).removeprefix("torch.")
        kept = {name: value for name, value in first.config.items() if name != "torch_dtype"}
        write_json(folder / CONFIG, with_both_forms(kept | {"dtype": kind, "tie_word_embeddings": plan.tied}))
        write_model_card(folder, plan.options, plan.sources, plan.rules)


def _copy_sentencepiece(sources: Sequence[Source], folder: Path) -> None:
    """tokenizer.model from the first source that has it: llama.cpp needs it, and their vocabularies are one."""
    found = [path for source in sources if (path := source.folder / SENTENCEPIECE).is_file()]
    if found and not (folder / SENTENCEPIECE).exists():
        shutil.copyfile(found[0], folder / SENTENCEPIECE)


def _counted(tensors: Iterable[_Stream], total: int, progress: Callable[[int, int], None]) -> Iterator[_Stream]:
    for done, item in enumerate(tensors, start=1):
        progress(done, total)  # before the yield: nobody comes back after the last one
        yield item


def slerp_weights(aa: float, bb: float, ab: float, t: float) -> tuple[float, float]:
    """Weights of two vectors in their spherical interpolation: sin((1 - t) angle) / sin(angle) and sin(t angle) / sin(angle).

    The lengths stay those of the vectors: their directions alone are interpolated on the sphere. Vectors that are nearly
    parallel or opposite, or of no length, are interpolated linearly.

    Args:
        aa, bb, ab: Inner products.
        t: 0 gives the first vector, 1 the second.
    """
    cosine = ab / math.sqrt(aa * bb) if aa * bb > 0 else 1.0
    if not abs(cosine) <= _PARALLEL:  # also where infinite elements make it NaN
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def _check_options(options: MergeOptions) -> None:
    method, models = options.method, len(options.models)
    needed = 1 if method == "task-arithmetic" else 2
    if models < needed or (method == "slerp" and models != 2):
        raise ConversionError(
            f"--models names {models}, --method {method} needs {'exactly' if method == 'slerp' else 'at least'} {needed}"
        )
    if (options.base is not None) != (method == "task-arithmetic"):
        raise ConversionError(
            "--method task-arithmetic needs --base, the model that the others began from"
            if options.base is None
            else f"--base belongs to --method task-arithmetic, the method is {method}"
        )
    if method != "slerp" and options.t is not None:
        raise ConversionError(f"--t belongs to --method slerp, the method is {method}: use --weights")
    if method == "slerp" and options.weights is not None:
        raise ConversionError("--method slerp takes one number, --t, in place of --weights")
    count, what = (1, "one number (--t)") if method == "slerp" else (models, f"{models}, one for each of --models")
    for option, values in [
        ("--t" if method == "slerp" else "--weights", _for_the_rest(options)),
        *((f"--pattern-weights {pattern!r}", values) for pattern, values in options.pattern_weights),
    ]:
        if len(values) != count:
            raise ConversionError(f"{option} has {len(values)} weights, {what} is needed")
        size = sum(map(abs, values))
        if not math.isfinite(size):
            raise ConversionError(f"{option} is {_text(values)}: weights and their sum must be finite")
        # Not only exactly 0: in floats, 0.1 + 0.2 - 0.3 is a little more.
        if method == "linear" and options.normalize and abs(math.fsum(values)) <= 1e-12 * size:
            raise ConversionError(
                f"{option} is {_text(values)}, which adds up to 0: use --no-normalize or other weights"
            )


def _for_the_rest(options: MergeOptions) -> tuple[float, ...]:
    """Weights, as given, of tensors that no pattern matches."""
    if options.method == "slerp":
        return (0.5 if options.t is None else options.t,)
    return options.weights or (1.0,) * len(options.models)


def _final(options: MergeOptions, given: Sequence[float]) -> tuple[float, ...]:
    """The weight of each source."""
    if options.method == "task-arithmetic":
        return (*given, 1 - math.fsum(given))
    if options.method == "linear" and options.normalize:
        return tuple(weight / math.fsum(given) for weight in given)
    return tuple(given)


def _dtype(options: MergeOptions, sources: Sequence[Source], name: str) -> torch.dtype:
    found = [source.reader.stored_dtype(source.stored_name(name)) for source in sources]
    if options.dtype and found[0].is_floating_point:
        return DTYPES[options.dtype]
    return reduce(torch.promote_types, found)


def _text(weights: Sequence[float]) -> str:
    return " ".join(f"{weight:g}" for weight in weights)
