"""What a judge is shown, and what its reply says."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from vicuna_lit.config.evaluate import Form, JudgeConfig, PromptConfig
from vicuna_lit.evaluate import verdicts
from vicuna_lit.evaluate.answers import Answer, Answers
from vicuna_lit.evaluate.questions import Question
from vicuna_lit.evaluate.reviews import Review
from vicuna_lit.inference.bodies import CUT


@dataclass(frozen=True, slots=True)
class JudgeTask:
    """One turn of one question with the answers of one model or two, in the order they are shown in."""

    question: Question
    turn: int
    """From 1."""
    answers: tuple[Answer, ...]
    reference: bool
    """Whether the reference answer is shown."""

    @property
    def models(self) -> tuple[str, ...]:
        """Whose answers."""
        return tuple(answer.model for answer in self.answers)

    def review(
        self,
        judge: str,
        text: str,
        scores: tuple[float, ...] | None = None,
        winner: verdicts.Winner | None = None,
        problem: str | None = None,
    ) -> Review:
        """A judge's verdict on it."""
        return Review(self.question.id, self.turn, self.models, judge, text, scores, winner, problem)


def cases(
    questions: Sequence[Question], answers: Answers, judge: JudgeConfig, baseline: str | None = None
) -> Iterator[JudgeTask]:
    """Every turn of every question, by each pair of models in both orders or one, or by each model alone.

    The one order is drawn by a hash, so that being shown first is nobody's privilege.
    """
    alone = judge.mode == "single"
    groups = [(model,) for model in answers] if alone else list(combinations(answers, 2))
    if baseline and not alone:
        groups = [group for group in groups if baseline in group]
    for question in questions:
        for turn in range(1, len(question.turns) + 1):
            for group in groups:
                shown = tuple(answers[model][question.id] for model in group)
                reference = judge.references and bool(question.references)
                draw = hashlib.sha256("\0".join((question.id, str(turn), *group)).encode()).digest()[0]
                orders = [shown, shown[::-1]] if len(shown) == 2 else [shown]
                for order in orders if judge.both_orders else [orders[draw % len(orders)]]:
                    yield JudgeTask(question, turn, order, reference)


def messages(case: JudgeTask, prompt: PromptConfig) -> list[dict[str, str]]:
    """The request to a judge.

    What the models wrote stands between marks that no text can hold, since they come from a hash of all texts.
    """
    question, turns = case.question, case.turn
    shown = [*question.turns, *question.references, *(text for a in case.answers for text in a.turns)]
    mark = hashlib.sha256("\0".join(shown).encode()).hexdigest()[:8]

    def block(title: str, text: str) -> str:
        return f"[{title} {mark}]\n{text}\n[end of {title.lower()} {mark}]"

    def talk(name: str, replies: Sequence[str]) -> str:
        if turns == 1:
            return replies[0]
        pairs = zip(question.turns[:turns], replies[:turns], strict=True)
        return "\n\n".join(f"User: {asked}\n\n{name}: {said}" for asked, said in pairs)

    names = [f"Assistant {n}" for n in ("AB" if prompt.form == "letter" else "12")] if len(case.answers) == 2 else None
    parts = [] if turns > 1 else [block("Question", question.turns[0])]
    if case.reference:
        parts.append(block("Reference", talk("Reference", question.references)))
    for name, answer in zip(names or ["Assistant"], case.answers, strict=True):
        parts.append(
            block(f"Answer of {name}" if turns == 1 else f"Conversation with {name}", talk(name, answer.turns))
        )
    task = [prompt.task.get(question.category, prompt.task["default"])]
    task += [prompt.with_reference] if case.reference else []
    task += [prompt.later_turn] if turns > 1 else []
    return [
        {"role": "system", "content": prompt.system},
        {"role": "user", "content": "\n\n".join([*parts, " ".join(t.strip() for t in task), prompt.verdict.strip()])},
    ]


def read(case: JudgeTask, prompt: PromptConfig, judge: str, text: str, finish: str = "") -> Review:
    """The verdict in a judge's reply, in the form that it was asked for.

    Args:
        finish: why the reply ended, or what is wrong with it. Where it was cut off, a number at its end may be the
            beginning of another one.
    """
    whole, problem = text, None if text else finish or "an empty reply"
    if finish == CUT:
        text = re.sub(r"[\d.,/]+$", "", text)
    found = _verdict(case, prompt.form, judge, text, problem)
    if not found.parsed and not found.problem:
        found = case.review(judge, text, problem=f"no verdict is found; expected was {verdicts.EXPECTED[prompt.form]}")
    return replace(found, text=whole)


def _verdict(case: JudgeTask, form: Form, judge: str, text: str, problem: str | None) -> Review:
    match form:
        case "scores":
            scores = verdicts.pair_scores(text)
            return case.review(judge, text, scores, scores.winner if scores else None, problem)
        case "rating":
            rated = verdicts.rating(text)
            return case.review(judge, text, None if rated is None else (rated,), problem=problem)
        case "letter":
            return case.review(judge, text, winner=verdicts.letter(text), problem=problem)
        case "number":
            return case.review(judge, text, winner=verdicts.number(text), problem=problem)


def merge_retry(first: Review, second: Review) -> Review:
    """The review of a judge that was asked twice: both texts, and the second verdict where there is one."""
    kept = second if second.parsed else first
    return replace(kept, text=f"{first.text}\n\n{second.text}".strip())
