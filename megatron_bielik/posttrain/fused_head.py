"""The output matrix and what follows it without all logits at once: log-probabilities of labels, and a loss of them."""

from __future__ import annotations

import functools
import inspect
import types
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from megatron_bielik.kernels.linear_cross_entropy import linear_cross_entropy

IGNORED = -100  # the label of tokens that count for nothing, as transformers and TRL have it
_METRIC_TOKENS = 1024  # whose logits exist at once for entropy and top-1; a few fp32 copies of them


class FusedError(ValueError):
    """A model or a name that put_kernels cannot work with; the message is one line for the user."""


@dataclass
class HeadOutput(ModelOutput):
    """What model(..., labels=..., fused_lm_head=True) returns, with the field names of TRL's FusedCausalLMOutput.

    Args:
        loss: Scalar, the sum of -log_probs over num_items_in_batch, or over the number of counted labels without it.
        log_probs: fp32 [batch, sequence - 1] (or [batch, sequence] of shift_labels); 0 where a label is ignored.
        label_mask: bool, the same shape; which labels count.
        entropy: fp32, the same shape, in nats, without gradient; none where metrics=False.
        is_top1: bool, the same shape; whether the label is the likeliest token; none where metrics=False.
        mean_logits: fp32, the same shape, mean over the vocabulary, without gradient; none where metrics=False.
    """

    loss: torch.Tensor | None = None
    log_probs: torch.Tensor | None = None
    label_mask: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    is_top1: torch.Tensor | None = None
    mean_logits: torch.Tensor | None = None


class TokenMetrics(NamedTuple):
    """What trainers report of the predictions, without gradient; 0 and False for ignored labels.

    Args:
        entropy: In nats, fp32 [tokens].
        is_top1: Whether the label is the first of the likeliest tokens, bool [tokens].
        mean_logits: Mean logit over the vocabulary, fp32 [tokens].
    """

    entropy: torch.Tensor
    is_top1: torch.Tensor
    mean_logits: torch.Tensor


def token_log_probs(model: PreTrainedModel, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of labels under the model's output matrix; at most 8192 rows of logits exist at once.

    Under FSDP the weight is whole inside the model's own forward pass only, which is where this must be called.

    Args:
        model: Whose output matrix.
        hidden: [tokens, hidden], after the last norm.
        labels: int [tokens], each the token that follows; -100 counts for nothing.

    Returns:
        fp32 [tokens], 0 for ignored labels. Gradients reach hidden and the weight.

    Raises:
        FusedError: An output matrix with a bias, or one that is no plain linear (LoRA).
    """
    counted = labels != IGNORED
    rows, weight = _operands(hidden[counted], _weight(model))
    with torch.autocast(hidden.device.type, enabled=False):
        losses = linear_cross_entropy(rows, weight, labels[counted], 0, weight.size(0), None)
    return losses.new_zeros(labels.shape).masked_scatter(counted, -losses)


@torch.no_grad()
def token_metrics(model: PreTrainedModel, hidden: torch.Tensor, labels: torch.Tensor) -> TokenMetrics:
    """Figures for reports, from logits that are computed for this alone: 2 * hidden * vocabulary FLOPs a token.

    Args:
        model, hidden, labels: As for token_log_probs.

    Raises:
        FusedError: As token_log_probs.
    """
    counted = labels != IGNORED
    rows, weight = _operands(hidden[counted], _weight(model))
    parts = []
    with torch.autocast(hidden.device.type, enabled=False):
        for part, label in zip(rows.split(_METRIC_TOKENS), labels[counted].split(_METRIC_TOKENS), strict=True):
            logits = part @ weight.t()
            log_probs = torch.log_softmax(logits, -1, dtype=torch.float32)
            entropy = -torch.linalg.vecdot(log_probs.exp(), log_probs)
            parts.append((entropy, logits.argmax(-1) == label, logits.mean(-1, dtype=torch.float32)))
    columns = (torch.cat(column) for column in zip(*parts, strict=True))
    return TokenMetrics(*(x.new_zeros(labels.shape).masked_scatter(counted, x) for x in columns))


def _weight(model: PreTrainedModel) -> torch.Tensor:
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise FusedError(
            f"the output matrix is {type(head).__name__}{'' if isinstance(head, nn.Linear) else ', no plain linear'}"
            f"{' with a bias' if getattr(head, 'bias', None) is not None else ''}: leave cross_entropy out of the kernels"
        )
    weight = head.weight
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def _operands(hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in the dtype of the product: autocast's where it is on, as it does not reach into the backward pass."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return hidden.to(dtype), weight.to(dtype)


def put_head(model: PreTrainedModel) -> None:
    """Give the model's forward two ways to a loss without logits; all other calls are those of the forward it had.

    - model(..., labels=..., fused_lm_head=True, metrics=True): HeadOutput, what TRL's trainers read, as its
      add_fused_lm_head gives it. Entropy, top-1 hits and mean logits cost one more product with the output matrix
      (token_metrics); metrics=False leaves them out. TRL's own head has them at nearly no cost, so a trainer that reads
      them at every step is best left with that one, and GRPO must be: here there is no temperature, and entropy has no
      gradient. A trainer puts its head in when it is made: put_head after that, or it has no effect.
    - model(..., labels=...) while training: the loss of transformers, logits None. A batch without labels has loss 0 here.

    Raises:
        FusedError: As for token_log_probs, or a forward that was replaced by something other than a method.
    """
    if getattr(model.forward, "is_fused_head", False):
        return
    _weight(model)
    # A function that is given the model, not a method of this one: a deep copy of the model must not call the first.
    original = getattr(model.forward, "__func__", None)
    if original is None:
        raise FusedError(
            f"kernels: the forward of {type(model).__name__} was replaced before (hooks of a device map); "
            "put the kernels into a model as it was loaded"
        )
    parameters = [name for name in inspect.signature(type(model).forward).parameters if name != "self"]

    # generate() and trainers look at the signature of forward.
    @functools.wraps(type(model).forward)
    def forward(
        self: PreTrainedModel, *args: Any, fused_lm_head: bool = False, metrics: bool = True, **kwargs: Any
    ) -> Any:
        kwargs |= dict(zip(parameters, args, strict=False))
        has_labels = kwargs.get("labels") is not None or kwargs.get("shift_labels") is not None
        if fused_lm_head:
            return _fused(self, kwargs, metrics)
        as_usual = not self.training or kwargs.get("return_dict") is False or not _is_zero(kwargs.get("logits_to_keep"))
        if not has_labels or as_usual:
            return original(self, **kwargs)
        outputs, found = _loss_of(self, kwargs)
        return CausalLMOutputWithPast(
            loss=found.loss,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    forward.is_fused_head = True  # type: ignore[attr-defined]
    model.forward = types.MethodType(forward, model)


def _is_zero(count: Any) -> bool:
    return count is None or (isinstance(count, int) and count == 0)


def _fused(model: PreTrainedModel, kwargs: dict[str, Any], metrics: bool) -> HeadOutput:
    kwargs["use_cache"] = False
    return _loss_of(model, kwargs, metrics)[1]


def _loss_of(model: PreTrainedModel, kwargs: dict[str, Any], metrics: bool = False) -> tuple[Any, HeadOutput]:
    """The decoder's outputs and what the labels make of them; labels are shifted here, shift_labels were before."""
    labels, shifted = kwargs.pop("labels", None), kwargs.pop("shift_labels", None)
    items = kwargs.pop("num_items_in_batch", None)
    kwargs.pop("logits_to_keep", None)
    outputs = model.base_model(**kwargs)
    hidden = outputs.last_hidden_state
    if shifted is None:
        hidden, shifted = hidden[:, :-1], labels[:, 1:]
    shifted = shifted.to(hidden.device)
    flat, wanted = hidden.flatten(0, 1), shifted.flatten()
    log_probs = token_log_probs(model, flat, wanted)
    mask = shifted != IGNORED
    # Clamped: a batch without labels has the loss 0, not 0 / 0.
    loss = -log_probs.sum() / (mask.sum().clamp(min=1) if items is None else items)
    found = HeadOutput(loss=loss, log_probs=log_probs.view(shifted.shape), label_mask=mask)
    if metrics:
        for name, values in token_metrics(model, flat.detach(), wanted)._asdict().items():
            found[name] = values.view(shifted.shape)
    return outputs, found
