"""The statistics against slower ways to get them, and how reviews become outcomes."""

import itertools
import json

import numpy as np
import pytest

from vicuna_lit.evaluate.answers import Answer
from vicuna_lit.evaluate.outcomes import outcomes
from vicuna_lit.evaluate.questions import Question
from vicuna_lit.evaluate.ratings import agreements, bradley_terry_ratings, judges, table, unequal_means
from vicuna_lit.evaluate.reviews import Review
from vicuna_lit.evaluate.statistics import bradley_terry, kappa, length_controlled, verdict_counts
from vicuna_lit.evaluate.verdicts import Winner
from vicuna_lit.intervals import interval, resample

RNG = np.random.default_rng(0)


def review(id: str, models: tuple[str, ...], scores=None, winner: Winner | None = None, judge="j", turn=1) -> Review:
    if scores and len(models) == 2:
        winner = "tie" if scores[0] == scores[1] else "first" if scores[0] > scores[1] else "second"
    return Review(id, turn, models, judge, "", scores, winner, None if scores or winner else "unclear")


def test_both_orders_make_one_outcome():
    reviews = [
        review("same", ("a", "b"), (9, 7)), review("same", ("b", "a"), (6, 8)),
        review("flipped", ("a", "b"), (9, 7)), review("flipped", ("b", "a"), (9, 7)),
        review("half", ("a", "b"), (9, 7)), review("half", ("b", "a")),
        review("tie", ("b", "a"), winner="tie"),
    ]  # fmt: skip
    found = {o.question_id: o for o in outcomes(reviews, ["b", "a"])}
    assert {o.model for o in found.values()} == {"a"}
    assert (found["same"].scores, found["same"].value, found["same"].by_order) == ((8.5, 6.5), 1.0, (1.0, 1.0))
    assert (found["flipped"].scores, found["flipped"].value) == ((8, 8), 0.5)
    assert found["flipped"].by_order == (1.0, 0.0)
    assert (found["half"].scores, found["half"].value) == (None, None)
    assert (found["tie"].scores, found["tie"].value) == (None, 0.5)
    (row,) = table(list(found.values()), 100, 0)
    assert (row.wins, row.ties, row.losses, row.unparsed, row.questions) == (1, 2, 0, 1, 3)
    assert row.win_rate == 2 / 3
    (judge,) = judges(list(found.values()))
    assert (judge.both_orders, judge.consistent, judge.prefers_first, judge.prefers_second) == (2, 0.5, 0.5, 0)


def test_who_is_the_opponent():
    reviews = [review("1", ("x", "y"), (1, 2)), review("2", ("y", "x"), (1, 2))]
    assert {(o.opponent, o.model) for o in outcomes(reviews)} == {("x", "y")}
    assert {(o.opponent, o.model) for o in outcomes(reviews, ["y", "x"])} == {("y", "x")}
    assert {(o.opponent, o.model) for o in outcomes(reviews, ["y", "x"], baseline="x")} == {("x", "y")}
    assert outcomes(reviews, baseline="z") == []


def test_ratings_of_single_answers_are_compared():
    reviews = [review("1", (m,), (s,)) for m, s in (("a", 7.0), ("b", 9.0), ("c", 9.0))] + [review("2", ("a",))]
    found = outcomes(reviews, ["a", "b", "c"])
    rows = {(r.model, r.opponent): r for r in table(found, 100, 0)}
    assert (rows["a", None].mean_score, rows["a", None].questions, rows["a", None].unparsed) == (7, 1, 1)
    assert (rows["b", "a"].wins, rows["c", "b"].ties, rows["c", "a"].score, rows["c", "a"].opponent_score) == (
        1,
        1,
        9,
        7,
    )


def test_means_on_different_questions_are_said():
    """A lacks a verdict that B has: its mean leaves out what may be the hardest question."""
    reviews = [review(id, (m,), (7.0,)) for id in "123" for m in "ab"]
    assert unequal_means(outcomes(reviews, ["a", "b"])) == []
    (note,) = unequal_means(outcomes([*reviews[1:], review("1", ("a",))], ["a", "b"]))
    assert note.startswith("mean ratings by j rest on different turns of questions: b on 3, a on 2; 2 are common")


def test_categories_turns_and_lengths():
    questions = [Question("1", "math", ("q", "r")), Question("2", "writing", ("q",))]
    answers = {m: {i: Answer(m, i, (m * k, m * k)) for i in "12"} for m, k in (("a", 3), ("b", 5))}
    reviews = [review(i, ("a", "b"), (5, 7), turn=t) for i, t in (("1", 1), ("1", 2), ("2", 1))]
    found = outcomes(reviews, ["a", "b"], questions, answers)
    assert [o.longer for o in found] == [2, 2, 2]
    rows = {(r.category, r.turn): r for r in table(found, 100, 0)}
    assert set(rows) == {("all", None), ("math", None), ("writing", None), ("all", 1), ("all", 2)}
    assert (rows["all", None].questions, rows["all", None].judgments) == (2, 3)
    assert rows["math", None].score == 14
    assert judges(found)[0].longer_won == 1.0


@pytest.mark.promise("Intervals cover at their rate")
def test_the_interval_covers_at_its_rate():
    """In 400 experiments with a known mean the 95% interval holds it in about 95%."""
    covered = 0
    for seed in range(400):
        values = np.random.default_rng(seed).binomial(1, 0.6, 80).astype(float)
        drawn = resample(80, 500, seed) @ values / 80
        low, high = interval(drawn) or (0, 0)
        covered += low <= 0.6 <= high
    assert 0.91 <= covered / 400 <= 0.98


def test_the_interval_draws_questions_and_not_turns():
    """Ten turns of one question are one observation: the interval is that of the questions."""
    reviews = [review(str(q), ("a", "b"), (1, 2) if q % 2 else (2, 1), turn=t) for q in range(40) for t in range(1, 11)]
    row = table(outcomes(reviews, ["a", "b"]), 2000, 0)[0]
    low, high = row.win_rate_interval or (0, 0)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, rel=0.1)


@pytest.mark.promise("Ratings maximise their likelihood")
def test_bradley_terry_finds_the_maximum_of_the_likelihood():
    wins = np.array([[0, 7, 9], [3, 0, 6.5], [1, 3.5, 0]])
    ratings = bradley_terry(wins)
    smoothed = wins + 0.5 * (wins + wins.T > 0)

    def likelihood(r: np.ndarray) -> float:
        strength = 10 ** (r / 400)
        return sum(
            smoothed[i, j] * np.log(strength[i] / (strength[i] + strength[j]))
            for i, j in itertools.permutations(range(3), 2)
        )

    assert ratings.mean() == pytest.approx(1000)
    for i, step in itertools.product(range(3), (-1.0, 1.0)):
        assert likelihood(ratings + step * np.eye(3)[i]) < likelihood(ratings)
    several = bradley_terry(np.stack([wins, wins.T]))
    assert several[0] == pytest.approx(ratings)
    assert several[1] == pytest.approx(2000 - ratings)


def test_who_never_lost_has_a_rating_and_strangers_have_none_on_one_scale():
    reviews = [review(str(i), pair, (9, 1)) for i in range(30) for pair in (("a", "b"), ("b", "c"), ("x", "y"))]
    rows = bradley_terry_ratings(outcomes(reviews), 50, 0)
    assert [row["model"] for row in rows] == ["a", "b", "c"]
    assert all(np.isfinite(row["rating"]) for row in rows)
    assert all(row["interval"] is None for row in rows)  # 30 questions that all agree: their spread is not known


def test_ratings_of_few_own_questions_have_ranks():
    """Four questions of its own for each pair: drawn pair by pair, no sample lacks one."""
    reviews = [review(f"{x}{y}{i}", (x, y), (9, 1) if i else (1, 9)) for x, y in ("ab", "bc") for i in range(4)]
    rows = bradley_terry_ratings(outcomes(reviews), 300, 0)
    assert [row["model"] for row in rows] == ["a", "b", "c"]
    for row in rows:
        assert row["interval"].low <= row["rating"] <= row["interval"].high
    assert rows[0]["ranks"][0] == 1
    assert rows[-1]["ranks"][1] == 3
    assert all(best <= worst for best, worst in (row["ranks"] for row in rows))


@pytest.mark.promise("Win rates are given without the pull of length, too")
def test_length_controlled_win_rate():
    """Drawn from the model that it fits: the intercept comes back, where the plain win rate is off by far."""
    longer = RNG.normal(300, 200, 4000)
    x = np.tanh(longer / longer.std())
    values = RNG.binomial(1, 1 / (1 + np.exp(-(0.0 + 1.5 * x)))).astype(float)
    assert values.mean() > 0.7
    assert length_controlled(values, longer) == pytest.approx(0.5, abs=0.06)
    assert length_controlled(np.ones(20), np.arange(20.0)) > 0.9
    assert length_controlled(np.array([0.5, 0.5]), np.zeros(2)) == pytest.approx(0.5)


def test_kappa():
    """The example of Cohen's paper form: 45/15/25/15 of 100."""
    a = [1.0] * 60 + [0.0] * 40
    b = [1.0] * 45 + [0.0] * 15 + [1.0] * 25 + [0.0] * 15
    counts = verdict_counts(a, b)
    assert np.trace(counts) == 60
    assert kappa(counts) == pytest.approx(0.1304, abs=1e-4)
    assert kappa(verdict_counts([1, 0.5, 0], [1, 0.5, 0])) == 1
    assert np.isnan(kappa(verdict_counts([1, 1], [1, 1])))
    assert kappa(np.stack([counts, counts.T])) == pytest.approx([0.1304, 0.1304], abs=1e-4)


def test_agreement_has_an_interval_or_is_undefined():
    """Forty questions on which two judges agree on three of four; and two judges that know one verdict."""
    reviews = []
    for i in range(40):
        said: Winner = "first" if i % 2 else "second"
        other: Winner = said if i % 4 else "tie"
        reviews += [
            review(str(i), ("a", "b"), winner=said, judge="j"),
            review(str(i), ("a", "b"), winner=other, judge="k"),
        ]
    (row,) = agreements(outcomes(reviews), 500, 0)
    assert (row["shared"], row["agreement"]) == (40, 0.75)
    assert row["agreement_interval"].low < 0.75 < row["agreement_interval"].high
    assert row["kappa_interval"].low < row["kappa"] < row["kappa_interval"].high
    same = [review(str(i), ("a", "b"), winner="tie", judge=judge) for i in range(5) for judge in "jk"]
    (row,) = agreements(outcomes(same), 50, 0)
    assert (row["kappa"], row["kappa_interval"]) == (None, None)
    json.dumps(row, allow_nan=False)


def test_equal_length_is_not_told_where_one_model_is_always_longer():
    """A thousand characters more in each answer: nothing says who would win without them."""
    questions = [Question(str(i), "c", ("q",)) for i in range(40)]
    reviews = [review(str(i), ("a", "b"), winner="second" if i % 3 else "first") for i in range(40)]

    def row_of(extra: list[int]):
        lengths = {"a": [2000] * 40, "b": [2000 + e for e in extra]}
        answers = {m: {str(i): Answer(m, str(i), ("x" * n,)) for i, n in enumerate(of)} for m, of in lengths.items()}
        return table(outcomes(reviews, ["a", "b"], questions, answers), 200, 0)[0]

    always = row_of([1000 + 5 * i for i in range(40)])
    assert (always.length_controlled_win_rate, always.length_controlled_interval) == (None, None)
    both = row_of([200 if i % 2 else -200 for i in range(40)])
    assert both.length_controlled_win_rate == pytest.approx(0.65, abs=0.02)
    low, high = both.length_controlled_interval or (0, 0)
    assert low < 0.6 < 0.7 < high


def test_undecided_judgments_are_apart_from_ties_and_a_judges_rates_have_intervals():
    """A judge that always names the first answer has decided nothing, which is no proof of equality."""
    reviews = [review(str(i), pair, winner="first") for i in range(20) for pair in (("a", "b"), ("b", "a"))]
    reviews.append(review("tie", ("a", "b"), winner="tie"))
    found = outcomes(reviews, ["a", "b"])
    row = table(found, 100, 0)[0]
    assert (row.ties, row.undecided) == (21, 20)
    assert row.win_rate_interval
    assert row.win_rate_interval.high - row.win_rate_interval.low > 0.2
    (judge,) = judges(found)
    assert (judge.prefers_first, judge.consistent) == (1.0, 0.0)
    assert judge.prefers_first_interval
    assert judge.prefers_first_interval.low == pytest.approx(0.839, abs=1e-3)  # Wilson's, of 20 in 20
    assert judge.longer_won_interval is None


def test_three_questions_that_agree_are_no_certainty():
    reviews = [review(str(i), ("a", "b"), (8, 9)) for i in range(3)]
    row = table(outcomes(reviews, ["a", "b"]), 200, 0)[0]
    assert row.win_rate_interval == pytest.approx((0.4385, 1.0), abs=1e-3)  # Wilson's, of 3 in 3
    assert row.ratio_interval is None
    low, high = row.mean_score_interval or (0, 0)
    assert high - low > 1
    many = [review(str(i), ("a", "b"), (8, 9)) for i in range(80)]
    low, high = table(outcomes(many, ["a", "b"]), 200, 0)[0].win_rate_interval or (0, 0)
    assert 0.9 < low < high <= 1
