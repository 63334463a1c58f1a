"""Hugging Face to our checkpoints and back: bit by bit, sharded or not, with the tokenizer, and as training writes and loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from megatron_bielik.checkpoint_files import damaged_files, read_description
from megatron_bielik.config import Config, ModelConfig, TrainingConfig
from megatron_bielik.presets import ModelShape
from megatron_bielik.surgery.architecture import VOCABULARY_TENSORS, mappings
from megatron_bielik.surgery.convert import export_hf, import_hf
from megatron_bielik.surgery.native_files import NativeReader

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TEXT = "Zażółć gęślą jaźń"


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the safetensors files of a folder."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no dict)
    return found


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small BPE tokenizer with a chat template and roles for its special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    core.train_from_iterator([TEXT] * 3, trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet))
    roles = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template="{{ messages[0].content }}", **roles)


@pytest.mark.parametrize("sharded", [False, True], ids=["single", "sharded"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["qwen2", "qwen2-tied", "bielik"])
def test_there_and_back(
    kind: str, dtype: str, sharded: bool, hf_model: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    original = hf_model(kind, DTYPES[dtype])
    source, checkpoint, output = tmp_path / "source", tmp_path / "checkpoint", tmp_path / "output"
    original.generation_config.temperature = 0.25
    original.generation_config.do_sample = True
    original.save_pretrained(source, max_shard_size="200KB" if sharded else "5GB")
    tokenizer.save_pretrained(source)
    assert (len(list(source.glob("*.safetensors"))) > 3) == sharded

    imported = import_hf(source, checkpoint)
    exported = export_hf(checkpoint, output, shard_bytes=200_000 if sharded else 10**9)

    assert imported.dtype == exported.dtype == DTYPES[dtype]
    assert imported.parameters == exported.parameters == sum(p.numel() for p in original.parameters())
    assert (len(list(output.glob("*.safetensors"))) > 3) == sharded
    before, after = read_all(source), read_all(output)
    assert before.keys() == after.keys()
    assert all(same_bits(before[name], after[name]) for name in before)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (output / name).read_bytes() == (source / name).read_bytes(), name

    loaded, report = AutoModelForCausalLM.from_pretrained(
        output, local_files_only=True, output_loading_info=True, attn_implementation="eager", dtype="auto"
    )
    reference = AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager", dtype="auto")
    assert type(loaded) is type(original)
    assert loaded.dtype == DTYPES[dtype]
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    words = AutoTokenizer.from_pretrained(output, local_files_only=True)
    assert words.decode(words(TEXT).input_ids, skip_special_tokens=True) == TEXT
    roles = (loaded.config.bos_token_id, loaded.config.eos_token_id, loaded.config.pad_token_id)
    assert roles == (words.bos_token_id, words.eos_token_id, words.pad_token_id) == (1, 2, 3)
    ids = torch.randint(1001, (1, 50), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, reference(ids).logits)


def test_what_a_checkpoint_holds(hf_model: Callable[..., Any], tokenizer: Any, tmp_path: Path) -> None:
    hf_model("bielik").save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    import_hf(tmp_path / "source", tmp_path / "deeper" / "checkpoint")
    checkpoint = tmp_path / "deeper" / "checkpoint"
    files = {".metadata", "__0_0.distcp", "common.pt", "metadata.json", "model.json", "checksums.json", "tokenizer"}
    assert {path.name for path in checkpoint.iterdir()} == files
    assert {path.name for path in (tmp_path / "deeper").iterdir()} == {"checkpoint"}
    shape = ModelShape("bielik", 3, 96, 260, 6, 2, 1001, 512, False, head_dim=20, rope_theta=12_345.0)
    assert read_description(checkpoint) == (shape, 0)
    assert damaged_files(checkpoint) == []
    for path in checkpoint.rglob("*"):  # nothing tells where it was made
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes(), path.name


def test_dtype_option(hf_model: Callable[..., Any], tmp_path: Path) -> None:
    """fp32 -> bf16 rounds to nearest; bf16 -> fp32 -> bf16 changes nothing."""
    hf_model("qwen2").save_pretrained(tmp_path / "source")
    before = read_all(tmp_path / "source")
    import_hf(tmp_path / "source", tmp_path / "bf16", dtype="bf16")
    export_hf(tmp_path / "bf16", tmp_path / "fp32", dtype="fp32")
    after = read_all(tmp_path / "fp32")
    assert all(same_bits(after[name], before[name].bfloat16().float()) for name in before)
    assert json.loads((tmp_path / "fp32" / "config.json").read_text())["dtype"] == "float32"
    import_hf(tmp_path / "fp32", tmp_path / "again")
    export_hf(tmp_path / "again", tmp_path / "out", dtype="bf16")
    assert all(same_bits(tensor, before[name].bfloat16()) for name, tensor in read_all(tmp_path / "out").items())


def test_mixed_types_lose_nothing(hf_model: Callable[..., Any], tmp_path: Path) -> None:
    """One fp32 matrix in a bf16 model: the checkpoint is fp32."""
    model = hf_model("qwen2", torch.bfloat16)
    model.model.layers[1].mlp.up_proj.float()
    model.save_pretrained(tmp_path / "source")
    assert import_hf(tmp_path / "source", tmp_path / "checkpoint").dtype == torch.float32
    export_hf(tmp_path / "checkpoint", tmp_path / "output")
    after = read_all(tmp_path / "output")
    for name, tensor in read_all(tmp_path / "source").items():
        assert torch.equal(after[name], tensor.float())


def test_tied_model_with_a_copy_of_its_matrix(hf_model: Callable[..., Any], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    hf_model("qwen2-tied").save_pretrained(tmp_path / "source")
    tensors = read_all(tmp_path / "source")
    assert "lm_head.weight" not in tensors
    with_copy = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file(with_copy, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    import_hf(tmp_path / "source", tmp_path / "checkpoint")
    export_hf(tmp_path / "checkpoint", tmp_path / "output")
    assert read_all(tmp_path / "output").keys() == tensors.keys()


@pytest.mark.parametrize("kind", ["qwen2-tied", "bielik"])
def test_training_loads_it_and_its_checkpoints_are_exported(
    kind: str, hf_model: Callable[..., Any], tmp_path: Path, single_process: Any
) -> None:
    """Import, load as checkpoint.init_from does, save as training does under a padded vocabulary, export: the same bits.

    Rows of the padding are filled with numbers that must not come out.
    """
    from megatron_bielik.model.gpt import build_model
    from megatron_bielik.training.checkpoint import CheckpointStore, load
    from megatron_bielik.training.optimizer import build_optimizer, wrap_for_training

    hf_model(kind).save_pretrained(tmp_path / "source")
    shape = import_hf(tmp_path / "source", tmp_path / "start").shape
    model = ModelConfig(**vars(shape), make_vocab_size_divisible_by=100)
    config = Config(model=model, training=TrainingConfig(precision="fp32"))
    chunks = build_model(config)
    load(tmp_path / "start", shape, chunks, None, verify=True)
    with torch.no_grad():
        for name, parameter in chunks[0].global_names():
            if name in VOCABULARY_TENSORS:
                assert parameter.size(0) == 1100
                parameter[1001:] = 77.0
    wrapped = wrap_for_training(chunks, config.parallel)
    store = CheckpointStore(tmp_path / "run" / "checkpoints", keep_last=1, keep_every=0, asynchronous=False)
    store.save(7, shape, chunks, build_optimizer(wrapped, config, single_process), {}, lambda folder: None)
    store.close()

    reader = NativeReader(tmp_path / "run" / "checkpoints" / "step_00000007")
    assert reader.shape("embedding.word_embeddings.weight") == (1100, 96)
    export_hf(tmp_path / "run", tmp_path / "output", shard_bytes=150_000)
    before, after = read_all(tmp_path / "source"), read_all(tmp_path / "output")
    assert before.keys() == after.keys()
    assert all(same_bits(before[name], after[name]) for name in before)


def test_reader_gives_what_the_mapping_says(hf_model: Callable[..., Any], tmp_path: Path) -> None:
    model = hf_model("bielik")
    model.save_pretrained(tmp_path / "source")
    shape = import_hf(tmp_path / "source", tmp_path / "checkpoint").shape
    reader, weights = NativeReader(tmp_path / "checkpoint"), model.state_dict()
    for mapping in mappings(shape):
        assert mapping.native in reader
        assert reader.shape(mapping.native) == mapping.native_shape
        assert reader.dtype(mapping.native) == torch.float32
        assert torch.equal(reader.read(mapping.native), mapping.merge([weights[name] for name in mapping.theirs]))


def test_progress_reaches_the_end(hf_model: Callable[..., Any], tmp_path: Path) -> None:
    hf_model("qwen2").save_pretrained(tmp_path / "source")
    seen: dict[str, list[tuple[int, int]]] = {"import": [], "export": []}
    import_hf(tmp_path / "source", tmp_path / "c", progress=lambda n, total: seen["import"].append((n, total)))
    export_hf(tmp_path / "c", tmp_path / "o", progress=lambda n, total: seen["export"].append((n, total)))
    total = 2 + 1 + 3 * 7  # embedding and output, final norm, a layer's norms, linears and the bias of q, k and v
    assert seen["import"] == seen["export"] == [(n + 1, total) for n in range(total)]
