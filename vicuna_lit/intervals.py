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
FEW_HELD_OUT = 20
"""Conversations of which a mean loss says little."""
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
    error: float = math.nan
    """Standard error of the mean."""
    freedom: float = math.nan
    """Degrees of freedom of that error."""
    conversations: int = 0
    """That are a sample too; 0: all is said of those that were held out."""
    floor: float = 0.0
    """What of the error stays however many pairs there are: that of the conversations."""
    many: float = 0.0
    """Conversations of equal length that say as much as these conversations."""


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
    error = deviation / math.sqrt(n)
    return PairedTest(n, mean, deviation, *_by_t(mean, error, n - 1), error, n - 1)


def crossed_test(alone: PairedTest, differences: Array, tokens: Array) -> PairedTest:
    """Whether a mean difference of losses is told from zero, for other seeds and for other conversations.

    Two variances of the mean are added, that over seeds and that over conversations, and Satterthwaite (1946) gives
    their degrees of freedom. What both hold (the noise of a seed on a conversation) counts twice, on the safe side. The
    interval is never narrower than that of the seeds alone. Coverage and a bootstrap beside it: experiments/intervals.

    Args:
        alone: the test over the pairs, for these conversations.
        differences: [pairs, conversations]: of the mean losses of each conversation, all finite.
        tokens: [conversations]: its supervised tokens; each conversation counts by them.
    """
    pairs, conversations = differences.shape
    if alone.interval is None or conversations < 2:
        return alone
    share = tokens / tokens.sum()
    apart = (differences - (differences @ share)[:, None]) * share  # what each conversation adds to a pair's mean
    scale = conversations / (conversations - 1)
    of_conversations = float((apart.mean(0) ** 2).sum() * scale)
    noise = float(((apart - apart.mean(0)) ** 2).sum() * scale) / (pairs * (pairs - 1))
    many = float(1 / (share**2).sum())
    variance = alone.error**2 + of_conversations
    freedom = variance**2 / (alone.error**4 / (pairs - 1) + of_conversations**2 / max(1.0, many - 1))
    error, floor = math.sqrt(variance), math.sqrt(max(0.0, of_conversations - noise))
    both, p = _by_t(alone.mean, error, freedom)
    crossed = alone._replace(p=max(p, alone.p), conversations=conversations, many=many, floor=floor)
    if both.high - both.low < alone.interval.high - alone.interval.low:
        return crossed
    return crossed._replace(interval=both, error=error, freedom=freedom)


def _by_t(mean: float, error: float, freedom: float) -> tuple[Interval, float]:
    """The interval of a mean, and its p against zero."""
    from scipy.special import stdtr, stdtrit  # scipy.stats calls these too, 45 times as slowly

    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return Interval(mean - half, mean + half), float(2 * stdtr(freedom, -abs(mean) / error))


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
    from scipy.special import stdtr

    return float(stdtr(test.freedom, (abs(test.mean) - margin) / test.error))


def visible_difference(test: PairedTest, alpha: float = 1 - LEVEL) -> float:
    """The smallest true mean that a test such as this one shows in 80% of all cases."""
    low, high = 0.0, 1.0
    while _power(high, test.freedom, alpha) < POWER:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _power(middle, test.freedom, alpha) >= POWER else (middle, high)
    return high * test.error


def pairs_needed(test: PairedTest, alpha: float = 1 - LEVEL) -> int | None:
    """Pairs that show the mean that was found, were it the true one, in 80% of all cases, on as many conversations.

    None: it is zero, or they would be more than 1,000.
    """
    if test.mean == 0:
        return None

    def power(pairs: int) -> float:
        of_pairs, of_conversations = test.deviation**2 / pairs, test.floor**2
        variance = of_pairs + of_conversations
        rest = of_conversations**2 / max(1.0, test.many - 1)
        return _power(abs(test.mean) / math.sqrt(variance), variance**2 / (of_pairs**2 / (pairs - 1) + rest), alpha)

    counts = range(2, MOST_PAIRS + 1)
    place = bisect_left(counts, POWER, key=power)
    return counts[place] if place < len(counts) else None


def _power(shift: float, freedom: float, alpha: float) -> float:
    """Of the two-sided t test, for a true mean of `shift` standard errors."""
    from scipy.special import nctdtr, stdtrit

    power = 1 - float(nctdtr(freedom, shift, stdtrit(freedom, 1 - alpha / 2)))
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
