"""What a run is, for its columns in W&B: nested, numbers as numbers; W&B filters and groups by nothing else."""

import json
import math
import os
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from vicuna_lit.config.base import PACKAGE, RunConfig
from vicuna_lit.run_folder import HYDRA

COMMAND = "VICUNA_LIT_COMMAND"
"""The variable in which the processes of a run find the command that has started them."""
MOST_OF_A_DIFF = 10_000_000
"""Bytes."""


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """The values as W&B shows them: dicts stay, lists become JSON, lists of dicts dicts of their places.

    A name has no periods (W&B takes them for nesting). What is empty is left out where it holds counts or settings
    by name.
    """
    out: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace(".", "_")
        match value:
            case dict():
                out |= {name: nested(value)} if value else {}
            case [dict(), *_]:
                out[name] = nested({str(place): item for place, item in enumerate(value)})
            case list() | tuple():
                out[name] = json.dumps(value, ensure_ascii=False)
            case _:
                out[name] = value
    return out


def about_run(run: RunConfig, sweep: str | None = None) -> dict[str, Any]:
    """`setting` (what was chosen but for the seed: runs of one setting differ by chance alone), `swept` with numbers
    as numbers, the commit, the command and its overrides.

    Args:
        sweep: what a job's sweep is called. All jobs of a sweep over seeds alone have this as their `setting`.
    """
    swept: dict[str, Any] = {}
    for key, text in run.swept.items():
        at = swept
        *above, last = key.split(".")
        for name in above:
            at = at.setdefault(name, {})
            if not isinstance(at, dict):  # `model=…` and `model.path=…`
                break
        else:
            at[last] = number(text)
    setting = ",".join(f"{key}={text}" for key, text in run.swept.items() if key != "seed")
    alone = sweep if run.swept and sweep else run.name
    return {"setting": setting or alone, "swept": swept, "git_commit": git_commit(), "command": command(),
            **overrides(Path(run.dir))}  # fmt: skip


def overrides(folder: Path) -> dict[str, list[str]]:
    """What the command line has set, a text each, as Hydra wrote it into the job's folder; nothing of a script."""
    with suppress(OSError, yaml.YAMLError):
        return {"overrides": yaml.safe_load((folder / HYDRA / "overrides.yaml").read_bytes()) or []}
    return {}


def number(text: str) -> Any:
    """What a text of the command line is as a number or a truth value, else itself."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with suppress(ValueError):
            value = kind(text)
            return value if math.isfinite(value) else text
    return text


def command() -> str:
    """What was typed: of a process that a run has started, its command."""
    if said := os.environ.get(COMMAND):
        return said
    words = sys.orig_argv[1:] if len(sys.orig_argv) > 1 else sys.argv
    return shlex.join(["python", *words] if words[:1] == ["-m"] else words)


def git_commit() -> str | None:
    """Of the checkout that this code lies in."""
    found = _git("rev-parse", "HEAD")
    return found.decode().strip() if found else None


def git_diff() -> bytes | None:
    """What differs from that commit in files that git knows; None: nothing, no checkout, or more than 10 MB."""
    found = _git("diff", "HEAD", "--no-ext-diff")
    return found if found and len(found) <= MOST_OF_A_DIFF else None


def _git(*arguments: str) -> bytes | None:
    try:
        return subprocess.run(["git", "-C", str(PACKAGE.parent), *arguments], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
