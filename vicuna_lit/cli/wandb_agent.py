"""`wandb agent` as a launcher: a trial is a run with the agent's id, in a folder of its own, that its sweep can see.

The agent says who a trial is by environment variables (`WANDB_SWEEP_ID`, `WANDB_RUN_ID`), and what it shall do by
arguments (`${args_no_hyphens}`), whose values are written as Python writes them. `WANDB_RUN_ID` alone names a run too.
"""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from vicuna_lit.config.base import ConfigError
from vicuna_lit.config.short_forms import Job
from vicuna_lit.config.texts import folder_name, quoted, unquoted
from vicuna_lit.run_folder import RUN_ID

SWEEP_ID = "WANDB_SWEEP_ID"
JOBS = ("train", "evaluate")
"""Jobs that are a run of W&B's."""


def of_agent(job: Job, overrides: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """A command's overrides as the agent means them, and the trial's name, folder and mode where they are not given."""
    run, sweep = environment.get(RUN_ID), environment.get(SWEEP_ID)
    if job not in JOBS or not run:
        return list(overrides)
    parts = (override.lstrip("+").partition("=") for override in overrides)
    given = {key: value for key, _, value in parts}
    place = f"sweeps/{folder_name(sweep)}/" if sweep else ""
    ours = {"run.dir": f"runs/{place}{folder_name(run)}", "run.name": run}
    if not sweep and given.keys() & ours.keys():
        ours = {}
    if sweep:  # a trial that is not online is one that its sweep never sees
        # The agent's WANDB_DIR is its own working folder; a trial's record lies in the trial's.
        ours["wandb.dir"] = unquoted(given["run.dir"]) if "run.dir" in given else ours["run.dir"]
        ours["wandb.mode"] = environment.get("WANDB_MODE") or "online"
        ours |= {f"wandb.{key}": environment.get(f"WANDB_{key.upper()}") or "" for key in ("project", "entity")}
        overrides = [_as_hydra_reads(override) for override in overrides]
    return [*overrides, *(f"{key}={quoted(value)}" for key, value in ours.items() if value and key not in given)]


def refuse_multirun(environment: Mapping[str, str]) -> None:
    """
    Raises:
        ConfigError: the environment names one run, and there would be several.
    """
    if environment.get(RUN_ID):
        said = f"{RUN_ID}={environment[RUN_ID]} names one run, and a multirun is several"
        raise ConfigError([f"{said}: a trial of `wandb agent` is one job, without -m; else unset it"])


def _as_hydra_reads(override: str) -> str:
    """`None`, and lists and dicts with Python's quotes."""
    key, equals, value = override.partition("=")
    try:
        found = ast.literal_eval(value) if equals else ...
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return override
    return f"{key}={_hydras(found)}" if found is None or isinstance(found, dict | list | tuple) else override


def _hydras(value: Any) -> str:
    match value:
        case None:
            return "null"
        case dict():
            return "{" + ",".join(f"{key}:{_hydras(one)}" for key, one in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(map(_hydras, value)) + "]"
        case str():
            return quoted(value)
        case _:
            return str(value)
