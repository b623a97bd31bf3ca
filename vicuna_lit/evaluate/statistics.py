"""The statistics of an evaluation, in numpy: ratings, agreement, and what biases a judge."""

from collections.abc import Sequence

import numpy as np

Array = np.ndarray
MOST_ITERATIONS = 2000
TOLERANCE = 1e-9
"""Of the logarithm of a strength, from one iteration to the next."""


def bradley_terry(wins: Array) -> Array:
    """Ratings on Elo's scale with mean 1000: [..., models] from wins [..., models, models], ties half to each.

    Maximum likelihood by Hunter's (2004) minorisation, all samples at once. Every pair that met is given one more
    tie: without, a model that won or lost all its games would have no finite rating.
    """
    games = wins + np.swapaxes(wins, -1, -2)
    wins = wins + 0.5 * (games > 0)
    games = wins + np.swapaxes(wins, -1, -2)
    strength = np.ones(wins.shape[:-1])
    for _ in range(MOST_ITERATIONS):
        pairs = games / (strength[..., :, None] + strength[..., None, :])
        new = wins.sum(-1) / np.maximum(pairs.sum(-1), 1e-300)
        new = new / np.exp(np.log(np.maximum(new, 1e-300)).mean(-1, keepdims=True))
        change = np.abs(np.log(np.maximum(new, 1e-300) / np.maximum(strength, 1e-300))).max()
        strength = new
        if change < TOLERANCE:
            break
    return 1000 + 400 * np.log10(np.maximum(strength, 1e-300))


def length_controlled(values: Array, longer: Array, weights: Array | None = None) -> Array:
    """The win rate that is left when both answers are equally long: [samples] of weights [samples, n], or a scalar.

    Logistic regression of the outcome (1, 0.5, 0) on an intercept and tanh(length difference / its deviation), as in
    length-controlled AlpacaEval (Dubois et al. 2024), without its term for the difficulty of an instruction; a ridge
    of 0.01 on the slope.
    """
    x = np.tanh(longer / (longer.std() or 1.0))
    weight = np.ones((1, len(values))) if weights is None else weights
    design = np.stack([np.ones_like(x), x])  # [2, n]
    ridge = np.stack([np.full(len(weight), 1e-6), 1e-2 * weight.sum(1)])  # [2, samples]
    beta = np.zeros((2, len(weight)))
    for _ in range(50):
        p = 1 / (1 + np.exp(-beta.T @ design))
        gradient = design @ (weight * (values - p)).T - ridge * beta
        curve = weight * np.maximum(p * (1 - p), 1e-9)
        a, b, d = curve.sum(1) + ridge[0], curve @ x, curve @ x**2 + ridge[1]
        step = np.stack([d * gradient[0] - b * gradient[1], a * gradient[1] - b * gradient[0]]) / (a * d - b * b)
        beta += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    rates = 1 / (1 + np.exp(-beta[0]))
    return rates if weights is not None else rates[0]


VERDICTS = (0.0, 0.5, 1.0)


def verdict_counts(first: Sequence[float], second: Sequence[float]) -> Array:
    """How often each verdict of one judge met each of the other's: [3, 3]."""
    counts = np.zeros((3, 3))
    for a, b in zip(first, second, strict=True):
        counts[VERDICTS.index(a), VERDICTS.index(b)] += 1
    return counts


def kappa(counts: Array) -> Array:
    """Cohen's (1960), unweighted, over win, tie and loss: [...] of counts [..., 3, 3].

    NaN where it is undefined, because both judges always say the same.
    """
    total = counts.sum((-1, -2))
    chance = (counts.sum(-1) * counts.sum(-2)).sum(-1) / total**2
    observed = np.trace(counts, axis1=-2, axis2=-1) / total
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)
