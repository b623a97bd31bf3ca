"""Every knob of the evaluate job on one page; YAML in `conf/evaluate.yaml` and `conf/judge/` holds the values."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from vicuna_lit.config.base import Config, NonNegative, RunConfig, Seed
from vicuna_lit.config.choices import Choice
from vicuna_lit.config.path_types import AnyPath, FilePath
from vicuna_lit.config.template import TemplateConfig, TemplateDate
from vicuna_lit.config.texts import is_there
from vicuna_lit.config.tracking import WandbConfig

Form = Literal["scores", "letter", "rating", "number"]
"""scores: two of them, on the first line or at the end, as the Vicuna article's prompts ask for (FastChat,
`eval/table/prompt.jsonl`); letter: `[[A]]`, rating: `[[7]]` (MT-bench, Zheng et al. 2023); number: 1, 2 or 3 = tie
alone on the last line (QLoRA, Dettmers et al. 2023)."""


class PriceConfig(Config):
    """USD per million tokens."""

    input: NonNegative
    """Of what is sent."""
    output: NonNegative
    """Of what comes back."""


class EndpointConfig(Config):
    """A model behind an OpenAI-compatible server: OpenAI, vLLM, `transformers serve`, …"""

    url: str
    """Up to and with `/v1`."""
    model: str
    """As the server calls it."""
    version: str | None = None
    """Tells two states of a model apart that the server calls the same; a new one asks everything anew."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable with the key; the key itself is written nowhere."""
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the most tokens of a reply; OpenAI's reasoning models want the second."""
    price: PriceConfig | None = None
    """null: by the table of genai-prices, or unknown."""

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url} begins with neither http:// nor https://")
        if {"@", "?", "#"} & set(url):
            raise ValueError(
                "holds a user, a password or parameters, which would be written down; give the address alone"
            )
        return url.rstrip("/")

    @field_validator("key_variable")
    @classmethod
    def _is_variable(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name):
            raise ValueError("is no name of an environment variable; never give the key itself")
        return name


class FolderSource(Config):
    """A model folder of Hugging Face (or a `.gguf` file), or a file of answers."""

    kind: Literal["folder"]
    path: AnyPath
    name: str | None = None
    """null: by the folder, or as the answers say."""


class EndpointSource(EndpointConfig):
    """A model behind an endpoint."""

    kind: Literal["endpoint"]
    name: str | None = None
    """null: the model's."""


def _source(value: Any) -> Any:
    """`<model>@<url>` is short for an endpoint, any other text for a path."""
    if isinstance(value, str):
        model, at, url = value.partition("@http")
        value = {"model": model, "url": f"http{url}"} if at else {"path": value}
    return {"kind": "endpoint" if "url" in value else "folder"} | value if isinstance(value, dict) else value


ModelRef = Annotated[FolderSource | EndpointSource, Field(discriminator="kind"), BeforeValidator(_source)]


class AnswersRecipe(Config):
    """What decides an answer."""

    max_new_tokens: PositiveInt
    """Of an answer."""
    temperature: NonNegative | None
    """0: greedy; null: an endpoint's own."""
    seed: Seed
    """Of sampling."""


class AnswersConfig(AnswersRecipe):
    """How the models answer."""

    batch_size: PositiveInt
    """Questions that a local model answers at once."""


class PromptConfig(Config):
    """What a judge is asked; the answers are put behind it."""

    form: Form
    """How the verdict is written."""
    system: str
    """The system prompt of the judge."""
    task: dict[str, str]
    """By the question's category; `default` for the others."""
    with_reference: str
    """Added where there is a reference answer."""
    later_turn: str
    """Added from the second turn on."""
    verdict: str
    """Ends the request."""
    again: str
    """Asked once more where the reply holds no verdict."""

    @model_validator(mode="after")
    def _has_default(self) -> "PromptConfig":
        if "default" not in self.task:
            raise ValueError("task: the text for `default` is missing")
        return self


class PromptsConfig(Config):
    """The prompts of both modes."""

    pairwise: PromptConfig
    single: PromptConfig

    @model_validator(mode="after")
    def _forms_fit(self) -> "PromptsConfig":
        if self.pairwise.form == "rating":
            raise ValueError("pairwise.form: rating is of one answer; choose scores, letter or number")
        if self.single.form != "rating":
            raise ValueError(f"single.form: {self.single.form} is of two answers; choose rating")
        return self


@dataclass(frozen=True, kw_only=True)
class JudgeFacts:
    """What a judge is to the job."""

    needs_reference: bool
    """Whether it judges by a reference answer, and questions without one are left out."""
    asks_here: bool
    """Whether it takes the terminal, where else a bar goes on."""
    folder: str | None
    """Of its model, where that runs on this machine."""


class JudgeConfig(Config):
    """What all judges that are asked have in common."""

    mode: Literal["pairwise", "single"]
    """Two answers side by side, or each alone."""
    both_orders: bool
    """Pairwise: also with the answers changed round; other winners in the two orders make a tie."""
    references: bool
    """Shows the reference answer where a question has one."""


class EndpointJudgeConfig(JudgeConfig, EndpointConfig, Choice):
    """A model behind an endpoint; GPT-4 in the article."""

    kind: Literal["endpoint"]
    temperature: NonNegative | None
    """null: the server's own; OpenAI's reasoning models take no other."""
    max_tokens: PositiveInt
    """Of a review."""
    prompts: PromptsConfig

    facts: ClassVar = JudgeFacts(needs_reference=False, asks_here=False, folder=None)


class LocalJudgeConfig(JudgeConfig, Choice):
    """A model folder of Hugging Face on this machine."""

    kind: Literal["local"]
    path: AnyPath
    """The judge's folder."""
    verdict: Literal["likelihood", "text"]
    """likelihood: the most likely verdict, with no word of explanation (any model gives one); text: what it writes."""
    max_tokens: PositiveInt
    """Of a review."""
    prompts: PromptsConfig

    @property
    def facts(self) -> JudgeFacts:
        """All of them."""
        return JudgeFacts(needs_reference=False, asks_here=False, folder=self.path)

    @model_validator(mode="after")
    def _can_be_weighed(self) -> "LocalJudgeConfig":
        if self.verdict == "likelihood" and self.mode == "pairwise" and self.prompts.pairwise.form != "letter":
            raise ValueError("verdict: likelihood weighs letters; judge/prompts=letter, or judge.verdict=text")
        return self


class HumanJudgeConfig(JudgeConfig, Choice):
    """A person in the terminal; the models' names are hidden."""

    kind: Literal["human"]
    name: str
    """Under which the judgments are kept."""

    facts: ClassVar = JudgeFacts(needs_reference=False, asks_here=True, folder=None)


class RuleJudgeConfig(JudgeConfig, Choice):
    """How much of the reference answer's words and numbers an answer holds. For tests: no judge of quality."""

    kind: Literal["rule"]

    facts: ClassVar = JudgeFacts(needs_reference=True, asks_here=False, folder=None)


class RecordedJudgeConfig(Choice):
    """Reviews that were written before, in any published form."""

    kind: Literal["recorded"]
    reviews: AnyPath | tuple[AnyPath, ...]
    """Files or folders."""
    name: str | None
    """Names the judge; null: as recorded."""

    facts: ClassVar = JudgeFacts(needs_reference=False, asks_here=False, folder=None)


AskedJudge = EndpointJudgeConfig | LocalJudgeConfig | HumanJudgeConfig | RuleJudgeConfig
"""Those that are given cases to judge; the type checker names each `match` that lacks one (`name_of`, `_judge`)."""
Judge = Annotated[AskedJudge | RecordedJudgeConfig, Field(discriminator="kind")]


class RequestsConfig(Config):
    """How endpoints are asked."""

    concurrency: PositiveInt
    """Requests under way at once."""
    per_minute: PositiveFloat | None
    """Requests a minute, attempts included; null: no limit."""
    timeout_seconds: PositiveFloat
    """After which a request counts as failed."""
    retries: Annotated[int, Field(ge=0)]
    """After 429, 5xx, a time-out or a lost connection, with growing pauses."""
    attempts: PositiveInt
    """For a reply that is broken, empty or a refusal."""
    cache: FilePath
    """SQLite file with every paid reply; evaluations may share it."""


class BootstrapConfig(Config):
    """Intervals, by drawing questions with replacement."""

    samples: PositiveInt
    """How often the questions are drawn."""
    seed: Seed
    """Of the draws."""


def _as_models(given: Any) -> Any:
    """A single one as a list."""
    if isinstance(given, str) and "," in given and not is_there(given):
        raise ValueError(f"of several a list is wanted, models=[{given}]")
    return [given] if isinstance(given, str | dict) else given


class EvaluateRecipe(Config):
    """What decides the answers and the verdicts."""

    models: Annotated[tuple[ModelRef, ...], BeforeValidator(_as_models)]
    """Folders, files of answers, endpoints; of two the later is called the model, the earlier its opponent."""
    baseline: str | None
    """The name of the model that all others are compared with; null: every two are compared."""
    questions: AnyPath | None
    """File or folder; null: the bundled 80, or those beside recorded reviews."""
    max_questions: PositiveInt | None
    """So many in all: the first of each category, then the second ones, …; null: all."""
    answers: AnswersRecipe
    judge: Judge
    """Who compares the answers: one of `conf/judge`."""
    template: TemplateConfig
    """For model folders without a chat template of their own."""
    template_date: TemplateDate
    """For chat templates that write today's date; null: the day of the evaluation's first start."""


class EvaluateConfig(EvaluateRecipe):
    """The evaluate job; `conf/evaluate.yaml`."""

    answers: AnswersConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # sound, for configs are frozen
    run: RunConfig
    requests: RequestsConfig
    budget_usd: NonNegative | None
    """Asks for nothing that could take the run's bill over it; null: no limit."""
    bootstrap: BootstrapConfig
    wandb: WandbConfig

    @model_validator(mode="after")
    def _has_models(self) -> "EvaluateConfig":
        if not self.models and self.judge.kind != "recorded":
            raise ValueError("models: give at least one folder, file of answers or endpoint, models=[…]")
        if len(self.models) == 1 and isinstance(self.judge, JudgeConfig) and self.judge.mode == "pairwise":
            path = getattr(self.models[0], "path", "")
            if not path.endswith((".jsonl", ".json")):
                raise ValueError("models: judge.mode=pairwise compares two or more; judge.mode=single rates one alone")
        return self
