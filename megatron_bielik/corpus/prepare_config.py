"""Every option of the corpus pipeline (tools/prepare_corpus.py), once: a dataclass per step, the default, one line of why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

InputFormat = Literal["auto", "jsonl", "parquet", "txt", "warc"]


@dataclass(frozen=True)
class InputSpec:
    """One source of documents.

    Args:
        path: A file, or a folder whose files are read in the order of their names; remote ones as fsspec knows them.
        glob: Which files of a folder; all that `format` reads by default.
        format: auto goes by the suffixes; WARC pages become text through trafilatura (extra [web]).
        text_key: Key or column of the text; a.b is the field b of the object under a.
        id_key: Key or column of the document's name; without one it is file and line.
    """

    path: str
    glob: str | None = None
    format: InputFormat = "auto"
    text_key: str = "text"
    id_key: str = "id"


@dataclass(frozen=True)
class ExecutorConfig:
    """Where the tasks run. Results do not depend on it, nor on workers; they do depend on tasks, which cut the input by files.

    Args:
        kind: local (this machine), slurm (submits jobs and returns), ray (a running cluster).
        tasks: Parts of the input, by whole files; each has its own output file and is resumed by itself.
        workers: Tasks at a time; on Slurm -1 is no limit.
        partition: Slurm partition.
        time: Slurm time limit of a task.
        cpus_per_task: Of Slurm and Ray.
        mem_per_cpu_gb: Of Slurm and Ray, GB.
        venv_path: Environment that Slurm tasks activate; the present one by default.
        sbatch_args: Further options of sbatch.
    """

    kind: Literal["local", "slurm", "ray"] = "local"
    tasks: int = 1
    workers: int = 1
    partition: str = ""
    time: str = "12:00:00"
    cpus_per_task: int = 1
    mem_per_cpu_gb: int = 4
    venv_path: str | None = None
    sbatch_args: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RepairConfig:
    """Encodings, Unicode, line ends, boilerplate lines (corpus/repair.py)."""

    enabled: bool = True


@dataclass(frozen=True)
class AnonymiseConfig:
    """Personal data (corpus/anonymise.py).

    Args:
        enabled: Look for it.
        mode: Typed placeholders, or made-up values of the same format.
        types: Some of the kinds; all by default.
        seed: Of the substitutes.
    """

    enabled: bool = True
    mode: Literal["placeholder", "substitute"] = "placeholder"
    types: list[str] | None = None
    seed: int = 0


# The group's public rules for LOW, as far as one feature says it; fog and words per sentence from both sides.
PUBLIC_RULES: dict[str, list[float]] = {
    "camel_case_count": [0, 10],
    "punctuation_per_word": [0.1, 0.4],
    "symbol_ratio": [0, 0.01],
    "oovs": [0, 0.15],
    "lexical_density": [0.2, 0.8],
    "fog_pl": [0, 14],
    "sentence_length_mean": [5, 35],
}


@dataclass(frozen=True)
class FilterConfig:
    """Ranges of stylometric features (docs/features.md); a document outside of one is dropped for that reason.

    Args:
        enabled: Apply the rules.
        rules: Least and largest value by feature. The default only takes out what is hardly text.
        public_rules: Add the published rules, under which a document is LOW: camel-case words, punctuation, symbols, unknown
            words, lexical density, fog, words per sentence. Strict; with a quality model they are rather not needed.
    """

    enabled: bool = True
    rules: dict[str, list[float]] = field(
        default_factory=lambda: {
            "word_count": [20, 1_000_000],
            "letter_ratio": [0.5, 1.0],
            "replacement_char_ratio": [0, 0.01],
            "looping_suspicion": [0, 0.6],
        }
    )
    public_rules: bool = False


@dataclass(frozen=True)
class ExactDuplicatesConfig:
    """Documents whose normalised text is the same; the first stays."""

    enabled: bool = True


@dataclass(frozen=True)
class NearDuplicatesConfig:
    """MinHash LSH (Broder 1997) over word n-grams; the first document of a cluster stays.

    Args:
        enabled: Look for them.
        n_grams: Words of a shingle.
        num_buckets: Bands: documents that agree in one are joined.
        hashes_per_bucket: Hashes of a band. 14 bands of 8 join documents of similarity 0.75 with probability 0.77.
        seed: Of the hashes.
    """

    enabled: bool = True
    n_grams: int = 5
    num_buckets: int = 14
    hashes_per_bucket: int = 8
    seed: int = 1


@dataclass(frozen=True)
class QualityConfig:
    """HIGH, MEDIUM, LOW (tools/train_quality_classifier.py).

    Args:
        model: The .json file; none leaves the step out.
        min_high: Keep when P(HIGH) is above.
        min_medium: Or P(MEDIUM) is above.
        keep_all: Only add the probabilities.
    """

    model: str | None = None
    min_high: float = 0.5
    min_medium: float = 0.8
    keep_all: bool = False


@dataclass(frozen=True)
class TopicsConfig:
    """What a document is about (tools/train_topic_classifier.py).

    Args:
        model: The .npz file; none leaves the step out.
        least: Below this probability the topic is "Other".
    """

    model: str | None = None
    least: float = 0.2


@dataclass(frozen=True)
class OutputConfig:
    """Where results go.

    Args:
        folder: Gets documents/RRRRR.jsonl(.zst, .gz), report.json, report.md and pictures, and work/ on the way.
        compression: Of the documents.
        features: Also write features/RRRRR.parquet: id and the 200 features of each document.
        tokenizer: Hugging Face folder; the report then counts tokens after every step, which costs time.
        samples: Dropped documents shown per reason.
        keep_work: Keep work/ when all is done; without it a later change of the last steps begins at the first.
    """

    folder: str = "corpus"
    compression: Literal["zst", "gz", "none"] = "zst"
    features: bool = False
    tokenizer: str | None = None
    samples: int = 3
    keep_work: bool = False


@dataclass(frozen=True)
class CorpusConfig:
    """The pipeline: read, repair, anonymise, filter, deduplicate, features, quality and topic scores, write.

    Args:
        input: Sources, read in this order.
        language: Language pack (corpus/languages), or the path of one.
    """

    input: list[InputSpec] = field(default_factory=list)
    language: str = "pl"
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    repair: RepairConfig = field(default_factory=RepairConfig)
    anonymise: AnonymiseConfig = field(default_factory=AnonymiseConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    exact_duplicates: ExactDuplicatesConfig = field(default_factory=ExactDuplicatesConfig)
    near_duplicates: NearDuplicatesConfig = field(default_factory=NearDuplicatesConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    topics: TopicsConfig = field(default_factory=TopicsConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
