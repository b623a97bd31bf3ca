"""What halving has decided in a sweep, in words: `halving.json` and the runs themselves."""

from collections import Counter
from typing import Any

from vicuna_lit.compare.runs import Sweep
from vicuna_lit.run_folder import read_json

FILE = "halving.json"
"""In a sweep's folder: its rungs, its settings, and what was decided."""


def rungs_in_words(sweep: Sweep) -> list[str]:
    """A line for each rung that was decided, and one for the rung that is open; empty for a sweep that is not halved.

    Raises:
        RunError: the file is damaged.
    """
    told = read_json(sweep.folder, FILE) if (sweep.folder / FILE).exists() else None
    if not told:
        return []
    decided: list[dict[str, Any]] = told["decided"]
    lines = [line for rung in decided for line in _decided(rung)]
    if len(decided) < len(told["rungs"]):
        going = decided[-1]["goes_on"] if decided else list(told["settings"])
        lines += _open(sweep, told["rungs"][len(decided)], [job for one in going for job in told["settings"][one]])
    return lines


def _decided(rung: dict[str, Any]) -> list[str]:
    means, goes_on = rung["val_loss"], rung["goes_on"]
    stopped = {name: loss for name, loss in means.items() if loss is not None and name not in goes_on}
    if not (stopped and goes_on):
        return []
    (name, loss), best = min(stopped.items(), key=_loss), min(goes_on, key=lambda name: means[name])
    which = name if len(stopped) == 1 else f"{len(stopped)} settings, the best of them {name},"
    return [
        f"Halving stopped {which} after {rung['after']:.0%} of the steps, with a validation loss of {loss:.4f} there "
        f"against {means[best]:.4f} of {best}, which went on"
    ]


def _loss(item: tuple[str, float]) -> float:
    return item[1]


def _open(sweep: Sweep, part: float, jobs: list[str]) -> list[str]:
    runs = {run.name: run for run in sweep.runs}
    stands = Counter("not begun" if job not in runs else runs[job].status for job in jobs)
    there = stands.pop("finished", 0) + stands.pop("stopped", 0)
    if there == len(jobs):
        return []
    others = ", ".join(f"{count} {status}" for status, count in stands.items())
    return [
        f"Halving has not decided at {part:.0%} of the steps: {there} of {len(jobs)} runs are there, {others}; "
        "the same command goes on"
    ]
