"""Polish words of the word problems: people, countable things, and numerals that agree with what they count."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from megatron_bielik.corpus.inflection import A, G, N, Noun, decline, plural_form, split_table
from megatron_bielik.corpus.polish_lexicon import FIRST_NAMES_F, FIRST_NAMES_M1

# Principal parts as in corpus/polish_lexicon.py; things that one can own, gather, give away and count.
_THINGS = {
    "m3": """
        zeszyt zeszytu zeszytowi zeszycie zeszyty zeszytów; długopis długopisu długopisowi długopisie długopisy długopisów
        ołówek ołówka ołówkowi ołówku ołówki ołówków; klocek klocka klockowi klocku klocki klocków
        znaczek znaczka znaczkowi znaczku znaczki znaczków; kamyk kamyka kamykowi kamyku kamyki kamyków
        orzech orzecha orzechowi orzechu orzechy orzechów; balon balonu balonowi balonie balony balonów
        cukierek cukierka cukierkowi cukierku cukierki cukierków; kasztan kasztana kasztanowi kasztanie kasztany kasztanów
        pierniczek pierniczka pierniczkowi pierniczku pierniczki pierniczków
        koralik koralika koralikowi koraliku koraliki koralików""",
    "f": """
        gruszka gruszki gruszce gruszki gruszek; kredka kredki kredce kredki kredek; śliwka śliwki śliwce śliwki śliwek
        naklejka naklejki naklejce naklejki naklejek; piłka piłki piłce piłki piłek; muszelka muszelki muszelce muszelki muszelek
        pocztówka pocztówki pocztówce pocztówki pocztówek; bułka bułki bułce bułki bułek; książka książki książce książki książek
        szyszka szyszki szyszce szyszki szyszek; mandarynka mandarynki mandarynce mandarynki mandarynek
        wstążka wstążki wstążce wstążki wstążek""",
    "n": """
        jabłko jabłka jabłku jabłku jabłka jabłek; ciastko ciastka ciastku ciastku ciastka ciastek
        zdjęcie zdjęcia zdjęciu zdjęciu zdjęcia zdjęć; jajko jajka jajku jajku jajka jajek
        piórko piórka piórku piórku piórka piórek; pudełko pudełka pudełku pudełku pudełka pudełek""",
}
# What a shop sells, with the range of its price in grosze.
_GOODS = {
    "zeszyt": (180, 650),
    "długopis": (150, 890),
    "ołówek": (80, 350),
    "balon": (60, 250),
    "kredka": (90, 320),
    "naklejka": (50, 240),
    "pocztówka": (120, 450),
    "bułka": (60, 290),
    "wstążka": (110, 480),
    "ciastko": (190, 690),
    "pudełko": (240, 990),
    "mandarynka": (70, 180),
}
_MORE = {
    "person": decline("f", "osoba osoby osobie osoby osób".split()),  # noqa: SIM905
    "page": decline("f", "strona strony stronie strony stron".split()),  # noqa: SIM905
    "point": decline("m3", "punkt punktu punktowi punkcie punkty punktów".split()),  # noqa: SIM905
    "minute": decline("f", "minuta minuty minucie minuty minut".split()),  # noqa: SIM905
    "hour": decline("f", "godzina godziny godzinie godziny godzin".split()),  # noqa: SIM905
    "box": decline("n", "pudełko pudełka pudełku pudełku pudełka pudełek".split()),  # noqa: SIM905
    "head": decline("f", "głowa głowy głowie głowy głów".split()),  # noqa: SIM905
    "leg": decline("f", "noga nogi nodze nogi nóg".split()),  # noqa: SIM905
    "year": Noun(
        ("rok", "roku", "rokowi", "rok", "rokiem", "roku"),
        ("lata", "lat", "latom", "lata", "latami", "latach"),
        "m3",
        "other",
    ),
}
person, page, point, minute, hour, box, head, leg, year = _MORE.values()


@dataclass(frozen=True, slots=True)
class Person:
    """A first name: its six cases and whether it is a woman's."""

    forms: tuple[str, ...]
    woman: bool

    def __str__(self) -> str:
        return self.forms[N]

    def did(self, masculine: str) -> str:
        """A verb's past form (or an adjective) for this person, from the masculine one: kupił, kupiła; starszy, starsza."""
        if not self.woman:
            return masculine
        return masculine[:-1] + "a" if masculine.endswith("y") else masculine + "a"

    @property
    def to_them(self) -> str:
        return "jej" if self.woman else "mu"

    @property
    def who(self) -> str:
        return "która" if self.woman else "który"


@cache
def people() -> tuple[Person, ...]:
    """First names of corpus/polish_lexicon.py, women's and men's."""
    women = [decline("f", [*parts, "", ""]) for parts in split_table(FIRST_NAMES_F)]
    men = [decline("m1", [*parts, "", ""]) for parts in split_table(FIRST_NAMES_M1)]
    return tuple([Person(noun.sg, True) for noun in women] + [Person(noun.sg, False) for noun in men])


@cache
def things() -> tuple[Noun, ...]:
    """Countable things, of all three genders."""
    return tuple(decline(kind, parts) for kind, table in _THINGS.items() for parts in split_table(table))


@cache
def goods() -> tuple[tuple[Noun, int, int], ...]:
    """What a shop sells, with the lowest and the highest price in grosze."""
    by_name = {noun.sg[N]: noun for noun in things()}
    return tuple((by_name[name], low, high) for name, (low, high) in _GOODS.items())


_ONES = "_ jeden dwa trzy cztery pięć sześć siedem osiem dziewięć dziesięć jedenaście dwanaście trzynaście czternaście"
_ONES += " piętnaście szesnaście siedemnaście osiemnaście dziewiętnaście"
_TENS = (
    "_ _ dwadzieścia trzydzieści czterdzieści pięćdziesiąt sześćdziesiąt siedemdziesiąt osiemdziesiąt dziewięćdziesiąt"
)
_HUNDREDS = "_ sto dwieście trzysta czterysta pięćset sześćset siedemset osiemset dziewięćset"
_ONE = {"m3": "jeden", "f": "jedna", "n": "jedno"}


def numeral(number: int, gender: str, case: int = N) -> str:
    """A number from 1 to 999 in words, nominative or accusative, for things of gender m3, f or n.

    One and two take the gender (jedną książkę, dwie książki, dwa jabłka); in compounds only two does, one never
    changes (dwadzieścia jeden książek, dwadzieścia dwie książki).

    Raises:
        ValueError: Another number.
    """
    if not 1 <= number <= 999:
        raise ValueError(f"number is {number}, needs 1 to 999")
    if number == 1:
        return "jedną" if (gender, case) == ("f", A) else _ONE[gender]
    hundreds, rest = divmod(number, 100)
    tens, ones = divmod(rest, 10) if rest >= 20 else (0, rest)
    words = [_HUNDREDS.split()[hundreds]] if hundreds else []
    if tens:
        words.append(_TENS.split()[tens])
    if ones:
        words.append("dwie" if ones == 2 and gender == "f" else _ONES.split()[ones])
    return " ".join(words)


def counted(number: int, noun: Noun, case: int = A, words: bool = False) -> str:
    """A number with its noun, in the nominative or accusative: 1 jabłko, 22 jabłka, 12 jabłek, dwie książki."""
    form = (noun.sg[case], noun.pl[N], noun.pl[G])[plural_form(number)]
    return f"{numeral(number, noun.sg_gender, case) if words else number} {form}"


def happened(number: int, noun: Noun, masculine: str) -> str:
    """The past form of a verb whose subject is a number of things: leżał 1 zeszyt, leżały 2 zeszyty, leżało 5 zeszytów."""
    form = plural_form(number)
    if form == 0:
        return masculine + {"m3": "", "f": "a", "n": "o"}[noun.sg_gender]
    return masculine + ("y" if form == 1 else "o")


def together(one: Person, other: Person, stem: str) -> str:
    """The plural past form for two people, from the stem: zebra -> zebrali, of two women zebrały."""
    return stem + ("ły" if one.woman and other.woman else "li")
