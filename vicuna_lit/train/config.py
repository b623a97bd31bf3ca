"""Every knob of the train job on one page. Values are in `conf/train.yaml` and its groups."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from vicuna_lit.config import (
    Config,
    DataConfig,
    Fraction,
    ModelConfig,
    NonNegative,
    RunConfig,
    TemplateConfig,
    TrainWandbConfig,
)
from vicuna_lit.train.choices import FinetuneConfig, SingleConfig, StrategyConfig


class OptimizerConfig(Config):
    """A rule of descent, with a warm-up and a decay over the whole run."""

    kind: Literal["adamw", "adamw_8bit", "adafactor"]
    """adamw_8bit (Dettmers et al. 2022): moments in 8 bits, by blocks of 256; adafactor (Shazeer and Stern 2018): sums
    over rows and columns in their place, lr relative to a weight's size, neither betas nor eps."""
    lr: PositiveFloat
    betas: tuple[Fraction, Fraction]
    eps: PositiveFloat
    weight_decay: NonNegative
    """Applied to matrices only, not to norms."""
    schedule: Literal["cosine", "linear", "constant"]
    """After the warm-up, down to 0 at the last step (or constant)."""
    warmup_ratio: Fraction
    """Share of all steps over which the rate rises from 0."""
    clip_norm: PositiveFloat | None
    """Largest norm of the step's gradient; null: not clipped, still measured."""


class TrainerConfig(Config):
    """How long, and on what."""

    epochs: PositiveFloat
    """Passes over the training conversations; may be a fraction; `max_steps` overrides it."""
    max_steps: PositiveInt | None
    devices: PositiveInt
    """Processes on this machine, one device each; under torchrun its --nproc-per-node."""
    accelerator: Literal["auto", "cpu", "gpu"]
    """auto takes a GPU where there is one."""
    peak_tflops: PositiveFloat | None
    """Of one device, dense, at the run's precision, for MFU; null: by Lightning's table, none on CPU."""


class CheckpointConfig(Config):
    """When the state of the run is saved, so that the same command goes on from there."""

    every_steps: PositiveInt | None
    every_minutes: PositiveFloat | None
    """Either, both, or null: only when told to stop."""
    keep: PositiveInt
    """Complete checkpoints that stay, besides the one with the lowest held-out loss."""
    grace_seconds: PositiveFloat
    """How long the step in progress may take after a signal before it is given up, and as long again all else."""


class HeldoutConfig(Config):
    """The held-out loss, on all replies: before the first step, after the last, and every so many steps."""

    every_steps: PositiveInt | None
    context_length: PositiveInt | None
    """Of the held-out conversations; null: as in training. Fix it to compare runs of several context lengths."""


class AskedConfig(Config):
    """What the model is asked before and after training, and `every` so many steps. A question is a list of turns."""

    questions: tuple[tuple[str, ...], ...]
    per_category: Annotated[int, Field(ge=0)]
    """So many of the bundled questions (`vicuna_lit/evaluate/questions.jsonl`) of each category besides."""
    every: PositiveInt | None
    max_new_tokens: PositiveInt
    at_end: dict[str, str | int | float | bool] | None
    """Settings of `vicuna-evaluate`, such as `{judge: rule}`: compares the base with the trained model."""


def _checkpointing(how: Any) -> str:
    if not re.fullmatch(r"none|full|attention|every_([2-9]|[1-9]\d+)", str(how)):
        raise ValueError(f"{how} is none of none, full, attention, every_2, every_3, …")
    return how


class TrainConfig(Config):
    """The train job; `conf/train.yaml`."""

    run: RunConfig
    seed: Annotated[int, Field(ge=0)]
    """Of the order of the conversations and of random weights."""
    context_length: PositiveInt
    """Longest conversation in tokens; longer ones are split on turn boundaries."""
    conversations_per_step: PositiveInt
    """The recipe's batch size: conversations in one optimizer step, on all devices together."""
    step_unit: Literal["piece", "conversation"]
    """What `conversations_per_step` counts: pieces of at most a context, as FastChat does, or whole conversations, all
    pieces of one in one step: then another context length or `supervised` leaves every step the same conversations."""
    supervised: Literal["replies", "last_reply", "all_tokens", "single_turns"]
    """What the loss is taken on in training: all replies, the last one of each piece, all tokens, or all replies with
    each exchange a conversation of its own (as Alpaca)."""
    tokens_per_device: PositiveInt
    """The memory's batch size: the longest packed row. Gradient accumulation follows from it."""
    packing: bool
    """Several conversations to a row (they never see each other); false: one."""
    precision: Literal["fp32", "bf16-mixed", "bf16-true"]
    """bf16-mixed keeps weights and optimizer state in fp32 and multiplies in bf16; bf16-true has weights in bf16."""
    master_weights: bool
    """Under bf16-true: the optimizer keeps fp32 weights and state, and rounds after each step."""
    attention: Literal["sdpa_per_conversation", "sdpa_mask", "flash", "varlen", "flex"]
    """Which kernel; each keeps the conversations of a row apart. sdpa_* run anywhere, the others on a GPU."""
    head: Literal["chunked", "plain", "liger"]
    """How the LM head and its loss are computed; only plain makes full logits, liger needs a GPU."""
    gradient_checkpointing: Annotated[str, BeforeValidator(_checkpointing)]
    """What is recomputed in the backward pass: none, full (every layer), every_<k> (each k-th, k ≥ 2), attention."""
    offload_activations: bool
    """Keep what the backward pass needs in CPU memory."""
    compile: bool
    """torch.compile the decoder's layers, once for rows of any length."""
    system_prompt: str | None
    """For conversations without a system turn; null: the template's own."""
    dry_run: bool
    """Print what would run (steps, tokens, layout; of a sweep all jobs and what differs) and stop."""
    estimate: bool
    """Of a sweep: say first what each job needs; jobs that do not fit into this machine's memory are not started."""
    on_failure: Literal["stop", "continue", "retry"]
    """What a sweep does when a job fails: ends, goes on, or tries it once more and goes on."""
    objective: str
    """What a job of a sweep returns to Hydra's sweeper: a figure of `result.json`, such as `heldout_loss`."""
    model: ModelConfig
    data: DataConfig
    template: TemplateConfig
    strategy: StrategyConfig
    finetune: FinetuneConfig
    optimizer: OptimizerConfig
    trainer: TrainerConfig
    checkpoint: CheckpointConfig
    resume: Literal["auto", "never", "must"]
    """auto goes on from the newest checkpoint in the run's folder, must stops where there is none."""
    heldout: HeldoutConfig
    evaluate: AskedConfig
    wandb: TrainWandbConfig

    # Field validators, not model validators: these run, and are reported, even where other fields are wrong.
    @field_validator("tokens_per_device")
    @classmethod
    def _row_holds_a_conversation(cls, tokens: int, info: ValidationInfo) -> int:
        context = info.data.get("context_length", 0)
        if tokens < context:
            raise ValueError(f"{tokens} is less than context_length={context}; a row holds whole conversations")
        return tokens

    @field_validator("model")
    @classmethod
    def _has_weights(cls, model: ModelConfig, info: ValidationInfo) -> Any:
        if model.kind == "pretrained" and model.path is None:
            if not info.data.get("dry_run"):
                raise ValueError("path is null; give the folder of the weights, model.path=<folder>")
            if model.tokenizer is None or model.architecture is None:
                raise ValueError("dry_run without model.path needs model.tokenizer=<folder> and model.architecture")
        return model

    @field_validator("strategy")
    @classmethod
    def _zero_keeps_masters(cls, strategy: Any, info: ValidationInfo) -> Any:
        bare = info.data.get("precision") == "bf16-true" and info.data.get("master_weights") is False
        if strategy.kind == "zero" and bare:
            raise ValueError("ZeRO always keeps fp32 master weights: master_weights=true, or another strategy")
        return strategy

    @field_validator("finetune")
    @classmethod
    def _four_bits_are_loaded_and_whole(cls, finetune: Any, info: ValidationInfo) -> Any:
        strategy: Any = info.data.get("strategy")
        if finetune.kind != "qlora":
            return finetune
        if strategy is not None and (strategy.kind == "fsdp" or getattr(strategy, "stage", 0) == 3):
            raise ValueError("qlora's 4-bit weights are not sharded: strategy=single, ddp, zero1 or zero2")
        model: Any = info.data.get("model")
        if model is not None and (model.kind == "scratch" or str(model.path).endswith(".gguf")):
            raise ValueError("qlora quantises the weights of a Hugging Face folder as it loads them: model=local")
        return finetune

    @field_validator("optimizer")
    @classmethod
    def _state_by_matrix_or_block(cls, optimizer: OptimizerConfig, info: ValidationInfo) -> OptimizerConfig:
        strategy: Any = info.data.get("strategy")
        if optimizer.kind != "adamw" and strategy is not None and strategy.kind in ("fsdp", "zero"):
            shards = "keeps its state by whole matrices or blocks of them; shards would change what it computes"
            raise ValueError(f"{optimizer.kind} {shards}: strategy=single, ddp; or optimizer.kind=adamw")
        return optimizer

    @field_validator("trainer")
    @classmethod
    def _devices_fit(cls, trainer: TrainerConfig, info: ValidationInfo) -> TrainerConfig:
        strategy = info.data.get("strategy")
        if trainer.devices > 1 and isinstance(strategy, SingleConfig):
            several = "strategy=ddp, fsdp, fsdp_offload, zero1, zero2, zero3 or zero3_offload"
            raise ValueError(f"devices={trainer.devices} needs a strategy for several processes: {several}")
        return trainer

    @property
    def tokenizer_path(self) -> str:
        """Where the tokenizer lies: beside the weights unless named."""
        return self.model.tokenizer or self.model.path or ""
