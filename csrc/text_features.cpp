// Stylometric features of texts: 200 figures per document. What they are stands in text_features/form.hpp and grammar.hpp.
//
// Texts are read where Python keeps them (1, 2 or 4 bytes a character), without a copy and without its lock. Words that the
// table does not know are given back, to be looked up in a dictionary and inserted; their documents are then done again.
// The Python face is megatron_bielik/corpus/features.py; the plain-Python twin is tests/corpus/features_twin.py.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "text_features/form.hpp"
#include "text_features/grammar.hpp"
#include "text_features/language.hpp"
#include "text_features/scan.hpp"

namespace py = pybind11;
using namespace text_features;

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

namespace {

struct Text {
    int kind;
    const void *data;
    size_t size;
};

struct Missing {
    size_t document;
    uint32_t start, length;
    uint64_t key;
};

class Extractor {
  public:
    Extractor(const Array<uint16_t> &properties, const Array<uint32_t> &lower) {
        if (properties.size() != TABLE_SIZE || lower.size() != TABLE_SIZE)
            throw std::invalid_argument("properties and lower must have " + std::to_string(TABLE_SIZE) + " entries");
        characters_.properties.assign(properties.data(), properties.data() + TABLE_SIZE);
        characters_.lower.assign(lower.data(), lower.data() + TABLE_SIZE);
    }

    uint64_t hash(const py::str &form) const {
        const Text text = view(form.ptr());
        uint64_t hash = HASH_START;
        for (size_t i = 0; i < text.size; ++i)
            hash = extend(hash, characters_.to_lower(PyUnicode_READ(text.kind, text.data, static_cast<Py_ssize_t>(i))));
        return hash;
    }

    // Key of a form that is lower case, or has one capital letter at its beginning.
    uint64_t key(const py::str &form) const {
        const Text text = view(form.ptr());
        const bool capital = text.size && (characters_(PyUnicode_READ(text.kind, text.data, 0)) & CLASS_MASK) == UPPER;
        return word_key(hash(form), capital);
    }

    void set_abbreviations(const std::vector<py::str> &forms) {
        abbreviations_.clear();
        for (const py::str &form : forms) abbreviations_.push_back(hash(form));
        std::sort(abbreviations_.begin(), abbreviations_.end());
    }

    void insert(const Array<uint64_t> &keys, const Array<uint64_t> &attributes) {
        if (keys.size() != attributes.size()) throw std::invalid_argument("keys and attributes differ in length");
        for (py::ssize_t i = 0; i < keys.size(); ++i) table_.insert(keys.data()[i], attributes.data()[i]);
    }

    size_t num_words() const { return table_.size(); }

    py::tuple words() const {
        Array<uint64_t> keys(static_cast<py::ssize_t>(table_.size())), values(static_cast<py::ssize_t>(table_.size()));
        uint64_t *key = keys.mutable_data(), *value = values.mutable_data();
        table_.for_each([&](uint64_t k, uint64_t v) { *key++ = k, *value++ = v; });
        return py::make_tuple(keys, values);
    }

    // Features of texts[documents[i]] into rows of out; returns the unknown words as {document: slice} pairs.
    py::tuple extract(const py::list &texts, const std::vector<size_t> &documents, py::array_t<float, py::array::c_style> out, int threads) {
        if (out.ndim() != 2 || out.shape(0) != static_cast<py::ssize_t>(texts.size()) || out.shape(1) != static_cast<py::ssize_t>(names().size()))
            throw std::invalid_argument("out needs one row per text and one column per feature");
        std::vector<Text> views;
        for (const size_t document : documents) {
            if (document >= texts.size()) throw std::invalid_argument("document outside texts");
            views.push_back(view(PyList_GET_ITEM(texts.ptr(), static_cast<Py_ssize_t>(document))));
        }
        float *rows = out.mutable_data();
        std::vector<Missing> missing;
        {
            const py::gil_scoped_release unlocked;
            missing = run(views, documents, rows, static_cast<size_t>(out.shape(1)), std::max(1, threads));
        }
        py::list forms;
        std::vector<size_t> unfinished;
        std::unordered_set<uint64_t> seen;
        for (const Missing &word : missing) {
            if (unfinished.empty() || unfinished.back() != word.document) unfinished.push_back(word.document);
            if (!seen.insert(word.key).second) continue;
            PyObject *text = PyList_GET_ITEM(texts.ptr(), static_cast<Py_ssize_t>(word.document));
            PyObject *form = PyUnicode_Substring(text, word.start, static_cast<Py_ssize_t>(word.start) + word.length);
            if (!form) throw py::error_already_set();
            forms.append(py::reinterpret_steal<py::object>(form));
        }
        return py::make_tuple(forms, unfinished);
    }

    static std::vector<const char *> names() {
        std::vector<const char *> names;
        Row row(names);
        Workspace space;
        const Characters none{std::vector<uint16_t>(TABLE_SIZE), std::vector<uint32_t>(TABLE_SIZE)};
        Scanner<uint8_t>(nullptr, 0, none, {}, space.scan).run();
        compute(space, row);
        return names;
    }

  private:
    static void compute(Workspace &space, Row &row) {
        FormFeatures form(space, row);
        GrammarFeatures grammar(space, row);
        form.first();
        grammar.first();
        form.second();
        grammar.second();
    }

    static Text view(PyObject *text) {
        if (!PyUnicode_Check(text)) throw py::type_error("texts must be str");
        const size_t size = static_cast<size_t>(PyUnicode_GET_LENGTH(text));
        if (size > INT32_MAX) throw std::invalid_argument("a text of more than 2147483647 characters");
        return {static_cast<int>(PyUnicode_KIND(text)), PyUnicode_DATA(text), size};
    }

    std::vector<Missing> run(const std::vector<Text> &views, const std::vector<size_t> &documents, float *rows, size_t width, int threads) const {
        std::atomic<size_t> next{0};
        std::vector<std::vector<Missing>> missing(static_cast<size_t>(threads));
        const auto work = [&](size_t thread) {
            Workspace space;
            for (size_t i = next++; i < views.size(); i = next++) {
                const Text &text = views[i];
                Row row(rows + documents[i] * width);
                if (text.kind == 1)
                    one(static_cast<const uint8_t *>(text.data), text.size, documents[i], space, row, missing[thread]);
                else if (text.kind == 2)
                    one(static_cast<const uint16_t *>(text.data), text.size, documents[i], space, row, missing[thread]);
                else
                    one(static_cast<const uint32_t *>(text.data), text.size, documents[i], space, row, missing[thread]);
            }
        };
        std::vector<std::thread> pool;
        for (int thread = 1; thread < threads; ++thread) pool.emplace_back(work, static_cast<size_t>(thread));
        work(0);
        for (std::thread &thread : pool) thread.join();
        std::vector<Missing> all;
        for (const auto &part : missing) all.insert(all.end(), part.begin(), part.end());
        std::stable_sort(all.begin(), all.end(), [](const Missing &a, const Missing &b) { return a.document < b.document; });
        return all;
    }

    template <typename Char>
    void one(const Char *text, size_t size, size_t document, Workspace &space, Row &row, std::vector<Missing> &missing) const {
        Scanner<Char>(text, size, characters_, abbreviations_, space.scan).run();
        std::vector<Word> &words = space.scan.words;
        std::vector<uint64_t> &keys = space.keys;
        keys.clear();
        for (const Word &word : words) keys.push_back(word_key(word.hash, word.capital));
        const size_t before = missing.size();
        constexpr size_t ahead = 8;
        for (size_t i = 0; i < words.size(); ++i) {
            if (i + ahead < words.size()) table_.prefetch(keys[i + ahead]);
            if (const uint64_t *found = table_.find(keys[i]))
                words[i].attributes = *found;
            else
                missing.push_back({document, words[i].start, words[i].length, keys[i]});
        }
        if (missing.size() == before) compute(space, row);
    }

    Characters characters_;
    std::vector<uint64_t> abbreviations_;
    WordTable table_;
};

}  // namespace

PYBIND11_MODULE(_text_features, m) {
    m.doc() = "Stylometric features of texts; use megatron_bielik.corpus.features.";
    m.def("names", &Extractor::names);
    py::class_<Extractor>(m, "Extractor")
        .def(py::init<const Array<uint16_t> &, const Array<uint32_t> &>(), py::arg("properties"), py::arg("lower"))
        .def("key", &Extractor::key, py::arg("form"))
        .def("set_abbreviations", &Extractor::set_abbreviations, py::arg("forms"))
        .def("insert", &Extractor::insert, py::arg("keys"), py::arg("attributes"))
        .def("num_words", &Extractor::num_words)
        .def("words", &Extractor::words)
        .def("extract", &Extractor::extract, py::arg("texts"), py::arg("documents"), py::arg("out").noconvert(), py::arg("threads"));
}
