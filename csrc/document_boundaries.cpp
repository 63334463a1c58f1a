// Document boundaries of a training sample: cu_seqlens, positions and loss mask, for every sample of every step.
//
// A sample is sequence_length + 1 consecutive tokens of the documents laid end to end in document_index order, as
// megatron-core's GPTDataset cuts them: it begins at token begin_offset of document document_index[begin] and ends with
// token end_offset (inclusive) of document_index[end]. The model reads the first sequence_length of them.
// The Python face is megatron_bielik/data/boundaries.py; its plain-Python twin stands in tests/data/test_boundaries.py.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace py = pybind11;

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

namespace {

// Arrays mapped from an .idx file are not aligned; memcpy is the load that is right anyway, and compiles to one move.
template <typename T>
int64_t load(const T *data, int64_t index) {
    T value;
    std::memcpy(&value, reinterpret_cast<const char *>(data) + index * sizeof(T), sizeof(T));
    return static_cast<int64_t>(value);
}

[[noreturn]] void fail(const std::string &message) { throw std::invalid_argument(message); }

template <typename Index>
py::array_t<int32_t> cu_seqlens(const Array<Index> &document_index, const Array<int32_t> &sequence_lengths, int64_t begin,
                                int64_t begin_offset, int64_t end, int64_t end_offset, int64_t sequence_length) {
    const int64_t positions = document_index.size(), documents = sequence_lengths.size();
    if (sequence_length < 1 || sequence_length > INT32_MAX)
        fail("sequence_length is " + std::to_string(sequence_length) + ", needs 1 to 2147483647");
    if (begin < 0 || end < begin || end >= positions)
        fail("sample spans positions " + std::to_string(begin) + " to " + std::to_string(end) +
             " of a document index with " + std::to_string(positions) + " entries");

    std::vector<int32_t> bounds{0};
    int64_t total = 0;
    for (int64_t position = begin; position <= end && total < sequence_length; ++position) {
        const int64_t document = load(document_index.data(), position);
        if (document < 0 || document >= documents)
            fail("document_index[" + std::to_string(position) + "] is " + std::to_string(document) + ", there are " +
                 std::to_string(documents) + " documents");
        const int64_t length = load(sequence_lengths.data(), document);
        const int64_t first = position == begin ? begin_offset : 0;
        const int64_t stop = position == end ? end_offset + 1 : length;
        if (first < 0 || stop < first || stop > length)
            fail("sample takes tokens " + std::to_string(first) + " to " + std::to_string(stop) + " of document " +
                 std::to_string(document) + ", which has " + std::to_string(length));
        total = std::min(total + stop - first, sequence_length);
        if (total > bounds.back()) bounds.push_back(static_cast<int32_t>(total));
    }
    // Only the last, partial sample of a data set is shorter; GPTDataset pads it, and the padding counts as a document.
    if (total < sequence_length) bounds.push_back(static_cast<int32_t>(sequence_length));
    return py::array_t<int32_t>(static_cast<py::ssize_t>(bounds.size()), bounds.data());
}

// Calls visit(first, stop) for every document after having checked that the bounds make sense.
template <typename Visit>
void for_each_document(const Array<int32_t> &bounds, Visit visit) {
    const int64_t count = bounds.size();
    if (bounds.ndim() != 1 || count < 1 || load(bounds.data(), 0) != 0) fail("cu_seqlens must be one row that begins with 0");
    for (int64_t i = 0; i + 1 < count; ++i) {
        const int64_t first = load(bounds.data(), i), stop = load(bounds.data(), i + 1);
        if (stop < first) fail("cu_seqlens falls from " + std::to_string(first) + " to " + std::to_string(stop));
    }
    for (int64_t i = 0; i + 1 < count; ++i) visit(load(bounds.data(), i), load(bounds.data(), i + 1));
}

int64_t num_tokens(const Array<int32_t> &bounds) { return bounds.size() ? load(bounds.data(), bounds.size() - 1) : 0; }

py::array_t<int32_t> positions(const Array<int32_t> &bounds) {
    for_each_document(bounds, [](int64_t, int64_t) {});
    py::array_t<int32_t> result(num_tokens(bounds));
    int32_t *out = result.mutable_data();
    for_each_document(bounds, [out](int64_t first, int64_t stop) {
        for (int64_t token = first; token < stop; ++token) out[token] = static_cast<int32_t>(token - first);
    });
    return result;
}

py::array_t<float> loss_mask(const Array<int32_t> &bounds, bool last_label_crosses) {
    for_each_document(bounds, [](int64_t, int64_t) {});
    const int64_t tokens = num_tokens(bounds);
    py::array_t<float> result(tokens);
    float *out = result.mutable_data();
    std::fill(out, out + tokens, 1.0f);
    for_each_document(bounds, [=](int64_t first, int64_t stop) {
        if (stop > first && (stop < tokens || last_label_crosses)) out[stop - 1] = 0.0f;
    });
    return result;
}

}  // namespace

PYBIND11_MODULE(_document_boundaries, m) {
    m.doc() = "Document boundaries of a training sample; use megatron_bielik.data.boundaries.";
    // noconvert: a silent copy of a document index with a hundred million entries per sample would never be noticed.
    const auto define = [&m](auto function) {
        m.def("cu_seqlens", function, py::arg("document_index").noconvert(), py::arg("sequence_lengths").noconvert(),
              py::arg("begin"), py::arg("begin_offset"), py::arg("end"), py::arg("end_offset"), py::arg("sequence_length"));
    };
    define(&cu_seqlens<int32_t>);
    define(&cu_seqlens<int64_t>);
    m.def("positions", &positions, py::arg("cu_seqlens"));
    m.def("loss_mask", &loss_mask, py::arg("cu_seqlens"), py::arg("last_label_crosses"));
}
