"""The two stages that take time or money: answers and reviews. Nothing is asked for twice."""

import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import Progress

from vicuna_lit import notebook
from vicuna_lit.config.evaluate import (
    EndpointConfig,
    EndpointJudgeConfig,
    EndpointSource,
    EvaluateConfig,
    HumanJudgeConfig,
    LocalJudgeConfig,
    RecordedJudgeConfig,
    RuleJudgeConfig,
)
from vicuna_lit.evaluate import generate, judges
from vicuna_lit.evaluate.answers import Answer, Answers, append, complete
from vicuna_lit.evaluate.cases import JudgeTask, cases, messages
from vicuna_lit.evaluate.generate import Model
from vicuna_lit.evaluate.questions import Question
from vicuna_lit.evaluate.reviews import Review, from_record
from vicuna_lit.inference.paid_client import Client, price_of, run_to_end
from vicuna_lit.inference.reply_cache import Cache
from vicuna_lit.run_folder import RunError

_BYTES_PER_TOKEN = 8
console = notebook.console(highlight=False)


class BudgetedClients:
    """The endpoints of an evaluation, the cache of their replies, and the bill."""

    def __init__(self, config: EvaluateConfig, folder: Path):
        self.config, self.run = config, str(folder.resolve())
        self._cache: Cache | None = None
        self._most_usd: float | None = None

    def __enter__(self) -> "BudgetedClients":
        return self

    def __exit__(self, *_: object) -> None:
        if self._cache:
            self._cache.close()

    def client(self, endpoint: EndpointConfig) -> Client:
        """For an endpoint."""
        self._cache = self._cache or Cache(Path(self.config.requests.cache))
        client = Client(endpoint, self.config.requests, self._cache, self.run, self.config.budget_usd)
        client.most_usd = self._most_usd
        return client

    def run_with(self, endpoint: EndpointConfig, ask: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
        """Runs what asks an endpoint to its end."""
        client = self.client(endpoint)

        async def run() -> None:
            async with client:
                await ask(client)

        run_to_end(run, client.stop)

    def promise(self, usd: float) -> None:
        """Limits what this start pays from now on, whatever the servers do."""
        if self._cache:
            self._most_usd = self._cache.spent(self.run).usd + self._cache.reserved(self.run) + usd

    def endpoints(self, models: Sequence[Model]) -> list[EndpointConfig]:
        """All that will be asked."""
        judge = self.config.judge
        found: list[EndpointConfig] = [m.source for m in models if isinstance(m.source, EndpointSource)]
        return [*found, judge] if isinstance(judge, EndpointConfig) else found

    def check(self, models: Sequence[Model]) -> None:
        """
        Raises:
            EndpointError, ServerError: an endpoint is down, refuses the key or has no price for the budget; nothing is
                paid yet.
        """
        for endpoint in self.endpoints(models):
            self.client(endpoint).server.check()

    def notes(self, models: Sequence[Model]) -> list[str]:
        """What was paid and who has answered, over all starts of the evaluation."""
        if self._cache is None:
            return []
        bill, unknown = self._cache.spent(self.run), [e.model for e in self.endpoints(models) if price_of(e) is None]
        cost = f"{bill.usd:.4f} USD" + (f" without {', '.join(unknown)}, whose price is not known" if unknown else "")
        lost = self._cache.reserved(self.run)
        aside = (
            f"; {lost:.4f} USD are set aside for requests without a reply, which may have been billed" if lost else ""
        )
        others = [(asked, said, count) for asked, said, count in self._cache.models(self.run) if said != asked]
        served = [f"{count:,} replies of {asked} are by what its server calls {said}" for asked, said, count in others]
        return [
            *served,
            f"paid: {cost}, for {bill.input_tokens:,} tokens sent and {bill.output_tokens:,} received{aside}",
        ]


def can_be_opened(paths: Sequence[str]) -> None:
    """
    Raises:
        ModelError: one is no model folder.
    """
    from transformers.utils.logging import disable_progress_bar

    from vicuna_lit.data.tokenizer import load_tokenizer
    from vicuna_lit.models.architecture import read_configs
    from vicuna_lit.paths import ModelError, locate_model

    disable_progress_bar()
    for path in paths:
        load_tokenizer(path)
        place = locate_model(path)
        read_configs(place)
        if place.is_dir() and not any(place.glob("*.safetensors")):
            raise ModelError(f"{place}: holds no weights (*.safetensors)")


@dataclass
class Costs:
    """Requests that are left, and the most that they can cost."""

    usd: float = 0.0
    requests: int = 0
    unpriced: set[str] = field(default_factory=set)
    """Models of which no price is known."""

    def add(self, client: Client, usd: float) -> None:
        """One request."""
        self.usd, self.requests = self.usd + usd, self.requests + 1
        if not client.priced:
            self.unpriced.add(client.endpoint.model)


def cost_estimate(
    config: EvaluateConfig,
    questions: Sequence[Question],
    names: Sequence[str],
    models: Sequence[Model],
    given: Answers,
    payer: BudgetedClients,
) -> str | None:
    """How many requests are left and the most that they can cost; None: none are.

    The clients of `payer` pay no more than this, also where replies are empty or lost.
    """
    costs, limit = Costs(), config.answers.max_new_tokens
    done = given | {model.name: model.answered() for model in models}
    for model in models:
        _add_answers(costs, model, [q for q in questions if q.id not in done[model.name]], limit, payer)
    longest = _longest(limit)
    answers = {
        name: {q.id: done[name].get(q.id) or Answer(name, q.id, (longest,) * len(q.turns)) for q in questions}
        for name in names
    }
    _add_verdicts(costs, config, questions, answers, payer)
    if not costs.requests:
        return None
    if not costs.unpriced:
        payer.promise(costs.usd)
    cost = (
        f"of unknown cost: no price is known for {', '.join(sorted(costs.unpriced))}"
        if costs.unpriced
        else f"at most {math.ceil(costs.usd * 1e4) / 1e4:.4f} USD"
    )
    budget = "" if config.budget_usd is None else f"; the budget is {config.budget_usd:g}"
    return f"{costs.requests:,} requests, {cost}{budget}"


def _add_answers(costs: Costs, model: Model, left: Sequence[Question], limit: int, payer: BudgetedClients) -> None:
    """Each turn of the questions that a model behind an endpoint has not answered, behind replies of full length."""
    if not isinstance(model.source, EndpointSource):
        return
    client = payer.client(model.source)
    for question in left:
        talk: list[dict[str, str]] = []
        for turn in question.turns:
            talk += [{"content": _longest(limit)}, {"content": turn}] if talk else [{"content": turn}]
            costs.add(client, client.most(talk, limit))


def _add_verdicts(
    costs: Costs, config: EvaluateConfig, questions: Sequence[Question], answers: Answers, payer: BudgetedClients
) -> None:
    """Each counts twice, since it may be asked for again."""
    judge = config.judge
    if not isinstance(judge, EndpointJudgeConfig):
        return
    client, prompt = payer.client(judge), judges.prompt_of(judge)
    for case in cases(questions, answers, judge, config.baseline):
        asked = messages(case, prompt)
        if not client.cached(asked, judge.max_tokens, judge.temperature):
            again = [*asked, {"content": _longest(judge.max_tokens)}, {"content": prompt.again}]
            costs.add(client, client.most(asked, judge.max_tokens) + client.most(again, judge.max_tokens))


def _longest(tokens: int) -> str:
    """A text as long in bytes as this many tokens can be."""
    return "x" * (tokens * _BYTES_PER_TOKEN)


def answers_of(
    model: Model, questions: Sequence[Question], config: EvaluateConfig, payer: BudgetedClients
) -> dict[str, Answer]:
    """A model's answers to all questions; those of an earlier start are kept."""
    left = [q for q in questions if q.id not in model.answered()]
    if left:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task(f"{model.name} answers", total=len(questions), completed=len(questions) - len(left))
            model.file.parent.mkdir(parents=True, exist_ok=True)

            def keep(answers: list[Answer]) -> None:
                append(model.file, answers)
                progress.advance(bar, len(answers))

            if isinstance(model.source, EndpointSource):
                payer.run_with(model.source, lambda c: generate.by_endpoint(left, model, config.answers, c, keep))
            else:
                generate.by_folder(questions, model, config, keep)
    answered = model.answered()
    console.print(f"{model.name}: {len(answered)} question{'s' * (len(answered) != 1)} answered", markup=False)
    return {q.id: answered[q.id] for q in questions}


def reviews_of(
    config: EvaluateConfig, folder: Path, questions: Sequence[Question], answers: Answers, payer: BudgetedClients
) -> list[Review]:
    """All reviews, in the order of the questions; those of an earlier start are kept."""
    judge, file = config.judge, folder / "reviews.jsonl"
    assert not isinstance(judge, RecordedJudgeConfig)
    wanted = [
        c for c in cases(questions, answers, judge, config.baseline) if c.reference or not judge.facts.needs_reference
    ]
    kept = complete(file)
    try:
        done = {_key(review): review for review in map(from_record, kept)}
    except (KeyError, TypeError, ValueError) as error:
        said = "a line is no review of this command; take it out, and the same command goes on"
        raise RunError(f"{file}: {said} ({error})") from None
    left = [case for case in wanted if _key(case) not in done]
    if left:
        quiet = judge.facts.asks_here or not console.is_terminal
        with Progress(console=console, transient=True, disable=quiet) as progress:
            bar = progress.add_task("reviews", total=len(wanted), completed=len(wanted) - len(left))

            def keep(review: Review) -> None:
                append(file, [review])
                done[_key(review)] = review
                progress.advance(bar)

            _judge(config, left, payer, keep)
    return [done[_key(case)] for case in wanted]


def _key(judged: JudgeTask | Review) -> Any:
    id = judged.question.id if isinstance(judged, JudgeTask) else judged.question_id
    return id, judged.turn, judged.models


def _judge(config: EvaluateConfig, left: Sequence[JudgeTask], payer: BudgetedClients, keep: judges.Keep) -> None:
    judge = config.judge
    assert not isinstance(judge, RecordedJudgeConfig)
    match judge:
        case EndpointJudgeConfig():
            payer.run_with(judge, lambda client: judges.by_endpoint(left, judge, client, keep))
        case LocalJudgeConfig():
            judges.by_local(left, judge, keep, config.template_date)
        case HumanJudgeConfig():
            judges.by_human(left, judge, keep)
        case RuleJudgeConfig():
            judges.by_rule(left, keep)
