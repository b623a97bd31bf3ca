"""`from=<run folder>`: a run's whole config as a recipe, of which the command line says what is different.

For Hydra it is an `experiment` that lies in its ConfigStore, with a choice in each group: so overrides, sweeps,
launchers and `--cfg job` see a recipe like any other.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from vicuna_lit.config.base import ConfigError
from vicuna_lit.config.callbacks import OWN_CALLBACKS
from vicuna_lit.config.path_types import EMPTY
from vicuna_lit.config.renamed import with_new_names
from vicuna_lit.config.texts import folder_name, parts, quoted, unquoted
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.paths import nearest_beside

FROM = "from="
EXTENDS = "extends="
RECIPE = "from_run"
"""What it is called in each group."""
GROUPS = ("model", "data", "template", "strategy", "finetune", "callbacks")
OF_ONE_RUN = ("run", "dry_run", "resume", "push", "claim", "halving", "stop_after", "verbose")
"""What the new run does not take over: where it lies, how it was started and stopped, where its model was published,
and what was claimed and halved of its sweep."""
NO_DIFFERENCE = (
    "hydra.", "hydra/", "run.", "wandb.", "dry_run=", "resume=", "estimate=", "on_failure=", "stop_after=", EXTENDS
)  # fmt: skip
"""Overrides that do not stand in the new run's name."""


def from_run(overrides: Sequence[str], multirun: bool) -> list[str]:
    """The overrides with a recipe in the place of `from=<run folder>`; the new run is called what the old one is and
    what differs.

    Raises:
        ConfigError: the folder holds no run, or there is another recipe besides.
    """
    sources = [override for override in overrides if override.startswith(FROM)]
    others = [override for override in overrides if not override.startswith(FROM)]
    if len(sources) > 1 or any(o.lstrip("+~").partition("=")[0] == "experiment" for o in others):
        raise ConfigError([f"{' '.join(sources)}: is a whole recipe; give one, and no experiment beside it"])
    values = config_of(unquoted(sources[0].removeprefix(FROM)))
    named = any(override.startswith("run.name=") for override in others)
    name = values["run"]["name"] if named else _name(values["run"]["name"], others, multirun)
    name = folder_name(name) if multirun else name  # a part of the sweep's folder
    if values["run"].get("swept"):
        values["wandb"]["group"] = None  # of the sweep that it was a job of
    for key in (*OF_ONE_RUN, OWN_CALLBACKS):
        values.pop(key, None)
    if any(override.startswith(EXTENDS) for override in others):
        values.pop("taken_before", None)  # of the run that the old one has extended
    given = {override.lstrip("+~").partition("=")[0] for override in others}
    if "trainer.epochs" in given and isinstance(values.get("trainer"), dict):
        values["trainer"]["max_steps"] = None  # it would override what is asked for; `max_steps` besides counts
    store = ConfigStore.instance()
    for group in GROUPS:
        store.store(name=RECIPE, group=group, node=OmegaConf.create(_literal(values.pop(group))))
    recipe = {
        "defaults": [{f"override /{group}": RECIPE} for group in GROUPS],
        **_literal(values),
        "run": {"name": _literal(name), "dir": "runs/${folder_name:${run.name}}"},
    }
    store.store(name=RECIPE, group="experiment", package="_global_", node=OmegaConf.create(recipe))
    return [f"experiment={RECIPE}", *others]


def with_source(overrides: Sequence[str]) -> list[str]:
    """`extends=<run folder>` without a recipe stands for `from=<run folder> extends=<run folder>`."""
    keys = {override.lstrip("+~").partition("=")[0] for override in overrides}
    folders = [override.removeprefix(EXTENDS) for override in overrides if override.startswith(EXTENDS)]
    one = len(folders) == 1 and folders[0] != "null" and len(parts(folders[0])) == 1
    return [f"{FROM}{folders[0]}", *overrides] if one and not keys & {"from", "experiment"} else list(overrides)


def config_of(folder: str) -> dict[str, Any]:
    """The config of a train run's folder, nested, under today's names.

    Raises:
        ConfigError: there is none, or one with keys that no config has.
    """
    if not folder.strip():  # `Path` would take it for the current folder
        raise ConfigError([f"{FROM}{folder}: {EMPTY}"])
    file = Path(folder).expanduser() / "config.json"
    try:
        values = with_new_names(json.loads(file.read_bytes()))
    except FileNotFoundError:
        there = "holds no run (config.json)" if file.parent.is_dir() else f"no such folder{nearest_beside(file.parent)}"
        raise ConfigError([f"{FROM}{folder}: {there}"]) from None
    except (OSError, ValueError) as error:
        raise ConfigError([f"{FROM}{folder}: {file} cannot be read: {error}"]) from None
    lacks = [key for key in ("run", *GROUPS) if not isinstance(values.get(key), dict)]
    if lacks:
        raise ConfigError([f"{FROM}{folder}: is no folder of a train run (its config has no {', '.join(lacks)})"])
    if unknown := sorted(values.keys() - TrainConfig.model_fields.keys() - {OWN_CALLBACKS}):
        raise ConfigError(
            [
                f"{FROM}{folder}: its config has {', '.join(unknown)}, which no config has: a script has run it with "
                "parts of its own, and can alone run it again"
            ]
        )
    return values


def _name(old: str, given: Sequence[str], multirun: bool) -> str:
    """Of the old run and what differs; a sweep's jobs are called by what is swept."""
    fixed = [o for o in given if "=" in o and not o.startswith(NO_DIFFERENCE)]
    if multirun:
        fixed = [o for o in fixed if len(parts(o.partition("=")[2])) == 1 and "(" not in o]
    new = {key.lstrip("+"): unquoted(value) for key, _, value in (o.partition("=") for o in fixed)}
    before = [part.partition("=") for part in old.split(",")] if "[" not in old and "{" not in old else [(old, "", "")]
    kept = [f"{key}{equals}{value}" for key, equals, value in before if not equals or key not in new]
    if any(override.startswith(EXTENDS) for override in given):
        kept.append("extended")
    elif not (new or multirun):
        kept = [old, "again"]
    return ",".join([*kept, *(f"{key}={value}" for key, value in new.items())])


def _literal(value: Any) -> Any:
    """Values whose texts mean themselves, also with `${` in them."""
    match value:
        case dict():
            return {key: _literal(one) for key, one in value.items()}
        case list():
            return [_literal(one) for one in value]
        case str():
            return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
        case _:
            return value


def said_as(overrides: Sequence[str], source: str | None) -> list[str]:
    """Overrides as the user gave them: `from=<folder>` in the place of the recipe that stands for it, unless
    `extends=` says it already."""
    if not source:
        return list(overrides)
    extended = any(o.startswith(EXTENDS) and unquoted(o.removeprefix(EXTENDS)) == source for o in overrides)
    asked = [] if extended else [f"{FROM}{quoted(source)}"]
    return [said for o in overrides for said in (asked if o == f"experiment={RECIPE}" else [o])]
