"""Started by test_ranks.py under torchrun: short runs of SFT, DPO and GRPO, each as one process would make them.

GRPO's answers come from a table by prompt and place in the group, since sampling differs between ranks.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

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
    """Runs of the folder's sft.yaml, dpo.yaml and grpo.yaml, each in <method>-<ranks>-<sharding>.

    With two ranks also <method>-2-<sharding>-again, which goes on from the first one's middle.
    """
    ranks = world_size_of_launch()
    for kind, module, name in ((SFTConfig, sft, "sft"), (DPOConfig, dpo, "dpo"), (GRPOConfig, grpo, "grpo")):
        whole = folder / f"{name}-{ranks}-{sharding}"
        again = folder / f"{name}-{ranks}-{sharding}-again"
        for target in (whole, again) if ranks > 1 else (whole,):
            if target == again:
                if int(os.environ["RANK"]) == 0:
                    shutil.copytree(whole, again, ignore=shutil.ignore_patterns("final", "checkpoint-4"))
                torch.distributed.barrier()
            options = [
                f"--config={folder / name}.yaml",
                f"--parallel.sharding={sharding}",
                f"--checkpoint.dir={target}",
            ]
            config, _ = parse(make_parser(name, "", options=kind), options)
            if code := module.train(config, check(config, ranks)):
                raise SystemExit(f"{name} ended with {code}")


if __name__ == "__main__":
    BielikGRPOTrainer._generate_single_turn = answer_from_a_table
    train_all(Path(sys.argv[1]), sys.argv[2])
