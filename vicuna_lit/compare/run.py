"""One run folder as a value: what its config says, what it read, what came out."""

import csv
import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vicuna_lit.compare.conversations import ConversationLosses, validation_of
from vicuna_lit.config.renamed import with_new_names
from vicuna_lit.run_folder import GIVEN, RunError, flatten, refuse_foreign

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "")
"""What says how a text is cut, the first that is there; the last is a model that is one file."""


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
            number = yaml.safe_load(path.read_bytes())["hydra"]["job"]["num"]
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

    def held(self, path: Any) -> frozenset[tuple[str, str]]:
        """Name and sha256 of each file that it read at a path of its config; empty where that is not known."""
        names = ((name.removeprefix(f"{path}/") if name != path else "", name) for name in self.files)
        return frozenset((inside, self.files[name]) for inside, name in names if inside != name)

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

    def read_all(self) -> None:
        """Reads all that is read of it later, if anybody asks.

        Raises:
            RunError: a file of it cannot be read.
        """
        _ = self.number, self.conversations, self.metrics

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

    def has_the_tokenizer_of(self, other: "Run") -> bool:
        """Whether both cut a text into the same tokens: by what the files held, or by their place where that is not
        known."""
        one, two = dict(self.held(self.tokenizer)), dict(other.held(other.tokenizer))
        for name in VOCABULARIES:
            if name in one and name in two:
                return one[name] == two[name]
        return self.tokenizer == other.tokenizer

    @property
    def val_by_step(self) -> dict[int, float]:
        """The validation loss of each step that has one; 0 is before training."""
        return {int(step): loss for step, loss in self.result.get("val_by_step", {}).items() if loss is not None}

    def val_by(self, what: str) -> dict[str, float]:
        """The validation loss by `turn` (`1`, …, `8+`), by `position` (`0-127`, `128-255`, …) or `source`, in order."""
        prefix = f"val/loss_by_{what}/"
        return {k.removeprefix(prefix): v for k, v in self.result.get("validation", {}).items() if k.startswith(prefix)}


def read_run(folder: str | Path) -> Run:
    """Reads a run folder.

    Raises:
        RunError: it is none.
    """
    folder = Path(folder)
    if (run := run_in(folder)) is None:
        raise RunError(f"{folder}: no folder of a train run (it has no config.json of one)")
    return run


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


def run_in(folder: Path) -> Run | None:
    """The run in a folder; None where it is none.

    Raises:
        RunError: its files cannot be read.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
        if not isinstance(config, dict) or "conversations_per_step" not in config:
            return None  # of another job, or of another program
        found: dict[str, Any] = {}
        with suppress(FileNotFoundError):  # not yet, or not any more: a start takes away that of the one before
            found = _object(json.loads((folder / "result.json").read_bytes()), "result.json")
        refuse_foreign(folder, found)
        run = Run(folder, with_new_names(config), with_new_names(found))
        about = _object(run.config.get("run"), "run, in config.json,")
        _object(about.get("swept", {}), "run.swept, in config.json,")
        _object(about.get("choices") or {}, "run.choices, in config.json,")
        for key in ("validation", "val_by_step", "logged"):
            _object(found.get(key) or {}, f"{key}, in result.json,")
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
