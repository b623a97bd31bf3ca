"""What interruptions cost, computed: a job on machines that last as a trace says, or for exponential times.

Nothing here is measured. `replay` goes through a trace life by life; `expected_hours` is the closed form of Daly (2006)
for lives that are exponentially distributed (`vicuna_lit.estimate.spot`).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from experiments import tables
from vicuna_lit.estimate import spot


@dataclass(frozen=True)
class Job:
    """All times in one unit."""

    work: float
    restart: float
    """From the moment that a machine is there to the first step on it."""
    interval: float
    """Work between two saves."""
    save: float
    """What training waits for one."""
    notice: bool
    """The machine says so in time: what was done is saved before it goes."""


@dataclass
class Spent:
    """Where the machines' time went; it adds up to `machine`. `away` is not paid for."""

    useful: float = 0.0
    replayed: float = 0.0
    saving: float = 0.0
    starting: float = 0.0
    away: float = 0.0
    interruptions: int = 0

    @property
    def machine(self) -> float:
        return self.useful + self.replayed + self.saving + self.starting


def replay(job: Job, lives: Iterable[tuple[float, float]]) -> Spent:
    """The job on machines that last so long, with so much time before the next.

    Raises:
        ValueError: the trace ends before the job.
    """
    spent = Spent()
    for lasts, away in lives:
        spent.starting += min(job.restart, lasts)
        left, todo = max(0.0, lasts - job.restart), job.work - spent.useful
        saves = math.ceil(todo / job.interval - 1e-9) - 1  # none behind the last step
        if left >= todo + saves * job.save:
            spent.useful, spent.saving = job.work, spent.saving + saves * job.save
            return spent
        cycles, rest = divmod(left, job.interval + job.save)
        since = min(rest, job.interval)
        spent.saving += cycles * job.save + rest - since
        spent.useful += cycles * job.interval + (since if job.notice else 0.0)
        spent.replayed += 0.0 if job.notice else since
        spent.away += away
        spent.interruptions += 1
    raise ValueError(f"the trace ends with {spent.useful:.1f} of {job.work:.1f} done")


def expected_hours(job: Job, mean_life: float) -> float:
    """Machine time of a job without notice where machines last exponentially distributed times."""
    return spot.expected(job.work, job.restart, job.interval, job.save, mean_life)


def traces() -> dict[tuple[str, int], list[tuple[float, float]]]:
    """(trace, seed) → (hours that a machine lasted, hours away) as `derive.py` wrote them."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for row in tables.read(Path(__file__).parent / "traces.csv"):
        lives = found.setdefault((row["trace"], int(row["seed"])), [])
        lives.append((float(row["lasted_hours"]), float(row["away_hours"])))
    return found


def mean_life(lives: Iterable[tuple[float, float]]) -> float:
    """Hours."""
    lasted = [hours for hours, _ in lives]
    return sum(lasted) / len(lasted)


PARTS = tuple(f.name for f in fields(Spent) if f.name not in ("away", "interruptions"))
