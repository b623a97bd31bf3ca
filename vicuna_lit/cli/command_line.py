"""A command line as Hydra reads it: what it asks for, its jobs, and what they are called.

Whether it is a multirun, what is swept and where the jobs lie may stand on the command line, in an experiment or in a
folder of the user's; Hydra composes it once, and all that is checked or planned before the first job follows from that.
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vicuna_lit.cli.explain import asked
from vicuna_lit.cli.wandb_agent import JOBS, of_agent, refuse_multirun
from vicuna_lit.config.base import ConfigError
from vicuna_lit.config.compose import Job, load, master
from vicuna_lit.config.from_run import FROM, with_source
from vicuna_lit.config.search_path import folders, groups, options, refuse_endless, search_path, with_folder
from vicuna_lit.config.short_forms import expand
from vicuna_lit.config.texts import unquoted

MOST_CHECKED = 64
"""Jobs of a sweep that are checked before the first starts; each costs a tenth of a second."""
CUTS = {"context_length", "train_on", "template", "model", "model.path", "model.tokenizer"}
"""Keys and groups that change how conversations become examples."""
FIRST = {"train": "data", "prepare": "raw", "estimate": "model", "evaluate": "models", "chat": "model"}
"""What a job's word without a key is most likely meant for."""
NAMES = "hydra.job.config.override_dirname.exclude_keys"
"""Of Hydra: the keys that stay out of the jobs' names."""


@dataclass(frozen=True)
class CommandLine:
    """What a command was asked for."""

    job: Job
    overrides: tuple[str, ...]
    """Written out, with what is swept in an experiment's `hydra.sweeper.params`."""
    flags: tuple[str, ...] = ()
    """Of Hydra's, as it takes them."""
    multirun: bool = False
    source: str | None = None
    """The run folder of `from=`."""
    hydra: Any = field(default=None, repr=False)
    """Hydra's own settings; None where it only shows something, or where they do not compose."""
    runs: bool = True
    """Whether jobs are run: flags may only ask for a text."""
    checked: bool = True
    """Whether jobs can be checked before they start: not with a primary config of the user's."""

    @property
    def arguments(self) -> list[str]:
        """For Hydra."""
        return [*self.flags, *self.overrides, *(_additions(self) if self.multirun and self.runs else ())]

    @property
    def folder(self) -> Path:
        """Of a multirun: where its jobs' folders lie.

        Raises:
            ConfigError: Hydra cannot say it: a launcher or sweeper is not there.
        """
        settings = self.hydra
        if settings is None:  # composing once more says why
            try:
                settings = master(self.job, self.overrides).hydra
            except (HydraException, OmegaConfBaseException) as error:
                said = str(error).strip().splitlines()[0]
                plugins = "launchers and sweepers are plugins: pip install 'vicuna_lit[sweep]'"
                raise ConfigError([f"{said} ({plugins})"]) from None
        return Path(settings.sweep.dir)

    @property
    def fixed(self) -> set[str]:
        """Keys that do not vary between the jobs of a multirun."""
        last = {o.key_or_group: o for o in _parsed(self.overrides)}  # what comes last counts, to Hydra too
        return {key for key, o in last.items() if not o.is_sweep_override()}


def read(job: Job, arguments: Sequence[str]) -> tuple[CommandLine, list[str]]:
    """A command line, and those of its flags that Hydra does not know.

    Raises:
        ConfigError: it cannot be read; what its values are is checked by `jobs_of`.
    """
    parser = get_args_parser()
    parser.allow_abbrev = False  # else --config, as other tools have it, is said to be short for three of Hydra's
    given, unknown = parser.parse_known_intermixed_args(list(arguments))
    overrides = list(given.overrides)
    _refuse_flags(given)
    if given.shell_completion:
        return CommandLine(job, tuple(overrides), ("-sc",), runs=False, checked=False), unknown
    _refuse_words(job, overrides, unknown)
    if given.config_dir:
        overrides = with_folder(overrides, given.config_dir)
    overrides = of_agent(job, overrides, os.environ)
    overrides = with_source(overrides) if job in ("train", "estimate") else overrides
    refuse_endless(overrides)
    flags = _flags(parser, given)
    own = bool(given.config_name or given.config_path)
    if own and given.multirun:
        raise ConfigError(
            ["--config-name, --config-path: not in a multirun; experiment=<name> takes a file of --config-dir=<folder>"]
        )
    runs = not (given.help or given.hydra_help or given.info or given.cfg) and not unknown
    written, settings, multirun = _mode(job, overrides, given.multirun, composes=runs and not own)
    if multirun and runs and job in JOBS:
        refuse_multirun(os.environ)
    added = _alike(job, written) if multirun and settings is not None and _is_grid(settings) else []
    if added:
        print(
            f"alike: {' '.join(added)} for all jobs, so that they differ in what is swept alone (alike=false: not set)",
            file=sys.stderr,
        )
    written += added
    source = next((unquoted(o.removeprefix(FROM)) for o in overrides if o.startswith(FROM)), None)
    return CommandLine(job, tuple(written), flags, multirun, source, settings, runs, runs and not own), unknown


def _refuse_flags(given: argparse.Namespace) -> None:
    """What Hydra answers with a traceback, or not at all.

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
    if given.shell_completion:
        words = " ".join(given.overrides)
        asks = re.fullmatch(f"query=({shells})", words) and "COMP_LINE" in os.environ  # the shell does
        if not asks and not re.fullmatch(f"(un)?install=({shells})", words):
            problems.append('--shell-completion: install=bash, zsh or fish, as in eval "$(… -sc install=bash)"')
    if problems:
        raise ConfigError(problems)


def _refuse_words(job: Job, overrides: Sequence[str], unknown: Sequence[str]) -> None:
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


def _mode(job: Job, overrides: list[str], asked: bool, composes: bool) -> tuple[list[str], DictConfig | None, bool]:
    """Overrides written out, Hydra's settings, and whether it is a multirun: asked for here or in an experiment."""
    written = expand(job, _globbed(overrides) if asked else overrides, asked)
    settings = _settings(job, written) if composes and (asked or _may_sweep(written)) else None
    multirun = asked or (settings is not None and settings.mode == RunMode.MULTIRUN)
    if multirun and not asked:
        written = expand(job, _globbed(overrides), True)
        settings = _settings(job, written)
    if multirun and settings is not None and _is_grid(settings):
        keys = {override.partition("=")[0] for override in [*overrides, *written]}
        sweeps = settings.sweeper.params or {}
        params = [f"{key}={value}" for key, value in sweeps.items() if key not in keys]
        written = expand(job, [*_globbed(params, folders(overrides)), *overrides], True) if params else written
    return written, settings, multirun


def _may_sweep(written: Sequence[str]) -> bool:
    """Whether a choice or a file of the user's may ask for a multirun; to compose and look takes 0.1 s."""
    chosen = {override.lstrip("+~").partition("=")[0].partition("@")[0] for override in written}
    ours = set(groups())
    return len(folders(written)) > 1 or any(key.startswith("hydra") or key.partition("/")[0] in ours for key in chosen)


def _alike(job: Job, written: list[str]) -> list[str]:
    """What makes the runs of a grid alike but for what it sweeps: another context or mask cuts other examples.

    Then steps count whole conversations, and every run is judged by the longest context's validation texts. Keys that
    the user has set, in whichever way, stay.
    """
    swept = {o.key_or_group: o for o in _parsed(written) if o.is_sweep_override()}
    if job != "train" or not swept.keys() & CUTS:
        return []
    composed = master(job, written)
    given = {override.lstrip("+").partition("=")[0] for override in written}
    if not composed.alike:
        return []
    added = []
    if composed.step_unit == "example" and "step_unit" not in given:
        added.append("step_unit=conversation")
    key = "validation.context_length"
    if "context_length" in swept and key not in given and composed.validation.context_length is None:
        lengths = [str(value) for value in swept["context_length"].sweep_string_iterator()]
        added += [f"{key}={max(map(int, lengths))}"] if all(map(str.isdecimal, lengths)) else []
    return added


def _flags(parser: argparse.ArgumentParser, given: argparse.Namespace) -> tuple[str, ...]:
    """Hydra's flags as they were given, but for the folder that has become a part of the search path."""
    flags: list[str] = []
    for action in parser._actions:
        value = getattr(given, action.dest, None)
        if action.option_strings and action.dest != "config_dir" and value not in (None, False):
            flags += [action.option_strings[0], *([] if value is True else [str(value)])]
    return tuple(flags)


def _settings(job: Job, written: Sequence[str]) -> DictConfig | None:
    if any(not place.is_dir() for place in folders(written)):
        return None
    try:
        return master(job, written).hydra
    except (HydraException, OmegaConfBaseException, ValueError):
        return None  # composing a job says it, with every other problem


def _is_grid(settings: DictConfig) -> bool:
    """Whether all jobs are known beforehand, as for Hydra's own sweeper; others search."""
    return settings.sweeper._target_.endswith(".BasicSweeper")


def _globbed(overrides: Sequence[str], places: Sequence[Path] = ()) -> list[str]:
    """`<group>=glob(…)` as the choices that it stands for, those of the user's folders too."""
    out = []
    for override in overrides:
        key, _, value = override.partition("=")
        if value.startswith("glob("):
            found = _parsed([override])[0].value()
            names = found.filter(options(key, places or folders(overrides))) if isinstance(found, Glob) else []
            if not names:
                raise ConfigError([f"{override}: no choice of {key} has such a name"])
            out.append(f"{key}={','.join(names)}" if len(names) > 1 else f"{key}=choice({names[0]})")
        else:
            out.append(override)
    return out


def _parsed(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError([str(error).splitlines()[0]]) from None


def _additions(line: CommandLine) -> list[str]:
    """What Hydra is told besides, under multirun."""
    given = {o.key_or_group: o.get_value_element_as_str() for o in _parsed(line.overrides) if not o.is_sweep_override()}
    fixed = line.fixed  # keys that do not vary stay out of the jobs' names
    added = [f"{NAMES}=[{','.join(repr(key) for key in given if key in fixed)}]"]
    search = line.hydra.sweeper if line.hydra is not None and not _is_grid(line.hydra) else None
    if given.get("dry_run", "").lower() == "true":
        if search is not None:
            said = "a search chooses its jobs as it goes; without hydra/sweeper=… a grid is planned"
            raise ConfigError([f"dry_run: {said}"])
        added.append("hydra/launcher=basic")
        if not any(key.lstrip("+~").startswith(("hydra.hydra_logging", "hydra/hydra_logging")) for key in given):
            added.append("hydra/hydra_logging=none")  # nothing is launched
    if search is not None and "max_failure_rate" in search and "hydra.sweeper.max_failure_rate" not in given:
        added.append("hydra.sweeper.max_failure_rate=1.0")  # on_failure says what happens then
    return added


def jobs_of(line: CommandLine) -> list[Any]:
    """The configs of the jobs, the first `MOST_CHECKED` of a grid; those of a multirun are called what their runs are.

    Raises:
        ConfigError: with every problem of every job.
    """
    searched = search_path(line.overrides)
    task = _task(line)
    jobs = _split(line) if line.multirun else [task]
    fixed, problems = line.fixed if line.multirun else set[str](), []
    configs = []
    for one in jobs[:MOST_CHECKED]:
        try:
            config = load(line.job, *searched, *one)
        except ConfigError as error:
            problems += error.problems
            continue
        chosen = choices(one, fixed) if line.multirun else {}
        update = {"name": name_of(chosen), "swept": chosen}
        configs.append(config.model_copy(update={"run": config.run.model_copy(update=update)}) if chosen else config)
    shared = len({config.run.dir for config in configs}) < len(configs)
    if not problems and shared and any(o.startswith("run.dir=") for o in task):
        problems.append(
            "run.dir: jobs of a sweep would share it; hydra.sweep.dir=<folder> names the folder of them all"
        )
    hydra = line.hydra
    if not line.multirun and hydra is not None and hydra.run.dir != "." and not hydra.job.chdir:
        problems.append(f"hydra.run.dir={hydra.run.dir}: a run's folder is run.dir=<folder> here")
    if any(getattr(config, "halving", None) for config in configs) and (why := _not_halved(line)):
        problems.append(f"halving: {why}")
    if any(getattr(config, "halving", None) and config.stop_after is not None for config in configs):
        problems.append("stop_after: halving says where each run stops; one of the two")
    if problems:
        raise ConfigError(problems)
    return configs


def grid_of(line: CommandLine) -> dict[str, dict[str, str]]:
    """The choices of every job of a multirun, by its name; empty of a search, which chooses as it goes."""
    if line.hydra is not None and not _is_grid(line.hydra):
        return {}
    chosen = [choices(job, line.fixed) for job in _split(line)]
    return {name_of(one): one for one in chosen}


def _task(line: CommandLine) -> list[str]:
    """The overrides but for Hydra's own."""
    return [o for o in line.overrides if not o.lstrip("+~").startswith(("hydra.", "hydra/"))]


def _split(line: CommandLine) -> list[list[str]]:
    """The overrides of each job of a multirun."""
    parsed = _parsed(_task(line))
    if line.hydra is not None and not _is_grid(line.hydra):  # what is searched is not known yet
        parsed = [o for o in parsed if not o.is_sweep_override()]
    try:
        return [list(job) for job in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]
    except HydraException as error:
        raise ConfigError([str(error).splitlines()[0]]) from None


def _not_halved(line: CommandLine) -> str:
    """Why the settings of a command cannot be halved; empty where they can."""
    from vicuna_lit.compare.table import setting_of

    if not line.multirun:
        return "is for a sweep, vicuna-train -m …; stop_after=<step> stops a single run"
    if line.hydra is not None and not _is_grid(line.hydra):
        return "judges a grid, and a search chooses its jobs as it goes; without hydra/sweeper=…"
    jobs = grid_of(line).values()
    if any("halving" in job for job in jobs):
        return "is one for all jobs of a sweep"
    settings = {name_of(setting_of(job)) for job in jobs}
    return "" if len(settings) > 1 else "there is one setting, and nothing to choose from"


def choices(overrides: Sequence[str], fixed: set[str]) -> dict[str, str]:
    """What a job of a multirun was given, but for the keys that are the same in all of them."""
    given = dict(o.lstrip("+~").split("=", 1) for o in overrides if "=" in o)
    return {key: unquoted(value) for key, value in given.items() if key not in fixed}


def name_of(chosen: dict[str, str]) -> str:
    """What a job is called."""
    return ",".join(f"{key}={value}" for key, value in chosen.items())
