"""The 200 stylometric features in words: name, formula, source. Run as a module, it prints docs/features.md.

The order is that of the columns. Terms: W words, V different words (lower case), V1 those that stand once, S sentences, L lines
that are not blank, T tokens (between white space), C characters; what each is stands in csrc/text_features/scan.hpp. A
ratio over nothing is 0. Sources: [S] named in the Bielik v3 Small report, [G] as Gopher's filters (Rae et al. 2021, A.1),
others by author; none is marked where the formula says all.
"""

from __future__ import annotations

from dataclasses import dataclass

_TABLE = """
Sizes
char_count | C
word_count | W
sentence_count | S
line_count | L
paragraph_count | runs of lines without a blank one
unique_word_count | V | [S]
Word lengths
word_length_mean | mean letters per word | [G]
word_length_std | standard deviation of the letters per word
word_length_max | letters of the longest word
word_length_1_ratio | share of words of 1 letter
word_length_2_ratio | share of words of 2 letters
word_length_3_ratio | share of words of 3 letters
word_length_4_6_ratio | share of words of 4 to 6 letters
word_length_7_9_ratio | share of words of 7 to 9 letters
word_length_10_12_ratio | share of words of 10 to 12 letters
word_length_13_plus_ratio | share of words of 13 letters and more
syllables_per_word | vowels / W, without an i that stands before a vowel
token_length_mean | mean characters per token
long_token_ratio | share of tokens longer than 30 characters
Sentences
sentence_length_mean | W / S (words of sentences) | [S]
sentence_length_std | standard deviation of the words per sentence
sentence_length_max | words of the longest sentence
sentence_length_median | median words per sentence
sentence_length_change | mean absolute difference of neighbouring sentences, words
short_sentence_ratio | share of sentences under 5 words | [S]
long_sentence_ratio | share of sentences over 25 words
very_long_sentence_ratio | share of sentences over 35 words | [S]
declarative_ratio | share of sentences ended by one full stop
interrogative_ratio | share of sentences with ? at their end | [S]
exclamative_ratio | share of sentences with ! and no ? at their end
sentence_start_upper_ratio | share of sentences whose first word has a capital
sentence_start_distinct_ratio | different first words / S
Lexical richness
type_token_ratio | V / W
root_ttr | V / sqrt(W) | Guiraud 1954
log_ttr | ln V / ln W | Herdan 1960
maas | (ln W - ln V) / (ln W)^2 | Maas 1972
yule_k | 10^4 (sum of f^2 - W) / W^2 over the frequencies f | Yule 1944
hapax_legomena_ratio | V1 / V | [S]
honore_r | 100 ln W / max(1 - V1 / V, 1 / V) | Honoré 1979, bounded where V1 = V
mtld | mean words over which the type-token ratio stays above 0.72, both directions | McCarthy and Jarvis 2010
mattr_50 | mean type-token ratio of all windows of 50 words | Covington and McFall 2010
word_entropy | entropy of the word frequencies, bits
word_evenness | word_entropy / log2 V
top_10_word_ratio | share of the ten most frequent words
Characters and encoding
letter_ratio | letters and marks / C
upper_case_ratio | capitals / letters
digit_ratio | digits and other numbers / C
whitespace_ratio | white space / C
symbol_ratio | symbols (Unicode S) / C | [G]
emoji_ratio | pictographs / C
other_script_ratio | letters that are not Latin / letters
combining_mark_ratio | combining marks / C
control_char_ratio | control characters (Cc, no white space) / C
zero_width_ratio | zero-width characters and byte order marks / C
unassigned_char_ratio | unassigned, private and surrogate characters / C
replacement_char_ratio | U+FFFD / C | [S]
mojibake_per_word | pairs that UTF-8 read as cp1250 or cp1252 leaves / W
question_mark_in_word_ratio | question marks between a letter and a small letter / W
html_entity_per_word | entities such as &nbsp; or &#322; / W
backslash_escape_per_word | escapes such as \\n or \\u / W
longest_char_run | longest run of one character that is not white space
char_entropy | entropy of the characters, bits; all from U+0250 on as one
letter_pair_entropy | entropy of neighbouring letters inside words, bits
vowel_ratio | vowels / letters
consonant_cluster_ratio | share of words with five consonants in a row
tripled_letter_ratio | share of words with a letter three times in a row
Polish letters
polish_diacritics_per_word | ą ć ę ł ń ó ś ź ż / W | [S]
words_with_diacritics_ratio | share of words that have one
missing_diacritics_ratio | share of words that are a frequent word without its diacritics
foreign_letter_ratio | letters outside the alphabet / letters
letter_a_ogonek_ratio | ą / letters
letter_e_ogonek_ratio | ę / letters
letter_o_acute_ratio | ó / letters
letter_l_stroke_ratio | ł / letters
Punctuation
punctuation_per_word | punctuation / W | [S]
commas_per_word | , / W
full_stops_per_word | . / W
colons_per_word | : / W
hyphens_per_word | - / W
dashes_per_word | – and — / W
ellipses_per_word | … / W | [G]
quotes_per_word | all quotation marks / W
polish_quote_ratio | „ ” « » / all quotation marks
parentheses_per_word | ( and ) / W
brackets_per_word | [ ] { } / W
slashes_per_word | / and \\ / W
repeated_marks_per_sentence | ! and ? behind another / S
space_before_punctuation_ratio | . , : ; ! ? between white space / T
missing_space_ratio | , ; ! ? between letters / T
bracket_imbalance_per_word | brackets that lack their other half, counted by kind / W
punctuation_entropy | entropy of the punctuation, bits; all beyond ASCII as one
Token shapes
all_caps_word_ratio | share of words of two letters or more in capitals
capitalised_word_ratio | share of words with a capital at the beginning
camel_case_count | words with a capital inside and a small letter | [S]
non_alpha_word_fractions | share of tokens without a letter | [S] [G]
digit_token_ratio | share of tokens with a digit and no letter
hyphenated_token_ratio | share of tokens with - between letters
numbers_per_word | runs of digits / W
Function words
stop_word_ratio | share of stop words | [S] [G]
stop_word_distinct_count | different stop words | [G]
longest_run_without_stop_word | words of the longest run without one
negation_ratio | share of negations
connective_ratio | share of connectives
question_word_ratio | share of question words
foreign_stop_word_ratio | share of English, German and Romance stop words
web_word_ratio | share of words of web pages' furniture
Parts of speech
oovs | share of words that the dictionary does not know | [S]
analyses_per_word | mean analyses of the words it knows
noun_ratio | share of nouns
verb_ratio | share of verbs
adjective_ratio | share of adjectives
adverb_ratio | share of adverbs
pronoun_ratio | share of pronouns
numeral_ratio | share of numerals
preposition_ratio | share of prepositions
conjunction_ratio | share of conjunctions
subordinator_ratio | share of subordinating conjunctions
particle_ratio | share of particles
participle_ratio | share of participles, adverbial ones too
gerund_ratio | share of gerunds
interjection_ratio | share of interjections
lexical_density | nouns, verbs, adjectives and adverbs / W | [S]
nouns_per_verb | nouns / max(verbs, 1)
pos_entropy | entropy of the parts of speech, bits | [S]
pos_pair_information | 2 pos_entropy - entropy of neighbouring pairs, not below 0: how much one part tells of the next
sentences_with_verb_ratio | share of sentences with a verb
subordinate_clauses_per_sentence | subordinating conjunctions / S, for clause depth
top_noun_ratio | share of the most frequent noun among nouns | [S]
top_verb_ratio | share of the most frequent verb among verbs | [S]
top_adjective_ratio | share of the most frequent adjective among adjectives | [S]
Inflection
nominative_ratio | share of the nominative among cases (a form that may be several is shared out equally, here and below) | [S]
genitive_ratio | share of the genitive | [S]
dative_ratio | share of the dative | [S]
accusative_ratio | share of the accusative | [S]
instrumental_ratio | share of the instrumental | [S]
locative_ratio | share of the locative | [S]
vocative_ratio | share of the vocative | [S]
case_entropy | entropy of the cases, bits | [S]
plural_ratio | share of the plural among numbers
feminine_ratio | share of the feminine among genders
neuter_ratio | share of the neuter among genders
first_person_ratio | share of the first person among verbs' persons | [S]
second_person_ratio | share of the second person | [S]
person_entropy | entropy of the persons, bits | [S]
present_tense_ratio | share of the present tense among verbs' forms | [S]
past_tense_ratio | share of the past tense | [S]
future_tense_ratio | share of the future, perfective present forms too | [S]
imperative_ratio | share of imperatives | [S]
infinitive_ratio | share of infinitives | [S]
impersonal_ratio | share of impersonal forms and predicatives | [S]
conditional_ratio | share of conditionals | [S]
tense_and_mood_entropy | entropy of these forms, bits | [S]
perfective_ratio | share of the perfective aspect among verbs
comparative_ratio | share of comparatives among adjectives and adverbs
superlative_ratio | share of superlatives among adjectives and adverbs
Agreement
preposition_agreement_ratio | share of prepositions whose next word may stand in a case they govern
adjective_agreement_ratio | share of neighbouring adjectives and nouns that may agree in case, number and gender
Repetition
duplicate_2gram_ratio | 1 - different / all sequences of 2 words | [G]
duplicate_3gram_ratio | the same of 3 words | [G]
duplicate_5gram_ratio | the same of 5 words | [G]
duplicate_10gram_ratio | the same of 10 words | [G]
top_2gram_ratio | share of the most frequent pair of words, 0 if none stands twice | [G]
repeated_neighbour_ratio | words equal to the one before / W
repeated_within_10_ratio | words that stand among the ten before / W
late_new_word_ratio | share of words of the second half that have not stood before
looping_suspicion | largest share, over lags k of 1 to 64, of words equal to the k-th before | [S]
looping_tail | the same over the last 150 words
duplicate_sentence_ratio | 1 - different / all sentences, by their words
duplicate_line_ratio | 1 - different / all lines | [G]
duplicate_paragraph_ratio | 1 - different / all paragraphs | [G]
Lines
average_lines | mean characters per line | [S]
line_length_std | standard deviation of the characters per line
short_line_ratio_20 | share of lines under 20 characters | [S]
short_line_ratio_60 | share of lines under 60 characters
single_word_line_ratio | share of lines of one word | [S]
blank_line_ratio | share of blank lines among all
line_end_punctuation_ratio | share of lines that end with punctuation
line_start_lower_ratio | share of lines that begin with a small letter
paragraph_words_mean | mean words per paragraph
Markdown and web
heading_line_ratio | share of lines that begin with # to ###### and a space | [S]
bullet_line_ratio | share of lines that begin with - * + • – and a space | [S] [G]
numbered_line_ratio | share of lines that begin with a number, . or ) and a space | [S]
table_line_ratio | share of lines with two | or more | [S]
code_fence_count | lines that begin with ``` or ~~~ | [S]
bold_per_word | ** before a word / W | [S]
markdown_link_per_word | ]( / W | [S]
html_tag_per_word | < or </ before a letter / W
url_per_token | share of tokens with :// or www. at the beginning
hashtag_and_mention_ratio | share of tokens that begin with # or @ and a letter | [G]
Readability
lix | W / S + 100 (words over 6 letters) / W | Björnsson 1968, [S]
rix | words over 6 letters / S | Anderson 1983, [S]
fog_pl | 0.4 (W / S + 100 (words of four syllables or more) / W) | Gunning 1952, four syllables for Polish, [S]
pisarek | sqrt((W / S)^2 + (100 (words of four syllables or more) / W)^2) / 2 | Pisarek 1969
Names
name_ratio | share of capitalised words among words that do not begin a sentence
name_length | mean length of their runs, words
given_name_share | share of given names among them | [S]
surname_share | share of surnames | [S]
place_name_share | share of places | [S]
name_kind_entropy | entropy of given names, surnames, places, others and unknown ones, bits | [S]
acronym_ratio | words of 2 to 6 capitals / words that do not begin a sentence
"""


@dataclass(frozen=True)
class Feature:
    """One column.

    Args:
        name: Of the column.
        group: Heading it stands under.
        formula: What it is.
        source: Where the formula is from; empty where the formula says all.
    """

    name: str
    group: str
    formula: str
    source: str


def _read(table: str) -> tuple[Feature, ...]:
    features, group = [], ""
    for line in table.strip().splitlines():
        name, *rest = line.split(" | ")
        if not rest:
            group = line
            continue
        source = rest.pop() if len(rest) > 1 else ""
        features.append(Feature(name, group, " | ".join(rest), source))
    return tuple(features)


FEATURES = _read(_TABLE)


def markdown() -> str:
    """The table as docs/features.md holds it."""
    lines = [
        "# The 200 stylometric features",
        "",
        "Written by `python -m megatron_bielik.corpus.feature_table`; the columns stand in this order. W words, V different",
        "words (lower case), V1 those that stand once, S sentences, L lines that are not blank, T tokens between white space, C",
        "characters: defined in [csrc/text_features/scan.hpp](../csrc/text_features/scan.hpp). A ratio over nothing is 0.",
        "[S]: named in the Bielik v3 Small report, whose formulas are not published; these are ours. [G]: after Gopher's filters",
        "(Rae et al. 2021, A.1).",
    ]
    group = ""
    for number, feature in enumerate(FEATURES, 1):
        if feature.group != group:
            group = feature.group
            lines += ["", f"## {group}", "", "| | name | formula | source |", "|--:|---|---|---|"]
        formula, source = (text.replace("|", "\\|").replace("*", "\\*") for text in (feature.formula, feature.source))
        lines.append(f"| {number} | `{feature.name}` | {formula} | {source} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
