"""Supervised fine-tuning: python -m megatron_bielik.posttrain.sft --config run.yaml, or under torchrun or accelerate launch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from megatron_bielik.posttrain.config import SFTConfig
from megatron_bielik.posttrain.job import prepared, start

if TYPE_CHECKING:
    from megatron_bielik.posttrain.chat import ChatEncoder
    from megatron_bielik.posttrain.sft_data import Packed

EXAMPLES = """examples:
  python -m megatron_bielik.posttrain.sft --config examples/posttrain/sft.yaml
  python -m megatron_bielik.posttrain.sft --config run.yaml --dry_run
  torchrun --nproc-per-node 8 -m megatron_bielik.posttrain.sft --config examples/bielik-4.5b/sft.yaml
A run started again with the same checkpoint.dir goes on where its newest checkpoint ends."""


def main(arguments: list[str] | None = None) -> int:
    """Run the job. Returns the exit code, as job.start does."""
    return start("sft", "Fine-tune a model on conversations.", EXAMPLES, SFTConfig, train, arguments)


def train(config: SFTConfig, accumulation: int, dry_run: bool = False) -> int:
    """Prepare the data, report, train. Returns the exit code."""
    from trl import SFTConfig as Arguments

    from megatron_bielik.posttrain.order import steps_of
    from megatron_bielik.posttrain.run import claim_folder, load_encoder, load_model, make_arguments, run
    from megatron_bielik.posttrain.sft_data import Collator
    from megatron_bielik.posttrain.sft_trainer import BielikSFTTrainer
    from megatron_bielik.posttrain.trainer import quiet_libraries

    with quiet_libraries():
        encoder = load_encoder(config)
        arguments = make_arguments(
            config,
            accumulation,
            Arguments,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        claimed = claim_folder(config, encoder, dry_run)
        with arguments.main_process_first(local=False):
            train_set = _rows(config, encoder, "train", arguments.process_index == 0)
            valid_set = _rows(config, encoder, "valid", arguments.process_index == 0) if config.data.valid else None
        if dry_run:
            return 0
        training = config.training
        arguments.max_steps = training.steps or steps_of(
            len(train_set.rows), training.global_batch_size, training.epochs
        )
        trainer = BielikSFTTrainer(
            config,
            model=load_model(config),
            args=arguments,
            train_dataset=train_set.rows,
            eval_dataset=valid_set.rows if valid_set else None,
            processing_class=encoder.tokenizer,
            data_collator=Collator(encoder.tokenizer.pad_token_id, config.model.attention == "flash_attention_2"),
        )
        return run(trainer, encoder, claimed)


def _rows(config: SFTConfig, encoder: ChatEncoder, name: str, speak: bool) -> Packed:
    """The prepared and packed set; the first process prints its report."""
    from megatron_bielik.posttrain.data import print_report
    from megatron_bielik.posttrain.sft_data import encode_set, pack_set

    found = prepared(config, encoder, name, "conversations", encode_set)
    packed = pack_set(found, config.data)
    if speak:
        print_report(name, "conversations", found.report, _lines(config, packed, found.report.trained, name))
    return packed


def _lines(config: SFTConfig, packed: Packed, trained: int, name: str) -> list[tuple[str, str]]:
    """What the report says about rows, steps and the adaptive rate."""
    from megatron_bielik.posttrain.order import steps_of

    rows, batch = len(packed.rows), config.training.global_batch_size
    lines = [
        (f"rows of at most {packed.sequence_length:,} tokens", f"{rows:,}"),
        ("filled" if config.data.packing else "filled (not packed)", f"{packed.efficiency:.1%}"),
    ]
    if name == "train":
        lines.append(("steps", f"{config.training.steps or steps_of(rows, batch, config.training.epochs):,}"))
    if name == "train" and config.adaptive_lr.enabled:
        share = (trained / rows / packed.sequence_length) ** 0.5
        lines.append(("adaptive rate at the mean of trained tokens", f"{share:.3f} of the scheduled one"))
    return lines


if __name__ == "__main__":
    sys.exit(main())
