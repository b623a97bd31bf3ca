"""What one pass over several sources holds, and in which order."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.examples import examples
from vicuna_lit.config.base import ShareKind
from vicuna_lit.data.order import WHOLE, Shares, Units, apportion, passes
from vicuna_lit.data.plan import plan_steps
from vicuna_lit.records.conversation import DataError

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=5)


def units_of(counts: list[int], seed: int = 0) -> Units:
    random = np.random.default_rng(seed)
    sources = np.repeat(np.arange(len(counts)), counts)
    lengths = random.integers(5, 300, len(sources))
    return Units(lengths, np.maximum(1, lengths // 3), sources)


def first(
    units: Units, kind: ShareKind, amounts: list[float], of: Any = "conversations", seed: int = 0, count: int = 3
):
    return list(islice(passes(units, Shares(kind, tuple(amounts), of), "shuffled", seed), count))


def evenly(units: Units, drawn: np.ndarray) -> bool:
    """No unit of a source is drawn twice more often than another."""
    times = np.bincount(drawn, minlength=len(units.sources))
    return all(np.ptp(times[units.sources == source]) <= 1 for source in np.unique(units.sources))


@settings(max_examples=examples(60))
@given(counts=sizes, seed=st.integers(0, 9), data=st.data())
@pytest.mark.promise("A mixture's shares are exact to one conversation in each pass, by the plan")
def test_weights_share_out_a_pass_that_is_as_long_as_all_sources(counts, seed, data):
    weights = data.draw(st.lists(st.floats(0, 9), min_size=len(counts), max_size=len(counts)).filter(any))
    units = units_of(counts)
    found = first(units, "weight", weights, seed=seed)
    for one in found:
        drawn = np.bincount(units.sources[one], minlength=len(counts))
        assert drawn.sum() == sum(counts)
        assert (abs(drawn - sum(counts) * np.array(weights) / sum(weights)) < 1 + 1e-9).all()
        assert evenly(units, one)
    assert evenly(units, np.concatenate(found))


@settings(max_examples=examples(60))
@given(counts=sizes, seed=st.integers(0, 9), data=st.data())
def test_epochs_and_conversations_say_how_many_a_pass_draws_each_once_before_any_twice(counts, seed, data):
    units, count = units_of(counts), len(counts)
    epochs = data.draw(st.lists(st.floats(0.5, 3), min_size=count, max_size=count))
    many = data.draw(st.lists(st.integers(1, 90), min_size=count, max_size=count))
    wanted = {"epochs": np.rint(np.array(counts) * epochs), "conversations": np.array(many)}
    given: list[tuple[ShareKind, list[float]]] = [("epochs", epochs), ("conversations", many)]
    for kind, amounts in given:
        if not wanted[kind].any():
            continue
        found = first(units, kind, amounts, seed=seed)
        for one in found:
            assert (np.bincount(units.sources[one], minlength=len(counts)) == wanted[kind]).all()
            assert evenly(units, one)
        assert evenly(units, np.concatenate(found))


@settings(max_examples=examples(60))
@given(counts=st.lists(st.integers(3, 40), min_size=2, max_size=3), seed=st.integers(0, 9), data=st.data())
@pytest.mark.promise("A mixture's shares are exact to one conversation in each pass, by the plan")
def test_weights_of_tokens_give_each_source_its_share_of_the_supervised_ones_to_a_conversation(counts, seed, data):
    weights = data.draw(st.lists(st.floats(0.1, 9), min_size=len(counts), max_size=len(counts)))
    units = units_of(counts, seed)
    for one in first(units, "weight", weights, of="supervised_tokens", seed=seed):
        tokens = np.bincount(units.sources[one], units.supervised[one], len(counts))
        assert len(one) == sum(counts)
        assert (abs(tokens - tokens.sum() * np.array(weights) / sum(weights)) <= units.supervised.max()).all()
        assert evenly(units, one)


def test_two_halves_of_a_source_are_all_of_it():
    units = units_of([10, 20])
    a, b = first(units, "epochs", [0.5, 1], count=2)
    assert len(a) == len(b) == 25
    assert sorted([*a, *b]) == sorted([*range(10), *range(10, 30), *range(10, 30)])
    other = first(units, "epochs", [0.5, 1], count=1, seed=1)[0]
    assert set(other[other < 10]) != set(a[a < 10])


def test_more_of_a_source_draws_the_same_conversations_and_more():
    units = units_of([30, 30])
    few, more = (set(first(units, "conversations", [n, 5], count=1)[0]) for n in (7, 12))
    assert few < more


def test_sources_that_are_seen_once_are_planned_as_one_file_with_all_of_them():
    units = units_of([7, 1, 12])
    common: dict[str, Any] = {"conversations_per_step": 4, "tokens_per_device": 900, "epochs": 2.5, "seed": 3}
    one = plan_steps(units.lengths, units.supervised, **common)
    each = Shares("epochs", (1, 1, 1), "conversations")
    several = plan_steps(units.lengths, units.supervised, sources=units.sources, shares=each, **common)
    assert tuple(several.rows) == tuple(one.rows)
    assert one.epochs == 2.5


def test_the_seed_alone_decides_a_pass_without_sources():
    """As in every version before: a permutation for each pass."""
    units = units_of([50])
    for number, one in enumerate(islice(passes(units, WHOLE, "shuffled", 4), 3)):
        assert (one == np.random.default_rng([4, number]).permutation(50)).all()


def test_by_length_goes_from_short_to_long_within_each_pass_and_draws_the_same():
    units = units_of([20, 10])
    twice = Shares("epochs", (2, 1), "conversations")
    streams = (islice(passes(units, twice, order, 0), 2) for order in ("shuffled", "by_length"))
    for shuffled, ordered in zip(*streams, strict=True):
        assert sorted(shuffled) == sorted(ordered)
        assert (np.diff(units.lengths[ordered]) >= 0).all()
    alike = Units(np.full(30, 9), np.full(30, 3), np.zeros(30, np.int64))
    a, b = islice(passes(alike, WHOLE, "by_length", 0), 2)
    assert list(a) != list(b) != list(range(30)), "those of one length are shuffled"


def test_by_source_goes_through_one_source_after_another_each_shuffled():
    units = units_of([20, 30])
    for one in islice(passes(units, Shares("epochs", (1, 1), "conversations"), "by_source", 0), 2):
        assert list(units.sources[one]) == [0] * 20 + [1] * 30
        assert list(one[:20]) != sorted(one[:20])
        assert sorted(one) == list(range(50))


@given(total=st.integers(0, 500), weights=st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any))
@settings(max_examples=examples(60))
def test_apportioned_numbers_sum_to_the_whole_and_nothing_goes_to_a_weight_of_0(total, weights):
    found = apportion(total, np.array(weights, dtype=float))
    assert found.sum() == total
    assert all(number == 0 for number, weight in zip(found, weights, strict=True) if weight == 0)


def test_a_pass_that_would_hold_nothing_is_refused():
    with pytest.raises(DataError, match="not one conversation is drawn"):
        next(passes(units_of([3, 4]), Shares("epochs", (0.1, 0), "conversations"), "shuffled", 0))


@pytest.mark.parametrize("of", ["conversations", "supervised_tokens"])
def test_a_source_of_weight_0_needs_no_conversation_to_train_on(of):
    units = Units(np.array([5, 6]), np.array([2, 2]), np.array([0, 0]))
    assert sorted(first(units, "weight", [1, 0], of=of, count=1)[0]) == [0, 1]


def test_by_score_goes_from_the_least_within_each_pass_whatever_the_layout():
    units = units_of([20, 10])
    scores = np.random.default_rng(0).integers(-3, 4, 30).astype(float)
    scored = Units(units.lengths, units.supervised, units.sources, scores)
    twice = Shares("epochs", (2, 1), "conversations")
    for shuffled, ordered in zip(
        *(islice(passes(scored, twice, order, 0), 2) for order in ("shuffled", "by_score")), strict=True
    ):
        assert sorted(shuffled) == sorted(ordered)
        assert (np.diff(scores[ordered]) >= 0).all()
    a, b = islice(passes(scored, WHOLE, "by_score", 0), 2)
    assert list(a) != list(b), "those of one score are shuffled"
    common: dict[str, Any] = {"conversations_per_step": 4, "tokens_per_device": 900, "scores": scores}
    layouts: list[dict[str, Any]] = [{}, {"world_size": 3}, {"packing": False}, {"tokens_per_device": 300}]
    plans = [plan_steps(units.lengths, units.supervised, order="by_score", **(common | layout)) for layout in layouts]
    assert len({plan.step_examples for plan in plans}) == 1
    for unscored in (
        units,
        Units(units.lengths, units.supervised, units.sources, np.where(scores > 2, np.nan, scores)),
    ):
        with pytest.raises(DataError, match="order=by_score: these data have no scores"):
            next(passes(unscored, WHOLE, "by_score", 0))


@pytest.mark.parametrize("of", ["conversations", "supervised_tokens"])
def test_weights_count_by_their_ratios_however_large_or_small(of):
    units = Units(np.full(30, 9), np.full(30, 5), np.arange(30) % 2)
    drawn = [next(passes(units, Shares("weight", (3 * a, a), of), "shuffled", 0)) for a in (1.0, 2.0**1022, 2.0**-1021)]
    assert all(np.array_equal(one, drawn[0]) for one in drawn)
