"""The corpus pipeline as stages of tasks, run by datatrove on this machine, Slurm or Ray.

    clean            read, repair, anonymise, filter
    exact-*          signatures of the texts; which of equal ones stays
    near-*           MinHash signatures; buckets; clusters
    score            duplicates dropped, quality and topics, features, documents written
    finish           documents put in place, report

Each stage works in a folder named after what it depends on (work/NAME-HASH): options, inputs and the stages before. Started
again after an interruption, or with other options, the pipeline does what is not there yet.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupFilter
from datatrove.pipeline.dedup.minhash import MinhashConfig

from megatron_bielik.corpus import steps
from megatron_bielik.corpus.duplicates import KeepFirst, MinhashSignature
from megatron_bielik.corpus.exact import DropCopies, ExactSignature, FindFirst, exact_config
from megatron_bielik.corpus.features import FEATURE_NAMES, FEATURE_VERSION
from megatron_bielik.corpus.language import load_language
from megatron_bielik.corpus.prepare_config import PUBLIC_RULES, CorpusConfig
from megatron_bielik.corpus.prepare_report import write_report
from megatron_bielik.corpus.scoring import Thresholds
from megatron_bielik.corpus.sources import located, reader
from megatron_bielik.corpus.step_log import read_logs
from megatron_bielik.data.errors import DataError

_FORMAT = 2  # of what stands in work/; another number makes all of it anew
_SUFFIXES = {"zst": ".zst", "gz": ".gz", "none": ""}


@dataclass(frozen=True)
class Stage:
    """Steps that run as tasks one after the other, when the stages before are done.

    Args:
        name: Of the stage.
        steps: datatrove's pipeline.
        tasks: How many; 0 is the last stage, a call in one task.
        folder: Its logs and marks of what is done.
    """

    name: str
    steps: list[PipelineStep]
    tasks: int
    folder: Path


@dataclass(frozen=True)
class Plan:
    """All stages and where they end. documents: folder of the last stage; fingerprint: of all that the result depends on."""

    config: CorpusConfig
    stages: list[Stage]
    logs: list[Path]
    documents: Path
    features: Path | None
    fingerprint: str

    @property
    def output(self) -> Path:
        """Folder of the results."""
        return Path(self.config.output.folder)


def check(config: CorpusConfig) -> None:
    """Raise DataError for options that cannot be used together; nothing is read or written."""
    if not config.input:
        raise DataError("input is empty, needs one source or more: --config FILE with `input: [{path: ...}]`")
    if config.executor.tasks < 1:
        raise DataError(f"executor.tasks is {config.executor.tasks}, needs at least 1")
    if config.executor.kind == "local" and config.executor.workers < 1:
        raise DataError(f"executor.workers is {config.executor.workers}, needs at least 1 on this machine")
    if config.executor.kind == "slurm" and not config.executor.partition:
        raise DataError("executor.partition is empty, Slurm needs one")
    for name, bounds in config.filter.rules.items():
        if name not in FEATURE_NAMES:
            raise DataError(f"filter.rules names {name}, which is no feature; docs/features.md lists them")
        if len(bounds) != 2 or not bounds[0] <= bounds[1]:
            raise DataError(f"filter.rules.{name} is {bounds}, needs the least and the largest value")
    load_language(config.language)
    Thresholds(config.quality.min_high, config.quality.min_medium)
    for option, path in (("quality.model", config.quality.model), ("topics.model", config.topics.model)):
        if path is not None and not Path(path).is_file():
            raise DataError(f"{option} is {path}, which is no file; train one, or set it to null")
    if config.output.tokenizer is not None and not (Path(config.output.tokenizer) / "tokenizer.json").is_file():
        raise DataError(f"output.tokenizer is {config.output.tokenizer}, needs a folder with tokenizer.json")


def make_plan(config: CorpusConfig) -> Plan:
    """Stages for a configuration. Raises DataError for options or inputs that cannot be used."""
    check(config)
    tasks, suffix = config.executor.tasks, _SUFFIXES[config.output.compression]
    work = Path(config.output.folder) / "work"
    rules = config.filter.rules | (PUBLIC_RULES if config.filter.public_rules else {})
    identity = _Identity(
        _FORMAT,
        FEATURE_VERSION,
        load_language(config.language).digest(),
        tasks,
        config.output.tokenizer,
        config.output.samples,
        config.output.compression,
    )
    identity.add([asdict(spec) for spec in config.input], _inputs(config))
    identity.add(
        asdict(config.repair), asdict(config.anonymise), asdict(config.filter), rules if config.filter.enabled else None
    )
    stages, logs = list[Stage](), list[Path]()

    def folder(name: str) -> Path:
        return work / f"{name}-{identity}"

    def observed(step: PipelineStep, name: str, where: Path, reason: str = "") -> PipelineStep:
        order = len(stages) * 10 + len(pipeline)
        return steps.Observed(
            step, name, order, where / "counts", config.output.samples, config.output.tokenizer, reason
        )

    pipeline: list[PipelineStep] = []
    clean = folder("clean")
    logs.append(clean / "counts")
    for wanted, step in (
        (True, steps.Read(_readers(config))),
        (config.repair.enabled, steps.Repair()),
        (config.anonymise.enabled, steps.Anonymise(config.anonymise)),
        (config.filter.enabled, steps.FeatureFilter(config.language, rules)),
    ):
        if wanted:
            pipeline.append(observed(step, step.name, clean))
    dropping: list[tuple[Callable[[], PipelineStep], str, str]] = []
    if config.exact_duplicates.enabled or config.near_duplicates.enabled:
        pipeline.append(steps.WriteDocuments(clean / "documents", ".zst"))
        stages.append(Stage("clean", pipeline, tasks, clean))
        read = steps.ReadDocuments(clean / "documents", ".zst")
        if config.exact_duplicates.enabled:
            identity.add("exact duplicates")
            stages += _exact_stages(read, tasks, folder("exact"))
            found = folder("exact") / "found"
            dropping.append((lambda: DropCopies(str(found)), "exact duplicates", "exact duplicate"))
        if config.near_duplicates.enabled:
            identity.add(asdict(config.near_duplicates))
            before = [make() for make, *_ in dropping]
            stages += _near_stages(read, before, config, folder("near"))
            clusters = folder("near") / "clusters"
            dropping.append((lambda: MinhashDedupFilter(str(clusters)), "near duplicates", "near duplicate"))
        pipeline = [read]
    identity.add(
        asdict(config.quality), _content(config.quality.model), asdict(config.topics), _content(config.topics.model)
    )
    identity.add(config.output.features)
    score = folder("score")
    logs.append(score / "counts")
    for make, name, reason in dropping:
        pipeline.append(observed(make(), name, score, reason))
    if config.quality.model or config.topics.model:
        step = steps.Score(config.quality, config.topics, config.language)
        pipeline.append(observed(step, step.name, score))
    if config.output.features:
        pipeline.append(steps.WriteFeatures(score / "features", config.language))
    pipeline.append(steps.WriteDocuments(score / "documents", suffix))
    stages.append(Stage("score", pipeline, tasks, score))
    features = score / "features" if config.output.features else None
    plan = Plan(config, stages, logs, score / "documents", features, str(identity))
    return replace(plan, stages=[*stages, Stage("finish", [Finish(plan)], 1, folder("finish"))])


def _exact_stages(read: PipelineStep, tasks: int, folder: Path) -> list[Stage]:
    ranges = min(tasks, 16)
    signatures, found = str(folder / "signatures"), str(folder / "found")
    sign = ExactSignature(signatures, exact_config(), ranges)
    find = FindFirst(signatures, found, config=exact_config())
    return [
        Stage("exact-signatures", [read, sign], tasks, folder / "logs-signatures"),
        Stage("exact-find", [find], ranges, folder / "logs-find"),
    ]


def _near_stages(read: PipelineStep, before: list[PipelineStep], config: CorpusConfig, folder: Path) -> list[Stage]:
    near = config.near_duplicates
    minhash = MinhashConfig(
        n_grams=near.n_grams, num_buckets=near.num_buckets, hashes_per_bucket=near.hashes_per_bucket, seed=near.seed
    )
    signatures, buckets, clusters = (str(folder / name) for name in ("signatures", "buckets", "clusters"))
    sign = MinhashSignature(signatures, minhash)
    return [
        Stage("near-signatures", [read, *before, sign], config.executor.tasks, folder / "logs-signatures"),
        Stage(
            "near-buckets",
            [MinhashDedupBuckets(signatures, buckets, config=minhash)],
            near.num_buckets,
            folder / "logs-buckets",
        ),
        Stage("near-clusters", [KeepFirst(buckets, clusters, config=minhash)], 1, folder / "logs-clusters"),
    ]


class _Identity:
    """A hash of everything added so far."""

    def __init__(self, *content: Any) -> None:
        self._hash = hashlib.sha256()
        self.add(*content)

    def add(self, *content: Any) -> None:
        self._hash.update(json.dumps(content, sort_keys=True).encode())

    def __str__(self) -> str:
        return self._hash.hexdigest()[:12]


def _readers(config: CorpusConfig) -> dict[str, PipelineStep]:
    """A reader for each source, by a name that tells it from the others."""
    made: dict[str, PipelineStep] = {}
    for number, spec in enumerate(config.input, 1):
        name = f"{spec.path}/{spec.glob}" if spec.glob else spec.path
        made[f"{name} (source {number})" if name in made else name] = reader(spec)
    return made


def _inputs(config: CorpusConfig) -> list[Any]:
    """Names, sizes and times of all input files."""
    found = []
    for spec in config.input:
        folder, name = located(spec)
        for file in folder.list_files(glob_pattern=name):
            info = folder.info(file)
            found.append([spec.path, file, info.get("size"), str(info.get("mtime", info.get("LastModified", "")))])
    return found


def _content(path: str | None) -> str | None:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else None


class Finish(PipelineStep):
    """The last stage: puts documents and features in their place, writes the report, removes work/."""

    type = "🪵 - CORPUS"
    name = "finish"

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Documents first, report.json last: where it stands, all is there.

        Raises:
            DataError: A source without a document; an earlier result stays as it is.
        """
        plan, output = self.plan, self.plan.output
        logs = [log for folder in plan.logs for log in read_logs(folder, plan.config.output.samples)]
        if empty := [source for source, documents in logs[0].changes.items() if not documents]:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in logs[0].dropped.items())
            raise DataError(
                f"input {' and '.join(empty)}: no document (passed over in all sources: {reasons or 'nothing'}); is text_key "
                "right?"
            )
        for source in (plan.documents, plan.features):
            if source is not None and source.exists():
                target = output / source.name
                if target.exists():
                    shutil.rmtree(target)
                source.rename(target)
        write_report(output, logs, plan.config, plan.fingerprint)


def finished(plan: Plan) -> dict[str, Any] | None:
    """The report of an earlier run of the same work; none where there is no such report."""
    path = plan.output / "report.json"
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        report = {}
    return report if report.get("fingerprint") == plan.fingerprint else None
