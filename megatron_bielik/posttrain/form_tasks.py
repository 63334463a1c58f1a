"""Conversations whose answers must have a form: topics in one word, lists in three forms and two orders. Made, not collected.

For trying out instruction tuning: whether an answer has the asked form is a regular expression beside it. Some ways of
asking for a list are kept out of training, so that the form can be asked of lists never seen in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from random import Random
from typing import Any

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
TRAINED_WAYS = [way for way in WAYS if way not in HELD_OUT_WAYS]
SHARE_OF_LISTS = 0.25
Way = tuple[str, str, str]
Row = dict[str, Any]


def row(kind: str, user: str, assistant: str, form: str) -> Row:
    """{"kind", "messages": one question and its answer, "form": a regular expression that right answers match as a whole}."""
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return {"kind": kind, "messages": messages, "form": form}


def sentences(seed: int, index: int, rng: Random, least: int, most: int) -> tuple[str, str]:
    """Some sentences from the middle of a generated document, so that its title does not tell, and its topic."""
    document = generate_document(seed, index)
    found = document["text"].split("\n\n", 1)[1].replace("\n\n", " ").split(". ")
    start = rng.randrange(max(1, len(found) - most))
    return ". ".join(found[start : start + rng.randint(least, most)]).rstrip(".") + ".", TOPICS[document["topic"]]


def topic_row(seed: int, index: int, rng: Random) -> Row:
    """A long text and a question with an answer of one word."""
    text, topic = sentences(seed, index, rng, 2, 3)
    return row("temat", f"{text}\n\nJaki to temat?", topic, "|".join(TOPICS.values()))


def list_answer(way: Way) -> str:
    """The items of a list in the form and order that were asked for."""
    name, form, order = way
    write, between, _ = FORMS[form]
    items = LISTS[name].split()[:: -1 if order else 1]
    return between.join(write(place, item) for place, item in enumerate(items, 1))


def list_row(way: Way, asked: str) -> Row:
    """A short instruction and a list of 4 to 16 items."""
    name, form, order = way
    kind = "nowa lista" if way in HELD_OUT_WAYS else "lista"
    return row(kind, asked.format(f"{name} {form}{order}"), list_answer(way), FORMS[form][2])


def tuning_rows(seed: int, share_of_lists: float = SHARE_OF_LISTS) -> Iterator[Row]:
    """One list to three topics, by chance: a step of a few conversations has many trained tokens or hardly any."""
    rng, seen = Random(f"tuning/{seed}"), set[str]()
    for index in count():
        if rng.random() < share_of_lists:
            yield list_row(rng.choice(TRAINED_WAYS), rng.choice(ASKED))
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
