"""Repair: correct text stays to the byte, every way of breaking text is undone, and repairing twice is repairing once."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_bielik.corpus.boilerplate import boilerplate_kind
from megatron_bielik.corpus.repair import repair
from megatron_bielik.corpus.synthetic import generate_document

# Round trips take a part of them: each document is broken in many ways.
DOCUMENTS = [generate_document(2, index)["text"] for index in range(1000)]
SOME = DOCUMENTS[:200]

PAGE = """# Zażółć gęślą jaźń – próba

„Cudzysłów”, a w nim ‚drugi’ i «trzeci»; półpauza – i pauza —, wielokropek… Np. o 8.30, tj. rano, itd. m.in. prof. dr hab.
Powierzchnia 120 m², objętość 35 m³, ½ szklanki, temperatura −5 °C, 3 × 4 = 12, ±2%, §5 ust. 3, 100 €, 50 £, paragraf¹ i przypis².
Biało-czerwony, polsko-niemiecki, Bielsko-Biała; „ŻÓŁĆ”, CZĘŚĆ, MĘŻCZYŹNI, WŚRÓD, GĘŚ, ŁÓDŹ, „ĆMA”–„ŚWIT”.

| Miasto | Ludność | Rok | Uwagi |
|--------|---------|-----|-------|
| Łódź   | 670 642 | 2021 | brak |
| Gdańsk | 470 805 | 2021 | brak |

Imię | Nazwisko | Wiek | Miasto
--- | --- | --- | ---
Jan | Kowalski | Trzy | Radom

```python
napis = "&nbsp;" + 'prze-'   # kod zostaje &amp; kropka
x = a!!!!!!b


drugi = "Ä…"
```

Encja `&amp;` w kodzie. AT&T i R&B; a < b & c > d; adres https://a.pl/?x=1&copy=2&lt=3.

- element listy
- drugi element
  - trzeci

1. Punkt
***
===
~~~
To jest w bloku:::::::
~~~

Rodzina 👨‍👩‍👧‍👦, serce ❤️, flaga 🇵🇱 i 🏴󠁧󠁢󠁥󠁮󠁧󠁿, klawisz 1️⃣, kciuk 👍🏽, tęcza 🏳️‍🌈.
Привіт, як справи? Слава! Ελληνικά: καλημέρα κόσμε. עברית: שלום עולם. العربية: مرحبا بالعالم. فارسی: می‌خواهم.
中文：你好，世界。日本語、한국어.
Français : être, forêt, cœur, français, où. Español: ¿Qué mañana? Niño. Dansk: være, på. Svenska: Ä… nej, Å.
Čeština: řeřicha, žluťoučký kůň, Miloš.
Română: Ăsta, țară. Magyar: őrült ű. Türkçe: İstanbul ığ. Português: São, coração, MAÇÃ.

– Tak?!
– Nie!!! Hej...
Strona poświęcona plikom cookies opisuje, jak je czytać dalej i udostępniać w sieci, choć nikt nie pyta.
"""


def reading(data: bytes, codec: str) -> str:
    """Bytes as a browser reads them in a code page: those without a character are C1 controls."""
    out = []
    for value in data:
        try:
            out.append(bytes([value]).decode(codec))
        except UnicodeDecodeError:
            out.append(chr(value))
    return "".join(out)


def test_generated_documents_stay() -> None:
    for text in DOCUMENTS:
        made = repair(text)
        assert made.text == text
        assert made.changes == {}


def test_a_page_with_every_quirk_stays() -> None:
    made = repair(PAGE)
    for old, new in zip(PAGE.split("\n"), made.text.split("\n"), strict=False):
        assert new == old
    assert made.text == PAGE
    assert made.changes == {}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("codec", ["cp1250", "cp1252", "latin-1", "iso8859_2"])
def test_utf8_read_as_bytes_is_undone(codec: str, times: int) -> None:
    recovered = 0
    for text in SOME:
        broken = text
        for _ in range(times):
            broken = reading(broken.encode(), codec)
        assert broken != text
        recovered += repair(broken).text == text
    assert recovered >= 0.99 * len(SOME)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("cp1250", "cp1252"),
        ("cp1250", "latin-1"),
        ("cp1250", "iso8859_2"),
        ("iso8859_2", "cp1250"),
        ("iso8859_2", "cp1252"),
        ("iso8859_2", "latin-1"),
    ],
)
def test_a_code_page_read_as_another_is_undone(written: str, read: str) -> None:
    # ISO 8859-2 has no typographic quotes.
    texts = [text.replace("„", '"').replace("”", '"') if written == "iso8859_2" else text for text in SOME]
    recovered = sum(repair(reading(text.encode(written), read)).text == text for text in texts)
    assert recovered >= 0.99 * len(texts)


def test_damage_in_some_lines_leaves_the_others() -> None:
    for text in SOME:
        lines = text.split("\n")
        broken = [reading(line.encode(), "cp1250") if at % 4 == 0 else line for at, line in enumerate(lines)]
        assert repair("\n".join(broken)).text == text


def test_cyrillic_and_emoji_read_as_bytes_are_undone() -> None:
    for text in ("Слава Україні, привіт світе!", "Zdjęcie 😀 i 👨‍👩‍👧 razem", "Καλημέρα κόσμε"):
        for codec in ("cp1250", "cp1252", "iso8859_2"):
            assert repair(reading(text.encode(), codec)).text == text


BREAKS = {
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
    "non-breaking spaces": lambda text: text.replace(" ", "\u00a0"),
    "narrow spaces": lambda text: text.replace(" ", "\u202f"),
    "soft hyphens": lambda text: text.replace("ow", "o\u00adw"),
    "zero width": lambda text: "\ufeff" + text.replace(" ", " \u200b").replace("a", "a\u200d"),
    "bidirectional": lambda text: text.replace("„", "\u202a„").replace("”", "”\u202c"),
    "controls": lambda text: text.replace("a", "a\x00").replace("e", "e\x07\x81"),
    "surrogates": lambda text: text.replace("o", "o\ud83d"),
    "windows line ends": lambda text: text.replace("\n", "\r\n"),
    "next line": lambda text: text.replace("\n", "\x85"),
    "entities": lambda text: (
        text.replace("ó", "&oacute;").replace("ł", "&#322;").replace("ą", "&#x105;").replace(" ", "&nbsp;")
    ),
    "entities twice": lambda text: text.replace("ó", "&amp;oacute;").replace("ł", "&amp;amp;#322;"),
    "ligatures": lambda text: text.replace("fi", "ﬁ").replace("fl", "ﬂ"),
    "blank lines": lambda text: "\n\n" + text.replace("\n\n", "\n\n\n\n"),
    "trailing spaces": lambda text: text.replace("\n", " \t\n") + "  ",
    "boilerplate": lambda text: text.replace(
        "\n\n", "\n\nCzytaj więcej »\nUdostępnij na Facebooku\n© 2020 Firma\n12 komentarzy\n\n"
    ),
    "soft hyphen at line ends": lambda text: text.replace("ow", "o\u00ad\nw"),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_every_other_damage_is_undone(kind: str) -> None:
    recovered = sum(repair(BREAKS[kind](text)).text == text for text in SOME)
    assert recovered >= 0.99 * len(SOME)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("prze-\nbieg", "przebieg"),
        ("polsko-\nniemiecki", "polsko-niemiecki"),
        ("biało-\nczerwony", "biało-czerwony"),
        ("ko-\nlejny", "kolejny"),
        ("nowo-\nczesny", "nowoczesny"),
        ("Bielsko-\nBiała", "Bielsko-\nBiała"),
        ("w latach 1990-\nprzed", "w latach 1990-\nprzed"),
        ("jed-\nno i dru-\ngie", "jedno i drugie"),
        ("koniec!!!!!! naprawdę......", "koniec!!! naprawdę..."),
        ("by³ dzieñ, ¿e œwiat bêdzie", "był dzień, że świat będzie"),
        ("¶wiat w±tpi", "świat wątpi"),
        ("½ ² ﬁ Å", "½ ² fi Å"),
        ("\ud83d\ude00 \ud83d", "😀"),
        ("&amp;lt; &foo; &amp", "< &foo; &amp"),
        ("Objętość 3 m³ i 5 cm³", "Objętość 3 m³ i 5 cm³"),
        ("Jan Nowak¹, Adam Lis³", "Jan Nowak¹, Adam Lis³"),
        ("\n\n\n", ""),
        ("a\n\n\n\n\nb\n\n\n", "a\n\nb\n"),
        ("To samo zdanie\n" * 5 + "koniec", "To samo zdanie\nkoniec"),
        ("Strona główna » Sport » Piłka nożna\nTreść", "Treść"),
    ],
)
def test_cases(text: str, expected: str) -> None:
    assert repair(text).text == expected


def test_a_dictionary_decides_between_word_and_compound() -> None:
    words = {"przebieg", "złoto", "srebro"}
    assert repair("prze-\nbieg", words.__contains__).text == "przebieg"
    assert repair("złoto-\nsrebro", words.__contains__).text == "złoto-srebro"
    assert repair("złoto-\nsrebro").text == "złotosrebro"


def test_lost_characters_are_counted_and_stay() -> None:
    made = repair("za\ufffd\ufffd g\ufffdś")
    assert made.text == "za\ufffd\ufffd g\ufffdś"
    assert made.changes == {"lost_characters": 3}


def test_changes_are_counted_by_kind() -> None:
    made = repair("a\u00a0b\r\nCzytaj więcej\r\nprze-\r\nbieg\x00")
    assert made.text == "a b\nprzebieg"
    assert made.changes == {"spaces": 1, "line_ends": 3, "boilerplate.read_more": 1, "hyphens": 1, "controls": 1}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("Ta strona używa plików cookies.", "cookies"),
        ("CZYTAJ DALEJ...", "read_more"),
        ("Zaloguj się | Zarejestruj się", "account"),
        ("© 2024 Gazeta. Wszelkie prawa zastrzeżone.", "copyright"),
        ("O nas | Kontakt | Praca | Regulamin", "navigation"),
        ("Udostępnień: 1 203", "counter"),
        ("Read more »", "read_more"),
        ("Nie czytaj więcej niż musisz, bo oślepniesz.", None),
        (
            "Copyright to po polsku prawo autorskie, o którym piszemy tu tak długo, aż zabraknie miejsca na stronie.",
            None,
        ),
        ("Jan | Anna", None),
        ("raz, dwa, trzy, cztery", None),
        ("", None),
    ],
)
def test_boilerplate_lines(line: str, kind: str | None) -> None:
    assert boilerplate_kind(line) == kind


PIECES = list(
    "aąęłÓkoń-\n \t&;#x3!.|`~»©ĹĂÄÅÃâ‚€™…„œ³¹ê±¶¼šľžÂ²\x85\x9c\x80\u00a0\u00ad\u200d\ufe0f\u0301\ud83d\ude00\r👨❤1"
)
PIECES += [
    "&amp;",
    "nbsp;",
    "&#322;",
    "Ä…",
    "Ĺ‚",
    "prze-\n",
    "```\n",
    "Czytaj więcej\n",
    "by³",
    "w±tp",
    "œwi¹t",
    "\n\n",
]
NASTY = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@settings(max_examples=500, deadline=None)
@given(NASTY)
def test_repairing_twice_is_repairing_once(text: str) -> None:
    once = repair(text).text
    again = repair(once)
    assert again.text == once
    assert set(again.changes) <= {"lost_characters"}
    once.encode()  # no surrogates left


@pytest.mark.parametrize(
    "part", ["&amp;", "Ä…", "Ã„â€¦", "by³ ", "prze-\n", "Привіт", "`", "\n", "a\u0301", "Imię ą\n", "!"]
)
def test_time_grows_with_the_text_not_its_square(part: str) -> None:
    begun = time.process_time()
    repair(part * 10_000)
    assert time.process_time() - begun < 3
