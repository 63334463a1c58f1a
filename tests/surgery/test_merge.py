"""Merging against float64 formulas in numpy: each method, ties and types mixed, provenance, and what is refused."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file

from megatron_bielik.surgery import safetensors_files, weighted_sums
from megatron_bielik.surgery.merge import (
    MergeOptions,
    MergePlan,
    merge,
    parse_pattern_weights,
    plan_merge,
    slerp_weights,
)
from megatron_bielik.surgery.merge_sources import EMBEDDING, HEAD
from megatron_bielik.surgery.safetensors_files import INDEX, SINGLE, ConversionError, SafetensorsReader

Tensors = dict[str, torch.Tensor]
MLP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.norm.weight"
SIZES = {"vocab_size": 200, "num_hidden_layers": 2, "max_window_layers": 2}
PIECES = [chr(ord("!") + number) for number in range(90)]


def write_tokenizer(folder: Path, pieces: list[str] = PIECES, unigram: bool = False, indent: int | None = None) -> None:
    vocabulary = [[piece, -1.0] for piece in pieces] if unigram else {piece: n for n, piece in enumerate(pieces)}
    added = [{"id": len(pieces), "content": "<end>", "special": True}]
    content = {
        "model": {"type": "Unigram" if unigram else "BPE", "vocab": vocabulary, "merges": []},
        "added_tokens": added,
    }
    (folder / "tokenizer.json").write_text(json.dumps(content, indent=indent))


@pytest.fixture(scope="module")
def models(hf_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of one shape: a, b and c in bf16, others by what sets them apart."""
    folder = tmp_path_factory.mktemp("models")
    for seed, (name, kind, dtype) in enumerate(
        [
            ("a", "qwen2", torch.bfloat16),
            ("b", "qwen2", torch.bfloat16),
            ("c", "qwen2", torch.bfloat16),
            ("half", "qwen2", torch.float16),
            ("full", "qwen2", torch.float32),
            ("tied", "qwen2-tied", torch.bfloat16),
            ("tied-too", "qwen2-tied", torch.bfloat16),
            ("bielik", "bielik", torch.bfloat16),
        ]
    ):
        hf_model(kind, dtype, seed, **SIZES).save_pretrained(folder / name)
        write_tokenizer(folder / name)
    return folder


def copied(models: Path, name: str, target: Path) -> Path:
    return Path(shutil.copytree(models / name, target))


def edit_config(folder: Path, remove: tuple[str, ...] = (), **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if name not in remove}))


def read(folder: Path) -> Tensors:
    reader = SafetensorsReader(folder)
    return {name: reader.read(name) for name in reader.files}


def edit_tensors(folder: Path, change: Callable[[Tensors], Any]) -> None:
    tensors = read(folder)
    change(tensors)
    save_file(tensors, folder / SINGLE)


def made(output: Path, *models: Path, threads: int = 2, **options: Any) -> Tensors:
    merge(plan_merge(MergeOptions(models, **options)), output, threads=threads)
    return read(output)


def array(tensor: torch.Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = tensor.double().numpy()
    return found


def last_place(values: NDArray[np.float64], dtype: torch.dtype) -> NDArray[np.float64]:
    """The distance of neighbours of that type where the values lie; they must be normal numbers in it."""
    digits = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24}[dtype]
    found: NDArray[np.float64] = np.ldexp(1.0, np.frexp(values)[1] - digits)
    return found


def assert_is(found: torch.Tensor, expected: Any) -> None:
    """The nearest number of its type, but for what another order of float64 operations changes (the terms are near 1)."""
    assert found.shape == expected.shape
    assert (np.abs(array(found) - expected) <= last_place(expected, found.dtype) / 2 + 1e-14).all()


def load(folder: Path) -> Any:
    """The model by transformers, which must miss nothing and be given nothing that it does not know."""
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert {name: list(found) for name, found in report.items() if found} == {}
    return model


def test_a_million_elements_are_correctly_rounded(tmp_path: Path) -> None:
    """The float64 sum by numpy, to nearest and ties to even: rint on multiples of the last place, a power of two."""
    weights = (0.5, 0.3, 0.2)
    generator = torch.Generator().manual_seed(0)
    for name in "abc":
        (tmp_path / name).mkdir()
        save_file({EMBEDDING: torch.randn(1000, 1024, generator=generator).bfloat16()}, tmp_path / name / SINGLE)
        (tmp_path / name / "config.json").write_text('{"model_type": "qwen2", "tie_word_embeddings": true}')
    merged = made(tmp_path / "out", *(tmp_path / name for name in "abc"), weights=weights)[EMBEDDING]
    a, b, c = (array(read(tmp_path / name)[EMBEDDING]) for name in "abc")
    total = weights[0] * a + weights[1] * b + weights[2] * c
    place = last_place(total, torch.bfloat16)
    expected = np.rint(total / place) * place
    assert (array(merged) != expected).mean() <= 1e-4
    assert_is(merged, total)
    # The test can tell: ties are no rare case, and rounding over float32 decides too many of their neighbours otherwise.
    assert (np.abs(total / place % 1) == 0.5).mean() > 0.01
    assert (array(torch.from_numpy(total).bfloat16()) != expected).mean() > 1e-3


@pytest.mark.parametrize(
    ("options", "factors"),
    [
        ({}, (1 / 3, 1 / 3, 1 / 3)),
        ({"weights": (5.0, 3.0, 2.0)}, (0.5, 0.3, 0.2)),
        ({"weights": (5.0, 3.0, 2.0), "normalize": False}, (5.0, 3.0, 2.0)),
        ({"weights": (1.5, -0.5, 0.0)}, (1.5, -0.5, 0.0)),
        ({"weights": (1.0, -1.0, 0.0), "normalize": False}, (1.0, -1.0, 0.0)),
        ({"weights": (0.0, 0.0, 3.0)}, (0.0, 0.0, 1.0)),
    ],
)
def test_linear(options: dict[str, Any], factors: tuple[float, ...], models: Path, tmp_path: Path) -> None:
    found = made(tmp_path / "out", *(models / name for name in "abc"), **options)
    sources = [read(models / name) for name in "abc"]
    assert found.keys() == sources[0].keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.bfloat16
        assert_is(tensor, sum(factor * array(source[name]) for factor, source in zip(factors, sources, strict=True)))
    load(tmp_path / "out")


def test_weights_by_pattern(models: Path, tmp_path: Path) -> None:
    """The first match holds, and each pattern's weights are normalised for themselves."""
    patterns = (("*.1.mlp.*", (3.0, 1.0)), ("*.mlp.*", (0.0, 2.0)), ("lm_head.weight", (1.0, 0.0)))
    options = MergeOptions((models / "a", models / "b"), weights=(1.0, 1.0), pattern_weights=patterns)
    plan = plan_merge(options)
    assert plan.rules == [*((*pattern, count) for pattern, count in zip(patterns, (3, 3, 1), strict=True)),
                          ("*", (1.0, 1.0), 20)]  # fmt: skip
    merge(plan, tmp_path / "out")
    found, a, b = read(tmp_path / "out"), read(models / "a"), read(models / "b")
    assert_is(found[MLP], 0.75 * array(a[MLP]) + 0.25 * array(b[MLP]))
    first = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(found[first], b[first])
    assert torch.equal(found[HEAD], a[HEAD])
    assert_is(found[EMBEDDING], 0.5 * array(a[EMBEDDING]) + 0.5 * array(b[EMBEDDING]))


@pytest.mark.parametrize("weights", [(0.6, 0.7), (0.5, 0.5), (-0.4, 0.0)])
def test_task_arithmetic(weights: tuple[float, ...], models: Path, tmp_path: Path) -> None:
    found = made(
        tmp_path / "out", models / "a", models / "b", method="task-arithmetic", base=models / "c", weights=weights
    )
    a, b, base = (read(models / name) for name in "abc")
    for name, tensor in found.items():
        one, two, start = array(a[name]), array(b[name]), array(base[name])
        assert_is(tensor, start + weights[0] * (one - start) + weights[1] * (two - start))


def test_one_task_vector_leads_from_base_to_model(models: Path, tmp_path: Path) -> None:
    for weight, expected in ((0.0, "c"), (1.0, "a")):
        output = tmp_path / expected
        found = made(output, models / "a", method="task-arithmetic", base=models / "c", weights=(weight,))
        assert all(torch.equal(tensor, found[name]) for name, tensor in read(models / expected).items())


@pytest.mark.parametrize("t", [None, 0.0, 0.3, 1.0])
def test_slerp(t: float | None, models: Path, tmp_path: Path) -> None:
    """Built another way: the first vector's direction is turned by a part of the angle, and lengths are mixed likewise."""
    one = copied(models, "a", tmp_path / "one")
    # Two that are all but parallel are interpolated along the line.
    edit_tensors(one, lambda t: t.update({MLP: (read(models / "b")[MLP].double() * 1.5).bfloat16()}))
    found = made(tmp_path / "out", one, models / "b", method="slerp", t=t)
    a, b = read(one), read(models / "b")
    way = 0.5 if t is None else t
    for name, tensor in found.items():
        first, second = array(a[name]), array(b[name])
        cosine = np.vdot(first, second) / (np.linalg.norm(first) * np.linalg.norm(second))
        if abs(cosine) > 0.9995:
            assert name == MLP
            assert_is(tensor, first + way * (second - first))
            continue
        turned = second / np.linalg.norm(second) - cosine * first / np.linalg.norm(first)
        turned /= np.linalg.norm(turned)  # of unit length, and at right angles to the first
        angle = np.arctan2(np.vdot(second, turned) / np.linalg.norm(second), cosine)
        unit = np.cos(way * angle) * first / np.linalg.norm(first) + np.sin(way * angle) * turned
        # The point of the arc between the unit vectors, taken apart into the two, which then get their lengths back.
        matrix = np.stack([first.ravel() / np.linalg.norm(first), second.ravel() / np.linalg.norm(second)], axis=1)
        shares = np.linalg.lstsq(matrix, unit.ravel(), rcond=None)[0]
        assert_is(tensor, shares[0] * first + shares[1] * second)


def test_slerp_keeps_length_and_angle() -> None:
    for angle in (0.1, 1.0, np.pi / 2, 3.0):
        first, second = np.array([1.0, 0.0]), np.array([np.cos(angle), np.sin(angle)])
        for t in (0.0, 0.25, 0.5, 1.0, 1.5):
            one, two = slerp_weights(1.0, 1.0, float(np.cos(angle)), t)
            expected = [np.cos(t * angle), np.sin(t * angle)]
            assert np.allclose(one * first + two * second, expected, atol=1e-12)
    # No angle, or one that no sphere shows the way along: the line.
    for products in [(1.0, 1.0, 1.0), (1.0, 4.0, 2.0 + 1e-15), (1.0, 1.0, -1.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0),
                     (np.nan, 1.0, np.nan), (np.inf, 1.0, np.inf)]:  # fmt: skip
        assert slerp_weights(*products, 0.25) == (0.75, 0.25)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("linear", {}),
        ("linear", {"weights": (0.5, 0.3, 0.2)}),
        ("task-arithmetic", {"weights": (0.2, 0.9, 0.4)}),
        ("slerp", {}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_model_merged_with_itself_stays(
    dtype: torch.dtype, method: str, options: dict[str, Any], models: Path, tmp_path: Path
) -> None:
    """Bit for bit; with positive weights alone, zeros keep their sign, and infinities and NaNs remain."""
    strange = {"-0": -0.0, "small": torch.finfo(dtype).smallest_normal / 8, "inf": -torch.inf, "nan": torch.nan}
    if method == "task-arithmetic":  # its base weighs less than nothing: inf - inf is no number, -0.0 + 0.0 is 0.0
        strange = {"small": strange["small"], "large": torch.finfo(dtype).max}

    def change(tensors: Tensors) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(dtype)
        tensors[NORM][: len(strange)] = torch.tensor(list(strange.values())).to(dtype)

    one = copied(models, "full", tmp_path / "one")
    edit_tensors(one, change)
    count = 2 if method == "slerp" else 3
    base = {"base": one} if method == "task-arithmetic" else {}
    found = made(tmp_path / "out", *[one] * count, method=method, **base, **options)
    assert found.keys() == read(one).keys()
    for name, tensor in read(one).items():
        assert found[name].dtype == dtype
        whole = torch.int32 if dtype == torch.float32 else torch.int16
        same = (tensor.view(whole) == found[name].view(whole)) | (tensor.isnan() & found[name].isnan())
        assert same.all(), name


@pytest.mark.parametrize(
    ("names", "dtype", "expected"),
    [
        (("a", "half"), None, torch.float32),  # neither holds the other's numbers
        (("a", "full"), None, torch.float32),
        (("half", "half"), None, torch.float16),
        (("a", "half", "full"), "bf16", torch.bfloat16),
        (("full", "a"), "fp16", torch.float16),
    ],
)
def test_types(names: tuple[str, ...], dtype: str | None, expected: torch.dtype, models: Path, tmp_path: Path) -> None:
    found = made(tmp_path / "out", *(models / name for name in names), dtype=dtype)
    sources = [read(models / name) for name in names]
    for name, tensor in found.items():
        assert tensor.dtype == expected
        expected_mean = sum(array(source[name]) for source in sources) / len(names)
        normal = np.abs(expected_mean) >= torch.finfo(expected).smallest_normal
        assert_is(tensor[torch.from_numpy(normal)], expected_mean[normal])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == str(expected).removeprefix("torch.")
    edit_config(copied(models, "a", tmp_path / "old"), torch_dtype="bfloat16")
    made(tmp_path / "out-old", tmp_path / "old", models / "full")
    assert "torch_dtype" not in json.loads((tmp_path / "out-old" / "config.json").read_text())


@pytest.mark.parametrize("names", [("tied", "a"), ("a", "tied"), ("tied", "tied-too", "a")])
def test_tied_with_untied(names: tuple[str, ...], models: Path, tmp_path: Path) -> None:
    """The result is untied; to its output matrix, a tied model gives its embeddings."""
    weights = (0.7, 0.3) if len(names) == 2 else (0.5, 0.3, 0.2)
    plan = plan_merge(MergeOptions(tuple(models / name for name in names), weights=weights))
    assert "untied embeddings" in "\n".join(plan.describe(tmp_path / "out"))
    merge(plan, tmp_path / "out")
    found, sources = read(tmp_path / "out"), [read(models / name) for name in names]
    for name in (EMBEDDING, HEAD, MLP):
        terms = [array(source.get(name, source[EMBEDDING])) for source in sources]
        assert_is(found[name], sum(weight * term for weight, term in zip(weights, terms, strict=True)))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    model = load(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, found[HEAD])
    assert torch.equal(model.model.embed_tokens.weight, found[EMBEDDING])


def test_tied_with_tied(models: Path, tmp_path: Path) -> None:
    """One matrix, even where a file holds a copy; where a config is silent, the files tell."""
    copy = copied(models, "tied", tmp_path / "copy")
    edit_tensors(copy, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    silent = copied(models, "tied-too", tmp_path / "silent")
    edit_config(silent, remove=("tie_word_embeddings",))
    found = made(tmp_path / "out", copy, silent)
    assert found.keys() == read(models / "tied").keys()
    terms = [array(read(models / name)[EMBEDDING]) for name in ("tied", "tied-too")]
    assert_is(found[EMBEDDING], (terms[0] + terms[1]) / 2)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True
    model = load(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_threads_and_a_second_time_give_the_same_bytes(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weighted_sums, "_BLOCK", 1000)
    for method, number in (("linear", 3), ("slerp", 2)):
        outputs = [tmp_path / f"{method}{threads}" for threads in (1, 2, 7)]
        for output, threads in zip(outputs, (1, 2, 7), strict=True):
            made(
                output, *[models / name for name in "abc"[:number]], threads=threads, method=method, shard_bytes=300_000
            )
        names = sorted(path.name for path in outputs[0].iterdir())
        assert len(names) > 5
        for output in outputs[1:]:
            assert sorted(path.name for path in output.iterdir()) == names
            assert all((output / name).read_bytes() == (outputs[0] / name).read_bytes() for name in names)


def test_shards_of_a_chosen_size(models: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    plan = plan_merge(MergeOptions((models / "a", models / "b"), shard_bytes=100_000))
    merge(plan, tmp_path / "out", lambda done, total: steps.append((done, total)))
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == files
    assert len(files) == plan.shards > 3
    assert index["metadata"]["total_size"] == plan.output_bytes == 2 * plan.parameters
    assert all((tmp_path / "out" / file).stat().st_size < 100_000 + 2000 for file in files)  # and the header
    whole = made(tmp_path / "whole", models / "a", models / "b")
    assert (tmp_path / "whole" / SINGLE).is_file()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in read(tmp_path / "out").items())
    assert steps == [(done, len(whole)) for done in range(1, len(whole) + 1)]


def front_matter(folder: Path) -> tuple[dict[str, Any], str]:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_model_card_says_what_it_is_made_of(models: Path, tmp_path: Path) -> None:
    patterns = (("*.mlp.*", (0.9, 0.1)),)
    made(tmp_path / "out", models / "a", models / "b", weights=(0.7, 0.3), pattern_weights=patterns)
    front, text = front_matter(tmp_path / "out")
    assert front["base_model"] == ["a", "b"]
    assert front["library_name"] == "transformers"
    assert front["tags"] == ["merge"]
    assert front["merge"]["method"] == "linear"
    assert front["merge"]["normalize"] is True
    assert front["merge"]["weights"] == [
        {"tensors": "*.mlp.*", "values": [0.9, 0.1]},
        {"tensors": "*", "values": [0.7, 0.3]},
    ]
    assert [source["model"] for source in front["merge"]["sources"]] == ["a", "b"]
    assert all(len(source["sha256"]) == 64 for source in front["merge"]["sources"])
    assert "| `*.mlp.*` | 0.9, 0.1 | 6 |" in text
    assert "| `*` | 0.7, 0.3 | 21 |" in text
    assert "divided by their sum" in text
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text()


def test_the_model_card_tells_base_and_model_apart(models: Path, tmp_path: Path) -> None:
    """Even where their folders have one name."""
    for name in "ab":
        copied(models, name, tmp_path / name / "hf")
    edit_config(tmp_path / "a" / "hf", attention_dropout=0.5)
    made(tmp_path / "out", tmp_path / "a" / "hf", method="task-arithmetic", base=tmp_path / "b" / "hf", weights=(0.4,))
    front, text = front_matter(tmp_path / "out")
    assert front["merge"]["method"] == "task-arithmetic"
    assert "normalize" not in front["merge"]
    one, two = (source["sha256"] for source in front["merge"]["sources"])
    assert one != two
    assert f"| hf | `{one}` |" in text
    assert f"| hf (base) | `{two}` |" in text
    made(tmp_path / "slerp", models / "a", models / "b", method="slerp", t=0.25)
    front, text = front_matter(tmp_path / "slerp")
    assert front["merge"]["weights"] == [{"tensors": "*", "values": [0.25]}]
    assert "| tensors | t | how many |" in text


def test_what_comes_along(models: Path, tmp_path: Path) -> None:
    """The first model's config and tokenizer, and nothing that could run."""
    one = copied(models, "a", tmp_path / "one")
    (one / "generation_config.json").write_text('{"temperature": 0.7}')
    (one / "chat_template.jinja").write_text("{{ messages }}")
    (one / "tokenizer.py").write_text("raise SystemExit")
    made(tmp_path / "out", one, models / "b")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", SINGLE, "tokenizer.json",
    }  # fmt: skip
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (one / "tokenizer.json").read_bytes()
    config, expected = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", one))
    assert config == expected | {"rope_theta": expected["rope_parameters"]["rope_theta"]}


def test_f3_tokenizer_model_comes_from_any_model_that_has_it(models: Path, tmp_path: Path) -> None:
    one, two, three = (copied(models, name, tmp_path / name) for name in "abc")
    made(tmp_path / "without", one, two, three)
    assert not (tmp_path / "without" / "tokenizer.model").exists()
    (three / "tokenizer.model").write_bytes(b"of three")
    made(tmp_path / "third", one, two, three)
    assert (tmp_path / "third" / "tokenizer.model").read_bytes() == b"of three"
    (one / "tokenizer.model").write_bytes(b"of one")
    made(tmp_path / "first", one, two, three)
    assert (tmp_path / "first" / "tokenizer.model").read_bytes() == b"of one"


def test_whole_numbers_must_agree(models: Path, tmp_path: Path) -> None:
    for name in "ab":
        one = copied(models, name, tmp_path / name)
        edit_tensors(one, lambda tensors: tensors.update(steps=torch.tensor([2**60 + 1, 3])))
    found = made(tmp_path / "out", tmp_path / "a", tmp_path / "b", dtype="fp32")
    assert found["steps"].tolist() == [2**60 + 1, 3]
    edit_tensors(tmp_path / "b", lambda tensors: tensors["steps"].add_(1))
    with pytest.raises(ConversionError, match=r"steps holds whole numbers .* they have no average"):
        made(tmp_path / "out2", tmp_path / "a", tmp_path / "b")
    edit_tensors(tmp_path / "b", lambda tensors: tensors.update(steps=torch.zeros(2)))
    with pytest.raises(ConversionError, match=r"steps is torch\.int64 in .*, torch\.float32 in"):
        made(tmp_path / "out2", tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "out2").exists()


def test_configs_that_mean_the_same(models: Path, tmp_path: Path) -> None:
    """Old names, defaults that are spelled out, and what changes no weight's meaning."""
    one, two = copied(models, "a", tmp_path / "one"), copied(models, "b", tmp_path / "two")
    edit_config(
        one,
        remove=("rope_parameters", "hidden_act", "use_sliding_window"),
        rope_theta=12_345.0,
        rope_scaling=None,
        max_position_embeddings=9,
        attention_dropout=0.1,
    )
    assert plan_merge(MergeOptions((one, two))).notes == []
    edit_config(one, remove=("rope_theta",))
    with pytest.raises(ConversionError, match=r"rope_theta is 10000\.0 in .*one/config\.json, 12345\.0 in"):
        plan_merge(MergeOptions((one, two)))


def test_tokenizers_are_compared_by_what_they_mean(models: Path, tmp_path: Path) -> None:
    one, two = copied(models, "a", tmp_path / "one"), copied(models, "b", tmp_path / "two")
    options = MergeOptions((one, two))
    write_tokenizer(two, indent=2)
    assert plan_merge(options).notes == []
    write_tokenizer(two, unigram=True)  # the same pieces under the same ids
    assert plan_merge(options).notes == []
    for pieces, message in [
        ([*PIECES, "more"], r"differ \(91 entries in .*one, 92 in .*two; id 90 is '<end>' and 'more'\)"),
        (PIECES[:-1], r"differ \(91 entries in .*one, 90 in .*two; id 89 is .* and '<end>'\)"),
        ([PIECES[1], PIECES[0], *PIECES[2:]], r"differ \(91 entries in .*one, 91 in .*two; id 0 is '!' and '\"'\)"),
    ]:
        write_tokenizer(two, pieces)
        with pytest.raises(ConversionError, match=message):
            plan_merge(options)
    for content in ("{", "[]", "{}", '{"model": {"vocab": 3}}', '{"model": {"vocab": [1]}}', "\xff"):
        (two / "tokenizer.json").write_text(content, encoding="latin-1")
        with pytest.raises(ConversionError, match=r"two/tokenizer\.json is damaged"):
            plan_merge(options)
    (two / "tokenizer.json").unlink()
    (note,) = plan_merge(options).notes
    assert "two/tokenizer.json: not there, so vocabularies were compared by vocab_size alone" in note
    assert f"note: {note}" in plan_merge(options).describe(tmp_path / "out")


def missing_shard(folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {NORM: "model-00002-of-00002.safetensors"}}))


def truncated(folder: Path) -> None:
    (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-100])


def tensors(change: Callable[[Tensors], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_tensors(folder, change)


def config(remove: tuple[str, ...] = (), **changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, remove, **changes)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing shard": (missing_shard, "names model-00002-of-00002.safetensors, which is not there"),
    "truncated file": (truncated, "two/model.safetensors is damaged or truncated"),
    "no weights": (lambda folder: (folder / SINGLE).unlink(), "two has neither"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "two/config.json not found"),
    "no folder": (shutil.rmtree, "two is no folder: a Hugging Face model folder is needed"),
    "fewer tensors": (tensors(lambda t: t.pop(MLP)), rf"two lacks 1 tensors that .*a has, the first is {MLP}"),
    "more tensors": (
        tensors(lambda t: t.update(extra=torch.zeros(1))),
        r"a lacks 1 tensors that .*two has, the first is extra",
    ),
    "another shape": (
        tensors(lambda t: t.update({NORM: torch.zeros(97)})),
        rf"{NORM} is \(96,\) in .*a, \(97,\) in .*two: they cannot be merged",
    ),
    "no output matrix": (tensors(lambda t: t.pop(HEAD)), f"two lacks {HEAD}, and its config.json does not tie it"),
    "no embeddings": (tensors(lambda t: t.pop(EMBEDDING)), f"two lacks .*{EMBEDDING}"),
    "tied to nothing": (
        lambda folder: (
            edit_tensors(folder, lambda t: t.pop(EMBEDDING)),
            edit_config(folder, tie_word_embeddings=True),
        ),
        f"two lacks {EMBEDDING}",
    ),
    "perhaps tied": (config(tie_word_embeddings="no"), "tie_word_embeddings is 'no', it must be true or false"),
    "another family": (config(model_type="llama"), "model_type is 'qwen2' in .*, 'llama' in .* cannot be merged"),
    "another epsilon": (config(rms_norm_eps=1e-5), "rms_norm_eps is 1e-06 in .*, 1e-05 in"),
    "other heads": (config(num_attention_heads=3), "num_attention_heads is 6 in .*, 3 in"),
    "rope scaling beside": (
        config(rope_scaling={"type": "linear", "factor": 2.0}),
        "rope_theta is 12345.0 in|rope_type is",
    ),
    "other rope": (config(rope_parameters={"rope_type": "yarn", "rope_theta": 12_345.0}), "rope_type is 'default' in"),
    "other factor": (
        config(rope_parameters={"rope_type": "default", "rope_theta": 12_345.0, "factor": 2.0}),
        r"rope_parameters is \{\} in .*, \{'factor': 2.0\} in",
    ),
    "quantised": (tensors(lambda t: t.update({NORM: t[NORM].to(torch.float8_e4m3fn)})), f"{NORM} has type F8_E4M3"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_models_that_do_not_fit_are_refused(name: str, models: Path, tmp_path: Path) -> None:
    """From configs and headers alone, in one line, before anything is written."""
    damage, message = DAMAGES[name]
    damage(copied(models, "b", tmp_path / "two"))
    with pytest.raises(ConversionError, match=message) as found:
        plan_merge(MergeOptions((models / "a", tmp_path / "two")))
    assert "\n" not in str(found.value)


def test_another_family_is_refused(models: Path) -> None:
    with pytest.raises(ConversionError, match=r"model_type is 'qwen2' in .*, 'llama' in"):
        plan_merge(MergeOptions((models / "a", models / "bielik")))


OPTIONS: dict[str, tuple[int, dict[str, Any], str]] = {
    "one": (1, {}, "--models names 1, --method linear needs at least 2"),
    "none": (
        0,
        {"method": "task-arithmetic", "base": "c"},
        "--models names 0, --method task-arithmetic needs at least 1",
    ),
    "three": (3, {"method": "slerp"}, "--models names 3, --method slerp needs exactly 2"),
    "weights": (3, {"weights": (1.0, 2.0)}, "--weights has 2 weights, 3, one for each of --models is needed"),
    "base's weight": (
        2,
        {"method": "task-arithmetic", "base": "c", "weights": (1.0, 2.0, 3.0)},
        "--weights has 3 weights, 2, one for each of --models is needed",
    ),
    "pattern": (2, {"pattern_weights": (("*", (1.0,)),)}, r"--pattern-weights '\*' has 1 weights, 2, one for each"),
    "no match": (
        2,
        {"pattern_weights": (("*", (1.0, 1.0)), ("*.mlp.*", (1.0, 1.0)))},
        r"--pattern-weights '\*\.mlp\.\*' is the first match of no tensor; names look like lm_head\.weight",
    ),
    "no number": (2, {"weights": (1.0, float("nan"))}, "--weights is 1 nan: weights and their sum must be finite"),
    "endless": (2, {"weights": (1e308, 1e308)}, "weights and their sum must be finite"),
    "no t": (2, {"method": "slerp", "t": float("inf")}, "--t is inf: weights"),
    "zero": (2, {"weights": (0.0, 0.0)}, "--weights is 0 0, which adds up to 0: use --no-normalize or other weights"),
    "zero but for rounding": (3, {"weights": (0.1, 0.2, -0.3)}, "--weights is 0.1 0.2 -0.3, which adds up to 0"),
    "zero by pattern": (
        2,
        {"pattern_weights": (("*.mlp.*", (1.0, -1.0)),)},
        r"--pattern-weights '\*\.mlp\.\*' is 1 -1, which adds up to 0",
    ),
    "no base": (2, {"method": "task-arithmetic"}, "--method task-arithmetic needs --base, the model that the others"),
    "base": (2, {"base": "c"}, "--base belongs to --method task-arithmetic, the method is linear"),
    "t": (2, {"t": 0.5}, "--t belongs to --method slerp, the method is linear: use --weights"),
    "weights for slerp": (2, {"method": "slerp", "weights": (0.5, 0.5)}, "--method slerp takes one number, --t"),
    "two of t": (
        2,
        {"method": "slerp", "pattern_weights": (("*", (0.5, 0.5)),)},
        r"--pattern-weights '\*' has 2 weights, one number \(--t\) is needed",
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_do_not_fit_are_refused(name: str, models: Path) -> None:
    count, options, message = OPTIONS[name]
    if "base" in options:
        options = options | {"base": models / options["base"]}
    with pytest.raises(ConversionError, match=message) as found:
        plan_merge(MergeOptions(tuple(models / letter for letter in "abc"[:count]), **options))
    assert "\n" not in str(found.value)


def test_pattern_weights_as_text() -> None:
    assert parse_pattern_weights("*.mlp.*=0.7,-3e-1") == ("*.mlp.*", (0.7, -0.3))
    assert parse_pattern_weights("a=b=1") == ("a=b", (1.0,))
    for text in ("", "=", "*", "*=", "=1", "*=1;2", "*=1,", "0.5,0.5"):
        with pytest.raises(ConversionError, match=r"write PATTERN=0\.5,0\.3,0\.2, a weight for each model"):
            parse_pattern_weights(text)


def some_plan(models: Path) -> MergePlan:
    return plan_merge(MergeOptions((models / "a", models / "b")))


def test_what_exists_is_kept(models: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("precious")
    with pytest.raises(ConversionError, match="out exists already: choose another --output or remove it"):
        merge(some_plan(models), tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "kept"]


def test_a_disk_too_small_is_found_first(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = some_plan(models)
    free = 2 * plan.parameters - 1  # bf16, and a byte is lacking
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12 - free, free))
    with pytest.raises(
        ConversionError, match=r"out needs 0\.00 GB, its disk has 0\.00 GB free: choose another --output"
    ):
        merge(plan, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "interruption", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), SystemExit("stopped")]
)
def test_interrupted_it_leaves_nothing(
    interruption: BaseException, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a file, while blocks are being summed ahead."""
    monkeypatch.setattr(weighted_sums, "_BLOCK", 1000)
    real, written = safetensors_files._write_tensor, iter(range(10))

    def write(*arguments: Any) -> None:
        if next(written, None) is None:
            assert len(list(tmp_path.iterdir())) == 1  # the work in progress
            raise interruption
        real(*arguments)

    monkeypatch.setattr(safetensors_files, "_write_tensor", write)
    with pytest.raises((ConversionError, KeyboardInterrupt, SystemExit), match=r"became full|^$|stopped"):
        merge(some_plan(models), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_shrinks_meanwhile(models: Path, tmp_path: Path) -> None:
    two = copied(models, "b", tmp_path / "two")
    plan = plan_merge(MergeOptions((models / "a", two)))
    truncated(two)
    with pytest.raises(ConversionError, match=r"two/model\.safetensors is damaged or truncated"):
        merge(plan, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["two"]
