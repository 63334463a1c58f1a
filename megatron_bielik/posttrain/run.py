"""The frame of a post-training command: options to trainer arguments, a model, the run's folder, resume, and the result."""

from __future__ import annotations

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, TrainingArguments, set_seed

from megatron_bielik.checkpoint_files import copy_companions
from megatron_bielik.data.errors import DataError, write_error
from megatron_bielik.posttrain import checkpoints
from megatron_bielik.posttrain.chat import ChatEncoder, choose_template, load_tokenizer, without_marks
from megatron_bielik.posttrain.checks import AnyConfig
from megatron_bielik.posttrain.errors import RunError
from megatron_bielik.posttrain.identity import CONFIG, Identity, claim
from megatron_bielik.posttrain.trainer import RunTrainer
from megatron_bielik.rope_config import write_both_forms
from megatron_bielik.settings import as_yaml
from megatron_bielik.training.run_log import open_log

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def make_arguments(
    config: AnyConfig, accumulation: int, kind: type[Arguments], steps: int = 1, **more: Any
) -> Arguments:
    """The trainer's arguments. Saving, logging and evaluating are asked for by RunTrainer's callback.

    Args:
        config: Checked options.
        accumulation: Micro-steps of a step.
        kind: SFTConfig, DPOConfig or GRPOConfig of TRL.
        steps: Optimizer steps of the run, if they are known already.
        more: What the method adds.
    """
    training, optimizer = config.training, config.optimizer
    fsdp: dict[str, Any] = {}
    if config.parallel.sharding == "fsdp":
        fsdp = {
            "fsdp": True,
            "fsdp_config": {
                "version": 2,
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "reshard_after_forward": True,
                "state_dict_type": "SHARDED_STATE_DICT",
            },
        }
    arguments = kind(
        output_dir=config.checkpoint.dir,
        per_device_train_batch_size=training.micro_batch_size,
        per_device_eval_batch_size=training.micro_batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        learning_rate=optimizer.lr,
        adam_beta1=optimizer.beta1,
        adam_beta2=optimizer.beta2,
        adam_epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.clip_grad,
        optim="adamw_torch_fused",
        lr_scheduler_type="constant",
        # Not told so, accelerate starts no process group on a machine without a GPU.
        use_cpu=torch.accelerator.device_count() == 0,
        bf16=training.precision == "bf16",
        fp16=False,
        seed=training.seed,
        data_seed=training.seed,
        gradient_checkpointing=config.model.gradient_checkpointing,
        ddp_timeout=int(60 * config.parallel.timeout_minutes),
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        log_level="error",
        log_level_replica="error",
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        average_tokens_across_devices=True,
        **fsdp,
        **more,
    )
    assert arguments.device is not None  # asking for it is what starts the process group
    if fsdp and arguments.distributed_state.distributed_type == DistributedType.MULTI_CPU:
        # accelerate shards on GPUs alone, and on CPUs trains whole models without a word. FSDP2 itself runs on gloo.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return arguments


def load_model(config: AnyConfig) -> PreTrainedModel:
    """The model in fp32, which is what AdamW updates; computed in bf16 where training.precision says so.

    Raises:
        RunError: It does not load, or a weight is missing.
    """
    set_seed(config.training.seed)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            config.model.path,
            dtype=torch.float32,
            attn_implementation=config.model.attention,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers, safetensors and torch raise what they like
        raise RunError(f"model.path {config.model.path} does not load: {' '.join(str(error).split())[:300]}") from None
    if missing := sorted(found["missing_keys"]):
        raise RunError(f"model.path {config.model.path} lacks {len(missing)} weights, first {missing[0]}")
    if config.model.kernels:
        from megatron_bielik.posttrain.fused import put_kernels

        put_kernels(model, tuple(name for name in config.model.kernels if name != "cross_entropy"))
    return model


def load_encoder(config: AnyConfig) -> ChatEncoder:
    """Tokenizer and chat template of the run; says so if it is another than the tokenizer's own. Raises ChatError."""
    tokenizer = load_tokenizer(config.model.path)
    encoder = ChatEncoder(tokenizer, choose_template(tokenizer, config.data.chat_template))
    if config.data.chat_template is None and not encoder.writes_as(tokenizer.chat_template) and _is_first():
        print(
            "note: the tokenizer's chat template does not mark the assistant's words and writes otherwise than ChatML, which is "
            "trained and exported in its place; data.chat_template takes another with {% generation %} marks",
            file=sys.stderr,
        )
    tokenizer.chat_template = without_marks(encoder.template)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(encoder.end_of_turn)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return encoder


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def claim_folder(config: AnyConfig, encoder: ChatEncoder, dry_run: bool) -> tuple[Identity, list[str]]:
    """See on the first process that checkpoint.dir is this run's, or free; all processes raise what it finds.

    Returns:
        What the checkpoints shall hold of the run, and what the log should say.

    Raises:
        RunError: As identity.claim, whose other errors become this one.
    """
    found: tuple[Identity, list[str]] = ({}, [])
    problem = ""
    if PartialState().is_main_process:
        try:
            found = claim(config, encoder.template, dry_run)
        except (RunError, DataError) as error:
            problem = str(error)
    found, problem = broadcast_object_list([found, problem])
    if problem:
        raise RunError(problem)
    return found


def run(trainer: RunTrainer, encoder: ChatEncoder, claimed: tuple[Identity, list[str]]) -> int:
    """Train from the newest checkpoint on, or from the start, and write the result when the last step is done.

    Args:
        claimed: Of claim_folder.

    Returns:
        Exit code: 0 done or cleanly stopped, 1 stopped by a failure.
    """
    config, folder = trainer.config, Path(trainer.config.checkpoint.dir)
    trainer.identity, notices = claimed
    newest = checkpoints.newest(folder)
    if trainer.is_world_process_zero():
        notices = notices + checkpoints.remove_unfinished(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(as_yaml(config), encoding="utf-8")
    trainer.accelerator.wait_for_everyone()
    resumed, total = 0, trainer.args.max_steps
    if newest is not None:
        resumed = checkpoints.step_of(newest)
        trainer.restore(newest)
    if resumed >= total and (folder / checkpoints.FINAL).is_dir():
        if trainer.is_world_process_zero():
            for notice in notices:
                print(notice)
            print(f"finished already: {folder / checkpoints.FINAL}; for a new run take another checkpoint.dir")
        return 0
    trainer.write_companions = partial(write_companions, Path(config.model.path), encoder)
    trainer.log_sinks = open_log(config, folder, int(os.environ.get("RANK", "0")), resumed, total)
    with trainer.log_sinks:
        if resumed:
            trainer.event("start", f"resumed from step {resumed} of {total}")
        for notice in notices:
            trainer.event("resume", notice)
        if resumed < total:
            wanted = config.training.eval_at_start and trainer.eval_dataset is not None
            trainer.args.eval_on_start = wanted and resumed == 0
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        elif newest is not None:
            trainer._load_from_checkpoint(str(newest))
        if trainer.why_stopped is None:
            write_result(trainer, encoder, folder / checkpoints.FINAL)
            trainer.event("final", f"model written to {folder / checkpoints.FINAL}")
    return 1 if trainer.failed else 0


def write_result(trainer: RunTrainer, encoder: ChatEncoder, folder: Path) -> None:
    """A Hugging Face folder: weights in the dtype they came in, the tokenizer with the chat template trained with.

    It appears when complete, in place of an earlier one. Generation stops at the end of an assistant's turn.
    """
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped or trainer.model)
    if trainer.is_world_process_zero():
        source = Path(trainer.config.model.path)
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            _write_model(trainer, source, temporary, state)
            write_companions(source, encoder, temporary)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        except OSError as error:
            raise write_error(folder, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def _write_model(trainer: RunTrainer, source: Path, folder: Path, state: dict[str, torch.Tensor]) -> None:
    dtype = AutoConfig.from_pretrained(source, local_files_only=True).dtype or torch.float32
    model = trainer.accelerator.unwrap_model(trainer.model)
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    before = model.config.dtype
    model.config.dtype = dtype
    try:
        model.save_pretrained(folder, state_dict=state)
    finally:
        model.config.dtype = before


def write_companions(source: Path, encoder: ChatEncoder, folder: Path) -> None:
    """What belongs to the weights, in a checkpoint as in the result: the source's tokenizer in all its files, template and
    end-of-turn token as they are trained with, and a config.json that transformers 4.x reads too."""
    copy_companions(source, folder)
    _write_chat(encoder, folder)
    if (folder / "config.json").is_file():  # a sharded checkpoint has none
        write_both_forms(folder)


def _write_chat(encoder: ChatEncoder, folder: Path) -> None:
    """Template and end-of-turn token in the files that are read by other programs."""
    end = encoder.tokenizer.convert_ids_to_tokens(encoder.end_of_turn)
    (folder / "chat_template.jinja").write_text(without_marks(encoder.template), encoding="utf-8")
    for name, change in (
        ("tokenizer_config.json", {"eos_token": end}),
        (
            "generation_config.json",
            {"eos_token_id": encoder.end_of_turn, "pad_token_id": encoder.tokenizer.pad_token_id},
        ),
    ):
        path = folder / name
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        content.pop("chat_template", None)
        if (
            content.get("tokenizer_class") == "PreTrainedTokenizerFast"
            and (folder / "tokenizer.model").is_file()
            and encoder.tokenizer.num_special_tokens_to_add() == 0
        ):
            # For llama.cpp: a chat's texts stand behind control tokens, after which tokenizer.json puts no space either.
            # transformers goes by tokenizer.json alone, where the class is this one.
            content |= {"add_prefix_space": False, "add_bos_token": False}
        path.write_text(json.dumps(content | change, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
