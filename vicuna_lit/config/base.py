"""The parts that several jobs share; each job's own config lies beside this one (`train.py`, …).

YAML in `conf/` holds all values; these classes hold none, they check them. Importing this module costs
milliseconds: no torch, no Hydra. `vicuna_lit.config.compose` turns YAML and overrides into these classes.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from inspect import isclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)

from vicuna_lit.config.path_types import AnyPath, NewFolder

PACKAGE = Path(__file__).parents[1]
CONF_DIR = next(p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir())
"""The YAML files: beside the package in a wheel, at the top of a checkout."""

Role = Literal["system", "user", "assistant", "tool"]
"""Who speaks in a turn."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""NumPy takes no larger one."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ShareKind = Literal["weight", "epochs", "conversations"]
SHARES: tuple[ShareKind, ...] = get_args(ShareKind)
"""How a source of a mixture says how much of it is trained on."""


class ConfigError(ValueError):
    """One or more problems of a config; `problems` has a line for each."""

    def __init__(self, problems: Sequence[str]):
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


class Config(BaseModel):
    """Frozen, and an unknown key is an error; so is a truth value for a number, which Python takes as 0 or 1.

    What no JSON file can hold, an infinite number or half of a surrogate pair, is no value: it could not be read back.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        defer_build=True,  # a command checks its own config alone: nine tenths of the time that --cfg job takes
    )

    WHERE_MISSING: ClassVar[dict[str, str]] = {}
    """Values of keys that must be given, for a job that can do without them."""

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_is_a_number(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if odd := next((key for key, value in given.items() if _is_unwritable(value)), None):
            raise ValueError(f"{odd}: holds an infinite number or half of a surrogate pair, which no file can hold")
        numbers = _number_keys(cls)
        return {key: _as_text(value) if key in numbers else value for key, value in given.items()}

    @classmethod
    def part_of(cls, config: "Config") -> Self:
        """The keys of this class alone, out of a config that has more."""
        return cls.model_validate(_adapter(cls).dump_python(config))

    @classmethod
    def values_of(cls, config: "Config") -> dict[str, Any]:
        """The same as JSON values."""
        return _adapter(cls).dump_python(config, mode="json")


def _is_unwritable(value: Any) -> bool:
    match value:
        case str():
            return any("\ud800" <= sign <= "\udfff" for sign in value)
        case float():
            return not math.isfinite(value)
        case list() | tuple():
            return any(map(_is_unwritable, value))
        case dict():
            return any(_is_unwritable(item) for pair in value.items() for item in pair)
        case _:
            return False


@cache
def _number_keys(part: type[Config]) -> frozenset[str]:
    """The fields that hold numbers and can hold no truth value."""
    kinds = {name: list(leaves(field.annotation)) for name, field in part.model_fields.items()}
    return frozenset(
        name
        for name, found in kinds.items()
        if (int in found or float in found) and bool not in found and Any not in found
        if not any(isinstance(value, bool) for kind in found for value in get_args(kind))
    )


def _as_text(value: Any) -> Any:
    """A truth value as the text that was typed: no number can be read from it."""
    if isinstance(value, list | tuple):
        return [_as_text(one) for one in value]
    return str(value).lower() if isinstance(value, bool) else value


def leaves(annotation: Any) -> Iterator[Any]:
    """What a field may hold: the types in its unions and lists, `Literal[…]` whole."""
    if get_origin(annotation) is Annotated:
        yield from leaves(get_args(annotation)[0])
    elif get_args(annotation) and get_origin(annotation) not in (dict, Literal):
        for part in get_args(annotation):
            yield from leaves(part)
    else:
        yield annotation


@cache
def _adapter(part: type[Config]) -> TypeAdapter[Any]:
    return TypeAdapter(part)


def is_below(key: str, keys: Iterable[str]) -> bool:
    """Whether a dotted key is one of these, or lies in one of them."""
    return any(key == above or key.startswith(f"{above}.") for above in keys)


def other_keys(whole: type[Config], part: type[Config], prefix: str = "") -> tuple[str, ...]:
    """The dotted keys of a class that a part of it does not have; a group that both have is looked into."""
    keys: list[str] = []
    for name, field in whole.model_fields.items():
        if name not in part.model_fields:
            keys.append(prefix + name)
            continue
        mine, its = field.annotation, part.model_fields[name].annotation
        if isclass(mine) and isclass(its) and issubclass(mine, Config) and issubclass(its, Config):
            keys += other_keys(mine, its, f"{prefix}{name}.")
    return tuple(keys)


class RunConfig(Config):
    """Where the results go."""

    name: Annotated[str, Field(min_length=1)]
    """Names the run in W&B and, by default, its folder."""
    dir: NewFolder
    """The run's folder; the same command finds its own results there."""
    swept: dict[str, str]
    """What was chosen for this job of a sweep; the multirun fills it."""
    choices: dict[str, str]
    """What was chosen of each group of `conf` (model, strategy, experiment, …); composing fills it."""


RopeScaling = Literal["none", "linear", "yarn"]


def _has_family(architecture: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(architecture.get("model_type"), str):
        raise ValueError("model_type must be given, transformers' name of the family, such as llama")
    return architecture


def _are_tokens(tokens: tuple[str, ...]) -> tuple[str, ...]:
    for token in tokens:
        if not token or token != token.strip():
            raise ValueError(f"{token!r} is no token: a text without blanks around it, such as '<|im_start|>'")
    if again := [token for token, count in Counter(tokens).items() if count > 1]:
        raise ValueError(f"{again[0]} is there twice")
    return tokens


AddedTokens = Annotated[tuple[str, ...], AfterValidator(_are_tokens)]
"""Special tokens that the tokenizer gets besides its own."""


Architecture = Annotated[dict[str, Any], AfterValidator(_has_family)]
"""`model_type`, transformers' name of a family, and fields of that family's configuration as in its `config.json`."""


class ScratchModelConfig(Config):
    """A model with random weights: any size becomes one by `model.kind=scratch model.tokenizer=<folder>`."""

    name: str
    """The recipe's, as in `conf/model`."""
    kind: Literal["scratch"]
    path: AnyPath | None
    """null: there are no weights to load."""
    tokenizer: AnyPath
    """Folder of the tokenizer."""
    architecture: Architecture
    """Of any family; the vocabulary and the stop token come from the tokenizer."""
    rope_scaling: RopeScaling
    """As for a pretrained model: what stretches the positions where the context is longer than the model's."""
    add_tokens: AddedTokens | None = None
    """As for a pretrained model: special tokens that the tokenizer gets besides its own; null: none."""

    @field_validator("path")
    @classmethod
    def _has_none(cls, path: str | None) -> None:
        if path is not None:
            raise ValueError(f"this model begins with random weights; model=local model.path={path} loads a folder")


class PretrainedModelConfig(Config):
    """Weights in a local Hugging Face folder, or a `.gguf` file."""

    name: str
    """The recipe's, as in `conf/model`."""
    kind: Literal["pretrained"]
    path: AnyPath | None
    """Folder or file; `package://name/file` looks inside an installed package."""
    tokenizer: AnyPath | None
    """Folder of the tokenizer; null: beside the weights."""
    architecture: Architecture | None
    """To plan (`dry_run`) without the weights, and to refuse a folder that holds another model; null: any."""
    rope_scaling: RopeScaling
    """What stretches the positions, by ceil(context_length / the model's), where the context asks for it:
    `linear`, as Vicuna v1.5-16k, or `yarn` (Peng et al. 2023)."""
    add_tokens: AddedTokens | None = None
    """Special tokens that the tokenizer gets besides its own, such as `['<|im_start|>','<|im_end|>']` for
    template=chatml. Only a template writes them; the same text in a turn stays plain. Their rows of the embeddings and
    of the head begin as the mean of the other tokens' rows, and must be trained. What is a token already stays as it
    is. null: none."""


ModelConfig = Annotated[ScratchModelConfig | PretrainedModelConfig, Field(discriminator="kind")]


def _one_place(given: Any) -> Any:
    if isinstance(given, list | tuple):
        raise ValueError("is one file, folder or pattern such as data='d/**/*.jsonl'; several files lie in one folder")
    return given


def source_name(name: str) -> str:
    """A name that may stand in results and metrics.

    Raises:
        ValueError: it may not.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise ValueError(f"{name!r:.80} is no name: up to 64 letters, digits, _ . and -, a letter or digit first")
    return name


def _make_a_conversation(columns: dict[str, str]) -> dict[str, str]:
    if ("messages" in columns) == ("prompt" in columns):
        raise ValueError("give messages (a list of turns) or prompt with response, each the name of a column")
    if "prompt" in columns and not columns.keys() & {"response", "calls"}:
        raise ValueError("prompt has no answer: give response, the name of its column (or calls, of tools)")
    if "context" in columns and "prompt" not in columns:
        raise ValueError("context belongs to a prompt, and messages are given")
    return columns


ColumnRole = Literal["messages", "system", "prompt", "context", "reasoning", "response", "calls", "tools"]
Columns = Annotated[dict[ColumnRole, Annotated[str, Field(min_length=1)]], AfterValidator(_make_a_conversation)]
"""Which column of a record holds what; `a.b` looks inside."""


class SourceConfig(Config):
    """One source of a mixture, with one of the three shares, see `DataConfig.sources`."""

    path: Annotated[AnyPath, BeforeValidator(_one_place)]
    """As `data.path`."""
    name: Annotated[str, AfterValidator(source_name)]
    """In the results: letters, digits, `_`, `.` and `-`."""
    from_source: str | None = None
    """As `data.from_source`."""
    columns: Columns | None = None
    """As `data.columns`."""
    weight: Share | None = None
    epochs: Share | None = None
    conversations: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _has_one_share(self) -> "SourceConfig":
        given = [kind for kind in SHARES if getattr(self, kind) is not None]
        if len(given) != 1:
            has = " and ".join(given) if given else "no share"
            raise ValueError(f"{self.name} has {has}; give one of weight, epochs and conversations")
        return self

    @property
    def share(self) -> tuple[ShareKind, float]:
        """Its kind and its amount."""
        return next((kind, value) for kind in SHARES if (value := getattr(self, kind)) is not None)


class DataConfig(Config):
    """Conversations: ShareGPT, OpenAI messages or Alpaca; JSON, JSONL or gzip; a file or a folder."""

    path: Annotated[AnyPath | None, BeforeValidator(_one_place)]
    """File or folder (also one that `vicuna-prepare` wrote); `package://name/file` looks inside a package. null:
    `sources` names several."""
    from_source: str | None
    """The records of this source alone, in what `vicuna-prepare` wrote of several (its `raw` with names); null: all."""
    columns: Columns | None = None
    """Which column of a record is what, where its keys do not say it: `{prompt: question, response: answer}`, with
    `context` (stands behind the prompt), `system`, `reasoning`, `tools` and `calls` (of tools, as JSON). Or `{messages:
    request.messages, response: reply}`: turns whose last reply may stand beside them; `a.b` looks inside. Of other
    columns only id and weight are read. null: the keys say it."""
    sources: tuple[SourceConfig, ...]
    """A mixture, `[{path: …, name: …, weight: 1}, …]`; all have the same kind of share, counted as `step_unit` counts.
    epochs: how often one pass sees each conversation of the source (0.5: a half of them, the other half in the next
    pass); conversations: so many are drawn in one pass, each once before any twice; weight: its share of one pass,
    which is as long as all sources together. 0 leaves a source to validation. Each has its own held-out part, which no
    share changes. []: `path` alone."""
    shares: Literal["conversations", "supervised_tokens"]
    """What the weights of `sources` share out, exact to one conversation."""
    validation_path: AnyPath | None
    """Conversations to judge by. null: a fraction of `path`, or of each source, is held out."""
    validation_fraction: Fraction
    """Held out by the hash of the conversation's original id, so pieces of one never part; of a record without an id by
    that of its user's turns. Other records, file names and answers move nobody."""
    score_field: Annotated[str, Field(min_length=1)] | None
    """Key of a number that each record has, for `order=by_score`; null: none is read."""
    max_conversations: PositiveInt | None
    """Use the first so many (of each source) for training; null: all. Refused ones do not count, but under
    `step_unit=conversation`, where no setting shall bring others in their place."""
    max_validation: PositiveInt | None
    """Use the first so many (of each source) for the validation loss; null: all."""

    @field_validator("sources")
    @classmethod
    def _is_a_mixture(cls, sources: tuple[SourceConfig, ...], info: ValidationInfo) -> tuple[SourceConfig, ...]:
        path = info.data.get("path", "")
        if not sources:
            if path is None:
                raise ValueError(
                    "there are none, and data.path is null; data=<file or folder>, or sources of a mixture"
                )
            return sources
        if path:
            raise ValueError(f"a mixture has its paths in its sources: data.path=null, it is {path}")
        if (only := info.data.get("from_source")) is not None:
            raise ValueError(f"a mixture has from_source in its sources: data.from_source=null, it is {only}")
        if info.data.get("columns") is not None:
            raise ValueError("a mixture has columns in its sources: data.columns=null")
        if again := [name for name, count in Counter(source.name for source in sources).items() if count > 1]:
            raise ValueError(f"two are called {again[0]}; each has a name of its own")
        kinds = {source.name: source.share[0] for source in sources}
        if len(set(kinds.values())) > 1:
            said = ", ".join(f"{name} has {kind}" for name, kind in kinds.items())
            raise ValueError(f"{said}; give all of them the same: weight, epochs or conversations")
        if not any(source.share[1] for source in sources):
            raise ValueError(f"{kinds[sources[0].name]} is 0 for all of them; nothing would be trained on")
        return sources

    def by_source(self) -> dict[str, "DataConfig"]:
        """Each source as data of its own, by its name; without sources all of it, under an empty name."""
        if not self.sources:
            return {"": self}
        own = {"path", "from_source", "columns"}
        parts = {s.name: {name: getattr(s, name) for name in own} | {"sources": ()} for s in self.sources}
        return {name: self.model_copy(update=part) for name, part in parts.items()}

    @property
    def paths(self) -> tuple[str, ...]:
        """Where the conversations to train on lie, as given."""
        return tuple(str(data.path) for data in self.by_source().values())

    @property
    def validated_sources(self) -> tuple[str, ...]:
        """The names of the sources that have a held-out part each; none where `validation_path` is for all."""
        return () if self.validation_path else tuple(source.name for source in self.sources)
