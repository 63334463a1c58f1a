// MinHash signatures of texts: simplified words, their n-grams, 64-bit hashes of those, minima over many permutations.
//
// The values are those of datatrove's MinhashDedupSignature (simplify_text, ngrams, xxh64, (x * a + b mod 2^64) mod
// 2^61 - 1, minimum by column), with words split at white space. What a code point becomes is not known here: the Python
// face, megatron_bielik/corpus/minhash.py, makes the table from the same unicodedata and regex that datatrove calls.
// Also here: the order of a bucket's records, keys of bands, the union-find that turns equal bands into clusters, and
// texts with single spaces for exact duplicates.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// One clone of the hot loop for each width of vectors, chosen when the module is loaded; needs ifunc, hence glibc.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__)
#define WIDE_VECTORS __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define WIDE_VECTORS
#endif

namespace py = pybind11;

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

namespace {

[[noreturn]] void fail(const std::string &message) { throw std::invalid_argument(message); }

// ---- The table: an entry's upper three bits say what a code point does, the lower 29 carry its payload ----

enum Kind : uint32_t {
    kLetter = 0,     // becomes the one code point of the payload
    kSpace = 1,      // ends a word
    kDigit = 2,      // part of a number
    kDrop = 3,       // a non-spacing mark that may be reordered: leaves no trace
    kBreak = 4,      // a non-spacing mark of combining class 0: dropped, but marks are not reordered across it
    kMark = 5,       // another mark of combining class != 0, kept in canonical order: class << 21 | code point
    kSequence = 6,   // payload is a place in the pool: a count, then that many entries of the kinds above
    kSeparator = 7,  // stands between the two parts of a decimal number; elsewhere it is a letter or, payload 0, a space
};

constexpr uint32_t kPayload = (1u << 29) - 1, kCodePoint = (1u << 21) - 1, kCodePoints = 0x110000;

struct Table {
    const uint32_t *entries;
    const uint32_t *pool;
};

Table table_of(const Array<uint32_t> &entries, const Array<uint32_t> &pool) {
    if (entries.size() != kCodePoints) fail("the table has " + std::to_string(entries.size()) + " entries, needs 1114112");
    return {entries.data(), pool.data()};
}

// A str's code points, read in place: no copy, and no error for a lone surrogate.
struct Text {
    int width;
    const void *data;
    size_t length;
};

Text text_of(const py::handle &item) {
    if (!PyUnicode_Check(item.ptr())) throw py::type_error("texts must be str");
    return {static_cast<int>(PyUnicode_KIND(item.ptr())), PyUnicode_DATA(item.ptr()),
            static_cast<size_t>(PyUnicode_GET_LENGTH(item.ptr()))};
}

// A code point in UTF-8, also a lone surrogate; returns the end.
inline char *encode(uint32_t c, char *out) {
    if (c < 0x80) {
        *out++ = static_cast<char>(c);
    } else if (c < 0x800) {
        *out++ = static_cast<char>(0xC0 | c >> 6);
        *out++ = static_cast<char>(0x80 | (c & 0x3F));
    } else {
        if (c < 0x10000) {
            *out++ = static_cast<char>(0xE0 | c >> 12);
        } else {
            *out++ = static_cast<char>(0xF0 | c >> 18);
            *out++ = static_cast<char>(0x80 | (c >> 12 & 0x3F));
        }
        *out++ = static_cast<char>(0x80 | (c >> 6 & 0x3F));
        *out++ = static_cast<char>(0x80 | (c & 0x3F));
    }
    return out;
}

// Simplified words in UTF-8 with one space between them, so that every n-gram is one stretch of the buffer.
class Words {
   public:
    std::vector<size_t> starts, ends;

    void simplify(const Text &text, const Table &table) {
        starts.clear();
        ends.clear();
        size_ = 0;
        in_word_ = false;
        if (text.width == 1) scan(static_cast<const uint8_t *>(text.data), text.length, table);
        if (text.width == 2) scan(static_cast<const uint16_t *>(text.data), text.length, table);
        if (text.width == 4) scan(static_cast<const uint32_t *>(text.data), text.length, table);
        space();
    }

    const char *data() const { return buffer_.data(); }
    size_t size() const { return ends.empty() ? 0 : ends.back(); }

   private:
    std::vector<char> buffer_ = std::vector<char>(1 << 12);
    std::vector<uint32_t> marks_;  // marks since the last code point of class 0
    size_t size_ = 0;
    bool in_word_ = false;

    template <typename Unit>
    void scan(const Unit *text, size_t length, const Table &table) {
        const auto kind = [&](size_t at) { return table.entries[text[at]] >> 29; };
        for (size_t i = 0; i < length;) {
            uint32_t entry = table.entries[text[i]];
            if (in_word_ && entry < 0x80 && marks_.empty()) {
                // Most letters become one byte of a word that has begun; only these run without a call.
                if (buffer_.size() < size_ + (length - i)) buffer_.resize(2 * buffer_.size() + (length - i));
                char *out = buffer_.data() + size_;
                do *out++ = static_cast<char>(entry);
                while (++i < length && (entry = table.entries[text[i]]) < 0x80);
                size_ = out - buffer_.data();
            } else if (entry >> 29 == kLetter) {
                letter(entry);
                ++i;
            } else if (entry >> 29 == kDigit) {
                // datatrove's pattern: digits, then once at most a separator with more digits; all of it becomes one 0
                while (++i < length && kind(i) == kDigit) {
                }
                if (i + 1 < length && kind(i) == kSeparator && kind(i + 1) == kDigit)
                    for (++i; i < length && kind(i) == kDigit; ++i) {
                    }
                letter('0');
            } else {
                other(entry, table);
                ++i;
            }
        }
    }

    void other(uint32_t entry, const Table &table) {
        const uint32_t payload = entry & kPayload;
        switch (entry >> 29) {
            case kLetter: letter(payload); break;
            case kSpace: space(); break;
            case kBreak: flush(); break;
            case kMark: marks_.push_back(payload); break;
            case kSequence:
                for (uint32_t at = payload + 1; at <= payload + table.pool[payload]; ++at) other(table.pool[at], table);
                break;
            case kSeparator: payload ? letter(payload) : space(); break;
            default: break;
        }
    }

    void letter(uint32_t code_point) {
        if (!marks_.empty()) flush();
        put(code_point);
    }

    void space() {
        if (!marks_.empty()) flush();
        if (in_word_) ends.push_back(size_);
        in_word_ = false;
    }

    void flush() {
        std::stable_sort(marks_.begin(), marks_.end(), [](uint32_t a, uint32_t b) { return a >> 21 < b >> 21; });
        for (const uint32_t mark : marks_) put(mark & kCodePoint);
        marks_.clear();
    }

    void put(uint32_t c) {
        if (buffer_.size() < size_ + 8) buffer_.resize(buffer_.size() * 2);
        char *out = buffer_.data() + size_;
        if (!in_word_) {
            if (!starts.empty()) *out++ = ' ';
            starts.push_back(out - buffer_.data());
            in_word_ = true;
        }
        size_ = encode(c, out) - buffer_.data();
    }
};

// ---- Exact duplicates ----

template <typename Unit>
char *fold(const Unit *text, size_t length, char *const begin) {
    char *out = begin;
    bool gap = false;
    for (size_t i = 0; i < length; ++i) {
        if (Py_UNICODE_ISSPACE(text[i])) {
            gap = true;
            continue;
        }
        if (gap && out != begin) *out++ = ' ';
        gap = false;
        out = encode(text[i], out);
    }
    return out;
}

py::bytes fold_spaces(const py::str &text) {
    const Text from = text_of(text);
    // One byte a unit becomes two at most, two become three, four become four.
    std::string out(from.length * std::min(from.width + 1, 4), '\0');
    char *end = out.data();
    if (from.width == 1) end = fold(static_cast<const uint8_t *>(from.data), from.length, end);
    if (from.width == 2) end = fold(static_cast<const uint16_t *>(from.data), from.length, end);
    if (from.width == 4) end = fold(static_cast<const uint32_t *>(from.data), from.length, end);
    return py::bytes(out.data(), end - out.data());
}

// ---- xxh64 with seed 0 (specification: github.com/Cyan4973/xxHash, doc/xxhash_spec.md) ----

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F, kPrime3 = 0x165667B19E3779F9,
                   kPrime4 = 0x85EBCA77C2B2AE63, kPrime5 = 0x27D4EB2F165667C5;

uint64_t rotate(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }

template <typename T>
T load(const char *at) {  // little-endian machines only, as the rest of the package's files
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

uint64_t xxh_round(uint64_t lane, uint64_t input) { return rotate(lane + input * kPrime2, 31) * kPrime1; }

uint64_t xxh64(const char *at, size_t length) {
    const char *const end = at + length;
    uint64_t h = kPrime5;
    if (length >= 32) {
        uint64_t lanes[4] = {kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1};
        for (; end - at >= 32; at += 32)
            for (int i = 0; i < 4; ++i) lanes[i] = xxh_round(lanes[i], load<uint64_t>(at + 8 * i));
        h = rotate(lanes[0], 1) + rotate(lanes[1], 7) + rotate(lanes[2], 12) + rotate(lanes[3], 18);
        for (const uint64_t lane : lanes) h = (h ^ xxh_round(0, lane)) * kPrime1 + kPrime4;
    }
    h += length;
    for (; end - at >= 8; at += 8) h = rotate(h ^ xxh_round(0, load<uint64_t>(at)), 27) * kPrime1 + kPrime4;
    if (end - at >= 4) {
        h = rotate(h ^ load<uint32_t>(at) * kPrime1, 23) * kPrime2 + kPrime3;
        at += 4;
    }
    for (; at < end; ++at) h = rotate(h ^ static_cast<uint8_t>(*at) * kPrime5, 11) * kPrime1;
    h = (h ^ h >> 33) * kPrime2;
    h = (h ^ h >> 29) * kPrime3;
    return h ^ h >> 32;
}

// ---- Signatures ----

constexpr uint64_t kMersenne = (uint64_t{1} << 61) - 1;

struct Permutations {
    const uint64_t *a, *b;
    size_t count;
    uint64_t mask;  // 2^61 - 1, or 2^32 - 1 for hashes of 32 bits
};

Permutations permutations_of(const Array<uint64_t> &a, const Array<uint64_t> &b, int precision) {
    if (a.size() != b.size()) fail("a and b differ in length");
    if (precision != 32 && precision != 64) fail("precision is " + std::to_string(precision) + ", needs 32 or 64");
    return {a.data(), b.data(), static_cast<size_t>(a.size()), precision == 64 ? kMersenne : 0xFFFFFFFF};
}

// numpy's product wraps at 2^64 before the remainder is taken. t is the remainder or, rarely, 2^61 - 1 to 2^61 + 6; adding
// its own carry folds those to 0 to 7 without a comparison. Everything stays below 2^62, so signed minima are right.
WIDE_VECTORS void minimize(const uint64_t *shingles, size_t count, const uint64_t *__restrict a,
                           const uint64_t *__restrict b, size_t hashes, uint64_t mask, int64_t *__restrict minima) {
    for (size_t i = 0; i < count; ++i) {
        const uint64_t x = shingles[i];
        for (size_t j = 0; j < hashes; ++j) {
            const uint64_t y = x * a[j] + b[j];
            const uint64_t t = (y & kMersenne) + (y >> 61);
            const int64_t value = static_cast<int64_t>((t + ((t + 1) >> 61)) & mask);
            minima[j] = value < minima[j] ? value : minima[j];
        }
    }
}

void sign(const uint64_t *shingles, size_t count, const Permutations &by, uint64_t *signature) {
    // A row of no shingles keeps a value that no hash can have.
    std::fill(signature, signature + by.count, INT64_MAX);
    minimize(shingles, count, by.a, by.b, by.count, by.mask, reinterpret_cast<int64_t *>(signature));
}

void hash_ngrams(const Words &words, size_t n, std::vector<uint64_t> &shingles) {
    shingles.clear();
    for (size_t i = 0; i + n <= words.starts.size(); ++i)
        shingles.push_back(xxh64(words.data() + words.starts[i], words.ends[i + n - 1] - words.starts[i]));
}

size_t checked_n(int64_t n) {
    if (n < 1) fail("n_grams is " + std::to_string(n) + ", needs 1 or more");
    return static_cast<size_t>(n);
}

py::bytes simplify(const py::str &text, const Array<uint32_t> &entries, const Array<uint32_t> &pool) {
    Words words;
    words.simplify(text_of(text), table_of(entries, pool));
    return py::bytes(words.data(), words.size());
}

py::array_t<uint64_t> shingles(const py::str &text, int64_t n, const Array<uint32_t> &entries,
                               const Array<uint32_t> &pool) {
    Words words;
    std::vector<uint64_t> hashes;
    words.simplify(text_of(text), table_of(entries, pool));
    hash_ngrams(words, checked_n(n), hashes);
    return py::array_t<uint64_t>(static_cast<py::ssize_t>(hashes.size()), hashes.data());
}

py::array_t<uint64_t> minima(const Array<uint64_t> &shingles, const Array<uint64_t> &a, const Array<uint64_t> &b,
                             int precision) {
    const Permutations by = permutations_of(a, b, precision);
    py::array_t<uint64_t> result(a.size());
    uint64_t *out = result.mutable_data();
    const uint64_t *in = shingles.data();
    const size_t count = shingles.size();
    py::gil_scoped_release release;
    sign(in, count, by, out);
    return result;
}

py::array_t<uint64_t> signatures(const py::list &items, int64_t n, const Array<uint64_t> &a, const Array<uint64_t> &b,
                                 const Array<uint32_t> &entries, const Array<uint32_t> &pool) {
    const Permutations by = permutations_of(a, b, 64);
    const Table table = table_of(entries, pool);
    const size_t ngram = checked_n(n);
    // A tuple of its own holds the texts while other threads may change the list.
    const py::tuple held(items);
    std::vector<Text> texts;
    for (const py::handle item : held) texts.push_back(text_of(item));
    py::array_t<uint64_t> result({texts.size(), by.count});
    uint64_t *out = result.mutable_data();
    {
        py::gil_scoped_release release;
        Words words;
        std::vector<uint64_t> hashes;
        for (const Text &text : texts) {
            words.simplify(text, table);
            hash_ngrams(words, ngram, hashes);
            sign(hashes.data(), hashes.size(), by, out);
            out += by.count;
        }
    }
    return result;
}

// ---- Buckets and clusters ----

const uint64_t *matrix(const Array<uint64_t> &rows) {
    if (rows.ndim() != 2) fail("needs an array of two dimensions, has " + std::to_string(rows.ndim()));
    return rows.data();
}

py::array_t<int64_t> row_order(const Array<uint64_t> &rows) {
    const uint64_t *data = matrix(rows);
    const int64_t count = rows.shape(0), width = rows.shape(1);
    py::array_t<int64_t> result(count);
    int64_t *out = result.mutable_data();
    py::gil_scoped_release release;
    std::iota(out, out + count, int64_t{0});
    std::sort(out, out + count, [=](int64_t left, int64_t right) {
        const uint64_t *l = data + left * width, *r = data + right * width;
        const auto differ = std::mismatch(l, l + width, r);
        return differ.first == l + width ? left < right : *differ.first < *differ.second;
    });
    return result;
}

py::array_t<uint64_t> band_keys(const Array<uint64_t> &rows, int64_t bands) {
    const uint64_t *data = matrix(rows);
    const int64_t count = rows.shape(0), width = rows.shape(1);
    if (bands < 1 || width % bands != 0)
        fail("rows of " + std::to_string(width) + " hashes cannot be cut into " + std::to_string(bands) + " bands");
    py::array_t<uint64_t> result({bands, count});
    uint64_t *out = result.mutable_data();
    py::gil_scoped_release release;
    const size_t bytes = width / bands * sizeof(uint64_t);
    for (int64_t row = 0; row < count; ++row)
        for (int64_t band = 0; band < bands; ++band)
            out[band * count + row] = xxh64(reinterpret_cast<const char *>(data + row * width) + band * bytes, bytes);
    return result;
}

// parents[i] <= i always, so the root of a cluster is its first member whatever the order of the pairs.
void unite(py::array_t<int64_t, py::array::c_style> parents, const Array<int64_t> &left, const Array<int64_t> &right) {
    if (left.size() != right.size()) fail("left and right differ in length");
    int64_t *parent = parents.mutable_data();
    const int64_t nodes = parents.size(), pairs = left.size();
    const int64_t *l = left.data(), *r = right.data();
    py::gil_scoped_release release;
    const auto root = [=](int64_t node) {
        while (parent[node] != node) node = parent[node] = parent[parent[node]];
        return node;
    };
    for (int64_t i = 0; i < pairs; ++i) {
        if (l[i] < 0 || r[i] < 0 || l[i] >= nodes || r[i] >= nodes)
            fail("pair " + std::to_string(i) + " lies outside the " + std::to_string(nodes) + " nodes");
        const auto [first, second] = std::minmax({root(l[i]), root(r[i])});
        parent[second] = first;
    }
}

}  // namespace

PYBIND11_MODULE(_minhash, m) {
    m.doc() = "MinHash signatures and clusters; use megatron_bielik.corpus.minhash and megatron_bielik.corpus.duplicates.";
    m.def("simplify", &simplify, py::arg("text"), py::arg("entries").noconvert(), py::arg("pool").noconvert());
    m.def("fold_spaces", &fold_spaces, py::arg("text"));
    m.def("shingles", &shingles, py::arg("text"), py::arg("n_grams"), py::arg("entries").noconvert(),
          py::arg("pool").noconvert());
    m.def("minima", &minima, py::arg("shingles").noconvert(), py::arg("a").noconvert(), py::arg("b").noconvert(),
          py::arg("precision"));
    m.def("signatures", &signatures, py::arg("texts"), py::arg("n_grams"), py::arg("a").noconvert(),
          py::arg("b").noconvert(), py::arg("entries").noconvert(), py::arg("pool").noconvert());
    m.def("row_order", &row_order, py::arg("rows").noconvert());
    m.def("band_keys", &band_keys, py::arg("rows").noconvert(), py::arg("bands"));
    m.def("unite", &unite, py::arg("parents").noconvert(), py::arg("left").noconvert(), py::arg("right").noconvert());
}
