"""Depth up-scaling against transformers: copies bit for bit, logits of the same model, exact sizes, and what is refused."""

from __future__ import annotations

import errno
import json
import shutil
import struct
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from megatron_bielik.presets import PRESETS, ModelShape
from megatron_bielik.surgery import safetensors_files
from megatron_bielik.surgery import upscale as module
from megatron_bielik.surgery.hf_config import read_shape
from megatron_bielik.surgery.safetensors_files import INDEX, ConversionError, SafetensorsReader
from megatron_bielik.surgery.upscale import (
    EMBEDDING,
    HEAD,
    RECORD,
    UpscalePlan,
    depth_map,
    format_layer_map,
    parse_layer_map,
    plan_upscale,
    upscale,
)
from megatron_bielik.training.parameter_table import parameter_table, trainable_names

REPORT_MAP = [0, 0, 0, *range(1, 28), *range(8, 35), 35, 35, 35]  # Bielik v3 4.5B, of 36 layers
BIASES = {f"self_attn.{name}_proj.bias" for name in "qkvo"} | {
    f"mlp.{name}_proj.bias" for name in ("gate", "up", "down")
}


@pytest.fixture(scope="module")
def models(hf_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model of each kind, four layers each; the sliding one has windows in its layers 1 and 3."""
    folder = tmp_path_factory.mktemp("models")
    kinds = ["full_attention", "sliding_attention"]
    window = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "layer_types": kinds * 2}
    for name, kind, options in [
        ("qwen2", "qwen2", {"max_window_layers": 4}),
        ("qwen2-tied", "qwen2-tied", {"max_window_layers": 4}),
        ("bielik", "bielik", {}),
        ("llama", "bielik", {"attention_bias": False, "mlp_bias": False}),
        ("sliding", "qwen2", window),
    ]:
        hf_model(kind, num_hidden_layers=4, **options).save_pretrained(folder / name, max_shard_size="700KB")
    (folder / "qwen2" / "tokenizer.json").write_text("{}")
    return folder


def use(layers: list[int]) -> Callable[[int], list[int]]:
    return lambda count: layers


def as_it_is(count: int) -> list[int]:
    return list(range(count))


def made(source: Path, output: Path, layers: Callable[[int], list[int]], *options: Any, **settings: Any) -> UpscalePlan:
    plan = plan_upscale(source, layers, *options)
    upscale(plan, output, **settings)
    return plan


def load(folder: Path) -> Any:
    """The model by transformers, which must miss nothing and be given nothing that it does not know."""
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert {name: list(found) for name, found in report.items() if found} == {}
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    ids = torch.randint(0, 1001, (2, 23), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits
    return found


def stacked(model: Any, layers: list[int]) -> Any:
    """The deeper model as transformers would run it: the same modules in another order, copied for their cache index."""
    deeper = deepcopy(model)
    deeper.model.layers = torch.nn.ModuleList(deepcopy(model.model.layers[layer]) for layer in layers)
    for number, layer in enumerate(deeper.model.layers):
        layer.self_attn.layer_idx = number
    deeper.config.num_hidden_layers = len(layers)
    if kinds := getattr(model.config, "layer_types", None):
        deeper.config.layer_types = [kinds[layer] for layer in layers]
    return deeper


def edit_config(folder: Path, remove: tuple[str, ...] = (), **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if name not in remove}))


def test_maps() -> None:
    assert depth_map(36, drop=8, repeat_edges=2) == REPORT_MAP
    assert len(REPORT_MAP) == 60
    assert depth_map(28, repeat_edges=2) == [0, 0, *range(28), 27, 27]
    assert depth_map(32, drop=8) == [*range(24), *range(8, 32)]  # SOLAR 10.7B: 48 layers of Mistral's 32
    assert depth_map(3) == [0, 1, 2]
    assert depth_map(3, drop=2) == [0, 2]
    assert depth_map(1, repeat_edges=1) == [0, 0, 0]
    assert parse_layer_map("0,0,0,1-27,8-34,35,35,35", 36) == REPORT_MAP
    assert parse_layer_map(" 1 - 2 , 0", 3) == [1, 2, 0]
    assert parse_layer_map(format_layer_map(REPORT_MAP), 36) == REPORT_MAP


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_a_map_can_be_read_back(layers: list[int]) -> None:
    assert parse_layer_map(format_layer_map(layers), 41) == layers


@pytest.mark.parametrize("text", ["", ",", "0,", "x", "3-1", "-1", "1-", "0.5", "0 1", "0-1-2", "0..3"])
def test_no_map(text: str) -> None:
    with pytest.raises(ConversionError, match=r"--layer-map: .* is neither a layer nor first-last; write 0,0,1-27"):
        parse_layer_map(text, 36)


def test_maps_out_of_range() -> None:
    with pytest.raises(ConversionError, match="--layer-map names layer 36, the model has 0 to 35"):
        parse_layer_map("0-36", 36)
    for drop in (-1, 36):
        with pytest.raises(ConversionError, match=f"--drop is {drop}, of 36 layers 0 to 35 can be dropped"):
            depth_map(36, drop)
    with pytest.raises(ConversionError, match="--repeat-edges is -1, it must be 0 or more"):
        depth_map(36, 0, -1)


@pytest.mark.parametrize("form", ["same", "bielik"])
@pytest.mark.parametrize("kind", ["qwen2", "qwen2-tied", "bielik", "llama"])
def test_without_a_repetition_it_is_the_same_model(kind: str, form: str, models: Path, tmp_path: Path) -> None:
    """Zero biases and an output matrix that is a copy of a tied one compute nothing new."""
    plan = made(models / kind, tmp_path / "out", as_it_is, form)
    source, target = load(models / kind), load(tmp_path / "out")
    assert torch.allclose(logits(target), logits(source), rtol=0, atol=1e-6)
    assert plan.trainable == [r"^embedding\.word_embeddings\."] + [r"^output_layer\."] * (HEAD in plan.shapes)
    if form == "same":
        assert target.config.to_dict() == source.config.to_dict() | {"_name_or_path": str(tmp_path / "out")}
    else:
        assert type(target).__name__ == "LlamaForCausalLM"
        assert target.config.attention_bias
        assert target.config.mlp_bias
        assert target.lm_head.weight is not target.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("kind", "form"),
    [("qwen2", "same"), ("qwen2", "bielik"), ("qwen2-tied", "same"), ("qwen2-tied", "bielik"), ("llama", "bielik"),
     ("sliding", "same")],
)  # fmt: skip
def test_layers_are_copies(kind: str, form: str, models: Path, tmp_path: Path) -> None:
    """Tensors bit for bit, and the logits of transformers' own modules in that order."""
    layers = depth_map(4, drop=1, repeat_edges=1)
    assert layers == [0, 0, 1, 2, 1, 2, 3, 3]
    plan = made(models / kind, tmp_path / "out", use(layers), form, shard_bytes=600_000)
    source, target = SafetensorsReader(models / kind), SafetensorsReader(tmp_path / "out")
    assert (tmp_path / "out" / INDEX).is_file()
    tied = kind == "qwen2-tied"
    expected = {EMBEDDING: EMBEDDING, "model.norm.weight": "model.norm.weight"}
    if not tied or form == "bielik":
        expected[HEAD] = EMBEDDING if tied else HEAD
    zeros = set()
    for number, layer in enumerate(layers):
        parts = {name.split(".", 3)[3] for name in source.files if name.startswith(f"model.layers.{layer}.")}
        expected |= {f"model.layers.{number}.{part}": f"model.layers.{layer}.{part}" for part in parts}
        zeros |= {f"model.layers.{number}.{part}" for part in BIASES - parts if form == "bielik"}
    assert set(target.files) == set(expected) | zeros
    assert bool(zeros) == (form == "bielik")
    for name, origin in expected.items():
        assert torch.equal(target.read(name).view(torch.int32), source.read(origin).view(torch.int32)), name
    for name in zeros:
        assert not target.read(name).any(), name
        assert target.shape(name) == target.shape(name.removesuffix("bias") + "weight")[:1], name
    assert plan.parameters == sum(torch.Size(target.shape(name)).numel() for name in target.files)
    deeper = stacked(load(models / kind), layers)
    assert torch.allclose(logits(load(tmp_path / "out")), logits(deeper), rtol=0, atol=1e-6)


def test_untying_is_a_choice(models: Path, tmp_path: Path) -> None:
    """--untie and --no-untie against what the form does by itself; a copy that a tied model carries changes nothing."""
    source = tmp_path / "source"
    shutil.copytree(models / "qwen2-tied", source)
    tensors = {name: SafetensorsReader(source).read(name) for name in SafetensorsReader(source).files}
    for path in source.glob("*.safetensors*"):
        path.unlink()
    save_file(tensors | {HEAD: tensors[EMBEDDING].clone()}, source / "model.safetensors")
    for form, untie, untied in [("same", None, False), ("same", True, True), ("bielik", False, False)]:
        output = tmp_path / f"{form}-{untie}"
        made(source, output, as_it_is, form, untie)
        found = load_file(output / "model.safetensors")
        assert (HEAD in found) == untied
        assert json.loads((output / "config.json").read_text())["tie_word_embeddings"] is not untied
        if untied:
            assert torch.equal(found[HEAD], found[EMBEDDING])
        assert torch.allclose(logits(load(output)), logits(load(models / "qwen2-tied")), rtol=0, atol=1e-6)


def test_types_stay(hf_model: Callable[..., Any], tmp_path: Path) -> None:
    """New biases have the type of their weight, whatever the others have."""
    hf_model("qwen2").save_pretrained(tmp_path / "in")
    tensors = load_file(tmp_path / "in" / "model.safetensors")
    half = {name: tensor.bfloat16() if "o_proj" in name else tensor for name, tensor in tensors.items()}
    save_file(half, tmp_path / "in" / "model.safetensors")
    made(tmp_path / "in", tmp_path / "out", as_it_is, "bielik")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found["model.layers.1.self_attn.o_proj.weight"].dtype == torch.bfloat16
    assert found["model.layers.1.self_attn.o_proj.bias"].dtype == torch.bfloat16
    assert found["model.layers.1.mlp.up_proj.bias"].dtype == torch.float32
    assert found[EMBEDDING].dtype == torch.float32


def test_sliding_windows_follow_the_map(models: Path, tmp_path: Path) -> None:
    """Whether the config names the layers, as transformers 5 writes it, or says from which layer on they slide."""
    full, sliding = "full_attention", "sliding_attention"
    plan = plan_upscale(models / "sliding", use([0, 0, 1, 2, 3, 3]))
    assert plan.config["layer_types"] == [full, full, sliding, full, sliding, sliding]
    assert plan.config["num_hidden_layers"] == 6
    source = Path(shutil.copytree(models / "sliding", tmp_path / "old"))
    edit_config(source, remove=("layer_types",), max_window_layers=2)
    made(source, tmp_path / "out", use([0, 0, 1, 2, 1, 2, 3]))
    config = load(tmp_path / "out").config
    assert config.layer_types == [full, full, full, sliding, full, sliding, sliding]
    assert config.max_window_layers == 4
    assert config.sliding_window == 5
    with pytest.raises(
        ConversionError, match=r"config\.json: sliding-window attention, which the Bielik form does not"
    ):
        plan_upscale(source, as_it_is, "bielik")
    # Layers that do not slide are a Llama's, and so is a window of null, which transformers takes for none.
    assert "layer_types" not in plan_upscale(source, use([0, 1]), "bielik").config
    edit_config(source, sliding_window=None)
    assert "layer_types" not in plan_upscale(source, as_it_is, "same").config
    for wrong in ([full] * 3, 3):
        edit_config(source, layer_types=wrong)
        with pytest.raises(ConversionError, match=r"layer_types is .*, a list of 4 types is needed"):
            plan_upscale(source, as_it_is)


def test_a_config_that_says_little_means_the_same(models: Path, tmp_path: Path) -> None:
    """Qwen2 and Llama fill in other values where a config is silent; old names of fields pass through."""
    from transformers import AutoConfig, LlamaConfig, Qwen2Config

    one, two = Qwen2Config().to_dict(), LlamaConfig().to_dict()
    differing = {name for name in one.keys() & two.keys() if one[name] != two[name]} - {"model_type"}
    assert differing <= set(module._QWEN2_DEFAULTS)
    assert all(one[name] == value for name, value in module._QWEN2_DEFAULTS.items())

    source = Path(shutil.copytree(models / "qwen2", tmp_path / "in"))
    edit_config(
        source,
        remove=("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "rope_parameters"),
        rope_theta=5e5,
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    )
    made(source, tmp_path / "out", as_it_is, "bielik")
    before, after = (AutoConfig.from_pretrained(folder).to_dict() for folder in (source, tmp_path / "out"))
    assert after["rope_parameters"]["rope_theta"] == 5e5
    assert after["max_position_embeddings"] == 32_768
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    assert changed == {"_name_or_path", "model_type", "architectures"}
    assert torch.allclose(logits(load(tmp_path / "out")), logits(load(source)), rtol=0, atol=1e-6)


def sparse_model(folder: Path, shape: ModelShape, dtype: str = "BF16") -> Path:
    """A Qwen2 folder whose weights take no space: a header by hand, and a file that is one hole."""
    h, f, kv, v = shape.hidden_size, shape.ffn_hidden_size, shape.kv_size, shape.vocab_size
    layer = {
        "input_layernorm.weight": [h], "post_attention_layernorm.weight": [h],
        "self_attn.q_proj.weight": [h, h], "self_attn.q_proj.bias": [h],
        "self_attn.k_proj.weight": [kv, h], "self_attn.k_proj.bias": [kv],
        "self_attn.v_proj.weight": [kv, h], "self_attn.v_proj.bias": [kv],
        "self_attn.o_proj.weight": [h, h],
        "mlp.gate_proj.weight": [f, h], "mlp.up_proj.weight": [f, h], "mlp.down_proj.weight": [h, f],
    }  # fmt: skip
    shapes = {EMBEDDING: [v, h], "model.norm.weight": [h]}
    shapes |= {f"model.layers.{n}.{part}": size for n in range(shape.num_layers) for part, size in layer.items()}
    header, position = {}, 0
    for name, size in shapes.items():
        end = position + 2 * torch.Size(size).numel()
        header[name] = {"dtype": dtype, "shape": size, "data_offsets": [position, end]}
        position = end
    encoded = json.dumps(header).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + position)
    config = {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": v, "hidden_size": h,
        "intermediate_size": f, "num_hidden_layers": shape.num_layers, "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_query_groups, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "tie_word_embeddings": True, "use_sliding_window": False, "max_window_layers": shape.num_layers,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("source", "drop", "target", "parameters", "trained"),
    [
        ("qwen2.5-3b", 8, "bielik-4.5b-v3", 4_757_260_288, [0, 1, 2, 57, 58, 59]),
        ("qwen2.5-1.5b", 0, "bielik-1.5b-v3", 1_596_507_648, [0, 1, 2, 29, 30, 31]),
    ],
)
def test_sizes_of_bielik(
    source: str, drop: int, target: str, parameters: int, trained: list[int], tmp_path: Path
) -> None:
    """From Qwen2.5's shapes with a vocabulary of 32,000: to the parameter, and to the field of the config."""
    shape = ModelShape(**vars(PRESETS[source]) | {"vocab_size": 32_000})
    folder = sparse_model(tmp_path / "in", shape)
    plan = plan_upscale(folder, lambda count: depth_map(count, drop, 2), "bielik")
    assert plan.parameters == parameters
    assert plan.shapes[HEAD] == plan.shapes[EMBEDDING] == (32_000, shape.hidden_size)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text(json.dumps(plan.config))
    expected = PRESETS[target]
    longest = {"max_position_embeddings": 32_768}  # the source's: Bielik 1.5B's is shorter
    assert read_shape(tmp_path / "out") == ModelShape(**vars(expected) | longest)
    assert plan.adjacent == trained
    names = trainable_names(parameter_table(expected), plan.trainable)
    table = {parameter.name: parameter.size for parameter in parameter_table(expected)}
    rest = {name for name in table if not name.startswith("decoder.")}
    assert names == rest - {"decoder.final_layernorm.weight"} | {
        name for name in table if any(name.startswith(f"decoder.layers.{number}.") for number in trained)
    }


def test_what_is_said_and_written(models: Path, tmp_path: Path) -> None:
    """The record and the lines for the user agree; what is printed can be pasted into a run's YAML."""
    layers = depth_map(4, drop=1, repeat_edges=1)
    steps: list[tuple[int, int]] = []
    plan = made(
        models / "qwen2",
        tmp_path / "out",
        use(layers),
        "bielik",
        progress=lambda done, total: steps.append((done, total)),
    )
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record == {
        "source_layers": 4,
        "target_layers": 8,
        "layer_map": "0,0-2,1-3,3",
        "source_of_target_layer": [0, 0, 1, 2, 1, 2, 3, 3],
        "adjacent_copies": [0, 1, 6, 7],
        "repeated": [0, 1, 2, 3, 4, 5, 6, 7],
        "trainable": [r"^embedding\.word_embeddings\.", r"^output_layer\.", r"^decoder\.layers\.(0|1|6|7)\."],
    }
    lines = plan.describe(tmp_path / "described")
    assert lines[0] == "4 -> 8 layers: 0,0-2,1-3,3"
    zeros = 8 * 4  # o, gate, up and down
    assert lines[1].startswith(
        f"{len(plan.shapes)} tensors, {zeros} of them new biases of zero, {plan.parameters:,} par"
    )
    assert lines[1].endswith("untied embeddings")
    pasted = yaml.safe_load("\n".join(lines[lines.index("training:") :]))
    assert pasted == {"training": {"trainable": record["trainable"]}}
    assert steps == [(done, len(plan.shapes)) for done in range(1, len(plan.shapes) + 1)]
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"


def test_only_what_stands_twice_is_trained(models: Path) -> None:
    """SOLAR alone leaves no copy beside its original: there, all layers that stand twice."""
    solar = plan_upscale(models / "qwen2", lambda count: depth_map(count, drop=1))
    assert solar.adjacent == []
    assert solar.repeated == [1, 2, 3, 4]
    assert solar.trainable[-1] == r"^decoder\.layers\.(1|2|3|4)\."
    tied = plan_upscale(models / "qwen2-tied", lambda count: depth_map(count, repeat_edges=1))
    assert tied.trainable == [r"^embedding\.word_embeddings\.", r"^decoder\.layers\.(0|1|4|5)\."]


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """A damage: other tensors."""

    def apply(folder: Path) -> None:
        reader = SafetensorsReader(folder)
        content = {name: reader.read(name) for name in reader.files}
        change(content)
        for path in folder.glob("*.safetensors*"):
            path.unlink()
        save_file(content, folder / "model.safetensors")

    return apply


def without(ending: str) -> Callable[[Path], None]:
    """A damage: no tensors of that kind, in any layer."""
    return tensors(lambda t: [t.pop(name) for name in list(t) if name.endswith(ending)])


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, **changes)


def truncate(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-100])


K = "model.layers.2.self_attn.k_proj.bias"
DAMAGES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "missing tensor": ("qwen2", tensors(lambda t: t.pop(K)), f"lacks 1 tensors, the first is {K}"),
    "biases of all layers": (
        "qwen2",
        without("k_proj.bias"),
        "lacks 4 tensors, the first is model.layers.0.self_attn.k_",
    ),
    "norms of all layers": ("qwen2", without("input_layernorm.weight"), "lacks 4 tensors"),
    "output matrix": ("qwen2", tensors(lambda t: t.pop(HEAD)), "lacks 1 tensors, the first is lm_head.weight"),
    "final norm": ("qwen2-tied", tensors(lambda t: t.pop("model.norm.weight")), "lacks 1 tensors"),
    "biases that the config denies": (
        "bielik",
        config(mlp_bias=False),
        r"has 12 tensors that its config.json \(llama, 4 layers\) does not explain, the first is model.layers.0.mlp.down",
    ),
    "unknown tensor": ("llama", tensors(lambda t: t.update(extra=torch.zeros(1))), "the first is extra"),
    "a layer too many": ("qwen2", config(num_hidden_layers=3), "the first is model.layers.3."),
    "a layer too few": ("qwen2", config(num_hidden_layers=5), "the first is model.layers.4."),
    "shape": (
        "qwen2",
        tensors(lambda t: t.update({K: torch.zeros(33)})),
        r"self_attn.k_proj.bias is \(32,\) in layer 0, \(33,\) in layer 2",
    ),
    "quantised": ("qwen2", tensors(lambda t: t.update({K: torch.zeros(32, dtype=torch.int8)})), f"{K} has type I8"),
    "truncated file": ("qwen2", truncate, "safetensors is damaged or truncated"),
    "missing shard": ("qwen2", lambda f: sorted(f.glob("*.safetensors"))[1].unlink(), "which is not there"),
    "no config": ("qwen2", lambda f: (f / "config.json").unlink(), "config.json not found"),
    "other family": ("qwen2", config(model_type="mistral"), "model_type is 'mistral', known are qwen2, llama"),
    "no number of layers": (
        "qwen2",
        config(num_hidden_layers="4"),
        "num_hidden_layers is '4', it must be a whole number",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_source_is_refused(name: str, models: Path, tmp_path: Path) -> None:
    """From config and headers alone, before anything is written."""
    kind, damage, message = DAMAGES[name]
    source = Path(shutil.copytree(models / kind, tmp_path / "in"))
    damage(source)
    with pytest.raises(ConversionError, match=message) as found:
        plan_upscale(source, as_it_is, "bielik")
    assert "\n" not in str(found.value)


def test_a_result_that_transformers_would_not_load_does_not_appear(models: Path, tmp_path: Path) -> None:
    """Sizes that files and config see differently are found in the finished files; they are removed."""
    source = Path(shutil.copytree(models / "qwen2", tmp_path / "in"))
    edit_config(source, intermediate_size=261)
    with pytest.raises(ConversionError, match=r"proj.weight is .*260.*, config.json needs .*261"):
        made(source, tmp_path / "out", as_it_is)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_what_exists_is_kept(models: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("precious")
    with pytest.raises(ConversionError, match="out exists already: choose another --output or remove it"):
        made(models / "qwen2", tmp_path / "out", as_it_is)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "kept"]


def test_a_disk_too_small_is_found_first(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_upscale(models / "qwen2", as_it_is)
    free = 4 * plan.parameters - 1  # float32, and a byte is lacking
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12 - free, free))
    with pytest.raises(
        ConversionError, match=r"out needs 0\.00 GB, its disk has 0\.00 GB free: choose another --output"
    ):
        upscale(plan, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "interruption", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), SystemExit("stopped")]
)
def test_interrupted_it_leaves_nothing(
    interruption: BaseException, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a file."""
    real, tensors_left = safetensors_files._write_tensor, iter(range(20))

    def write(*arguments: Any) -> None:
        if next(tensors_left, None) is None:
            assert len(list(tmp_path.iterdir())) == 1  # the work in progress
            raise interruption
        real(*arguments)

    monkeypatch.setattr(safetensors_files, "_write_tensor", write)
    with pytest.raises((ConversionError, KeyboardInterrupt, SystemExit), match=r"became full|^$|stopped"):
        made(models / "qwen2", tmp_path / "out", as_it_is)
    assert list(tmp_path.iterdir()) == []
