"""A command line as Hydra reads it: what it asks for, its jobs, and what they are called.

Whether it is a multirun, what is swept and where the jobs lie may stand on the command line, in an experiment or in a
folder of the user's; Hydra composes it once, and all that is checked or planned before the first job follows from that.
"""

import argparse
import os
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

from vicuna_lit.cli.flags import refuse_flags, refuse_package, refuse_words
from vicuna_lit.cli.wandb_agent import JOBS, of_agent, refuse_multirun
from vicuna_lit.config.base import ConfigError, is_below
from vicuna_lit.config.compose import Job, load, master
from vicuna_lit.config.from_run import FROM, with_source
from vicuna_lit.config.search_path import folders, groups, options, refuse_endless, search_path, with_folder
from vicuna_lit.config.short_forms import expand
from vicuna_lit.config.texts import unquoted

MOST_CHECKED = 64
"""Jobs of a sweep that are checked before the first starts; each costs a tenth of a second."""
CUTS = (
    "context_length", "train_on", "template", "model", "model.path", "model.tokenizer", "model.add_tokens",
    "system_prompt",
)  # fmt: skip
"""Keys and groups that change how conversations become examples; so do all keys of a template."""
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
                raise ConfigError([_hydras_words(error)]) from None
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
    parser.exit_on_error = False
    try:
        given, unknown = parser.parse_known_intermixed_args(list(arguments))
    except argparse.ArgumentError as error:
        raise ConfigError([f"{error.argument_name}: {error.message}; --help says more"]) from None
    overrides = list(given.overrides)
    refuse_flags(job, given)
    if given.shell_completion:
        return CommandLine(job, tuple(overrides), ("-sc",), runs=False, checked=False), unknown
    refuse_words(job, overrides, unknown)
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
    if given.cfg and given.package and not own:
        refuse_package(job, written, given)
    source = next((unquoted(o.removeprefix(FROM)) for o in overrides if o.startswith(FROM)), None)
    return CommandLine(job, tuple(written), flags, multirun, source, settings, runs, runs and not own), unknown


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
    if job != "train" or not any(key in CUTS or is_below(key, ("template",)) for key in swept):
        return []
    composed = master(job, written)
    given = {override.lstrip("+").partition("=")[0] for override in written}
    if not composed.alike:
        return []
    by_tokens = ["order=by_length"] * (composed.order == "by_length")
    if composed.data.sources and composed.data.shares == "supervised_tokens":
        by_tokens.append("data.shares=supervised_tokens")
    for key in by_tokens:
        print(
            f"note: {key} goes by tokens, of which these jobs have others, so their steps hold other conversations",
            file=sys.stderr,
        )
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
    problems += _of_hydras_own(line) if hydra is None and not problems else []
    if not line.multirun and hydra is not None and hydra.run.dir != "." and not hydra.job.chdir:
        problems.append(f"hydra.run.dir={hydra.run.dir}: a run's folder is run.dir=<folder> here")
    if any(getattr(config, "halving", None) for config in configs) and (why := _not_halved(line)):
        problems.append(f"halving: {why}")
    if any(getattr(config, "halving", None) and config.stop_after is not None for config in configs):
        problems.append("stop_after: halving says where each run stops; one of the two")
    if problems:
        raise ConfigError(problems)
    return configs


def _of_hydras_own(line: CommandLine) -> list[str]:
    """What is wrong with settings of Hydra's own."""
    own = [o for o in line.overrides if o not in _task(line)]
    try:
        if own:
            master(line.job, own)
    except (HydraException, OmegaConfBaseException) as error:
        return [_hydras_words(error)]
    return []


def _hydras_words(error: Exception) -> str:
    """Of settings of its own: its first line, and the choices that there are."""
    said, _, choices = str(error).strip().partition("Available options in")
    first = said.splitlines()[0].removeprefix("In 'hydra/config': ").removesuffix(".")
    there = ", ".join(choices.partition("Config search path")[0].split()[1:])
    plugin = any(kind in first for kind in ("launcher", "sweeper"))
    plugins = " (launchers and sweepers are plugins: pip install 'vicuna_lit[sweep]')" if plugin else ""
    return f"{first}{plugins}{f'; choices: {there}' if there else ''}"


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
