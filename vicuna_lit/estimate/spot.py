"""What interruptions cost, and how often to save, where machines last exponentially distributed times."""

import math


def young(save: float, mean_life: float) -> float:
    """The saving interval of Young (1974); all times in one unit."""
    return math.sqrt(2 * save * mean_life)


def daly(save: float, mean_life: float) -> float:
    """The saving interval of Daly (2006), eq. 37."""
    x = save / (2 * mean_life)
    return young(save, mean_life) * (1 + math.sqrt(x) / 3 + x / 9) - save if x < 1 else mean_life


def expected(work: float, restart: float, interval: float, save: float, mean_life: float) -> float:
    """Machine time of a job that is interrupted without notice (Daly 2006, eq. 20).

    Args:
        restart: from the moment that a machine is there to the first step on it.
        interval: work between two saves.
        save: what training waits for one.
    """
    m = mean_life
    return m * math.exp(restart / m) * math.expm1((interval + save) / m) * work / interval
