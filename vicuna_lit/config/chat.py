"""Every knob of the chat job on one page; YAML in `conf/chat.yaml` and `conf/moderation/` holds the values."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from vicuna_lit.config.base import Config, NonNegative, RunConfig
from vicuna_lit.config.evaluate import EndpointConfig, ModelRef
from vicuna_lit.config.path_types import AnyPath
from vicuna_lit.config.template import TemplateConfig, TemplateDate


class NoModerationConfig(Config):
    """Nothing is moderated."""

    kind: Literal["none"]


class ModeratorConfig(Config):
    """What all moderators have in common."""

    log_text: bool
    """Writes what was judged into `moderation.jsonl`; else only the decision."""


class WordsConfig(ModeratorConfig):
    """A list of phrases on this machine."""

    kind: Literal["words"]
    phrases: AnyPath
    """A text file, a phrase a line; `package://name/file` looks inside an installed package."""


class AskedModeratorConfig(ModeratorConfig, EndpointConfig):
    """A moderator behind an endpoint. A reply is shown only as far as it was judged."""

    timeout_seconds: PositiveFloat
    """After which a prompt or reply is refused."""
    every_characters: PositiveInt
    """A reply is judged whenever it has grown by so many, and at its end."""


class OpenAIConfig(AskedModeratorConfig):
    """OpenAI's moderation endpoint."""

    kind: Literal["openai"]


class GuardConfig(AskedModeratorConfig):
    """A chat model that answers `safe`, or `unsafe` and the categories."""

    kind: Literal["guard"]


Moderation = Annotated[
    NoModerationConfig | WordsConfig | OpenAIConfig | GuardConfig,
    Field(discriminator="kind"),
]


class SettingsConfig(Config):
    """How a model answers; the page begins with these."""

    temperature: NonNegative
    """0: the most likely token each time."""
    max_new_tokens: PositiveInt
    """Of a reply."""


class LimitsConfig(Config):
    """What one client may ask for, and the server as a whole."""

    prompt_characters: PositiveInt
    """Of one prompt; a longer one is refused."""
    turns: PositiveInt
    """Prompts of one conversation."""
    new_tokens: PositiveInt
    """The most that `max_new_tokens` can be set to."""
    temperature: PositiveFloat
    """The most that the temperature can be set to."""
    prompts_per_minute: PositiveInt
    """From one network address."""
    at_once: PositiveInt
    """Prompts that are answered at once; the others wait."""
    waiting: PositiveInt
    """Prompts that may wait."""
    open_pages: PositiveInt
    """Pages whose conversations are remembered; beyond them the one that was unused for longest is forgotten."""
    timeout_seconds: PositiveFloat
    """Without a word from the model, after which it is given up."""
    kept_conversations: PositiveInt
    """Conversations whose keys and values a model on this machine keeps, so that a new turn is all it must read."""


class ChatConfig(Config):
    """The chat job; `conf/chat.yaml`."""

    run: RunConfig
    model: ModelRef
    """A folder, a `.gguf` file, or `<model>@<url>`."""
    against: ModelRef | None
    """A second model, for the same prompts side by side."""
    blind: bool
    """Two models change sides by chance, and their names are hidden until the vote."""
    terminal: bool
    """Talk here instead of on a page."""
    record: bool
    """Appends conversations and votes to files in `run.dir`."""
    host: str
    """127.0.0.1: nobody but this machine."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """Of the page."""
    system_prompt: str | None
    """null: the template's, or the endpoint's."""
    template: TemplateConfig
    """For model folders without a chat template of their own."""
    template_date: TemplateDate
    """For chat templates that write today's date; null: today's."""
    settings: SettingsConfig
    moderation: Moderation
    """Who judges prompts and replies: one of `conf/moderation`."""
    limits: LimitsConfig

    @field_validator("limits")
    @classmethod
    def _allow_the_settings(cls, limits: LimitsConfig, info: ValidationInfo) -> LimitsConfig:
        settings, moderator = info.data.get("settings"), info.data.get("moderation")
        if (wait := getattr(moderator, "timeout_seconds", 0)) >= limits.timeout_seconds:
            raise ValueError(
                f"timeout_seconds={limits.timeout_seconds:g} is no more than moderation.timeout_seconds={wait:g}: a "
                "slow moderator would be taken for a silent model"
            )
        if settings and settings.max_new_tokens > limits.new_tokens:
            raise ValueError(f"limits.new_tokens={limits.new_tokens} is less than settings.max_new_tokens")
        if settings and settings.temperature > limits.temperature:
            raise ValueError(f"limits.temperature={limits.temperature:g} is less than settings.temperature")
        return limits

    @field_validator("blind", "terminal")
    @classmethod
    def _fit_the_models(cls, given: bool, info: ValidationInfo) -> bool:
        against = info.data.get("against")
        if given and info.field_name == "blind" and against is None:
            raise ValueError("hides the names of two models; give the second, against=<folder or endpoint>")
        if given and info.field_name == "terminal" and against is not None:
            raise ValueError("talks to one model; leave out against=…")
        return given
