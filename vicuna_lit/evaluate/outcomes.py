"""Reviews → outcomes: what one judge says about two models on one turn of one question, all orders together."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, starmap

from vicuna_lit.evaluate.answers import Answers
from vicuna_lit.evaluate.questions import Question
from vicuna_lit.evaluate.reviews import Review

Value = float
"""1: the model won, 0: the opponent did, 0.5: a tie."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One turn of one question, judged by one judge."""

    judge: str
    model: str
    opponent: str | None
    """None: the judge has seen the model's answer alone."""
    question_id: str
    category: str
    turn: int
    scores: tuple[float, float] | None
    """The model's and the opponent's, means over the orders; None where the judge gives none."""
    value: Value | None
    """None where a review holds no verdict: such outcomes are counted, and enter no mean. In both orders
    with different winners: a tie (Zheng et al. 2023, section 3.4)."""
    by_order: tuple[Value | None, ...] = ()
    """The value in each order, the one with the model first before the other."""
    longer: int | None = None
    """Characters of the model's answer less those of the opponent's; None where an answer is not at hand."""


def outcomes(
    reviews: Iterable[Review],
    models: Sequence[str] = (),
    questions: Sequence[Question] = (),
    answers: Answers | None = None,
    baseline: str | None = None,
) -> list[Outcome]:
    """All that reviews say about pairs of models, and about models alone.

    Args:
        models: in order; of two the later is called the model and the earlier its opponent. Of two that are not in it,
            the one that was shown first in the first review is the opponent.
        baseline: is the opponent wherever it takes part; pairs without it are left out.
    """
    place = {name: i for i, name in enumerate(models)}
    categories, given = {q.id: q.category for q in questions}, answers or {}
    pairs: dict[tuple[str, str, str, str, int], list[Review]] = defaultdict(list)
    alone: dict[tuple[str, str, int], dict[str, Review]] = defaultdict(dict)
    order: dict[frozenset[str], tuple[str, str]] = {}

    def oriented(one: str, other: str) -> tuple[str, str]:
        """(opponent, model)"""
        if baseline in (one, other):
            return (one, other) if one == baseline else (other, one)
        if one in place and other in place:
            return (one, other) if place[one] < place[other] else (other, one)
        return order.setdefault(frozenset((one, other)), (one, other))

    for review in reviews:
        if len(review.models) == 2:
            opponent, model = oriented(*review.models)
            pairs[review.judge, model, opponent, review.question_id, review.turn].append(review)
        else:
            alone[review.judge, review.question_id, review.turn][review.models[0]] = review
    found = [
        _merge(judge, model, opponent, id, turn, sorted(both, key=lambda r, m=model: r.models[0] != m))
        for (judge, model, opponent, id, turn), both in pairs.items()
    ]
    for (judge, id, turn), by_model in alone.items():
        found += [_alone(judge, review, id, turn) for review in by_model.values()]
        for opponent, model in starmap(oriented, combinations(by_model, 2)):
            found.append(_compare(judge, by_model[model], by_model[opponent], id, turn))
    kept = [o for o in found if baseline is None or o.opponent in (None, baseline)]
    return [_described(o, categories.get(o.question_id, "unknown"), given) for o in kept]


def _merge(judge: str, model: str, opponent: str, id: str, turn: int, both: list[Review]) -> Outcome:
    values = [_value(review, model) for review in both]
    scores = [r.scores if r.models[0] == model else r.scores[::-1] for r in both if r.scores]
    mean = (sum(s[0] for s in scores) / len(scores), sum(s[1] for s in scores) / len(scores)) if scores else None
    value = None
    if None not in values:
        value = values[0] if len(set(values)) == 1 else 0.5
    whole = value is not None
    return Outcome(judge, model, opponent, id, "", turn, mean if whole else None, value, tuple(values))


def _value(review: Review, model: str) -> Value | None:
    if review.winner is None or review.winner == "tie":
        return 0.5 if review.winner else None
    return float(review.models[review.winner == "second"] == model)


def _alone(judge: str, review: Review, id: str, turn: int) -> Outcome:
    scores = (review.scores[0], 0.0) if review.scores else None
    return Outcome(judge, review.models[0], None, id, "", turn, scores, None)


def _compare(judge: str, model: Review, opponent: Review, id: str, turn: int) -> Outcome:
    """Two answers that were rated alone: the higher rating wins."""
    scores = value = None
    if model.scores and opponent.scores:
        scores = (model.scores[0], opponent.scores[0])
        value = 0.5 if scores[0] == scores[1] else float(scores[0] > scores[1])
    return Outcome(judge, model.models[0], opponent.models[0], id, "", turn, scores, value)


def _described(outcome: Outcome, category: str, answers: Answers) -> Outcome:
    model, opponent = _length(answers, outcome.model, outcome), _length(answers, outcome.opponent, outcome)
    longer = model - opponent if model is not None and opponent is not None else None
    return replace(outcome, category=category, longer=longer)


def _length(answers: Answers, model: str | None, outcome: Outcome) -> int | None:
    answer = answers.get(model or "", {}).get(outcome.question_id)
    return len(answer.turns[outcome.turn - 1]) if answer and len(answer.turns) >= outcome.turn else None
