"""A Hugging Face model folder as a whole: appears complete or not at all, its config, its companions, and whether it loads."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from megatron_bielik import checkpoint_files as files
from megatron_bielik.surgery.safetensors_files import ConversionError, SafetensorsReader

CONFIG, TOKENIZER, SENTENCEPIECE = "config.json", "tokenizer.json", "tokenizer.model"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"  # of Llama and Qwen2
_CODE = frozenset({".py", ".pyc", ".so", ".pkl", ".pickle", ".bin", ".pt", ".pth"})
_TRIED = ("Zażółć gęślą jaźń (17 km).", " two  spaces\n\n\tand 😀", "don't")
_SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@contextmanager
def output_folder(output: Path, needed_bytes: int = 0) -> Iterator[Path]:
    """A temporary folder beside the output that takes its name at the end, or is removed on any error or interruption.

    Raises:
        ConversionError: As check_output; or the disk becomes full.
    """
    check_output(output, needed_bytes)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}-"))
    try:
        yield temporary
        temporary.chmod(0o755)
        if output.exists():
            output.rmdir()
        temporary.rename(output)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ConversionError(
            f"the disk of {output} became full, nothing is left there: choose another --output"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_output(output: Path, needed_bytes: int = 0) -> None:
    """Whether a folder can be written.

    Args:
        output: New, or an empty folder.
        needed_bytes: What will be written, compared with the free space of the disk.

    Raises:
        ConversionError: The output exists, or the disk is too small.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConversionError(f"{output} exists already: choose another --output or remove it")
    if needed_bytes > (free := free_bytes(output)):
        raise ConversionError(
            f"{output} needs {needed_bytes / 1e9:,.2f} GB, its disk has {free / 1e9:,.2f} GB free: choose another --output"
        )


def free_bytes(output: Path) -> int:
    """Free space where a folder that may not exist yet would be."""
    place = output.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def parse_size(text: str) -> int:
    """Bytes of a size such as 5GB, 300MB or 2GiB. Raises ConversionError, naming the form."""
    number = text.strip().upper().rstrip("KMGIB")
    unit = text.strip().upper().removeprefix(number) or "B"
    try:
        size = int(float(number) * _SIZES[unit])
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size < 1:
        raise ConversionError(f"{text!r} is no size; write 5GB, 300MB or 2GiB")
    return size


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json. Raises ConversionError where it is missing or damaged."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConversionError(f"{path} not found: a Hugging Face model folder is needed") from None
    except (ValueError, NotADirectoryError) as error:
        raise ConversionError(f"{path} is damaged: {error}") from None
    if not isinstance(config, dict):
        raise ConversionError(f"{path} is damaged: it holds no JSON object")
    return config


def write_json(path: Path, content: Any) -> None:
    """Write JSON as transformers lays it out, with keys in the order given."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def check_tied(reader: SafetensorsReader) -> None:
    """For a model whose config ties its output matrix: raise ConversionError if the files hold another one.

    transformers would use that one, a tool that goes by the config would lose it.
    """
    if HEAD not in reader.files:
        return
    if reader.shape(HEAD) != reader.shape(EMBEDDING) or not all(
        torch.equal(one, two) for one, two in zip(reader.row_blocks(EMBEDDING), reader.row_blocks(HEAD), strict=False)
    ):
        raise ConversionError(
            f"{reader.folder / CONFIG} ties {HEAD} to {EMBEDDING}, but the files hold another one: "
            "set tie_word_embeddings to false, or remove it from the files"
        )


def copy_companions(source: Path, target: Path) -> None:
    """Copy tokenizer, chat template and generation defaults; neither weights nor pickles nor code."""
    files.copy_companions(source, target)
    for path in target.iterdir():
        if path.suffix in _CODE:
            path.unlink()


def check_loads(folder: Path) -> int:
    """Compare the weight files with the model that transformers makes of config.json, without reading a weight.

    Returns:
        Parameters of the model, the tied matrix counted once.

    Raises:
        ConversionError: transformers would miss a tensor, not expect one, or expect another shape.
    """
    from transformers import AutoConfig, AutoModelForCausalLM  # 3 s

    reader = SafetensorsReader(folder)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # transformers has no error of its own for a config that it cannot use
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise ConversionError(f"{folder / CONFIG}: transformers makes no model of it ({reason[:200]})") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    # Of names that share a parameter, the files need only the first.
    parameters = dict(model.named_parameters())
    shared = {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(parameters)
    missing = sorted(set(shapes) - shared - set(reader.files))
    unexpected = sorted(set(reader.files) - set(shapes))
    if missing or unexpected:
        fault = f"lacks {missing[0]}" if missing else f"has {unexpected[0]}, which its config.json does not explain"
        raise ConversionError(f"{folder} {fault}: transformers would not load it as it is")
    for name in reader.files:
        if reader.shape(name) != shapes[name]:
            raise ConversionError(f"{folder}: {name} is {reader.shape(name)}, config.json needs {shapes[name]}")
    return sum(parameter.numel() for parameter in parameters.values())


def tokenizer_note(folder: Path) -> str | None:
    """What to tell a user where AutoTokenizer gives other ids than the folder's own tokenizer.json; None where it does not.

    transformers 5 splits the text of every Qwen2 model as Qwen2's own tokenizer does, whatever tokenizer.json says.
    """
    if not (folder / TOKENIZER).is_file():
        return None
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    try:
        own = Tokenizer.from_file(str(folder / TOKENIZER))
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises nothing more special
        return f"its {TOKENIZER} does not load: {error}".replace("\n", " ")
    if all(
        loaded.encode(text, add_special_tokens=False) == own.encode(text, add_special_tokens=False).ids
        for text in _TRIED
    ):
        return None
    return (
        f"AutoTokenizer takes {type(loaded).__name__} for this model and gives other ids than its tokenizer.json: load it "
        "with PreTrainedTokenizerFast, or go on to the Bielik form (upscale_depth.py --form bielik), which needs no care"
    )
