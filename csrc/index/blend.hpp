// Which data set each sample of a blend is from: the one furthest behind its share, weight * max(i, 1) - count, in double and
// the first of equals, as helpers.cpp of megatron-core 0.16.1 has it. Every choice needs the one before it, so one run of
// choices leaves most of the processor idle. Here twelve stretches of the blend are made side by side, one in each lane of the
// vectors: each begins with counts that are guessed (the shares, rounded), some samples before its place, since a wrong
// guess is forgotten after a few choices. Where the counts at the end of a stretch are not those with which the next one
// began, the next one is made again until they are. So the result is that of one run, whatever the guesses were.
//
// Nowhere a fused multiply-add: the product must be rounded before the count is taken off.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

// AVX2 alone: with FMA the compiler would be free to fuse.
#if defined(__x86_64__) && defined(__GNUC__)
#define BLEND_AVX2 __attribute__((target("avx2")))
#else
#define BLEND_AVX2
#endif

namespace blend {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kLanes = 12;

// Counts of spent sets are infinite, so that they are never chosen.
using Counts = std::vector<double>;

inline double after(double count, double limit) { return count + 1 >= limit ? kInfinity : count + 1; }

template <typename Set>
class Blend {
  public:
    // weights and limits (infinite where there is none) have one entry a set, chosen and sample one a sample.
    Blend(const double *weights, const double *limits, int64_t sets, Set *chosen, int64_t *sample, int64_t size)
        : weights_(weights), limits_(limits), sets_(sets), chosen_(chosen), sample_(sample), size_(size) {}

    void make(int64_t threads, bool wide) {
        const int64_t warm_up = 4096 + 16 * sets_;
        const int64_t parts = std::min(threads, size_ / (kLanes * 2 * warm_up));
        const int64_t length = parts ? size_ / (parts * kLanes) : 0;
        std::vector<Counts> begins(parts * kLanes), ends(parts * kLanes);
        std::vector<std::thread> pool;
        for (int64_t part = 0; part < parts; ++part)
            pool.emplace_back([&, part] {
                const int64_t first = part * kLanes * length;
                if (wide) stretches_avx2(first, length, warm_up, &begins[part * kLanes], &ends[part * kLanes]);
                else stretches_plain(first, length, warm_up, &begins[part * kLanes], &ends[part * kLanes]);
            });
        for (std::thread &thread : pool) thread.join();
        Counts counts(sets_, 0.0);
        for (int64_t stretch = 0; stretch < parts * kLanes; ++stretch) {
            const bool joined = again(stretch * length, length, counts, begins[stretch]);
            if (joined) counts = ends[stretch];
        }
        for (int64_t i = parts * kLanes * length; i < size_; ++i) write(i, choose(i, counts), counts);
    }

  private:
    typedef double Vector __attribute__((vector_size(32)));
    static constexpr int64_t kVectors = kLanes / 4;

    int64_t choose(int64_t i, const Counts &counts) const {
        const double at = std::max(static_cast<double>(i), 1.0);
        int64_t chosen = 0;
        double most = -kInfinity;
        for (int64_t set = 0; set < sets_; ++set) {
            const double behind = weights_[set] * at - counts[set];
            if (behind > most) most = behind, chosen = set;
        }
        return chosen;
    }

    void write(int64_t i, int64_t set, Counts &counts) {
        chosen_[i] = static_cast<Set>(set);
        sample_[i] = static_cast<int64_t>(counts[set]);
        counts[set] = after(counts[set], limits_[set]);
    }

    // Makes samples again from the counts given until they are those of the run that began with `other`. True where that
    // happened before the end of the stretch; otherwise counts are those after it.
    bool again(int64_t first, int64_t length, Counts &counts, Counts &other) {
        int64_t unlike = 0;
        for (int64_t set = 0; set < sets_; ++set) unlike += counts[set] != other[set];
        for (int64_t i = first; unlike && i < first + length; ++i) {
            const int64_t ours = choose(i, counts), theirs = chosen_[i];
            const auto compare = [&] { return (counts[ours] != other[ours]) + (ours != theirs && counts[theirs] != other[theirs]); };
            unlike -= compare();
            other[theirs] = after(other[theirs], limits_[theirs]);
            write(i, ours, counts);
            unlike += compare();
        }
        return unlike == 0;
    }

    // Counts that a run may have before sample i: every set equally far behind, rounded so that they add up to i.
    Counts guess(int64_t i) const {
        const double total = std::accumulate(weights_, weights_ + sets_, 0.0);
        const double behind = (total - 1) * static_cast<double>(i) / static_cast<double>(sets_);
        Counts counts(sets_), rest(sets_);
        std::vector<int64_t> order(sets_);
        double sum = 0;
        for (int64_t set = 0; set < sets_; ++set) {
            const double share = std::max(0.0, weights_[set] * static_cast<double>(i) - behind);
            counts[set] = std::min(std::floor(share), limits_[set]);
            rest[set] = share - counts[set];
            sum += counts[set];
        }
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return rest[a] > rest[b]; });
        for (int64_t k = 0; k < sets_ && sum < static_cast<double>(i); ++k)
            if (counts[order[k]] < limits_[order[k]]) ++counts[order[k]], ++sum;
        for (int64_t set = 0; set < sets_; ++set)
            if (counts[set] >= limits_[set]) counts[set] = kInfinity;
        return counts;
    }

    // kLanes stretches of `length` samples, the first of which begins at `first`.
    __attribute__((always_inline)) void stretches(int64_t first, int64_t length, int64_t warm_up, Counts *begins, Counts *ends) {
        Counts storage(sets_ * kLanes + 4);
        double *counts = reinterpret_cast<double *>((reinterpret_cast<uintptr_t>(storage.data()) + 31) / 32 * 32);
        alignas(32) double begin[kLanes];
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            const int64_t start = std::max<int64_t>(0, first + lane * length - warm_up);
            const Counts guessed = guess(start);
            for (int64_t set = 0; set < sets_; ++set) counts[set * kLanes + lane] = guessed[set];
            begin[lane] = static_cast<double>(start);
        }
        run<false>(counts, begin, warm_up, 0, 0);
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            begin[lane] = static_cast<double>(first + lane * length);
            begins[lane].resize(sets_);
            for (int64_t set = 0; set < sets_; ++set) {
                if (first + lane == 0) counts[set * kLanes] = 0;
                begins[lane][set] = counts[set * kLanes + lane];
            }
        }
        run<true>(counts, begin, length, first, length);
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            ends[lane].resize(sets_);
            for (int64_t set = 0; set < sets_; ++set) ends[lane][set] = counts[set * kLanes + lane];
        }
    }

    template <bool kWrite>
    __attribute__((always_inline)) void run(double *counts, const double *begin, int64_t steps, int64_t first, int64_t length) {
        const Vector lowest = Vector{} - kInfinity;
        for (int64_t step = 0; step < steps; ++step) {
            Vector at[kVectors], most[kVectors], chosen[kVectors];
            for (int64_t v = 0; v < kVectors; ++v) {
                at[v] = *reinterpret_cast<const Vector *>(begin + 4 * v) + static_cast<double>(step);
                at[v] = at[v] < 1.0 ? Vector{} + 1.0 : at[v];
                most[v] = lowest;
                chosen[v] = Vector{};
            }
            Vector number{};
            for (int64_t set = 0; set < sets_; ++set) {
                const double w = weights_[set];
                const Vector weight = {w, w, w, w};
                for (int64_t v = 0; v < kVectors; ++v) {
                    const Vector product = weight * at[v];
                    const Vector behind = product - *reinterpret_cast<const Vector *>(counts + set * kLanes + 4 * v);
                    chosen[v] = behind > most[v] ? number : chosen[v];
                    most[v] = behind > most[v] ? behind : most[v];
                }
                number += 1.0;
            }
            for (int64_t lane = 0; lane < kLanes; ++lane) {
                const int64_t set = static_cast<int64_t>(chosen[lane / 4][lane % 4]);
                double &count = counts[set * kLanes + lane];
                if (kWrite) {
                    chosen_[first + lane * length + step] = static_cast<Set>(set);
                    sample_[first + lane * length + step] = static_cast<int64_t>(count);
                }
                count = after(count, limits_[set]);
            }
        }
    }

    // The same body compiled twice.
    void stretches_plain(int64_t first, int64_t length, int64_t warm_up, Counts *begins, Counts *ends) {
        stretches(first, length, warm_up, begins, ends);
    }
    BLEND_AVX2 void stretches_avx2(int64_t first, int64_t length, int64_t warm_up, Counts *begins, Counts *ends) {
        stretches(first, length, warm_up, begins, ends);
    }

    const double *weights_, *limits_;
    int64_t sets_;
    Set *chosen_;
    int64_t *sample_, size_;
};

}  // namespace blend
