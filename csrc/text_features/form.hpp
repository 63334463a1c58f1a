// Features of a text's form, each with its name beside its formula: nothing here asks what a word is.
// megatron_bielik/corpus/feature_table.py says in words what each one is; tests/corpus/features_twin.py computes them in Python.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "feature_group.hpp"

namespace text_features {

class FormFeatures : FeatureGroup {
  public:
    FormFeatures(Workspace &space, Row &row) : FeatureGroup(space, row) {}

    void first() {
        number_words();
        sizes();
        word_lengths();
        sentences();
        richness();
        characters();
        alphabet();
        punctuation();
        shapes();
    }
    void second() {
        repetition();
        lines();
        markup();
        readability();
    }

  private:
    void number_words() {
        Vocabulary &v = w_.vocabulary;
        v.counts.clear();
        w_.counter.start(s_.words.size());
        w_.ids.clear();
        for (Word &word : s_.words) {
            uint32_t &id = w_.counter.at(w_.counter.slot(mix(word.hash)));  // 1 + id; 0 is new
            if (id == 0) {
                v.counts.push_back(0);
                id = static_cast<uint32_t>(v.counts.size());
            }
            word.id = id - 1;
            ++v.counts[word.id];
            w_.ids.push_back(word.id);
        }
        v.finish(static_cast<int64_t>(s_.words.size()));
    }

    void sizes() {
        put_("char_count", characters_);
        put_("word_count", words_);
        put_("sentence_count", sentences_);
        put_("line_count", lines_);
        put_("paragraph_count", static_cast<double>(s_.paragraphs.size()));
        put_("unique_word_count", static_cast<double>(w_.vocabulary.types));
    }

    void word_lengths() {
        Moments length;
        int64_t histogram[65] = {}, syllables = 0, long_syllables = 0;
        for (const Word &word : s_.words) {
            length.add(word.length);
            ++histogram[std::min<uint32_t>(word.length, 64)];
            syllables += word.syllables;
            long_syllables += word.syllables >= 4;
        }
        syllables_ = static_cast<double>(syllables);
        hard_words_ = static_cast<double>(long_syllables);
        const auto share = [&](int from, int to) {
            int64_t n = 0;
            for (int i = from; i <= to; ++i) n += histogram[i];
            return ratio(static_cast<double>(n), words_);
        };
        put_("word_length_mean", length.mean());
        put_("word_length_std", length.deviation());
        put_("word_length_max", static_cast<double>(length.most));
        put_("word_length_1_ratio", share(1, 1));
        put_("word_length_2_ratio", share(2, 2));
        put_("word_length_3_ratio", share(3, 3));
        put_("word_length_4_6_ratio", share(4, 6));
        put_("word_length_7_9_ratio", share(7, 9));
        put_("word_length_10_12_ratio", share(10, 12));
        put_("word_length_13_plus_ratio", share(13, 64));
        put_("syllables_per_word", ratio(syllables_, words_));
        const double mean = ratio(static_cast<double>(s_.token_characters), tokens_);
        put_("token_length_mean", mean);
        put_("long_token_ratio", ratio(static_cast<double>(s_.long_tokens), tokens_));
    }

    void sentences() {
        Moments length;
        int64_t differences = 0, previous = -1;
        w_.numbers.clear();
        w_.counter.start(s_.sentences.size());
        for (const Sentence &sentence : s_.sentences) {
            const int64_t n = static_cast<int64_t>(sentence.last - sentence.first);
            length.add(n);
            w_.numbers.push_back(static_cast<uint32_t>(n));
            if (previous >= 0) differences += std::abs(n - previous);
            previous = n;
            w_.counter.add(mix(s_.words[sentence.first].hash));
        }
        const auto words = [](const Sentence &sentence) { return sentence.last - sentence.first; };
        put_("sentence_length_mean", length.mean());
        put_("sentence_length_std", length.deviation());
        put_("sentence_length_max", static_cast<double>(length.most));
        put_("sentence_length_median", median(w_.numbers));
        put_("sentence_length_change", ratio(static_cast<double>(differences), sentences_ - 1));
        put_("short_sentence_ratio", share_of_sentences([&](const Sentence &s) { return words(s) < 5; }));
        put_("long_sentence_ratio", share_of_sentences([&](const Sentence &s) { return words(s) > 25; }));
        put_("very_long_sentence_ratio", share_of_sentences([&](const Sentence &s) { return words(s) > 35; }));
        put_("declarative_ratio", share_of_sentences([](const Sentence &s) { return s.terminal == '.'; }));
        put_("interrogative_ratio", share_of_sentences([](const Sentence &s) { return s.terminal == '?'; }));
        put_("exclamative_ratio", share_of_sentences([](const Sentence &s) { return s.terminal == '!'; }));
        put_("sentence_start_upper_ratio", share_of_sentences([&](const Sentence &s) { return s_.words[s.first].capital; }));
        put_("sentence_start_distinct_ratio", ratio(static_cast<double>(w_.counter.distinct()), sentences_));
    }

    void richness() {
        const Vocabulary &v = w_.vocabulary;
        const double types = static_cast<double>(v.types), once = static_cast<double>(v.once);
        const double log_words = words_ > 1 ? std::log(words_) : 0, log_types = types > 1 ? std::log(types) : 0;
        put_("type_token_ratio", ratio(types, words_));
        put_("root_ttr", words_ > 0 ? types / std::sqrt(words_) : 0.0);
        put_("log_ttr", ratio(log_types, log_words));
        put_("maas", log_words > 0 ? (log_words - log_types) / (log_words * log_words) : 0.0);
        put_("yule_k", words_ > 0 ? 1e4 * (v.squares - words_) / (words_ * words_) : 0.0);
        put_("hapax_legomena_ratio", ratio(once, types));
        put_("honore_r", types > 0 ? 100 * log_words / std::max(1 - once / types, 1 / types) : 0.0);
        put_("mtld", mtld(s_.words, w_.seen, v.types));
        put_("mattr_50", mattr(s_.words, 50, w_.seen, v.types));
        const double word_entropy = entropy(v.counts.data(), v.counts.size());
        put_("word_entropy", word_entropy);
        put_("word_evenness", types > 1 ? word_entropy / std::log2(types) : 0.0);
        put_("top_10_word_ratio", v.most(10));
    }

    void characters() {
        const Scan &s = s_;
        const double symbols = count({SYMBOL, EMOJI});
        put_("letter_ratio", ratio(letters_, characters_));
        put_("upper_case_ratio", ratio(count({UPPER}), letters_));
        put_("digit_ratio", ratio(count({DIGIT, NUMBER}), characters_));
        put_("whitespace_ratio", ratio(count({SPACE, NEWLINE}), characters_));
        put_("symbol_ratio", ratio(symbols, characters_));
        put_("emoji_ratio", ratio(count({EMOJI}), characters_));
        put_("other_script_ratio", ratio(static_cast<double>(s.not_latin), letters_));
        put_("combining_mark_ratio", ratio(count({MARK}), characters_));
        put_("control_char_ratio", ratio(count({CONTROL}), characters_));
        put_("zero_width_ratio", ratio(static_cast<double>(s.zero_width), characters_));
        put_("unassigned_char_ratio", ratio(count({OTHER}), characters_));
        put_("replacement_char_ratio", ratio(static_cast<double>(s.replacement), characters_));
        put_("mojibake_per_word", ratio(static_cast<double>(s.mojibake), words_));
        put_("question_mark_in_word_ratio", ratio(static_cast<double>(s.marks_in_words), words_));
        put_("html_entity_per_word", ratio(static_cast<double>(s.entities), words_));
        put_("backslash_escape_per_word", ratio(static_cast<double>(s.escapes), words_));
        put_("longest_char_run", static_cast<double>(s.longest_run));
        int64_t bins[SMALL + 1];
        std::copy(s.small, s.small + SMALL, bins);
        bins[SMALL] = s.beyond;
        put_("char_entropy", entropy(bins, SMALL + 1));
        put_("letter_pair_entropy", pair_entropy());
        put_("vowel_ratio", ratio(static_cast<double>(s.vowels), letters_));
        put_("consonant_cluster_ratio", share_of_words([](const Word &word) { return word.consonants; }));
        put_("tripled_letter_ratio", share_of_words([](const Word &word) { return word.tripled; }));
    }

    // Most pairs of letters never stand together: two counts are looked at in one.
    double pair_entropy() const {
        uint32_t seen[64 * 64];
        size_t kinds = 0;
        for (size_t row = 0; row < 64; ++row)
            for (size_t i = 0; i < 64; i += 2) {
                uint64_t two;
                std::memcpy(&two, &s_.pairs[row][i], sizeof two);
                if (!two) continue;
                seen[kinds++] = s_.pairs[row][i];
                seen[kinds++] = s_.pairs[row][i + 1];
            }
        return entropy(seen, kinds);
    }

    void alphabet() {
        put_("polish_diacritics_per_word", ratio(static_cast<double>(s_.diacritics), words_));
        put_("words_with_diacritics_ratio", share_of_words([](const Word &word) { return word.diacritic; }));
        put_("missing_diacritics_ratio", share_of_set(STRIPPED));
        put_("foreign_letter_ratio", ratio(letters_ - static_cast<double>(s_.native), letters_));
        put_("letter_a_ogonek_ratio", ratio(small({0x104, 0x105}), letters_));
        put_("letter_e_ogonek_ratio", ratio(small({0x118, 0x119}), letters_));
        put_("letter_o_acute_ratio", ratio(small({0xd3, 0xf3}), letters_));
        put_("letter_l_stroke_ratio", ratio(small({0x141, 0x142}), letters_));
    }

    void punctuation() {
        const double commas = small({','}), stops = small({'.'}), ellipses = general({0x2026});
        const double straight = small({'"'}), polish = general({0x201e, 0x201d}) + small({0xab, 0xbb});
        put_("punctuation_per_word", ratio(count({PUNCTUATION}), words_));
        put_("commas_per_word", ratio(commas, words_));
        put_("full_stops_per_word", ratio(stops, words_));
        put_("colons_per_word", ratio(small({':'}), words_));
        put_("hyphens_per_word", ratio(small({'-'}), words_));
        put_("dashes_per_word", ratio(general({0x2013, 0x2014}), words_));
        put_("ellipses_per_word", ratio(ellipses, words_));
        put_("quotes_per_word", ratio(straight + polish, words_));
        put_("polish_quote_ratio", ratio(polish, straight + polish));
        put_("parentheses_per_word", ratio(small({'(', ')'}), words_));
        put_("brackets_per_word", ratio(small({'[', ']', '{', '}'}), words_));
        put_("slashes_per_word", ratio(small({'/', '\\'}), words_));
        put_("repeated_marks_per_sentence", ratio(static_cast<double>(s_.repeated_marks), sentences_));
        put_("space_before_punctuation_ratio", ratio(static_cast<double>(s_.space_before), tokens_));
        put_("missing_space_ratio", ratio(static_cast<double>(s_.no_space_after), tokens_));
        put_("bracket_imbalance_per_word", ratio(static_cast<double>(s_.bracket_imbalance), words_));
        int64_t marks[SMALL + 1];
        int64_t others = s_.classes[PUNCTUATION];
        for (uint32_t c = 0; c < SMALL; ++c) {
            const bool ascii = c < 128 && c > 32 && !(c >= '0' && c <= '9') && !(c >= 'A' && c <= 'Z') && !(c >= 'a' && c <= 'z');
            const bool symbol = c == '$' || c == '+' || c == '<' || c == '=' || c == '>' || c == '^' || c == '`' || c == '|' || c == '~';
            marks[c] = ascii && c != 127 && !symbol ? s_.small[c] : 0;
            others -= marks[c];
        }
        marks[SMALL] = others;
        put_("punctuation_entropy", entropy(marks, SMALL + 1));
    }

    void shapes() {
        put_("all_caps_word_ratio", share_of_words([](const Word &word) { return word.all_upper; }));
        put_("capitalised_word_ratio", share_of_words([](const Word &word) { return word.capital; }));
        put_("camel_case_count", words_ * share_of_words([](const Word &word) { return word.camel; }));
        put_("non_alpha_word_fractions", ratio(static_cast<double>(s_.tokens_without_letter), tokens_));
        put_("digit_token_ratio", ratio(static_cast<double>(s_.digit_tokens), tokens_));
        put_("hyphenated_token_ratio", ratio(static_cast<double>(s_.hyphenated), tokens_));
        put_("numbers_per_word", ratio(static_cast<double>(s_.numbers), words_));
    }

    void repetition() {
        const std::vector<uint32_t> &ids = w_.ids;
        const size_t n = ids.size();
        w_.ngrams.start(ids);
        const Repeats two = w_.ngrams.of(ids, 2, w_.counter), three = w_.ngrams.of(ids, 3, w_.counter);
        const Repeats five = w_.ngrams.of(ids, 5, w_.counter), ten = w_.ngrams.of(ids, 10, w_.counter);
        put_("duplicate_2gram_ratio", two.duplicates);
        put_("duplicate_3gram_ratio", three.duplicates);
        put_("duplicate_5gram_ratio", five.duplicates);
        put_("duplicate_10gram_ratio", ten.duplicates);
        put_("top_2gram_ratio", two.top);
        int64_t neighbours = 0, near = 0, late_new = 0;
        w_.seen.assign(static_cast<size_t>(w_.vocabulary.types), 0);  // 1 + place of the last appearance
        w_.previous.resize(n);
        for (size_t i = 0; i < n; ++i) {
            const uint32_t last = w_.seen[ids[i]];
            neighbours += last == i && i > 0;
            near += last != 0 && i + 1 - last <= 10;
            late_new += last == 0 && i >= n / 2;
            w_.seen[ids[i]] = static_cast<uint32_t>(i + 1);
            w_.previous[i] = last;
        }
        put_("repeated_neighbour_ratio", ratio(static_cast<double>(neighbours), words_));
        put_("repeated_within_10_ratio", ratio(static_cast<double>(near), words_));
        put_("late_new_word_ratio", ratio(static_cast<double>(late_new), static_cast<double>(n - n / 2)));
        put_("looping_suspicion", looping(w_.previous, 0));
        put_("looping_tail", looping(w_.previous, n > 150 ? n - 150 : 0));
        put_("duplicate_sentence_ratio", duplicates(s_.sentences, [&](const Sentence &sentence) {
                 uint64_t hash = HASH_START;
                 for (size_t i = sentence.first; i < sentence.last; ++i) hash = extend(hash, ids[i]);
                 return mix(hash);
             }));
        put_("duplicate_line_ratio", duplicates(s_.lines, [](const Line &line) { return line.hash; }));
        put_("duplicate_paragraph_ratio", duplicates(s_.paragraphs, [](const Paragraph &paragraph) { return mix(paragraph.hash); }));
    }

    template <typename Items, typename Key>
    double duplicates(const Items &items, Key key) {
        if (items.empty()) return 0;
        w_.counter.start(items.size());
        for (const auto &item : items) w_.counter.add(key(item));
        return 1 - static_cast<double>(w_.counter.distinct()) / static_cast<double>(items.size());
    }

    void lines() {
        Moments length, paragraph;
        for (const Line &line : s_.lines) length.add(line.length);
        for (const Paragraph &p : s_.paragraphs) paragraph.add(p.words);
        put_("average_lines", length.mean());
        put_("line_length_std", length.deviation());
        put_("short_line_ratio_20", share_of_lines([](const Line &line) { return line.length < 20; }));
        put_("short_line_ratio_60", share_of_lines([](const Line &line) { return line.length < 60; }));
        put_("single_word_line_ratio", share_of_lines([](const Line &line) { return line.words == 1; }));
        put_("blank_line_ratio", ratio(static_cast<double>(s_.blank_lines), lines_ + static_cast<double>(s_.blank_lines)));
        put_("line_end_punctuation_ratio", share_of_lines([](const Line &line) { return line.ends_with_punctuation; }));
        put_("line_start_lower_ratio", share_of_lines([](const Line &line) { return line.starts_lower; }));
        put_("paragraph_words_mean", paragraph.mean());
    }

    void markup() {
        int64_t fences = 0;
        for (const Line &line : s_.lines) fences += line.fence;
        put_("heading_line_ratio", share_of_lines([](const Line &line) { return line.heading; }));
        put_("bullet_line_ratio", share_of_lines([](const Line &line) { return line.bullet; }));
        put_("numbered_line_ratio", share_of_lines([](const Line &line) { return line.numbered; }));
        put_("table_line_ratio", share_of_lines([](const Line &line) { return line.table; }));
        put_("code_fence_count", static_cast<double>(fences));
        put_("bold_per_word", ratio(static_cast<double>(s_.bold), words_));
        put_("markdown_link_per_word", ratio(static_cast<double>(s_.links), words_));
        put_("html_tag_per_word", ratio(static_cast<double>(s_.tags), words_));
        put_("url_per_token", ratio(static_cast<double>(s_.urls), tokens_));
        put_("hashtag_and_mention_ratio", ratio(static_cast<double>(s_.hashtags + s_.mentions), tokens_));
    }

    void readability() {
        int64_t longer = 0;
        for (const Word &word : s_.words) longer += word.length > 6;
        const double sentence = ratio(words_, sentences_), hard = 100 * ratio(hard_words_, words_);
        put_("lix", sentence + 100 * ratio(static_cast<double>(longer), words_));
        put_("rix", ratio(static_cast<double>(longer), sentences_));
        put_("fog_pl", 0.4 * (sentence + hard));
        put_("pisarek", std::sqrt(sentence * sentence + hard * hard) / 2);
    }

    double syllables_ = 0, hard_words_ = 0;
};

}  // namespace text_features
