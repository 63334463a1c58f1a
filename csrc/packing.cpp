// Best-fit decreasing packing of documents into bins of one capacity, planned from the histogram of lengths alone.
//
// Documents are taken by descending length, equal ones by number; each goes into the fullest bin that still has room, of
// equally full ones the first opened, and into a new bin where there is none (Ding et al. 2024, "Fewer Truncations Improve
// Language Modeling"; TRL's packing strategy "bfd" takes another of equally full bins). Documents of one length that meet
// equally full bins fill bins opened one after the other alike. So bins are kept as ranges of alike bins, and a plan takes
// as long for a hundred million documents as for as many as there are lengths. One pass over the documents then writes each
// to its place. The Python face is megatron_bielik/data/packing.py; its plain-Python twin stands in tests/data/test_packing.py.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <queue>
#include <stdexcept>
#include <string>
#include <vector>

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

enum class Longer { kError, kDrop, kCut };

Longer longer_of(const std::string &name) {
    if (name == "error") return Longer::kError;
    if (name == "drop") return Longer::kDrop;
    if (name == "cut") return Longer::kCut;
    fail("split is '" + name + "', needs error, drop or cut");
}

// Bins first to first + count - 1 hold the same lengths.
struct Range {
    int64_t first, count, items;
    bool operator>(const Range &other) const { return first > other.first; }
};

// The next items of a length: `each` in one of `count` bins from `first` on, after the `items` that these hold.
struct Step {
    int64_t first, count, items, each;
};

class Plan {
  public:
    // pieces[length]: how many items have that length.
    Plan(const std::vector<int64_t> &pieces, int64_t capacity) : steps(pieces.size()), capacity_(capacity) {
        for (int64_t length = static_cast<int64_t>(pieces.size()) - 1; length >= 0; --length) place(length, pieces[length]);
    }

    // Where the items of each bin begin: int64 [bins + 1].
    void offsets(int64_t *out) const {
        for (const auto &[room, ranges] : open_)
            for (Ranges left = ranges; !left.empty(); left.pop()) {
                const Range range = left.top();
                std::fill(out + range.first + 1, out + range.first + range.count + 1, range.items);
            }
        out[0] = 0;
        for (int64_t bin = 0; bin < bins; ++bin) out[bin + 1] += out[bin];
    }

    std::vector<std::vector<Step>> steps;  // of each length, in order
    int64_t bins = 0;

  private:
    using Ranges = std::priority_queue<Range, std::vector<Range>, std::greater<Range>>;

    void place(int64_t length, int64_t items) {
        while (items > 0) {
            auto fullest = open_.lower_bound(length);
            int64_t room = capacity_;
            Range range{bins, 0, 0};
            if (fullest == open_.end()) {
                range.count = length ? (items + capacity_ / length - 1) / (capacity_ / length) : 1;
                bins += range.count;
            } else {
                room = fullest->first;
                range = fullest->second.top();
                fullest->second.pop();
                if (fullest->second.empty()) open_.erase(fullest);
            }
            // A bin that took one is the fullest with room for the next, until it has no more room.
            const int64_t each = length ? std::min(items, room / length) : items;
            const int64_t full = length ? std::min(range.count, items / each) : 1;
            put(length, {range.first, full, range.items}, each, room);
            items -= full * each;
            if (full == range.count) continue;
            Range rest{range.first + full, range.count - full, range.items};
            if (items > 0 && items < each) {
                put(length, {rest.first, 1, rest.items}, items, room);
                items = 0;
                ++rest.first, --rest.count;
            }
            if (rest.count) open_[room].push(rest);
        }
    }

    void put(int64_t length, Range range, int64_t each, int64_t room) {
        steps[length].push_back({range.first, range.count, range.items, each});
        range.items += each;
        open_[room - each * length].push(range);
    }

    int64_t capacity_;
    std::map<int64_t, Ranges> open_;  // by the room left, full bins too
};

// Gives the places of one length's items, one after the other.
class Cursor {
  public:
    explicit Cursor(const std::vector<Step> &steps) : step_(steps.data()) {}

    int64_t next(const int64_t *offsets) {
        const int64_t place = offsets[step_->first + bin_] + step_->items + item_;
        if (++item_ == step_->each) {
            item_ = 0;
            if (++bin_ == step_->count) bin_ = 0, ++step_;
        }
        return place;
    }

  private:
    const Step *step_;
    int64_t bin_ = 0, item_ = 0;
};

// Returns offsets int64 [bins + 1], items [pieces], starts of pieces in their items (none unless cut) and tokens packed.
template <typename Length, typename Item>
py::tuple pack(const Array<Length> &lengths, int64_t capacity, const std::string &split, Item) {
    const Length *sizes = lengths.data();
    const int64_t items = lengths.size();
    const Longer longer = longer_of(split);
    constexpr int64_t kLargest = int64_t{1} << 28;
    if (capacity < 1 || capacity > kLargest)
        fail("capacity is " + std::to_string(capacity) + ", needs 1 to " + std::to_string(kLargest));
    std::vector<int64_t> pieces;
    int64_t total = 0, tokens = 0;
    {
        py::gil_scoped_release release;
        for (int64_t item = 0; item < items; ++item) {
            int64_t length = load(sizes, item);
            if (length < 0) fail("length " + std::to_string(item) + " is " + std::to_string(length) + ", needs 0 or more");
            const int64_t top = std::min(length, capacity);
            if (top >= static_cast<int64_t>(pieces.size())) pieces.resize(std::min(capacity, 2 * top) + 1);
            if (length > capacity) {
                if (longer == Longer::kError)
                    fail("length " + std::to_string(item) + " is " + std::to_string(length) + ", the capacity is " +
                         std::to_string(capacity) + "; cut or drop what is longer, or raise the capacity");
                if (longer == Longer::kDrop) continue;
                pieces[capacity] += length / capacity;
                total += length / capacity;
                tokens += length / capacity * capacity;
                length %= capacity;
                if (length == 0) continue;
            }
            ++pieces[length];
            ++total;
            tokens += length;
        }
    }
    const Plan plan(pieces, capacity);
    py::array_t<int64_t> offsets(plan.bins + 1);
    py::array_t<Item> placed(total);
    py::array_t<int64_t> starts(longer == Longer::kCut ? total : 0);
    int64_t *offset = offsets.mutable_data(), *start = starts.mutable_data();
    Item *out = placed.mutable_data();
    {
        py::gil_scoped_release release;
        plan.offsets(offset);
        std::vector<Cursor> cursors(plan.steps.begin(), plan.steps.end());
        for (int64_t item = 0; item < items; ++item) {
            const int64_t length = load(sizes, item);
            if (length <= capacity) {
                const int64_t place = cursors[length].next(offset);
                out[place] = static_cast<Item>(item);
                if (longer == Longer::kCut) start[place] = 0;
            } else if (longer == Longer::kCut) {
                for (int64_t at = 0; at < length; at += capacity) {
                    const int64_t place = cursors[std::min(capacity, length - at)].next(offset);
                    out[place] = static_cast<Item>(item);
                    start[place] = at;
                }
            }
        }
    }
    return py::make_tuple(offsets, placed, longer == Longer::kCut ? py::object(starts) : py::none(), tokens);
}

template <typename Length>
py::tuple pack_by_count(const Array<Length> &lengths, int64_t capacity, const std::string &split, bool wide) {
    if (lengths.ndim() != 1) fail("lengths must be one row");
    return wide || lengths.size() > INT32_MAX ? pack(lengths, capacity, split, int64_t{}) : pack(lengths, capacity, split, int32_t{});
}

}  // namespace

PYBIND11_MODULE(_packing, m) {
    m.doc() = "Best-fit decreasing packing; use megatron_bielik.data.packing.";
    const auto define = [&m](auto function) {
        m.def("pack", function, py::arg("lengths").noconvert(), py::arg("capacity"), py::arg("split"), py::arg("wide"));
    };
    define(&pack_by_count<int32_t>);
    define(&pack_by_count<int64_t>);
}
