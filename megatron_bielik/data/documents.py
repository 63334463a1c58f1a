"""All documents of jsonl, txt and parquet files, one after the other: for tools that read a corpus once, in one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from megatron_bielik.data.errors import DataError
from megatron_bielik.data.inputs import TxtSplit, find_inputs, plan_pieces
from megatron_bielik.data.readers import line_number, read_piece

_PIECE_BYTES = 64 << 20


def documents(
    patterns: Sequence[str],
    json_key: str = "text",
    max_bytes: int | None = None,
    txt_split: TxtSplit = "blank-line",
    option: str = "--input",
) -> Iterator[str]:
    """Texts in the order of the inputs, until max_bytes of UTF-8 are exceeded.

    Args:
        patterns: Files or glob patterns; .jsonl, .jsonl.gz, .jsonl.zst, .parquet and .txt.
        json_key: Key or column of the text.
        max_bytes: None reads everything.
        txt_split: Whether a .txt file is one document, or each paragraph is.
        option: What the user gave the patterns with, for messages.

    Raises:
        DataError: A file that is missing or damaged, or a line without a text, by its number.
    """
    read = 0
    for piece in plan_pieces(find_inputs(patterns, option), _PIECE_BYTES, txt_split):
        for batch in read_piece(piece, json_key, txt_split):
            if batch.bad:
                bad = batch.bad[0]
                part = piece.parts[bad.part]
                raise DataError(
                    f"{part.path}, line {line_number(part, bad.number)}: {bad.reason}; clean the file first"
                )
            for text in batch.texts:
                yield text.decode()
                read += len(text)
                if max_bytes is not None and read >= max_bytes:
                    return
