"""What the experiment needs and no tool of the project makes: the old tokenizer, word vectors, a dictionary.

materials.py tokenizer --corpus old.jsonl --topics law technology --vocab-size 4000 --output old-tokenizer
materials.py words --corpus new.jsonl --vectors words.npz --dictionary dictionary.tsv
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import fasttext
import numpy as np

from megatron_bielik.data.documents import documents
from megatron_bielik.surgery.model_folder import output_folder
from megatron_bielik.surgery.word_vectors import write_vectors
from megatron_bielik.tokenizer.byte_level import train_byte_level, write_byte_level

# A punctuation mark is a word, as in the word vectors that people publish: tokens of punctuation get vectors by it.
_WORD = re.compile(r"\w+|[^\w\s]")


def make_tokenizer(corpus: Path, topics: list[str], vocab_size: int, folder: Path) -> int:
    """A byte-level BPE of Qwen2.5's kind, trained on documents of a few topics alone; returns its size."""
    with corpus.open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    tokenizer = train_byte_level([record["text"] for record in records if record["topic"] in topics], vocab_size)
    with output_folder(folder) as temporary:
        write_byte_level(tokenizer, temporary)
    return tokenizer.get_vocab_size()


def make_words(corpus: Path, vectors: Path, dictionary: Path, least: int) -> int:
    """Vectors of words seen `least` times, most frequent first, and a dictionary of each word to itself; returns their number."""
    texts = [_WORD.findall(text) for text in documents([str(corpus)], "text", None, option="--corpus")]
    words = [word for word, count in Counter(word for text in texts for word in text).most_common() if count >= least]
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.writelines(" ".join(text) + "\n" for text in texts)
        file.flush()
        # One thread: the same text gives the same vectors. The default of 2 million slots for n-grams would take 800 MB.
        model = fasttext.train_unsupervised(
            file.name, model="cbow", dim=100, epoch=3, minCount=least, bucket=100_000, thread=1, verbose=0
        )
    dictionary.write_text("".join(f"{word}\t{word}\n" for word in words), encoding="utf-8")
    write_vectors(vectors, words, np.stack([model.get_word_vector(word) for word in words]))
    return len(words)


def main() -> None:
    """Make one of the two, say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True)
    tokenizer, words = kinds.add_parser("tokenizer"), kinds.add_parser("words")
    for kind in (tokenizer, words):
        kind.add_argument("--corpus", type=Path, required=True, help="text, JSON lines")
    tokenizer.add_argument("--topics", nargs="+", required=True, help="documents of these alone")
    tokenizer.add_argument("--vocab-size", type=int, required=True, help="entries")
    tokenizer.add_argument("--output", type=Path, required=True, help="folder to write")
    words.add_argument("--vectors", type=Path, required=True, help=".npz to write; last, so that it marks completion")
    words.add_argument("--dictionary", type=Path, required=True, help=".tsv to write")
    words.add_argument("--least", type=int, default=5, help="words seen this often (default 5)")
    given = parser.parse_args()
    if given.what == "tokenizer":
        entries = make_tokenizer(given.corpus, given.topics, given.vocab_size, given.output)
        print(f"{given.output}: {entries:,} entries")
    else:
        print(f"{given.vectors}: {make_words(given.corpus, given.vectors, given.dictionary, given.least):,} words")


if __name__ == "__main__":
    main()
