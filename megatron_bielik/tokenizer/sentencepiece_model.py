"""Trains a SentencePiece BPE model of the kind of APT4: byte fallback, digits and punctuation apart, spaces as in Llama.

SentencePiece writes a space as U+2581, so that a U+2581 in a text would come back as a space. Two rules escape it: U+0010
(data link escape) becomes U+0010 "0" and U+2581 becomes U+0010 "1" before encoding, and back after decoding. The rules stand
in the model itself, so every program that reads tokenizer.model applies them.
"""

from __future__ import annotations

import io
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]  # generated, without types

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")  # ids 0 to 6
SPACE = "\u2581"
LINE_ENDS = ("<0x0A>", "<0x0D>")  # never part of a longer piece
ESCAPES = {"\u0010": "\u00100", SPACE: "\u00101"}  # in the order in which single replacements may be made

# Always single tokens, however rare in the sample: printable ASCII, Polish letters, Polish typography.
ALPHABET = "".join(map(chr, range(0x21, 0x7F))) + "ĄĆĘŁŃÓŚŹŻąćęłńóśźż" + "„”–—…«»’§°€"
SMALLEST = len(SPECIAL_TOKENS) + 256 + 1 + len(ALPHABET)

# Marks in the training text where no piece may go across. The trainer takes them out again.
_BOUNDARY = "\u0011"
# Control characters, and the two characters that the trainer gives a meaning of its own: never part of a piece.
_UNTRAINED = (*map(chr, (*range(0x20), *range(0x7F, 0xA0))), SPACE, "\u2585")
_LINE_LENGTH = 100_000  # characters; longer lines are cut, not dropped
_LONGEST = 1 << 24  # bytes; far above any line with its boundaries, because SentencePiece drops longer ones silently
_COVERAGE = 0.99995  # share of the characters that get a token of their own, as Llama's; the rest is bytes


class TokenizerError(ValueError):
    """Something the user can mend; the message is one line."""


def train_model(texts: Iterable[str], vocab_size: int) -> bytes:
    """Train on texts and return the contents of tokenizer.model; the same texts give the same bytes.

    Args:
        texts: Documents; read once, kept in memory by the trainer.
        vocab_size: Entries wanted, special tokens and the 256 bytes included; a small sample may give fewer.

    Raises:
        TokenizerError: vocab_size has no room for special tokens, bytes and characters, or the texts hold no line of text.
    """
    require_room(vocab_size)
    lines = iter(training_lines(texts))
    first = next(lines, None)
    if first is None:
        raise TokenizerError("--input holds no text to train on; give files with text in them")
    result = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        escape, unescape = Path(folder, "escape.tsv"), Path(folder, "unescape.tsv")
        escape.write_text("".join(f"{_codes(a)}\t{_codes(b)}\n" for a, b in ESCAPES.items()), encoding="ascii")
        unescape.write_text("".join(f"{_codes(b)}\t{_codes(a)}\n" for a, b in ESCAPES.items()), encoding="ascii")
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=chain([first], lines),
                model_writer=result,
                model_type="bpe",
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                unk_id=0,
                bos_id=1,
                eos_id=2,
                pad_id=-1,
                control_symbols=list(SPECIAL_TOKENS[3:]),
                byte_fallback=True,
                character_coverage=_COVERAGE,
                required_chars=ALPHABET,
                split_digits=True,
                pretokenization_delimiter=_BOUNDARY,
                allow_whitespace_only_pieces=True,
                add_dummy_prefix=True,
                remove_extra_whitespaces=False,
                normalization_rule_tsv=str(escape),
                denormalization_rule_tsv=str(unescape),
                max_sentence_length=_LONGEST,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise TokenizerError(_explain(error, vocab_size)) from error
    return _without_paths(result.getvalue())


def require_room(vocab_size: int) -> None:
    """Raises TokenizerError if the entries that every tokenizer has do not fit."""
    if vocab_size < SMALLEST:
        raise TokenizerError(
            f"--vocab-size is {vocab_size}, needs at least {SMALLEST}: special tokens, all bytes, ASCII and Polish letters"
        )


def training_lines(texts: Iterable[str]) -> Iterator[str]:
    """The lines that the trainer sees: boundaries around punctuation marks and symbols, nothing that it would trip over.

    A space stays with the mark after it, so that " (" can be one token. Line ends are never part of a piece: they are the
    byte <0x0A>, as in Llama.
    """
    table = _boundaries()
    for text in texts:
        for line in text.split("\n"):
            for part in _cut(line):
                # The boundary before a mark goes before its space; one at the start of a line would part it from its own.
                bounded = part.translate(table).replace(f" {_BOUNDARY}", f"{_BOUNDARY} ").strip(_BOUNDARY)
                if bounded:
                    yield bounded


def _cut(line: str) -> Iterator[str]:
    """A long line in parts, cut at spaces where there are any."""
    start = 0
    while len(line) - start > _LINE_LENGTH:
        space = line.rfind(" ", start + 1, start + _LINE_LENGTH)
        stop = start + _LINE_LENGTH if space < 0 else space
        yield line[start:stop]
        start = stop + (space >= 0)  # the next part begins with a space of its own, as every line does
    yield line[start:]


@cache
def _boundaries() -> dict[int, str]:
    """What becomes of a character before training; punctuation marks and symbols get a boundary on both sides."""
    marks = (chr(code) for code in range(0x20000) if unicodedata.category(chr(code))[0] in "PS")
    table = {ord(mark): f"{_BOUNDARY}{mark}{_BOUNDARY}" for mark in marks}
    return table | dict.fromkeys(map(ord, _UNTRAINED), _BOUNDARY)


def _codes(text: str) -> str:
    return " ".join(f"{ord(character):X}" for character in text)


def _without_paths(model: bytes) -> bytes:
    """A model without the names of the files with the rules, which differ from run to run; the rules are compiled in."""
    parsed = ModelProto.FromString(model)
    for spec in (parsed.normalizer_spec, parsed.denormalizer_spec):
        spec.ClearField("normalization_rule_tsv")
    return bytes(parsed.SerializeToString(deterministic=True))


def _explain(error: RuntimeError, vocab_size: int) -> str:
    text = " ".join(str(error).split())
    if found := re.search(r"required_chars\D*(\d+) vs (\d+)", text):
        return (
            f"--vocab-size is {vocab_size}, needs at least {max(map(int, found.groups()))} for the characters of this text; "
            "give more, or leave texts in other scripts out"
        )
    return f"SentencePiece cannot train on this text: {text}"
