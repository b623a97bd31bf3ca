"""A run that `stop_after` stops, as halving does at each rung, ends as one that was never stopped."""

import json
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from tests.helpers.group import run_group
from tests.helpers.runs import COMMON, compare, run_here, weights
from tests.proof.test_recovery import STEPS, identical, job, state
from vicuna_lit.config.compose import load
from vicuna_lit.config.halving import step_of
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.callbacks.checkpointing import CheckpointCallback
from vicuna_lit.train.callbacks.stopping import StopAfterStep
from vicuna_lit.train.checkpoint import format as files
from vicuna_lit.train.distributed import DistributedEnv
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.preemption import Preempted, Stopped
from vicuna_lit.train.resume import already_done
from vicuna_lit.train.times import Opening, Times


@pytest.mark.promise("A run that is stopped at each rung of a halving ends to the bit as one that was not")
def test_a_run_stopped_at_each_rung_ends_to_the_bit(tmp_path):
    def asked(name: str, *settings: str) -> list[str]:
        return [*COMMON, "trainer.max_steps=6", "validation.every_steps=2", "checkpoint.every_steps=2",
                f"run.dir={tmp_path / name}", *settings]  # fmt: skip

    run_here(asked("never"))
    never, stopped = tmp_path / "never", tmp_path / "stopped"
    for part, step in ((0.5, 2), (4, 4)):
        run_here(asked("stopped", f"stop_after={part}"))
        result = json.loads((stopped / "result.json").read_text())
        assert (result["status"], result["steps"], result["planned"]) == ("stopped", step, 6)
        assert result["val_loss"] == result["val_by_step"][str(step)]
        assert not (stopped / "hf").exists()
        done = already_done(load("train", *asked("stopped", f"stop_after={part}")), stopped)
        assert done and done.status == "stopped"
        assert already_done(load("train", *asked("stopped")), stopped) is None
    saved = files.find(stopped / "checkpoints").complete[-1].about
    assert saved["run"]["validation"]["losses"].keys() == {"0", "2", "4"}
    # killed after step 4 was saved and before its validation; and it is past the step where it stops now
    for kept in ("losses", "conversations"):
        del saved["run"]["validation"][kept]["4"]
    files.describe(stopped / "checkpoints", 4, saved)
    (stopped / "result.json").unlink()
    run_here(asked("stopped", "stop_after=3"))
    again = json.loads((stopped / "result.json").read_text())
    assert [again[key] for key in ("steps", "val_loss", "val_by_step")] == [
        result[key] for key in ("steps", "val_loss", "val_by_step")
    ]
    run_here(asked("stopped"))
    assert (stopped / "metrics.csv").read_bytes() == (never / "metrics.csv").read_bytes()
    ours, theirs = state(stopped, 6), state(never, 6)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(torch.equal(weight, weights(stopped)[name]) for name, weight in weights(never).items())
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (stopped, never))
    assert [ours[key] for key in ("status", "validation", "val_by_step")] == [
        theirs[key] for key in ("status", "validation", "val_by_step")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero2"])
@pytest.mark.promise("A run that is stopped at each rung of a halving ends to the bit as one that was not")
@pytest.mark.promise("A run goes on under any other strategy and any number of processes, to 1e-5")
def test_rungs_on_two_processes_and_on_one_and_two(strategy: str, tmp_path):
    two, every = f"strategy={strategy}", "validation.every_steps=3"
    first, second = "stop_after=0.3", "stop_after=0.6"
    run_here(**job(tmp_path / "alone", every))
    run_here(**job(tmp_path / "between", every, first))
    stopped = [job(tmp_path / "stopped", two, every, *rung) for rung in ((first,), (second,), ())]
    jobs = [job(tmp_path / "never", two, every), *stopped, job(tmp_path / "between", two, every, second)]
    run_group(jobs, tmp_path)
    identical(tmp_path / "stopped", tmp_path / "never")
    run_here(**job(tmp_path / "between", every))
    compare(tmp_path / "between", tmp_path / "alone", steps=STEPS)


def test_a_stop_that_cannot_be_saved_is_an_error(tmp_path, monkeypatch):
    times = Times(tmp_path, Opening(0.0), writes=False)
    config = load("train").checkpoint
    callback = CheckpointCallback(tmp_path, config, DistributedEnv(), None, times, dict, lambda: None)
    monkeypatch.setattr(callback, "_save_last", lambda *_: None)  # a full disk: the save has failed, and has said so
    with pytest.raises(RunError, match="the state after step 3, where stop_after stops, could not be saved"):
        callback.stop_as_configured(object.__new__(L.Trainer), object.__new__(SupervisedModule), 3)


@pytest.mark.parametrize(("end", "said"), [(Stopped(3), ["success"]), (Preempted(3), ["success"]), (OSError(), [])])
def test_loggers_are_not_told_that_a_run_that_goes_on_has_failed(end, said):
    told: list[str] = []
    trainer = object.__new__(L.Trainer)
    trainer._loggers = [SimpleNamespace(finalize=told.append)]  # pyright: ignore[reportAttributeAccessIssue]
    StopAfterStep(3, object.__new__(CheckpointCallback)).on_exception(trainer, None, end)
    assert (told, bool(trainer.loggers)) == (said, not said), "of a failure Lightning tells them"


def test_where_a_run_stops():
    assert [step_of(part, 160, 16) for part in (0.05, 0.1, 0.35, 0.999)] == [16, 16, 48, 144]
    assert [step_of(part, 7, None) for part in (0.01, 0.5, 3, 7, None)] == [1, 3, 3, None, None]
    assert step_of(0.3, 10, 1) == 3
    assert step_of(0.5, 1, 1) is None
