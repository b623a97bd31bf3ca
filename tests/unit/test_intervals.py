"""Intervals and tests hold what they promise, for few runs and few questions."""

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicuna_lit.intervals import (
    PairedTest,
    crossed_test,
    equivalence_p,
    holm,
    paired_test,
    pairs_needed,
    visible_difference,
    wilson,
)


def test_students_interval_against_a_printed_table():
    """t for 2 degrees of freedom is 4.3027, for 9 it is 2.2622."""
    three = paired_test([1.0, 2.0, 3.0]).interval
    assert three == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    ten = paired_test([float(i) for i in range(10)]).interval
    assert ten
    assert ten.high - 4.5 == pytest.approx(2.2622 * (55 / 6) ** 0.5 / 10**0.5, abs=1e-3)
    test = paired_test([1.0, 2.0, 3.0])
    assert test.p == pytest.approx(0.0742, abs=1e-4)


@pytest.mark.parametrize("values", [[0.3], [0.0, 0.0, 0.0], [-0.02, -0.02]])
def test_no_interval_has_a_width_of_zero(values):
    test = paired_test(values)
    assert (test.interval, test.p, equivalence_p(test, 1.0)) == (None, 1.0, 1.0)


def test_holm_on_his_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=50)
def test_holm_keeps_the_order_and_lowers_nothing(ps):
    adjusted = holm(ps)
    assert all(p <= a <= 1 for p, a in zip(ps, adjusted, strict=True))
    assert [a for _, a in sorted(zip(ps, adjusted, strict=True))] == sorted(adjusted)


def test_equivalence_needs_the_interval_within_the_margin():
    """Two one-sided tests at 5% are a 90% interval within the margin: t for 4 degrees of freedom is 2.1318."""
    values = [0.001, -0.001, 0.0005, -0.0005, 0.0]
    test = paired_test(values)
    half = 2.1318 * test.deviation / 5**0.5
    assert equivalence_p(test, half * 1.01) < 0.05 < equivalence_p(test, half * 0.99)


def test_the_pairs_that_decide_are_those_whose_power_is_four_fifths():
    """G*Power: d = 0.5, two-sided 5%, power 0.8: 34 pairs; d = 1: 10."""

    def of(mean: float, pairs: int = 3, floor: float = 0.0, many: float = 30.0) -> PairedTest:
        return PairedTest(pairs, mean, 1.0, None, 1.0, pairs**-0.5, pairs - 1, 30 * (floor > 0), floor, many)

    assert pairs_needed(of(0.5)) == 34
    assert pairs_needed(of(-1.0)) == 10
    assert pairs_needed(of(0.0)) is None
    assert pairs_needed(of(1e-6)) is None
    assert visible_difference(of(0.5, 34)) <= 0.5 < visible_difference(of(0.5, 33))
    assert (pairs_needed(of(0.5, floor=0.1)) or 0) > 34  # the conversations' part of the error does not shrink
    assert pairs_needed(of(0.5, floor=0.3)) is None
    few, all_alike = pairs_needed(of(0.8, floor=0.2, many=6.0)), pairs_needed(of(0.8, floor=0.2))
    assert few and all_alike and few > all_alike  # a long conversation among short ones counts nearly alone


RATES = [(p, ties) for p in (0.5, 0.7, 0.9, 0.97) for ties in (0.0, 0.05, 0.4) if p + ties / 2 <= 1]


@pytest.mark.parametrize("n", [3, 8, 10, 20])
@pytest.mark.parametrize(("p", "ties"), RATES)
def test_wilson_covers_a_rate_of_few_questions(n: int, ties: float, p: float):
    """The exact probability that the interval holds the true rate, over all outcomes; ties count half."""
    win, covered = p - ties / 2, 0.0
    for wins, tied in product(range(n + 1), repeat=2):
        if wins + tied > n:
            continue
        lost = n - wins - tied
        weight = comb(n, wins) * comb(n - wins, tied) * win**wins * ties**tied * (1 - win - ties) ** lost
        found = wilson((wins + tied / 2) / n, n)
        assert found
        assert found.low < found.high
        covered += weight * (found.low <= p <= found.high)
    assert covered >= 0.9


@pytest.mark.parametrize(("seeds", "of_seeds", "of_conversations"), [(3, 1.0, 0.1), (3, 0.1, 5.0), (5, 1.0, 5.0)])
def test_an_interval_over_seeds_and_conversations_covers(seeds: int, of_seeds: float, of_conversations: float):
    """400 experiments each; the whole grid, other methods and real losses: experiments/intervals."""
    rng, covered, alone = np.random.default_rng(0), 0, 0
    for _ in range(400):
        tokens = rng.lognormal(5.5, 1, 30).round() + 5
        differences = of_seeds * rng.normal(size=(seeds, 1)) + of_conversations * rng.normal(size=30)
        differences = differences + rng.normal(size=(seeds, 30))
        of_seed = paired_test((differences @ tokens / tokens.sum()).tolist())
        both = crossed_test(of_seed, differences, tokens)
        assert both.interval and of_seed.interval
        assert both.mean == of_seed.mean and both.p >= of_seed.p
        covered += both.interval.low <= 0 <= both.interval.high
        alone += of_seed.interval.low <= 0 <= of_seed.interval.high
    assert covered / 400 >= 0.92
    assert of_conversations < 1 or alone / 400 < 0.75  # what seeds alone say holds of these conversations only


def test_an_interval_over_seeds_and_conversations_by_hand():
    """Three seeds with means 2, 3, 4; two conversations of one length, whose means are 1 and 5 in each seed."""
    differences = np.array([[0.0, 4.0], [1.0, 5.0], [2.0, 6.0]])
    alone = paired_test([2.0, 3.0, 4.0])
    both = crossed_test(alone, differences, np.array([10, 10]))
    assert (alone.error**2, both.error**2) == pytest.approx((1 / 3, 1 / 3 + 4))
    assert both.freedom == pytest.approx((1 / 3 + 4) ** 2 / (1 / 9 / 2 + 16))
    assert (both.conversations, both.floor, both.many) == (2, pytest.approx(2.0), 2.0)
    assert crossed_test(alone, differences, np.array([30, 10])).many == pytest.approx(1.6)
    assert crossed_test(alone, differences[:, :1], np.array([10])) == alone


def test_a_sweep_of_settings_that_do_not_differ_claims_something_in_one_of_twenty():
    """The family-wise error of the t tests with Holm, three settings against a common baseline, over three seeds."""
    draws = np.random.default_rng(0).normal(size=(600, 4, 3))
    claims = 0
    for losses in draws:
        claims += min(holm([paired_test(list(losses[i] - losses[0])).p for i in (1, 2, 3)])) <= 0.05
    assert claims / 600 <= 0.05 + 1.96 * (0.05 * 0.95 / 600) ** 0.5
