"""What all commands share: check every job of the command line first, then hand over to Hydra."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vicuna_lit.compose import ConfigError, Job, check, expand, load
from vicuna_lit.config import CONF_DIR
from vicuna_lit.conversation import DataError
from vicuna_lit.folder import RunError
from vicuna_lit.paths import MissingPath, ModelError
from vicuna_lit.template import TemplateError

MOST_CHECKED = 64
"""Jobs of a sweep that are checked before the first starts; each costs a tenth of a second."""


class JobFailed(Exception):
    """A job of a sweep failed and has said why; the other jobs may run."""


class Sweep:
    """What a command does with the jobs of a multirun."""

    def before(self, configs: Sequence[Any], folder: Path) -> None:
        """Sees the jobs (the first `MOST_CHECKED` of a grid) before any of them starts."""

    def job(self, config: Any) -> Any:
        """Runs one job; returns what Hydra's sweeper may optimise.

        Raises:
            JobFailed: the job failed.
        """
        raise NotImplementedError

    def end(self, folder: Path, since: float) -> int:
        """Says what became of the jobs in the sweep's folder since a Unix time; returns the exit code."""
        raise NotImplementedError


def main(job: Job, run: Callable[[Any], int], sweep: Sweep | None = None) -> None:
    """Runs a job for each config of the command line; exits with what it returns, or 2 for a bad config.

    Args:
        sweep: what to do under multirun; None: the same, until a job returns another code than 0.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    overrides = [a for a in sys.argv[1:] if not a.startswith("-")]
    multirun = bool({"-m", "--multirun"} & set(sys.argv))
    configs = []
    if multirun or len(overrides) == len(sys.argv) - 1:
        configs = _check_all(job, overrides, multirun)
    sys.argv[1:] = [b for a in sys.argv[1:] for b in expand(job, [a])]
    if multirun:
        sys.argv += _additions(job, overrides)

    def body(node: DictConfig) -> Any:
        hydra_config = HydraConfig.get()
        multirun = hydra_config.mode == RunMode.MULTIRUN
        if multirun:
            _name_job(node, hydra_config)
        try:
            config = check(job, node)
            if multirun and sweep:
                return sweep.job(config)
            code = run(config)
        except ConfigError as error:
            fail(error)
        if code:
            sys.exit(code)
        return None

    command = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=job)(body)
    if not (multirun and sweep):
        command()
        return
    since, folder = time.time(), _sweep_folder(job, overrides)
    runs = not {"--help", "--hydra-help", "--info", "--cfg", "-c"} & set(sys.argv)
    if runs:
        sweep.before(configs, folder)
    with suppress(JobFailed):  # the job has said it, and the table says it again
        command()
    if runs:
        sys.exit(sweep.end(folder, since))


def _name_job(node: DictConfig, hydra: Any) -> None:
    """Gives a job of a sweep its folder, its W&B name and group, and what was chosen for it."""
    fixed = set(hydra.job.config.override_dirname.exclude_keys)
    chosen = dict(o.lstrip("+~").split("=", 1) for o in hydra.overrides.task if "=" in o)
    swept = {key: value.strip("'\"") for key, value in chosen.items() if key not in fixed}
    if "run.dir" not in chosen:
        folder = Path(hydra.runtime.output_dir)
        OmegaConf.update(node, "run.dir", str(folder if swept else folder / node.run.name))
    if swept:
        OmegaConf.update(node, "run.name", ",".join(f"{key}={value}" for key, value in swept.items()))
        OmegaConf.update(node, "run.swept", swept, merge=False, force_add=True)
    if node.get("wandb") and node.wandb.group is None:
        OmegaConf.update(node, "wandb.group", Path(hydra.sweep.dir).name)


def _additions(job: Job, overrides: list[str]) -> list[str]:
    """What Hydra is told besides, under multirun."""
    parsed = OverridesParser.create().parse_overrides(expand(job, overrides))
    given = {o.key_or_group: o.get_value_element_as_str() for o in parsed if not o.is_sweep_override()}
    fixed = [f"'{key}'" for key in given]  # keys that do not vary stay out of the jobs' names
    added = [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]"]
    if given.get("dry_run", "").lower() == "true":
        if given.get("hydra/sweeper", "basic") != "basic":
            fail(
                ConfigError(
                    ["dry_run: a search chooses its jobs as it goes; without hydra/sweeper=… a grid is planned"]
                )
            )
        added.append("hydra/launcher=basic")
    if given.get("hydra/sweeper") == "optuna" and "hydra.sweeper.max_failure_rate" not in given:
        added.append("hydra.sweeper.max_failure_rate=1.0")  # on_failure says what happens then
    return added


def _sweep_folder(job: Job, overrides: list[str]) -> Path:
    """Where the jobs' folders lie; a launcher or sweeper that is not there is bad input."""
    parsed = OverridesParser.create().parse_overrides(expand(job, overrides))
    fixed = [o.input_line or "" for o in parsed if not o.is_sweep_override()]
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            return Path(compose(job, fixed, return_hydra_config=True).hydra.sweep.dir)
    except HydraException as error:
        said = str(error).strip().splitlines()[0]
        fail(ConfigError([f"{said} (launchers and sweepers are plugins: pip install 'vicuna_lit[sweep]')"]))


def fail(error: Exception) -> NoReturn:
    """Prints one clear message and exits with 2: bad input."""
    lines = error.problems if isinstance(error, ConfigError) else [str(error)]
    print("\n".join(f"error: {line}" for line in lines), file=sys.stderr)
    sys.exit(2)


def guarded(job: Callable[[], None], folder: str) -> int:
    """Runs a job that goes on where it was stopped; bad input is said in one message, a stop in one line.

    Returns:
        The exit code.
    """
    try:
        job()
    except (DataError, MissingPath, ModelError, RunError, TemplateError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on in {folder}", file=sys.stderr)
        return 130
    return 0


def _check_all(job: Job, overrides: list[str], multirun: bool) -> list[Any]:
    """The configs of the jobs; those of a multirun are called what their runs will be."""
    task = [o for o in overrides if not o.lstrip("+~").startswith(("hydra.", "hydra/"))]
    searched = any(o.startswith("hydra/sweeper=") and o != "hydra/sweeper=basic" for o in overrides)
    problems, swept = [], set()
    try:
        jobs = [task]
        if multirun:
            parsed = OverridesParser.create().parse_overrides(expand(job, task))
            if searched:  # what is searched is not known yet
                parsed = [o for o in parsed if not o.is_sweep_override()]
            swept = {o.key_or_group for o in parsed if o.is_sweep_override()}
            jobs = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    except HydraException as error:
        fail(ConfigError([str(error).splitlines()[0]]))
    configs = []
    for one in jobs[:MOST_CHECKED]:
        try:
            config = load(job, *one)
        except ConfigError as error:
            problems += error.problems
            continue
        chosen = {k: v.strip("'\"") for k, _, v in (o.lstrip("+~").partition("=") for o in one) if k in swept}
        configs.append(config.model_copy(update={"run": _named(config.run, chosen)}) if chosen else config)
    folders = {config.run.dir for config in configs}
    if not problems and len(folders) < len(jobs[:MOST_CHECKED]) and any(o.startswith("run.dir=") for o in task):
        problems.append(
            "run.dir: jobs of a sweep would share it; hydra.sweep.dir=<folder> names the folder of them all"
        )
    if problems:
        fail(ConfigError(problems))
    return configs


def _named(run: Any, chosen: dict[str, str]) -> Any:
    return run.model_copy(update={"name": ",".join(f"{k}={v}" for k, v in chosen.items()), "swept": chosen})
