"""From text to a folder with a tokenizer of APT4's kind, tried on the spot: tokenizer.model and tokenizer.json.

The folder appears under its name only when both have given identical ids, and every text back, on the sample and on a set
of difficult strings.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from megatron_bielik.data.encode import NASTY
from megatron_bielik.tokenizer.fast import fast_tokenizer, write_folder
from megatron_bielik.tokenizer.sample import draw_sample, parse_sources
from megatron_bielik.tokenizer.sentencepiece_model import (
    ESCAPES,
    LINE_ENDS,
    SPECIAL_TOKENS,
    TokenizerError,
    require_room,
    train_model,
)

_CHECKED_BYTES = 4_000_000  # of the sample; a few seconds
_CHECKED_LENGTH = 1 << 18  # bytes of one document
_AT_ONCE = 256  # documents encoded in one call
_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


@dataclass(frozen=True)
class TrainOptions:
    """What tools/train_tokenizer.py is given.

    Attributes:
        inputs: Files or patterns, each with =WEIGHT or none of them; see sample.draw_sample.
        output: Folder to write; it must not be there yet, or be empty.
        vocab_size: Entries wanted.
        max_bytes: Text to train on, in all.
        seed: Chooses the sample.
        json_key: Key of the text in a JSON line, column of a parquet file.
    """

    inputs: tuple[str, ...]
    output: Path
    vocab_size: int = 32_000
    max_bytes: int = 1_000_000_000
    seed: int = 0
    json_key: str = "text"


@dataclass(frozen=True)
class TrainSummary:
    """What came of it: entries, and what was counted over the part of the sample on which the two forms were compared."""

    entries: int
    characters: int
    tokens: int
    byte_tokens: int

    @property
    def characters_per_token(self) -> float:
        return self.characters / max(self.tokens, 1)

    @property
    def byte_rate(self) -> float:
        """Share of tokens that are bytes of characters without a token; line ends, which are bytes always, are left out."""
        return self.byte_tokens / max(self.tokens, 1)


def train_tokenizer(
    options: TrainOptions,
    say: Callable[[str], object] = lambda line: None,
    advance: Callable[[int], object] | None = None,
) -> TrainSummary:
    """Draw the sample, train on it, check, write the folder.

    Args:
        options: What to do.
        say: Told what goes on, a line each.
        advance: Told how many more bytes of text were read.

    Raises:
        TokenizerError: Options or inputs that cannot be used; or the two forms differ.
        DataError: An input that is damaged.
    """
    _require_free(options.output)  # before minutes are spent
    require_room(options.vocab_size)
    if options.max_bytes <= 0:
        raise TokenizerError(f"--max-megabytes is {options.max_bytes / 1e6:g}, needs to be above 0")
    begun = time.monotonic()
    sources = parse_sources(options.inputs)
    sample = draw_sample(sources, options.max_bytes, options.seed, options.json_key, advance)
    seconds = max(time.monotonic() - begun, 1e-3)
    for note in sample.notes:
        say(note)
    say(
        f"sample: {sample.size / 1e6:,.1f} MB of the {sample.read_bytes / 1e6:,.1f} MB read at "
        f"{sample.read_bytes / 1e6 / seconds:,.0f} MB/s, {sample.bad_records:,} bad records skipped"
    )
    return build_tokenizer(sample.texts, options.vocab_size, options.output, say)


def build_tokenizer(
    texts: Sequence[bytes], vocab_size: int, folder: Path, say: Callable[[str], object] = lambda line: None
) -> TrainSummary:
    """Train on UTF-8 texts and write a folder that AutoTokenizer loads; raises as train_tokenizer does."""
    _require_free(folder)
    size, begun = sum(map(len, texts)) / 1e6, time.monotonic()
    model = train_model((text.decode() for text in texts), vocab_size)
    seconds = max(time.monotonic() - begun, 1e-3)
    say(f"trained on {size:,.1f} MB in {seconds:.1f} s ({size / seconds:,.1f} MB/s)")
    tokenizer = fast_tokenizer(model)
    begun = time.monotonic()
    summary = check(model, tokenizer, _part_of(texts))
    if summary.entries < vocab_size:
        say(
            f"the sample gives {summary.entries:,} entries, not {vocab_size:,}: every word is a token already; give more text"
        )
    say(f"tokenizer.model and tokenizer.json agree and are lossless (checked in {time.monotonic() - begun:.1f} s)")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left behind by a run that was killed
    temporary.mkdir(parents=True)
    try:
        write_folder(model, tokenizer, temporary)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return summary


def check(model: bytes, tokenizer: Tokenizer, texts: Sequence[str]) -> TrainSummary:
    """Compare tokenizer.model with its fast form on texts and on difficult strings; count on the texts.

    Special tokens written out are cut from what is compared: the two treat them differently, as fast_tokenizer says.

    Raises:
        TokenizerError: Ids differ, or a text does not come back.
    """
    processor = SentencePieceProcessor(model_proto=model)
    escapes = (f"{a}{b}" for a in (*ESCAPES, *ESCAPES.values()) for b in (*ESCAPES, *ESCAPES.values(), " "))
    _compare(processor, tokenizer, [*NASTY, *escapes])
    return _compare(processor, tokenizer, texts)


def _compare(processor: SentencePieceProcessor, tokenizer: Tokenizer, texts: Sequence[str]) -> TrainSummary:
    characters = tokens = byte_tokens = 0
    ids = range(processor.get_piece_size())
    is_byte = [processor.is_byte(number) and processor.id_to_piece(number) not in LINE_ENDS for number in ids]
    for at in range(0, len(texts), _AT_ONCE):
        batch = [_SPECIAL.sub("", text) for text in texts[at : at + _AT_ONCE]]
        slow = processor.encode(batch)
        fast = [encoding.ids for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False)]
        backs = processor.decode(slow), tokenizer.decode_batch(fast, skip_special_tokens=False)
        for text, ours, theirs, *decoded in zip(batch, slow, fast, *backs, strict=True):
            if ours != theirs:
                raise TokenizerError(
                    f"tokenizer.model and tokenizer.json give different ids for {text[:60]!r}: report this"
                )
            if any(back != text for back in decoded):
                raise TokenizerError(f"the tokenizer does not give back {text[:60]!r}: report this")
            characters += len(text)
            tokens += len(ours)
            byte_tokens += sum(is_byte[number] for number in ours)
    return TrainSummary(processor.get_piece_size(), characters, tokens, byte_tokens)


def _part_of(texts: Sequence[bytes]) -> list[str]:
    """Up to _CHECKED_BYTES of the texts, spread evenly over them; long ones are cut at a whole character."""
    size = sum(min(len(text), _CHECKED_LENGTH) for text in texts)
    step = max(1, -(-size // _CHECKED_BYTES))
    return [text[:_CHECKED_LENGTH].decode(errors="ignore") for text in texts[::step]]


def _require_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TokenizerError(f"--output {folder} is there already; remove it or give another folder")
