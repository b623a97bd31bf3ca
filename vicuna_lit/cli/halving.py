"""Successive halving of a multirun: which settings go on from a rung, and what a job is told.

Hydra runs the whole grid once for each rung, with whichever launcher. A job whose setting was stopped returns at once;
the others go on from their own checkpoints. What was decided lies in `halving.json` of the sweep's folder, so the same
command goes on at the rung where it was stopped.
"""

import math
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from vicuna_lit import notebook
from vicuna_lit.cli.command_line import name_of
from vicuna_lit.compare.run import Run
from vicuna_lit.compare.rungs import FILE, read_rungs
from vicuna_lit.compare.runs import failures_in, runs_below
from vicuna_lit.compare.table import setting_of
from vicuna_lit.config.halving import HalvingConfig, step_of
from vicuna_lit.config.train import TrainConfig, ValidationConfig
from vicuna_lit.run_folder import RunError
from vicuna_lit.whole_files import write_json

DIVERGED = "not_finite"
"""The cause in a `result.json` that says something of the setting itself."""
console = notebook.console(stderr=True, soft_wrap=True, highlight=False)


class Halving:
    """The rungs of a sweep.

    Args:
        folder: of the sweep.
        jobs: the choices of each job by its name, in the command's order.
    """

    def __init__(self, folder: Path, config: HalvingConfig, jobs: Mapping[str, Mapping[str, str]]):
        self.folder, self.config = folder, config
        self.settings: dict[str, list[str]] = {}
        """The jobs of each setting: one for each seed."""
        for name, chosen in jobs.items():
            self.settings.setdefault(name_of(setting_of(chosen)), []).append(name)
        self._asked = {"rungs": list(config.rungs), "keep": config.keep, "settings": self.settings}
        saved = read_rungs(folder)
        known: list[dict[str, Any]] = saved["decided"] if self._asked.items() <= saved.items() else []
        runs = _runs(folder) if known else {}
        self.decided = list(takewhile(lambda rung: self._stands(rung, runs), known))
        """The rungs that are past. One at which a run has failed is judged again: a new command tries it again. So is
        one whose runs are no longer there, or came to other losses."""
        self._failures_before = 0

    def plan(self) -> str:
        """How many settings come how far."""
        counts = counts_of(len(self.settings), self.config)
        parts = [f"{n} to {part:.0%}" for n, part in zip(counts, self.config.rungs, strict=False)]
        parts[0] += " of their steps"
        share = cost(counts, self.config.rungs)
        idle = [f"{part:.0%}" for part, n, on in zip(self.config.rungs, counts, counts[1:], strict=False) if n == on]
        why = f"keep={self.config.keep:g} of {counts[-1]}, rounded up"
        nobody = f"; nobody stops at {', '.join(idle)}: {why}" if idle else ""
        said = f"halving: of {counts[0]} settings {', '.join(parts)}, {counts[-1]} to the end"
        past = ""
        if self.decided:
            last = self.decided[-1]
            past = f"; so far the rung at {last['after']:.0%} is decided: {len(last['goes_on'])} go on"
        return f"{said}: {share:.0%} of all steps{nobody}{past}"

    def begin(self) -> None:
        """Tells the jobs how far they go."""
        stop_after = self.config.rungs[len(self.decided)] if self.at_a_rung else None
        told = {"stop_after": stop_after, "goes_on": self.going_on}
        self._failures_before = len(failures_in(self.folder))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / FILE, {**self._asked, **told, "decided": self.decided})

    def decide(self) -> bool:
        """Judges the rung that all runs have come to; whether there is more to run.

        Raises:
            RunError: the settings are judged on other texts.
        """
        rung = len(self.decided)
        if rung == len(self.config.rungs) or self.nobody:
            return False
        before = self.decided[-1]["goes_on"] if self.decided else list(self.settings)
        others = {name for name, failure in self._failures().items() if failure.get("another_run")}
        runs = {name: run for name, run in _runs(self.folder).items() if name not in others}
        part = self.config.rungs[rung]
        losses = {s: {name: loss_at(runs.get(name), part) for name in self.settings[s]} for s in before}
        means = {setting: _mean(found.values()) for setting, found in losses.items()}
        failed = {s: self._failure(losses[s], runs) for s in before if means[s] is None}
        _refuse_other_texts([runs[name] for name in self._jobs(s for s in before if s not in failed)])
        goes_on = best(means, counts_of(len(self.settings), self.config)[rung + 1])
        of_runs = {name: loss for found in losses.values() for name, loss in found.items()}
        judged = {"after": part, "val_loss": means, "failed": failed, "goes_on": goes_on, "of_runs": of_runs}
        _say(judged)
        self.decided.append(judged)
        self.begin()
        return bool(goes_on)

    @property
    def at_a_rung(self) -> bool:
        """Whether the jobs go to a rung now, and not to their ends."""
        return len(self.decided) < len(self.config.rungs)

    @property
    def going_on(self) -> list[str]:
        """The jobs whose settings were not stopped."""
        return self._jobs(self.decided[-1]["goes_on"] if self.decided else list(self.settings))

    @property
    def nobody(self) -> bool:
        """Whether no setting has come past a rung."""
        return bool(self.decided) and not self.decided[-1]["goes_on"]

    def _stands(self, rung: Mapping[str, Any], runs: Mapping[str, Run]) -> bool:
        """Whether what was decided at a rung is what its runs say now; one that goes on may be on its way."""
        on, losses = self._jobs(rung["goes_on"]), rung.get("of_runs", {})
        known = {name: loss_at(runs.get(name), rung["after"]) for name in losses}
        busy = [name for name in on if name in runs and known.get(name) is None]
        alike = all(known[name] == loss or name in busy for name, loss in losses.items())
        return bool(losses) and alike and all(why["cause"] == DIVERGED for why in rung["failed"].values())

    def _failure(self, losses: Mapping[str, float | None], runs: Mapping[str, Run]) -> dict[str, str | None]:
        """Why a setting has no mean, by its first run without a loss."""
        name = next(name for name, loss in losses.items() if loss is None)
        result, failure = runs[name].result if name in runs else {}, self._failures().get(name, {})
        why = result.get("error") or failure.get("error") or "it has not come so far"
        if result.get("status") in ("stopped", "finished") and not runs[name].val_by_step:
            why = "nothing is held out; data.validation_path=<file>, or a larger data.validation_fraction"
        cause = result.get("cause") or failure.get("cause")
        return {"why": f"{name} has no validation loss there: {why}", "cause": cause}

    def _failures(self) -> dict[str, dict[str, Any]]:
        """The last failure of each job since the rung began."""
        return {failure["job"]: failure for failure in failures_in(self.folder)[self._failures_before :]}

    def _jobs(self, settings: Any) -> list[str]:
        return [name for setting in settings for name in self.settings[setting]]


def standing(config: TrainConfig, folder: Path) -> TrainConfig | None:
    """A job's config with the part of its steps after which it stops; None: its setting was stopped before.

    Args:
        folder: of the sweep.

    Raises:
        RunError: the command's file is not there.
    """
    told = read_rungs(folder)
    if not told:
        raise RunError(f"{folder / FILE}: is not there; halving needs a folder that the jobs share with the command")
    if config.run.name not in told["goes_on"]:
        return None
    return config.model_copy(update={"stop_after": told["stop_after"]})


def best(means: Mapping[str, float | None], count: int) -> list[str]:
    """The settings with the lowest means, in the order of the command; None: it has failed."""
    known = [setting for setting, mean in means.items() if mean is not None]
    chosen = sorted(known, key=lambda setting: means[setting] or 0.0)[:count]
    return [setting for setting in known if setting in chosen]


def counts_of(settings: int, config: HalvingConfig) -> list[int]:
    """How many settings run to each rung, and how many to the end."""
    counts = [settings]
    for _ in config.rungs:
        counts.append(max(1, math.ceil(config.keep * counts[-1] - 1e-9)))
    return counts


def cost(counts: list[int], rungs: tuple[float, ...]) -> float:
    """The part of the whole grid's steps."""
    ends = (0.0, *rungs, 1.0)
    return sum(n * (ends[i + 1] - ends[i]) for i, n in enumerate(counts)) / counts[0]


def _runs(folder: Path) -> dict[str, Run]:
    """By their jobs' names; none where no job has begun."""
    return {run.name: run for run in runs_below(folder)} if folder.is_dir() else {}


def loss_at(run: Run | None, part: float) -> float | None:
    """The validation loss of a run at a rung, or its last if it has ended before; None: it has not come so far."""
    if run is None:
        return None
    steps = int(run.metric("planned") or run.metric("steps") or 0)
    interval = ValidationConfig.model_validate(run.config["validation"]).interval(steps)
    loss = run.result.get("val_by_step", {}).get(str(step_of(part, steps, interval)))
    return run.metric("val_loss") if loss is None and run.status == "finished" else loss


def _mean(losses: Iterable[float | None]) -> float | None:
    """None where a run has none: a mean over other seeds than the others' would be compared with them."""
    found = list(losses)
    known = [loss for loss in found if loss is not None]
    return math.fsum(known) / len(known) if len(known) == len(found) else None


def _say(rung: Mapping[str, Any]) -> None:
    """Prints who goes on, and who is out for another reason than the loss."""
    means, goes_on = rung["val_loss"], rung["goes_on"]
    said = ", ".join(f"{setting} ({means[setting]:.4f})" for setting in goes_on) or "none has a loss"
    lowest = min((m for s, m in means.items() if m is not None and s not in goes_on), default=None)
    rest = f"; the best that is stopped has {lowest:.4f}" if lowest is not None else ""
    counts = f"{len(goes_on)} of {len(means)} settings go on"
    console.print(f"halving: after {rung['after']:.0%} of the steps {counts}: {said}{rest}", markup=False)
    for setting, failure in rung["failed"].items():
        console.print(f"halving: {setting} is out: {failure['why']}", markup=False)


def _refuse_other_texts(runs: list[Run]) -> None:
    texts = {run.judged_on: run.name for run in runs}
    if len(texts) > 1:
        names = " and ".join(list(texts.values())[:2])
        raise RunError(
            f"halving: {names} are judged on other validation texts, so their losses say nothing of each other; "
            "data.validation_path, or over context lengths validation.context_length=<the longest>, makes them alike"
        )
