"""Every knob of the prepare job; `conf/prepare.yaml` holds the values. A step is a class with `enabled`."""

from importlib import import_module
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, ValidationInfo, field_validator

from vicuna_lit.config import Config, Fraction, RunConfig, TemplateConfig
from vicuna_lit.conversation import Role

Scope = Literal["turn", "conversation", "off"]
"""What an offence costs: the turn and all behind it, the whole conversation, or nothing."""
Share = Annotated[float, Field(gt=0, le=1)]


Language = Annotated[str, Field(pattern="^([a-z]{2,3}|unknown)$")]
Languages = Annotated[
    tuple[Language, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]


class HtmlConfig(Config):
    """Rendered HTML back to the markdown a person saw; turns without tags are left alone."""

    enabled: bool


class RolesConfig(Config):
    """User and assistant in turn, from a question to an answer; a system turn may precede."""

    enabled: bool
    disorder: Literal["trim", "merge", "reject"]
    """Where two turns of one role follow each other: keep what precedes, join them, or drop the conversation."""


class TextRule(Config):
    """Turns that hold one of some texts; upper and lower case are the same."""

    scope: Scope
    roles: tuple[Role, ...]
    match: Literal["begins", "contains", "regex"]
    """begins ignores punctuation in front; regex is Python's, case-sensitive."""
    texts: tuple[str, ...]


class RepetitionConfig(Config):
    """Degenerate replies: the same line over and over."""

    scope: Scope
    max_compression: Annotated[float, Field(gt=1)]
    """Largest ratio of a reply's bytes to its zlib-compressed bytes."""


class FiltersConfig(Config):
    """What no assistant should learn from."""

    enabled: bool
    plugins: bool
    """Drop conversations that used ChatGPT's plugins."""
    empty: Scope
    """Turns without a visible character."""
    min_turns: PositiveInt
    min_characters: PositiveInt
    """Of all turns together."""
    repetition: RepetitionConfig
    texts: dict[str, TextRule]
    """Rules by name; the name, with blanks for underscores, is the reason in the manifest. Add your own."""


class PersonalDataConfig(Config):
    """Replaces personal data by its kind in brackets, e.g. `[EMAIL]`."""

    enabled: bool
    kinds: tuple[Literal["email", "phone", "key", "card"], ...]


class ModerationConfig(Config):
    """A score of your own: a function from text to a number."""

    enabled: bool
    scorer: str | None
    """`package.module:function`, called with each turn's text."""
    max_score: float
    scope: Scope

    @field_validator("scorer")
    @classmethod
    def _can_be_called(cls, scorer: str | None, info: ValidationInfo) -> str | None:
        if scorer is not None:
            load_scorer(scorer)
        elif info.data.get("enabled"):
            raise ValueError("moderation is enabled and has no scorer; give moderation.scorer=package.module:function")
        return scorer


class LanguageConfig(Config):
    """The language of a conversation, by its text without code (fastText's lid.176, ISO 639 codes)."""

    enabled: bool
    keep: Languages | None
    """Languages to keep; null: all."""
    drop: Languages
    min_confidence: Fraction
    """Below it the language is `unknown`, which can be kept or dropped like any other."""


class DecontaminationConfig(Config):
    """Drops conversations in which a user asks a question of the evaluation."""

    enabled: bool
    questions: tuple[str, ...]
    """Files of questions: JSONL with `text` or `turns` (vicuna_bench, MT-bench)."""
    ngram: PositiveInt
    """Words that must agree in a row; shorter questions must agree as a whole."""
    min_overlap: Share
    """Share of a question's n-grams that a user's turn must hold."""


class DedupConfig(Config):
    """Drops all but the best copy."""

    enabled: bool
    id: bool
    """Conversations with the same id."""
    text: bool
    """Conversations with the same turns."""
    first_exchange_characters: Annotated[int, Field(ge=0)] | None
    """The same first question and answer, of at least so many characters together; null: not looked at."""
    threshold: Share | None
    """Near-duplicates: estimated Jaccard similarity of the sets of 32-byte shingles; null: not looked at."""
    keep: Literal["longest", "first"]
    """The best copy: the one with the most characters (the first of equals), or the first."""


class CutConfig(Config):
    """Pieces of at most `context_length` tokens; needs `tokenizer`. An exchange that is too long alone is dropped."""

    enabled: bool
    carried_exchanges: Annotated[int, Field(ge=0)]
    """Exchanges of the piece before that open the next one, as context without loss."""


class PrepareConfig(Config):
    """The prepare job; `conf/prepare.yaml`."""

    run: RunConfig
    raw: str | tuple[str, ...]
    """File, folder or glob of raw conversations, or a list of these; `package://name/file` works too."""
    workers: PositiveInt | None
    """Processes; null: one per core. Never changes a byte of the output."""
    engine: Literal["local", "ray"]
    """ray runs the same steps on a Ray cluster that shares the run folder's file system."""
    html: HtmlConfig
    roles: RolesConfig
    filters: FiltersConfig
    personal_data: PersonalDataConfig
    moderation: ModerationConfig
    language: LanguageConfig
    decontamination: DecontaminationConfig
    dedup: DedupConfig
    heldout_fraction: Fraction
    """Held out by the hash of the conversation's original id, before anything is cut."""
    context_length: PositiveInt
    """Longest piece in tokens."""
    tokenizer: str | None
    """Folder of the tokenizer to count and cut with; null: conversations stay whole, and `train` cuts them."""
    system_prompt: str | None
    """For conversations without a system turn, as in train; null: the template's own."""
    template: TemplateConfig
    cut: CutConfig

    @property
    def tokenizer_path(self) -> str:
        """Where the tokenizer lies."""
        return self.tokenizer or ""

    @property
    def cuts(self) -> bool:
        """Whether conversations are tokenised and cut."""
        return self.tokenizer is not None and self.cut.enabled

    def identity(self) -> dict[str, Any]:
        """What decides the output's bytes: not the folder, the workers or the engine."""
        return self.model_dump(mode="json", exclude={"run", "workers", "engine"})


def load_scorer(name: str) -> Any:
    """The function named `package.module:function`.

    Raises:
        ValueError: there is none.
    """
    module, _, function = name.partition(":")
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} cannot be imported as package.module:function: {error}") from None
