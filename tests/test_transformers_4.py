"""What this package writes means the same in transformers 4.57 and 5: logits and token ids of every kind of folder.

4.57 looks for rope_theta at the top level of config.json, and takes 10,000 where 5 has written rope_parameters alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from megatron_bielik.posttrain import sft
from megatron_bielik.posttrain.config import SFTConfig, SFTData
from megatron_bielik.surgery.convert import export_hf, import_hf
from megatron_bielik.surgery.merge import MergeOptions, merge, plan_merge
from megatron_bielik.surgery.methods import Initializer, Materials
from megatron_bielik.surgery.replace_tokenizer import replace_tokenizer
from megatron_bielik.surgery.upscale import plan_upscale, upscale
from megatron_bielik.tokenizer.train import build_tokenizer
from tests.peers import peer_environment
from tests.posttrain.conftest import TEXTS, chats, small, write_byte_level, write_rows

THETA = 1_000_000.0
SAMPLES = [
    *TEXTS[:3],
    " two  spaces\n\n\tand 😀",
    "",
    "<|im_start|>user\nKot?<|im_end|>\n<|im_start|>assistant\nPies.<|im_end|>\n",
    "▁ \u2028 don't 2026-12-01",
]
CHAT = [{"role": "user", "content": " Ile to jest? "}, {"role": "assistant", "content": "\nCztery."}]
LOOK = """
import json, sys
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

transformers.logging.set_verbosity_error()
folders, samples, chat, output = json.load(open(sys.argv[1]))
found = {"version": transformers.__version__}
for name in folders:
    model, info = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    ids = torch.arange(3, 3 + 40)[None]
    with torch.no_grad():
        logits = model.eval()(ids).logits[0]
    tokenizer = AutoTokenizer.from_pretrained(name)
    text = tokenizer.apply_chat_template(chat, tokenize=False) if tokenizer.chat_template else ""
    found[name] = {
        "logits": logits.tolist(),
        "ids": [tokenizer.encode(sample) for sample in [*samples, text]],
        "chat": text,
        "eos": [tokenizer.eos_token, model.generation_config.eos_token_id],
    }
json.dump(found, open(output, "w"))
"""


def model(hf_model: Callable[..., Any], kind: str, folder: Path, **options: Any) -> Path:
    """A model with its tokenizer, written by transformers 5 itself."""
    if kind == "bielik":
        build_tokenizer([text.encode() for text in TEXTS], 500, folder)
    else:
        write_byte_level(folder)
    rows = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]) + 10
    rope = {"rope_theta": THETA, "rope_type": "default", **options.pop("rope", {})}
    sizes = {"vocab_size": rows, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, **options}
    hf_model(kind, rope_parameters=rope, **sizes).save_pretrained(folder)
    return folder


def trained(source: Path, folder: Path) -> Path:
    rows = write_rows(folder.with_suffix(".jsonl"), chats(8))
    config = SFTConfig(data=SFTData([str(rows)], sequence_length=160))
    assert sft.train(small(config, source, folder, training__steps=2, checkpoint__save_interval=1), 2) == 0
    return folder


@pytest.fixture(scope="module")
def folders(hf_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of every kind that the package writes, by name."""
    place = tmp_path_factory.mktemp("folders")
    qwen2 = model(hf_model, "qwen2", place / "qwen2")
    bielik = model(hf_model, "bielik", place / "bielik")
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    made = {}
    for name, source in (("qwen2", qwen2), ("bielik", bielik)):
        import_hf(source, place / f"{name}-native")
        made[f"export of {name}"] = export_hf(place / f"{name}-native", place / f"{name}-export").output
        upscale(plan_upscale(source, lambda n: [0, 0, 1]), place / f"{name}-deeper")
        made[f"up-scaled {name}"] = place / f"{name}-deeper"
    upscale(plan_upscale(qwen2, lambda n: [0, 1], "bielik"), place / "form")
    made["Bielik form"] = place / "form"
    stretched = model(hf_model, "bielik", place / "yarn", rope=yarn)
    upscale(plan_upscale(stretched, lambda n: [0, 1, 1]), place / "yarn-deeper")
    made["up-scaled with YaRN"] = place / "yarn-deeper"
    given = Materials(qwen2, bielik, place / "cache", corpus=(str(write_rows(place / "c.jsonl", []))))
    replace_tokenizer(Initializer(given), qwen2, "mean", place / "replaced")
    made["replaced tokenizer"] = place / "replaced"
    run = trained(bielik, place / "run")
    made |= {"checkpoint": run / "checkpoint-1", "result of SFT": run / "final"}
    made["result of SFT of a Qwen2"] = trained(qwen2, place / "qwen2-run") / "final"
    merge(plan_merge(MergeOptions((run / "checkpoint-1", run / "checkpoint-2"))), place / "merged")
    made["merged"] = place / "merged"
    return made


def look(names: list[Path], output: Path, env: dict[str, str] | None = None) -> dict[str, Any]:
    """What a version of transformers makes of folders, in a process of its own."""
    asked = output.with_suffix(".asked")
    asked.write_text(json.dumps([[str(name) for name in names], SAMPLES, CHAT, str(output)]))
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(asked)],
        capture_output=True,
        text=True,
        timeout=250,
        env=env,
        cwd=output.parent,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def logits(found: dict[str, Any], name: Path) -> npt.NDArray[np.float64]:
    return np.array(found[str(name)]["logits"])


def test_e6_f1_both_versions_agree(folders: dict[str, Path], tmp_path: Path) -> None:
    # What transformers 5 alone writes, to see that the difference would be found.
    plain = Path(shutil.copytree(folders["export of bielik"], tmp_path / "plain"))
    config = json.loads((plain / "config.json").read_text())
    assert config.pop("rope_theta") == THETA
    (plain / "config.json").write_text(json.dumps(config))
    names = [*folders.values(), plain]
    ours = look(names, tmp_path / "5.json")
    theirs = look(names, tmp_path / "4.json", peer_environment("transformers-4"))
    assert (ours["version"][0], theirs["version"]) == ("5", "4.57.1")
    assert np.abs(logits(theirs, plain) - logits(ours, plain)).max() > 0.1
    for kind, name in folders.items():
        one, two = ours[str(name)], theirs[str(name)]
        np.testing.assert_allclose(logits(theirs, name), logits(ours, name), rtol=0, atol=2e-6, err_msg=kind)
        assert two["chat"] == one["chat"], kind
        assert two["eos"] == one["eos"], kind
        if (
            kind != "replaced tokenizer"
        ):  # a Qwen2 with a new tokenizer is read wrongly by AutoTokenizer of 5; it says so
            assert two["ids"] == one["ids"], kind
    before = ours[str(folders["export of bielik"])]["ids"]
    for kind in ("checkpoint", "result of SFT", "merged"):
        assert ours[str(folders[kind])]["ids"][: len(SAMPLES)] == before[: len(SAMPLES)], kind
