"""Run folders as values: what was chosen, what came out."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from vicuna_lit.compare.conversations import ConversationLosses, validation_of
from vicuna_lit.config.base import is_below, other_keys
from vicuna_lit.config.renamed import with_new_names
from vicuna_lit.config.train import Computation, Recipe, RunSettings
from vicuna_lit.run_folder import GIVEN, RunError, flatten, refuse_foreign

if TYPE_CHECKING:
    from vicuna_lit.compare.conclusions import Conclusion
    from vicuna_lit.compare.figures import SvgPlot
    from vicuna_lit.compare.table import Table

FAILURES = "failures.jsonl"
"""In a sweep's folder: a line for each job that failed."""
OURS = {"module": "SupervisedModule"}
"""What stands in a config only where it is the user's."""
SCRIPT = "__main__."
"""Before the name of a class that stands in the user's script."""
LAYOUT = other_keys(Computation, Recipe)
"""Differences that leave the losses alone are named last."""


@dataclass(frozen=True)
class Run:
    """The folder of a train run, finished or not."""

    folder: Path
    config: dict[str, Any]
    """As `config.json`: every value, nested."""
    result: dict[str, Any]
    """As `result.json`; empty where the run has not come so far."""

    @property
    def name(self) -> str:
        """In a sweep its choices: `context_length=1024,seed=0`."""
        return self.config["run"]["name"]

    @property
    def status(self) -> str:
        """finished, stopped (by `stop_after` or halving), preempted, failed or unfinished."""
        return self.result.get("status", "unfinished")

    @property
    def swept(self) -> dict[str, str]:
        """What was chosen for this job of its sweep; empty outside one."""
        return self.config["run"].get("swept", {})

    @property
    def choices(self) -> dict[str, str]:
        """The name that was chosen in each group of the config: `{"template": "chatml", …}`."""
        return self.config["run"].get("choices") or {}

    @cached_property
    def values(self) -> dict[str, Any]:
        """The config by dotted key. Conversations that a script gave are their hash, in whichever run's folder they are
        kept."""
        values = flatten(self.config)
        path = values.get("data.path")
        given = Path(path) if isinstance(path, str) else Path()
        return values | ({"data.path": given.name} if given.parent.name == GIVEN else {})

    @cached_property
    def number(self) -> int | None:
        """Of the job in its sweep, from 0: the order in which the command names the choices; None outside one.

        Raises:
            RunError: the file that says it cannot be read.
        """
        path = self.folder / ".hydra" / "hydra.yaml"
        if not (self.swept and path.is_file()):
            return None
        try:
            number = yaml.safe_load(path.read_text())["hydra"]["job"]["num"]
        except (KeyError, TypeError):
            return None
        except (ValueError, yaml.YAMLError) as error:
            raise RunError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from error
        return number if isinstance(number, int) else None

    @cached_property
    def conversations(self) -> ConversationLosses | None:
        """What it loses on each held-out conversation; None of a run that does not keep it.

        Raises:
            RunError: the file cannot be read.
        """
        return validation_of(self.folder)

    @cached_property
    def files(self) -> dict[str, str]:
        """The sha256 of each file that it read, by its path as the config has it; empty where that is not known."""
        try:
            files = json.loads((self.folder / "run.json").read_bytes()).get("files")
            return {str(name): str(content) for name, content in (files or {}).items()}
        except (OSError, ValueError, AttributeError):
            return {}

    @cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """`metrics.csv` by column, a value for each optimizer step: step, loss, grad_norm, lr, …

        Of a line that a stop has cut, or that is being written, nothing is read.

        Raises:
            RunError: it cannot be read.
        """
        path = self.folder / "metrics.csv"
        if not path.exists():
            return {}
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            rows = list(csv.DictReader(line for line in lines if line.endswith("\n")))
            columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
            return {k: np.array(v if k == "conversations_hash" else list(map(float, v))) for k, v in columns.items()}
        except (ValueError, TypeError, csv.Error) as error:
            raise RunError(f"{path}: cannot be read: {error!r}") from error

    def metric(self, name: str) -> float | None:
        """A figure of the result by its name, or None: `val_loss`, `lost_time.saving`, `data.train.tokens`."""
        return figure(self.result, name)

    @property
    def judged_on(self) -> tuple[float | None, ...]:
        """Examples, exchanges and supervised tokens of the validation set: runs that differ in them read other texts,
        or the same in other tokens."""
        names = ("examples", "exchanges_kept", "supervised_tokens")
        return tuple(self.metric(f"data.validation.{name}") for name in names)

    @property
    def tokenizer(self) -> str:
        """Where its tokenizer lies, as the config has it."""
        model = self.config.get("model") or {}
        return str(model.get("tokenizer") or model.get("path") or "")

    @property
    def val_by_step(self) -> dict[int, float]:
        """The validation loss of each step that has one; 0 is before training."""
        return {int(step): loss for step, loss in self.result.get("val_by_step", {}).items() if loss is not None}

    def val_by(self, what: str) -> dict[str, float]:
        """The validation loss by `turn` (`1`, …, `8+`), by `position` (`0-127`, `128-255`, …) or `source`, in order."""
        prefix = f"val/loss_by_{what}/"
        return {k.removeprefix(prefix): v for k, v in self.result.get("validation", {}).items() if k.startswith(prefix)}


@dataclass(frozen=True)
class Sweep:
    """Runs to compare, in the order of what was chosen."""

    folder: Path
    runs: tuple[Run, ...]
    failures: tuple[dict[str, Any], ...] = ()
    """Jobs that failed, each time: job, error, cause, code, time (Unix), and whether another run lies in its folder."""

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
        return value.removeprefix(SCRIPT) if isinstance(value, str) else json.dumps(value)

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


def read_run(folder: str | Path) -> Run:
    """Reads a run folder.

    Raises:
        RunError: it is none.
    """
    folder = Path(folder)
    if (run := _read(folder)) is None:
        raise RunError(f"{folder}: no folder of a train run (it has no config.json of one)")
    return run


def read_sweep(*folders: str | Path) -> Sweep:
    """Reads all runs in a folder, or in several; a run's own folder is one run.

    Raises:
        RunError: there is no run.
    """
    places = [Path(folder) for folder in folders]
    runs = [run for place in places for run in runs_below(place)]
    failures = [failure for place in places for failure in failures_in(place)]
    if not runs and not failures:
        raise RunError(f"{', '.join(map(str, places))}: holds no train run")
    sweep = Sweep(places[0], tuple(runs), tuple(failures))
    ordered = sorted(runs, key=lambda run: [in_order(sweep.choice(run, key)) for key in sweep.keys])
    return Sweep(places[0], tuple(ordered), tuple(failures))


def _differing(runs: Sequence[Run]) -> tuple[str, ...]:
    """The groups and config keys with several values; not those that follow from a group's choice."""
    flat = [{k: json.dumps(v) for k, v in run.values.items()} for run in runs]
    named = dict.fromkeys(key for one in flat for key in one if not is_below(key, RunSettings.model_fields))
    differing = [key for key in named if len({one.get(key) for one in flat}) > 1]
    losses = {(one.get("module"), one.get("module_sha256")) for one in flat}
    if len(losses) == len({name for name, _ in losses}):  # the name of a loss of one's own tells it already
        differing = [key for key in differing if key != "module_sha256"]
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


def names_of(runs: Sequence[Run]) -> dict[Path, str]:
    """What each run is called: its name, or its folder's where several runs of a script have one name."""
    shared = Counter(run.name for run in runs)
    return {run.folder: run.name if shared[run.name] == 1 else run.folder.name for run in runs}


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """What each key is called in tables: its last part, or the whole key where two would have one name."""
    last = {key: key.rpartition(".")[2] for key in keys}
    shared = Counter(last.values())
    return {key: key if shared[name] > 1 else name for key, name in last.items()}


def figure(result: dict[str, Any], name: str) -> float | None:
    """A figure of a `result.json` by its dotted name; None where there is none.

    What a callback has logged comes last: one that logs its own `val_loss` does not take the place of the run's.
    """
    value: Any = result
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if value is None:
        value = (result.get("logged") or {}).get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


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


def runs_below(folder: Path, above: frozenset[Path] = frozenset()) -> Sequence[Run]:
    """All runs in a folder, which may be a run's own.

    Args:
        above: the folders that it lies in: a link to one of them is not followed.

    Raises:
        RunError: there is no such folder, or a run cannot be read.
    """
    if (run := _read(folder)) is not None:
        return [run]
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    above |= {folder.resolve()}
    inside = [child for child in sorted(folder.iterdir()) if child.is_dir() and child.resolve() not in above]
    return [run for child in inside for run in runs_below(child, above)]


def _read(folder: Path) -> Run | None:
    try:
        config = json.loads((folder / "config.json").read_text())
        if not isinstance(config, dict) or "conversations_per_step" not in config:
            return None  # of another job, or of another program
        found: dict[str, Any] = {}
        with suppress(FileNotFoundError):  # not yet, or not any more: a start takes away that of the one before
            found = _object(json.loads((folder / "result.json").read_text()), "result.json")
        refuse_foreign(folder, found)
        run = Run(folder, with_new_names(config), with_new_names(found))
        about = _object(run.config.get("run"), "run, in config.json,")
        _object(about.get("swept", {}), "run.swept, in config.json,")
        _object(about.get("choices") or {}, "run.choices, in config.json,")
        if not isinstance(about.get("name"), str):
            raise ValueError("run.name, in config.json, is no text")
        return run
    except (FileNotFoundError, NotADirectoryError):
        return None
    except RunError:
        raise
    except (ValueError, TypeError, OSError) as error:
        raise RunError(f"{folder}: config.json or result.json cannot be read: {error}") from error


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no object, but {str(value)[:60]!r}")
    return value
