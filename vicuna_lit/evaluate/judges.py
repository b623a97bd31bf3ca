"""Who judges: a model behind an endpoint, a model on this machine, a person, or rules. Each turns cases into reviews.

`keep` takes every review as soon as it is there; what was kept before a stop is not asked again.
"""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from vicuna_lit.config.evaluate import (
    AskedJudge,
    EndpointJudgeConfig,
    HumanJudgeConfig,
    LocalJudgeConfig,
    PromptConfig,
    RuleJudgeConfig,
)
from vicuna_lit.evaluate.cases import JudgeTask, merge_retry, messages, read
from vicuna_lit.evaluate.reviews import Review
from vicuna_lit.evaluate.verdicts import LETTERS, Scores, without_thinking
from vicuna_lit.inference.bodies import CUT
from vicuna_lit.inference.paid_client import Client, Messages, together
from vicuna_lit.pages import visible
from vicuna_lit.paths import ModelError, locate_model, model_name
from vicuna_lit.records.conversation import Conversation, Turn

Keep = Callable[[Review], None]
RULE = "rule (no judge of quality)"


def name_of(judge: AskedJudge) -> str:
    """What the judge is called in reviews and tables."""
    match judge:
        case EndpointJudgeConfig():
            return judge.model
        case LocalJudgeConfig():
            return model_name(locate_model(judge.path))
        case HumanJudgeConfig():
            return judge.name
        case RuleJudgeConfig():
            return RULE


def prompt_of(judge: EndpointJudgeConfig | LocalJudgeConfig) -> PromptConfig:
    """The prompt of the judge's mode."""
    return judge.prompts.pairwise if judge.mode == "pairwise" else judge.prompts.single


async def by_endpoint(cases: Sequence[JudgeTask], judge: EndpointJudgeConfig, client: Client, keep: Keep) -> None:
    """Asks for all verdicts at once, as far as the client's limits allow; a reply without one is asked once more."""
    prompt, name = prompt_of(judge), name_of(judge)

    async def ask(case: JudgeTask, asked: Messages) -> Review:
        reply = await client.ask(asked, judge.max_tokens, judge.temperature)
        return read(case, prompt, name, reply.text, reply.finish)

    async def one(case: JudgeTask) -> None:
        asked = messages(case, prompt)
        review = await ask(case, asked)
        if not review.parsed:
            said = {"role": "assistant", "content": without_thinking(review.text).strip() or "…"}
            review = merge_retry(review, await ask(case, [*asked, said, {"role": "user", "content": prompt.again}]))
        keep(review)

    await together(map(one, cases))


def by_local(cases: Sequence[JudgeTask], judge: LocalJudgeConfig, keep: Keep, date: str | None = None) -> None:
    """Asks a model on this machine, case by case; `date` is for templates that write today's."""
    from vicuna_lit.inference.generate import Chat, next_turn

    chat, prompt, name = Chat.load(judge.path, date=date), prompt_of(judge), name_of(judge)

    def read_reply(case: JudgeTask, asked: Conversation) -> Review:
        said = next_turn(chat.model, chat.encoder, asked, judge.max_tokens)
        return read(case, prompt, name, said.text, CUT if said.cut else "")

    for case in cases:
        turns = [Turn("system" if m["role"] == "system" else "user", m["content"]) for m in messages(case, prompt)]
        asked = Conversation("", tuple(turns))
        if judge.verdict == "likelihood":
            keep(_most_likely(case, chat, asked, name))
            continue
        try:
            review = read_reply(case, asked)
        except ModelError as error:
            keep(case.review(name, "", problem=str(error)))
            continue
        if not review.parsed:
            more = asked.say("assistant", without_thinking(review.text).strip() or "…").say("user", prompt.again)
            with suppress(ModelError):  # no room is left to ask again
                review = merge_retry(review, read_reply(case, more))
        keep(review)


def _most_likely(case: JudgeTask, chat: Any, asked: Conversation, name: str) -> Review:
    """The letter with the highest probability as the reply's first word; of ratings the expected one, to a tenth."""
    from vicuna_lit.inference.generate import likelihoods

    choices = list(LETTERS) if len(case.answers) == 2 else [str(i) for i in range(1, 11)]
    try:
        found = likelihoods(chat.model, chat.encoder, asked, "[[", [f"{c}]]" for c in choices])
    except ModelError as error:
        return case.review(name, "", problem=str(error))
    top = max(found)
    weights = [math.exp(value - top) for value in found]
    shares = [w / sum(weights) for w in weights]
    text = ", ".join(f"[[{c}]] {share:.1%}" for c, share in zip(choices, shares, strict=True))
    if len(case.answers) == 2:
        return case.review(name, text, winner=LETTERS[choices[shares.index(max(shares))]])
    expected = sum(float(c) * share for c, share in zip(choices, shares, strict=True))
    return case.review(name, text, (round(expected, 1),))  # else no two answers would ever tie


def by_rule(cases: Sequence[JudgeTask], keep: Keep) -> None:
    """Scores 1 + 9 × the share of the reference's words and numbers that an answer holds."""
    for case in cases:
        wanted = _words(case.question.references[case.turn - 1])
        if not wanted:
            keep(case.review(RULE, "", problem="the reference holds no number and no word of four letters or more"))
            continue
        found = [wanted & _words(answer.turns[case.turn - 1]) for answer in case.answers]
        scores = tuple(round(1 + 9 * len(words) / len(wanted), 1) for words in found)
        text = "; ".join(f"{len(words)} of {len(wanted)} words of the reference" for words in found)
        winner = Scores(*scores).winner if len(scores) == 2 else None
        keep(case.review(RULE, text, scores, winner))


def _words(text: str) -> set[str]:
    """Numbers, and words of more than three letters."""
    return set(re.findall(r"\d+(?:\.\d+)?|[^\W\d_]{4,}", text.lower()))


def by_human(
    cases: Sequence[JudgeTask], judge: HumanJudgeConfig, keep: Keep, ask: Callable[[str], str] = input
) -> None:
    """Shows the answers without names; `q` stops, and the same command goes on."""
    from vicuna_lit import notebook

    console = notebook.console()
    pair = judge.mode == "pairwise"
    keys: dict[str, Any] = (
        {"1": "first", "2": "second", "t": "tie"} if pair else {str(i): float(i) for i in range(1, 11)}
    )
    question = "better: 1, 2, t (tie), or q to stop > " if pair else "rating 1 to 10, or q to stop > "
    for i, case in enumerate(cases):
        console.rule(f"{i + 1} of {len(cases)}: {case.question.category}")
        _show(case, console)
        try:
            while (said := ask(question).strip().lower()) not in (*keys, "q"):
                console.print("one of " + ", ".join([*keys, "q"]))
        except EOFError:
            said = "q"
        if said == "q":
            raise KeyboardInterrupt
        verdict = keys[said]
        keep(case.review(judge.name, "", None if pair else (verdict,), verdict if pair else None))


def _show(case: JudgeTask, console: Any) -> None:
    """The question and the answers up to the turn that is judged, and the reference, where there is one."""
    from rich.markdown import Markdown
    from rich.markup import escape
    from rich.panel import Panel

    for turn in range(case.turn):
        console.print(Panel(escape(visible(case.question.turns[turn])), title="question"))
        for number, answer in enumerate(case.answers, 1):
            console.print(Panel(Markdown(visible(answer.turns[turn]) or "*(empty)*"), title=f"answer {number}"))
    if case.reference:
        console.print(Panel(escape(visible(case.question.references[case.turn - 1])), title="reference"))
