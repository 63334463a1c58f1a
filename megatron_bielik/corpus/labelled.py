"""Generates documents labelled HIGH, MEDIUM or LOW: well-formed ones in many forms, and ones that corruptions.py spoiled.

The default data for training and trying out a quality classifier without a labelled corpus. It stands in for human labels on
web text and cannot replace them. Polish comes from its own grammar, other languages from packs of data (template_grammar.py).
The higher the level (1 to 5), the harder: HIGH documents get small blemishes, corruptions become milder, so that LOW comes near
to MEDIUM and MEDIUM to HIGH.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random
from typing import Literal

from megatron_bielik.corpus import corruptions, template_grammar
from megatron_bielik.corpus.polish_grammar import Document
from megatron_bielik.corpus.polish_lexicon import TOPICS
from megatron_bielik.corpus.template_grammar import Grammar, load_grammar, pack_name

LABELS = ("LOW", "MEDIUM", "HIGH")
LEVELS = (1, 2, 3, 4, 5)
Which = Literal["seen", "unseen", "all"]
_SHARES = {"LOW": 0.45, "MEDIUM": 0.10, "HIGH": 0.45}
_SEVERITY = {1: 1.0, 2: 0.8, 3: 0.65, 4: 0.5, 5: 0.4}

# Corruptions that put in no Polish words: those of documents in other languages.
ANY_LANGUAGE = frozenset(
    {
        "mild_repetition", "missing_diacritics", "sloppy", "choppy_lines", "broken_lines", "loop", "shuffled_words",
        "broken_encoding", "html_dump", "random_letters", "foreign_mixture", "char_noise", "log_dump",
    }
)  # fmt: skip

# Sentences that the grammar cannot make: conditionals, superlatives, numerals, acronyms, brackets, addresses of the reader.
_ASIDES = (
    "Gdybym mógł, zrobiłbym to inaczej.",
    "To najlepszy z trzech pomysłów, jakie dotąd sprawdzono.",
    "Och, jakie to było piękne!",
    "Dwaj bracia i pięć sióstr mieszkali w tym samym domu.",
    "PKP, PZU i NBP ogłosiły wspólny program.",
    "Film „Ida” (2013) zdobył Oscara.",
    "Stosunki polsko-niemieckie zmieniły się w XX wieku.",
    "Trwało to 2–3 dni – tak przynajmniej mówiono…",
    "Więcej na https://przyklad.pl/strona.",
    "Cena wzrosła o 12,5% (z 80 do 90 zł/szt.).",
    "Prof. Nowak, ur. w 1932 r., wykładał m.in. w Krakowie.",
    "Czytaj dalej, a zrozumiesz!",
    "Nie zrobiono nic, by temu zapobiec; można było więcej.",
    "Chciałabym, żebyście to zapamiętali: woda wrze w 100 °C.",
    "Jak mówi Reguła [3], ⟨a, b⟩ ∈ A × B, gdy a < b.",
    "Angielskie „the show must go on” nie ma tu odpowiednika.",
    "#historia @muzeum zaprasza 😀",
    "Żeby zdążyć na pociąg, wyszliśmy wcześniej niż zwykle, ponieważ od rana padał śnieg, a droga na dworzec, "
    "którą szliśmy, była długa, śliska i pełna zasp, o których nikt nas nie uprzedził, choć wszyscy o nich wiedzieli.",
)


@dataclass(frozen=True)
class LabelledDocument:
    """A document and what is known of it.

    Args:
        id: Unique for seed and index.
        text: The document.
        label: HIGH, MEDIUM or LOW.
        level: 1 to 5.
        kind: Form of a HIGH document, corruption of the others.
        topic: A key of polish_lexicon.TOPICS, or a topic of the pack.
    """

    id: str
    text: str
    label: str
    level: int
    kind: str
    topic: str

    def record(self) -> dict[str, object]:
        """As a JSON line has it."""
        return asdict(self)


class _Polish:
    """Polish sentences on one topic, and what the forms are worded with."""

    asides = _ASIDES
    columns = "| Nazwa | Liczba |"
    notes = "Przypisy: s. 12–13, t. II."
    share = "Udostępnij"

    def __init__(self, rng: Random, topic: str) -> None:
        self.rng, self.document = rng, Document(rng, topic)

    def sentence(self) -> str:
        return self.document.sentence()

    def question(self) -> str:
        sentence = self.document.question()
        return f"{sentence[0].upper()}{sentence[1:]}?"

    def title(self) -> str:
        return self.document.title()

    def thing(self) -> str:
        return self.document.phrase(self.document.pick(self.document.words.things), 0)

    def item(self) -> str:
        return f"**{self.thing()}** – "

    def row(self) -> str:
        return f"| {self.thing()} | {self.rng.randint(1, 900)} |"

    def see(self) -> str:
        return f"Zobacz [{self.thing()}](https://przyklad.pl/{self.rng.randint(1, 99)})."

    def code(self) -> str:
        return f"```python\nliczba = {self.rng.randint(1, 99)}\nprint(liczba)\n```"

    def entry(self) -> str:
        name = self.thing()
        born = self.rng.randint(1400, 2000)
        return f"{name.capitalize()} (ok. {born} r.) – {self.thing()} i {self.thing()}; zob. też: {self.thing()}."


class _Pack:
    """The same of a pack of data. A pack without `labelled` has sentences, questions and titles alone."""

    def __init__(self, rng: Random, grammar: Grammar, topic: str) -> None:
        self.rng, self.document = rng, template_grammar.Document(rng, grammar, topic)
        self.asides, self._wording = grammar.asides, grammar.wording
        self.sentence, self.question, self.title = self.document.sentence, self.document.question, self.document.title

    @property
    def columns(self) -> str:
        return self._wording["columns"]

    @property
    def notes(self) -> str:
        return self._wording["notes"]

    @property
    def share(self) -> str:
        return self._wording.get("share", "")

    def item(self) -> str:
        return self.document.fill(self._wording["item"])

    def row(self) -> str:
        return self.document.fill(self._wording["row"])

    def see(self) -> str:
        return self.document.fill(self._wording["see"])

    def code(self) -> str:
        return f"```python\nn = {self.rng.randint(1, 99)}\nprint(n)\n```"

    def entry(self) -> str:
        return self.document.fill(self._wording["entry"])


class _Writer:
    """Writes HIGH documents."""

    def __init__(self, words: _Polish | _Pack) -> None:
        self.rng, self.words = words.rng, words

    def sentence(self) -> str:
        aside = bool(self.words.asides) and self.rng.random() < 0.07
        return self.rng.choice(self.words.asides) if aside else self.words.sentence()

    def paragraph(self, low: int = 2, high: int = 6) -> str:
        return " ".join(self.sentence() for _ in range(self.rng.randint(low, high)))

    def article(self) -> str:
        return "\n\n".join([self.words.title(), *(self.paragraph() for _ in range(self.rng.randint(3, 8)))])

    def essay(self) -> str:
        return "\n\n".join(self.paragraph(5, 12) for _ in range(self.rng.randint(2, 5)))

    def guide(self) -> str:
        parts = [f"# {self.words.title()}", self.paragraph()]
        for _ in range(self.rng.randint(2, 4)):
            parts += [f"## {self.words.title()}", self.paragraph()]
            form = self.rng.random()
            if form < 0.35:
                parts.append(
                    "\n".join(f"- {self.words.item()}{self.sentence()}" for _ in range(self.rng.randint(2, 5)))
                )
            elif form < 0.6:
                parts.append("\n".join(f"{i}. {self.sentence()}" for i in range(1, self.rng.randint(3, 7))))
            elif form < 0.75:
                rows = [self.words.row() for _ in range(self.rng.randint(2, 5))]
                parts.append("\n".join([self.words.columns, "|---|---|", *rows]))
            elif form < 0.85:
                parts.append(self.words.see())
            elif form < 0.92:
                parts.append(self.words.code())
        return "\n\n".join(parts)

    def dialogue(self) -> str:
        parts = [self.paragraph()]
        for _ in range(self.rng.randint(4, 10)):
            parts.append(f"– {self.words.sentence()}" if self.rng.random() < 0.8 else self.paragraph(1, 3))
        return "\n".join(parts)

    def questions(self) -> str:
        pairs = [f"{self.words.question()}\n{self.paragraph(2, 5)}" for _ in range(self.rng.randint(3, 6))]
        return "\n\n".join([self.words.title(), *pairs])

    def entry(self) -> str:
        head = self.words.entry()
        return "\n\n".join([head, *(self.paragraph() for _ in range(self.rng.randint(2, 4))), self.words.notes])

    def blemish(self, text: str, level: int) -> str:
        """Small faults that good texts have, too: more of them at higher levels."""
        rng = self.rng
        if rng.random() < 0.12 * (level - 1):
            words = text.split(" ")
            for _ in range(1 + len(words) // 120):
                at = rng.randrange(len(words))
                words[at] = words[at][:-1] or words[at]
            text = " ".join(words)
        if rng.random() < 0.08 * (level - 1):
            text = corruptions.mild_repetition(text, rng, 0.0)
        if rng.random() < 0.06 * (level - 1):
            text += f"\n\n{self.words.share}"
        return text


_FORMS: tuple[Callable[[_Writer], str], ...] = (
    _Writer.article, _Writer.essay, _Writer.guide, _Writer.guide, _Writer.dialogue, _Writer.questions, _Writer.entry,
)  # fmt: skip
_PLAIN_FORMS = (_Writer.article, _Writer.essay, _Writer.dialogue, _Writer.questions)


def labelled_document(
    seed: int, index: int, level: int, which: Which = "all", language: str = "pl"
) -> LabelledDocument:
    """Document `index` of the set `seed`; it depends on the arguments only.

    Args:
        seed: Names the set.
        index: Number in the set.
        level: 1 (easy) to 5 (hard).
        which: Corruptions drawn from: those that UNSEEN does not name, those it names, or all.
        language: pl, a pack in languages/, or the path of one (template_grammar.py). Documents of packs are spoiled in the ways
            that need no Polish words (ANY_LANGUAGE).

    Raises:
        ValueError: Another level; an unknown pack, or one that cannot be used.
    """
    if level not in _SEVERITY:
        raise ValueError(f"level is {level}, needs 1 to {max(LEVELS)}")
    name = pack_name(language)
    rng = Random(f"labelled/{'' if language == 'pl' else f'{name}/'}{seed}/{index}/{level}/{which}")
    if language == "pl":
        topic = rng.choice(sorted(TOPICS))
        writer, forms = _Writer(_Polish(rng, topic)), _FORMS
    else:
        grammar = load_grammar(language)
        topic = rng.choice(sorted(grammar.topics))
        writer, forms = _Writer(_Pack(rng, grammar, topic)), _FORMS if grammar.wording else _PLAIN_FORMS
    form = rng.choice(forms)
    text = form(writer)
    label = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
    if label == "HIGH":
        kind, text = form.__name__, writer.blemish(text, level)
    else:
        kind, text = _spoiled(text, rng, label, level, which, language)
    prefix = "labelled" if language == "pl" else f"labelled-{name}"
    return LabelledDocument(f"{prefix}-{seed}-{index}-{level}", text, label, level, kind, topic)


def _spoiled(text: str, rng: Random, label: str, level: int, which: Which, language: str) -> tuple[str, str]:
    """Name of a corruption, and the text after it."""
    known = corruptions.MEDIUM if label == "MEDIUM" else corruptions.LOW
    names = [n for n in known if which == "all" or (n in corruptions.UNSEEN) == (which == "unseen")]
    if language != "pl":
        names = [n for n in names if n in ANY_LANGUAGE]
    while True:
        kind = rng.choice(names)
        spoiled = known[kind](text, rng, min(1.0, max(0.05, _SEVERITY[level] + rng.uniform(-0.1, 0.1))))
        # Some ways find nothing to spoil in another language, as missing diacritics in English.
        if language == "pl" or spoiled != text:
            return kind, spoiled
