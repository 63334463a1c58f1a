"""Stylometric features: each of the 200 equals its plain-Python twin; caches, threads and language packs change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_bielik.corpus.feature_table import FEATURES, markdown
from megatron_bielik.corpus.features import FEATURE_NAMES, FeatureExtractor
from megatron_bielik.corpus.language import load_language, without_diacritics
from megatron_bielik.corpus.morphology import BITS, Morphology
from megatron_bielik.corpus.synthetic import generate_document
from megatron_bielik.data.encode import NASTY
from tests.corpus import features_twin

REPOSITORY = Path(__file__).parents[2]
HOSTILE = [
    "", " ", "\n", "\n\n\n", "a", "A.", "Ala ma kota.", "Ala ma kota. ", "x\n\n\ny", "ABC\n \n \ndef\n", "\r\nA\r\n\r\nB\r",
    "1. pkt\n2) drugi\n# Tytuł\n####### nie\n- a\n* b\n| a | b |\n```py\n```\n**bold** ***x [l](u) <b>x</b> </i> < 5 `kod`",
    "www.onet.pl http://x.y #tag @me # @ a@b.pl wyraz_z_podkreśleniem biało-czerwony 12-13 A-1",
    "Prof. J. Kowalski mieszka przy ul. Długiej. Nie wie, np. kiedy... Kto? Co?! „Cytat.” Tak (nie). Koniec…",
    "ala ma kota " * 120, "raz dwa trzy cztery pięć sześć. " * 30,
    "zaĹĽĂłĹ‚Ä‡ gÄ™Ĺ›lÄ… za?ó?ć Å‚ Ã³ Â Â\xa0 &nbsp; &#322; &; &toolongentity; \\n \\u0105 \\q camelCase NATO PKP",
    "źle  ,  spacja ,tak,tak",
    "\u200b\ufeff\u0301e\u0301 \U0001f600\U0001f468\u200d\U0001f469 \ue000\ud800 漢字",
    "\U00020000 Привет İstanbul ŁÓDŹ \x00\x07\x1f\x85\u2028x",
    "\U000e0067\U0010fffd\ufffe\U000e0100\U000f0000\U00040000", "linia pierwsza\nciąg dalszy\n\nmałą literą\nWielką. małą",
    "aaa bbb!!! ??? .. . ! a?b", "a" * 100 + " " + "ż" * 200, "٣٤ ① ½ ² Ⅻ 12 \u212aelwin \u212bm ſt",
    "jeszcze\n \n. \n.\n.x", "(([{ „ «", "…\n…a …\nB",
    "Juz wiecej nie bede, tez czlowiek. Ktora? the of and cookies Jan Kowalski z Krakowa i PZU",
]  # fmt: skip


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor()


def assert_equals_twin(extractor: FeatureExtractor, texts: list[str]) -> None:
    for text, row in zip(texts, extractor(texts), strict=True):
        expected = features_twin.features(text, extractor.language, extractor.attributes)
        assert set(expected) == set(FEATURE_NAMES)
        np.testing.assert_allclose(
            row,
            [expected[name] for name in FEATURE_NAMES],
            rtol=2e-6,
            atol=2e-6,
            err_msg=f"{text[:80]!r}: {FEATURE_NAMES}",
        )


def test_there_are_200_and_the_table_has_them_in_order() -> None:
    assert len(FEATURE_NAMES) == len(set(FEATURE_NAMES)) == 200
    assert tuple(feature.name for feature in FEATURES) == FEATURE_NAMES


def test_the_documented_table_is_the_one_in_code() -> None:
    assert (REPOSITORY / "docs/features.md").read_text(encoding="utf-8") == markdown()


def test_equals_the_twin_on_generated_documents(extractor: FeatureExtractor) -> None:
    assert_equals_twin(extractor, [generate_document(5, i)["text"] for i in range(40)])


def test_equals_the_twin_on_hostile_and_empty_texts(extractor: FeatureExtractor) -> None:
    assert_equals_twin(extractor, [*HOSTILE, *NASTY])


@settings(max_examples=150, deadline=None)
@given(
    st.text(
        st.one_of(st.sampled_from(list(" \n\r.,?!…aAbżŁ1-|#*`<>([])\\&;:@„”’_\u0301\u200b\xa0Ää")), st.characters()),
        max_size=80,
    )
)
def test_equals_the_twin_on_random_texts(text: str) -> None:
    assert_equals_twin(FeatureExtractorOnce.get(), [text])


class FeatureExtractorOnce:
    """hypothesis does not take fixtures with state; the extractor takes a tenth of a second to make."""

    _one: FeatureExtractor | None = None

    @classmethod
    def get(cls) -> FeatureExtractor:
        cls._one = cls._one or FeatureExtractor()
        return cls._one


def test_a_sentence_by_hand(extractor: FeatureExtractor) -> None:
    row = dict(
        zip(
            FEATURE_NAMES,
            extractor(["Ładny kot Janka śpi na dużej kanapie. Czy pies też śpi?"])[0].tolist(),
            strict=True,
        )
    )
    assert row["word_count"] == 11
    assert row["sentence_count"] == 2
    assert row["interrogative_ratio"] == 0.5
    assert row["unique_word_count"] == 10  # śpi stands twice
    assert row["polish_diacritics_per_word"] == pytest.approx(5 / 11)
    assert row["preposition_agreement_ratio"] == 1  # na dużej: locative
    assert row["adjective_agreement_ratio"] == 1  # ładny kot, dużej kanapie
    assert row["oovs"] == 0
    assert row["name_ratio"] == pytest.approx(1 / 9)


def test_shuffled_words_agree_less(extractor: FeatureExtractor) -> None:
    text = " ".join(generate_document(1, i)["text"] for i in range(20))
    words = text.split()
    shuffled = " ".join(np.random.default_rng(0).permutation(words).tolist())
    column = FEATURE_NAMES.index("preposition_agreement_ratio")
    whole, mixed = extractor([text, shuffled])[:, column]
    assert whole > 0.9
    assert mixed < 0.8


def test_threads_and_batches_change_nothing() -> None:
    texts = [generate_document(2, i)["text"] for i in range(50)] + HOSTILE
    one, four = FeatureExtractor(threads=1), FeatureExtractor(threads=4)
    np.testing.assert_array_equal(one(texts), four(texts))
    np.testing.assert_array_equal(one(texts), np.concatenate([four([text]) for text in texts]))
    assert one([]).shape == (0, 200)


def test_the_cache_serves_the_next_run_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [generate_document(2, i)["text"] for i in range(20)]
    first = FeatureExtractor(cache=tmp_path)
    rows = first(texts)
    first.save()
    first.save()  # nothing new
    (file,) = tmp_path.iterdir()
    second = FeatureExtractor(cache=tmp_path)

    def never(form: str) -> int:
        raise AssertionError(f"{form} was looked up again")

    monkeypatch.setattr(second._morphology, "attributes", never)
    np.testing.assert_array_equal(second(texts), rows)
    for content in (b"", b"nonsense", file.read_bytes()[:1000]):
        file.write_bytes(content)
        np.testing.assert_array_equal(FeatureExtractor(cache=tmp_path)(texts), rows)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    extractor = FeatureExtractor(cache=tmp_path / "file")
    extractor(["Ala ma kota."])
    extractor.save()


def test_a_full_table_is_emptied_and_changes_nothing(
    extractor: FeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [generate_document(4, i)["text"] for i in range(10)]
    small = FeatureExtractor()
    monkeypatch.setattr("megatron_bielik.corpus.features._MOST_WORDS", 100)
    for _ in range(2):
        np.testing.assert_array_equal(small(texts), extractor(texts))
    assert small._extractor.num_words() == 0


def test_what_is_no_text_is_refused(extractor: FeatureExtractor) -> None:
    with pytest.raises(TypeError, match="must be str"):
        extractor(["a", b"b"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("word", "has", "lacks"),
    [
        ("domami", "noun inst pl m", "sg verb"),
        ("byłem", "verb past pri sg", "present"),
        ("zrobiłbym", "verb conditional perf", "past"),
        ("zrobię", "verb future", "present"),
        ("robię", "verb present imperf", "future"),
        ("który", "pronoun", "adjective"),
        ("lepszy", "adjective com", "sup"),
        ("Krakowa", "noun place gen", "verb"),
        ("Jan", "given_name", "verb"),
        ("się", "stop_words", "needs_diacritics"),
        ("sie", "needs_diacritics", "verb"),
        ("nie", "negations", "noun"),
    ],
)
def test_attributes_of_words(word: str, has: str, lacks: str) -> None:
    bits = Morphology(load_language("pl")).attributes(word)
    assert [name for name in has.split() if not bits & BITS[name]] == []
    assert [name for name in lacks.split() if bits & BITS[name]] == []


def test_words_needing_diacritics_are_no_common_words_without_them() -> None:
    language = load_language("pl")
    stripped = {without_diacritics(word) for word in language.needs_diacritics}
    assert not stripped & language.needs_diacritics  # each has a diacritic to lose
    assert not stripped & (language.stop_words | language.connectives | language.question_words | language.web_words)


def test_another_language_is_another_file(tmp_path: Path) -> None:
    empty = ("negations", "connectives", "question_words", "foreign_stop_words", "web_words")
    lines = [
        "language: cs",
        "letters: aábcčdďeéěfghiíjklmnňoópqrřsštťuúůvwxyýzž",
        "diacritics: áčďéěíňóřšťúůýž",
        "vowels: aáeéěiíoóuúůyý",
    ]
    lines += ["glide: ''", "dictionary: none", "stop_words: a se na v", "abbreviations: např", "needs_diacritics: také"]
    lines += [f"{name}: ''" for name in empty] + ["suffixes: {noun: ost ice}"]
    path = tmp_path / "cs.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    extractor = FeatureExtractor(str(path))
    texts = ["Radost se vrátila např. v neděli na náměstí. Take ulice."]
    assert_equals_twin(extractor, texts)
    row = dict(zip(FEATURE_NAMES, extractor(texts)[0].tolist(), strict=True))
    assert row["noun_ratio"] == pytest.approx(2 / 10)
    assert row["missing_diacritics_ratio"] == pytest.approx(1 / 10)
    assert row["sentence_count"] == 2
    assert extractor.version.endswith("-cs")


def test_language_packs_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs one of cs, en, pl, or"):
        load_language("klingon")
    path = tmp_path / "x.yaml"
    path.write_text("language: x\n", encoding="utf-8")
    with pytest.raises(ValueError, match="exactly the entries"):
        load_language(str(path))
    path.write_text("a: [", encoding="utf-8")
    with pytest.raises(ValueError, match="no YAML"):
        load_language(str(path))
