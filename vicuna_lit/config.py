"""Every knob on one page. YAML in `conf/` holds all values; these classes hold none, they check them.

Importing this module costs milliseconds: no torch, no Hydra. `vicuna_lit.compose` turns YAML and
overrides into these classes.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

PACKAGE = Path(__file__).parent
CONF_DIR = next(p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir())
"""The YAML files: beside the package in a wheel, at the top of a checkout."""

Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Config(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RunConfig(Config):
    """Where the results go."""

    name: str
    """Names the run in W&B and, by default, its folder."""
    dir: str
    """The run's folder; the same command finds its own results there."""


class TextTemplateConfig(Config):
    """A chat template as text with the slots {content} {system} {bos} {eos}; see `conf/template`."""

    kind: Literal["text"]
    name: str
    begin: str
    """Opens the conversation."""
    default_system: str | None
    """The system prompt of conversations without one of their own."""
    default_system_with_input: str | None
    """The same for Alpaca records that have an input."""
    system: str | None
    """A system turn; null where the template has none."""
    user: str
    """A user turn; where {system} stands in it, the system turn is rendered inside the first one."""
    tool: str | None
    """A tool's result; null where the template has none."""
    assistant: str
    """Opens an assistant turn: what generation starts from, never supervised."""
    reply: str
    """The reply and its stop string: supervised."""
    end: str
    """Follows a reply, not supervised."""
    special: tuple[str, ...]
    """Texts that must each be one token, besides {bos} and {eos}."""

    @model_validator(mode="after")
    def _has_content_and_stop(self) -> "TextTemplateConfig":
        for key in ("system", "user", "tool", "reply"):
            text = getattr(self, key)
            if text is not None and text.count("{content}") != 1:
                raise ValueError(f"{key} must hold {{content}} once, it is {text!r}")
        if not self.reply.partition("{content}")[2].strip():
            raise ValueError("reply must have a stop string behind {content}, or the model never learns to stop")
        return self


class TokenizerTemplateConfig(Config):
    """The model's own Jinja chat template, where its mask can be proven."""

    kind: Literal["tokenizer"]


TemplateConfig = Annotated[TextTemplateConfig | TokenizerTemplateConfig, Field(discriminator="kind")]


class ScratchModelConfig(Config):
    """A LLaMA with random weights."""

    kind: Literal["scratch"]
    tokenizer: str
    """Folder of the tokenizer."""
    architecture: dict[str, Any]
    """Fields of `transformers.LlamaConfig`; the vocabulary and the stop token come from the tokenizer."""
    rope_scaling: Literal["none", "linear"]

    @property
    def path(self) -> None:
        """There are no weights to load."""
        return None


class PretrainedModelConfig(Config):
    """Weights in a local Hugging Face folder, or a `.gguf` file."""

    kind: Literal["pretrained"]
    path: str | None
    """Folder or file; `package://name/file` looks inside an installed package."""
    tokenizer: str | None
    """Folder of the tokenizer; null: beside the weights."""
    architecture: dict[str, Any] | None
    """Fields of `transformers.LlamaConfig`, to plan (`dry_run`) without the weights."""
    rope_scaling: Literal["none", "linear"]
    """`linear` stretches the positions by ceil(context_length / the model's), as Vicuna v1.5-16k."""


class DataConfig(Config):
    """Conversations: ShareGPT, OpenAI messages or Alpaca; JSON, JSONL or gzip; a file or a folder."""

    path: str
    """File or folder (also one that `vicuna-prepare` wrote); `package://name/file` looks inside a package."""
    heldout_path: str | None
    """Conversations to judge by. null: a fraction of `path` is held out."""
    heldout_fraction: Fraction
    """Held out by the hash of the conversation's original id, so pieces of one never part."""
    max_conversations: PositiveInt | None
    """Use the first so many for training; null: all."""
    max_heldout: PositiveInt | None
    """Use the first so many for the held-out loss; null: all."""


class SingleConfig(Config):
    """One device, one process."""

    kind: Literal["single"]


class OptimizerConfig(Config):
    """AdamW with a warm-up and a decay over the whole run."""

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
    """Passes over the training conversations; may be a fraction."""
    max_steps: PositiveInt | None
    """Overrides epochs."""
    devices: Literal[1]
    accelerator: Literal["auto", "cpu", "gpu"]
    """auto takes a GPU where there is one."""


class HeldoutConfig(Config):
    """When the held-out loss is taken, besides before the first step and after the last."""

    every_steps: PositiveInt | None


class SampleConfig(Config):
    """Questions that the model answers before and after training: each a list of user turns."""

    questions: tuple[tuple[str, ...], ...]
    max_new_tokens: PositiveInt


class WandbConfig(Config):
    """Weights & Biases."""

    mode: Literal["online", "offline", "disabled"]
    """offline writes to the run folder; `wandb sync` uploads it later."""
    project: str
    entity: str | None
    group: str | None
    """null: none, or the sweep's folder under multirun."""
    tags: tuple[str, ...]


class TrainConfig(Config):
    """The train job; `conf/train.yaml`."""

    run: RunConfig
    seed: Annotated[int, Field(ge=0)]
    """Of the order of the conversations and of random weights."""
    context_length: PositiveInt
    """Longest conversation in tokens; longer ones are split on turn boundaries."""
    conversations_per_step: PositiveInt
    """The recipe's batch size: conversations in one optimizer step, on all devices together."""
    tokens_per_device: PositiveInt
    """The memory's batch size: the longest packed row. Gradient accumulation follows from it."""
    packing: bool
    """Several conversations to a row (they never see each other); false: one."""
    precision: Literal["fp32", "bf16-mixed"]
    """bf16-mixed keeps weights and optimizer state in fp32."""
    attention: Literal["sdpa_per_conversation"]
    """torch's causal attention, once per conversation of a row."""
    gradient_checkpointing: Literal["none", "full"]
    """full recomputes every layer in the backward pass: less memory, about a quarter slower."""
    system_prompt: str | None
    """For conversations without a system turn; null: the template's own."""
    dry_run: bool
    """Print what would run (steps, tokens, layout) and stop."""
    model: Annotated[ScratchModelConfig | PretrainedModelConfig, Field(discriminator="kind")]
    data: DataConfig
    template: TemplateConfig
    strategy: SingleConfig
    optimizer: OptimizerConfig
    trainer: TrainerConfig
    heldout: HeldoutConfig
    sample: SampleConfig
    wandb: WandbConfig

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
    def _has_weights(cls, model: ScratchModelConfig | PretrainedModelConfig, info: ValidationInfo) -> Any:
        if model.kind == "pretrained" and model.path is None:
            if not info.data.get("dry_run"):
                raise ValueError("path is null; give the folder of the weights, model.path=<folder>")
            if model.tokenizer is None or model.architecture is None:
                raise ValueError("dry_run without model.path needs model.tokenizer=<folder> and model.architecture")
        return model

    @property
    def tokenizer_path(self) -> str:
        """Where the tokenizer lies: beside the weights unless named."""
        return self.model.tokenizer or self.model.path or ""
