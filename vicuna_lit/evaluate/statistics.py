"""The statistics of an evaluation, in numpy: intervals, ratings, agreement, and what biases a judge."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vicuna_lit.intervals import Interval

Array = np.ndarray


def resample(n: int, samples: int, seed: int) -> Array:
    """How often each of n questions is drawn, in every bootstrap sample: [samples, n]."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples).astype(float)


def interval(values: Array) -> Interval | None:
    """The percentile interval (Efron) of a statistic over bootstrap samples; None where it is undefined in any."""
    if len(values) == 0 or not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(float(low), float(high))


def not_of_one_value(found: Interval | None) -> Interval | None:
    """None in place of an interval whose width is zero: all samples agree, which says nothing of the next question."""
    return None if found is None or found.high - found.low < 1e-12 else found


def bradley_terry(wins: Array, iterations: int = 2000, tolerance: float = 1e-9) -> Array:
    """Ratings on Elo's scale with mean 1000: [..., models] from wins [..., models, models], ties half to each.

    Maximum likelihood by Hunter's (2004) minorisation, all samples at once. Every pair that met is given one more
    tie: without, a model that won or lost all its games would have no finite rating.
    """
    games = wins + np.swapaxes(wins, -1, -2)
    wins = wins + 0.5 * (games > 0)
    games = wins + np.swapaxes(wins, -1, -2)
    strength = np.ones(wins.shape[:-1])
    for _ in range(iterations):
        pairs = games / (strength[..., :, None] + strength[..., None, :])
        new = wins.sum(-1) / np.maximum(pairs.sum(-1), 1e-300)
        new = new / np.exp(np.log(np.maximum(new, 1e-300)).mean(-1, keepdims=True))
        change = np.abs(np.log(np.maximum(new, 1e-300) / np.maximum(strength, 1e-300))).max()
        strength = new
        if change < tolerance:
            break
    return 1000 + 400 * np.log10(np.maximum(strength, 1e-300))


def length_controlled(values: Array, longer: Array, weights: Array | None = None) -> float:
    """The win rate that is left when both answers are equally long.

    Logistic regression of the outcome (1, 0.5, 0) on an intercept and tanh(length difference / its deviation), as in
    length-controlled AlpacaEval (Dubois et al. 2024), without its term for the difficulty of an instruction; a ridge
    of 0.01 on the slope.
    """
    if len(values) == 0:
        return float("nan")
    x = np.tanh(longer / (longer.std() or 1.0))
    design, beta = np.stack([np.ones_like(x), x], 1), np.zeros(2)
    weight = np.ones(len(values)) if weights is None else weights
    ridge = np.diag([1e-6, 1e-2 * weight.sum()])
    for _ in range(50):
        p = 1 / (1 + np.exp(-design @ beta))
        gradient = design.T @ (weight * (values - p)) - ridge @ beta
        hessian = (design * (weight * np.maximum(p * (1 - p), 1e-9))[:, None]).T @ design + ridge
        step = np.clip(np.linalg.solve(hessian, gradient), -2, 2)
        beta += step
        if np.abs(step).max() < 1e-10:
            break
    return float(1 / (1 + np.exp(-beta[0])))


class Agreement(NamedTuple):
    """Of two judges on the outcomes that both judged."""

    shared: int
    agreement: float
    """The share on which both name the same winner, or both a tie."""
    kappa: float
    """Cohen's (1960), unweighted, over win, tie and loss; nan where both always say the same."""


def agreement(first: Sequence[float], second: Sequence[float]) -> Agreement:
    """How far two judges agree beyond chance."""
    a, b = np.asarray(first), np.asarray(second)
    observed = float((a == b).mean())
    chance = sum(float((a == c).mean() * (b == c).mean()) for c in (0.0, 0.5, 1.0))
    return Agreement(len(a), observed, (observed - chance) / (1 - chance) if chance < 1 else float("nan"))
