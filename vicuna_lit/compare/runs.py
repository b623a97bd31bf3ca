"""Many run folders as one value: what was chosen in them, what differs."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vicuna_lit.compare.run import Run, run_in
from vicuna_lit.config.base import is_below, other_keys
from vicuna_lit.config.train import Computation, Recipe, RunSettings
from vicuna_lit.paths import nearest_beside
from vicuna_lit.run_folder import MODULE, MODULE_HASH, MODULE_VALUES, RunError

if TYPE_CHECKING:
    from vicuna_lit.compare.conclusions import Conclusion
    from vicuna_lit.compare.figures import SvgPlot
    from vicuna_lit.compare.table import Table

FAILURES = "failures.jsonl"
"""In a sweep's folder: a line for each job that failed."""
DAMAGED = "damaged"
"""The cause of a failure that stands in no such file: the run is there, and cannot be read."""
OURS = {MODULE: "plain"}
"""What stands in a config only where it is the user's, and what its absence is called."""
LAYOUT = other_keys(Computation, Recipe)
"""Differences that leave the losses alone are named last."""


@dataclass(frozen=True)
class Sweep:
    """Runs to compare, in the order of what was chosen."""

    folder: Path
    runs: tuple[Run, ...]
    failures: tuple[dict[str, Any], ...] = ()
    """Jobs that failed, each time: job, error, cause, code, time (Unix), and whether another run lies in its folder."""
    again: tuple[Path, ...] = ()
    """Folders that were named a second time, under whichever path; what is in them counts once."""

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs that have a result."""
        return tuple(run for run in self.runs if run.status == "finished")

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """What differs between the runs: the keys that were swept, or else the groups and config keys with several
        values. Sweeps that are read together may differ in more than each of them has swept."""
        if not all(run.swept for run in self.runs):
            return _differing(self.runs)
        swept = dict.fromkeys(key for run in self.runs for key in run.swept)
        alike: dict[tuple[str, ...], list[Run]] = {}
        for run in self.runs:
            alike.setdefault(tuple(run.swept.get(key, "") for key in swept), []).append(run)
        besides = dict.fromkeys(key for runs in alike.values() for key in _differing(runs) if key not in swept)
        return (*swept, *besides)

    def choice(self, run: Run, key: str) -> str:
        """The value of a key in a run, as text; of a group, the name that was chosen."""
        if key in run.swept:
            return run.swept[key]
        if key in run.choices:
            return run.choices[key]
        value = run.values.get(key, OURS.get(key, ""))
        if key == MODULE_HASH:
            return str(value)[:8]
        return self._classes.get(value, value) if isinstance(value, str) else json.dumps(value)

    @cached_property
    def _classes(self) -> dict[str, str]:
        """The names of modules of scripts without what stands before the class, where this tells them apart."""
        names = {run.values[MODULE] for run in self.runs if isinstance(run.values.get(MODULE), str)}
        last = {name: name.rpartition(".")[2] for name in names}
        shared = Counter(last.values())
        return {name: short for name, short in last.items() if shared[short] == 1}

    def choices(self, run: Run, keys: Iterable[str]) -> tuple[str, ...]:
        """The values of keys in a run."""
        return tuple(self.choice(run, key) for key in keys)

    def keys_but(self, repeats: Sequence[str]) -> list[str]:
        """The keys that make a setting: all but those whose values are repetitions."""
        return [key for key in self.keys if key not in repeats]

    def conclude(self, margin: float | None = None, baseline: str | None = None) -> "list[Conclusion]":
        """What the validation losses show of each setting: better or worse than the baseline, equal, or not to be told.

        Args:
            margin: nats per supervised token that make no difference in practice.
            baseline: a setting, such as `512`; None: the one that the sweep's command names first.

        Raises:
            RunError: the sweep has no such setting.
        """
        from vicuna_lit.compare.conclusions import conclude
        from vicuna_lit.compare.table import settings

        return conclude(settings(self, baseline=baseline), margin)

    def table(self, *metrics: str) -> "Table":
        """Means over seeds ± one standard error, a row for each setting; draws itself in a notebook.

        Args:
            metrics: figures of `result.json`; validation loss, speed, memory and seconds unless given.
        """
        from vicuna_lit.compare.table import METRICS, settings, table

        return table(settings(self, metrics or METRICS), metrics or METRICS)

    def plots(self) -> dict[str, "SvgPlot"]:
        """The figures that suit what was swept, by title; each draws itself in a notebook."""
        from vicuna_lit.compare.figures import figures
        from vicuna_lit.compare.table import settings

        return figures(settings(self))


def read_sweep(*folders: str | Path, whole: bool = True) -> Sweep:
    """Reads all runs in a folder, or in several; a run's own folder is one run.

    Args:
        whole: whether a run that cannot be read is an error; else it is one of the sweep's failures, and named there.

    Raises:
        RunError: a folder holds no run, or one cannot be read.
    """
    places, damaged = [Path(folder) for folder in folders], list[dict[str, Any]]()
    runs: list[Run] = []
    failures: list[dict[str, Any]] = []
    read, again = set[Path](), list[Path]()
    for place in places:
        if place.resolve() in read:
            again.append(place)
            continue
        count = len(damaged)
        found, failed = runs_below(place, None if whole else damaged), failures_in(place)
        there = {run.name for run in found}
        # A job that was refused its folder has not failed there: the run in it is the one that is read.
        failed = [one for one in failed if not (one.get("another_run") and one["job"] in there)]
        if not found and not failed and len(damaged) == count:
            raise RunError(f"{place}: holds no train run")
        again += [run.folder for run in found if run.folder.resolve() in read]
        runs += [run for run in found if run.folder.resolve() not in read]
        read |= {place.resolve(), *(run.folder.resolve() for run in found)}
        failures += failed
    failures += damaged
    sweep = Sweep(places[0], tuple(runs), tuple(failures))
    ordered = sorted(runs, key=lambda run: [in_order(sweep.choice(run, key)) for key in sweep.keys])
    return Sweep(places[0], tuple(ordered), tuple(failures), tuple(again))


def _differing(runs: Sequence[Run]) -> tuple[str, ...]:
    """The groups and config keys with several values; not those that follow from a group's choice."""
    flat = _as_first_named(runs)
    named = dict.fromkeys(key for one in flat for key in one if not is_below(key, RunSettings.model_fields))
    differing = [key for key in named if len({one.get(key) for one in flat}) > 1]
    differing = _without_what_tells_the_same(flat, differing)
    groups = dict.fromkeys(group for run in runs for group in run.choices)
    chosen = []
    for group in groups:
        names = [run.choices.get(group, "") for run in runs]
        below = [key for key in differing if is_below(key, (group,))]
        if len(set(names)) > 1 and below:
            chosen.append(group)
            of_each = {key: {(name, one.get(key)) for name, one in zip(names, flat, strict=True)} for key in below}
            follow = {key for key, values in of_each.items() if len(values) == len(set(names))}
            differing = [key for key in differing if key not in follow]
    return tuple(sorted((*chosen, *differing), key=lambda key: is_below(key, LAYOUT)))


def _without_what_tells_the_same(flat: Sequence[dict[str, str]], differing: Sequence[str]) -> list[str]:
    """The keys that tell own losses apart: their class where that suffices, else also the values that classes of one
    name read around them, and the hash of their source where it is another with the same values."""

    def cases(*keys: str) -> int:
        return len({tuple(one.get(key) for key in keys) for one in flat})

    values = [key for key in differing if is_below(key, (MODULE_VALUES,)) and cases(MODULE, key) > cases(MODULE)]
    others = [key for key in differing if key != MODULE_HASH and not is_below(key, (MODULE_VALUES,))]
    hashes = [MODULE_HASH] if cases(MODULE, *values, MODULE_HASH) > cases(MODULE, *values) else []
    return [*others, *values, *hashes]


def _as_first_named(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The values of each run as JSON. Paths that held the same files are one, by the name that comes first."""
    first: dict[tuple[str, Any], str] = {}

    def value(run: Run, key: str, given: Any) -> str:
        text = json.dumps(given)
        known_by = [(key, text), *([(key, held)] if (held := run.held(given)) else [])]
        name = next((first[known] for known in known_by if known in first), text)
        first.update({known: name for known in known_by if known not in first})
        return name

    return [{key: value(run, key, given) for key, given in run.values.items()} for run in runs]


def names_of(runs: Sequence[Run]) -> dict[Path, str]:
    """What each run is called: its name, or its folder's where several runs of a script have one name."""
    shared = Counter(run.name for run in runs)
    return {run.folder: run.name if shared[run.name] == 1 else run.folder.name for run in runs}


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """What each key is called in tables: its last part, or the whole key where two would have one name."""
    last = {key: key.rpartition(".")[2] for key in keys}
    shared = Counter(last.values())
    return {key: key if shared[name] > 1 else name for key, name in last.items()}


def in_order(value: str) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    number = as_number(value)
    return (1, 0.0, value) if number is None else (0, number, "")


def as_number(value: str) -> float | None:
    """A choice as a number, where it is one."""
    try:
        return float(value)
    except ValueError:
        return None


def numeric(values: Iterable[str]) -> bool:
    """Whether all choices are numbers."""
    return all(as_number(value) is not None for value in values)


def failures_in(folder: Path) -> list[dict[str, Any]]:
    """The lines of a sweep's `failures.jsonl`; empty where no job has failed. One that was torn says so."""
    path = folder / FAILURES
    lines = path.read_bytes().splitlines() if path.exists() else ()
    return [_failure(line, number) for number, line in enumerate(lines, 1)]


def _failure(line: bytes, number: int) -> dict[str, Any]:
    with suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict) and {"job", "error"} <= found.keys():
            return found
    return {"job": f"line {number} of {FAILURES}", "error": "the line is torn: a failure of which nothing is known"}


def runs_below(
    folder: Path, damaged: list[dict[str, Any]] | None = None, above: frozenset[Path] = frozenset()
) -> Sequence[Run]:
    """All runs in a folder, which may be a run's own.

    Args:
        damaged: gets a failure for each run that cannot be read; None: such a run is an error.
        above: the folders that it lies in: a link to one of them is not followed.

    Raises:
        RunError: there is no such folder, or a run cannot be read.
    """
    try:
        if (run := run_in(folder)) is not None:
            if damaged is not None:
                run.read_all()
            return [run]
    except (RunError, OSError) as error:
        if damaged is None:
            raise
        damaged.append(
            {"job": str(folder), "error": str(error).removeprefix(str(folder)).lstrip(":/ "), "cause": DAMAGED}
        )
        return []
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder{nearest_beside(folder)}")
    above |= {folder.resolve()}
    inside = [child for child in sorted(folder.iterdir()) if child.is_dir() and child.resolve() not in above]
    return [run for child in inside for run in runs_below(child, damaged, above)]
