// What the scanner knows of a language: character properties and what each word form may be.
//
// Both come from Python (megatron_bielik/corpus/language.py and morphology.py): characters as one table over the first two
// planes of Unicode, words as pairs of a 64-bit hash and 64 attribute bits.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace text_features {

// Bits 0-3 of a character's properties. The order is that of CLASSES in language.py.
enum Class : uint16_t {
    OTHER, LOWER, UPPER, LETTER, MARK, DIGIT, NUMBER, SPACE, NEWLINE, PUNCTUATION, SYMBOL, CONTROL, FORMAT, EMOJI, NUM_CLASSES
};
constexpr uint16_t CLASS_MASK = 15;
constexpr uint16_t VOWEL = 1 << 4, DIACRITIC = 1 << 5, GLIDE = 1 << 6, NATIVE = 1 << 7;
constexpr int INDEX_SHIFT = 8;  // 6 bits: number of a letter among those of its language, 0 for others
constexpr uint32_t TABLE_SIZE = 0x20000;  // planes 0 and 1

struct Characters {
    std::vector<uint16_t> properties;  // [TABLE_SIZE]
    std::vector<uint32_t> lower;       // [TABLE_SIZE], simple lower case

    uint16_t operator()(uint32_t c) const {
        if (c < TABLE_SIZE) return properties[c];
        if (c < 0x40000) return LETTER;  // planes 2 and 3 are ideographs
        if (c >= 0xe0001 && c < 0xe0080) return FORMAT;  // tags, as in flags of regions
        return c >= 0xe0100 && c < 0xe01f0 ? MARK : OTHER;  // variation selectors; the rest is private or unassigned
    }
    uint32_t to_lower(uint32_t c) const { return c < TABLE_SIZE ? lower[c] : c; }
};

inline bool is_letter(uint16_t properties) {
    const uint16_t kind = properties & CLASS_MASK;
    return kind >= LOWER && kind <= MARK;
}

// Word attributes, bit by bit; the order is that of morphology.py. The lowest part-of-speech bit is the word's main one.
constexpr int PARTS_OF_SPEECH = 15, CASE_SHIFT = 15, NUMBER_SHIFT = 22, GENDER_SHIFT = 24, PERSON_SHIFT = 27, FORM_SHIFT = 30,
              ASPECT_SHIFT = 37, DEGREE_SHIFT = 39, NAME_SHIFT = 41, SET_SHIFT = 45, ANALYSES_SHIFT = 52;
constexpr int CASES = 7, NUMBERS = 2, GENDERS = 3, PERSONS = 3, FORMS = 7, NAMES = 4;
enum PartOfSpeech { PREPOSITION, SUBORDINATOR, CONJUNCTION, PRONOUN, NUMERAL, PARTICLE, VERB, GERUND, PARTICIPLE, ADVERBIAL_PARTICIPLE,
                    NOUN, ADJECTIVE, ADVERB, INTERJECTION, ABBREVIATION };
enum Form { PRESENT, PAST, FUTURE, IMPERATIVE, INFINITIVE, IMPERSONAL, CONDITIONAL };
enum WordSet { STOP_WORD, NEGATION, CONNECTIVE, QUESTION_WORD, FOREIGN_STOP_WORD, WEB_WORD, STRIPPED };

inline int bits(uint64_t attributes, int shift, int count) {
    return static_cast<int>(attributes >> shift & ((uint64_t{1} << count) - 1));
}
inline bool in_set(uint64_t attributes, WordSet set) { return attributes >> (SET_SHIFT + set) & 1; }
inline int main_part(uint64_t attributes) {
    const int mask = bits(attributes, 0, PARTS_OF_SPEECH);
    return mask ? __builtin_ctz(static_cast<unsigned>(mask)) : -1;
}

constexpr uint64_t HASH_START = 0xcbf29ce484222325u, HASH_STEP = 0x9e3779b97f4a7c15u;

inline uint64_t mix(uint64_t hash) {  // the finalizer of MurmurHash3
    hash = (hash ^ hash >> 33) * 0xff51afd7ed558ccdu;
    hash = (hash ^ hash >> 33) * 0xc4ceb9fe1a85ec53u;
    return hash ^ hash >> 33;
}
inline uint64_t extend(uint64_t hash, uint64_t value) { return (hash ^ value) * HASH_STEP + (hash >> 29); }
// Words are looked up in two forms: lower case, and with a capital first letter, which names need.
inline uint64_t word_key(uint64_t hash, bool capital) { return mix(capital ? hash ^ 0x5bd1e995c0ffee11u : hash) | 1; }

// Attributes by word key: open addressing, never more than half full. Key 0 means empty; word_key is never 0.
class WordTable {
  public:
    WordTable() : entries_(1 << 16) {}

    void prefetch(uint64_t key) const { __builtin_prefetch(&entries_[key >> 20 & mask()]); }
    const uint64_t *find(uint64_t key) const {
        for (size_t slot = key >> 20 & mask();; slot = (slot + 1) & mask()) {
            if (entries_[slot].key == key) return &entries_[slot].value;
            if (entries_[slot].key == 0) return nullptr;
        }
    }
    void insert(uint64_t key, uint64_t value) {
        if ((size_ + 1) * 2 > entries_.size()) grow();
        place(key, value);
    }
    size_t size() const { return size_; }
    template <typename Visit>
    void for_each(Visit visit) const {
        for (const Entry &entry : entries_)
            if (entry.key) visit(entry.key, entry.value);
    }

  private:
    struct Entry {
        uint64_t key, value;
    };
    size_t mask() const { return entries_.size() - 1; }
    void place(uint64_t key, uint64_t value) {
        size_t slot = key >> 20 & mask();
        while (entries_[slot].key != 0 && entries_[slot].key != key) slot = (slot + 1) & mask();
        size_ += entries_[slot].key == 0;
        entries_[slot] = {key, value};
    }
    void grow() {
        std::vector<Entry> old(entries_.size() * 2);
        old.swap(entries_);
        size_ = 0;
        for (const Entry &entry : old)
            if (entry.key) place(entry.key, entry.value);
    }
    std::vector<Entry> entries_;
    size_t size_ = 0;
};

// How often each key was seen, for one document at a time; forgets by clearing only as much as is used.
class Counter {
  public:
    void start(size_t expected) {
        size_t capacity = 64;
        while (capacity < expected * 2) capacity *= 2;
        if (capacity > keys_.size()) {
            keys_.resize(capacity);
            counts_.resize(capacity);
        }
        std::fill(keys_.begin(), keys_.begin() + static_cast<std::ptrdiff_t>(capacity), 0);
        mask_ = capacity - 1;
        distinct_ = 0;
        most_ = 0;
    }
    // Slot of a key, made with count 0 if it is new.
    size_t slot(uint64_t key) {
        key |= 1;
        size_t slot = key >> 17 & mask_;
        while (keys_[slot] != 0 && keys_[slot] != key) slot = (slot + 1) & mask_;
        if (keys_[slot] == 0) {
            keys_[slot] = key;
            counts_[slot] = 0;
            ++distinct_;
        }
        return slot;
    }
    uint32_t add(uint64_t key) {
        const uint32_t count = ++counts_[slot(key)];
        if (count > most_) most_ = count;
        return count;
    }
    uint32_t &at(size_t slot) { return counts_[slot]; }
    int64_t distinct() const { return distinct_; }
    int64_t most() const { return most_; }

  private:
    std::vector<uint64_t> keys_;
    std::vector<uint32_t> counts_;
    size_t mask_ = 0;
    int64_t distinct_ = 0;
    uint32_t most_ = 0;
};

}  // namespace text_features
