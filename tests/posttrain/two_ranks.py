"""Started by test_ranks.py under torchrun: short runs of SFT, DPO and GRPO, each as one process would make them.

GRPO's answers come from a table by prompt and place in the group, since sampling differs between ranks.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from megatron_bielik.posttrain import dpo, grpo, sft
from megatron_bielik.posttrain.checks import check, world_size_of_launch
from megatron_bielik.posttrain.config import DPOConfig, GRPOConfig, SFTConfig
from megatron_bielik.posttrain.grpo_trainer import BielikGRPOTrainer
from megatron_bielik.settings import make_parser, parse


def answer_from_a_table(self: Any, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
    """An answer that depends on the prompt and on its place in the group, whichever rank makes it."""
    answers = []
    group, per_rank = self.config.sampling.group_size, len(prompt_ids)
    first = self.args.process_index * per_rank
    for place, ids in enumerate(prompt_ids):
        number = (first + place) % group
        answer = [40 + (sum(ids) * (number + 1) + token) % 300 for token in range(3 + 2 * number)]
        answers.append([*answer, self.eos_token_ids[0]])
    return answers, None


def train_all(folder: Path, sharding: str) -> None:
    """Runs of the folder's sft.yaml, dpo.yaml and grpo.yaml, each in <method>-<ranks>-<sharding>."""
    for kind, module, name in ((SFTConfig, sft, "sft"), (DPOConfig, dpo, "dpo"), (GRPOConfig, grpo, "grpo")):
        options = [f"--config={folder / name}.yaml", f"--parallel.sharding={sharding}"]
        options.append(f"--checkpoint.dir={folder / f'{name}-{world_size_of_launch()}-{sharding}'}")
        config, _ = parse(make_parser(name, "", options=kind), options)
        code = module.train(config, check(config, world_size_of_launch()))
        if code:
            raise SystemExit(f"{name} ended with {code}")


if __name__ == "__main__":
    BielikGRPOTrainer._generate_single_turn = answer_from_a_table
    train_all(Path(sys.argv[1]), sys.argv[2])
