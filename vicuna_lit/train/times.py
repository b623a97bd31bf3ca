"""Where a run's time goes, over all its starts: `times.csv`, and the table made of it."""

import csv
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path

from vicuna_lit.whole_files import add_rows, write

COLUMNS = ("attempt", "step", "what", "seconds", "clock")
"""`attempt` counts the starts; `clock` is the Unix time at which the row's spans ended, the last of them at least."""
WORK = ("step", "data", "save")
"""What an optimizer step's time consists of; `start` and `validation` come besides."""
START = "start"
"""Before the first step, in parts: `start/imports`, `start/conversations`, `start/model`, and the rest."""
STOPPED = "stopped"
"""Marks where a run stopped as its config says (`stop_after`): the time until its next start is nobody's loss."""


class Opening:
    """What a process did so far, before its run has a folder: `start/<what>`.

    Args:
        began: by the clock that no one sets (`time.monotonic`), as all durations are.
    """

    def __init__(self, began: float):
        self.spans: dict[str, float] = {}
        self.mark = began

    def lap(self, what: str) -> None:
        """The time since the last lap went into this."""
        now = time.monotonic()
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
        self._mark, self._clock = opening.mark, time.time()
        self._spans: dict[str, float] = defaultdict(float, opening.spans)

    def lap(self, what: str) -> None:
        """The time since the last lap went into this: start (the rest of it), data, step, save or validation."""
        now = time.monotonic()
        self._spans[what] += now - self._mark
        self._mark, self._clock = now, time.time()

    def close(self, step: int) -> dict[str, float]:
        """Writes the laps down as those of a step; returns their seconds by cause."""
        spans, self._spans = self._spans, defaultdict(float)
        if self.writes and spans:
            rows = [(self.attempt, step, what, f"{s:.6f}", f"{self._clock:.3f}") for what, s in spans.items()]
            begun = self.path.exists() and self.path.stat().st_size  # a power loss leaves files without bytes
            add_rows(self.path, *([] if begun else [COLUMNS]), *rows)
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

    @property
    def worked(self) -> float:
        """The time in which the run was at work, over all its starts: `total` without `interrupted`."""
        return self.total - self.interrupted

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
    away = _away(rows)
    return LostTime(
        starts=max(int(row["attempt"]) for row in rows),
        steps_replayed=len(replayed),
        total=sum(sums.values()) + away,
        useful=sums["step"],
        replayed=sums["replayed"],
        saving=sums["save"],
        data=sums["data"],
        starting=sum(seconds for what, seconds in sums.items() if what.partition("/")[0] == START),
        validation=sums["validation"],
        interrupted=away,
    )


def _began(rows: list[dict[str, str]]) -> float:
    """When the start to which the first row belongs began."""
    first = rows[0]["clock"]
    return float(first) - sum(float(row["seconds"]) for row in rows if row["clock"] == first)


def _away(rows: list[dict[str, str]]) -> float:
    """From interruptions to the next starts, by the clocks of their machines; of one that was set back, nothing."""
    starts = [list(of_one) for _, of_one in groupby(rows, key=itemgetter("attempt"))]
    gaps = ((before, _began(after) - float(before[-1]["clock"])) for before, after in pairwise(starts))
    return sum(max(0.0, gap) for before, gap in gaps if all(row["what"] != STOPPED for row in before))


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
