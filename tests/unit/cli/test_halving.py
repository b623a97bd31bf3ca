"""Successive halving: who goes on from a rung, what the jobs are told, and what is said of those that were stopped."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.compare.test_table_and_page import run
from vicuna_lit.cli.command_line import grid_of, jobs_of, read
from vicuna_lit.cli.halving import Halving, best, cost, counts_of, standing
from vicuna_lit.compare.conclusions import in_words
from vicuna_lit.compare.report import write_report
from vicuna_lit.compare.runs import read_sweep
from vicuna_lit.compare.table import settings
from vicuna_lit.config.base import ConfigError
from vicuna_lit.config.compose import load
from vicuna_lit.config.halving import HalvingConfig
from vicuna_lit.run_folder import RunError

EVERY = "validation.every_steps=2"
LOSSES = {"1e-3": (3.0, 3.2), "2e-3": (2.0, 2.9), "5e-3": (2.5, 2.3), "1e-2": (4.0, None)}
"""At the first rung, by seed; None: it failed."""
JOBS = {f"optimizer.lr={lr},seed={seed}": {"optimizer.lr": lr, "seed": str(seed)} for lr in LOSSES for seed in (0, 1)}


def stopped(folder: Path, name: str, by_step: dict[int, float], tokens: int = 900, **more: Any) -> None:
    """A run of 10 steps that is stopped after the last of these."""
    validation = {"examples": 30, "exchanges_kept": 40, "supervised_tokens": tokens}
    last = max(by_step)
    given = {"status": "stopped", "steps": last, "planned": 10, "data": {"validation": validation}} | more
    run(folder / name, by_step[last], EVERY, swept=JOBS[name], val_by_step=by_step, **given)


def job(name: str) -> Any:
    return load("train", EVERY, f"run.name={name!r}", "halving={rungs: [0.3, 0.5], keep: 0.5}")


def told(folder: Path) -> dict[str, float | int | None]:
    """Where the jobs that go on stop."""
    found = {name: standing(job(name), folder) for name in JOBS}
    return {name: config.stop_after for name, config in found.items() if config}


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, chosen in JOBS.items():
        if (loss := LOSSES[chosen["optimizer.lr"]][int(chosen["seed"])]) is not None:
            stopped(tmp_path, name, {0: 9.0, 2: loss})
    return tmp_path


CONFIG = HalvingConfig(rungs=(0.3, 0.5), keep=0.5)


@pytest.mark.promise(
    "Halving lets the settings with the lowest mean over seeds go on, and goes on itself where it stopped"
)
def test_the_rungs_of_a_sweep(folder, capsys):
    rungs = Halving(folder, CONFIG, JOBS)
    assert rungs.plan() == "halving: of 4 settings 4 to 30% of their steps, 2 to 50%, 1 to the end: 52% of all steps"
    idle = Halving(folder, HalvingConfig(rungs=(0.3,), keep=0.9), JOBS).plan()
    assert idle.endswith("100% of all steps; nobody stops at 30%: keep=0.9 of 4, rounded up")
    rungs.begin()
    assert told(folder) == dict.fromkeys(JOBS, 0.3)
    assert rungs.decide()
    said = capsys.readouterr().err
    assert (
        "after 30% of the steps 2 of 4 settings go on: optimizer.lr=2e-3 (2.4500), optimizer.lr=5e-3 (2.4000)" in said
    )
    assert "the best that is stopped has 3.1000" in said
    assert (
        "optimizer.lr=1e-2 is out: optimizer.lr=1e-2,seed=1 has no validation loss there: it has not come so far"
        in said
    )
    on = list(told(folder))
    assert set(told(folder).values()) == {0.5}
    assert on == [name for name, chosen in JOBS.items() if chosen["optimizer.lr"] in ("2e-3", "5e-3")]

    # the same command again: a run that has failed is tried again, so the rung is judged again
    again = Halving(folder, CONFIG, JOBS)
    again.begin()
    assert told(folder) == dict.fromkeys(JOBS, 0.3)
    stopped(folder, "optimizer.lr=1e-2,seed=1", {0: 9.0, 2: 4.5})
    assert again.decide()
    # and again, in the second part: what was decided stays
    again = Halving(folder, CONFIG, JOBS)
    again.begin()
    assert list(told(folder)) == on
    for name in on:
        better = JOBS[name]["optimizer.lr"] == "2e-3"
        (folder / name / "result.json").unlink()
        at_first = LOSSES[JOBS[name]["optimizer.lr"]][int(JOBS[name]["seed"])]
        stopped(folder / "x", name, {0: 9.0, 2: at_first or 0.0, 4: 1.0 if better else 2.0})
        (folder / "x" / name / "result.json").rename(folder / name / "result.json")
    for path in (folder / "x").rglob("config.json"):
        path.unlink()
    assert again.decide()
    assert told(folder) == dict.fromkeys(on[:2])  # to the end
    assert not again.decide()  # all rungs are past
    assert not Halving(folder, CONFIG, JOBS).decide()
    # other rungs, or other jobs, are judged anew
    assert Halving(folder, HalvingConfig(rungs=(0.3,), keep=0.5), JOBS).decided == []
    assert Halving(folder, CONFIG, dict(list(JOBS.items())[:4])).decided == []


def test_a_rung_is_judged_again_where_its_runs_are_others(folder, capsys):
    stopped(folder, "optimizer.lr=1e-2,seed=1", {0: 9.0, 2: 4.5})
    rungs = Halving(folder, CONFIG, JOBS)
    rungs.begin()
    rungs.decide()
    assert len(Halving(folder, CONFIG, JOBS).decided) == 1
    results = {name: folder / name / "result.json" for name in JOBS}
    kept = {name: path.read_text() for name, path in results.items()}
    results["optimizer.lr=2e-3,seed=0"].write_text('{"status": "preempted", "steps": 3}')  # it goes on, and was told
    assert len(Halving(folder, CONFIG, JOBS).decided) == 1
    results["optimizer.lr=1e-3,seed=0"].write_text(kept["optimizer.lr=1e-3,seed=0"].replace('"2": 3.0', '"2": 2.0'))
    assert Halving(folder, CONFIG, JOBS).decided == []  # a setting that was stopped has another loss now
    results["optimizer.lr=1e-3,seed=0"].write_text(kept["optimizer.lr=1e-3,seed=0"])
    results["optimizer.lr=2e-3,seed=0"].write_text(kept["optimizer.lr=2e-3,seed=0"])
    assert len(Halving(folder, CONFIG, JOBS).decided) == 1
    shutil.rmtree(folder / "optimizer.lr=5e-3,seed=1")
    assert Halving(folder, CONFIG, JOBS).decided == []

    # a folder that holds another run is no loss of this job; one that has failed, and was tried again, is
    stopped(folder, "optimizer.lr=5e-3,seed=1", {0: 9.0, 2: 0.1})
    failures = folder / "failures.jsonl"
    failures.write_text('{"job": "optimizer.lr=1e-3,seed=1", "error": "earlier", "another_run": true}\n')
    rungs = Halving(folder, CONFIG, JOBS)
    rungs.begin()
    with failures.open("a") as file:
        file.write('{"job": "optimizer.lr=5e-3,seed=1", "error": "bad input, see above", "another_run": true}\n')
        file.write('{"job": "optimizer.lr=2e-3,seed=1", "error": "exit code 1", "another_run": false}\n')
    assert rungs.decide()
    assert rungs.decided[-1]["goes_on"] == ["optimizer.lr=1e-3", "optimizer.lr=2e-3"]
    assert "5e-3,seed=1 has no validation loss there: bad input, see above" in capsys.readouterr().err

    # nothing is held out
    for name in JOBS:
        (folder / name / "result.json").write_text('{"status": "stopped", "steps": 2, "planned": 10}')
    rungs = Halving(folder, CONFIG, JOBS)
    rungs.begin()
    assert not rungs.decide()
    assert rungs.nobody and not rungs.decide()
    assert "no validation loss there: nothing is held out; data.validation_path=<file>" in capsys.readouterr().err


def test_a_damaged_file_of_a_halving(folder):
    for damage in ("{", '{"rungs": [0.3, 0.5]}', "[]"):
        (folder / "halving.json").write_text(damage)
        with pytest.raises(RunError, match=r"halving\.json: is damaged .*delete it"):
            Halving(folder, CONFIG, JOBS)
        with pytest.raises(RunError, match="is damaged"):
            standing(job(next(iter(JOBS))), folder)


def test_settings_that_read_other_texts_are_not_halved(folder):
    (folder / "optimizer.lr=5e-3,seed=1" / "result.json").unlink()
    stopped(folder / "x", "optimizer.lr=5e-3,seed=1", {0: 9.0, 2: 1.0}, tokens=800)
    (folder / "x/optimizer.lr=5e-3,seed=1/result.json").rename(folder / "optimizer.lr=5e-3,seed=1/result.json")
    for path in (folder / "x").rglob("config.json"):
        path.unlink()
    with pytest.raises(RunError, match="judged on other validation texts"):
        Halving(folder, CONFIG, JOBS).decide()


def test_who_goes_on():
    assert best({"a": 3.0, "b": None, "c": 1.0, "d": 2.0}, 2) == ["c", "d"]
    assert best({"a": None}, 1) == []
    config = HalvingConfig(rungs=(0.1, 0.3), keep=0.34)
    assert counts_of(24, config) == [24, 9, 4]
    assert cost([24, 9, 4], config.rungs) == pytest.approx((24 * 0.1 + 9 * 0.2 + 4 * 0.7) / 24)


@pytest.mark.promise("A run that was stopped early is named, and compared with nothing")
def test_stopped_runs_are_compared_with_nothing(tmp_path):
    for lr, loss in {"1e-3": 1.0, "2e-3": 1.2}.items():
        for seed in (0, 1):
            run(
                tmp_path / f"optimizer.lr={lr},seed={seed}",
                loss + seed / 10,
                EVERY,
                swept={"optimizer.lr": lr, "seed": str(seed)},
            )
    for seed in (0, 1):
        stopped(tmp_path, f"optimizer.lr=5e-3,seed={seed}", {0: 9.0, 2: 0.1})
    sweep = read_sweep(tmp_path)
    found = settings(sweep, baseline="5e-3")
    assert [s.choices["optimizer.lr"] for s in found] == ["1e-3", "2e-3"]
    lines = in_words(sweep, found, baseline="5e-3")
    other = "--baseline 1e-3 compares the others with that setting"
    assert f"Nothing is compared: lr=5e-3, the baseline, was stopped early; {other}." in lines
    place = "Stopped early, and not compared: 1 setting after step 2 of 10"
    assert lines[-1] == f"{place}; the lowest validation loss of these is 0.1000, of lr=5e-3."
    page = write_report(sweep, tmp_path / "page").read_text()
    assert "after step 2 of 10, with a validation loss of 0.1000 then" in page
    with (tmp_path / "page" / "runs.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "stopped"]
    assert [(row["val_loss"], row["stopped_after_step"], row["val_loss_then"]) for row in rows] == [
        ("", "2", "0.1")
    ] * 2


def test_what_cannot_be_halved():
    def problems(*arguments: str) -> str:
        with pytest.raises(ConfigError) as error:
            jobs_of(read("train", list(arguments))[0])
        return str(error.value)

    halving = "halving={rungs: [0.3], keep: 0.5}"
    assert "is for a sweep, vicuna-train -m" in problems(EVERY, halving)
    assert "there is one setting" in problems("-m", EVERY, halving)
    assert "there is one setting" in problems("-m", EVERY, halving, "seed=0,1")
    assert "one for all jobs" in problems("-m", EVERY, "optimizer.lr=1,2", halving + ",null")
    assert "validation.every_steps=…" in problems(
        "-m", "context_length=64,96", halving
    )  # the quickstart has none in between
    assert "resume=auto" in problems("-m", "context_length=64,96", EVERY, halving, "resume=never")
    assert "one of the two" in problems("-m", "context_length=64,96", EVERY, halving, "stop_after=3")
    assert "objective=val_loss" in problems("-m", "context_length=64,96", EVERY, halving, "objective=seconds")
    assert "each larger" in problems("-m", "context_length=64,96", EVERY, "halving={rungs: [0.3, 0.2], keep: 0.5}")
    for wrong in ("0", "1.0", "2.5", "true"):
        assert "stop_after" in problems(f"stop_after={wrong}")
    line = read("train", ["-m", EVERY, "seed=0,1", "optimizer.lr=1e-3,2e-3", halving])[0]
    assert list(grid_of(line)) == [config.run.name for config in jobs_of(line)]
    assert all(json.loads(config.model_dump_json())["halving"] for config in jobs_of(line))
    twice = read("train", ["-m", EVERY, "seed=7", "seed=0,1"])[0]  # as after a recipe's own value: the last one counts
    assert list(grid_of(twice)) == [config.run.name for config in jobs_of(twice)] == ["seed=0", "seed=1"]
    assert "'seed'" not in twice.arguments[-1]
