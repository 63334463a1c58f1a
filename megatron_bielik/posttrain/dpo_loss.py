"""DPO-Positive: preferences without letting the chosen answer become less likely than it was (Pal et al., 2024).

    z = beta * [ (pi_c - rho_c) - (pi_r - rho_r) - lambda * max(0, rho_c - pi_c) ]        loss = -log sigmoid(z)

pi, rho: log-probability of an answer (c chosen, r rejected) under policy and reference. The penalty stands inside beta, as in
the paper's later versions; code that has it outside needs lambda * beta. lambda = 0 is DPO (Rafailov et al., 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Pairs:
    """Log-probabilities of the answers, fp32 [pairs]: sums over their tokens, or means."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    reference_chosen: torch.Tensor
    reference_rejected: torch.Tensor


def preference_losses(pairs: Pairs, beta: float, positive: float) -> torch.Tensor:
    """Loss of each pair, fp32 [pairs].

    Args:
        pairs: Log-probabilities.
        beta: Scale of the log-ratios.
        positive: Lambda.
    """
    chosen = pairs.chosen - pairs.reference_chosen
    rejected = pairs.rejected - pairs.reference_rejected
    return -functional.logsigmoid(beta * (chosen - rejected - positive * torch.relu(-chosen)))


def pair_metrics(pairs: Pairs, beta: float) -> dict[str, torch.Tensor]:
    """What tells DPO-Positive from DPO, fp32 [pairs] each.

    Returns:
        chosen_log_ratio and rejected_log_ratio: log-probability against the reference; the first below 0 is what the penalty
        is for. margin: beta times their difference. accuracy: 1 where it is positive. chosen_fell: 1 where the chosen
        answer is less likely than under the reference. chosen_log_prob and rejected_log_prob under the policy.
    """
    chosen = pairs.chosen - pairs.reference_chosen
    rejected = pairs.rejected - pairs.reference_rejected
    return {
        "chosen_log_ratio": chosen,
        "rejected_log_ratio": rejected,
        "margin": beta * (chosen - rejected),
        "accuracy": (chosen > rejected).float(),
        "chosen_fell": (chosen < 0).float(),
        "chosen_log_prob": pairs.chosen,
        "rejected_log_prob": pairs.rejected,
    }
