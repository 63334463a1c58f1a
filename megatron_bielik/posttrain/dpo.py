"""Preference optimisation by DPO-Positive: python -m megatron_bielik.posttrain.dpo --config run.yaml, or under torchrun."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from megatron_bielik.posttrain.config import DPOConfig
from megatron_bielik.posttrain.job import prepared, start

if TYPE_CHECKING:
    from megatron_bielik.posttrain.chat import ChatEncoder
    from megatron_bielik.posttrain.data import Prepared

EXAMPLES = """examples:
  python -m megatron_bielik.posttrain.dpo --config examples/posttrain/dpo.yaml
  python -m megatron_bielik.posttrain.dpo --config run.yaml --loss.positive 0 --checkpoint.dir runs/plain-dpo
  torchrun --nproc-per-node 8 -m megatron_bielik.posttrain.dpo --config examples/bielik-4.5b/dpo.yaml
Pairs are made by tools/prepare_preferences.py. A run started again with the same checkpoint.dir goes on where its newest
checkpoint ends."""


def main(arguments: list[str] | None = None) -> int:
    """Run the job. Returns the exit code, as job.start does."""
    return start("dpo", "Tune a model on preferences by DPO-Positive.", EXAMPLES, DPOConfig, train, arguments)


def train(config: DPOConfig, accumulation: int, dry_run: bool = False) -> int:
    """Prepare the data, report, compute the reference, train. Returns the exit code."""
    from datasets import Dataset
    from trl import DPOConfig as Arguments

    from megatron_bielik.posttrain.dpo_data import PairCollator
    from megatron_bielik.posttrain.dpo_trainer import BielikDPOTrainer
    from megatron_bielik.posttrain.order import steps_of
    from megatron_bielik.posttrain.run import claim_folder, load_encoder, load_model, make_arguments, run
    from megatron_bielik.posttrain.trainer import quiet_libraries

    with quiet_libraries():
        encoder = load_encoder(config)
        arguments = make_arguments(
            config, accumulation, Arguments, max_length=None, precompute_ref_log_probs=True, disable_dropout=True
        )
        claimed = claim_folder(config, encoder, dry_run)
        with arguments.main_process_first(local=False):
            speak = arguments.process_index == 0
            found = {"train": _prepared(config, encoder, "train", speak)}
            if config.data.valid:
                found["eval"] = _prepared(config, encoder, "valid", speak)
        if dry_run:
            return 0
        sets = {name: Dataset.from_file(str(one.path)).with_format("numpy") for name, one in found.items()}
        training = config.training
        arguments.max_steps = training.steps or steps_of(
            len(sets["train"]), training.global_batch_size, training.epochs
        )
        trainer = BielikDPOTrainer(
            config,
            {name: one.path for name, one in found.items()},
            model=load_model(config),
            args=arguments,
            train_dataset=sets["train"],
            eval_dataset=sets.get("eval"),
            processing_class=encoder.tokenizer,
            data_collator=PairCollator(encoder.tokenizer.pad_token_id),
        )
        return run(trainer, encoder, claimed)


def _prepared(config: DPOConfig, encoder: ChatEncoder, name: str, speak: bool) -> Prepared:
    """The prepared set; the first process prints its report."""
    from megatron_bielik.posttrain.data import print_report
    from megatron_bielik.posttrain.dpo_data import encode_pairs

    found = prepared(config, encoder, name, "pairs", encode_pairs)
    if speak:
        print_report(name, "pairs", found.report, [])
    return found


if __name__ == "__main__":
    sys.exit(main())
