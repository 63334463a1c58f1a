"""Word problems of levels 4 and 5: percentages, fractions, three steps; averages, time, two unknowns."""

from __future__ import annotations

from fractions import Fraction
from math import gcd
from random import Random

from megatron_bielik.corpus.inflection import A, D, G, N
from megatron_bielik.posttrain.problem_steps import Working, fraction, number, price
from megatron_bielik.posttrain.problem_templates import Template, two_people
from megatron_bielik.posttrain.problem_words import (
    counted,
    goods,
    head,
    hour,
    leg,
    minute,
    numeral,
    page,
    people,
    point,
    things,
    together,
    year,
)

# What costs tens or hundreds of złote, with its verb.
_WARES = (
    ("Kurtka", "kosztowała"),
    ("Plecak", "kosztował"),
    ("Rower", "kosztował"),
    ("Lampa", "kosztowała"),
    ("Krzesło", "kosztowało"),
    ("Słownik", "kosztował"),
    ("Torba", "kosztowała"),
    ("Biurko", "kosztowało"),
    ("Namiot", "kosztował"),
    ("Hulajnoga", "kosztowała"),
)
_GROUPS = (
    ("W szkole uczy się", "uczniów", "dziewczęta", "chłopców"),
    ("W klubie trenuje", "sportowców", "pływacy", "pozostałych zawodników"),
    ("W chórze śpiewa", "osób", "kobiety", "mężczyzn"),
    ("Na widowni siedzi", "widzów", "dzieci", "dorosłych"),
    ("W hotelu mieszka", "gości", "Polacy", "cudzoziemców"),
)


def discount(rng: Random) -> Working:
    ware, cost = rng.choice(_WARES)
    p, r = rng.randint(4, 60) * 10, rng.choice((5, 10, 15, 20, 25, 30, 40))
    work = Working(f"{ware} {cost} {p} zł. Cenę obniżono o {r}%. Ile złotych wynosi nowa cena?")
    off = work.step("Obniżka", price(p * 100) * r / 100, "zł")
    work.step("Nowa cena", price(p * 100) - off, "zł")
    return work


def up_and_down(rng: Random) -> Working:
    ware, cost = rng.choice(_WARES)
    p, r, s = rng.randint(2, 30) * 20, rng.choice((5, 10, 20, 25, 50)), rng.choice((5, 10, 20, 25, 50))
    work = Working(
        f"{ware} {cost} {p} zł. Najpierw cenę podniesiono o {r}%, a potem nową cenę obniżono o {s}%. "
        "Ile złotych wynosi cena po obu zmianach?"
    )
    higher = work.step("Cena po podwyżce", price(p * 100) + price(p * 100) * r / 100, "zł")
    work.step("Cena po obniżce", higher - higher * s / 100, "zł")
    return work


def share_of_group(rng: Random) -> Working:
    place, all_of_them, part, rest = rng.choice(_GROUPS)
    r = rng.choice((10, 15, 20, 25, 30, 35, 40, 45, 55, 60, 65, 70, 75))
    # A whole number of people in each part, and five or more of them: the verb is then singular.
    n = 20 * rng.randint(3, 30)
    work = Working(f"{place} {n} {all_of_them}. {r}% z nich to {part}. Ilu jest {rest}?")
    some = work.step(f"{part.capitalize()}", number(n) * r / 100)
    work.step("Pozostali", number(n) - some)
    return work


def part_of_a_book(rng: Random) -> Working:
    x = rng.choice(people())
    b = rng.choice((3, 4, 5, 6, 8, 10))
    a = rng.choice([a for a in range(1, b) if gcd(a, b) == 1])
    n = b * rng.randint(10, 45)
    work = Working(
        f"{x} {x.did('przeczytał')} {a}/{b} książki, która ma {counted(n, page)}. Ile stron zostało {x.forms[D]} do końca?"
    )
    read = work.step(f"{x} {x.did('przeczytał')}", number(n) * a / b)
    work.step("Zostało", number(n) - read)
    return work


def pocket_money(rng: Random) -> Working:
    x, noun = rng.choice(people()), rng.choice(things())
    k, r = rng.choice((2, 3, 4, 5)), rng.choice((10, 20, 25, 30, 50))
    a = k * rng.randint(4, 30) * 2
    part = {2: "połowę", 3: "jedną trzecią", 4: "jedną czwartą", 5: "jedną piątą"}[k]
    work = Working(
        f"{x} {x.did('miał')} {a} zł. Na {noun.pl[A]} {x.did('wydał')} {part} tej kwoty, a na bilet {r}% reszty. "
        f"Ile złotych {x.to_them} zostało?"
    )
    spent = work.step("Pierwszy wydatek", price(a * 100) / k, "zł")
    rest = work.step("Reszta", price(a * 100) - spent, "zł")
    ticket = work.step("Bilet", rest * r / 100, "zł")
    work.step("Zostało", rest - ticket, "zł")
    return work


def rest_of_a_cake(rng: Random) -> Working:
    x, y = two_people(rng)
    cake = rng.choice(("tortu", "pizzy", "sernika", "makowca", "szarlotki"))
    while True:
        b, d = rng.choice((3, 4, 5, 6, 8, 10, 12)), rng.choice((3, 4, 5, 6, 8, 10, 12))
        first, second = Fraction(rng.randint(1, b - 1), b), Fraction(rng.randint(1, d - 1), d)
        if first + second < 1 and first.denominator == b and second.denominator == d:
            break
    work = Working(
        f"{x} {x.did('zjadł')} {first} {cake}, a {y} {second}. Jaka część {cake} została? Podaj ułamek nieskracalny."
    )
    eaten = work.step("Zjedzona część", fraction(first) + fraction(second))
    work.step("Zostało", number(1) - eaten)
    return work


def bill_with_discount(rng: Random) -> Working:
    x, ((first, low, high), (second, low_2, high_2)) = rng.choice(people()), rng.sample(goods(), 2)
    n, m, r = rng.randint(2, 9), rng.randint(2, 9), rng.choice((10, 20, 50))
    p, q = price(rng.randrange(low, high) // 10 * 10), price(rng.randrange(low_2, high_2) // 10 * 10)
    work = Working(
        f"{x} {x.did('kupił')} {counted(n, first, words=True)} po {p.shown()} zł i "
        f"{counted(m, second, words=True)} po {q.shown()} zł. Przy kasie {x.did('dostał')} {r}% rabatu. "
        f"Ile złotych {x.did('zapłacił')} {x}?"
    )
    cost = work.step("Koszt bez rabatu", number(n) * p + number(m) * q, "zł")
    off = work.step("Rabat", cost * r / 100, "zł")
    work.step("Do zapłaty", cost - off, "zł")
    return work


def next_test(rng: Random) -> Working:
    x = rng.choice(people())
    n, mean, rise = rng.randint(2, 6), rng.randint(20, 70), rng.randint(1, 4)
    tests = {2: "dwóch", 3: "trzech", 4: "czterech", 5: "pięciu", 6: "sześciu"}[n]
    work = Working(
        f"Średni wynik {x.forms[G]} z {tests} sprawdzianów to {counted(mean, point, N)}. Ile punktów musi {x} zdobyć na "
        f"następnym sprawdzianie, aby średnia wyniosła {counted(mean + rise, point)}?"
    )
    so_far = work.step("Suma punktów do tej pory", number(n) * mean)
    needed = work.step("Potrzebna suma", (number(n) + 1) * (mean + rise))
    work.step("Następny wynik", needed - so_far)
    return work


def mean_price(rng: Random) -> Working:
    x = rng.choice(people())
    days = ("w poniedziałek", "we wtorek", "w środę", "w czwartek", "w piątek")[: rng.choice((3, 4, 5))]
    amounts = [rng.randint(3, 60) for _ in days]
    # The mean comes out whole.
    amounts[-1] += -sum(amounts) % len(days)
    listed = [f"{day} {amount} zł" for day, amount in zip(days, amounts, strict=True)]
    work = Working(
        f"{x} {x.did('wydał')} {', '.join(listed[:-1])} i {listed[-1]}. Ile złotych {x.did('wydawał')} średnio dziennie?"
    )
    total = number(amounts[0])
    for amount in amounts[1:]:
        total = total + amount
    total = work.step("Suma", total, "zł")
    work.step("Średnia", total / len(days), "zł")
    return work


def journey(rng: Random) -> Working:
    start, length = rng.randint(6 * 60, 17 * 60), rng.randint(65, 290)
    stop = rng.randint(5, 45)
    end = start + length
    who, left, arrived, rode = rng.choice(
        (
            ("Pociąg", "wyruszył", "dotarł", "jechał"),
            ("Autobus", "wyruszył", "dotarł", "jechał"),
            ("Wycieczka", "wyruszyła", "dotarła", "szła"),
            ("Statek", "wyruszył", "dotarł", "płynął"),
        )
    )
    work = Working(
        f"{who} {left} o {_clock(start)} i {arrived} na miejsce o {_clock(end)}. Postoje po drodze trwały razem "
        f"{counted(stop, minute)}. Ile minut {who[0].lower() + who[1:]} {rode} bez postojów?"
    )
    hours = number(end // 60) * 60 + end % 60
    before = number(start // 60) * 60 + start % 60
    late = work.step(f"Godzina {_clock(end)} w minutach od północy", hours)
    early = work.step(f"Godzina {_clock(start)} w minutach od północy", before)
    whole = work.step("Czas podróży w minutach", late - early)
    work.step("Bez postojów", whole - stop)
    return work


def _clock(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02d}"


def sum_and_difference(rng: Random) -> Working:
    (x, y), noun = two_people(rng), rng.choice(things())
    less, d = rng.randint(5, 90), rng.randint(2, 40)
    work = Working(
        f"{x} i {y} mają razem {counted(2 * less + d, noun)}. {x} ma o {counted(d, noun)} więcej niż {y}. "
        f"Ile {noun.pl[G]} ma {y}?"
    )
    twice = work.step(f"Gdyby {x} {x.did('miał')} tyle samo co {y}, razem byłoby", number(2 * less + d) - d)
    work.step(f"{y} ma", twice / 2)
    return work


def heads_and_legs(rng: Random) -> Working:
    birds, beasts = rng.choice((("kury", "króliki"), ("gęsi", "owce"), ("kaczki", "kozy"), ("indyki", "barany")))
    asked = {"króliki": "królików", "owce": "owiec", "kozy": "kóz", "barany": "baranów"}[beasts]
    two, four = rng.randint(2, 45), rng.randint(2, 40)
    n, m = two + four, 2 * two + 4 * four
    place = rng.choice(("Na podwórku", "W zagrodzie", "Na łące", "Na farmie"))
    work = Working(
        f"{place} są {birds} i {beasts}. Mają razem {counted(n, head)} i {counted(m, leg)}. Ile jest {asked}?"
    )
    least = work.step("Gdyby wszystkie zwierzęta miały po dwie nogi, nóg byłoby", number(2) * n)
    extra = work.step("Nóg ponad to", number(m) - least)
    work.step(f"Każde z pozostałych zwierząt ma o dwie nogi więcej, więc {asked} jest", extra / 2)
    return work


def ages(rng: Random) -> Working:
    x, y = two_people(rng)
    k, later = rng.randint(2, 6), rng.randint(1, 15)
    young = rng.randint(4, 80 // k)
    times = numeral(k, "m3")
    work = Working(
        f"{x} jest {times} razy {x.did('starszy')} od {y.forms[G]}. Razem mają {counted(young * (k + 1), year)}. "
        f"Ile lat będzie {y.did('miał')} {y} za {counted(later, year)}?"
    )
    shares = work.step(f"Razem są to równe części, z których jedna to wiek {y.forms[G]}", number(k) + 1)
    now = work.step(f"{y} ma teraz lat", number(young * (k + 1)) / shares)
    work.step(f"Za {counted(later, year)}", now + later)
    return work


def two_speeds(rng: Random) -> Working:
    x = rng.choice(people())
    s, t = rng.randint(1, 4), rng.randint(1, 4)
    v = rng.randint(8, 30)
    w = rng.choice([w for w in range(8, 31) if w != v and (s * v + t * w) * 10 % (s + t) == 0] or [v])
    work = Working(
        f"{x} {x.did('jechał')} na rowerze {counted(s, hour)} z prędkością {v} km/h, a potem {counted(t, hour)} "
        f"z prędkością {w} km/h. Ile kilometrów na godzinę wynosiła średnia prędkość na całej trasie?"
    )
    first = work.step("Pierwsza część trasy", number(s) * v, "km")
    second = work.step("Druga część trasy", number(t) * w, "km")
    way = work.step("Cała trasa", first + second, "km")
    time = work.step("Cały czas w godzinach", number(s) + t)
    work.step("Średnia prędkość", way / time, "km/h")
    return work


def meeting(rng: Random) -> Working:
    x, y = two_people(rng)
    v, w, halves = rng.randint(4, 24), rng.randint(4, 24), rng.randint(2, 10)
    if (v + w) * halves % 2:
        w += 1
    distance = (v + w) * halves // 2
    went = together(x, y, "wyruszy")
    work = Working(
        f"{x} i {y} {went} jednocześnie naprzeciw siebie z dwóch miejscowości odległych o {distance} km. "
        f"{x} jedzie z prędkością {v} km/h, a {y} {w} km/h. Po ilu godzinach się spotkają?"
    )
    closer = work.step("W ciągu godziny zbliżają się o kilometrów", number(v) + w)
    work.step("Spotkają się po godzinach", number(distance) / closer)
    return work


LEVELS: dict[int, tuple[Template, ...]] = {
    4: (discount, up_and_down, share_of_group, part_of_a_book, pocket_money, rest_of_a_cake, bill_with_discount),
    5: (next_test, mean_price, journey, sum_and_difference, heads_and_legs, ages, two_speeds, meeting),
}
