"""Outcomes → the table: totals, wins, intervals, and how far the judges can be trusted."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from vicuna_lit.evaluate.outcomes import Outcome
from vicuna_lit.evaluate.statistics import Array, bradley_terry, kappa, length_controlled, verdict_counts
from vicuna_lit.intervals import Interval, interval, not_of_one_value, resample, wilson

HUMAN = "human"
"""Judges whose name begins so are people."""
SMALL = 30
"""Questions below which a win rate's interval is Wilson's: the bootstrap's is too narrow."""
FEWEST = 10
"""Judgments from which a win rate at equal length can be told."""
OVERLAP = 0.1
"""Of the judgments, the share in which the model's answer must be the longer one, and the share in which the shorter
one: where one model is always longer, nothing says what equal lengths would do."""


@dataclass(frozen=True)
class RatingRow:
    """A model against an opponent (or alone), by one judge, on one category or on all, on one turn or on all."""

    model: str
    opponent: str | None
    judge: str
    category: str
    turn: int | None
    score: float | None
    """The sum over the questions, as in the Vicuna article; None where the judge gives no scores."""
    opponent_score: float | None
    ratio: float | None
    """score / opponent_score: the article's "92% of ChatGPT"."""
    ratio_interval: Interval | None
    """95%, bootstrap over questions; so are the other intervals. Win rates of few questions, and of those that all
    agree, have Wilson's; None where there is no other and all agree."""
    mean_score: float | None
    mean_score_interval: Interval | None
    wins: int | None
    ties: int | None
    undecided: int | None
    """Of the ties: in each order another answer won, so the judge has not decided."""
    losses: int | None
    win_rate: float | None
    """Ties count half: (wins + ties / 2) / all, the adjusted win rate of MT-bench."""
    win_rate_interval: Interval | None
    length_controlled_win_rate: float | None
    """What it would be with answers of equal length; None where too few are about equally long."""
    length_controlled_interval: Interval | None
    questions: int
    """With a verdict."""
    judgments: int
    """With a verdict; a question may have several turns."""
    unparsed: int
    """Judgments without a verdict, which enter nothing else."""


@dataclass(frozen=True)
class Judge:
    """How far a judge can be trusted."""

    judge: str
    both_orders: int
    """Outcomes that were judged in both orders."""
    consistent: float | None
    """The share of them with the same winner in both orders."""
    consistent_interval: Interval | None
    """Wilson's, 95%; so are the others."""
    prefers_first: float | None
    """The share in which the answer shown first won both times: position bias."""
    prefers_first_interval: Interval | None
    prefers_second: float | None
    prefers_second_interval: Interval | None
    decided: int
    """Outcomes with a winner, and answers of different length at hand."""
    longer_won: float | None
    """The share of them that the longer answer won: length bias, unless longer answers are better."""
    longer_won_interval: Interval | None
    unparsed: int
    """Reviews without a verdict."""


def table(outcomes: Sequence[Outcome], samples: int, seed: int) -> list[RatingRow]:
    """A row for each pair and judge, then one for each category, then one for each turn."""
    groups: dict[tuple[str, str, str | None], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.judge, outcome.model, outcome.opponent].append(outcome)
    rows, by_category, by_turn = [], [], []
    for group in groups.values():
        rows.append(_row(group, "all", None, samples, seed))
        categories = list(dict.fromkeys(o.category for o in group))
        for category in categories if categories != ["unknown"] else ():
            by_category.append(_row([o for o in group if o.category == category], category, None, samples, seed))
        turns = sorted({o.turn for o in group})
        for turn in turns if len(turns) > 1 else ():
            by_turn.append(_row([o for o in group if o.turn == turn], "all", turn, samples, seed))
    return rows + by_category + by_turn


def _row(group: list[Outcome], category: str, turn: int | None, samples: int, seed: int) -> RatingRow:
    head = group[0]
    pair = head.opponent is not None
    judged = [o for o in group if (o.value is not None if pair else o.scores is not None)]
    sums = _sums(judged)
    drawn = resample(len(sums), samples, seed) @ sums if len(sums) > 1 else np.empty((0, 5))
    totals = sums.sum(0)
    scored = bool(judged) and all(o.scores for o in judged)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios, rates, means = drawn[:, 0] / drawn[:, 1], drawn[:, 2] / drawn[:, 3], drawn[:, 0] / drawn[:, 3]
    values = Counter(o.value for o in judged)
    rate_interval = not_of_one_value(interval(rates)) if len(sums) >= SMALL else None
    mean_interval = not_of_one_value(interval(means))
    controlled, controlled_interval = _length_controlled(judged, samples, seed) if pair else (None, None)
    return RatingRow(
        model=head.model,
        opponent=head.opponent,
        judge=head.judge,
        category=category,
        turn=turn,
        score=float(totals[0]) if scored else None,
        opponent_score=float(totals[1]) if scored and pair else None,
        ratio=float(totals[0] / totals[1]) if scored and pair and totals[1] else None,
        ratio_interval=not_of_one_value(interval(ratios)) if scored and pair else None,
        mean_score=float(totals[0] / totals[3]) if scored else None,
        mean_score_interval=(mean_interval or wilson(totals[0] / totals[3], len(sums), 10.0)) if scored else None,
        wins=values[1.0] if pair else None,
        ties=values[0.5] if pair else None,
        undecided=sum(o.value == 0.5 and len(set(o.by_order)) > 1 for o in judged) if pair else None,
        losses=values[0.0] if pair else None,
        win_rate=float(totals[2] / totals[3]) if pair and judged else None,
        win_rate_interval=(rate_interval or wilson(totals[2] / totals[3], len(sums))) if pair and judged else None,
        length_controlled_win_rate=controlled,
        length_controlled_interval=controlled_interval,
        questions=len(sums),
        judgments=len(judged),
        unparsed=len(group) - len(judged),
    )


def _sums(judged: Sequence[Outcome]) -> Array:
    """[questions, 5]: score, opponent's score, wins with half the ties, judgments, decided ones."""
    sums: dict[str, Array] = defaultdict(lambda: np.zeros(5))
    for o in judged:
        one, other = o.scores or (0.0, 0.0)
        value = o.value if o.value is not None else 0.0
        sums[o.question_id] += (one, other, value, 1, value != 0.5)
    return np.array(list(sums.values())) if sums else np.zeros((0, 5))


def _length_controlled(judged: Sequence[Outcome], samples: int, seed: int) -> tuple[float | None, Interval | None]:
    """The win rate at equal length and its interval, where the lengths overlap."""
    longer = np.array([float(o.longer) for o in judged if o.longer is not None])
    least = max(1, math.ceil(OVERLAP * len(judged)))
    if len(longer) < len(judged) or len(judged) < FEWEST or min((longer >= 0).sum(), (longer <= 0).sum()) < least:
        return None, None
    values = np.array([o.value for o in judged])
    places = {id: i for i, id in enumerate(dict.fromkeys(o.question_id for o in judged))}
    drawn = resample(len(places), samples, seed)[:, [places[o.question_id] for o in judged]]
    rates = length_controlled(values, longer, drawn)
    return float(length_controlled(values, longer)), not_of_one_value(interval(rates))


def bradley_terry_ratings(outcomes: Sequence[Outcome], samples: int, seed: int) -> list[dict[str, Any]]:
    """Bradley–Terry ratings of three models or more by each judge: judge, model, rating and its 95% interval, the best
    and the worst rank that it may have (in all but 5% of the samples).

    Models that no chain of comparisons connects have no ratings on one scale: each connected group has its own.
    """
    rows: list[dict[str, Any]] = []
    for judge in dict.fromkeys(o.judge for o in outcomes):
        games = [o for o in outcomes if o.judge == judge and o.opponent is not None and o.value is not None]
        for group in _connected(games):
            if len(group) > 2:
                rows += _ladder(judge, group, [o for o in games if o.model in group], samples, seed)
    return rows


def _ladder(judge: str, models: list[str], games: Sequence[Outcome], samples: int, seed: int) -> list[dict[str, Any]]:
    questions = {id: i for i, id in enumerate(dict.fromkeys(o.question_id for o in games))}
    wins = np.zeros((len(questions), len(models), len(models)))
    for o in games:
        q, i, j = questions[o.question_id], models.index(o.model), models.index(o.opponent or "")
        wins[q, i, j] += o.value or 0.0
        wins[q, j, i] += 1 - (o.value or 0.0)
    ratings = bradley_terry(wins.sum(0))
    drawn = bradley_terry(np.einsum("sq,qij->sij", _stratified(wins, samples, seed), wins))
    higher = (drawn[:, None, :] > drawn[:, :, None] + 1e-6).sum(-1)  # [samples, models]: how many are rated higher
    best, worst = 1 + np.quantile(higher, (0.025, 0.975), axis=0, method="nearest")
    found = [
        {
            "judge": judge,
            "model": model,
            "rating": float(ratings[i]),
            "interval": not_of_one_value(interval(drawn[:, i])),
            "ranks": [int(best[i]), int(worst[i])] if not_of_one_value(interval(drawn[:, i])) else None,
        }
        for i, model in enumerate(models)
    ]
    return sorted(found, key=lambda row: -row["rating"])


def _stratified(wins: Array, samples: int, seed: int) -> Array:
    """How often each question is drawn: [samples, questions]. Questions that were put to the same pairs are drawn among
    themselves, so that no sample lacks a pair."""
    strata: dict[bytes, list[int]] = defaultdict(list)
    for q, of_question in enumerate(wins):
        strata[((of_question + of_question.T) > 0).tobytes()].append(q)
    drawn = np.zeros((samples, len(wins)))
    for i, members in enumerate(strata.values()):
        drawn[:, members] = resample(len(members), samples, seed + i)
    return drawn


def _connected(games: Sequence[Outcome]) -> list[list[str]]:
    """The models that a chain of comparisons connects, in groups."""
    groups: list[list[str]] = []
    for one, other in dict.fromkeys((o.opponent or "", o.model) for o in games):
        joined = [group for group in groups if one in group or other in group]
        groups = [group for group in groups if group not in joined]
        groups.append(list(dict.fromkeys([*(m for group in joined for m in group), one, other])))
    return groups


def judges(outcomes: Sequence[Outcome]) -> list[Judge]:
    """The biases of each judge, as in Zheng et al. 2023, section 3.3."""
    return [_judge(name, [o for o in outcomes if o.judge == name]) for name in dict.fromkeys(o.judge for o in outcomes)]


def _judge(name: str, outcomes: Sequence[Outcome]) -> Judge:
    pairs = [o for o in outcomes if o.opponent is not None]
    both = [o.by_order for o in pairs if len(o.by_order) == 2 and None not in o.by_order]
    decided = [o for o in pairs if o.value in (0.0, 1.0) and o.longer]
    unparsed = sum(o.by_order.count(None) if o.opponent is not None else o.scores is None for o in outcomes)
    shares: dict[str, Any] = {}
    for what, count, of in (
        ("consistent", sum(a == b for a, b in both), len(both)),
        ("prefers_first", both.count((1.0, 0.0)), len(both)),
        ("prefers_second", both.count((0.0, 1.0)), len(both)),
        ("longer_won", sum((o.value == 1.0) == ((o.longer or 0) > 0) for o in decided), len(decided)),
    ):
        shares |= {what: count / of if of else None, f"{what}_interval": wilson(count / of, of) if of else None}
    return Judge(judge=name, both_orders=len(both), decided=len(decided), unparsed=unparsed, **shares)


def unequal_means(outcomes: Sequence[Outcome]) -> list[str]:
    """A note for each judge whose mean ratings of models rest on different questions: they are no comparison."""
    rated: dict[str, dict[str, set[tuple[str, int]]]] = defaultdict(lambda: defaultdict(set))
    for o in outcomes:
        if o.opponent is None and o.scores is not None:
            rated[o.judge][o.model].add((o.question_id, o.turn))
    notes = []
    for judge, by_model in rated.items():
        shared = set.intersection(*by_model.values())
        if any(len(one) > len(shared) for one in by_model.values()):
            counts = ", ".join(f"{model} on {len(one)}" for model, one in by_model.items())
            notes.append(
                f"mean ratings by {judge} rest on different turns of questions: {counts}; {len(shared)} are common to "
                "all. A line of two models takes those that both have"
            )
    return notes


def agreements(outcomes: Sequence[Outcome], samples: int, seed: int) -> list[dict[str, Any]]:
    """How far every two judges agree, and every judge with the majority of the people.

    Each row has the outcomes that both judged (`shared`), the share with the same verdict, Cohen's kappa (None: both
    always say the same, so it is undefined), and the 95% intervals of both, by the bootstrap over questions.
    """
    said: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for o in outcomes:
        if o.opponent is not None and o.value is not None:
            said[o.judge][o.model, o.opponent, o.question_id, str(o.turn)] = o.value
    people = [judge for judge in said if judge.startswith(HUMAN)]
    if len(people) > 1:
        said[f"{HUMAN} majority"] = _majority([said[judge] for judge in people])
    rows = []
    for a, b in combinations(said, 2):
        if f"{HUMAN} majority" in (a, b) and {a, b} & set(people):
            continue
        if shared := sorted(said[a].keys() & said[b].keys()):
            rows.append({"judges": [a, b], "shared": len(shared)} | _agreement(said[a], said[b], shared, samples, seed))
    return rows


def _agreement(
    first: dict[tuple[str, ...], float],
    second: dict[tuple[str, ...], float],
    shared: Sequence[tuple[str, ...]],
    samples: int,
    seed: int,
) -> dict[str, Any]:
    by_question: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for key in shared:
        by_question[key[2]].append(key)
    counts = np.array(
        [verdict_counts([first[k] for k in keys], [second[k] for k in keys]) for keys in by_question.values()]
    )
    drawn = np.einsum("sq,qij->sij", resample(len(counts), samples, seed), counts)
    same = np.trace(drawn, axis1=1, axis2=2) / drawn.sum((1, 2))
    observed = float(np.trace(counts.sum(0)) / counts.sum())
    found = float(kappa(counts.sum(0)))
    few = len(counts) < SMALL
    return {
        "agreement": observed,
        "agreement_interval": wilson(observed, len(counts)) if few else not_of_one_value(interval(same)),
        "kappa": None if math.isnan(found) else found,
        "kappa_interval": not_of_one_value(interval(kappa(drawn))),
    }


def _majority(votes: Sequence[dict[tuple[str, ...], float]]) -> dict[tuple[str, ...], float]:
    """What more than half of the people say; outcomes without such are left out."""
    cast: dict[tuple[str, ...], Counter[float]] = defaultdict(Counter)
    for one in votes:
        for key, value in one.items():
            cast[key][value] += 1
    return {k: v for k, c in cast.items() for v, n in c.items() if 2 * n > c.total()}
