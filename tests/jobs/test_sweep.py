"""Multiruns: each job in processes of its own, none lost silently, and the same command goes on."""

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers import commands
from tests.helpers.runs import COMMON
from vicuna_lit.cli import train_sweep as sweep
from vicuna_lit.cli.app import JobFailed
from vicuna_lit.cli.train_sweep import DryRun, run_job
from vicuna_lit.compare.runs import read_sweep
from vicuna_lit.config.compose import load
from vicuna_lit.config.texts import folder_name
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.data.auto_template import with_template
from vicuna_lit.machine import OUT_OF_MEMORY, is_out_of_memory
from vicuna_lit.train import distributed as world
from vicuna_lit.train.distributed import ProcessesFailed
from vicuna_lit.train.preemption import PREEMPTED, Preempted

SHORT = (*COMMON, "trainer.max_steps=4", "data.max_validation=2")


def multirun(folder: Path, *overrides: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return commands.run(*command(folder, *overrides), timeout=400, workers=True, **how)


def command(folder: Path, *overrides: str) -> list[str]:
    given = {o.partition("=")[0] for o in overrides}
    common = [o for o in SHORT if o.partition("=")[0] not in given]
    return ["vicuna_lit.train", "-m", f"hydra.sweep.dir={folder}", *common, *overrides]


def job(folder: Path, *overrides: str) -> Any:
    return load("train", *SHORT, f"run.dir={folder / 'job'}", "run.name=job", *overrides)


def failures(folder: Path) -> list[dict[str, Any]]:
    path = folder / "failures.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
@pytest.mark.promise(
    "A sweep goes on after a failure, names a lack of memory, is stopped by Ctrl-C and goes on to the same metrics"
)
def test_a_sweep_goes_on_after_a_failure_and_the_same_command_does_the_rest(tmp_path):
    """One job cannot fit: its memory is limited as the kernel of a small machine would."""
    folder = tmp_path / "sweep"
    sizes = "model.architecture.intermediate_size=128,100000000"
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (9 * 2**30, 9 * 2**30))  # noqa: E731
    asked = [sys.executable, "-m", *command(folder, sizes, "seed=0")]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=400, preexec_fn=limit)
    assert done.returncode == 1, done.stderr[-3000:]
    assert "1 finished" in done.stdout
    assert "intermediate_size=100000000: out of memory" in done.stdout
    assert [f["cause"] for f in failures(folder)] == ["out_of_memory"]
    assert "gradient_checkpointing=full" in done.stderr

    again = multirun(folder, "model.architecture.intermediate_size=128,64", "seed=0", "wandb.mode=offline")
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stderr.count("done before") == 1
    runs = {run.swept["model.architecture.intermediate_size"]: run for run in read_sweep(folder).finished}
    assert runs.keys() == {"64", "128"}
    new = runs["64"]
    assert new.swept == {"model.architecture.intermediate_size": "64"} == new.config["run"]["swept"]
    assert new.config["wandb"]["group"] == "sweep"
    assert new.name == "model.architecture.intermediate_size=64"
    assert len(list((new.folder / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.slow
@pytest.mark.promise(
    "A sweep goes on after a failure, names a lack of memory, is stopped by Ctrl-C and goes on to the same metrics"
)
def test_ctrl_c_stops_the_sweep_and_the_same_command_goes_on(tmp_path):
    """In the first job of two, each of two processes; what comes out is what an undisturbed sweep gives."""
    overrides = ("strategy=ddp", "trainer.devices=2", "seed=0,1", "trainer.max_steps=12", "checkpoint.every_steps=2")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = commands.start(*command(tmp_path / "a", *overrides), env=environment, together=True, workers=True)
    first = tmp_path / "a" / "seed=0" / "metrics.csv"
    ends = time.monotonic() + 120
    while time.monotonic() < ends and not (first.exists() and first.read_text().count("\n") > 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == PREEMPTED, said[-3000:]
    assert "the same command goes on" in said
    assert not (tmp_path / "a" / "seed=1" / "metrics.csv").exists()
    for folder in ("a", "b"):
        done = multirun(tmp_path / folder, *overrides, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
    for seed in (0, 1):
        a, b = (tmp_path / f / f"seed={seed}" for f in ("a", "b"))
        assert (a / "metrics.csv").read_text() == (b / "metrics.csv").read_text()


@pytest.mark.slow
@pytest.mark.promise("A search goes on to the same trials")
def test_a_search_by_optuna_goes_on_to_the_same_trials(tmp_path):
    """Its sampler has a seed and finished jobs are found again: no state of its own is needed."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    search = (
        "hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=3", "hydra.sweeper.direction=minimize",
        "optimizer.lr=tag(log,interval(1e-4,1e-2))", "hydra.sweeper.n_jobs=1",
    )  # fmt: skip
    two = multirun(tmp_path / "s", *search, "hydra.sweeper.n_trials=2")
    assert two.returncode == 0, two.stderr[-3000:]
    first = {run.name: run.result["val_loss"] for run in read_sweep(tmp_path / "s").runs}
    assert len(first) == 2
    three = multirun(tmp_path / "s", *search, "hydra.sweeper.n_trials=3")
    assert three.returncode == 0, three.stderr[-3000:]
    assert three.stderr.count("done before") == 2
    found = {run.name: run.result["val_loss"] for run in read_sweep(tmp_path / "s").runs}
    assert len(found) == 3
    assert first.items() <= found.items()
    best = (tmp_path / "s" / "optimization_results.yaml").read_text()
    assert f"{min(found.values())}"[:10] in best


@pytest.mark.slow
@pytest.mark.promise("joblib, submitit (local) and Ray run the jobs that Hydra's basic launcher runs")
def test_hydras_launchers_run_the_same_jobs(tmp_path):
    """Somewhere else: worker processes, a local stand-in of SLURM, a Ray cluster of this machine."""
    losses = {}
    for launcher in ("basic", "joblib", "submitit_local", "ray"):
        plugin = f"hydra_plugins.hydra_{launcher.removesuffix('_local')}_launcher"
        if launcher != "basic" and find_spec("hydra_plugins") and not find_spec(plugin):
            continue
        done = multirun(tmp_path / launcher, "seed=0,1", f"hydra/launcher={launcher}", "trainer.max_steps=2")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        sweep = read_sweep(tmp_path / launcher)
        assert [run.name for run in sweep.finished] == ["seed=0", "seed=1"]
        losses[launcher] = [run.result["val_loss"] for run in sweep.runs]
    print(f"launchers: {', '.join(losses)}")
    for found in losses.values():
        assert found == pytest.approx(losses["basic"], rel=1e-6)


def endings(monkeypatch, *codes: Any) -> list[str]:
    """The launcher ends as told, once after the other."""
    left, calls = list(codes), []

    def launch(config: Any, environment: Any) -> None:
        calls.append(config.run.name)
        end = left.pop(0)
        if isinstance(end, Exception):
            raise end
        if end:
            raise ProcessesFailed(end)
        folder = Path(config.run.dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps({"status": "finished", "val_loss": 1.5, "steps": 4}))

    monkeypatch.setattr(world, "launch", launch)
    return calls


def test_on_failure(tmp_path, monkeypatch):
    calls = endings(monkeypatch, 1, 0)
    assert run_job(job(tmp_path, "on_failure=retry")) == 1.5
    assert len(calls) == 2
    calls = endings(monkeypatch, 1, 1)
    with pytest.raises(JobFailed, match="job failed: exit code 1"):
        run_job(job(tmp_path / "b", "on_failure=retry"))
    assert len(calls) == 2
    begun = with_template(job(tmp_path / "e"))
    (tmp_path / "e/job").mkdir(parents=True)
    (tmp_path / "e/job/config.json").write_text(begun.model_dump_json())
    for said in ("a.jsonl: line 3 is no JSON", "a.jsonl is empty"):  # the table names the reason of each try
        endings(monkeypatch, ProcessesFailed(2, f"{said}:\n  more"))
        with pytest.raises(JobFailed, match=f"job failed: {said}: more$"):
            run_job(begun)
        assert json.loads((tmp_path / "e/job/result.json").read_text())["error"] == f"{said}: more"
    for hopeless in (OUT_OF_MEMORY, 2):
        calls = endings(monkeypatch, hopeless)
        with pytest.raises(JobFailed):
            run_job(job(tmp_path / str(hopeless), "on_failure=retry"))
        assert len(calls) == 1
    endings(monkeypatch, 7)
    with pytest.raises(SystemExit) as stop:
        run_job(job(tmp_path / "c", "on_failure=stop"))
    assert stop.value.code == 7
    endings(monkeypatch, Preempted(3))
    with pytest.raises(SystemExit) as stop:
        run_job(job(tmp_path / "d"))
    assert stop.value.code == PREEMPTED


def test_a_job_that_the_kernel_killed_for_its_memory(tmp_path, monkeypatch):
    from vicuna_lit.train import memory

    kills = iter([3, 4, 4, 4])
    monkeypatch.setattr(memory, "kernel_kills", lambda: next(kills))
    for name, cause in (("a", "out_of_memory"), ("b", None)):
        endings(monkeypatch, -9)
        with pytest.raises(JobFailed):
            run_job(job(tmp_path / name))
        assert failures(tmp_path / name)[-1]["cause"] == cause


def test_an_error_of_all_jobs_is_printed_once_and_takes_no_process(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty.jsonl").touch()
    monkeypatch.setattr(world, "launch", lambda *_: pytest.fail("a process was started"))
    told: dict[str, str] = {}
    for name in ("a", "b"):
        with pytest.raises(JobFailed, match=f"{name} failed: .*not one byte"):
            run_job(job(tmp_path / name, f"run.name={name}", f"data={tmp_path}/empty.jsonl"), told)
    said = capsys.readouterr().err
    assert said.count("not one byte") == 1 and "b failed by the same error as a" in said


def test_a_failure_never_touches_another_runs_folder(tmp_path, monkeypatch):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "config.json").write_text('{"seed": 1}')
    (folder / "result.json").write_text('{"status": "finished", "val_loss": 1.0}')
    with pytest.raises(JobFailed, match="holds a run with other settings"):
        run_job(job(tmp_path))
    assert json.loads((folder / "result.json").read_text())["status"] == "finished"
    assert failures(tmp_path)[0]["code"] == 2


def test_a_failed_evaluation_keeps_the_result_of_the_training(tmp_path, monkeypatch):
    from vicuna_lit.cli import evaluate_after

    endings(monkeypatch, 0)
    (tmp_path / "job").mkdir()
    (tmp_path / "job/config.json").write_text(json.dumps(job(tmp_path).model_dump(mode="json")))
    monkeypatch.setattr(evaluate_after, "evaluate_result", lambda *_: 1)
    with pytest.raises(JobFailed, match="trained, but evaluate_after failed: exit code 1"):
        run_job(job(tmp_path))
    assert json.loads((tmp_path / "job/result.json").read_text())["status"] == "finished"
    assert failures(tmp_path)[0]["code"] == 1


def test_a_start_that_fails_keeps_what_was_found_up_to_a_stop(tmp_path, monkeypatch):
    """And one of another recipe does not count as stopped before."""
    config = with_template(job(tmp_path, "template=auto"))
    (tmp_path / "job").mkdir()
    (tmp_path / "job/config.json").write_text(json.dumps(config.model_dump(mode="json")))
    found = {"status": "stopped", "run_dir": "job", "steps": 2, "stop_after": 2, "val_by_step": {"2": 1.5}}
    (tmp_path / "job/result.json").write_text(json.dumps(found))
    endings(monkeypatch, 7)
    with pytest.raises(JobFailed, match="exit code 7"):
        run_job(job(tmp_path, "template=auto"))  # `auto` stands for what it stood for
    assert json.loads((tmp_path / "job/result.json").read_text()) == found
    assert failures(tmp_path)[-1]["another_run"] is False
    monkeypatch.setattr(sweep, "standing", lambda *_: None)
    monkeypatch.setattr(sweep.HydraConfig, "get", lambda: SimpleNamespace(sweep=SimpleNamespace(dir=str(tmp_path))))
    halving = ("halving={rungs: [0.3], keep: 0.5}", "validation.every_steps=2")
    with pytest.raises(JobFailed, match="holds a run with other settings"):
        run_job(job(tmp_path, "template=auto", *halving))
    assert failures(tmp_path)[-1]["another_run"] is True
    assert json.loads((tmp_path / "job/result.json").read_text()) == found


def test_the_objective_is_a_figure_of_the_result(tmp_path, monkeypatch):
    endings(monkeypatch, 0, 0)
    assert run_job(job(tmp_path, "objective=steps")) == 4
    with pytest.raises(JobFailed, match=r"objective=stepps: no figure of result\.json"):
        run_job(job(tmp_path / "b", "objective=stepps"))


def test_what_counts_as_out_of_memory():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
    )
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_the_plan_of_a_sweep_reads_the_conversations_once(tmp_path, capsys, monkeypatch):
    reads = []
    monkeypatch.setattr(sweep, "console", None)
    from vicuna_lit.data import source

    monkeypatch.setenv("VICUNA_LIT_CACHE", str(tmp_path / "cache"))
    real = source.tokenised
    monkeypatch.setattr(source, "tokenised", lambda *a: reads.append(a) or real(*a))
    plans = DryRun()
    for context, seed in itertools.product((128, 256), (0, 1)):
        swept = [f"+run.swept.context_length='{context}'", f"+run.swept.seed='{seed}'"]
        changed = [f"context_length={context}", f"seed={seed}", f"run.dir={tmp_path / str(context) / str(seed)}"]
        common = [o for o in SHORT if not o.startswith("context_length")]
        plans.add(load("train", *common, *changed, *swept))
    assert len(reads) == 4  # training and held-out conversations of each context
    plans.show(tmp_path)
    said = capsys.readouterr().out
    assert "4 jobs" in said
    for word in ("context_length", "seed", "steps", "tokens", "supervised", "to do"):
        assert word in said


def test_the_name_of_a_jobs_folder_is_one_name():
    assert folder_name("data.path=/a/b c.json,seed=0") == "data.path=_a_b_c.json,seed=0"
    long = [folder_name("x=" + "y" * 300 + end) for end in "ab"]
    assert len(set(long)) == 2
    assert max(map(len, long)) < 255


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["hydra/launcher=slurn"], "hydra/launcher/slurn"),
        (["run.dir=somewhere"], "run.dir: jobs of a sweep would share it"),
        (["hydra/sweeper=optuna", "dry_run=true"], "dry_run: a search chooses its jobs as it goes"),
    ],
)
def test_bad_sweeps_are_said_in_one_line(tmp_path, overrides, said):
    done = multirun(tmp_path, "seed=0,1", *overrides)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_sweep_says_how_long_its_other_jobs_take(capsys, monkeypatch):
    clock = iter([0.0, 120.0, 120.0, 120.2, 120.2, 360.2, 360.2, 400.0])
    monkeypatch.setattr(sweep, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    def failing() -> None:
        raise JobFailed

    pace = sweep.Pace(4)
    assert [pace.timed(name, lambda: 1.5) for name in ("seed=0", "seed=1")] == [1.5, 1.5]
    with pytest.raises(JobFailed):
        pace.timed("seed=2", failing)
    pace.timed("seed=3", lambda: None)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("job ")]
    assert said == [
        "job 1 of 4, seed=0: 2 min; the others: about 6 min",
        "job 2 of 4, seed=1: 0 s; the others: about 4 min",  # it was done before, and says nothing of the others
        "job 3 of 4, seed=2: 4 min; the others: about 3 min",
    ]


def test_another_recipe_in_the_folder_of_a_sweep_is_said(tmp_path):
    def config(*settings: str, swept: dict[str, str]) -> TrainConfig:
        name = ",".join(f"{key}={value}" for key, value in swept.items())
        made = load("train", "experiment=quickstart", *settings, f"run.dir='{tmp_path / name}'")
        return made.model_copy(update={"run": made.run.model_copy(update={"name": name, "swept": swept})})

    earlier = config("seed=5", "optimizer.lr=1e-3", swept={"seed": "5"})
    folder = Path(earlier.run.dir)
    folder.mkdir()
    (folder / "config.json").write_text(earlier.model_dump_json())
    other_layout = config("seed=6", "optimizer.lr=1e-3", "lm_head=exact", swept={"seed": "6"})
    also_swept = config("seed=7", "optimizer.lr=9e-3", swept={"seed": "7", "optimizer.lr": "9e-3"})
    assert not [*sweep.other_recipes([other_layout], tmp_path), *sweep.other_recipes([also_swept], tmp_path)]
    (note,) = sweep.other_recipes([config("seed=6", "optimizer.lr=2e-3", swept={"seed": "6"})], tmp_path)
    assert "runs of another recipe, such as seed=5 (optimizer.lr: 0.001 → 0.002)" in note
    assert not list(sweep.other_recipes([earlier], tmp_path / "nowhere"))
