// Figures of sequences: moments, entropies, lexical richness, repetition. Nothing here knows a language.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "scan.hpp"

namespace text_features {

inline double ratio(double part, double whole) { return whole > 0 ? part / whole : 0.0; }

struct Moments {
    int64_t count = 0, sum = 0, squares = 0, most = 0;
    void add(int64_t x) {
        ++count, sum += x, squares += x * x;
        most = std::max(most, x);
    }
    double mean() const { return ratio(static_cast<double>(sum), static_cast<double>(count)); }
    double deviation() const {  // of the population; in whole numbers as long as possible
        if (count == 0) return 0;
        const double spread = static_cast<double>(count) * static_cast<double>(squares) - static_cast<double>(sum) * static_cast<double>(sum);
        return std::sqrt(std::max(spread, 0.0)) / static_cast<double>(count);
    }
};

inline double median(std::vector<uint32_t> &values) {  // reorders them
    if (values.empty()) return 0;
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    if (values.size() % 2) return *middle;
    return (static_cast<double>(*middle) + *std::max_element(values.begin(), middle)) / 2;
}

// n * log2(n); most counts are small.
inline double times_log(int64_t n) {
    static const std::vector<double> table = [] {
        std::vector<double> values(4096);
        for (size_t i = 1; i < values.size(); ++i) values[i] = static_cast<double>(i) * std::log2(static_cast<double>(i));
        return values;
    }();
    if (n < 4096) return table[static_cast<size_t>(n)];
    return static_cast<double>(n) * std::log2(static_cast<double>(n));
}

// Shannon entropy in bits of counts; empty counts are skipped.
template <typename Count>
double entropy(const Count *counts, size_t size) {
    int64_t total = 0;
    double sum = 0;
    for (size_t i = 0; i < size; ++i)
        if (counts[i] > 1) sum += times_log(counts[i]), total += counts[i];
        else total += counts[i];
    const double all = static_cast<double>(total);
    return total > 0 ? std::max(0.0, std::log2(all) - sum / all) : 0.0;
}

// Words of a document by id: counts, and counts of counts.
struct Vocabulary {
    std::vector<uint32_t> counts;  // [types]
    int64_t words = 0, types = 0, once = 0;
    double squares = 0;            // sum of count^2

    void finish(int64_t tokens) {
        words = tokens;
        types = static_cast<int64_t>(counts.size());
        once = 0;
        squares = 0;
        for (const uint32_t n : counts) {
            once += n == 1;
            squares += static_cast<double>(n) * n;
        }
    }
    double most(size_t top) const {  // share of all words that the `top` most frequent types make
        std::vector<uint32_t> sorted = counts;
        const auto end = sorted.begin() + static_cast<std::ptrdiff_t>(std::min(top, sorted.size()));
        std::partial_sort(sorted.begin(), end, sorted.end(), std::greater<>());
        double sum = 0;
        for (auto i = sorted.begin(); i != end; ++i) sum += *i;
        return ratio(sum, static_cast<double>(words));
    }
};

// McCarthy and Jarvis 2010: mean number of words over which the type-token ratio stays above 0.72, in one direction.
inline double mtld_one_way(const std::vector<Word> &words, bool backward, std::vector<uint32_t> &seen, int64_t types) {
    seen.assign(static_cast<size_t>(types), 0);
    double factors = 0;
    int64_t length = 0, distinct = 0;
    uint32_t factor = 1;
    const size_t n = words.size();
    for (size_t i = 0; i < n; ++i) {
        const uint32_t id = words[backward ? n - 1 - i : i].id;
        ++length;
        distinct += seen[id] != factor;
        seen[id] = factor;
        if (static_cast<double>(distinct) / static_cast<double>(length) <= 0.72) {
            factors += 1;
            length = distinct = 0;
            ++factor;
        }
    }
    if (length) factors += (1 - static_cast<double>(distinct) / static_cast<double>(length)) / (1 - 0.72);
    return factors > 0 ? static_cast<double>(n) / factors : static_cast<double>(n);
}

inline double mtld(const std::vector<Word> &words, std::vector<uint32_t> &seen, int64_t types) {
    return (mtld_one_way(words, false, seen, types) + mtld_one_way(words, true, seen, types)) / 2;
}

// Covington and McFall 2010: mean type-token ratio of all windows of `window` words; of the text if it is shorter.
inline double mattr(const std::vector<Word> &words, size_t window, std::vector<uint32_t> &count, int64_t types) {
    const size_t n = words.size();
    if (n <= window) return ratio(static_cast<double>(types), static_cast<double>(n));
    count.assign(static_cast<size_t>(types), 0);
    int64_t distinct = 0, sum = 0;
    for (size_t i = 0; i < n; ++i) {
        if (i >= window) distinct -= --count[words[i - window].id] == 0;
        distinct += count[words[i].id]++ == 0;
        if (i + 1 >= window) sum += distinct;
    }
    return static_cast<double>(sum) / (static_cast<double>(window) * static_cast<double>(n - window + 1));
}

// Largest share of words that equal the word `lag` places before, over lags 1 to 64, among the words from `first` on; a lag
// needs at least 20 places to look at. previous: 1 + place of the last appearance of each word, 0 for none.
inline double looping(const std::vector<uint32_t> &previous, size_t first) {
    constexpr size_t lags = 64;
    int64_t equal[lags + 1] = {};
    const size_t n = previous.size();
    for (size_t i = first; i < n; ++i)
        for (size_t j = previous[i]; j > first && i - (j - 1) <= lags; j = previous[j - 1]) ++equal[i - (j - 1)];
    double most = 0;
    for (size_t lag = 1; lag <= lags && first + lag + 20 <= n; ++lag)
        most = std::max(most, static_cast<double>(equal[lag]) / static_cast<double>(n - first - lag));
    return most;
}

struct Repeats {
    double duplicates, top;  // share of n-grams that have stood before; share of the most frequent one if it stands twice
};

// Repeated sequences of words, shorter ones first: a sequence can only stand twice where its beginning does, so that in ordinary
// text hardly anything is left to be looked at after pairs of words.
class Ngrams {
  public:
    void start(const std::vector<uint32_t> &ids) {
        positions_.resize(ids.size());
        for (size_t i = 0; i < ids.size(); ++i) positions_[i] = static_cast<uint32_t>(i);
    }

    // Of n words; n must be larger than in the call before.
    Repeats of(const std::vector<uint32_t> &ids, size_t n, Counter &counter) {
        if (ids.size() < n) return {0, 0};
        while (!positions_.empty() && positions_.back() + n > ids.size()) positions_.pop_back();
        counter.start(positions_.size());
        slots_.clear();
        uint32_t most = 0;
        for (const uint32_t position : positions_) {
            uint64_t key = HASH_START;
            for (size_t k = 0; k < n; ++k) key = extend(key, ids[position + k]);
            const size_t slot = counter.slot(mix(key));
            most = std::max(most, ++counter.at(slot));
            slots_.push_back(slot);
        }
        const double all = static_cast<double>(ids.size() - n + 1);
        const double repeats = static_cast<double>(static_cast<int64_t>(positions_.size()) - counter.distinct());
        size_t kept = 0;
        for (size_t i = 0; i < positions_.size(); ++i)
            if (counter.at(slots_[i]) > 1) positions_[kept++] = positions_[i];
        positions_.resize(kept);
        return {repeats / all, most > 1 ? most / all : 0.0};
    }

  private:
    std::vector<uint32_t> positions_;
    std::vector<size_t> slots_;
};

}  // namespace text_features
