"""Flags and words of a command line that Hydra answers with a traceback, or not at all: refused in a line."""

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vicuna_lit.cli.explain import asked
from vicuna_lit.config.base import ConfigError
from vicuna_lit.config.compose import Job, master, nearest, without_hydra

FIRST = {"train": "data", "prepare": "raw", "estimate": "model", "evaluate": "models", "chat": "model"}
"""What a job's word without a key is most likely meant for."""


def refuse_flags(job: Job, given: argparse.Namespace) -> None:
    """What Hydra answers with a traceback, in several lines, or not at all.

    Raises:
        ConfigError: such a flag was given.
    """
    problems, shells = [], "bash|zsh|fish"
    asked_to_show = next((flag for flag in ("shell_completion", "cfg", "info") if getattr(given, flag)), "")
    if given.experimental_rerun:
        problems.append("--experimental-rerun: unpickles a file, which could run anything; give the command once more")
    if given.multirun and asked_to_show:
        problems.append(f"--{asked_to_show.replace('_', '-')}: shows one job; leave --multirun out")
    if given.resolve and not (given.cfg or given.help):
        problems.append("--resolve: goes with --cfg")
    if given.package and not given.cfg:
        problems.append("--package: goes with --cfg")
    if given.config_name == "" or given.config_path == "":
        problems.append("--config-name, --config-path: the name is empty")
    if given.config_name in FIRST and given.config_name != job and not given.config_path:
        problems.append(f"--config-name={given.config_name}: is the config of vicuna-{given.config_name}")
    if given.shell_completion:
        words = " ".join(given.overrides)
        asks = re.fullmatch(f"query=({shells})", words) and "COMP_LINE" in os.environ  # the shell does
        if not asks and not re.fullmatch(f"(un)?install=({shells})", words):
            problems.append('--shell-completion: install=bash, zsh or fish, as in eval "$(… -sc install=bash)"')
    if problems:
        raise ConfigError(problems)


def refuse_package(job: Job, written: Sequence[str], given: argparse.Namespace) -> None:
    """
    Raises:
        ConfigError: the part that shall be shown is not there.
    """
    try:
        shown = master(job, written)
        if given.cfg == "job":
            shown = without_hydra(shown)
        if given.package == "_global_" or OmegaConf.select(shown, given.package) is not None:
            return
    except (HydraException, OmegaConfBaseException):
        return  # Hydra says it
    guess = nearest(given.package, list(map(str, shown)))
    raise ConfigError([f"--package={given.package}: the config of --cfg {given.cfg} has no such part{guess}"])


def refuse_words(job: Job, overrides: Sequence[str], unknown: Sequence[str]) -> None:
    """Says what to type for a word without a key, and for a key with dashes; `--explain` takes both as they are.

    Raises:
        ConfigError: there is one.
    """
    if asked(unknown):
        return
    problems = []
    for flag in unknown:
        key, _, value = flag.lstrip("-").partition("=")
        like = f" a setting has no dashes: {key.replace('-', '_')}={value or '…'};" if flag.startswith("--") else ""
        if key == "config":
            like = " a file of settings is taken by --config-dir=<folder> experiment=<name>;"
        problems.append(f"{flag}: no such option;{like} --help says more")
    if not problems:  # else a word may be what stands behind it
        words = [word for word in overrides if not word.lstrip("+~").partition("=")[0].strip() or "=" not in word]
        words = [word for word in words if word[:1] != "~" or not word.lstrip("~=").strip()]
        problems = [_word(job, word) for word in words]
    if problems:
        raise ConfigError(problems)


def _word(job: Job, word: str) -> str:
    """What to type for a word without a key; other tools take a YAML file so, of which we choose one by its name."""
    place = Path(word)
    if job not in ("train", "estimate") or place.suffix not in (".yaml", ".yml"):
        value = shlex.quote(word) if word.strip("=~+ ") and word[0] != "=" else "…"
        return f"{word if word.strip() else repr(word)}: a setting is key=value, such as {FIRST[job]}={value}"
    there = place.suffix == ".yaml" and place.parent.name == "experiment"
    folder = shlex.quote(str(place.parent.parent)) if there else "<folder>"
    where = "" if there else f", from <folder>/experiment/{place.stem}.yaml"
    return f"{word}: a file of settings is taken by --config-dir={folder} experiment={place.stem}{where}"
