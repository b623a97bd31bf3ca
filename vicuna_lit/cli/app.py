"""What all commands share: check every job of the command line first, then hand over to Hydra."""

import copy
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vicuna_lit import __version__
from vicuna_lit.cli.command_line import CommandLine, choices, grid_of, jobs_of, name_of, read
from vicuna_lit.cli.explain import asked, explain
from vicuna_lit.cli.pipes import quiet_pipes
from vicuna_lit.cli.stops import is_stop, stopped
from vicuna_lit.config.base import CONF_DIR
from vicuna_lit.config.compose import ConfigError, check, with_choices
from vicuna_lit.config.from_run import OF_ONE_RUN, config_of, said_as
from vicuna_lit.config.short_forms import Job
from vicuna_lit.data.chat_template import TemplateError
from vicuna_lit.file_hashes import sha256_of
from vicuna_lit.machine import BAD_INPUT, exit_code, is_machine_fault, is_out_of_memory
from vicuna_lit.paths import MissingPackage, MissingPath, ModelError, locate, packages_of
from vicuna_lit.records.conversation import DataError
from vicuna_lit.run_folder import HYDRA, RUN, RunError, differences, keep_hydra_files, read_json

VERSION = f"vicuna_lit {__version__}"


class JobFailed(Exception):
    """A job of a sweep failed and has said why; the other jobs may run."""


class Sweep(Protocol):
    """What a command does with the jobs of a multirun."""

    def before(self, configs: Sequence[Any], folder: Path, jobs: Mapping[str, Mapping[str, str]]) -> None:
        """Sees the jobs before any of them starts.

        Args:
            configs: of the first `command_line.MOST_CHECKED` jobs of a grid.
            jobs: the choices of every job of a grid, by its name.
        """
        return

    def again(self) -> bool:
        """Whether the jobs are to be started once more, to go on where they are."""
        return False

    def job(self, config: Any) -> Any:
        """Runs one job; returns what Hydra's sweeper may optimise.

        Raises:
            JobFailed: the job failed.
        """
        ...

    def end(self, folder: Path) -> int:
        """Says what became of the jobs in the sweep's folder; returns the exit code."""
        ...


def main(job: Job, run: Callable[[Any], int], sweep: Sweep | None = None) -> None:
    """Runs a job for each config of the command line; exits with what it returns, or 2 for a bad config.

    Args:
        sweep: what to do under multirun; None: the same, until a job returns another code than 0.
    """
    quiet_pipes()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.WARNING)  # its statistics, after an error
    if "--version" in sys.argv[1:]:
        print(VERSION)
        return
    try:
        line, others = read(job, sys.argv[1:])
        if asked(others):
            print(explain(job, [*others, *line.overrides], line.source))
            return
        sys.argv[1:] = [*line.arguments, *others]
        configs = jobs_of(line) if line.checked else []
        folder = line.folder if line.multirun and line.runs else Path()
        if line.source and line.runs:
            _say_differences(line.source, configs)
    except ConfigError as error:
        fail(error)
    body = _body(job, run, sweep, line.source)
    command = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=job)(body)
    if line.multirun and sweep and line.runs:
        plans = job == "estimate" or any(getattr(config, "dry_run", False) for config in configs[:1])
        with _without_a_trace(folder) if plans else nullcontext():
            sys.exit(_multirun(command, sweep, configs, folder, grid_of(line)))
    with nullcontext() if line.checked else _in_one_line(line):
        command()


def _body(job: Job, run: Callable[[Any], int], sweep: Sweep | None, source: str | None) -> Callable[[DictConfig], Any]:
    """What Hydra calls for each job. A launcher may pickle what it needs."""

    def body(node: DictConfig) -> Any:
        hydra_config = HydraConfig.get()
        multirun = hydra_config.mode == RunMode.MULTIRUN
        if multirun:
            _name_job(node, hydra_config)
        with_choices(node, hydra_config.runtime.choices)
        try:
            config = check(job, node)
            keep_hydra_files(_hydra_files(node, config.run.dir, source))
            with packages_of(f"vicuna-{job}"):
                if multirun and sweep:
                    return sweep.job(config)
                code = run(config)
        except (ConfigError, MissingPackage) as error:
            fail(error)
        if code:
            sys.exit(code)
        return None

    return body


def _multirun(
    command: Callable[[], Any],
    sweep: Sweep,
    configs: Sequence[Any],
    folder: Path,
    jobs: Mapping[str, Mapping[str, str]],
) -> int:
    """Starts the jobs, once more as long as the sweep asks for it; the exit code."""
    sweep.before(configs, folder, jobs)
    more, failed = True, False
    while more:
        try:
            command()
        except JobFailed:  # the job has said it, and the table says it again
            failed = True
        more = sweep.again()
    return sweep.end(folder) or int(failed)


@contextmanager
def _in_one_line(line: CommandLine) -> Iterator[None]:
    """Around what Hydra reads without a check before (`--cfg`, `--info`): its error, or that of the check, as ours."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        try:
            if not {"--config-name", "--config-path"} & {*line.flags}:
                jobs_of(line)  # names choices, and keys that are alike
        except ConfigError as better:
            fail(better)
        said, _, searched = str(error).strip().partition("Config search path:")
        places = ", ".join(re.findall(r"path=(\S+)", searched))
        fail(ConfigError([" ".join(said.split()).removesuffix(".") + (f" ({places})" if places else "")]))


@contextmanager
def _without_a_trace(folder: Path) -> Iterator[None]:
    """Around a multirun that only plans: Hydra's account of it goes, and the empty folders of its jobs.

    Args:
        folder: of the multirun. What was there before stays as it was, and so does what is written on purpose.
    """
    account = folder / "multirun.yaml"
    before = account.read_bytes() if account.is_file() else None
    there = {path for path in (folder, *folder.parents, *folder.glob("*")) if path.exists()}
    try:
        yield
    finally:
        if before is not None:
            account.write_bytes(before)
        else:
            account.unlink(missing_ok=True)
        for path in (*folder.glob("*"), folder, *folder.parents):
            if path not in there and path.is_dir():
                with suppress(OSError):  # it is not empty
                    path.rmdir()


def _hydra_files(node: DictConfig, folder: str, source: str | None) -> dict[str, str]:
    """What Hydra writes into `.hydra` of a job's folder, as it stands when the job has its name and folder."""
    about: Any = copy.deepcopy(HydraConfig.instance().cfg)
    OmegaConf.set_readonly(about.hydra, False)
    task = said_as(list(about.hydra.overrides.task), source)
    values = {"output_subdir": HYDRA, "runtime.output_dir": str(Path(folder).absolute()), "overrides.task": task}
    for key, value in values.items():
        OmegaConf.update(about, f"hydra.{key}", value, merge=False)
    texts = {"config.yaml": node, "hydra.yaml": about, "overrides.yaml": OmegaConf.create(task)}
    return {name: OmegaConf.to_yaml(content) for name, content in texts.items()}


def _say_differences(source: str, configs: Sequence[Any]) -> None:
    """In what all jobs differ from the run that they come from."""
    if os.environ.get("RANK", "0") != "0":
        return
    saved = {key: value for key, value in config_of(source).items() if key not in OF_ONE_RUN}
    found = [differences(saved, config.model_dump(mode="json", include=set(saved))) for config in configs]
    lines = [line for line in found[0] if all(line in other for other in found)] if found else []
    lines += _other_files(source, configs)
    where = configs[0].run.dir if len(configs) == 1 else f"{len(configs)} jobs"
    print(f"from {source} to {where}: {'' if lines else 'no value differs'}", *lines, sep="\n  ", file=sys.stderr)


def _other_files(source: str, configs: Sequence[Any]) -> list[str]:
    """Files that all jobs read and the run read too, which hold something else now: it decides a run as values do."""
    read = set.intersection(
        *({*one.data.paths, one.data.validation_path, one.model.path, one.model.tokenizer} for one in configs)
    )
    lines = []
    with suppress(RunError):  # whoever reads that run for itself says it
        for name, content in ((read_json(Path(source).expanduser(), RUN) or {}).get("files") or {}).items():
            if any(path and (name == path or name.startswith(f"{path.rstrip('/')}/")) for path in read):
                with suppress(MissingPath, OSError):
                    if sha256_of(locate(name)) != content:
                        lines.append(f"{name} is not the same file any more")
    return lines


def _name_job(node: DictConfig, hydra: Any) -> None:
    """Gives a job of a sweep its folder, its W&B name and group, and what was chosen for it."""
    swept = choices(hydra.overrides.task, set(hydra.job.config.override_dirname.exclude_keys))
    if not any(override.lstrip("+").startswith("run.dir=") for override in hydra.overrides.task):
        folder = Path(hydra.runtime.output_dir)
        OmegaConf.update(node, "run.dir", str(folder if swept else folder / node.run.name))
    if swept:
        OmegaConf.update(node, "run.name", name_of(swept))
        OmegaConf.update(node, "run.swept", swept, merge=False, force_add=True)
    if node.get("wandb") and node.wandb.group is None and not os.environ.get("WANDB_RUN_GROUP"):
        OmegaConf.update(node, "wandb.group", Path(hydra.sweep.dir).name)


def fail(error: Exception) -> NoReturn:
    """Prints one clear message and exits with 2: bad input, or with the code of a fault of the machine.

    Raises:
        SystemExit: caused by the error.
    """
    from vicuna_lit.errors import say

    raise SystemExit(say(error)) from error


EXPECTED = (ConfigError, DataError, MissingPath, ModelError, RunError, TemplateError, OSError)
"""Errors whose message is for the user."""


def is_expected(error: Exception) -> bool:
    """Whether an error is said in one line; all others are ours, and show where they come from."""
    return isinstance(error, EXPECTED) or is_machine_fault(error)


def guarded(job: Callable[[], None], folder: str, resumes: bool = True) -> int:
    """Runs a job; an expected error is one message, a stop one line.

    Args:
        resumes: the same command goes on where this one was stopped.

    Returns:
        The exit code.

    Raises:
        SystemExit: an expected error, or a stop.
    """
    try:
        job()
    except BaseException as error:
        if is_stop(error):
            stopped(f"the same command goes on in {folder}" if resumes else "")
        if not isinstance(error, Exception) or not (is_expected(error) or is_out_of_memory(error)):
            raise
        if resumes and exit_code(error) != BAD_INPUT:
            print(f"{folder}: what is done is kept; the same command goes on", file=sys.stderr)
        fail(error)
    return 0
