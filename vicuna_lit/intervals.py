"""How sure a figure is: intervals and tests for few runs and few questions, shared by sweeps and judgments."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray
LEVEL = 0.95
"""Of all intervals."""
POWER = 0.8
"""The chance to see a difference that is there, in `pairs_needed`."""
MOST_PAIRS = 1000
"""More repetitions than anybody runs."""


class Interval(NamedTuple):
    """Holds the true value in 95% of all repetitions of the experiment."""

    low: float
    high: float


class PairedTest(NamedTuple):
    """Of the mean of paired differences against zero, by Student's t."""

    pairs: int
    mean: float
    deviation: float
    """Of a single difference."""
    interval: Interval | None
    """None: of one pair, or of differences that are all the same number, no spread can be told."""
    p: float
    """Two-sided; 1 where there is no interval."""


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the deviation of a single value (n − 1); None of one value."""
    n, mean = len(values), math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else None


def paired_test(differences: Sequence[float]) -> PairedTest:
    """Whether a mean of differences is told from zero.

    Args:
        differences: one for each repetition, at least one, all finite.
    """
    n, (mean, deviation) = len(differences), mean_and_deviation(differences)
    if deviation is None or deviation <= 1e-12 * abs(mean):
        return PairedTest(n, mean, 0.0, None, 1.0)
    from scipy.stats import t

    error = deviation / math.sqrt(n)
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * error
    return PairedTest(n, mean, deviation, Interval(mean - half, mean + half), float(2 * t.sf(abs(mean) / error, n - 1)))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's (1979) adjustment: below 0.05 at most one claim in twenty families of claims is false."""
    adjusted, running = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        running = max(running, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = running
    return adjusted


def equivalence_p(test: PairedTest, margin: float) -> float:
    """Schuirmann's (1987) two one-sided tests: small where the true mean lies within ± `margin`; 1 without spread."""
    if test.interval is None:
        return 1.0
    from scipy.stats import t

    error, df = test.deviation / math.sqrt(test.pairs), test.pairs - 1
    return float(max(t.sf((margin + test.mean) / error, df), t.sf((margin - test.mean) / error, df)))


def visible_difference(deviation: float, pairs: int, alpha: float = 1 - LEVEL) -> float:
    """The smallest true mean that so many pairs show in 80% of all cases, for this deviation of a single one."""
    low, high = 0.0, 1.0
    while _power(high, pairs, alpha) < POWER:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _power(middle, pairs, alpha) >= POWER else (middle, high)
    return high * deviation


def pairs_needed(mean: float, deviation: float, alpha: float = 1 - LEVEL) -> int | None:
    """Pairs that show a true mean in 80% of all cases; None: it is zero, or they would be more than 1,000."""
    if mean == 0:
        return None
    effect, counts = abs(mean) / deviation, range(2, MOST_PAIRS + 1)
    place = bisect_left(counts, POWER, key=lambda pairs: _power(effect, pairs, alpha))
    return counts[place] if place < len(counts) else None


def _power(effect: float, pairs: int, alpha: float) -> float:
    """Of the two-sided t test, for a true mean of `effect` deviations."""
    from scipy.stats import nct, t

    df, shift = pairs - 1, effect * math.sqrt(pairs)
    critical = float(t.ppf(1 - alpha / 2, df))
    power = float(nct.sf(critical, df, shift))
    return 1.0 if math.isnan(power) else power  # scipy gives up where it is 1 to all digits


def resample(n: int, samples: int, seed: int) -> Array:
    """How often each of n questions is drawn, in every bootstrap sample: [samples, n]."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples).astype(float)


def interval(values: Array) -> Interval | None:
    """The percentile interval (Efron) of a statistic over bootstrap samples; None where it is undefined in any."""
    if len(values) == 0 or not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(low), float(high))


def wilson(mean: float, n: int, most: float = 1.0) -> Interval | None:
    """Wilson's (1927) 95% score interval of a mean of n values from 0 to `most`; None of no value.

    It never has a width of zero. Where values lie between the ends, as ties do, it is wider than it need be.
    """
    if n == 0:
        return None
    z, p = 1.959964, mean / most
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return Interval(most * max(0.0, low), most * min(1.0, high))


def not_of_one_value(found: Interval | None) -> Interval | None:
    """None in place of an interval whose width is zero: all samples agree, which says nothing of the next question."""
    return None if found is None or found.high - found.low < 1e-12 else found
