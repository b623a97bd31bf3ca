"""Every knob of the prepare job; `conf/prepare.yaml` holds the values. A step is a class with `enabled`."""

import re
from importlib import import_module
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, ValidationInfo, field_validator

from vicuna_lit.config import base
from vicuna_lit.config.base import AddedTokens, ColumnRole, Columns, Config, Fraction, Role, RunConfig
from vicuna_lit.config.path_types import AnyPath
from vicuna_lit.config.template import TemplateConfig

Scope = Literal["turn", "conversation", "count", "off"]
"""What an offence costs: the turn and all behind it, the whole conversation, nothing but a count, or nothing."""
Share = Annotated[float, Field(gt=0, le=1)]


Language = Annotated[str, Field(pattern="^[a-z]{2,3}$")]
Languages = Annotated[
    tuple[Language, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]


def compiles(pattern: str) -> str:
    """The pattern.

    Raises:
        ValueError: it is no regular expression.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


class HtmlConfig(Config):
    """Rendered HTML back to the markdown a person saw; turns without tags are left alone."""

    enabled: bool
    """Whether the step is taken."""


class TidyRule(Config):
    """One kind of text that is not the speaker's: a button, a label, a template."""

    roles: tuple[Role, ...]
    where: Literal["start", "end", "whole", "anywhere"]
    """The first of the text; its last; the text from a match of the pattern to its end; or each match outside code."""
    hint: str
    """A text that every match holds, or at the start begins with; turns without it are not searched."""
    pattern: str
    """Python's regular expression; `^` and `$` are the ends of lines."""
    replacement: str
    """What stays in its place; `\\1` is the pattern's first group."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        return compiles(pattern)


class TidyConfig(Config):
    """What a page, an extension or a converter added to the texts is taken out, before all judging."""

    enabled: bool
    """Whether the step is taken."""
    unescape: bool
    """Undo `\\_` and `\\*` outside code and formulas, as converters of HTML to markdown leave them."""
    rules: dict[str, TidyRule]
    """Rules by name, in order; the name is what the manifest counts. Add your own."""


class RolesConfig(Config):
    """User and assistant in turn, from a question to an answer; a system turn may precede."""

    enabled: bool
    """Whether the step is taken."""
    disorder: Literal["trim", "merge", "reject"]
    """Where two turns of one role follow each other: keep what precedes, join them, or drop the conversation."""


class TextRule(Config):
    """Turns that hold one of some texts; upper and lower case are the same."""

    scope: Scope
    roles: tuple[Role, ...]
    match: Literal["begins", "contains", "regex", "phrases"]
    """begins ignores punctuation in front, and a text's end is a line's end to it; regex is Python's, case-sensitive;
    phrases finds whole phrases as the chat's list of words does, however they are spaced."""
    texts: tuple[str, ...]
    """With `match: phrases` the files of these, one a line; `package://name/file` looks inside an installed package."""


class ReplyRule(Config):
    """What an assistant says of itself, told by the opening and the shape of its reply: outside code and quotations,
    and not where the reply is a letter, verse, a screenplay, or a text that it announces. Nor, with `plain`, where a
    text was asked for in which somebody may speak, and nothing is declined that an assistant does."""

    scope: Literal["sentence", "turn", "conversation", "count", "off"]
    """As elsewhere; `sentence` cuts the sentence alone, and the turn where nothing else is in it."""
    opening: PositiveInt
    """Characters from the start of a reply that are searched."""
    max_characters: PositiveInt | None
    """Longer replies do not count: they give an answer; null: any length."""
    plain: bool
    """Replies with a list, a table or code do not count."""
    hints: tuple[str, ...]
    """Texts of which every match holds one, in small letters; replies without are not searched."""
    texts: tuple[str, ...]
    """Python's regular expressions, for the opening in small letters with straight apostrophes. One whose letters are
    all of other scripts is not searched for in an opening of ASCII."""
    unless: tuple[str, ...]
    """A reply in whose opening one of these is found does not count, such as one that asks for what is missing."""

    @field_validator("texts", "unless")
    @classmethod
    def _compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(compiles, patterns))


class RepetitionConfig(Config):
    """Degenerate replies: the same line over and over."""

    scope: Scope
    """What such a reply costs."""
    max_compression: Annotated[float, Field(gt=1)]
    """Largest ratio of a reply's bytes to its zlib-compressed bytes; replies below 512 characters are not judged."""


class PlaceholdersConfig(Config):
    """Replies that are little but what `personal_data` put in the place of personal data."""

    scope: Scope
    """What such a reply takes along."""
    max_share: Share
    """Largest share of `[EMAIL]` and the like in a reply's characters, blanks left out."""


class EndsConfig(Config):
    """Conversations that end or begin in the middle."""

    unfinished: Scope
    """A long last reply that breaks off within a sentence or a code fence."""
    min_characters: PositiveInt
    """Of a reply that may have been cut off by the model's limit; shorter ones do not count."""
    continued: Scope
    """A first question that is only a request to go on: what it answers is not there."""
    words: tuple[str, ...]
    """Such requests, in small letters without punctuation at the end."""


class FiltersConfig(Config):
    """What no assistant should learn from."""

    enabled: bool
    """Whether the step is taken."""
    plugins: bool
    """Drop conversations that used ChatGPT's plugins."""
    empty: Scope
    """Turns without a visible character."""
    min_turns: PositiveInt
    """Conversations with fewer are dropped."""
    min_characters: PositiveInt
    """Of all turns together."""
    repetition: RepetitionConfig
    placeholders: PlaceholdersConfig
    ends: EndsConfig
    replies: dict[str, ReplyRule]
    """Rules for what assistants say of themselves, by name; the first that a reply breaks is its reason."""
    texts: dict[str, TextRule]
    """Rules by name; the name, with blanks for underscores, is the reason in the manifest. Add your own."""


PersonalData = Literal["email", "phone", "key", "card", "iban", "ssn", "ip"]


class PersonalDataConfig(Config):
    """Replaces personal data by its kind in brackets, e.g. `[EMAIL]`."""

    enabled: bool
    """Whether the step is taken."""
    kinds: tuple[PersonalData, ...]
    """Which kinds are replaced: e-mail addresses, telephone numbers, API keys, numbers of payment cards; bank accounts
    (IBAN, by length and checksum), US social security numbers (by range), public IP addresses."""


class ModerationConfig(Config):
    """A score of your own for each turn: a function from text to a number, or a classifier of texts."""

    enabled: bool
    """Whether the step is taken."""
    scorer: str | None
    """`package.module:function`, called with each turn's text; or the folder of a classifier of texts (Hugging Face,
    safetensors, also `organisation/name`), whose probability of `labels` is the score."""
    labels: tuple[str, ...] | None
    """Of the classifier: a turn's score is the sum of their probabilities, or the highest where several can hold at
    once. null: the only label, or the second of two; and for a function."""
    max_score: float
    """A turn with a higher score is an offence."""
    scope: Scope
    """What such a turn costs."""

    @field_validator("scorer")
    @classmethod
    def _can_be_called(cls, scorer: str | None, info: ValidationInfo) -> str | None:
        if scorer is not None and is_function(scorer):
            load_scorer(scorer)
        elif scorer is None and info.data.get("enabled"):
            raise ValueError(
                "moderation is enabled and has no scorer; give moderation.scorer=package.module:function, or a "
                "folder of a classifier"
            )
        return scorer

    @field_validator("labels")
    @classmethod
    def _are_of_a_classifier(cls, labels: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        scorer = info.data.get("scorer")
        if labels is not None and (not labels or not scorer or is_function(scorer)):
            raise ValueError("are those of a classifier, one or more; a function has none")
        return labels


class LanguageConfig(Config):
    """The language of a conversation, by its text without code (fastText's lid.176, ISO 639 codes)."""

    enabled: bool
    """Whether the step is taken."""
    keep: Languages | None
    """Languages to keep; null: all."""
    drop: Languages
    """Languages to drop."""
    unknown: Literal["keep", "drop"]
    """Conversations whose language is `unknown`: mostly code with few words, seldom a foreign language."""
    min_confidence: Fraction
    """Below it the language is `unknown`."""


class DecontaminationConfig(Config):
    """Drops conversations in which a user asks a question of the evaluation."""

    enabled: bool
    """Whether the step is taken."""
    questions: tuple[AnyPath, ...]
    """Files of questions: JSONL with `text` or `turns` (vicuna_bench, MT-bench)."""
    ngram: PositiveInt
    """Words that must agree in a row; shorter questions must agree as a whole."""
    min_overlap: Share
    """Share of a question's n-grams that a user's turn must hold."""
    report_similarity: Share | None
    """Turns whose words are so like a question's (cosine, rare words count more) are listed in `paraphrases.jsonl` and
    stay; null: not looked for."""


class DedupConfig(Config):
    """Drops all but the best copy."""

    enabled: bool
    """Whether the step is taken."""
    id: bool
    """Conversations with the same id."""
    text: bool
    """Conversations with the same turns."""
    first_exchange_characters: Annotated[int, Field(ge=0)] | None
    """The same first question and answer, of at least so many characters together; null: not looked at."""
    threshold: Share | None
    """Near-duplicates: estimated Jaccard similarity of the sets of 32-byte shingles; of those of its replies at least
    this share must stand in the other's replies, too. null: not looked at."""
    containment: Share | None
    """Of two conversations with the same first question, the one of whose 32-byte shingles at least this share stands
    in the other, whatever else that holds, and of its replies' in the other's replies; null: not looked at."""
    keep: Literal["longest", "first"]
    """The best copy: the one with the most characters (the first of equals), or the first. Where `raw` names several
    sources, the copy in the source named first comes before all others."""


class CutConfig(Config):
    """Pieces of at most `context_length` tokens; needs `tokenizer`. An exchange that is too long alone is dropped."""

    enabled: bool
    """Whether the step is taken."""
    carried_exchanges: Annotated[int, Field(ge=0)]
    """Exchanges of the piece before that open the next one, as context without loss."""


class RawSource(Config):
    """A source with a name."""

    path: AnyPath
    """File, folder or glob."""
    name: Annotated[str, AfterValidator(base.source_name)]
    """In the results: letters, digits, `_`, `.` and `-`."""
    columns: Columns | None = None
    """As `columns`."""


class PrepareRecipe(Config):
    """What decides the bytes of the output."""

    raw: AnyPath | tuple[AnyPath, ...] | tuple[RawSource, ...]
    """File, folder or glob of raw conversations, or a list of these; `package://name/file` works too. A list of
    `{path: …, name: …}` names sources: each record written has its `source`, each source its account, and of copies in
    several sources that of the one named first stays."""
    columns: Columns | None = None
    """Which column of a record is what, as `data.columns` of train; named sources have their own. null: keys say it."""
    html: HtmlConfig
    tidy: TidyConfig
    roles: RolesConfig
    filters: FiltersConfig
    personal_data: PersonalDataConfig
    moderation: ModerationConfig
    language: LanguageConfig
    decontamination: DecontaminationConfig
    dedup: DedupConfig
    validation_fraction: Fraction
    """Held out by the hash of the conversation's original id, before anything is cut."""
    context_length: PositiveInt
    """Longest piece in tokens."""
    tokenizer: AnyPath | None
    """Folder of the tokenizer to count and cut with; null: conversations stay whole, and `train` cuts them."""
    add_tokens: AddedTokens | None
    """Special tokens that the tokenizer gets besides its own, as `model.add_tokens` of train: a template's tokens are
    counted as one each. null: none."""
    system_prompt: str | None
    """For conversations without a system turn, as in train; null: the template's own."""
    template: TemplateConfig
    """Whose tokens are counted when conversations are cut."""
    cut: CutConfig

    @field_validator("raw")
    @classmethod
    def _has_other_names(cls, raw: Any) -> Any:
        names = [one.name for one in raw if isinstance(one, RawSource)]
        if again := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two are called {again[0]}; each has a name of its own")
        return raw

    @field_validator("columns")
    @classmethod
    def _of_no_named_sources(cls, columns: Columns | None, info: ValidationInfo) -> Columns | None:
        if columns is not None and any(isinstance(one, RawSource) for one in info.data.get("raw", ())):
            raise ValueError("named sources have columns of their own: raw=[{path: …, name: …, columns: …}]")
        return columns

    @property
    def columns_by_source(self) -> dict[str, dict[ColumnRole, str] | None]:
        """As `raw_by_source`."""
        return {one.name: one.columns for one in self.raw if isinstance(one, RawSource)} or {"": self.columns}

    @property
    def raw_by_source(self) -> dict[str, tuple[str, ...]]:
        """The paths of each source by its name; without names all of them under an empty one."""
        if isinstance(self.raw, str):
            return {"": (self.raw,)}
        named = {one.name: (one.path,) for one in self.raw if isinstance(one, RawSource)}
        return named or {"": tuple(one for one in self.raw if isinstance(one, str))}

    @property
    def tokenizer_path(self) -> str:
        """Where the tokenizer lies."""
        return self.tokenizer or ""

    @property
    def cuts(self) -> bool:
        """Whether conversations are tokenised and cut."""
        return self.tokenizer is not None and self.cut.enabled


class PrepareConfig(PrepareRecipe):
    """The prepare job; `conf/prepare.yaml`."""

    run: RunConfig
    workers: PositiveInt | None
    """Processes; null: one per core. Never changes a byte of the output."""
    review: PositiveInt | None
    """So many hits of each rule are drawn for a person to judge, into `review.jsonl`: in the terminal, or in the file.
    Their precision is put on the card. Never changes a byte of the data."""
    engine: Literal["local", "ray"]
    """ray runs the same steps on a Ray cluster that shares the run folder's file system."""


def is_function(scorer: str) -> bool:
    """Whether it names a function; else it is a path."""
    return re.fullmatch(r"[\w.]+:\w+", scorer) is not None


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
