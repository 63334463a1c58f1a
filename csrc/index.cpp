// Indices of a data set: numpy's legacy shuffle, where samples begin, and which data set each sample of a blend is from.
//
// The values are those of megatron-core 0.16.1 (GPTDataset, BlendedDataset, helpers.cpp) and of numpy's RandomState.shuffle.
// Both are bound by cache misses on arrays of a hundred million documents, so places are known some time before they are
// touched and fetched ahead. The Python face is megatron_bielik/data/index.py; the peers are called in tests/data/test_index.py.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "index/blend.hpp"

namespace py = pybind11;

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

namespace {

[[noreturn]] void fail(const std::string &message) { throw std::invalid_argument(message); }

// Arrays mapped from an .idx file are not aligned; memcpy is the load that is right anyway, and compiles to one move.
template <typename T>
int64_t load(const T *data, int64_t index) {
    T value;
    std::memcpy(&value, reinterpret_cast<const char *>(data) + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
    return static_cast<int64_t>(value);
}

// ---- numpy.random.RandomState.shuffle ----

constexpr int kWords = 624, kShift = 397;

// MT19937 (Matsumoto and Nishimura 1998) with numpy's state: the words and how many of them were given out.
class Twister {
  public:
    Twister(uint32_t *words, int given) : words_(words), given_(given) { temper(); }

    // Draws in [0, i] for i = from, from - 1, ... (count of them), each by masking and rejecting as random_interval does.
    // All of these i must need the same mask, the next power of two minus one.
    template <typename Draw>
    void intervals(uint64_t from, uint64_t mask, int64_t count, Draw *out) {
        int64_t k = 0;
        while (k < count) {
            if constexpr (sizeof(Draw) == 4) {
                if (given_ == kWords) twist();
                // Every draw accepts at most one number, so so many can be tried without looking at k.
                const int stop = static_cast<int>(std::min<int64_t>(kWords, given_ + count - k));
                const uint32_t mask32 = static_cast<uint32_t>(mask), from32 = static_cast<uint32_t>(from);
                for (int at = given_; at < stop; ++at) {
                    const uint32_t value = fresh_[at] & mask32;
                    out[k] = value;
                    k += value <= from32 - static_cast<uint32_t>(k);
                }
                given_ = stop;
            } else {
                const uint64_t high = next(), value = (high << 32 | next()) & mask;
                out[k] = value;
                k += value <= from - static_cast<uint64_t>(k);
            }
        }
    }

    int given() const { return given_; }

  private:
    uint32_t next() {
        if (given_ == kWords) twist();
        return fresh_[given_++];
    }

    static uint32_t mixed(uint32_t upper, uint32_t lower, uint32_t other) {
        const uint32_t y = (upper & 0x80000000u) | (lower & 0x7fffffffu);
        return other ^ (y >> 1) ^ (-(y & 1u) & 0x9908b0dfu);
    }

    void twist() {
        uint32_t *w = words_;
        for (int i = 0; i < kWords - kShift; ++i) w[i] = mixed(w[i], w[i + 1], w[i + kShift]);
        for (int i = kWords - kShift; i < kWords - 1; ++i) w[i] = mixed(w[i], w[i + 1], w[i + kShift - kWords]);
        w[kWords - 1] = mixed(w[kWords - 1], w[0], w[kShift - 1]);
        temper();
        given_ = 0;
    }

    void temper() {
        for (int i = 0; i < kWords; ++i) {
            uint32_t y = words_[i];
            y ^= y >> 11;
            y ^= (y << 7) & 0x9d2c5680u;
            y ^= (y << 15) & 0xefc60000u;
            fresh_[i] = y ^ (y >> 18);
        }
    }

    uint32_t *words_;
    uint32_t fresh_[kWords];
    int given_;
};

uint64_t mask_of(uint64_t largest) {
    uint64_t mask = largest;
    for (int shift = 1; shift < 64; shift *= 2) mask |= mask >> shift;
    return mask;
}

// Fisher-Yates from the end, as RandomState._shuffle_raw. Draws are made some way ahead of the swaps that use them.
template <typename Item, typename Draw>
void shuffle_down(Item *data, uint64_t from, uint64_t to, Twister &twister) {
    constexpr int64_t kDraws = 4096, kAhead = 48;
    std::vector<Draw> draws(kDraws + kAhead);
    int64_t have = 0;
    uint64_t swap_at = from, draw_at = from;  // swap_at - draw_at == have
    while (swap_at > to) {
        while (have < kDraws && draw_at > to) {
            const uint64_t mask = mask_of(draw_at), lowest = std::max(mask >> 1, to);
            const int64_t count = static_cast<int64_t>(std::min<uint64_t>(kDraws - have, draw_at - lowest));
            twister.intervals(draw_at, mask, count, draws.data() + have);
            have += count;
            draw_at -= static_cast<uint64_t>(count);
        }
        const int64_t usable = draw_at > to ? have - kAhead : have;
        for (int64_t k = 0; k < usable; ++k) {
            // Past the end at the very last only, where the vector still has room.
            __builtin_prefetch(data + draws[k + kAhead], 1);
            std::swap(data[swap_at - static_cast<uint64_t>(k)], data[draws[k]]);
        }
        swap_at -= static_cast<uint64_t>(usable);
        have -= usable;
        std::copy(draws.begin() + usable, draws.begin() + usable + have, draws.begin());
    }
}

template <typename Item>
int shuffle(Array<Item> data, Array<uint32_t> words, int given) {
    if (words.size() != kWords || given < 0 || given > kWords) fail("this is not the state of an MT19937");
    if (data.ndim() != 1) fail("only one-dimensional arrays are shuffled");
    Item *items = data.mutable_data();
    uint32_t *state = words.mutable_data();
    const uint64_t size = static_cast<uint64_t>(data.size());
    py::gil_scoped_release release;
    Twister twister(state, given);
    constexpr uint64_t kNarrow = UINT32_MAX;  // numpy draws 32 bits up to here, 64 above
    uint64_t last = size ? size - 1 : 0;
    if (last > kNarrow) shuffle_down<Item, uint64_t>(items, last, kNarrow, twister), last = kNarrow;
    shuffle_down<Item, uint32_t>(items, last, 0, twister);
    return twister.given();
}

// The draws alone, one range for all of them: what tests compare with RandomState.randint beyond 32 bits.
py::tuple draw(uint64_t largest, int64_t count, Array<uint32_t> words, int given) {
    if (words.size() != kWords || given < 0 || given > kWords) fail("this is not the state of an MT19937");
    Twister twister(words.mutable_data(), given);
    py::array_t<uint64_t> result(count);
    for (int64_t i = 0; i < count; ++i) twister.intervals(largest, mask_of(largest), 1, result.mutable_data() + i);
    return py::make_tuple(result, twister.given());
}

// ---- Sample index ----

constexpr int64_t kBlock = 1 << 17;  // positions that one thread reads at a time; their lengths stay in its cache

template <typename Index>
struct Block {
    std::vector<int32_t> lengths = std::vector<int32_t>(kBlock);
    int64_t first = 0, count = 0, total = 0, before = 0, bad = -1;

    void gather(const Index *order, const int32_t *sizes, int64_t documents) {
        constexpr int64_t kAhead = 32;
        total = 0;
        bad = -1;
        for (int64_t i = 0; i < count; ++i) {
            const int64_t later = load(order, first + std::min(i + kAhead, count - 1));
            __builtin_prefetch(reinterpret_cast<const char *>(sizes) + 4 * later);
            const int64_t document = load(order, first + i);
            if (static_cast<uint64_t>(document) >= static_cast<uint64_t>(documents)) {
                bad = first + i;
                return;
            }
            const int64_t length = load(sizes, document);
            if (length < 0) {
                bad = first + i;
                return;
            }
            lengths[i] = static_cast<int32_t>(length);
            total += length;
        }
    }

    // Rows first_row to last_row (inclusive) begin in this block: at the first document that ends at token k * sequence + extra
    // or later. Writes them to out, row first_row first; returns position and tokens before it of the last one.
    template <typename Out>
    void fill(int64_t first_row, int64_t last_row, int64_t sequence, int64_t extra, Out *out) {
        int64_t begin = before, at = 0, target = first_row * sequence;
        for (int64_t row = first_row; row <= last_row; ++row, target += sequence) {
            while (begin + lengths[at] < target + extra) begin += lengths[at++];
            *out++ = static_cast<Out>(first + at);
            *out++ = static_cast<Out>(target - begin);
        }
        first += at;
        before = begin;
    }
};

template <typename Index>
[[noreturn]] void fail_at(const Index *order, int64_t position, int64_t documents) {
    fail("document_index[" + std::to_string(position) + "] is " + std::to_string(load(order, position)) +
         ", which is none of the " + std::to_string(documents) + " documents or has a negative length");
}

// By one thread: as gather and fill, but waiting for memory in the one while counting in the other. Returns the rows written.
template <typename Index, typename Out>
int64_t walk(const Index *order, int64_t positions, const int32_t *sizes, int64_t documents, int64_t sequence, int64_t extra,
             int64_t row, int64_t &position, int64_t &before, Out *out, int64_t rows) {
    constexpr int64_t kAhead = 24;
    int64_t done = 0, begin = before, target = row * sequence, at = position;
    for (; done < rows && at < positions; ++at) {
        const int64_t later = load(order, std::min(at + kAhead, positions - 1));
        __builtin_prefetch(reinterpret_cast<const char *>(sizes) + 4 * later);
        const int64_t document = load(order, at);
        if (static_cast<uint64_t>(document) >= static_cast<uint64_t>(documents)) fail_at(order, at, documents);
        const int64_t length = load(sizes, document);
        if (length < 0) fail_at(order, at, documents);
        const int64_t end = begin + length - extra;
        // Written at any rate and kept where a sample ends here: no branch that could be guessed wrong.
        out[2 * done] = static_cast<Out>(at);
        out[2 * done + 1] = static_cast<Out>(target - begin);
        const bool ends = end >= target;
        done += ends;
        target += ends ? sequence : 0;
        for (; end >= target && done < rows; ++done, target += sequence) {
            out[2 * done] = static_cast<Out>(at);
            out[2 * done + 1] = static_cast<Out>(target - begin);
        }
        if (done == rows) break;
        begin += length;
    }
    position = at;
    before = begin;
    return done;
}

template <typename Work>
void in_threads(int64_t threads, const Work &work) {
    std::vector<std::thread> pool;
    for (int64_t i = 1; i < threads; ++i) pool.emplace_back([&work, i] { work(i); });
    work(int64_t{0});
    for (std::thread &thread : pool) thread.join();
}

// Fills rows row, row + 1, ... of the sample index from `position`, before which `before` tokens lie. Returns how many rows were
// written, and the position from which to go on: fewer than asked for where the next blocks' rows would not fit.
template <typename Index, typename Out>
std::tuple<int64_t, int64_t, int64_t> sample_rows(const Array<Index> &document_index, const Array<int32_t> &sequence_lengths,
                                                  int64_t sequence, int64_t extra, int64_t row, int64_t position,
                                                  int64_t before, Array<Out> out, int64_t threads) {
    const Index *order = document_index.data();
    const int32_t *sizes = sequence_lengths.data();
    const int64_t positions = document_index.size(), documents = sequence_lengths.size();
    if (out.ndim() != 2 || out.shape(1) != 2) fail("the sample index needs the shape [rows, 2]");
    if (sequence < 1 || extra < 0 || extra > 1 || row < 0 || position < 0 || before < 0 || threads < 1)
        fail("a sample index needs sequence_length >= 1, extra 0 or 1, and no negative numbers");
    Out *rows = out.mutable_data();
    const int64_t capacity = out.shape(0);
    int64_t done = 0;
    py::gil_scoped_release release;
    if (row == 0 && done < capacity) rows[0] = rows[1] = 0, ++done;  // also where the first document is empty
    if (threads <= 1 || positions - position <= kBlock)
        done += walk(order, positions, sizes, documents, sequence, extra, row + done, position, before, rows + 2 * done,
                     capacity - done);
    const bool rest = done < capacity && position < positions;
    std::vector<Block<Index>> blocks(rest ? std::min(threads, (positions - position) / kBlock + 1) : 0);
    const int64_t workers = static_cast<int64_t>(blocks.size());
    std::vector<int64_t> firsts(workers + 1);
    while (done < capacity && position < positions) {
        for (Block<Index> &block : blocks) {
            block.first = position;
            block.count = std::min(kBlock, positions - position);
            position += block.count;
        }
        in_threads(workers, [&](int64_t i) { blocks[i].gather(order, sizes, documents); });
        int64_t tokens = before;
        for (int64_t i = 0; i < workers; ++i) {
            if (blocks[i].bad >= 0) fail_at(order, blocks[i].bad, documents);
            blocks[i].before = tokens;
            firsts[i] = std::max(row + done, tokens < extra ? 1 : (tokens - extra) / sequence + 1);
            tokens += blocks[i].total;
        }
        const int64_t next = std::max(row + done, tokens < extra ? 1 : (tokens - extra) / sequence + 1);
        firsts[workers] = next;
        const bool fits = next - row <= capacity;
        if (!fits && done > (row == 0 ? 1 : 0)) {  // the caller comes again with an empty block
            position = blocks[0].first;
            break;
        }
        const int64_t stop = std::min(next, row + capacity);
        in_threads(workers, [&](int64_t i) {
            const int64_t last = std::min(firsts[i + 1], stop) - 1;
            if (firsts[i] <= last) blocks[i].fill(firsts[i], last, sequence, extra, rows + 2 * (firsts[i] - row));
        });
        if (!fits) {
            for (int64_t i = 0; i < workers; ++i)  // go on from the block where the last row was written
                if (firsts[i] < stop) position = blocks[i].first, before = blocks[i].before;
        } else {
            before = tokens;
        }
        done = stop - row;
    }
    // Past the last token, megatron-core stays at its last document.
    if (done < capacity && position == positions) {
        if (positions == 0) fail("there are no documents, but tokens to be cut");
        const int64_t offset = load(sizes, load(order, positions - 1)) - extra;
        for (; done < capacity; ++done) {
            rows[2 * done] = static_cast<Out>(positions - 1);
            rows[2 * done + 1] = static_cast<Out>(offset);
        }
    }
    return {done, position, before};
}

// ---- Blend ----

template <typename Set>
void blend_samples(const Array<double> &weights, const Array<double> &limits, Array<Set> dataset_index,
                   Array<int64_t> sample_index, int64_t threads, bool wide) {
    const int64_t sets = weights.size(), size = dataset_index.size();
    if (sets < 1 || limits.size() != sets || sample_index.size() != size) fail("sizes of a blend's arrays do not fit together");
#if defined(__x86_64__) && defined(__GNUC__)
    wide = wide && __builtin_cpu_supports("avx2");
#endif
    blend::Blend<Set> work(weights.data(), limits.data(), sets, dataset_index.mutable_data(), sample_index.mutable_data(), size);
    py::gil_scoped_release release;
    work.make(threads, wide);
}

}  // namespace

PYBIND11_MODULE(_index, m) {
    m.doc() = "Indices of a data set; use megatron_bielik.data.index.";
    // noconvert: a silent copy of an array with a hundred million entries would take the place of the one to be filled.
    const auto define_shuffle = [&m](auto function) {
        m.def("shuffle", function, py::arg("data").noconvert(), py::arg("words").noconvert(), py::arg("given"));
    };
    define_shuffle(&shuffle<int32_t>);
    define_shuffle(&shuffle<uint32_t>);
    define_shuffle(&shuffle<int64_t>);
    m.def("draw", &draw, py::arg("largest"), py::arg("count"), py::arg("words").noconvert(), py::arg("given"));
    const auto define_rows = [&m](auto function) {
        m.def("sample_rows", function, py::arg("document_index").noconvert(), py::arg("sequence_lengths").noconvert(),
              py::arg("sequence_length"), py::arg("extra"), py::arg("row"), py::arg("position"), py::arg("before"),
              py::arg("out").noconvert(), py::arg("threads"));
    };
    define_rows(&sample_rows<int32_t, int32_t>);
    define_rows(&sample_rows<int32_t, int64_t>);
    define_rows(&sample_rows<int64_t, int32_t>);
    define_rows(&sample_rows<int64_t, int64_t>);
    const auto define_blend = [&m](auto function) {
        m.def("blend", function, py::arg("weights").noconvert(), py::arg("limits").noconvert(), py::arg("dataset_index").noconvert(),
              py::arg("sample_index").noconvert(), py::arg("threads"), py::arg("wide"));
    };
    define_blend(&blend_samples<int16_t>);
    define_blend(&blend_samples<int32_t>);
}
