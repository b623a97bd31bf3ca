"""What keys of the train job must have of each other, or of this machine; the keys are in `train.py`."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationInfo, field_validator

from vicuna_lit.config.base import Config, ModelConfig
from vicuna_lit.config.choices import FinetuneConfig, StrategyConfig, StrategyFacts, shipped_strategies
from vicuna_lit.config.halving import HalvingConfig
from vicuna_lit.config.optimizer import OptimizerConfig


def devices_here(given: Any) -> Any:
    """`auto` is every GPU of this machine that `CUDA_VISIBLE_DEVICES` leaves, or one CPU; found without torch."""
    if given != "auto":
        return given
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return max(1, sum(bool(name.strip()) for name in named.split(",")))
    return max(1, len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))


def checkpointing_level(how: Any) -> str:
    """One of those that `gradient_checkpointing` names."""
    if not re.fullmatch(r"auto|none|full|attention|every_([2-9]|[1-9]\d+)", str(how)):
        switch = {"true": "; other tools' true is full", "false": "; false is none"}.get(str(how).lower(), "")
        raise ValueError(f"{how} is none of auto, none, full, attention, every_2, every_3, …{switch}")
    return how


class TrainChecks(Config):
    """Has no keys of its own; `TrainConfig` has this among its bases."""

    DEVICES: ClassVar[str] = "trainer.devices"
    """The key that says how many there are."""

    # Fields are checked in the order run settings, recipe, layout: a field's validator sees those before it.
    # Field validators, not model validators: these run, and are reported, even where other fields are wrong.
    @field_validator("tokens_per_device", check_fields=False)
    @classmethod
    def _row_holds_a_conversation(cls, tokens: int, info: ValidationInfo) -> int:
        context = info.data.get("context_length", 0)
        if tokens < context:
            raise ValueError(f"{tokens} is less than context_length={context}; a row holds whole conversations")
        return tokens

    @field_validator("order", check_fields=False)
    @classmethod
    def _has_scores(cls, order: str, info: ValidationInfo) -> str:
        data = info.data.get("data")
        if order == "by_score" and data is not None and data.score_field is None:
            raise ValueError("by_score goes by a number in each record: data.score_field=<its key>")
        return order

    @field_validator("compile", check_fields=False)
    @classmethod
    def _fused_once(cls, compile: bool | str, info: ValidationInfo) -> bool | str:
        if compile is True and info.data.get("kernels") == "liger":
            raise ValueError("compiled layers are fused already: kernels=torch, or compile=false with kernels=liger")
        return compile

    @field_validator("model", check_fields=False)
    @classmethod
    def _has_weights(cls, model: ModelConfig, info: ValidationInfo) -> Any:
        if model.kind == "pretrained" and not model.path:
            if info.data.get("show_masks") and model.tokenizer is not None:
                return model
            if not info.data.get("dry_run"):
                variable = f", or {model.name.upper()}=<folder> in the environment" if model.name != "local" else ""
                raise ValueError(f"path is null; give the folder of the weights, model.path=<folder>{variable}")
            if model.tokenizer is None or model.architecture is None:
                raise ValueError("dry_run without model.path needs model.tokenizer=<folder> and model.architecture")
        return model

    @field_validator("finetune", check_fields=False)
    @classmethod
    def _four_bits_are_loaded(cls, finetune: FinetuneConfig, info: ValidationInfo) -> FinetuneConfig:
        model: Any = info.data.get("model")
        own = model is not None and (model.kind == "scratch" or str(model.path).endswith(".gguf"))
        if finetune.facts.in_4_bits and own:
            raise ValueError(
                f"{finetune.kind} quantises the weights of a Hugging Face folder as it loads them: model=local"
            )
        return finetune

    @field_validator("optimizer", check_fields=False)
    @classmethod
    def _rounds_bare_weights(cls, optimizer: OptimizerConfig, info: ValidationInfo) -> OptimizerConfig:
        if optimizer.rounding == "stochastic" and not _bare(info):
            raise ValueError(
                "rounding=stochastic is for weights of which there is no fp32 copy: precision=bf16-true "
                "master_weights=false; or rounding=nearest"
            )
        return optimizer

    @field_validator("validation", check_fields=False)
    @classmethod
    def _is_looked_at(cls, validation: Any, info: ValidationInfo) -> Any:
        callbacks = info.data.get("callbacks")
        if callbacks and callbacks.early_stopping and validation.every_steps is None:
            raise ValueError("every_steps is null; early_stopping looks at each validation: validation.every_steps=…")
        if info.data.get("halving") and validation.every_steps is None:
            raise ValueError("every_steps is null; halving judges by validations: validation.every_steps=…")
        return validation

    @field_validator("halving", check_fields=False)
    @classmethod
    def _judges_by_the_loss(cls, halving: HalvingConfig | None, info: ValidationInfo) -> HalvingConfig | None:
        if halving and (objective := info.data.get("objective")) not in ("val_loss", None):
            raise ValueError(f"judges by the validation loss, and objective={objective}; objective=val_loss")
        return halving

    @field_validator("resume", check_fields=False)
    @classmethod
    def _goes_on_from_a_rung(cls, resume: str, info: ValidationInfo) -> str:
        if resume != "auto" and info.data.get("halving"):
            raise ValueError(f"{resume}: halving goes on from the runs' checkpoints: resume=auto")
        return resume

    @field_validator("strategy", check_fields=False)
    @classmethod
    def _suits_the_recipe(cls, strategy: StrategyConfig, info: ValidationInfo) -> StrategyConfig:
        conflicts = _conflicts(cls.DEVICES, strategy.facts.name, info)
        found = [conflict for conflict in conflicts if conflict.holds(strategy.facts)]
        if found:
            suit = [one.name for one in shipped_strategies() if not any(c.holds(one) for c in conflicts)]
            ways = [f"strategy={', '.join(suit)}"] if suit else []
            if all(c.instead for c in found):
                ways.append(" ".join(c.instead for c in found if c.instead))
            raise ValueError(f"{'; '.join(c.problem for c in found)}: {'; or '.join(ways)}")
        return strategy


@dataclass(frozen=True)
class _Conflict:
    """What another key asks of a strategy's facts."""

    holds: Callable[[StrategyFacts], bool]
    problem: str
    instead: str | None = None
    """Another value of that key, with which it holds no more."""


def _conflicts(devices_key: str, name: str, info: ValidationInfo) -> list[_Conflict]:
    """Those that may arise with the other keys; `name` is the strategy that is spoken of."""
    trainer, finetune, optimizer = (info.data.get(key) for key in ("trainer", "finetune", "optimizer"))
    found: list[_Conflict] = []
    if _bare(info):
        always = f"{name} always keeps fp32 master weights"
        found.append(_Conflict(lambda its: its.fp32_copies == "engine", always, "master_weights=true"))
    if trainer and trainer.devices > 1:
        several = f"{devices_key}={trainer.devices} needs a strategy for several processes"
        found.append(_Conflict(lambda its: its.one_process, several))
    if finetune and finetune.facts.in_4_bits:
        whole = f"{finetune.kind}'s 4-bit weights are not sharded"
        found.append(_Conflict(lambda its: its.sharded == "weights", whole))
    if optimizer and optimizer.kind != "adamw":
        shards = "keeps its state by whole matrices or blocks of them; shards would change what it computes"
        elsewise = "optimizer.kind=adamw"
        found.append(_Conflict(lambda its: its.sharded != "nothing", f"{optimizer.kind} {shards}", elsewise))
    if optimizer and optimizer.rounding == "stochastic":
        whole = "rounding=stochastic is for whole weights"
        found.append(_Conflict(lambda its: its.sharded != "nothing", whole, "optimizer.rounding=nearest"))
    return found


def _bare(info: ValidationInfo) -> bool:
    """Whether weights are kept in bf16 alone."""
    return info.data.get("precision") == "bf16-true" and info.data.get("master_weights") is False
