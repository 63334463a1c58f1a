"""What the recipe begins with and no tool of the project makes: a dirty web corpus, the base model's tokenizer, chat rows.

materials.py web --output raw/pl.jsonl --megabytes 8 --seed 1
materials.py tokenizer --input raw/en.jsonl clean/pl.jsonl --shares 0.9 0.1 --entries 3000 --output base/tokenizer
materials.py chat --folder chat --conversations 6000 --pairs 2000 --problems 4000 --held-out 120
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from megatron_bielik.corpus.labelled import labelled_document
from megatron_bielik.corpus.personal_data_test_set import examples
from megatron_bielik.corpus.records import ReadCount, dump, read_records, record_writer, write_whole
from megatron_bielik.corpus.synthetic import generate_document
from megatron_bielik.posttrain import form_tasks
from megatron_bielik.posttrain.form_tasks import LISTS, TOPICS, list_answer
from megatron_bielik.posttrain.problems import as_conversation, as_pair, generate
from megatron_bielik.surgery.model_folder import output_folder
from megatron_bielik.tokenizer.byte_level import train_byte_level, write_byte_level

# What a share of the web documents is; the rest is clean text.
SPOILED, COPIED, CHANGED, MOJIBAKE, PERSONAL = 0.15, 0.04, 0.03, 0.02, 0.08
WORKED = r"[^\n]+ = -?\d+\.\nOdpowiedź: (\\boxed\{-?\d+\}|-?\d+)"
SENTENCE = "Temat: {}."
TOPIC = rf"({'|'.join(TOPICS.values())})|Temat: ({'|'.join(TOPICS.values())})\."
SHARE_OF_PROBLEMS = 0.5
Row = dict[str, Any]


def web_rows(seed: int) -> Iterator[Row]:
    """Polish documents as a crawl has them: spoiled ones, copies, near copies, broken encodings, personal data."""
    rng = Random(f"web/{seed}")
    personal = cycle(examples(seed, 40))
    before: list[str] = []
    index = 0
    while True:
        index += 1
        draw = rng.random()
        if draw < SPOILED:
            text = labelled_document(seed, index, rng.choice((1, 2, 3)), "all").text
        elif draw < SPOILED + COPIED and before:
            text = rng.choice(before)
        elif draw < SPOILED + COPIED + CHANGED and before:
            words = rng.choice(before).split(" ")
            words[rng.randrange(len(words))] = "oraz"
            text = " ".join(words)
        else:
            text = generate_document(seed, index)["text"]
            if rng.random() < PERSONAL:
                text = f"{text}\n\n{next(personal).text}"
            if rng.random() < MOJIBAKE:
                text = text.encode().decode("cp1252", errors="replace")
            before = [*before[-199:], text]
        yield {"id": f"web-{seed}-{index}", "text": text}


def write_web(output: Path, size: int, seed: int) -> int:
    """Documents until their texts have `size` bytes; returns how many."""
    written = documents = 0
    with record_writer(output) as stream:
        for row in web_rows(seed):
            stream.write(dump(row))
            written += len(row["text"].encode())
            documents += 1
            if written >= size:
                return documents
    raise AssertionError("the documents never end")


def write_tokenizer(inputs: Sequence[Path], shares: Sequence[float], entries: int, size: int, folder: Path) -> int:
    """A byte-level BPE of Qwen2.5's kind from the first `size` bytes of the inputs, by shares; returns its entries."""
    texts = []
    for path, share in zip(inputs, shares, strict=True):
        room = share * size
        for record in read_records([str(path)], "text", ReadCount()):
            texts.append(record["text"])
            room -= len(record["text"].encode())
            if room <= 0:
                break
    tokenizer = train_byte_level(texts, entries)
    with output_folder(folder) as temporary:
        write_byte_level(tokenizer, temporary)
    return tokenizer.get_vocab_size()


def problems(seed: int, count: int, split: Any) -> Iterator[Row]:
    """Sums and differences of numbers up to 5."""
    return generate(count, levels=(1,), seed=seed, split=split, instruction="", largest=5)


def worked(seed: int, count: int, split: Any) -> Iterator[Row]:
    """Problems whose solutions box the answer every second time; GRPO, which pays for boxed ones alone, has something to find."""
    for number, one in enumerate(problems(seed, count, split)):
        yield one if number % 2 else one | {"solution": re.sub(r"\\boxed\{(.*)\}", r"\1", one["solution"])}


def topics_two_ways(rows: Iterable[Row]) -> Iterator[Row]:
    """Every second topic is told in a sentence; DPO, which prefers the word alone, has something to find."""
    for number, row in enumerate(rows):
        if row["kind"] != "temat":
            yield row
            continue
        question, answer = row["messages"]
        told = answer if number % 2 else answer | {"content": SENTENCE.format(answer["content"])}
        yield row | {"messages": [question, told], "form": TOPIC}


def conversations(seed: int, count: int, split: str) -> list[Row]:
    """Problems with worked answers, topics in one word and lists; a third kind of list is never in the train split."""
    share = int(SHARE_OF_PROBLEMS * count)
    solved = [as_conversation(one) | {"kind": "zadanie", "form": WORKED} for one in worked(seed, share, split)]
    if split == "test":
        return [*solved, *topics_two_ways(form_tasks.held_out_rows(seed, count - share))]
    rows = [*solved, *topics_two_ways(islice(form_tasks.tuning_rows(seed), count - share))]
    Random(f"conversations/{seed}").shuffle(rows)
    return rows


def list_pair(way: tuple[str, str, str], asked: str, rng: Random) -> Row:
    """A list as it was asked for, and the same with an item that belongs to another list."""
    name, form, order = way
    right = list_answer(way)
    item = rng.choice(LISTS[name].split())
    stranger = rng.choice(LISTS[rng.choice([other for other in LISTS if other != name])].split())
    wrong = re.sub(rf"(?<!\w){re.escape(item)}(?!\w)", stranger, right, count=1)
    return _pair(asked.format(f"{name} {form}{order}"), right, wrong)


def topic_pair(seed: int, index: int, rng: Random) -> Row:
    """The topic of a text in a word, and in a sentence."""
    one = form_tasks.topic_row(seed, index, rng)
    question, right = (message["content"] for message in one["messages"])
    return _pair(question, right, SENTENCE.format(right))


def _pair(question: str, chosen: str, rejected: str) -> Row:
    return {"prompt": question, "chosen": chosen, "rejected": rejected, "chosen_score": 9.0, "rejected_score": 2.0}


def pairs(seed: int, count: int, split: str) -> list[Row]:
    """Preferences of three kinds. The lists are the same in both splits, the wrong items are not."""
    rng = Random(f"pairs/{seed}")
    solved = [as_pair(one) for one in worked(seed, count // 3, split)]
    lists = [
        list_pair(rng.choice(form_tasks.TRAINED_WAYS), rng.choice(form_tasks.ASKED), rng) for _ in range(count // 3)
    ]
    topics = [topic_pair(seed, index, rng) for index in range(count - 2 * (count // 3))]
    rows = [*solved, *lists, *topics]
    rng.shuffle(rows)
    return rows


def instruction_text(rows: Sequence[Row]) -> Iterator[Row]:
    """Conversations as plain documents, for the pretraining mixture."""
    for number, row in enumerate(rows):
        yield {"id": f"instruction-{number}", "text": "\n\n".join(one["content"] for one in row["messages"])}
    for number, (name, items) in enumerate(LISTS.items()):
        yield {"id": f"list-{number}", "text": f"{name.capitalize()}: {items}."}


def write_chat(folder: Path, sizes: argparse.Namespace) -> list[str]:
    """All files; returns a line for each."""
    folder.mkdir(parents=True, exist_ok=True)
    train = conversations(1, sizes.conversations, "train")
    sets = {
        "sft": train,
        "sft-held-out": conversations(2, sizes.held_out, "test"),
        "pairs": pairs(3, sizes.pairs, "train"),
        "pairs-held-out": pairs(4, sizes.held_out, "test"),
        "problems": list(problems(5, sizes.problems, "train")),
        "problems-held-out": list(problems(6, sizes.held_out, "test")),
        "instruction": list(instruction_text(train)),
    }
    for name, rows in sets.items():
        write_whole(folder / f"{name}.jsonl", b"".join(map(dump, rows)))
    return [f"{folder / name}.jsonl: {len(rows):,} rows" for name, rows in sets.items()]


def main() -> None:
    """Make one of the three, say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True)
    web, tokenizer, chat = (kinds.add_parser(name) for name in ("web", "tokenizer", "chat"))
    web.add_argument("--output", type=Path, required=True, help="file to write")
    web.add_argument("--megabytes", type=float, required=True, help="of text, millions of bytes")
    web.add_argument("--seed", type=int, default=1, help="default 1")
    tokenizer.add_argument("--input", type=Path, nargs="+", required=True, help="text, JSON lines")
    tokenizer.add_argument("--shares", type=float, nargs="+", required=True, help="of each input in the sample")
    tokenizer.add_argument("--megabytes", type=float, default=2, help="of the sample (default 2)")
    tokenizer.add_argument("--entries", type=int, required=True, help="of the vocabulary")
    tokenizer.add_argument("--output", type=Path, required=True, help="folder to write")
    chat.add_argument("--folder", type=Path, required=True, help="to write into")
    for name in ("conversations", "pairs", "problems", "held-out"):
        chat.add_argument(f"--{name}", type=int, required=True, help="rows")
    given = parser.parse_args()
    if given.what == "web":
        size = int(given.megabytes * 1e6)
        print(f"{given.output}: {write_web(given.output, size, given.seed):,} documents")
    elif given.what == "tokenizer":
        size = int(given.megabytes * 1e6)
        print(
            f"{given.output}: {write_tokenizer(given.input, given.shares, given.entries, size, given.output):,} entries"
        )
    else:
        print("\n".join(write_chat(given.folder, given)))


if __name__ == "__main__":
    main()
