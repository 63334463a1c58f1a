"""How good an initialisation is before any training: loss per character on held-out text (the Bielik report's own check).

Per character, since tokens of two tokenizers are not the same work. A high first loss means a poor initialisation. Needs the
whole model in memory, unlike the replacement itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from megatron_bielik.surgery.methods import Initializer, Method
from megatron_bielik.surgery.model_folder import write_json
from megatron_bielik.surgery.replace_tokenizer import SourceModel, matrices
from megatron_bielik.surgery.safetensors_files import ConversionError
from megatron_bielik.tokenizer.vocabulary import Vocabulary

CHARACTERS = 1000  # of each document; few enough for any model's context


@dataclass(frozen=True)
class Loss:
    """Negative log-likelihood in nats of the same text.

    Attributes:
        name: Of the initialisation; "source" is the model as it was, with its own tokenizer.
        nats: Summed.
        tokens, characters: Of the text.
    """

    name: str
    nats: float
    tokens: int
    characters: int

    @property
    def per_character(self) -> float:
        """Nats per character."""
        return self.nats / self.characters

    @property
    def per_token(self) -> float:
        """Nats per token; comparable only between the same tokenizers."""
        return self.nats / self.tokens


def first_losses(
    initializer: Initializer,
    model: Path,
    methods: Sequence[Method],
    texts: Iterable[str],
    limit: int = 64,
    seed: int = 42,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Loss]:
    """Loss of the source model and of every method, on the beginnings of up to `limit` documents, in fp32 on the CPU.

    Args:
        initializer: Holds both vocabularies and what the methods need.
        model: Hugging Face folder.
        methods: To be measured; each takes the place of the one before in the same model.
        texts: Held-out documents.
        limit: Documents.
        seed: Of random rows.
        progress: Called with the name of what is measured next.

    Raises:
        ConversionError: No text.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = SourceModel.open(model, initializer.source)
    initializer.check(methods)
    held_out = [text[:CHARACTERS] for text, _ in zip(_not_empty(texts), range(limit), strict=False)]
    if not held_out:
        raise ConversionError("the text to evaluate on is empty")
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True).eval()
    progress("source")
    losses = [loss_on(network, initializer.source, held_out, "source")]
    for method in methods:
        progress(method)
        inputs, outputs = (rows.float() for rows in matrices(source, initializer, initializer.build(method), seed))
        network.config.tie_word_embeddings = False
        network.set_input_embeddings(torch.nn.Embedding.from_pretrained(inputs))
        head = torch.nn.Linear(outputs.size(1), outputs.size(0), bias=False)
        head.weight = torch.nn.Parameter(outputs, requires_grad=False)
        network.set_output_embeddings(head)
        losses.append(loss_on(network, initializer.target, held_out, method))
    return losses


@torch.no_grad()
def loss_on(network: Any, vocabulary: Vocabulary, texts: Sequence[str], name: str) -> Loss:
    """Every token of every text, the first given only the token that begins or ends documents."""
    tokenizer = Tokenizer.from_file(str(vocabulary.folder / "tokenizer.json"))
    begin = vocabulary.roles.get("bos", vocabulary.roles.get("eos", 0))
    nats, tokens = 0.0, 0
    for text in texts:
        ids = torch.tensor([[begin, *tokenizer.encode(text, add_special_tokens=False).ids]])
        logits = network(input_ids=ids).logits[0, :-1].float()
        nats += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        tokens += ids.size(1) - 1
    return Loss(name, nats, tokens, sum(map(len, texts)))


def write_losses(losses: Sequence[Loss], folder: Path) -> None:
    """first_loss.json with every figure, and first_loss.png."""
    figures = [asdict(loss) | {"per_character": loss.per_character, "per_token": loss.per_token} for loss in losses]
    write_json(folder / "first_loss.json", figures)
    draw(losses, folder / "first_loss.png", f"First loss of {folder.name}")


def draw(losses: Sequence[Loss], path: Path, title: str) -> None:
    """A bar for each loss per character, lowest first; PNG or any format that matplotlib knows by the suffix."""
    from matplotlib.figure import Figure

    ordered = sorted(losses, key=lambda loss: loss.per_character)
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(ordered)), layout="constrained")
    axes = figure.add_subplot()
    colours = ["#7f7f7f" if loss.name == "source" else "#1f77b4" for loss in ordered]
    bars = axes.barh([loss.name for loss in ordered], [loss.per_character for loss in ordered], color=colours)
    axes.bar_label(bars, fmt="%.3f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("nats per character (lower is better)")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _not_empty(texts: Iterable[str]) -> Iterable[str]:
    return (text for text in texts if text)
