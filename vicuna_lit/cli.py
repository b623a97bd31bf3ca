"""What all commands share: check every job of the command line first, then hand over to Hydra."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
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


def main(job: Job, run: Callable[[Any], int]) -> None:
    """Runs a job for each config of the command line; exits with what it returns, or 2 for a bad config."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    overrides = [a for a in sys.argv[1:] if not a.startswith("-")]
    multirun = bool({"-m", "--multirun"} & set(sys.argv))
    if multirun or len(overrides) == len(sys.argv) - 1:
        _check_all(job, overrides, multirun)
    sys.argv[1:] = [b for a in sys.argv[1:] for b in expand([a])]
    if multirun:
        sys.argv.append(_name_jobs_by_what_is_swept(overrides))

    def body(node: DictConfig) -> None:
        sweep = HydraConfig.get()
        if sweep.mode == RunMode.MULTIRUN:
            if not any(o.startswith("run.dir=") for o in sweep.overrides.task):
                OmegaConf.update(node, "run.dir", sweep.runtime.output_dir)
            if node.get("wandb") and node.wandb.group is None:
                OmegaConf.update(node, "wandb.group", Path(sweep.sweep.dir).name)
        try:
            code = run(check(job, node))
        except ConfigError as error:
            fail(error)
        if code:
            sys.exit(code)

    hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=job)(body)()


def _name_jobs_by_what_is_swept(overrides: list[str]) -> str:
    """Tells Hydra to leave the keys that do not vary out of the jobs' folder names."""
    parsed = OverridesParser.create().parse_overrides(expand(overrides))
    fixed = [f"'{o.key_or_group}'" for o in parsed if not o.is_sweep_override()]
    return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]"


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


def _check_all(job: Job, overrides: list[str], multirun: bool) -> None:
    task = [o for o in overrides if not o.lstrip("+~").startswith(("hydra.", "hydra/"))]
    problems = []
    try:
        jobs = [task]
        if multirun:
            parsed = OverridesParser.create().parse_overrides(expand(task))
            jobs = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    except HydraException as error:
        fail(ConfigError([str(error).splitlines()[0]]))
    for one in jobs[:MOST_CHECKED]:
        try:
            load(job, *one)
        except ConfigError as error:
            problems += error.problems
    if problems:
        fail(ConfigError(problems))
