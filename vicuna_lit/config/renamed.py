"""Names that a key has had, and names that other tools have for it: both are refused with ours.

Files that an earlier version wrote (`config.json`, `result.json`, a checkpoint's state) are read with the new names.
"""

import difflib
import re
from collections.abc import Sequence
from typing import Any

RENAMED = {
    "heldout": "validation",
    "data.heldout_path": "data.validation_path",
    "data.heldout_fraction": "data.validation_fraction",
    "data.max_heldout": "data.max_validation",
    "heldout_fraction": "validation_fraction",
    "evaluate": "samples",
    "evaluate.at_end": "evaluate_after",
    "supervised": "train_on",
    "head": "lm_head",
    "finetune.head": "finetune.lm_head",
    # of files
    "heldout_loss": "val_loss",
    "heldout_loss_before": "val_loss_before",
    "heldout_by_step": "val_by_step",
    "lost_time.exams": "lost_time.validation",
    "exam": "validation",
    "exam.heldout": "validation.losses",
}
"""Old key → new key; what lies below a key moves with it."""
VALUES = {
    "train_on": {"replies": "assistant_messages", "last_reply": "last_assistant_message"},
    "step_unit": {"piece": "example"},
    "objective": {"heldout_loss": "val_loss", "heldout_loss_before": "val_loss_before"},
}
"""New key → old value → new value."""
ELSEWHERE = {
    # Hugging Face's Trainer and TRL
    "learning_rate": "optimizer.lr",
    "lr": "optimizer.lr",
    "num_train_epochs": "trainer.epochs",
    "max_steps": "trainer.max_steps",
    "per_device_train_batch_size": "conversations_per_step (in all) and tokens_per_device (what memory holds)",
    "gradient_accumulation_steps": "conversations_per_step; accumulation follows from it and tokens_per_device",
    "max_seq_length": "context_length",
    "max_length": "context_length",
    "model_max_length": "context_length",
    "warmup_ratio": "optimizer.warmup_ratio",
    "warmup": "optimizer.warmup_ratio, a share of all steps",
    "warmup_steps": "optimizer.warmup_ratio, a share of all steps",
    "weight_decay": "optimizer.weight_decay",
    "max_grad_norm": "optimizer.clip_norm",
    "lr_scheduler_type": "optimizer.schedule",
    "optim": "optimizer.kind",
    "bf16": "precision=bf16-mixed for true, fp32 for false",
    "fp16": "precision=bf16-mixed; there is no fp16",
    "output": "run.dir",
    "output_dir": "run.dir",
    "run_name": "run.name",
    "save_steps": "checkpoint.every_steps",
    "save_total_limit": "checkpoint.keep",
    "save_strategy": "checkpoint.every_steps",
    "eval_steps": "validation.every_steps",
    "eval_strategy": "validation.every_steps",
    "evaluation_strategy": "validation.every_steps",
    "early_stopping_patience": "callbacks=[early_stopping] and callbacks.early_stopping.patience",
    "group_by_length": "nothing: rows are packed",
    "neftune_noise_alpha": "nothing: there is no noise on embeddings",
    "dataset_text_field": "data.columns, where the keys of a record do not say its form (docs/data.md)",
    "push_to_hub": "push=organisation/name",
    "hub_model_id": "push=organisation/name",
    "resume_from_checkpoint": "resume=auto, with the same run.dir",
    "report_to": "wandb.mode",
    "assistant_only_loss": "train_on=assistant_messages for true, all_tokens for false",
    "completion_only_loss": "train_on=assistant_messages for true, all_tokens for false",
    "use_liger_kernel": "kernels=liger for true",
    "attn_implementation": "attention",
    "torch_compile": "compile",
    "chat_template": "template",
    "model_name_or_path": "model.path",
    "dataset_name": "data=organisation/name of the Hub, or data=<file or folder>",
    "eos_token": "template",
    "adam_beta1": "optimizer.betas=[0.9,0.95], both in one",
    "adam_beta2": "optimizer.betas=[0.9,0.95], both in one",
    "adam_epsilon": "optimizer.eps",
    "torch_dtype": "precision",
    "dtype": "precision",
    "use_peft": "finetune=lora for true",
    "load_in_4bit": "finetune=qlora for true",
    "load_in_8bit": "finetune=qlora, of 4 bits; there is no 8",
    "packing_strategy": "packing; which conversations a step holds does not follow from it",
    "eval_packing": "packing",
    "padding_free": "packing",
    "gradient_checkpointing_kwargs": "gradient_checkpointing",
    "per_device_eval_batch_size": "tokens_per_device",
    "max_eval_samples": "data.max_validation",
    "eval_dataset": "data.validation_path",
    "dataloader_num_workers": "nothing: conversations are tokenised once, before the first step",
    "dataset_num_proc": "nothing: conversations are tokenised once, before the first step",
    "load_best_model_at_end": "nothing: hf/ holds the last step; checkpoints keep the best one beside the last",
    "logging_dir": "run.dir",
    "logging_strategy": "nothing: every step is logged",
    "overwrite_output_dir": "resume=never, which starts anew",
    "trust_remote_code": "nothing: no code of a model's folder is run",
    "loss_type": "nothing: another loss is a module of yours (docs/python.md)",
    "label_smoothing_factor": "nothing: another loss is a module of yours (docs/python.md)",
    "data_seed": "seed",
    "full_determinism": "deterministic",
    "use_cpu": "trainer.accelerator=cpu for true",
    "activation_checkpointing": "gradient_checkpointing",
    "lr_scheduler_kwargs": "optimizer.schedule, optimizer.cooldown_ratio",
    "metric_for_best_model": "nothing: the best checkpoint is that of the least validation loss",
    "eval_on_start": "nothing: there is a validation before the first step",
    "train_sampling_strategy": "order",
    "average_tokens_across_devices": "nothing: a step's loss is over the tokens of all devices",
    "torch_compile_mode": "compile",
    "fsdp_config": "strategy=fsdp",
    "activation_offloading": "offload_activations",
    "chat_template_path": "template",
    "shuffle_dataset": "order",
    "dataset_train_split": "data.path, a file of its own",
    "dataset_test_split": "data.validation_path",
    "model_revision": "model=organisation/name@revision",
    "truncation_mode": "nothing: what is too long is cut between exchanges",
    "use_dora": "nothing: there is no DoRA",
    "use_rslora": "finetune.alpha; an adapter is scaled by alpha / rank",
    "lora_modules_to_save": "nothing: beside adapters no weight is trained",
    "init_lora_weights": "nothing: adapters begin as in the article, B at 0",
    # axolotl and LLaMA-Factory
    "base_model": "model.path",
    "datasets": "data=<file or folder>, or data=organisation/name of the Hub",
    "dataset": "data=<file or folder>, or data=organisation/name of the Hub",
    "val_set_size": "data.validation_fraction",
    "val_size": "data.validation_fraction",
    "sequence_len": "context_length",
    "cutoff_len": "context_length",
    "sample_packing": "packing",
    "micro_batch_size": "tokens_per_device",
    "num_epochs": "trainer.epochs",
    "train_on_inputs": "train_on=all_tokens for true, assistant_messages for false",
    "roles_to_train": "train_on=assistant_messages",
    "train_on_eos": "nothing: the stop behind each reply is in the loss",
    "eval_sample_packing": "packing",
    "test_datasets": "data.validation_path",
    "evals_per_epoch": "validation.every_steps",
    "saves_per_epoch": "checkpoint.every_steps",
    "xformers_attention": "attention",
    "sdp_attention": "attention",
    "special_tokens": "model.add_tokens",
    "dataset_prepared_path": "nothing: tokenised conversations are kept, and shared (token_cache_gb)",
    "wandb_name": "wandb.name",
    "wandb_entity": "wandb.entity",
    "train_on_prompt": "train_on=all_tokens for true, assistant_messages for false",
    "mask_history": "train_on=last_assistant_message for true",
    "neat_packing": "packing",
    "flash_attn": "attention",
    "enable_liger_kernel": "kernels=liger for true",
    "quantization_bit": "finetune=qlora, of 4 bits",
    "freeze_trainable_layers": "finetune=last_layers, of finetune.layers",
    "rope_scaling": "model.rope_scaling",
    "enable_thinking": "template, by template.variables={enable_thinking: …}",
    "max_samples": "data.max_conversations",
    "preprocessing_num_workers": "nothing: conversations are tokenised once, before the first step",
    "overwrite_cache": "token_cache_gb=0, which keeps none",
    "plot_loss": "nothing: report.html has the curves",
    "stage": "nothing: supervised fine-tuning is all that there is",
    "do_train": "nothing: the command trains",
    "adapter": "finetune=lora or qlora",
    "finetuning_type": "finetune",
    "lora_r": "finetune.rank",
    "lora_rank": "finetune.rank",
    "lora_alpha": "finetune.alpha",
    "lora_dropout": "nothing: LoRA has no dropout",
    "finetune.dropout": "nothing: LoRA has no dropout",
    "lora_target_modules": "finetune.targets",
    "lora_target_linear": "finetune.targets=all-linear",
    "lora_target": "finetune.targets",
    "lr_scheduler": "optimizer.schedule",
    "flash_attention": "attention",
    "pad_to_sequence_len": "nothing: rows are packed",
    "wandb_project": "wandb.project",
    "deepspeed": "strategy=zero2 or zero3",
    "fsdp": "strategy=fsdp",
    "logging_steps": "nothing: every step is logged",
    "auto_resume_from_checkpoints": "resume=auto, with the same run.dir",
    "eval_batch_size": "tokens_per_device",
    "wandb_mode": "wandb.mode",
    "use_wandb": "wandb.mode",
    "wandb_log_model": "wandb.log_model",
    "wandb_watch": "nothing: norms are logged, weights are not",
    "shuffle_merged_datasets": "order",
    "chat_template_jinja": "template",
    "eager_attention": "attention",
    "flex_attention": "attention=flex for true",
    "sage_attention": "attention",
    "noisy_embedding_alpha": "nothing: there is no noise on embeddings",
    "peft_use_dora": "nothing: there is no DoRA",
    "peft_use_rslora": "finetune.alpha; an adapter is scaled by alpha / rank",
    "unfrozen_parameters": "finetune=partial, of finetune.train",
    "bfloat16": "precision=bf16-true for true",
    "float16": "precision=bf16-mixed; there is no fp16",
    "dataset_exact_deduplication": "nothing: vicuna-prepare drops copies",
    "default_system_message": "system_prompt",
    "excess_length_strategy": "nothing: what is too long is cut between exchanges",
    "train_on_eot": "nothing: the stop behind each reply is in the loss",
    "sequence_parallel_degree": "nothing: a row lies on one device",
    "context_parallel_size": "nothing: a row lies on one device",
    "tensor_parallel_size": "nothing: a layer's tensors are spread by strategy alone",
    "field_messages": "data.columns",
    "merge_lora": "nothing: hf/ holds the merged weights",
    "disable_gradient_checkpointing": "gradient_checkpointing=none for true",
    "default_system": "system_prompt",
    "early_stopping_steps": "callbacks=[early_stopping] and callbacks.early_stopping.patience",
    "mix_strategy": "data.sources, with a weight for each",
    "interleave_probs": "data.sources, with a weight for each",
    "pure_bf16": "precision=bf16-true for true",
    "tokenized_path": "nothing: tokenised conversations are kept, and shared (token_cache_gb)",
    "train_from_scratch": "model=<a size of conf/model>",
    "dataset_dir": "data=<folder>",
    "resize_vocab": "model.add_tokens",
    "export_dir": "run.dir, whose hf/ is the model",
    "use_galore": "optimizer.kind=adamw_8bit or adafactor save state too",
    "use_badam": "optimizer.kind=adamw_8bit or adafactor save state too",
    "shift_attn": "nothing: attention is the model's own",
    "disable_shuffling": "order",
    # torchtune, LLM Foundry and Unsloth
    "clip_grad_norm": "optimizer.clip_norm",
    "epochs": "trainer.epochs",
    "max_steps_per_epoch": "trainer.max_steps",
    "enable_activation_checkpointing": "gradient_checkpointing",
    "enable_activation_offloading": "offload_activations",
    "metric_logger": "wandb.mode",
    "packed": "packing",
    "run_val_every_n_steps": "validation.every_steps",
    "dataset_val": "data.validation_path",
    "batch_size_val": "tokens_per_device",
    "log_every_n_steps": "nothing: every step is logged",
    "shuffle": "order",
    "optimizer_in_bwd": "nothing: a step's gradients are summed first",
    "num_warmup_steps": "optimizer.warmup_ratio, a share of all steps",
    "lora_attn_modules": "finetune.targets",
    "apply_lora_to_mlp": "finetune.targets",
    "apply_lora_to_output": "nothing: the LM head has no adapter",
    "save_adapter_weights_only": "nothing: hf/ holds the merged weights",
    "max_seq_len": "context_length",
    "tokenizer": "model.tokenizer",
    "checkpointer": "model.path, and run.dir for what comes out",
    "max_duration": "trainer.epochs, or trainer.max_steps",
    "global_train_batch_size": "conversations_per_step",
    "device_train_microbatch_size": "tokens_per_device",
    "device_eval_batch_size": "tokens_per_device",
    "eval_interval": "validation.every_steps",
    "save_interval": "checkpoint.every_steps",
    "save_folder": "run.dir",
    "save_num_checkpoints_to_keep": "checkpoint.keep",
    "autoresume": "resume=auto, with the same run.dir",
    "eval_first": "nothing: there is a validation before the first step",
    "load_path": "model=<folder> for weights, resume=auto for a run of one's own",
    "train_loader": "data",
    "eval_loader": "data.validation_path",
    "loggers": "wandb.mode",
    "pretrained_model_name_or_path": "model.path",
    "clipping_threshold": "optimizer.clip_norm",
    "global_seed": "seed",
    "model_name": "model.path",
    "full_finetuning": "finetune=full for true",
    "r": "finetune.rank",
    "target_modules": "finetune.targets",
    "random_state": "seed",
    "use_gradient_checkpointing": "gradient_checkpointing",
    # Lightning and its Hydra template
    "trainer.max_epochs": "trainer.epochs",
    "max_epochs": "trainer.epochs",
    "trainer.precision": "precision",
    "trainer.strategy": "strategy",
    "trainer.gradient_clip_val": "optimizer.clip_norm",
    "gradient_clip_val": "optimizer.clip_norm",
    "trainer.accumulate_grad_batches": "conversations_per_step; accumulation follows from it and tokens_per_device",
    "trainer.val_check_interval": "validation.every_steps",
    "trainer.limit_train_batches": "trainer.max_steps",
    "trainer.limit_val_batches": "data.max_validation",
    "trainer.deterministic": "deterministic",
    "datamodule": "data",
    "batch_size": "conversations_per_step",
    "ckpt_path": "resume=auto, with the same run.dir",
    "logger": "wandb.mode",
    "tags": "wandb.tags",
    "task_name": "run.name",
    # of launchers and schedulers
    "gpus": "trainer.devices",
    "n_gpus": "trainer.devices",
    "num_gpus": "trainer.devices",
    "ngpus": "trainer.devices",
    "n_gpu": "trainer.devices",
    "gpus_per_node": "trainer.devices",
    "devices": "trainer.devices",
    "num_devices": "trainer.devices",
    "num_processes": "trainer.devices",
    "nproc_per_node": "trainer.devices",
    "nodes": "nothing: torchrun starts the processes of several machines",
    "nnodes": "nothing: torchrun starts the processes of several machines",
    "num_nodes": "nothing: torchrun starts the processes of several machines",
    "num_machines": "nothing: torchrun starts the processes of several machines",
}
"""Another tool's key → ours."""
OF_ESTIMATE = {
    **dict.fromkeys((key for key, ours in ELSEWHERE.items() if ours == "trainer.devices"), "count"),
    **dict.fromkeys(("world_size", "gpu_count"), "count"),
    **dict.fromkeys(("nodes", "nnodes", "num_nodes", "num_machines"), "count, of all GPUs; eight are to a machine"),
    **dict.fromkeys(("gpu_type", "gpu_name", "gpu_model", "machine", "instance_type", "hardware"), "gpu"),
    **dict.fromkeys(("cost", "hourly_price", "price_per_hour", "usd_per_hour"), "price"),
    **dict.fromkeys(("spot", "use_spot"), "price=spot for true, on-demand for false"),
    **dict.fromkeys(("num_conversations", "n_conversations"), "conversations"),
    **dict.fromkeys(("deadline", "hours"), "deadline_hours"),
}
"""The same for what a run is estimated on; these come first, in the one job that has our keys."""


def new_key(key: str) -> str | None:
    """The name that an old key has now, or None."""
    new = _new_path(tuple(key.split(".")))
    return ".".join(new) if new else None


def _new_path(path: tuple[str, ...]) -> tuple[str, ...] | None:
    for end in range(len(path), 0, -1):
        if new := RENAMED.get(".".join(path[:end])):
            return *new.split("."), *path[end:]
    return None


def elsewhere(key: str, keys: Sequence[str]) -> str:
    """What another tool's key is here, where these keys have it: `it is …`, or why there is none; else nothing."""
    known = ELSEWHERE | OF_ESTIMATE if "hours_between_interruptions" in keys else ELSEWHERE
    ours = known.get(key) or known.get(key.rpartition(".")[2])
    if not ours or not _is_answer(ours, keys):
        return ""
    what, _, why = ours.partition("nothing: ")
    return f"there is nothing for it: {why}" if why else f"it is {what}"


def nearly_elsewhere(key: str, keys: Sequence[str], alike: float) -> str:
    """` (did you mean …? here …)` for another tool's key that is misspelt, or nothing; `alike`: of its letters."""
    near = difflib.get_close_matches(key.rpartition(".")[2], ELSEWHERE, n=1, cutoff=alike)
    said = elsewhere(near[0], keys) if near else ""
    return f" (did you mean {near[0]}? here {said})" if said else ""


def _is_answer(ours: str, keys: Sequence[str]) -> bool:
    """Whether what a key of another tool is in training says anything to a job with these keys."""
    first = re.split(r"[^\w.]", ours)[0]
    group = first.partition(".")[0]  # which of its keys there are depends on the choice
    return first in keys or ("conversations_per_step" in keys and (group in keys or first in ("nothing", "push")))


def with_new_names(values: dict[str, Any]) -> dict[str, Any]:
    """The content of a JSON file that an earlier version may have written, nested, under today's names."""
    out: dict[str, Any] = {}
    _move(values, (), out)
    return out


def _move(values: dict[str, Any], above: tuple[str, ...], out: dict[str, Any]) -> None:
    for key, value in values.items():
        old = (*above, key)
        moved = _new_path(old) or old
        path = (*moved[:-1], re.sub("^heldout/", "val/", moved[-1]))  # the names of metrics
        if old == ("run", "swept") and isinstance(value, dict):
            named = {new_key(name) or name: choice for name, choice in value.items()}
            _put(out, path, {name: _new_value(name, choice) for name, choice in named.items()})
        elif isinstance(value, dict):
            _put(out, path, {})
            _move(value, old, out)
        else:
            _put(out, path, _new_value(".".join(path), value))


def _new_value(key: str, value: Any) -> Any:
    return VALUES.get(key, {}).get(value, value) if isinstance(value, str) else value


def _put(out: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        out = out.setdefault(name, {})
    if value == {}:
        out.setdefault(path[-1], {})
    else:
        out[path[-1]] = value
