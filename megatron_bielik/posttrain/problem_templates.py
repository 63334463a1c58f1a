"""Word problems of levels 1 to 3: sums and differences, two steps, multiplication, division and prices."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from megatron_bielik.corpus.inflection import A, D, G, N, Noun, plural_form
from megatron_bielik.posttrain.problem_steps import Working, number, price
from megatron_bielik.posttrain.problem_words import (
    Person,
    box,
    counted,
    goods,
    happened,
    page,
    people,
    person,
    things,
    together,
)

Template = Callable[[Random], Working]


def two_people(rng: Random) -> tuple[Person, Person]:
    """Two different people."""
    one, other = rng.sample(people(), 2)
    return one, other


def _thing(rng: Random) -> Noun:
    return rng.choice(things())


def gets_more(rng: Random) -> Working:
    (x, y), noun = two_people(rng), _thing(rng)
    a, b = rng.randint(2, 12), rng.randint(1, 7)
    work = Working(
        f"{x} ma {counted(a, noun)}. {y} {y.did('dał')} {x.to_them} jeszcze {counted(b, noun)}. "
        f"Ile {noun.pl[G]} ma teraz {x}?"
    )
    work.step(f"{x} ma teraz", number(a) + b)
    return work


def taken_away(rng: Random) -> Working:
    x, noun = rng.choice(people()), _thing(rng)
    a = rng.randint(3, 19)
    b = rng.randint(1, a - 1)
    work = Working(
        f"Na stole {happened(a, noun, 'leżał')} {counted(a, noun, N)}. {x} {x.did('zabrał')} {counted(b, noun)}. "
        f"Ile {noun.pl[G]} zostało na stole?"
    )
    work.step("Na stole zostało", number(a) - b)
    return work


def two_kinds(rng: Random) -> Working:
    x = rng.choice(people())
    first, second = rng.sample(things(), 2)
    a, b = rng.randint(1, 10), rng.randint(1, 9)
    work = Working(
        f"{x} {x.did('kupił')} {counted(a, first)} i {counted(b, second)}. Ile rzeczy {x.did('kupił')} razem {x}?"
    )
    work.step("Razem", number(a) + b)
    return work


def more_than(rng: Random) -> Working:
    (x, y), noun = two_people(rng), _thing(rng)
    a, b = rng.randint(2, 11), rng.randint(1, 8)
    work = Working(
        f"{x} {x.did('zebrał')} {counted(a, noun)}, a {y} o {counted(b, noun)} więcej. "
        f"Ile {noun.pl[G]} {y.did('zebrał')} {y}?"
    )
    work.step(f"{y} {y.did('zebrał')}", number(a) + b)
    return work


def gives_away(rng: Random) -> Working:
    (x, y), noun = two_people(rng), _thing(rng)
    a = rng.randint(3, 19)
    b = rng.randint(1, a - 1)
    work = Working(
        f"{x} {x.did('miał')} {counted(a, noun)} i {x.did('oddał')} {y.forms[D]} {counted(b, noun)}. "
        f"Ile {noun.pl[G]} {x.to_them} zostało?"
    )
    work.step("Zostało", number(a) - b)
    return work


def how_many_more(rng: Random) -> Working:
    (x, y), noun = two_people(rng), _thing(rng)
    a = rng.randint(4, 19)
    b = rng.randint(1, a - 1)
    work = Working(f"{x} ma {counted(a, noun)}, a {y} ma {counted(b, noun)}. O ile więcej {noun.pl[G]} ma {x} niż {y}?")
    work.step("Różnica", number(a) - b)
    return work


def gets_and_gives(rng: Random) -> Working:
    (x, y), noun = two_people(rng), _thing(rng)
    a, b = rng.randint(8, 55), rng.randint(3, 40)
    c = rng.randint(2, a + b - 1)
    work = Working(
        f"{x} {x.did('miał')} {counted(a, noun)}. Od {y.forms[G]} {x.did('dostał')} {counted(b, noun)}, "
        f"a potem {x.did('zgubił')} {counted(c, noun)}. Ile {noun.pl[G]} ma teraz {x}?"
    )
    total = work.step(f"Razem z tym, co {x.to_them} {y.did('dał')} {y}", number(a) + b)
    work.step("Zostało", total - c)
    return work


def both_together(rng: Random) -> Working:
    (x, y), noun = two_people(rng), _thing(rng)
    a = rng.randint(10, 44)
    b = rng.randint(2, 9)
    more = rng.random() < 0.5
    work = Working(
        f"{x} {x.did('zebrał')} {counted(a, noun)}, a {y} o {counted(b, noun)} {'więcej' if more else 'mniej'}. "
        f"Ile {noun.pl[G]} {together(x, y, 'zebra')} razem?"
    )
    other = work.step(f"{y} {y.did('zebrał')}", number(a) + b if more else number(a) - b)
    work.step("Razem", number(a) + other)
    return work


def on_the_bus(rng: Random) -> Working:
    a = rng.randint(12, 60)
    b, c = rng.randint(2, a - 2), rng.randint(2, 35)
    vehicle = rng.choice(("W autobusie", "W tramwaju", "W wagonie", "W trolejbusie"))
    where = rng.choice(("Na przystanku", "Na pierwszym przystanku", "Przy szkole", "Koło rynku", "Na rondzie"))
    work = Working(
        f"{vehicle} {happened(a, person, 'jechał')} {counted(a, person, N)}. {where} {happened(b, person, 'wysiadł')} "
        f"{counted(b, person, N)}, a {happened(c, person, 'wsiadł')} {counted(c, person, N)}. Ile osób jedzie dalej?"
    )
    left = work.step("Po wyjściu pasażerów zostało", number(a) - b)
    work.step("Dalej jedzie", left + c)
    return work


def money_left(rng: Random) -> Working:
    x = rng.choice(people())
    first, second = rng.sample(things(), 2)
    a = rng.randint(30, 99)
    b = rng.randint(5, a // 2)
    c = rng.randint(3, a - b - 1)
    work = Working(
        f"{x} {x.did('miał')} {a} zł. Na {first.pl[A]} {x.did('wydał')} {b} zł, a na {second.pl[A]} {c} zł. "
        f"Ile złotych {x.to_them} zostało?"
    )
    spent = work.step("Wydatki", number(b) + c, "zł")
    work.step("Zostało", number(a) - spent, "zł")
    return work


def pages_left(rng: Random) -> Working:
    x = rng.choice(people())
    a = rng.randint(40, 99)
    b = rng.randint(5, a // 2)
    c = rng.randint(4, a - b - 1)
    day, next_day = rng.choice(
        (("W poniedziałek", "we wtorek"), ("W sobotę", "w niedzielę"), ("W środę", "w czwartek"))
    )
    work = Working(
        f"Książka ma {counted(a, page)}. {day} {x} {x.did('przeczytał')} {counted(b, page)}, a {next_day} "
        f"{counted(c, page)}. Ile stron zostało {x.forms[D]} do przeczytania?"
    )
    read = work.step(f"{x} {x.did('przeczytał')}", number(b) + c)
    work.step("Do przeczytania zostało", number(a) - read)
    return work


def bill(rng: Random) -> Working:
    x, (noun, low, high) = rng.choice(people()), rng.choice(goods())
    n, p, words = rng.randint(2, 12), rng.randrange(low, high, 5), rng.random() < 0.3
    work = Working(
        f"{x} {x.did('kupił')} {counted(n, noun, words=words)} po {price(p).shown()} zł za sztukę. "
        f"Ile złotych {x.did('zapłacił')} {x}?"
    )
    work.step("Koszt zakupów", number(n) * price(p), "zł")
    return work


def bill_of_two(rng: Random) -> Working:
    x, ((first, low, high), (second, low_2, high_2)) = rng.choice(people()), rng.sample(goods(), 2)
    n, m = rng.randint(2, 8), rng.randint(2, 8)
    p, q = price(rng.randrange(low, high, 5)), price(rng.randrange(low_2, high_2, 5))
    words = rng.random() < 0.3
    work = Working(
        f"{x} {x.did('kupił')} {counted(n, first, words=words)} po {p.shown()} zł i "
        f"{counted(m, second, words=words)} po {q.shown()} zł. Ile złotych kosztowały całe zakupy?"
    )
    one = work.step(f"Za {first.pl[A]}", number(n) * p, "zł")
    other = work.step(f"Za {second.pl[A]}", number(m) * q, "zł")
    work.step("Razem", one + other, "zł")
    return work


def boxes(rng: Random) -> Working:
    x, noun = rng.choice(people()), rng.choice([noun for noun in things() if noun.sg[N] != "pudełko"])
    n, k = rng.randint(3, 15), rng.randint(4, 24)
    words = rng.random() < 0.4
    verb = "są" if plural_form(k) == 1 else "jest"
    work = Working(
        f"{x} ma {counted(n, box, words=words)}. W każdym {verb} {counted(k, noun, N, words)}. Ile {noun.pl[G]} ma {x}?"
    )
    work.step("Razem", number(n) * k)
    return work


def fair_shares(rng: Random) -> Working:
    x, noun = rng.choice(people()), _thing(rng)
    k, each = rng.randint(2, 12), rng.randint(3, 16)
    words = rng.random() < 0.4
    work = Working(
        f"{x} {x.did('rozdzielił')} po równo {counted(k * each, noun, words=words)} między {counted(k, person, words=words)}. "
        f"Ile {noun.pl[G]} dostała każda osoba?"
    )
    work.step("Każda osoba dostała", number(k * each) / k)
    return work


def price_of_more(rng: Random) -> Working:
    noun, low, high = rng.choice(goods())
    n, m = rng.sample(range(2, 13), 2)
    p = rng.randrange(low, high, 5)
    cost = "kosztują" if plural_form(n) == 1 else "kosztuje"
    work = Working(
        f"W sklepie {counted(n, noun, N)} {cost} {price(n * p).shown()} zł. "
        f"Ile złotych trzeba zapłacić za {counted(m, noun)} w tej samej cenie?"
    )
    one = work.step(f"{noun.sg[N].capitalize()} kosztuje", price(n * p) / n, "zł")
    work.step("Do zapłaty", one * m, "zł")
    return work


def change(rng: Random) -> Working:
    x, (noun, low, high) = rng.choice(people()), rng.choice(goods())
    p = rng.randrange(low, high, 5)
    note = rng.choice([note for note in (10, 20, 50, 100) if note * 100 > 2 * p])
    n = rng.randint(2, min(15, (note * 100 - 1) // p))
    work = Working(
        f"{x} {x.did('kupił')} {counted(n, noun)} po {price(p).shown()} zł i {x.did('zapłacił')} "
        f"banknotem {note} zł. Ile złotych reszty {x.did('dostał')} {x}?"
    )
    cost = work.step("Koszt zakupów", number(n) * price(p), "zł")
    work.step("Reszta", price(note * 100) - cost, "zł")
    return work


LEVELS: dict[int, tuple[Template, ...]] = {
    1: (gets_more, taken_away, two_kinds, more_than, gives_away, how_many_more),
    2: (gets_and_gives, both_together, on_the_bus, money_left, pages_left),
    3: (bill, bill_of_two, boxes, fair_shares, price_of_more, change),
}
