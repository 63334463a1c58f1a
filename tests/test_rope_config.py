"""Rope in config.json: read as transformers reads it, and both forms that are written mean what was there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, Qwen2Config

from megatron_bielik.rope_config import read_rope, with_both_forms, write_both_forms

THETAS = st.sampled_from([10_000.0, 500_000.0, 1_000_000])
SCALED = st.fixed_dictionaries(
    {"factor": st.sampled_from([2.0, 4.0]), "original_max_position_embeddings": st.just(512)},
    optional={"rope_theta": THETAS},
)
MAPPINGS = st.one_of(
    st.fixed_dictionaries({"rope_type": st.just("default")}, optional={"rope_theta": THETAS}),
    st.builds(lambda kind, rest: {"rope_type": kind, **rest}, st.sampled_from(["linear", "yarn"]), SCALED),
    st.builds(lambda rest: {"type": "linear", **rest}, SCALED),
)
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "rope_theta": THETAS,
        "rope_parameters": MAPPINGS,
        "rope_scaling": st.one_of(st.none(), st.just({}), MAPPINGS),
    },
)


def of_transformers(kind: type, config: dict[str, Any]) -> dict[str, Any]:
    """What transformers makes of a config.json with these entries."""
    found = kind(max_position_embeddings=1024, **json.loads(json.dumps(config))).rope_parameters
    return {name: value for name, value in found.items() if name != "type"}


@settings(max_examples=300, deadline=None)
@given(CONFIGS, st.sampled_from([LlamaConfig, Qwen2Config]))
def test_e5_read_as_transformers_reads(config: dict[str, Any], kind: type) -> None:
    ours = read_rope(config)
    ours.pop("type", None)
    assert ours == of_transformers(kind, config)


@settings(max_examples=300, deadline=None)
@given(CONFIGS, st.sampled_from([LlamaConfig, Qwen2Config]))
def test_e6_both_forms_mean_what_was_there(config: dict[str, Any], kind: type) -> None:
    before = json.dumps(config)
    both = with_both_forms({"hidden_size": 8, **config})
    assert json.dumps(config) == before
    if not any(config.values()):
        assert both == {"hidden_size": 8, **config}, "nothing is said of rope"
        return
    assert of_transformers(kind, {name: both[name] for name in both if "rope" in name}) == of_transformers(kind, config)
    assert both["rope_theta"] == both["rope_parameters"]["rope_theta"]
    assert both["hidden_size"] == 8
    # transformers 4.57 and llama.cpp go by the two at the top level.
    old = read_rope({name: both[name] for name in ("rope_theta", "rope_scaling") if name in both})
    assert old == both["rope_parameters"]
    assert with_both_forms(both) == both


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_parameters": [1]}, "rope_parameters is [1], it must be a mapping"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', it must be a mapping"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "rope_parameters differ by layer type"),
    ],
)
def test_what_is_no_rope(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="rope") as error:
        read_rope(config)
    assert str(error.value).startswith(message)
    assert with_both_forms(config) == config


@pytest.mark.parametrize("kind", ["Gemma3TextConfig", "Olmo3Config", "ModernBertConfig", "GPT2Config", "MistralConfig"])
def test_e6_configs_of_other_families_keep_their_meaning(kind: str, tmp_path: Path) -> None:
    """Rope that differs by layer type, or is none, stays as it is."""
    made = getattr(transformers, kind)()
    made.save_pretrained(tmp_path)
    write_both_forms(tmp_path)
    again = type(made).from_pretrained(tmp_path).to_dict()
    assert {k: v for k, v in again.items() if k != "_name_or_path"} == {
        k: v for k, v in made.to_dict().items() if k != "_name_or_path"
    }


def test_the_file_as_transformers_lays_it_out(tmp_path: Path) -> None:
    LlamaConfig(rope_parameters={"rope_theta": 5e5, "rope_type": "default"}).save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_text()
    write_both_forms(tmp_path)
    assert (tmp_path / "config.json").read_text().replace('\n  "rope_theta": 500000.0,\n', "\n") == before
