"""The jobs of a multirun: each in processes of its own, so that none leaves anything behind for the next.

Hydra's launcher says where jobs run (here one after another, several at once, on SLURM, on Ray); what is in this
file runs there, once for each job.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vicuna_lit.cli.app import JobFailed, is_expected
from vicuna_lit.cli.fit_check import cannot_fit
from vicuna_lit.cli.halving import standing
from vicuna_lit.compare.runs import FAILURES, figure, read_sweep, short_names
from vicuna_lit.config.base import is_below, other_keys
from vicuna_lit.config.texts import folder_name
from vicuna_lit.config.train import Recipe, TokensRecipe, TrainConfig
from vicuna_lit.hub import fetched
from vicuna_lit.machine import BAD_INPUT, MACHINE_FAULT, OUT_OF_MEMORY, exit_code
from vicuna_lit.run_folder import RunError, differences, read_json, write_json
from vicuna_lit.train.preemption import PREEMPTED, Preempted, stop_signal

console = Console(stderr=True, soft_wrap=True, highlight=False)
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
        runs = read_sweep(folder).runs
    except RunError:
        return
    own = {str(Path(config.run.dir).absolute()) for config in configs}
    wanted, told = configs[0].model_dump(mode="json"), set[tuple[str, ...]]()
    for run in runs:
        if str(run.folder.absolute()) in own or "experiment" in run.swept:
            continue
        aside = (*NO_RECIPE, *run.swept, *(key for config in configs for key in config.run.swept))
        lines = [line for line in differences(run.config, wanted) if not is_below(line.partition(":")[0], aside)]
        if lines and tuple(lines) not in told:
            told.add(tuple(lines))
            more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
            yield (
                f"{folder} holds runs of another recipe, such as {run.name} ({'; '.join(lines[:3])}{more}); "
                "hydra.sweep.dir=<another folder> keeps them apart"
            )


def run_job(config: TrainConfig) -> float | None:
    """Runs one job of a sweep, goes on with it, or finds its result.

    Returns:
        The figure of `result.json` that the config calls `objective`; None where halving has stopped its setting.

    Raises:
        JobFailed: the job failed (and was tried again under `on_failure=retry`); the next one may run.
        SystemExit: the sweep ends here: it was told to stop, or `on_failure=stop`.
    """
    if config.halving is not None:
        try:
            told = standing(config, Path(HydraConfig.get().sweep.dir))
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            raise JobFailed(str(error)) from None
        stopped, config = told is None, told or config
    else:
        stopped = False
    from vicuna_lit.data.auto_template import with_template

    try:
        config = with_template(fetched(config))
        if stopped:
            _refuse_another_run(config)
            console.print(f"{config.run.name}: its setting does not go on (halving)", markup=False)
            return None
    except Exception as error:
        if not is_expected(error):
            raise
        print(f"error: {of_a_sweep(error, config)}", file=sys.stderr)
        return _end(config, BAD_INPUT, _record(config, BAD_INPUT, None, str(error)), str(error))
    with stop_signal.listening():
        stop_signal.grace_seconds = config.checkpoint.grace_seconds
        code, cause, why = _attempt(config)
        failure = _record(config, code, cause, why) if code else ""
        if code not in (0, BAD_INPUT) and cause is None and config.on_failure == "retry":
            console.print(f"[red]{escape(failure)}[/]: trying once more")
            code, cause, why = _attempt(config)
            failure = _record(config, code, cause, why) if code else ""
    return _end(config, code, failure, why)


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


def _end(config: TrainConfig, code: int, failure: str, printed: str) -> float | None:
    """The objective of a job that ran; a failure, otherwise.

    Args:
        printed: what was said of it already; it stands once more only in the sweep's last lines.
    """
    if not code:
        return _objective(config)
    console.print(f"[red]{escape(f'{config.run.name} failed' if printed else failure)}[/]")
    if config.on_failure == "stop":
        sys.exit(code if code > 0 else MACHINE_FAULT)
    raise JobFailed(failure)


def _attempt(config: TrainConfig) -> tuple[int, str | None, str]:
    """Exit code and, where they are known, the cause of a failure and what was said of it.

    Raises:
        SystemExit: told to stop.
    """
    from vicuna_lit.cli.evaluate_after import evaluate_result
    from vicuna_lit.cli.push import push_result
    from vicuna_lit.train.devices import taken
    from vicuna_lit.train.distributed import ProcessesFailed, launch
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
                return 0, None, ""
        elif cannot_fit(config):
            return OUT_OF_MEMORY, "does_not_fit", ""
        with taken(config) as environment:
            if not done:
                launch(config, environment)
            if config.stop_after is not None and result_in(Path(config.run.dir)) is None:
                return 0, None, ""
            code = evaluate_result(config, environment)
        if not code:
            push_result(config)  # says itself what went wrong; the job is done
        return code, None, ""
    except Preempted:
        console.print(f"sweep stopped in {config.run.name}: the same command goes on from there", markup=False)
        sys.exit(PREEMPTED)
    except ProcessesFailed as error:
        exhausted = error.code == OUT_OF_MEMORY or (error.code == -9 and kernel_kills() > killed)
        return error.code, "out_of_memory" if exhausted else None, error.why
    except RunError as error:
        print(f"error: {of_a_sweep(error, config)}", file=sys.stderr)
        return exit_code(error), None, str(error)


def _record(config: TrainConfig, code: int, cause: str | None, why: str) -> str:
    """Writes a failure down, in the job's own folder where that is this run's; what there is to say about it.

    Args:
        why: what was printed of it; empty: nothing, or elsewhere.
    """
    from vicuna_lit.train.resume import already_done, changed_settings

    folder = Path(config.run.dir)
    try:
        changed_settings(config, folder)  # stops where the folder is another run's, or nobody's
        already_done(config, folder)  # or has read other files
        mine, found = True, read_json(folder, "result.json") or {}
    except ValueError:  # whatever is wrong with what it reads
        mine, found = False, {}
    said = {BAD_INPUT: "bad input, see above", MACHINE_FAULT: "a fault of the machine, see above", -9: "killed"}
    short = " ".join(why.split())[:300]
    how = cannot_fit(config) or short or said.get(code, f"exit code {code}")
    error = "out of memory" if cause == "out_of_memory" else short or found.get("error", how)
    known = found.get("status") == "failed" and why.strip()[:300] in found.get("error", "")  # else of an earlier try
    trained = mine and found.get("status") == "finished"
    if trained:  # what it found stays; only the evaluation has failed, and the same command tries it again
        error = f"trained, but evaluate_after failed: {how}"
    elif mine and found.get("status") != "stopped" and not known:  # what was found up to a stop stays, too
        write_json(folder / "result.json", {"status": "failed", "error": error, "cause": cause})
    entry = {
        "job": config.run.name,
        "error": error,
        "cause": cause or (found.get("cause") if known else None),
        "code": code,
        "time": time.time(),
        "another_run": not mine and (folder / "config.json").exists(),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / FAILURES).open("a") as file:
        file.write(json.dumps(entry) + "\n")
    return f"{config.run.name} failed: {error}"


def _objective(config: TrainConfig) -> float | None:
    """
    Raises:
        JobFailed: the result has no such figure.
    """
    result = read_json(Path(config.run.dir), "result.json") or {}
    value = figure(result, config.objective)
    if value is None and config.objective != "val_loss":
        figures = ", ".join(k for k, v in result.items() if isinstance(v, int | float))
        raise JobFailed(f"objective={config.objective}: no figure of result.json, which has {figures}")
    return value


class DryRun:
    """Plans the jobs of a sweep without running them; conversations are read and tokenised once for all jobs that
    take the same ones."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []
        self._data: dict[str, Any] = {}

    def add(self, config: TrainConfig) -> None:
        """Plans one job."""
        from vicuna_lit.data.auto_template import with_template
        from vicuna_lit.data.plan import plan_run
        from vicuna_lit.data.planned import PlannedData
        from vicuna_lit.data.tokenizer import make_encoder
        from vicuna_lit.train.console import spread
        from vicuna_lit.train.lineage import check_plan
        from vicuna_lit.train.resume import already_done, as_begun

        config = as_begun(with_template(fetched(config, weights=False)), Path(config.run.dir))
        check_plan(config, Path(config.run.dir))
        key = json.dumps([TokensRecipe.values_of(config), config.validation.model_dump(), config.tokenizer])
        if key not in self._data:
            self._data[key] = PlannedData(config, make_encoder(config))
            self._data[key].read()
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
                "judged by": f"{len(validation):,} examples, {int(validation.supervised.sum()):,} tokens",
                "a step": spread(config, plan),
                "state": "done" if done else "to do",
            }
        )

    def show(self, folder: Path) -> None:
        """Prints the table of all jobs."""
        table = Table(title=f"{len(self.rows)} jobs in {folder}", title_justify="left", box=None, padding=(0, 2, 0, 0))
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        for column in columns:
            table.add_column(column, justify="left" if column in ("a step", "state") else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*(Text(row.get(column, "")) for column in columns))
        screen = Console(width=max(120, Console().width), soft_wrap=True)
        screen.print(table)
        if len({row["judged by"] for row in self.rows}) > 1:
            screen.print("The jobs are judged by other texts: vicuna-compare does not compare such losses.")
