"""Which conversations one pass over the data holds, and in which order: pure functions of numbers and a seed.

A *unit* is what `step_unit` counts: an example, or a whole conversation with all its pieces.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np

from vicuna_lit.config.base import DataConfig
from vicuna_lit.config.train import Order
from vicuna_lit.records.conversation import DataError


@dataclass(frozen=True)
class Units:
    """What passes are made of."""

    lengths: np.ndarray
    """int64 [units]: tokens of each."""
    supervised: np.ndarray
    """int64 [units]: supervised tokens of each."""
    sources: np.ndarray
    """int64 [units]: the number of the source of each, from 0."""
    scores: np.ndarray | None = None
    """float64 [units]: the number of its record that each is ordered by; None: there are none."""


@dataclass(frozen=True)
class Shares:
    """How much of each source one pass holds, see `DataConfig.sources`."""

    kind: Literal["weight", "epochs", "conversations"]
    amounts: tuple[float, ...]
    """One of each source."""
    of: Literal["conversations", "supervised_tokens"]
    """What weights share out."""

    @classmethod
    def of_config(cls, data: DataConfig) -> "Shares":
        """Without `data.sources` a pass holds each conversation once."""
        if not data.sources:
            return WHOLE
        kind = data.sources[0].share[0]
        return cls(kind, tuple(source.share[1] for source in data.sources), data.shares)


MOST_UNITS = 2**31 - 1
"""Of one pass; a plan's indices are of 32 bits."""
WHOLE = Shares("epochs", (1.0,), "conversations")
"""Of a single source: each conversation once."""


def passes(units: Units, shares: Shares, order: Order, seed: int) -> Iterator[np.ndarray]:
    """The units of pass after pass, each pass of the same size, without an end.

    Each source goes round in an order of its own, and a pass takes the next ones. So within a pass, and over all
    passes, no unit of a source is drawn twice more often than another.

    Raises:
        DataError: a pass would hold nothing.
    """
    members = [np.flatnonzero(units.sources == source) for source in range(len(shares.amounts))]
    rounds = [own[np.random.default_rng([seed, s, 1]).permutation(len(own))] for s, own in enumerate(members)]
    taken = np.zeros(len(rounds), dtype=np.int64)
    for number in count():
        quotas = _quotas(units, shares, rounds, taken)
        if not quotas.any():
            raise DataError("data.sources: not one conversation is drawn; larger shares, or more conversations")
        drawn = [_next(own, int(start), int(quota)) for own, start, quota in zip(rounds, taken, quotas, strict=True)]
        taken += quotas
        yield in_order(np.sort(np.concatenate(drawn)), units, order, np.random.default_rng([seed, number]))


def in_order(drawn: np.ndarray, units: Units, order: Order, random: np.random.Generator) -> np.ndarray:
    """The units of one pass, shuffled; by length, score or source those that are alike stay so.

    Raises:
        DataError: there are no scores to go by.
    """
    shuffled = drawn[random.permutation(len(drawn))]
    match order:
        case "shuffled":
            return shuffled
        case "by_length":
            key = units.lengths
        case "by_source":
            key = units.sources
        case "by_score":
            if units.scores is None or np.isnan(units.scores).any():
                raise DataError(
                    "order=by_score: these data have no scores; data.score_field names a number of a record"
                )
            key = units.scores
    return shuffled[np.argsort(key[shuffled], kind="stable")]


def apportion(total: int, weights: np.ndarray) -> np.ndarray:
    """Shares out whole numbers that sum to `total`, each less than one from its exact share (largest remainders)."""
    exact = total * weights / weights.sum()
    whole = np.floor(exact).astype(np.int64)
    largest = np.argsort(whole - exact, kind="stable")
    whole[largest[: total - whole.sum()]] += 1
    return whole


def _quotas(units: Units, shares: Shares, rounds: list[np.ndarray], taken: np.ndarray) -> np.ndarray:
    """int64 [sources]: how many units of each the next pass takes."""
    sizes, amounts = np.array([len(own) for own in rounds], dtype=np.int64), np.array(shares.amounts)
    if shares.kind != "weight":
        wanted = np.rint(sizes * amounts if shares.kind == "epochs" else amounts.astype(np.float64))
        if wanted.sum() > MOST_UNITS:
            raise DataError(f"data.sources: one pass would hold {wanted.sum():.3g} conversations; smaller shares")
        return wanted.astype(np.int64)
    # By a power of two, which rounds nothing: sums of huge weights, and shares by tiny ones, would be infinite.
    amounts = np.ldexp(amounts, -int(np.frexp(amounts.max())[1]))
    if shares.of == "conversations":
        return apportion(int(sizes.sum()), amounts)
    return _quotas_of_tokens(units, amounts, rounds, taken)


def _quotas_of_tokens(units: Units, weights: np.ndarray, rounds: list[np.ndarray], taken: np.ndarray) -> np.ndarray:
    """As many units as there are, so that each source has its share of their supervised tokens, to a unit.

    One after another, a unit goes to the source that is furthest behind: whose tokens with half of the next unit,
    divided by its weight, are the fewest.
    """
    total = sum(map(len, rounds))
    behind: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    for source, own in enumerate(rounds):
        if weights[source] > 0:
            tokens = units.supervised[_next(own, taken[source], total)]
            behind.append((np.cumsum(tokens) - tokens / 2) / weights[source])
            owners.append(np.full(total, source))
    chosen = np.argsort(np.concatenate(behind), kind="stable")[:total]
    return np.bincount(np.concatenate(owners)[chosen], minlength=len(rounds))


def _next(own: np.ndarray, start: int | np.integer, quota: int | np.integer) -> np.ndarray:
    """So many units of a source's round from a place on."""
    return own[(start + np.arange(quota)) % max(1, len(own))]
