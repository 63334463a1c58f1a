// One document cut into characters, tokens, words, sentences, lines and paragraphs. Nothing is counted twice later.
//
// Definitions (the Python twin in tests/corpus/text_twin.py states them again):
//   word       maximal run of letters and combining marks
//   token      maximal run of characters that are not white space
//   line       what stands between line feeds; blank if only white space; its length leaves out white space at both ends
//   paragraph  run of lines that are not blank
//   sentence   at least one word, up to . ! ? or an ellipsis (with closing quotes and brackets) before white space or the end, unless
//              the next character that is not white space is a lower-case letter, or a single full stop follows an abbreviation,
//              or one letter; also up to a line feed, unless a lower-case letter begins the next line that is not blank and no
//              blank line lies between
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "language.hpp"

namespace text_features {

constexpr uint32_t SMALL = 0x250;              // Basic Latin to Latin Extended-B have a histogram of their own
constexpr uint32_t GENERAL = 0x2000, GENERAL_SIZE = 0x70;  // General Punctuation

struct Word {
    uint64_t hash;   // of the lower-case letters
    uint64_t attributes;
    uint32_t start;  // first character
    uint32_t id;     // equal words have equal numbers, in order of first appearance
    uint32_t length;
    uint32_t syllables;
    bool capital, all_upper, camel, diacritic, tripled, consonants;
};

struct Sentence {
    size_t first, last;  // words [first, last)
    char terminal;       // . ? ! e (ellipsis) or 0
};

struct Line {
    uint64_t hash;
    uint32_t length, words;
    bool heading, bullet, numbered, table, fence, ends_with_punctuation, starts_lower;
};

struct Paragraph {
    uint64_t hash;
    uint32_t lines, words;
};

struct Counts {
    int64_t characters;
    int64_t classes[NUM_CLASSES], small[SMALL], general[GENERAL_SIZE], beyond;
    int64_t vowels, diacritics, native, not_latin, replacement, byte_order_marks, zero_width;
    int64_t longest_run;           // of one character, white space aside
    int64_t mojibake, entities, escapes, marks_in_words;
    int64_t tokens, token_characters, long_tokens, tokens_without_letter, digit_tokens;
    int64_t hyphenated, urls, hashtags, mentions, numbers;
    int64_t repeated_marks, space_before, no_space_after, tags, bold, links, inline_code;
    int64_t blank_lines;
    int64_t bracket_imbalance;
    uint32_t pairs[65][64];        // letters next to each other inside a word; the last row counts first letters
};

struct Scan : Counts {
    std::vector<Word> words;
    std::vector<Sentence> sentences;
    std::vector<Line> lines;  // not blank
    std::vector<Paragraph> paragraphs;

    void clear() {  // keeps the vectors' memory
        std::memset(static_cast<Counts *>(this), 0, sizeof(Counts));
        words.clear(), sentences.clear(), lines.clear(), paragraphs.clear();
    }
};

template <typename Char>
class Scanner {
  public:
    Scanner(const Char *text, size_t size, const Characters &characters, const std::vector<uint64_t> &abbreviations, Scan &scan)
        : text_(text), size_(size), characters_(characters), abbreviations_(abbreviations), scan_(scan) {}

    void run() {
        scan_.clear();
        count_characters();
        cut_tokens();
        cut_lines();
        cut_sentences();
    }

  private:
    uint32_t at(size_t i) const { return i < size_ ? text_[i] : 0; }
    uint16_t properties(size_t i) const { return i < size_ ? characters_(text_[i]) : uint16_t{SPACE}; }
    bool letter(size_t i) const { return i < size_ && is_letter(properties(i)); }
    bool space(size_t i) const {
        const uint16_t kind = properties(i) & CLASS_MASK;
        return kind == SPACE || kind == NEWLINE;
    }
    bool starts(size_t i, const char *what) const {
        for (; *what; ++what, ++i)
            if (i >= size_ || text_[i] != static_cast<unsigned char>(*what)) return false;
        return true;
    }

    // Characters below SMALL are only counted, in two halves so that no count waits for the one before; what they are is added up
    // at the end.
    void count_characters() {
        Scan &s = scan_;
        s.characters = static_cast<int64_t>(size_);
        uint32_t even[SMALL] = {}, odd[SMALL] = {};
        size_t run_start = 0, i = 0;
        uint32_t previous = 0xffffffff;
        const auto count = [&](uint32_t *counts) {
            const uint32_t c = text_[i];
            if (c != previous) {
                end_run(previous, i - run_start);
                run_start = i;
                previous = c;
            }
            if (c < SMALL)
                ++counts[c];
            else
                count_beyond(c);
            ++i;
        };
        while (i + 2 <= size_) count(even), count(odd);
        if (i < size_) count(even);
        end_run(previous, size_ - run_start);
        for (uint32_t c = 0; c < SMALL; ++c) {
            s.small[c] = even[c] + odd[c];
            count_class(characters_(c), s.small[c]);
        }
        s.zero_width = s.general[0x0b] + s.general[0x0c] + s.general[0x0d] + s.byte_order_marks;
        s.bracket_imbalance = std::abs(s.small['('] - s.small[')']) + std::abs(s.small['['] - s.small[']']) +
                              std::abs(s.small['{'] - s.small['}']);
        if (s.small['&'] || s.small['\\'] || s.small['?'] || s.small[0xc2] || s.small[0xc3] || s.small[0xc4] || s.small[0xc5] ||
            s.small[0x102] || s.small[0x139] || s.small[0xe2])
            count_traces();
    }

    void count_class(uint16_t p, int64_t count) {
        scan_.classes[p & CLASS_MASK] += count;
        scan_.vowels += (p & VOWEL ? 1 : 0) * count;
        scan_.diacritics += (p & DIACRITIC ? 1 : 0) * count;
        scan_.native += (p & NATIVE ? 1 : 0) * count;
    }

    void count_beyond(uint32_t c) {
        Scan &s = scan_;
        const uint16_t p = characters_(c);
        count_class(p, 1);
        ++s.beyond;
        if (c >= GENERAL && c < GENERAL + GENERAL_SIZE) ++s.general[c - GENERAL];
        if (is_letter(p) && !(c >= 0x1e00 && c < 0x1f00)) ++s.not_latin;
        if (c == 0xfffd) ++s.replacement;
        if (c == 0xfeff) ++s.byte_order_marks;
    }

    void end_run(uint32_t c, size_t length) {
        if (static_cast<int64_t>(length) <= scan_.longest_run) return;
        const uint16_t kind = characters_(c) & CLASS_MASK;
        if (kind != SPACE && kind != NEWLINE) scan_.longest_run = static_cast<int64_t>(length);
    }

    // Traces of broken encodings and of markup that needs two characters or more to be seen.
    void count_traces() {
        for (size_t i = 0; i + 1 < size_; ++i) {
            const uint32_t c = text_[i], next = text_[i + 1];
            if (c == '&') {
                size_t end = i + 1 + (next == '#');
                const size_t first = end;
                while (end < size_ && end < first + 8 && at(end) < 128 && (letter(end) || (properties(end) & CLASS_MASK) == DIGIT)) ++end;
                scan_.entities += end > first && at(end) == ';';
            } else if (c == '\\') {
                scan_.escapes += next == 'n' || next == 't' || next == 'r' || next == 'u' || next == 'x' || next == '"';
            } else if (c == '?') {
                scan_.marks_in_words += i > 0 && letter(i - 1) && (properties(i + 1) & CLASS_MASK) == LOWER;
            } else if (c == 0xc2 || c == 0xc3 || c == 0xc4 || c == 0xc5 || c == 0x102 || c == 0x139 || c == 0xe2) {
                // A byte that begins a UTF-8 sequence, read as one letter (two ways for each), and what continues one.
                const uint16_t kind = properties(i + 1) & CLASS_MASK;
                scan_.mojibake += next >= 0x80 && (!is_letter(kind) ? kind != SPACE || next == 0xa0 : next < 0x17f && (c != next));
            }
        }
    }

    void cut_tokens() {
        size_t i = 0;
        while (i < size_) {
            while (i < size_ && space(i)) ++i;
            if (i == size_) break;
            const size_t begin = i;
            bool letters = false, digits = false, hyphen = false, colon = false;
            while (i < size_) {
                const uint16_t p = properties(i), kind = p & CLASS_MASK;
                if (kind == SPACE || kind == NEWLINE) break;
                if (is_letter(p)) {
                    letters = true;
                    i = cut_word(i);
                } else if (kind == DIGIT) {
                    digits = true;
                    i = cut_number(i);
                } else {
                    const uint32_t c = text_[i];
                    if (c == '-')
                        hyphen |= i > begin && letter(i - 1) && letter(i + 1);
                    else if (c == ':')
                        colon = true;
                    if (kind == PUNCTUATION || kind == SYMBOL) punctuation(i, c);
                    ++i;
                }
            }
            count_token(begin, i, letters, digits, colon);
            scan_.hyphenated += hyphen;
        }
    }

    void punctuation(size_t i, uint32_t c) {
        Scan &s = scan_;
        if (c == ',' || c == '.' || c == ';' || c == ':' || c == '!' || c == '?') {
            s.space_before += i > 0 && space(i - 1) && i + 1 <= size_ && space(i + 1);
            s.no_space_after += (c == ',' || c == ';' || c == '!' || c == '?') && i > 0 && letter(i - 1) && letter(i + 1);
            if (c == '!' || c == '?') s.repeated_marks += i > 0 && (text_[i - 1] == '!' || text_[i - 1] == '?');
        } else if (c == '<') {
            s.tags += letter(i + 1) || (at(i + 1) == '/' && letter(i + 2));
        } else if (c == '*') {
            s.bold += at(i + 1) == '*' && !space(i + 2) && at(i + 2) != '*' && (i == 0 || text_[i - 1] != '*');
        } else if (c == ']') {
            s.links += at(i + 1) == '(';
        } else if (c == '`') {
            s.inline_code += at(i + 1) != '`' && (i == 0 || text_[i - 1] != '`');
        }
    }

    void count_token(size_t begin, size_t end, bool letters, bool digits, bool colon) {
        Scan &s = scan_;
        const int64_t length = static_cast<int64_t>(end - begin);
        ++s.tokens;
        s.token_characters += length;
        s.long_tokens += length > 30;
        s.tokens_without_letter += !letters;
        s.digit_tokens += digits && !letters;
        bool url = starts(begin, "www.");
        if (colon && !url)
            for (size_t i = begin; i < end && !url; ++i) url = starts(i, "://");
        s.urls += url;
        s.hashtags += text_[begin] == '#' && letter(begin + 1);
        s.mentions += text_[begin] == '@' && letter(begin + 1);
    }

    size_t cut_word(size_t i) {
        uint32_t uppers = 0, consonants = 0, most_consonants = 0, same = 0, most_same = 0, previous = 0, syllables = 0;
        uint32_t after_glide = 0, previous_letter = 64;  // row 64 takes what has no letter before it
        uint16_t seen = 0;
        uint64_t hash = HASH_START;
        const size_t begin = i;
        for (; i < size_; ++i) {
            const uint32_t c = text_[i];
            const uint16_t p = characters_(c);
            if (!is_letter(p)) break;
            const uint32_t low = characters_.to_lower(c);
            hash = extend(hash, low);
            uppers += (p & CLASS_MASK) == UPPER;
            // Without branches: where the vowels of a word stand cannot be foreseen.
            const uint32_t vowel = p / VOWEL & 1;
            syllables += vowel & ~after_glide;
            consonants = (consonants + 1) & (vowel - 1);
            most_consonants = std::max(most_consonants, consonants);
            after_glide = p / GLIDE & 1;
            seen |= p;
            same = (same & -static_cast<uint32_t>(low == previous)) + 1;
            most_same = std::max(most_same, same);
            previous = low;
            const uint32_t index = p >> INDEX_SHIFT & 63;
            ++scan_.pairs[previous_letter][index];
            previous_letter = index;
        }
        Word &word = scan_.words.emplace_back();
        word.hash = hash;
        word.start = static_cast<uint32_t>(begin);
        word.length = static_cast<uint32_t>(i - begin);
        word.syllables = syllables;
        word.capital = (characters_(text_[begin]) & CLASS_MASK) == UPPER;
        word.all_upper = word.length >= 2 && uppers == word.length;
        word.camel = uppers > word.capital && uppers < word.length;
        word.diacritic = seen & DIACRITIC;
        word.tripled = most_same >= 3;
        word.consonants = most_consonants >= 5;
        return i;
    }

    size_t cut_number(size_t i) {
        while (i < size_ && (properties(i) & CLASS_MASK) == DIGIT) ++i;
        ++scan_.numbers;
        return i;
    }

    void cut_lines() {
        size_t begin = 0, word = 0;
        Paragraph paragraph{HASH_START, 0, 0};
        while (begin < size_) {
            size_t end = begin;
            while (end < size_ && text_[end] != '\n') ++end;
            size_t first = begin, last = end;
            while (first < last && space(first)) ++first;
            while (last > first && space(last - 1)) --last;
            if (first == last) {
                ++scan_.blank_lines;
                close(paragraph);
            } else {
                Line line = describe(first, last);
                while (word < scan_.words.size() && scan_.words[word].start < end) ++word, ++line.words;
                scan_.lines.push_back(line);
                paragraph.hash = extend(paragraph.hash, line.hash);
                paragraph.words += line.words;
                ++paragraph.lines;
            }
            begin = end + 1;
        }
        close(paragraph);
    }

    void close(Paragraph &paragraph) {
        if (paragraph.lines) scan_.paragraphs.push_back(paragraph);
        paragraph = Paragraph{HASH_START, 0, 0};
    }

    // Equal characters are equal bytes: within one text all have the same width.
    static uint64_t hash_bytes(const void *data, size_t size) {
        const char *bytes = static_cast<const char *>(data);
        uint64_t hash = extend(HASH_START, size), block;
        for (; size >= sizeof block; bytes += sizeof block, size -= sizeof block) {
            std::memcpy(&block, bytes, sizeof block);
            hash = extend(hash, block);
        }
        block = 0;
        std::memcpy(&block, bytes, size);
        return extend(hash, block);
    }

    Line describe(size_t first, size_t last) const {
        Line line{};
        line.length = static_cast<uint32_t>(last - first);
        line.hash = mix(hash_bytes(text_ + first, (last - first) * sizeof(Char)));
        int64_t pipes = 0;
        if (scan_.small['|'])
            for (size_t i = first; i < last; ++i) pipes += text_[i] == '|';
        const uint32_t c = text_[first], end = text_[last - 1];
        size_t i = first;
        while (i < last && text_[i] == '#') ++i;
        line.heading = i > first && i - first <= 6 && i < last && space(i);
        line.bullet = (c == '-' || c == '*' || c == '+' || c == 0x2022 || c == 0x2013) && first + 1 < last && space(first + 1);
        i = first;
        while (i < last && (properties(i) & CLASS_MASK) == DIGIT) ++i;
        line.numbered = i > first && i - first <= 3 && i + 1 < last && (text_[i] == '.' || text_[i] == ')') && space(i + 1);
        line.table = pipes >= 2;
        line.fence = starts(first, "```") || starts(first, "~~~");
        line.ends_with_punctuation = end == '.' || end == '!' || end == '?' || end == 0x2026 || end == ':' || end == ';' ||
                                     end == 0x201d || end == '"' || end == ')';
        line.starts_lower = (properties(first) & CLASS_MASK) == LOWER;
        return line;
    }

    static bool terminal(uint32_t c) { return c == '.' || c == '!' || c == '?' || c == 0x2026; }
    static bool closing(uint32_t c) {
        return c == '"' || c == '\'' || c == ')' || c == ']' || c == 0x201d || c == 0x2019 || c == 0xbb;
    }

    void cut_sentences() {
        const std::vector<Word> &words = scan_.words;
        size_t word = 0, first = 0;
        for (size_t i = 0; i < size_;) {
            if (word < words.size() && i == words[word].start) {
                i += words[word++].length;
                continue;
            }
            const uint32_t c = text_[i];
            if (c == '\n') {
                size_t next = i, feeds = 0;
                while (next < size_ && space(next)) feeds += text_[next++] == '\n';
                const bool goes_on = feeds == 1 && next < size_ && (properties(next) & CLASS_MASK) == LOWER;
                if (!goes_on) first = end_sentence(first, word, 0);
                i = next;
            } else if (terminal(c)) {
                const size_t begin = i;
                bool question = false, exclamation = false;
                size_t dots = 0;
                for (; i < size_ && terminal(text_[i]); ++i) {
                    question |= text_[i] == '?';
                    exclamation |= text_[i] == '!';
                    dots += text_[i] == 0x2026 ? 2 : text_[i] == '.';
                }
                while (i < size_ && closing(text_[i])) ++i;
                if (i < size_ && !space(i)) continue;
                size_t next = i;
                while (next < size_ && space(next)) ++next;
                if (next < size_ && (properties(next) & CLASS_MASK) == LOWER) continue;
                if (i - begin == 1 && c == '.' && word > 0 && ends_abbreviation(words[word - 1], begin)) continue;
                first = end_sentence(first, word, question ? '?' : exclamation ? '!' : dots >= 2 ? 'e' : '.');
            } else {
                ++i;
            }
        }
        end_sentence(first, word, 0);
    }

    bool ends_abbreviation(const Word &word, size_t stop) const {
        if (word.start + word.length != stop) return false;
        return word.length == 1 || std::binary_search(abbreviations_.begin(), abbreviations_.end(), word.hash);
    }

    size_t end_sentence(size_t first, size_t last, char terminal) {
        if (last > first) scan_.sentences.push_back({first, last, terminal});
        return last;
    }

    const Char *text_;
    size_t size_;
    const Characters &characters_;
    const std::vector<uint64_t> &abbreviations_;
    Scan &scan_;
};

}  // namespace text_features
