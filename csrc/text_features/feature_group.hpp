// What all groups of features share: where values go, work space, and shares of words, sentences and lines.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "scan.hpp"
#include "statistics.hpp"

namespace text_features {

// Takes the values in order; with names, it only learns what they are called.
class Row {
  public:
    explicit Row(float *values) : values_(values) {}
    explicit Row(std::vector<const char *> &names) : names_(&names) {}
    void operator()(const char *name, double value) {
        if (names_)
            names_->push_back(name);
        else
            *values_++ = static_cast<float>(value);
    }

  private:
    float *values_ = nullptr;
    std::vector<const char *> *names_ = nullptr;
};

// Work space that lives as long as a thread, so that nothing is allocated per document.
struct Workspace {
    Scan scan;
    Counter counter;
    Ngrams ngrams;
    Vocabulary vocabulary;
    std::vector<uint32_t> ids, numbers, previous, seen;
    std::vector<uint64_t> keys;
};

class FeatureGroup {
  protected:
    FeatureGroup(Workspace &space, Row &row) : w_(space), s_(space.scan), put_(row) {
        words_ = static_cast<double>(s_.words.size());
        tokens_ = static_cast<double>(s_.tokens);
        sentences_ = static_cast<double>(s_.sentences.size());
        lines_ = static_cast<double>(s_.lines.size());
        characters_ = static_cast<double>(s_.characters);
        letters_ = count({LOWER, UPPER, LETTER, MARK});
    }

    double count(std::initializer_list<Class> classes) const {
        int64_t sum = 0;
        for (const Class kind : classes) sum += s_.classes[kind];
        return static_cast<double>(sum);
    }
    double small(std::initializer_list<uint32_t> letters) const {
        int64_t sum = 0;
        for (const uint32_t c : letters) sum += s_.small[c];
        return static_cast<double>(sum);
    }
    double general(std::initializer_list<uint32_t> marks) const {
        int64_t sum = 0;
        for (const uint32_t c : marks) sum += s_.general[c - GENERAL];
        return static_cast<double>(sum);
    }
    template <typename Test>
    double share_of_words(Test test) const {
        int64_t n = 0;
        for (const Word &word : s_.words) n += test(word) ? 1 : 0;
        return ratio(static_cast<double>(n), words_);
    }
    template <typename Test>
    double share_of_sentences(Test test) const {
        int64_t n = 0;
        for (const Sentence &sentence : s_.sentences) n += test(sentence) ? 1 : 0;
        return ratio(static_cast<double>(n), sentences_);
    }
    template <typename Test>
    double share_of_lines(Test test) const {
        int64_t n = 0;
        for (const Line &line : s_.lines) n += test(line) ? 1 : 0;
        return ratio(static_cast<double>(n), lines_);
    }
    double share_of_set(WordSet set) const {
        return share_of_words([set](const Word &word) { return in_set(word.attributes, set); });
    }

    Workspace &w_;
    Scan &s_;
    Row &put_;
    double words_, tokens_, sentences_, lines_, characters_, letters_;
};

}  // namespace text_features
