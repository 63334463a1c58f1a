"""Ways in which web text goes wrong, as functions (text, rng, severity) -> text: mild ones (MEDIUM) and ruinous ones (LOW).

Severity runs from 0 (hardly to be seen) to 1. Each has its name in MEDIUM or LOW; UNSEEN are kept for tests of models that
were trained on the others.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from random import Random

from megatron_bielik.corpus.language import without_diacritics
from megatron_bielik.corpus.polish_grammar import Document
from megatron_bielik.corpus.polish_lexicon import TOPICS

Corruption = Callable[[str, Random, float], str]

_FURNITURE = (
    "Czytaj więcej",
    "Udostępnij na Facebooku",
    "Polub nas!",
    "Zaloguj się, aby dodać komentarz",
    "Strona główna » Aktualności",
    "Zobacz także:",
    "Reklama",
    "Dodaj do koszyka",
    "Poprzedni wpis | Następny wpis",
    "Komentarze (0)",
    "Tagi: news, blog",
    "Ta strona używa plików cookies. Akceptuję",
    "Copyright © 2019 Wszelkie prawa zastrzeżone",
    "Menu",
    "Pobierz PDF",
    "Newsletter",
)
_FILLER = (
    "Warto zauważyć, że jest to bardzo ważne.",
    "Jak wszyscy wiemy, temat ten jest niezwykle istotny.",
    "Należy o tym zawsze pamiętać.",
    "Nie da się ukryć, że ma to ogromne znaczenie.",
    "W dzisiejszych czasach jest to coraz bardziej popularne.",
    "Z pewnością każdy znajdzie tu coś dla siebie.",
    "To naprawdę świetna rzecz.",
    "Podsumowując, warto o tym wiedzieć.",
    "Oczywiście wszystko zależy od wielu czynników.",
    "Mamy nadzieję, że ten tekst był pomocny.",
)
_HEDGES = (
    "w sumie",
    "jakby",
    "tak naprawdę",
    "generalnie",
    "po prostu",
    "w zasadzie",
    "no",
    "jakoś tak",
    "powiedzmy",
    "że tak powiem",
    "mniej więcej",
)
_ADVERTS = (
    "PROMOCJA!!! Tylko dziś -50%!",
    "Zadzwoń już teraz i zamów!",
    "Najtaniej w sieci!!!",
    "Darmowa dostawa od 99 zł.",
    "SUPER OKAZJA",
    "Kliknij tutaj >>>",
    "Sprawdź naszą ofertę!",
    "HIT! Ostatnie sztuki!!!",
    "Gwarancja satysfakcji albo zwrot pieniędzy!",
)
_KEYWORDS = (
    "tanie noclegi",
    "kredyt bez bik",
    "pozycjonowanie stron",
    "części samochodowe",
    "sklep internetowy",
    "darmowe gry",
    "opinie cena",
    "skup aut",
    "tapety na pulpit",
    "najlepsze promocje",
    "pożyczka online",
    "telefon sklep",
    "odzież damska",
    "meble kuchenne",
)
_ENGLISH = (
    "the", "of", "and", "to", "in", "is", "that", "for", "it", "with", "as", "was", "on", "are",
    "be", "this", "have", "from", "or", "by", "not", "but", "what", "all", "were", "when", "we", "there",
)  # fmt: skip
_LETTERS = "aąbcćdeęfghijklłmnńoóprsśtuwyzźż"


def _sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?”])\s+", text) if s]


@cache
def _vocabulary() -> tuple[str, ...]:
    """Inflected words of all topics."""
    words: set[str] = set()
    for topic in sorted(TOPICS):
        for i in range(20):
            words.update(re.findall(r"\w+", Document(Random(f"vocabulary/{topic}/{i}"), topic).text().lower()))
    return tuple(sorted(words))


# MEDIUM


def mild_repetition(text: str, rng: Random, severity: float) -> str:
    """Some sentences come again further on."""
    paragraphs = text.split("\n\n")
    pool = [sentence for sentence in _sentences(text) if "\n" not in sentence] or [text]
    places = [i for i, paragraph in enumerate(paragraphs) if len(paragraph) > 80] or [0]
    for _ in range(max(1, round((0.1 + 0.3 * severity) * len(pool)))):
        paragraphs[rng.choice(places)] += " " + rng.choice(pool)
    return "\n\n".join(paragraphs)


def drift(text: str, rng: Random, severity: float) -> str:
    """Paragraphs on other topics take over; the more severe, the earlier."""
    paragraphs = text.split("\n\n")
    keep = max(1, round(len(paragraphs) * (1 - 0.75 * severity)))
    for i in range(keep, len(paragraphs)):
        document = Document(rng, rng.choice(sorted(TOPICS)))
        paragraphs[i] = " ".join(document.sentence() for _ in range(rng.randint(2, 5)))
    return "\n\n".join(paragraphs)


def missing_diacritics(text: str, rng: Random, severity: float) -> str:
    """Words are typed without ą, ę, ł ..."""
    share = 0.25 + 0.75 * severity
    return re.sub(r"\w+", lambda m: without_diacritics(m[0]) if rng.random() < share else m[0], text)


def filler(text: str, rng: Random, severity: float) -> str:
    """Sentences that say nothing stand between those that do."""
    out = []
    for paragraph in text.split("\n\n"):
        sentences = []
        for sentence in _sentences(paragraph):
            sentences.append(sentence)
            if rng.random() < 0.15 + 0.35 * severity:
                sentences.append(rng.choice(_FILLER))
        out.append(" ".join(sentences))
    return "\n\n".join(out)


def web_furniture(text: str, rng: Random, severity: float) -> str:
    """Lines of a page's frame between its paragraphs."""
    out = []
    for paragraph in text.split("\n\n"):
        out.append(paragraph)
        if rng.random() < 0.3 + 0.6 * severity:
            out += rng.sample(_FURNITURE, rng.randint(1, 2 + round(2 * severity)))
    return "\n".join(out)


def sloppy(text: str, rng: Random, severity: float) -> str:
    """As typed in a chat: small letters, dots for commas, missing full stops."""
    out = []
    for sentence in _sentences(text):
        if rng.random() < 0.3 + 0.6 * severity:
            sentence = sentence[0].lower() + sentence[1:].rstrip(".") + rng.choice(("", "...", " ;)", "!!", ""))
        if rng.random() < 0.3 * severity:
            sentence = sentence.replace(", ", rng.choice((",", " , ", " ")))
        out.append(sentence)
    return rng.choice((" ", "\n")).join(out)


def adverts(text: str, rng: Random, severity: float) -> str:
    """Advertising calls inside the text."""
    out = []
    for sentence in _sentences(text):
        out.append(sentence)
        if rng.random() < 0.15 + 0.35 * severity:
            out.append(rng.choice(_ADVERTS))
    return " ".join(out)


def hedging(text: str, rng: Random, severity: float) -> str:
    """Padding words of speech inside sentences."""
    words = []
    for word in text.split(" "):
        words.append(word)
        if word[-1:].isalpha() and rng.random() < 0.06 + 0.16 * severity:
            words.append(rng.choice(_HEDGES))
    return " ".join(words)


def choppy_lines(text: str, rng: Random, severity: float) -> str:
    """Clauses on lines of their own, as subtitles have them; words now and then cut short."""
    parts = re.split(r"(?<=[,.?!])\s+|\s+(?=i |a |w |na |że )", text)
    return "\n".join(part[: -rng.randint(1, 3)] if rng.random() < 0.15 * severity else part for part in parts if part)


def broken_lines(text: str, rng: Random, severity: float) -> str:
    """Line breaks and hyphens of a scanned page, page numbers between."""
    width = round(70 - 40 * severity)
    lines, line = [], ""
    for word in text.split():
        if len(line) + len(word) > width:
            cut = len(word) // 2
            if len(word) > 6 and rng.random() < 0.5:
                lines.append(f"{line} {word[:cut]}-".strip())
                line = word[cut:]
                continue
            lines.append(line)
            line = ""
            if rng.random() < 0.05:
                lines.append(str(rng.randint(2, 400)))
        line = f"{line} {word}".strip()
    return "\n".join([*lines, line])


# LOW


def loop(text: str, rng: Random, severity: float) -> str:
    """The text falls into a loop of a phrase or a sentence and does not come out."""
    sentences = _sentences(text)
    keep = round(len(sentences) * (1 - severity) * 0.9)
    source = rng.choice(sentences)
    words = source.split()
    phrase = " ".join(words[: rng.randint(1, len(words))]) if rng.random() < 0.5 else source
    joint = rng.choice((" ", ", ", "\n"))
    return " ".join(sentences[:keep]) + " " + joint.join([phrase] * rng.randint(8, 10 + round(70 * severity)))


def shuffled_words(text: str, rng: Random, severity: float) -> str:
    """Words change places within windows; the more severe, the wider."""
    words = text.split()
    width = 4 + round(severity * severity * 200)
    out: list[str] = []
    for start in range(0, len(words), width):
        window = words[start : start + width]
        rng.shuffle(window)
        out += window
    return " ".join(out)


def broken_encoding(text: str, rng: Random, severity: float) -> str:
    """Letters lost or doubled by a wrong encoding, in a share of the paragraphs."""
    ways: tuple[Callable[[str], str], ...] = (
        lambda s: s.encode().decode("cp1250", "replace"),
        lambda s: s.encode().decode("cp1252", "replace"),
        lambda s: s.encode().decode("iso-8859-2", "replace"),
        lambda s: s.encode("cp1250", "replace").decode("iso-8859-2"),
        lambda s: s.encode("cp1250", "replace").decode("cp1252", "replace"),
        lambda s: re.sub(r"[ąćęłńóśźżĄĆĘŁŃÓŚŹŻ]", "?", s),
        lambda s: re.sub(r"[ąćęłńóśźżĄĆĘŁŃÓŚŹŻ]", "\ufffd", s),
        lambda s: re.sub(r"[ąćęłńóśźżĄĆĘŁŃÓŚŹŻ]", lambda m: f"&#{ord(m[0])};", s),
        lambda s: re.sub(r"[ąćęłńóśźżĄĆĘŁŃÓŚŹŻ]", lambda m: f"\\u{ord(m[0]):04x}", s),
        lambda s: re.sub(r"[ąćęłńóśźżĄĆĘŁŃÓŚŹŻ]", lambda m: chr(0xE000 + ord(m[0])), s),
        lambda s: re.sub(r"(?<=\w)(?=\w\w)", "\u200b", unicodedata.normalize("NFD", s)),
    )
    way = rng.choice(ways)
    paragraphs = text.split("\n\n")
    broken = set(rng.sample(range(len(paragraphs)), max(1, round(len(paragraphs) * (0.3 + 0.7 * severity)))))
    return "\n\n".join(way(p) if i in broken else p for i, p in enumerate(paragraphs))


def keyword_spam(text: str, rng: Random, severity: float) -> str:
    """Search words strung together, some real text between them."""
    out = []
    for sentence in _sentences(text):
        if rng.random() < 1 - severity:
            out.append(sentence)
        out.append(", ".join(rng.choices(_KEYWORDS, k=rng.randint(2, 3 + round(6 * severity)))))
    return rng.choice((" ", "\n", " | ")).join(out)


def word_salad(text: str, rng: Random, severity: float) -> str:
    """Sentences of words that have nothing to do with each other."""
    out = []
    for sentence in _sentences(text):
        if rng.random() < 0.35 + 0.65 * severity:
            words = rng.choices(_vocabulary(), k=max(3, len(sentence.split())))
            sentence = " ".join(words).capitalize() + "."
        out.append(sentence)
    return " ".join(out)


def calque(text: str, rng: Random, severity: float) -> str:
    """Word for word from English: dictionary forms, articles and auxiliaries where Polish has none."""
    document = Document(rng, rng.choice(sorted(TOPICS)))

    def noun() -> str:
        return str(document.pick(document.words.things).sg[0])

    def person() -> str:
        return str(document.pick(document.words.people).sg[0])

    def verb() -> str:
        return str(document.pick(document.words.perfective).infinitive)

    patterns: tuple[Callable[[], str], ...] = (
        lambda: f"ten {person()} jest będąc {verb()} jeden {noun()} w ten {noun()}",
        lambda: f"to jest dobry dla {person()} do {verb()} ten {noun()}",
        lambda: f"tam są wiele {noun()} które mogą być użyty do {verb()}",
        lambda: f"jeśli ty masz jeden {noun()}, ty możesz {verb()} to z {noun()}",
        lambda: f"ja chcę do {verb()} twój {noun()} na koniec z dnia",
        lambda: f"ono robi sens że {person()} ma {verb()} the {noun()}",
        lambda: f"weź spojrzenie na ten {noun()} i nie zrób {verb()} jego własny {noun()}",
    )
    out = []
    for sentence in _sentences(text):
        if rng.random() < 0.4 + 0.6 * severity:
            sentence = rng.choice(patterns)().capitalize() + "."
        out.append(sentence)
    return " ".join(out)


def boilerplate(text: str, rng: Random, severity: float) -> str:
    """A page of which only the frame is left."""
    sentences = _sentences(text)
    lines = rng.sample(sentences, max(1, round(len(sentences) * 0.4 * (1 - severity))))
    lines += rng.choices(_FURNITURE, k=rng.randint(8, 25))
    lines += [f"{rng.choice(_KEYWORDS).capitalize()} ({rng.randint(1, 99)})" for _ in range(rng.randint(3, 12))]
    rng.shuffle(lines)
    return "\n".join(lines)


def html_dump(text: str, rng: Random, severity: float) -> str:
    """Markup and scripts that were not taken out."""
    out = []
    for i, sentence in enumerate(_sentences(text)):
        r = rng.random()
        if r < 0.25 + 0.4 * severity:
            sentence = f'<div class="c{i}"><p>{sentence}</p>&nbsp;</div>'
        if rng.random() < 0.1 + 0.4 * severity:
            sentence += f"\nvar x{i} = document.getElementById('e{rng.randint(1, 99)}');"
            sentence += f" if (x{i}) {{ x{i}.style.display = 'none'; }}"
        out.append(sentence)
    return "\n".join(out)


def random_letters(text: str, rng: Random, severity: float) -> str:
    """Words are replaced by strings of letters."""
    share = 0.15 + 0.75 * severity
    return re.sub(r"\w+", lambda m: "".join(rng.choices(_LETTERS, k=len(m[0]))) if rng.random() < share else m[0], text)


def foreign_mixture(text: str, rng: Random, severity: float) -> str:
    """English function words and other scripts run through the text."""
    strange = ("привет", "для", "это", "よい", "中文", "και", "für", "señor")
    out = []
    for word in text.split():
        out.append(word)
        if rng.random() < 0.15 + 0.35 * severity:
            out.append(rng.choice(_ENGLISH) if rng.random() < 0.8 else rng.choice(strange))
    return " ".join(out)


def char_noise(text: str, rng: Random, severity: float) -> str:
    """Letters fall out, change places or are hit twice, as of a bad scan."""
    share = 0.25 + 0.5 * severity

    def spoil(match: re.Match[str]) -> str:
        word = match[0]
        if len(word) < 3 or rng.random() > share:
            return word
        at = rng.randrange(len(word) - 1)
        return rng.choice(
            (
                word[:at] + word[at + 1 :],
                word[:at] + word[at + 1] + word[at] + word[at + 2 :],
                word[:at] + rng.choice("1l|!;{}*_0") + word[at + 1 :],
                word[:at] + " " + word[at:],
            )
        )

    return re.sub(r"\w+", spoil, text)


def log_dump(text: str, rng: Random, severity: float) -> str:
    """Machine output with a line of text now and then."""
    out = []
    for sentence in _sentences(text):
        if rng.random() > severity:
            out.append(sentence)
        for _ in range(rng.randint(1, 2 + round(3 * severity))):
            address = f"{rng.randint(1, 255)}.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"
            time = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:07,{rng.randint(0, 999):03d}"
            out.append(
                f"2021-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d} {time} {rng.choice(('INFO', 'WARN', 'ERROR'))} "
                f"[main] o.a.c.Handler_{rng.randint(1, 9)} - {address} GET /idx?id={rng.randint(1, 9999)} 200"
            )
    return "\n".join(out)


MEDIUM: dict[str, Corruption] = {
    f.__name__: f
    for f in (
        mild_repetition,
        drift,
        missing_diacritics,
        web_furniture,
        sloppy,
        adverts,
        hedging,
        choppy_lines,
        filler,
        broken_lines,
    )
}
LOW: dict[str, Corruption] = {
    f.__name__: f
    for f in (
        loop, shuffled_words, broken_encoding, keyword_spam, word_salad, calque, boilerplate, html_dump, random_letters,
        foreign_mixture, char_noise, log_dump,
    )
}  # fmt: skip
UNSEEN = frozenset({"filler", "broken_lines", "char_noise", "log_dump"})
