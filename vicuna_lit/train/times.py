"""Where a run's time goes, over all its starts: `times.csv`, and the table made of it."""

import csv
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from vicuna_lit.run_folder import write

COLUMNS = ("attempt", "step", "what", "seconds", "clock")
"""`attempt` counts the starts; `clock` is the Unix time at which the row's spans ended, the last of them at least."""
WORK = ("step", "data", "save")
"""What an optimizer step's time consists of; `start` and `validation` come besides."""
START = "start"
"""Before the first step, in parts: `start/imports`, `start/conversations`, `start/model`, and the rest."""
STOPPED = "stopped"
"""Marks where a run stopped as its config says (`stop_after`): the time until its next start is nobody's loss."""


class Opening:
    """What a process did so far, before its run has a folder: `start/<what>`."""

    def __init__(self, began: float):
        self.spans: dict[str, float] = {}
        self.mark = began

    def lap(self, what: str) -> None:
        """The time since the last lap went into this."""
        now = time.time()
        self.spans[f"{START}/{what}"] = now - self.mark
        self.mark = now


class Times:
    """Gives every moment of the first rank's process to one cause: what went on since the last call of `lap`.

    Written at the end of each step, so the time of a killed step is missing, and found as `interrupted`.
    """

    def __init__(self, folder: Path, opening: Opening, writes: bool = True):
        self.path, self.writes = folder / "times.csv", writes
        self.attempt = 1 + max((int(row["attempt"]) for row in _rows(self.path)), default=0) if writes else 1
        if writes and self.path.exists():
            write(self.path, _whole_lines(self.path))
        self._mark = opening.mark
        self._spans: dict[str, float] = defaultdict(float, opening.spans)

    def lap(self, what: str) -> None:
        """The time since the last lap went into this: start (the rest of it), data, step, save or validation."""
        now = time.time()
        self._spans[what] += now - self._mark
        self._mark = now

    def close(self, step: int) -> dict[str, float]:
        """Writes the laps down as those of a step; returns their seconds by cause."""
        spans, self._spans = self._spans, defaultdict(float)
        if self.writes and spans:
            new = not self.path.exists()
            with self.path.open("a", newline="") as file:
                rows = csv.writer(file)
                if new:
                    rows.writerow(COLUMNS)
                rows.writerows((self.attempt, step, what, f"{s:.6f}", f"{self._mark:.3f}") for what, s in spans.items())
        return spans

    def stop(self, step: int) -> None:
        """Writes down that the run stops here as its config says."""
        self.lap("save")
        self._spans[STOPPED] = 0.0
        self.close(step)


@dataclass(frozen=True)
class LostTime:
    """A run's time from its first start to its end, in seconds; everything but `useful` is lost or spent besides.

    The time between a planned stop and the next start is not part of it.
    """

    starts: int
    steps_replayed: int
    """Steps that were taken again because no checkpoint held them."""
    total: float
    useful: float
    """The steps that the result consists of."""
    replayed: float
    """Steps that were taken and lost."""
    saving: float
    """What training waited for saving."""
    data: float
    """What training waited for data."""
    starting: float
    validation: float
    """Validation losses, sample replies, export."""
    interrupted: float
    """From the last finished step before an interruption to the next start: a step lost in part, and the time away."""

    def parts(self) -> dict[str, float]:
        """The spans that add up to `total`."""
        return {k: v for k, v in asdict(self).items() if k not in ("starts", "steps_replayed", "total")}


def lost_time(folder: Path) -> LostTime | None:
    """The table of a run folder; None before its first step.

    A step that a later start took again counts as replayed, whatever became of its numbers.
    """
    rows = _rows(folder / "times.csv")
    if not rows:
        return None
    last_attempt = {int(row["step"]): int(row["attempt"]) for row in rows if row["what"] == "step"}
    sums: dict[str, float] = defaultdict(float)
    replayed = set()
    for row in rows:
        attempt, step, what, seconds = int(row["attempt"]), int(row["step"]), row["what"], float(row["seconds"])
        if what in WORK and attempt < last_attempt.get(step, 0):
            sums["replayed"] += seconds
            replayed.add((attempt, step))
        else:
            sums[what] += seconds
    total = max(float(row["clock"]) for row in rows) - _began(rows) - _waited(rows)
    return LostTime(
        starts=max(int(row["attempt"]) for row in rows),
        steps_replayed=len(replayed),
        total=total,
        useful=sums["step"],
        replayed=sums["replayed"],
        saving=sums["save"],
        data=sums["data"],
        starting=sum(seconds for what, seconds in sums.items() if what.partition("/")[0] == START),
        validation=sums["validation"],
        interrupted=max(0.0, total - sum(sums.values())),
    )


def _began(rows: list[dict[str, str]]) -> float:
    """When the start to which the first row belongs began."""
    first = rows[0]["clock"]
    return float(first) - sum(float(row["seconds"]) for row in rows if row["clock"] == first)


def _waited(rows: list[dict[str, str]]) -> float:
    """From planned stops to the next starts."""
    waited = 0.0
    for i, row in enumerate(rows):
        later = [after for after in rows[i + 1 :] if after["attempt"] != row["attempt"]]
        if row["what"] == STOPPED and later:
            waited += max(0.0, _began(later) - float(row["clock"]))
    return waited


def _rows(path: Path) -> list[dict[str, str]]:
    """The last line may be torn."""
    if not path.exists():
        return []
    header, *lines = [line.decode(errors="replace") for line in _whole_lines(path)] or [""]
    rows = list(
        csv.DictReader([header.replace("life", "attempt"), *(line.replace(",exam,", ",validation,") for line in lines)])
    )
    return [row for row in rows if None not in row and all(row.get(c) for c in COLUMNS) and row["attempt"].isdecimal()]


def _whole_lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
