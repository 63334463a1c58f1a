"""Generates documents labelled HIGH, MEDIUM or LOW: well-formed ones in many forms, and ones that corruptions.py spoiled.

The default data for training and trying out a quality classifier without a labelled corpus. It stands in for human labels on
web text and cannot replace them. The higher the level (1 to 5), the harder: HIGH documents get small blemishes, corruptions
become milder, so that LOW comes near to MEDIUM and MEDIUM to HIGH.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random
from typing import Literal

from megatron_bielik.corpus import corruptions
from megatron_bielik.corpus.polish_grammar import Document
from megatron_bielik.corpus.polish_lexicon import TOPICS

LABELS = ("LOW", "MEDIUM", "HIGH")
LEVELS = (1, 2, 3, 4, 5)
Which = Literal["seen", "unseen", "all"]
_SHARES = {"LOW": 0.45, "MEDIUM": 0.10, "HIGH": 0.45}
_SEVERITY = {1: 1.0, 2: 0.8, 3: 0.65, 4: 0.5, 5: 0.4}

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
        topic: A key of polish_lexicon.TOPICS.
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


class _Writer:
    """Writes HIGH documents on one topic."""

    def __init__(self, rng: Random, topic: str) -> None:
        self.rng, self.topic, self.document = rng, topic, Document(rng, topic)

    def sentence(self) -> str:
        return self.rng.choice(_ASIDES) if self.rng.random() < 0.07 else self.document.sentence()

    def paragraph(self, low: int = 2, high: int = 6) -> str:
        return " ".join(self.sentence() for _ in range(self.rng.randint(low, high)))

    def thing(self) -> str:
        return self.document.phrase(self.document.pick(self.document.words.things), 0)

    def title(self) -> str:
        return self.document.title()

    def article(self) -> str:
        return "\n\n".join([self.title(), *(self.paragraph() for _ in range(self.rng.randint(3, 8)))])

    def essay(self) -> str:
        return "\n\n".join(self.paragraph(5, 12) for _ in range(self.rng.randint(2, 5)))

    def guide(self) -> str:
        parts = [f"# {self.title()}", self.paragraph()]
        for _ in range(self.rng.randint(2, 4)):
            parts += [f"## {self.title()}", self.paragraph()]
            form = self.rng.random()
            if form < 0.35:
                parts.append(
                    "\n".join(f"- **{self.thing()}** – {self.sentence()}" for _ in range(self.rng.randint(2, 5)))
                )
            elif form < 0.6:
                parts.append("\n".join(f"{i}. {self.sentence()}" for i in range(1, self.rng.randint(3, 7))))
            elif form < 0.75:
                rows = [f"| {self.thing()} | {self.rng.randint(1, 900)} |" for _ in range(self.rng.randint(2, 5))]
                parts.append("\n".join(["| Nazwa | Liczba |", "|---|---|", *rows]))
            elif form < 0.85:
                parts.append(f"Zobacz [{self.thing()}](https://przyklad.pl/{self.rng.randint(1, 99)}).")
            elif form < 0.92:
                parts.append(f"```python\nliczba = {self.rng.randint(1, 99)}\nprint(liczba)\n```")
        return "\n\n".join(parts)

    def dialogue(self) -> str:
        parts = [self.paragraph()]
        for _ in range(self.rng.randint(4, 10)):
            parts.append(f"– {self.document.sentence()}" if self.rng.random() < 0.8 else self.paragraph(1, 3))
        return "\n".join(parts)

    def questions(self) -> str:
        pairs = [f"{self._question()}\n{self.paragraph(2, 5)}" for _ in range(self.rng.randint(3, 6))]
        return "\n\n".join([self.title(), *pairs])

    def _question(self) -> str:
        sentence = self.document.question()
        return f"{sentence[0].upper()}{sentence[1:]}?"

    def entry(self) -> str:
        name = self.thing()
        born = self.rng.randint(1400, 2000)
        head = f"{name.capitalize()} (ok. {born} r.) – {self.thing()} i {self.thing()}; zob. też: {self.thing()}."
        return "\n\n".join(
            [head, *(self.paragraph() for _ in range(self.rng.randint(2, 4))), "Przypisy: s. 12–13, t. II."]
        )

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
            text += "\n\nUdostępnij"
        return text


_FORMS: tuple[Callable[[_Writer], str], ...] = (
    _Writer.article, _Writer.essay, _Writer.guide, _Writer.guide, _Writer.dialogue, _Writer.questions, _Writer.entry,
)  # fmt: skip


def labelled_document(seed: int, index: int, level: int, which: Which = "all") -> LabelledDocument:
    """Document `index` of the set `seed`; it depends on the arguments only.

    Args:
        seed: Names the set.
        index: Number in the set.
        level: 1 (easy) to 5 (hard).
        which: Corruptions drawn from: those that UNSEEN does not name, those it names, or all.

    Raises:
        ValueError: Another level.
    """
    if level not in _SEVERITY:
        raise ValueError(f"level is {level}, needs 1 to {max(LEVELS)}")
    rng = Random(f"labelled/{seed}/{index}/{level}/{which}")
    topic = rng.choice(sorted(TOPICS))
    writer = _Writer(rng, topic)
    form = rng.choice(_FORMS)
    text = form(writer)
    label = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
    if label == "HIGH":
        kind, text = form.__name__, writer.blemish(text, level)
    else:
        known = corruptions.MEDIUM if label == "MEDIUM" else corruptions.LOW
        names = [n for n in known if which == "all" or (n in corruptions.UNSEEN) == (which == "unseen")]
        kind = rng.choice(names)
        text = known[kind](text, rng, min(1.0, max(0.05, _SEVERITY[level] + rng.uniform(-0.1, 0.1))))
    return LabelledDocument(f"labelled-{seed}-{index}-{level}", text, label, level, kind, topic)
