"""The 200 features in plain Python, from their definitions: what csrc/text_features is tested against. Slow and literal."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from statistics import median, pstdev

from megatron_bielik.corpus import morphology as m
from megatron_bielik.corpus.language import Language, character_class, simple_lower
from tests.corpus.text_twin import LETTERS, Text, Word, duplicates, entropy, mean, ratio


def syllables(word: Word, language: Language) -> int:
    vowels = language.vowels + language.vowels.upper()
    count, glide = 0, False
    for c in word.text:
        count += c in vowels and not glide
        glide = c in language.glide + language.glide.upper()
    return count


def mtld(ids: Sequence[str]) -> float:
    def one_way(ids: Sequence[str]) -> float:
        factors, seen, length = 0.0, set(), 0
        for word in ids:
            seen.add(word)
            length += 1
            if len(seen) / length <= 0.72:
                factors, seen, length = factors + 1, set(), 0
        if length:
            factors += (1 - len(seen) / length) / (1 - 0.72)
        return len(ids) / factors if factors > 0 else len(ids)

    return (one_way(ids) + one_way(ids[::-1])) / 2


def looping(ids: Sequence[str]) -> float:
    lags = range(1, min(64, len(ids) - 20) + 1)
    return max((mean(a == b for a, b in zip(ids, ids[lag:], strict=False)) for lag in lags), default=0.0)


def spread(words: Iterable[Word], names: Sequence[str]) -> dict[str, float]:
    """Each word shared out among the values it may have."""
    total = dict.fromkeys(names, 0.0)
    for word in words:
        for value in word.values(names):
            total[value] += 1 / len(word.values(names))
    return total


def features(text: str, language: Language, bits: Callable[[str], int]) -> dict[str, float]:
    """All features by name. bits: attributes of a word as it stands in the text (corpus/morphology.py)."""
    t = Text(text, language, bits)
    f: dict[str, float] = {}
    for part in (_sizes, _sentences, _richness, _characters, _marks, _functions, _grammar, _repetition, _lines, _names):
        part(t, f)
    return f


def _sizes(t: Text, f: dict[str, float]) -> None:
    lengths = [len(w.text) for w in t.words]
    syllable = [syllables(w, t.language) for w in t.words]
    lines = [line for line in t.lines if line]
    f["char_count"], f["word_count"], f["sentence_count"] = len(t.text), len(t.words), len(t.sentences)
    f["line_count"], f["unique_word_count"] = len(lines), len({w.lower for w in t.words})
    f["paragraph_count"] = len(paragraphs(t))
    f["word_length_mean"], f["word_length_std"] = mean(lengths), pstdev(lengths) if lengths else 0.0
    f["word_length_max"] = max(lengths, default=0)
    for name, low, high in (("1", 1, 1), ("2", 2, 2), ("3", 3, 3), ("4_6", 4, 6), ("7_9", 7, 9), ("10_12", 10, 12)):
        f[f"word_length_{name}_ratio"] = mean(low <= n <= high for n in lengths)
    f["word_length_13_plus_ratio"] = mean(n >= 13 for n in lengths)
    f["syllables_per_word"] = mean(syllable)
    f["token_length_mean"] = mean(end - begin for begin, end in t.tokens)
    f["long_token_ratio"] = mean(end - begin > 30 for begin, end in t.tokens)
    sentence = ratio(len(t.words), len(t.sentences))
    longer, hard = sum(n > 6 for n in lengths), 100 * mean(n >= 4 for n in syllable)
    f["lix"] = sentence + 100 * ratio(longer, len(t.words))
    f["rix"] = ratio(longer, len(t.sentences))
    f["fog_pl"] = 0.4 * (sentence + hard)
    f["pisarek"] = math.hypot(sentence, hard) / 2


def paragraphs(t: Text) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for line in t.lines:
        if line:
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [p for p in found if p]


def _sentences(t: Text, f: dict[str, float]) -> None:
    lengths = [len(words) for words, _ in t.sentences]
    f["sentence_length_mean"], f["sentence_length_std"] = mean(lengths), pstdev(lengths) if lengths else 0.0
    f["sentence_length_max"], f["sentence_length_median"] = max(lengths, default=0), median(lengths) if lengths else 0
    f["sentence_length_change"] = mean(abs(a - b) for a, b in pairwise(lengths))
    f["short_sentence_ratio"] = mean(n < 5 for n in lengths)
    f["long_sentence_ratio"] = mean(n > 25 for n in lengths)
    f["very_long_sentence_ratio"] = mean(n > 35 for n in lengths)
    for name, terminal in (("declarative", "."), ("interrogative", "?"), ("exclamative", "!")):
        f[f"{name}_ratio"] = mean(kind == terminal for _, kind in t.sentences)
    f["sentence_start_upper_ratio"] = mean(words[0].capital for words, _ in t.sentences)
    f["sentence_start_distinct_ratio"] = ratio(len({words[0].lower for words, _ in t.sentences}), len(lengths))


def _richness(t: Text, f: dict[str, float]) -> None:
    ids = [w.lower for w in t.words]
    counts = Counter(ids)
    n, types, once = len(ids), len(counts), sum(c == 1 for c in counts.values())
    squares = sum(c * c for c in counts.values())
    log_n, log_types = math.log(n) if n > 1 else 0.0, math.log(types) if types > 1 else 0.0
    f["type_token_ratio"] = ratio(types, n)
    f["root_ttr"] = types / math.sqrt(n) if n else 0.0
    f["log_ttr"] = ratio(log_types, log_n)
    f["maas"] = (log_n - log_types) / log_n**2 if log_n else 0.0
    f["yule_k"] = 1e4 * (squares - n) / n**2 if n else 0.0
    f["hapax_legomena_ratio"] = ratio(once, types)
    f["honore_r"] = 100 * log_n / (1 - once / types if once < types else 1 / types) if types else 0.0
    f["mtld"] = mtld(ids)
    windows = [ids[i : i + 50] for i in range(max(1, n - 49))]
    f["mattr_50"] = mean(ratio(len(set(w)), len(w)) for w in windows)
    f["word_entropy"] = entropy(counts.values())
    f["word_evenness"] = f["word_entropy"] / math.log2(types) if types > 1 else 0.0
    f["top_10_word_ratio"] = ratio(sum(c for _, c in counts.most_common(10)), n)


def _characters(t: Text, f: dict[str, float]) -> None:
    text, n, kinds = t.text, len(t.text), Counter(t.kinds)
    letters = sum(kinds[kind] for kind in LETTERS)
    words = len(t.words)
    f["letter_ratio"] = ratio(letters, n)
    f["upper_case_ratio"] = ratio(kinds["upper"], letters)
    f["digit_ratio"] = ratio(kinds["digit"] + kinds["number"], n)
    f["whitespace_ratio"] = ratio(kinds["space"] + kinds["newline"], n)
    f["symbol_ratio"] = ratio(kinds["symbol"] + kinds["emoji"], n)
    for name, kind in (
        ("emoji", "emoji"),
        ("combining_mark", "mark"),
        ("control_char", "control"),
        ("unassigned_char", "other"),
    ):
        f[f"{name}_ratio"] = ratio(kinds[kind], n)
    latin = [c < "\u0250" or "\u1e00" <= c < "\u1f00" for c in text]
    f["other_script_ratio"] = ratio(
        sum(k in LETTERS and not is_latin for k, is_latin in zip(t.kinds, latin, strict=True)), letters
    )
    f["zero_width_ratio"] = ratio(len(re.findall("[\u200b\u200c\u200d\ufeff]", text)), n)
    f["replacement_char_ratio"] = ratio(text.count("\ufffd"), n)
    f["mojibake_per_word"] = ratio(sum(_mojibake(a, b) for a, b in pairwise(text)), words)
    f["question_mark_in_word_ratio"] = ratio(
        sum(text[i] == "?" and t.letter(i - 1) and i + 1 < n and t.kinds[i + 1] == "lower" for i in range(1, n)), words
    )
    f["html_entity_per_word"] = ratio(len(re.findall(r"&#?[A-Za-z0-9]{1,8};", text)), words)
    f["backslash_escape_per_word"] = ratio(len(re.findall(r"\\(?=[ntrux\"])", text)), words)
    run = longest = 0
    for i, c in enumerate(text):
        run = run + 1 if i and text[i - 1] == c else 1
        longest = max(longest, 0 if c.isspace() else run)
    f["longest_char_run"] = longest
    f["char_entropy"] = entropy(Counter(c if c < "\u0250" else "beyond" for c in text).values())
    pairs = Counter(p for w in t.words for p in pairwise(_letter_index(c, t.language) for c in w.text))
    f["letter_pair_entropy"] = entropy(pairs.values())
    of = t.language
    both = {name: set(s + s.upper()) for name, s in (("v", of.vowels), ("d", of.diacritics), ("n", of.letters))}
    f["vowel_ratio"] = ratio(sum(c in both["v"] for c in text), letters)
    f["consonant_cluster_ratio"] = mean(
        any(all(c not in both["v"] for c in w.text[i : i + 5]) for i in range(len(w.text) - 4)) for w in t.words
    )
    f["tripled_letter_ratio"] = mean(
        any(a == b == c for a, b, c in zip(w.lower, w.lower[1:], w.lower[2:], strict=False)) for w in t.words
    )
    f["polish_diacritics_per_word"] = ratio(sum(c in both["d"] for c in text), words)
    f["words_with_diacritics_ratio"] = mean(any(c in both["d"] for c in w.text) for w in t.words)
    f["missing_diacritics_ratio"] = mean(w.has("needs_diacritics") for w in t.words)
    f["foreign_letter_ratio"] = ratio(letters - sum(c in both["n"] for c in text), letters)
    for name, pair in (("a_ogonek", "ąĄ"), ("e_ogonek", "ęĘ"), ("o_acute", "óÓ"), ("l_stroke", "łŁ")):
        f[f"letter_{name}_ratio"] = ratio(sum(c in pair for c in text), letters)


def _mojibake(a: str, b: str) -> bool:
    if a not in "ÂÃÄÅĂĹâ" or b < "\x80":
        return False
    if character_class(b) in LETTERS:
        return b < "\u017f" and a != b
    return not b.isspace() or b == "\xa0"


def _letter_index(c: str, language: Language) -> int:
    low = simple_lower(c)
    if c.isascii():
        return ord(low) & 31
    return 32 + (ord(low) & 31) if c in language.letters + language.letters.upper() else 0


def _marks(t: Text, f: dict[str, float]) -> None:
    text, words, tokens = t.text, len(t.words), len(t.tokens)
    punctuation = [c for c, kind in zip(text, t.kinds, strict=True) if kind == "punctuation"]
    f["punctuation_per_word"] = ratio(len(punctuation), words)
    for name, chars in (
        ("commas", ","), ("full_stops", "."), ("colons", ":"), ("hyphens", "-"), ("dashes", "–—"), ("ellipses", "…"),
        ("quotes", '"„”«»'), ("parentheses", "()"), ("brackets", "[]{}"), ("slashes", "/\\"),
    ):  # fmt: skip
        f[f"{name}_per_word"] = ratio(sum(c in chars for c in text), words)
    f["polish_quote_ratio"] = ratio(sum(c in "„”«»" for c in text), sum(c in '"„”«»' for c in text))
    f["repeated_marks_per_sentence"] = ratio(len(re.findall(r"(?<=[!?])[!?]", text)), len(t.sentences))
    around = [(i, c) for i, c in enumerate(text) if c in ",.;:!?"]
    f["space_before_punctuation_ratio"] = ratio(
        sum(i > 0 and text[i - 1].isspace() and t.space(i + 1) for i, _ in around), tokens
    )
    f["missing_space_ratio"] = ratio(
        sum(c in ",;!?" and t.letter(i - 1) and t.letter(i + 1) for i, c in around), tokens
    )
    f["bracket_imbalance_per_word"] = ratio(
        sum(abs(text.count(a) - text.count(b)) for a, b in ("()", "[]", "{}")), words
    )
    f["punctuation_entropy"] = entropy(Counter(c if c < "\x80" else "other" for c in punctuation).values())
    f["all_caps_word_ratio"] = mean(len(w.text) >= 2 and w.uppers == len(w.text) for w in t.words)
    f["capitalised_word_ratio"] = mean(w.capital for w in t.words)
    f["camel_case_count"] = sum(w.uppers - w.capital > 0 and w.uppers < len(w.text) for w in t.words)
    shapes = [t.kinds[begin:end] for begin, end in t.tokens]
    with_letter = [bool(LETTERS & set(kinds)) for kinds in shapes]
    with_digit = ["digit" in kinds for kinds in shapes]
    spelled = [text[begin:end] for begin, end in t.tokens]
    f["non_alpha_word_fractions"] = mean(not letter for letter in with_letter)
    f["digit_token_ratio"] = mean(d and not letter for d, letter in zip(with_digit, with_letter, strict=True))
    f["hyphenated_token_ratio"] = mean(
        any(text[i] == "-" and i > begin and t.letter(i - 1) and t.letter(i + 1) for i in range(begin, end))
        for begin, end in t.tokens
    )
    f["numbers_per_word"] = ratio(len(t.runs(lambda kind: kind == "digit")), words)
    f["bold_per_word"] = ratio(
        sum(
            text[i : i + 2] == "**" and text[i + 2 : i + 3] != "*" and not t.space(i + 2) and text[i - 1 : i] != "*"
            for i in range(len(text))
        ),
        words,
    )
    f["markdown_link_per_word"] = ratio(text.count("]("), words)
    f["html_tag_per_word"] = ratio(
        sum(
            c == "<" and (t.letter(i + 1) or (text[i + 1 : i + 2] == "/" and t.letter(i + 2)))
            for i, c in enumerate(text)
        ),
        words,
    )
    f["url_per_token"] = mean(s.startswith("www.") or "://" in s for s in spelled)
    f["hashtag_and_mention_ratio"] = ratio(
        sum(s[0] in "#@" and t.letter(begin + 1) for s, (begin, _) in zip(spelled, t.tokens, strict=True)), tokens
    )


def _functions(t: Text, f: dict[str, float]) -> None:
    names = ("stop_word", "negation", "connective", "question_word", "foreign_stop_word", "web_word")
    for name in names:
        f[f"{name}_ratio"] = mean(w.has(f"{name}s") for w in t.words)
    f["stop_word_distinct_count"] = len({w.lower for w in t.words if w.has("stop_words")})
    stops = "".join("s" if w.has("stop_words") else "." for w in t.words)
    f["longest_run_without_stop_word"] = max(map(len, stops.split("s")))


def _grammar(t: Text, f: dict[str, float]) -> None:
    parts = Counter(w.part for w in t.words)
    n, known = len(t.words), len(t.words) - parts[None]
    f["oovs"] = ratio(parts[None], n)
    f["analyses_per_word"] = ratio(sum(w.bits >> m.ANALYSES_SHIFT & 15 for w in t.words), known)
    for part in m.PARTS_OF_SPEECH:
        f[f"{part}_ratio"] = ratio(parts[part], n)
    f["participle_ratio"] += f.pop("adverbial_participle_ratio")
    del f["abbreviation_ratio"]
    f["lexical_density"] = sum(f[f"{part}_ratio"] for part in ("noun", "verb", "adjective", "adverb"))
    f["nouns_per_verb"] = parts["noun"] / max(parts["verb"], 1)
    f["pos_entropy"] = entropy(parts.values())
    pairs = Counter(pairwise(w.part for w in t.words))
    f["pos_pair_information"] = max(0.0, 2 * f["pos_entropy"] - entropy(pairs.values()))
    f["sentences_with_verb_ratio"] = mean(any(w.part == "verb" for w in words) for words, _ in t.sentences)
    f["subordinate_clauses_per_sentence"] = ratio(parts["subordinator"], len(t.sentences))
    for part in ("noun", "verb", "adjective"):
        counts = Counter(w.lower for w in t.words if w.part == part)
        f[f"top_{part}_ratio"] = ratio(max(counts.values(), default=0), sum(counts.values()))
    nominal = [w for w in t.words if w.part in ("noun", "adjective", "pronoun", "numeral", "gerund", "participle")]
    verbs = [w for w in t.words if w.part == "verb"]
    cases, numbers, genders = spread(nominal, m.CASES), spread(nominal, m.NUMBERS), spread(nominal, m.GENDERS)
    full = ("nominative", "genitive", "dative", "accusative", "instrumental", "locative", "vocative")
    for name, case in zip(full, m.CASES, strict=True):
        f[f"{name}_ratio"] = ratio(cases[case], sum(cases.values()))
    f["case_entropy"] = entropy(cases.values())
    f["plural_ratio"] = ratio(numbers["pl"], sum(numbers.values()))
    f["feminine_ratio"], f["neuter_ratio"] = (ratio(genders[g], sum(genders.values())) for g in "fn")
    persons, forms, aspects = spread(verbs, m.PERSONS), spread(verbs, m.FORMS), spread(verbs, m.ASPECTS)
    f["first_person_ratio"], f["second_person_ratio"] = (
        ratio(persons[p], sum(persons.values())) for p in ("pri", "sec")
    )
    f["person_entropy"] = entropy(persons.values())
    for form in m.FORMS:
        name = f"{form}_tense_ratio" if form in ("present", "past", "future") else f"{form}_ratio"
        f[name] = ratio(forms[form], sum(forms.values()))
    f["tense_and_mood_entropy"] = entropy(forms.values())
    f["perfective_ratio"] = ratio(aspects["perf"], sum(aspects.values()))
    gradable = [w for w in t.words if w.part in ("adjective", "adverb")]
    f["comparative_ratio"], f["superlative_ratio"] = (
        mean(w.has("com") for w in gradable),
        mean(w.has("sup") for w in gradable),
    )

    def share(a: Word, b: Word, names: Sequence[str]) -> bool:
        return bool(set(a.values(names)) & set(b.values(names)))

    neighbours = [pair for words, _ in t.sentences for pair in pairwise(words)]
    f["preposition_agreement_ratio"] = mean(share(a, b, m.CASES) for a, b in neighbours if a.part == "preposition")
    f["adjective_agreement_ratio"] = mean(
        share(a, b, m.CASES) and share(a, b, m.NUMBERS) and share(a, b, m.GENDERS)
        for a, b in neighbours
        if {a.part, b.part} == {"noun", "adjective"}
    )


def _repetition(t: Text, f: dict[str, float]) -> None:
    ids = [w.lower for w in t.words]
    for n in (2, 3, 5, 10):
        grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
        f[f"duplicate_{n}gram_ratio"] = duplicates(grams)
        if n == 2:
            most = max(Counter(grams).values(), default=0)
            f["top_2gram_ratio"] = ratio(most, len(grams)) if most > 1 else 0.0
    f["repeated_neighbour_ratio"] = ratio(sum(a == b for a, b in pairwise(ids)), len(ids))
    f["repeated_within_10_ratio"] = mean(word in ids[max(0, i - 10) : i] for i, word in enumerate(ids))
    half = len(ids) // 2
    f["late_new_word_ratio"] = mean(word not in ids[:i] for i, word in enumerate(ids) if i >= half)
    f["looping_suspicion"], f["looping_tail"] = looping(ids), looping(ids[-150:])
    f["duplicate_sentence_ratio"] = duplicates([tuple(w.lower for w in words) for words, _ in t.sentences])
    f["duplicate_line_ratio"] = duplicates([line for line in t.lines if line])
    f["duplicate_paragraph_ratio"] = duplicates([tuple(p) for p in paragraphs(t)])


def _lines(t: Text, f: dict[str, float]) -> None:
    lines = [line for line in t.lines if line]
    words = [sum(1 for _ in re.finditer("w+", _shape(line))) for line in lines]
    f["average_lines"] = mean(map(len, lines))
    f["line_length_std"] = pstdev(map(len, lines)) if lines else 0.0
    f["short_line_ratio_20"], f["short_line_ratio_60"] = (mean(len(line) < n for line in lines) for n in (20, 60))
    f["single_word_line_ratio"] = mean(n == 1 for n in words)
    f["blank_line_ratio"] = mean(not line for line in t.lines)
    f["line_end_punctuation_ratio"] = mean(line[-1] in '.!?…:;”")' for line in lines)
    f["line_start_lower_ratio"] = mean(character_class(line[0]) == "lower" for line in lines)
    f["paragraph_words_mean"] = mean(sum(len(re.findall("w+", _shape(line))) for line in p) for p in paragraphs(t))
    f["heading_line_ratio"] = mean(bool(re.match(r"#{1,6}(?!#)\s", line)) for line in lines)
    f["bullet_line_ratio"] = mean(len(line) > 1 and line[0] in "-*+•–" and line[1].isspace() for line in lines)
    f["numbered_line_ratio"] = mean(_numbered(line) for line in lines)
    f["table_line_ratio"] = mean(line.count("|") >= 2 for line in lines)
    f["code_fence_count"] = sum(line.startswith(("```", "~~~")) for line in lines)


def _numbered(line: str) -> bool:
    digits = 0
    while digits < len(line) and character_class(line[digits]) == "digit":
        digits += 1
    return 1 <= digits <= 3 and line[digits : digits + 1] in (".", ")") and line[digits + 1 : digits + 2].isspace()


def _shape(line: str) -> str:
    return "".join("w" if character_class(c) in LETTERS else " " for c in line)


def _names(t: Text, f: dict[str, float]) -> None:
    inner = [words[1:] for words, _ in t.sentences]
    count = sum(map(len, inner))
    names = [w for words in inner for w in words if w.capital]
    kinds = Counter(next(iter(w.values(m.NAMES)), None) for w in names)
    runs = sum(w.capital and (i == 0 or not words[i - 1].capital) for words in inner for i, w in enumerate(words))
    f["name_ratio"] = ratio(len(names), count)
    f["name_length"] = ratio(len(names), runs)
    for name, kind in (("given_name", "given_name"), ("surname", "surname"), ("place_name", "place")):
        f[f"{name}_share"] = ratio(kinds[kind], len(names))
    f["name_kind_entropy"] = entropy(kinds.values())
    f["acronym_ratio"] = ratio(sum(2 <= len(w.text) <= 6 and w.uppers == len(w.text) for w in names), count)
