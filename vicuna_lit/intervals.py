"""Intervals of shares and means that need no bootstrap."""

from typing import NamedTuple


class Interval(NamedTuple):
    """From its low to its high end."""

    low: float
    high: float


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
