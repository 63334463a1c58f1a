// Features of what words are: function words, parts of speech, inflection, agreement and names, each name beside its formula.
// megatron_bielik/corpus/feature_table.py says in words what each one is; tests/corpus/features_twin.py computes them in Python.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "feature_group.hpp"

namespace text_features {

class GrammarFeatures : FeatureGroup {
  public:
    GrammarFeatures(Workspace &space, Row &row) : FeatureGroup(space, row) {}

    void first() {
        function_words();
        parts_of_speech();
        inflection();
        agreement();
    }
    void second() { names(); }

  private:
    void function_words() {
        w_.counter.start(s_.words.size());
        int64_t longest = 0, run = 0;
        for (const Word &word : s_.words) {
            const bool stop = in_set(word.attributes, STOP_WORD);
            if (stop) w_.counter.add(mix(word.hash));
            run = stop ? 0 : run + 1;
            longest = std::max(longest, run);
        }
        put_("stop_word_ratio", share_of_set(STOP_WORD));
        put_("stop_word_distinct_count", static_cast<double>(w_.counter.distinct()));
        put_("longest_run_without_stop_word", static_cast<double>(longest));
        put_("negation_ratio", share_of_set(NEGATION));
        put_("connective_ratio", share_of_set(CONNECTIVE));
        put_("question_word_ratio", share_of_set(QUESTION_WORD));
        put_("foreign_stop_word_ratio", share_of_set(FOREIGN_STOP_WORD));
        put_("web_word_ratio", share_of_set(WEB_WORD));
    }

    void parts_of_speech() {
        int64_t parts[PARTS_OF_SPEECH + 1] = {}, pairs[(PARTS_OF_SPEECH + 1) * (PARTS_OF_SPEECH + 1)] = {}, analyses = 0;
        int previous = -1;
        for (const Word &word : s_.words) {
            const int part = main_part(word.attributes), slot = part < 0 ? PARTS_OF_SPEECH : part;
            ++parts[slot];
            if (previous >= 0) ++pairs[previous * (PARTS_OF_SPEECH + 1) + slot];
            previous = slot;
            analyses += bits(word.attributes, ANALYSES_SHIFT, 4);
        }
        const auto share = [&](PartOfSpeech part) { return ratio(static_cast<double>(parts[part]), words_); };
        const double verbs = static_cast<double>(parts[VERB]), nouns = static_cast<double>(parts[NOUN]);
        const double content = nouns + verbs + static_cast<double>(parts[ADJECTIVE] + parts[ADVERB]);
        const double known = words_ - static_cast<double>(parts[PARTS_OF_SPEECH]);
        put_("oovs", ratio(static_cast<double>(parts[PARTS_OF_SPEECH]), words_));
        put_("analyses_per_word", ratio(static_cast<double>(analyses), known));
        put_("noun_ratio", share(NOUN));
        put_("verb_ratio", share(VERB));
        put_("adjective_ratio", share(ADJECTIVE));
        put_("adverb_ratio", share(ADVERB));
        put_("pronoun_ratio", share(PRONOUN));
        put_("numeral_ratio", share(NUMERAL));
        put_("preposition_ratio", share(PREPOSITION));
        put_("conjunction_ratio", share(CONJUNCTION));
        put_("subordinator_ratio", share(SUBORDINATOR));
        put_("particle_ratio", share(PARTICLE));
        put_("participle_ratio", share(PARTICIPLE) + share(ADVERBIAL_PARTICIPLE));
        put_("gerund_ratio", share(GERUND));
        put_("interjection_ratio", share(INTERJECTION));
        put_("lexical_density", ratio(content, words_));
        put_("nouns_per_verb", nouns / std::max(verbs, 1.0));
        const double part_entropy = entropy(parts, PARTS_OF_SPEECH + 1);
        put_("pos_entropy", part_entropy);
        put_("pos_pair_information", std::max(0.0, 2 * part_entropy - entropy(pairs, (PARTS_OF_SPEECH + 1) * (PARTS_OF_SPEECH + 1))));
        put_("sentences_with_verb_ratio", share_of_sentences([&](const Sentence &sentence) {
                 for (size_t i = sentence.first; i < sentence.last; ++i)
                     if (main_part(s_.words[i].attributes) == VERB) return true;
                 return false;
             }));
        put_("subordinate_clauses_per_sentence", ratio(static_cast<double>(parts[SUBORDINATOR]), sentences_));
        put_("top_noun_ratio", most_frequent(NOUN));
        put_("top_verb_ratio", most_frequent(VERB));
        put_("top_adjective_ratio", most_frequent(ADJECTIVE));
    }

    // Share of the most frequent word among the words of its part of speech.
    double most_frequent(PartOfSpeech part) {
        int64_t all = 0;
        uint32_t most = 0;
        w_.seen.assign(static_cast<size_t>(w_.vocabulary.types), 0);
        for (const Word &word : s_.words)
            if (main_part(word.attributes) == part) {
                ++all;
                most = std::max(most, ++w_.seen[word.id]);
            }
        return ratio(most, static_cast<double>(all));
    }

    static constexpr int64_t PARTS[] = {0, 420, 210, 140, 105, 84, 70, 60};
    // Counts in 1/420: a word with k possible values gives 420/k to each, which is whole for k up to 7.
    template <size_t N>
    static void spread(int mask, int64_t (&counts)[N]) {
        if (!mask) return;
        int64_t values = 0;
        for (size_t i = 0; i < N; ++i) values += mask >> i & 1;
        const int64_t part = PARTS[values];
        for (size_t i = 0; i < N; ++i) counts[i] += (mask >> i & 1) * part;
    }
    template <size_t N>
    static double total(const int64_t (&counts)[N]) {
        int64_t sum = 0;
        for (const int64_t n : counts) sum += n;
        return static_cast<double>(sum);
    }

    void inflection() {
        int64_t cases[CASES] = {}, numbers[NUMBERS] = {}, genders[GENDERS] = {}, persons[PERSONS] = {}, forms[FORMS] = {}, aspects[2] = {};
        int64_t degrees[2] = {}, gradable = 0;
        for (const Word &word : s_.words) {
            const uint64_t a = word.attributes;
            const int part = main_part(a);
            if (part == NOUN || part == ADJECTIVE || part == PRONOUN || part == NUMERAL || part == GERUND || part == PARTICIPLE) {
                spread(bits(a, CASE_SHIFT, CASES), cases);
                spread(bits(a, NUMBER_SHIFT, NUMBERS), numbers);
                spread(bits(a, GENDER_SHIFT, GENDERS), genders);
            } else if (part == VERB) {
                spread(bits(a, PERSON_SHIFT, PERSONS), persons);
                spread(bits(a, FORM_SHIFT, FORMS), forms);
                spread(bits(a, ASPECT_SHIFT, 2), aspects);
            }
            if (part == ADJECTIVE || part == ADVERB) {
                ++gradable;
                degrees[0] += a >> DEGREE_SHIFT & 1;
                degrees[1] += a >> (DEGREE_SHIFT + 1) & 1;
            }
        }
        const double all_cases = total(cases), all_forms = total(forms), all_persons = total(persons);
        const char *case_names[CASES] = {"nominative_ratio", "genitive_ratio", "dative_ratio", "accusative_ratio",
                                         "instrumental_ratio", "locative_ratio", "vocative_ratio"};
        for (int i = 0; i < CASES; ++i) put_(case_names[i], ratio(static_cast<double>(cases[i]), all_cases));
        put_("case_entropy", entropy(cases, CASES));
        put_("plural_ratio", ratio(static_cast<double>(numbers[1]), total(numbers)));
        put_("feminine_ratio", ratio(static_cast<double>(genders[1]), total(genders)));
        put_("neuter_ratio", ratio(static_cast<double>(genders[2]), total(genders)));
        put_("first_person_ratio", ratio(static_cast<double>(persons[0]), all_persons));
        put_("second_person_ratio", ratio(static_cast<double>(persons[1]), all_persons));
        put_("person_entropy", entropy(persons, PERSONS));
        const char *form_names[FORMS] = {"present_tense_ratio", "past_tense_ratio", "future_tense_ratio", "imperative_ratio",
                                         "infinitive_ratio", "impersonal_ratio", "conditional_ratio"};
        for (int i = 0; i < FORMS; ++i) put_(form_names[i], ratio(static_cast<double>(forms[i]), all_forms));
        put_("tense_and_mood_entropy", entropy(forms, FORMS));
        put_("perfective_ratio", ratio(static_cast<double>(aspects[1]), total(aspects)));
        put_("comparative_ratio", ratio(static_cast<double>(degrees[0]), static_cast<double>(gradable)));
        put_("superlative_ratio", ratio(static_cast<double>(degrees[1]), static_cast<double>(gradable)));
    }

    // Neighbours inside a sentence that have to agree, in texts whose words stand where they belong.
    void agreement() {
        int64_t governed = 0, governs = 0, agreed = 0, adjectives = 0;
        for (const Sentence &sentence : s_.sentences)
            for (size_t i = sentence.first; i + 1 < sentence.last; ++i) {
                const uint64_t a = s_.words[i].attributes, b = s_.words[i + 1].attributes;
                const int left = main_part(a), right = main_part(b);
                if (left == PREPOSITION) {
                    ++governs;
                    governed += (bits(a, CASE_SHIFT, CASES) & bits(b, CASE_SHIFT, CASES)) != 0;
                }
                if ((left == ADJECTIVE && right == NOUN) || (left == NOUN && right == ADJECTIVE)) {
                    ++adjectives;
                    agreed += (bits(a, CASE_SHIFT, CASES) & bits(b, CASE_SHIFT, CASES)) != 0 &&
                              (bits(a, NUMBER_SHIFT, NUMBERS) & bits(b, NUMBER_SHIFT, NUMBERS)) != 0 &&
                              (bits(a, GENDER_SHIFT, GENDERS) & bits(b, GENDER_SHIFT, GENDERS)) != 0;
                }
            }
        put_("preposition_agreement_ratio", ratio(static_cast<double>(governed), static_cast<double>(governs)));
        put_("adjective_agreement_ratio", ratio(static_cast<double>(agreed), static_cast<double>(adjectives)));
    }

    // Words with a capital letter inside a sentence, by what the dictionary says of them.
    void names() {
        int64_t inner = 0, capitals = 0, runs = 0, kinds[NAMES + 1] = {}, acronyms = 0;
        for (const Sentence &sentence : s_.sentences) {
            bool before = false;
            for (size_t i = sentence.first + 1; i < sentence.last; ++i) {
                const Word &word = s_.words[i];
                ++inner;
                if (word.capital) {
                    ++capitals;
                    runs += !before;
                    acronyms += word.all_upper && word.length <= 6;
                    const int mask = bits(word.attributes, NAME_SHIFT, NAMES);
                    ++kinds[mask ? __builtin_ctz(static_cast<unsigned>(mask)) : NAMES];
                }
                before = word.capital;
            }
        }
        const double all = static_cast<double>(inner), names = static_cast<double>(capitals);
        put_("name_ratio", ratio(names, all));
        put_("name_length", ratio(names, static_cast<double>(runs)));
        put_("given_name_share", ratio(static_cast<double>(kinds[0]), names));
        put_("surname_share", ratio(static_cast<double>(kinds[1]), names));
        put_("place_name_share", ratio(static_cast<double>(kinds[2]), names));
        put_("name_kind_entropy", entropy(kinds, NAMES + 1));
        put_("acronym_ratio", ratio(static_cast<double>(acronyms), all));
    }
};

}  // namespace text_features
