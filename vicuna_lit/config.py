"""The parts that several jobs share; each job's own config lies beside its code (`train/config.py`, …).

YAML in `conf/` holds all values; these classes hold none, they check them. Importing this module costs
milliseconds: no torch, no Hydra. `vicuna_lit.compose` turns YAML and overrides into these classes.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

PACKAGE = Path(__file__).parent
CONF_DIR = next(p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir())
"""The YAML files: beside the package in a wheel, at the top of a checkout."""

Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Config(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    WHERE_MISSING: ClassVar[dict[str, str]] = {}
    """Values of keys that must be given, for a job that can do without them."""


class RunConfig(Config):
    """Where the results go."""

    name: str
    """Names the run in W&B and, by default, its folder."""
    dir: str
    """The run's folder; the same command finds its own results there."""
    swept: dict[str, str]
    """What was chosen for this job of a sweep; the multirun fills it."""


class WandbConfig(Config):
    """Weights & Biases."""

    mode: Literal["online", "offline", "disabled"]
    """offline writes to the run folder; `wandb sync` uploads it later."""
    project: str
    entity: str | None
    group: str | None
    """null: none, or the sweep's folder under multirun."""
    tags: tuple[str, ...]


class TrainWandbConfig(WandbConfig):
    """The same for a run that makes a model."""

    log_model: Literal["reference", "upload", "none"]
    """The model as an artifact: its files' paths and checksums, the files themselves, or not at all."""


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


RopeScaling = Literal["none", "linear", "yarn"]


class ScratchModelConfig(Config):
    """A LLaMA with random weights: any size becomes one by `model.kind=scratch model.tokenizer=<folder>`."""

    kind: Literal["scratch"]
    path: str | None
    """null: there are no weights to load."""
    tokenizer: str
    """Folder of the tokenizer."""
    architecture: dict[str, Any]
    """Fields of `transformers.LlamaConfig`; the vocabulary and the stop token come from the tokenizer."""
    rope_scaling: RopeScaling

    @field_validator("path")
    @classmethod
    def _has_none(cls, path: str | None) -> None:
        if path is not None:
            raise ValueError(f"this model begins with random weights; model=local model.path={path} loads a folder")


class PretrainedModelConfig(Config):
    """Weights in a local Hugging Face folder, or a `.gguf` file."""

    kind: Literal["pretrained"]
    path: str | None
    """Folder or file; `package://name/file` looks inside an installed package."""
    tokenizer: str | None
    """Folder of the tokenizer; null: beside the weights."""
    architecture: dict[str, Any] | None
    """Fields of `transformers.LlamaConfig`, to plan (`dry_run`) without the weights."""
    rope_scaling: RopeScaling
    """What stretches the positions, by ceil(context_length / the model's), where the context asks for it:
    `linear`, as Vicuna v1.5-16k, or `yarn` (Peng et al. 2023)."""


ModelConfig = Annotated[ScratchModelConfig | PretrainedModelConfig, Field(discriminator="kind")]


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
