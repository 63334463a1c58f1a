"""The conversations: texts and counting for the base model; short answers to long texts and long lists for fine-tuning.

data.py --folder . --base 6000 --train 1600 --valid 200
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

from megatron_bielik.corpus.records import dump, write_whole
from megatron_bielik.corpus.synthetic import generate_document

TOPICS = {
    "cooking": "kuchnia",
    "health": "zdrowie",
    "history": "historia",
    "law": "prawo",
    "nature": "przyroda",
    "sport": "sport",
    "technology": "technika",
    "travel": "podróże",
}
ITEM = r"\w[\w -]*"
FORMS = {
    "po przecinku": (lambda place, item: item, ", ", rf"{ITEM}(, {ITEM})*"),
    "w punktach": (lambda place, item: f"- {item}", "\n", rf"- {ITEM}(\n- {ITEM})*"),
    "z numerami": (lambda place, item: f"{place}. {item}", "\n", rf"\d+\. {ITEM}(\n\d+\. {ITEM})*"),
}
LISTS = {
    "dni tygodnia": "poniedziałek wtorek środa czwartek piątek sobota niedziela",
    "miesiące": "styczeń luty marzec kwiecień maj czerwiec lipiec sierpień wrzesień październik listopad grudzień",
    "pory roku": "wiosna lato jesień zima",
    "planety": "Merkury Wenus Ziemia Mars Jowisz Saturn Uran Neptun",
    "kontynenty": "Afryka Antarktyda Australia Azja Europa",
    "kolory tęczy": "czerwony pomarańczowy żółty zielony niebieski granatowy fioletowy",
    "samogłoski": "a ą e ę i o ó u y",
    "liczby do dwunastu": "jeden dwa trzy cztery pięć sześć siedem osiem dziewięć dziesięć jedenaście dwanaście",
    "nuty": "do re mi fa sol la si",
    "województwa": "dolnośląskie kujawsko-pomorskie lubelskie lubuskie łódzkie małopolskie mazowieckie opolskie "
    "podkarpackie podlaskie pomorskie śląskie świętokrzyskie warmińsko-mazurskie wielkopolskie zachodniopomorskie",
}
ORDERS = ("", " od końca")
ASKED = ("Wypisz {}.", "Podaj {}.", "Potrzebne mi są {}.")
# Every fifth way to ask for a list is kept out of training; its parts are all seen in others.
WAYS = [(name, form, order) for name in LISTS for form in FORMS for order in ORDERS]
HELD_OUT_WAYS = WAYS[3::5]
SHARE_OF_LISTS = 0.25
Row = dict[str, Any]


def row(kind: str, user: str, assistant: str, form: str) -> Row:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return {"kind": kind, "messages": messages, "form": form}


def sentences(seed: int, index: int, rng: Random, least: int, most: int) -> tuple[str, str]:
    """Some sentences from the middle of a generated document, so that its title does not tell, and its topic."""
    document = generate_document(seed, index)
    found = document["text"].split("\n\n", 1)[1].replace("\n\n", " ").split(". ")
    start = rng.randrange(max(1, len(found) - most))
    return ". ".join(found[start : start + rng.randint(least, most)]).rstrip(".") + ".", TOPICS[document["topic"]]


def base_rows(seed: int) -> Iterator[Row]:
    """Texts to be written, and lists as they are said: the base model knows the words of both tasks, not the tasks."""
    rng = Random(f"base/{seed}")
    for index in count():
        if rng.random() < 0.3:
            name = rng.choice(sorted(LISTS))
            yield row("wyliczanka", f"{name.capitalize()}?", LISTS[name], ".+")
        else:
            yield row("tekst", "Napisz tekst.", sentences(seed, index, rng, 2, 3)[0], ".+")


def topic_row(seed: int, index: int, rng: Random) -> Row:
    """A long text and a question with an answer of one word."""
    text, topic = sentences(seed, index, rng, 2, 3)
    return row("temat", f"{text}\n\nJaki to temat?", topic, "|".join(TOPICS.values()))


def list_row(way: tuple[str, str, str], asked: str) -> Row:
    """A short instruction and a list of 4 to 16 items, in one of three forms and two orders."""
    name, form, order = way
    write, between, pattern = FORMS[form]
    items = LISTS[name].split()[:: -1 if order else 1]
    answer = between.join(write(place, item) for place, item in enumerate(items, 1))
    kind = "nowa lista" if way in HELD_OUT_WAYS else "lista"
    return row(kind, asked.format(f"{name} {form}{order}"), answer, pattern)


def tuning_rows(seed: int, share_of_lists: float = SHARE_OF_LISTS) -> Iterator[Row]:
    """One list to three topics, by chance: a step of a few conversations has many trained tokens or hardly any."""
    rng, seen = Random(f"tuning/{seed}"), set[str]()
    ways = [way for way in WAYS if way not in HELD_OUT_WAYS]
    for index in count():
        if rng.random() < share_of_lists:
            yield list_row(rng.choice(ways), rng.choice(ASKED))
            continue
        one = topic_row(seed, index, rng)
        question = one["messages"][0]["content"]
        if question not in seen:
            seen.add(question)
            yield one


def held_out_rows(seed: int, most: int) -> list[Row]:
    """Topics of other texts, the lists of training, and those that are never asked for in training, at most so many of each."""
    lists = [list_row(way, asked) for way in WAYS for asked in (ASKED if way in HELD_OUT_WAYS else ASKED[:1])]
    return [*islice(tuning_rows(seed, 0), most), *lists[:most]]


def main() -> None:
    """Write base.jsonl, train.jsonl, valid.jsonl and held-out.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(), help="default: here")
    parser.add_argument("--base", type=int, default=6000, help="conversations for the base model (default 6000)")
    parser.add_argument("--train", type=int, default=1600, help="conversations to tune on (default 1600)")
    parser.add_argument(
        "--valid", type=int, default=200, help="in valid, topics and at most lists in held-out (default 200)"
    )
    given = parser.parse_args()
    tuning = tuning_rows(2)
    sets = {
        "base": list(islice(base_rows(1), given.base)),
        "train": list(islice(tuning, given.train)),
        "valid": list(islice(tuning, given.valid)),
        "held-out": held_out_rows(3, given.valid),
    }
    for name, rows in sets.items():
        write_whole(given.folder / f"{name}.jsonl", b"".join(dump(one) for one in rows))
        print(f"{name}.jsonl: {len(rows):,} conversations")


if __name__ == "__main__":
    main()
