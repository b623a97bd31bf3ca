"""What halving has decided in a sweep, in words: `halving.json` and the runs themselves."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from vicuna_lit.compare.run import Run
from vicuna_lit.compare.runs import Sweep
from vicuna_lit.run_folder import RunError

FILE = "halving.json"
"""In a sweep's folder: its rungs, its settings, and what was decided."""


def read_rungs(folder: Path) -> dict[str, Any]:
    """What the command of a sweep has written down; empty where it has not.

    Raises:
        RunError: it is damaged.
    """
    if not (folder / FILE).exists():
        return {}
    try:
        saved = json.loads((folder / FILE).read_bytes())
        if {"rungs", "keep", "settings", "stop_after", "goes_on", "decided"} <= saved.keys():
            return saved
        raise ValueError("keys are missing")
    except (ValueError, AttributeError) as error:
        said = f"{folder / FILE}: is damaged ({error}); delete it, and the same command judges the rungs again"
        raise RunError(said) from None


def rungs_in_words(sweep: Sweep) -> list[str]:
    """A line for each rung that was decided, and one for the rung that is open; empty for a sweep that is not halved.

    Raises:
        RunError: the file is damaged.
    """
    told = read_rungs(sweep.folder)
    if not told:
        return []
    lines = [line for rung in told["decided"] for line in _decided(rung)]
    if told["stop_after"] is not None:
        return lines + _open(sweep, told["stop_after"], told["goes_on"])
    left = told["decided"][-1]["goes_on"] if told["decided"] else []
    return [*lines, f"Halving leaves {left[0]} of {len(told['settings'])} settings"] if len(left) == 1 else lines


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
    stands = Counter(_stands(runs.get(job), part) for job in jobs)
    there = stands.pop("there", 0)
    if there == len(jobs):
        return []
    others = ", ".join(f"{count} {status}" for status, count in stands.items())
    return [
        f"Halving has not decided at {part:.0%} of the steps: {there} of {len(jobs)} runs are there, {others}; "
        "the same command goes on"
    ]


def _stands(run: Run | None, part: float) -> str:
    if run is None:
        return "not begun"
    if run.status == "stopped":
        return "there" if run.result.get("stop_after") == part else "waiting at an earlier rung"
    return "there" if run.status == "finished" else run.status
