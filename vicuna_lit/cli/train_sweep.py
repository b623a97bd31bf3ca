"""The jobs of a multirun: each in processes of its own, so that none leaves anything behind for the next.

Hydra's launcher says where jobs run (here one after another, several at once, on SLURM, on Ray); what is in this
file runs there, once for each job.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vicuna_lit import notebook
from vicuna_lit.cli.app import JobFailed, is_expected
from vicuna_lit.cli.fit_check import cannot_fit
from vicuna_lit.cli.halving import standing
from vicuna_lit.compare.run import figure
from vicuna_lit.compare.runs import FAILURES, read_sweep, short_names
from vicuna_lit.config.base import other_keys
from vicuna_lit.config.texts import folder_name
from vicuna_lit.config.train import Recipe, TokensRecipe, TrainConfig
from vicuna_lit.errors import say
from vicuna_lit.hub import fetched
from vicuna_lit.machine import BAD_INPUT, MACHINE_FAULT, OUT_OF_MEMORY, exit_code
from vicuna_lit.pages import counted
from vicuna_lit.run_folder import RunError, differences, read_json
from vicuna_lit.train.preemption import PREEMPTED, Preempted, stop_signal
from vicuna_lit.whole_files import add_line, write_json

console = notebook.console(stderr=True, soft_wrap=True, highlight=False)
NO_RECIPE = (*other_keys(TrainConfig, Recipe), "model", "template", "template_date", "data.path")
"""Keys in which the runs of a sweep may differ, and those of which a run folder holds what a name or `auto` stood for:
before the jobs begin it is not known."""


class Pace:
    """How long the jobs that are left will take, where they run one after another.

    Args:
        jobs: of the sweep, or those that go on to a rung of its halving; 1 where that is not known.
        whither: of the others, in words.
    """

    def __init__(self, jobs: int, whither: str = ""):
        self.jobs, self.whither, self.ended = jobs, whither, 0
        self._seconds: list[float] = []

    @classmethod
    def here(cls, jobs: int, whither: str = "") -> "Pace":
        """Knows nothing of the others where a launcher runs jobs at once or elsewhere."""
        return cls(jobs if HydraConfig.get().launcher._target_.endswith(".BasicLauncher") else 1, whither)

    def timed(self, name: str, job: Callable[[], float | None]) -> float | None:
        """Runs a job, and says how long the others will take."""
        began = time.monotonic()
        try:
            return job()
        finally:
            if not isinstance(sys.exc_info()[1], SystemExit):
                self._say(name, time.monotonic() - began)

    def _say(self, name: str, seconds: float) -> None:
        self.ended += 1
        if seconds > 1:  # less than a process takes to start: it was done before
            self._seconds.append(seconds)
        left = self.jobs - self.ended
        if self._seconds and left > 0:
            rest = left * sum(self._seconds) / len(self._seconds)
            this = f"job {self.ended} of {self.jobs}, {name}: {_time(seconds)}"
            console.print(f"{this}; the others{self.whither}: about {_time(rest)}", markup=False)


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def other_recipes(configs: Sequence[TrainConfig], folder: Path) -> Iterator[str]:
    """A note for each other recipe whose runs lie in the folder of a sweep: they would stand in one table.

    A folder that a job of the sweep would write to is not looked at: such a job says itself what differs.
    """
    try:
        runs = read_sweep(folder, whole=False).runs
    except RunError:
        return
    own = {str(Path(config.run.dir).absolute()) for config in configs}
    own |= {str((folder / folder_name(config.run.name)).absolute()) for config in configs}
    wanted, told = configs[0].model_dump(mode="json"), set[tuple[str, ...]]()
    for run in runs:
        if str(run.folder.absolute()) in own or "experiment" in run.swept:
            continue
        aside = (*NO_RECIPE, *run.swept, *(key for config in configs for key in config.run.swept))
        lines = differences(run.config, wanted, aside)
        if lines and tuple(lines) not in told:
            told.add(tuple(lines))
            more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
            yield (
                f"{folder} holds runs of another recipe, such as {run.name} ({'; '.join(lines[:3])}{more}); "
                "hydra.sweep.dir=<folder> keeps them apart"
            )


@dataclass(frozen=True)
class Ending:
    """How a job has ended."""

    code: int = 0
    """Its exit code."""
    cause: str | None = None
    """Of a failure, where it is known: `out_of_memory`, or `does_not_fit`."""
    why: str = ""
    """What was printed of it; empty: nothing, or elsewhere."""
    like: str = ""
    """The job before it that has failed by the same error, which is printed once."""


def run_job(config: TrainConfig, told: dict[str, str] | None = None) -> float | None:
    """Runs one job of a sweep, goes on with it, or finds its result.

    Args:
        told: errors that were printed, with the job that each was first one of; gets this job's.

    Returns:
        The figure of `result.json` that the config calls `objective`; None where halving has stopped its setting.

    Raises:
        JobFailed: the job failed (and was tried again under `on_failure=retry`); the next one may run.
        SystemExit: the sweep ends here: it was told to stop, or `on_failure=stop`.
    """
    from vicuna_lit.data.auto_template import with_template

    told = {} if told is None else told
    rung = _to_its_rung(config)
    stopped, config = rung is None, rung or config
    try:
        config = with_template(fetched(config))
        if stopped:
            _refuse_another_run(config)
            console.print(f"{config.run.name}: its setting does not go on (halving)", markup=False)
            return None
    except Exception as error:
        if not is_expected(error):
            raise
        ending = replace(_said(error, config, told), code=BAD_INPUT)
        return _end(config, ending, _record(config, ending))
    with stop_signal.listening():
        stop_signal.grace_seconds = config.checkpoint.grace_seconds
        ending = _attempt(config, told)
        failure = _record(config, ending) if ending.code else ""
        if ending.code not in (0, BAD_INPUT) and ending.cause is None and config.on_failure == "retry":
            console.print(f"[red]{escape(failure)}[/]: trying once more")
            ending = _attempt(config, told)
            failure = _record(config, ending) if ending.code else ""
    return _end(config, ending, failure)


def _to_its_rung(config: TrainConfig) -> TrainConfig | None:
    """The config up to where its halving goes now; None: its setting was stopped.

    Raises:
        JobFailed: the halving of its sweep cannot be read.
    """
    if config.halving is None:
        return config
    try:
        return standing(config, Path(HydraConfig.get().sweep.dir))
    except RunError as error:
        say(error)
        raise JobFailed(str(error)) from None


def of_a_sweep(error: Exception, config: TrainConfig) -> Exception:
    """The error with the key that names another folder for a job: the sweep's, where it lies in that one."""
    own = bool(config.run.swept) and Path(config.run.dir).name == folder_name(config.run.name)
    if own and isinstance(error, RunError):
        error.args = (str(error).replace("run.dir=<", "hydra.sweep.dir=<"),)
    return error


def _refuse_another_run(config: TrainConfig) -> None:
    """A setting was stopped before by this run, not by another recipe's in its folder."""
    from vicuna_lit.train.resume import changed_settings

    if (Path(config.run.dir) / "config.json").exists():
        changed_settings(config, Path(config.run.dir))


def _end(config: TrainConfig, ending: Ending, failure: str) -> float | None:
    """The objective of a job that ran; a failure, otherwise."""
    if not ending.code:
        return _objective(config)
    said = f"{config.run.name} failed" if ending.why else failure  # the rest is on the screen, and in the last lines
    said += f" by the same error as {ending.like}" if ending.like else ""
    console.print(f"[red]{escape(said)}[/]")
    if config.on_failure == "stop":
        sys.exit(ending.code if ending.code > 0 else MACHINE_FAULT)
    raise JobFailed(failure)


def _said(error: Exception, config: TrainConfig, told: dict[str, str]) -> Ending:
    """Prints an error that no job before this one has had; how the job ends by it."""
    error = of_a_sweep(error, config)
    first = told.setdefault(str(error).replace(config.run.dir, "…"), config.run.name)
    if first == config.run.name:
        return Ending(say(error), why=str(error))
    return Ending(exit_code(error), why=str(error), like=first)


def _attempt(config: TrainConfig, told: dict[str, str]) -> Ending:
    """Trains, evaluates and uploads, whatever of it is left.

    Raises:
        SystemExit: told to stop.
    """
    from vicuna_lit.cli.evaluate_after import evaluate_result
    from vicuna_lit.cli.push import push_result
    from vicuna_lit.train.devices import taken
    from vicuna_lit.train.distributed import ProcessesFailed, launch
    from vicuna_lit.train.early import refuse_early
    from vicuna_lit.train.memory import kernel_kills
    from vicuna_lit.train.result import result_in
    from vicuna_lit.train.resume import already_done

    killed = kernel_kills()
    try:
        stop_signal.check()
        done = already_done(config, Path(config.run.dir))
        if done:
            console.print(f"{config.run.name}: done before", markup=False)
            if config.evaluate_after is None or done.status == "stopped":
                return Ending()
        elif cannot_fit(config):
            return Ending(OUT_OF_MEMORY, "does_not_fit")
        with taken(config) as environment:
            if not done:
                refuse_early(config)  # here it takes no process, and is said once for all jobs
                launch(config, environment)
            if config.stop_after is not None and result_in(Path(config.run.dir)) is None:
                return Ending()
            if (code := evaluate_result(config, environment)) == PREEMPTED:
                raise Preempted
        if not code:
            push_result(config)  # says itself what went wrong; the job is done
        return Ending(code)
    except Preempted:
        console.print(f"sweep stopped in {config.run.name}: the same command goes on from there", markup=False)
        sys.exit(PREEMPTED)
    except ProcessesFailed as error:
        exhausted = error.code == OUT_OF_MEMORY or (error.code == -9 and kernel_kills() > killed)
        return Ending(error.code, "out_of_memory" if exhausted else None, error.why)
    except Exception as error:
        if not is_expected(error):
            raise
        return _said(error, config, told)


def _record(config: TrainConfig, ending: Ending) -> str:
    """Writes a failure down, in the job's own folder where that is this run's; what there is to say about it."""
    folder = Path(config.run.dir)
    own = _result_of_this_run(config)
    found = own or {}
    said = {BAD_INPUT: "bad input, see above", MACHINE_FAULT: "a fault of the machine, see above", -9: "killed"}
    short = " ".join(ending.why.split())[:300]
    how = cannot_fit(config) or short or said.get(ending.code, f"exit code {ending.code}")
    error = "out of memory" if ending.cause == "out_of_memory" else short or found.get("error", how)
    # Whether the failure that stands there is this one, and not of an earlier try.
    known = found.get("status") == "failed" and ending.why.strip()[:300] in found.get("error", "")
    if found.get("status") == "finished":  # what it found stays; the same command tries the evaluation again
        error = f"trained, but evaluate_after failed: {how}"
    entry = {
        "job": config.run.name,
        "error": error,
        "cause": ending.cause or (found.get("cause") if known else None),
        "code": ending.code,
        "time": time.time(),
        "another_run": own is None and (folder / "config.json").exists(),
    }
    try:
        if own is not None and not known and found.get("status") not in ("finished", "stopped"):  # what was found stays
            write_json(folder / "result.json", {"status": "failed", "error": error, "cause": ending.cause})
        folder.parent.mkdir(parents=True, exist_ok=True)
        add_line(folder.parent / FAILURES, entry)
    except OSError as full:  # the sweep goes on, or ends, as it would have
        print(f"note: the failure of {config.run.name} could not be written down: {full}", file=sys.stderr)
    return f"{config.run.name} failed: {error}"


def _result_of_this_run(config: TrainConfig) -> dict[str, Any] | None:
    """What `result.json` of the job's folder says so far; None: the folder is another run's, or nobody's, or this run
    has read other files there."""
    from vicuna_lit.train.resume import already_done, changed_settings

    folder = Path(config.run.dir)
    try:
        changed_settings(config, folder)
        already_done(config, folder)
        return read_json(folder, "result.json") or {}
    except ValueError:  # whatever is wrong with what it reads
        return None


def _objective(config: TrainConfig) -> float | None:
    """
    Raises:
        JobFailed: the result has no such figure.
    """
    result = read_json(Path(config.run.dir), "result.json") or {}
    value = figure(result, config.objective)
    if value is None and config.objective != "val_loss":
        figures = ", ".join(k for k, v in (result | result.get("logged", {})).items() if isinstance(v, int | float))
        raise JobFailed(f"objective={config.objective}: no figure of result.json, which has {figures}")
    return value


class DryRun:
    """Plans the jobs of a sweep without running them; conversations are read and tokenised once for all jobs that
    take the same ones."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []
        self.doubts: dict[str, None] = {}
        self._data: dict[str, Any] = {}

    def add(self, config: TrainConfig) -> None:
        """Plans one job."""
        from vicuna_lit.data.auto_template import with_template
        from vicuna_lit.data.plan import plan_run
        from vicuna_lit.data.planned import PlannedData
        from vicuna_lit.data.tokenizer import make_encoder
        from vicuna_lit.train.console import spread
        from vicuna_lit.train.lineage import check_plan
        from vicuna_lit.train.notes import of_held_out
        from vicuna_lit.train.resume import already_done, as_begun

        config = as_begun(with_template(fetched(config, weights=False)), Path(config.run.dir))
        check_plan(config, Path(config.run.dir))
        unit = config.step_unit  # which counts `data.max_conversations`, too
        key = json.dumps([TokensRecipe.values_of(config), config.validation.model_dump(), config.tokenizer, unit])
        if key not in self._data:
            self._data[key] = PlannedData(config, make_encoder(config))
            self._data[key].read()
        self.doubts |= dict.fromkeys(of_held_out(config, self._data[key]))
        plan = plan_run(config, self._data[key].train.sizes, config.trainer.devices)
        done = already_done(config.model_copy(update={"dry_run": False}), Path(config.run.dir))
        validation = self._data[key].validation
        tokens, supervised = int(plan.step_tokens.sum()), int(plan.step_supervised.sum())
        self.rows.append(
            dict(zip(short_names(config.run.swept).values(), config.run.swept.values(), strict=True))
            | {
                "examples": f"{len(plan.lengths):,}",
                "steps": f"{plan.steps:,}",
                "tokens": f"{tokens:,}",
                "supervised": f"{supervised:,} ({supervised / tokens:.0%})",
                "judged by": f"{counted(len(validation), 'examples')}, {int(validation.supervised.sum()):,} tokens",
                "a step": spread(config, plan),
                "state": "done" if done else "to do",
            }
        )

    def show(self, folder: Path) -> None:
        """Prints the table of all jobs."""
        table = Table(
            title=f"{counted(len(self.rows), 'jobs')} in {folder}", title_justify="left", box=None, padding=(0, 2, 0, 0)
        )
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        for column in columns:
            table.add_column(column, justify="left" if column in ("a step", "state") else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*(Text(row.get(column, "")) for column in columns))
        screen = notebook.console(width=max(120, notebook.console().width), soft_wrap=True)
        screen.print(table)
        for doubt in self.doubts:
            screen.print(f"note: {doubt}", markup=False, highlight=False)
        if len({row["judged by"] for row in self.rows}) > 1:
            screen.print("The jobs are judged by other texts: vicuna-compare does not compare such losses.")
