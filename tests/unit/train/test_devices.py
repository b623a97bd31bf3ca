"""The GPUs of a machine among the jobs of a sweep that run at the same time; faked ones."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.helpers.runs import COMMON
from vicuna_lit.config.compose import load
from vicuna_lit.train import devices
from vicuna_lit.train.distributed import _environment
from vicuna_lit.train.preemption import Preempted, stop_signal


@pytest.fixture
def machine(monkeypatch, tmp_path) -> Callable[..., None]:
    """Gives this machine GPUs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    def has(count: int, **environment: str) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        for key, value in environment.items():
            monkeypatch.setenv(key, value)

    return has


class Job(threading.Thread):
    """Holds its GPUs until it is told to end."""

    def __init__(self, needs: int = 1):
        super().__init__(daemon=True)
        several = ("strategy=ddp", f"trainer.devices={needs}") if needs > 1 else ()
        self.config, self.has, self.over = load("train", *COMMON, *several), threading.Event(), threading.Event()
        self.gpus: str | None = None
        self.start()

    def run(self) -> None:
        with devices.taken(self.config) as environment:
            self.gpus = environment.get("CUDA_VISIBLE_DEVICES")
            self.has.set()
            self.over.wait(30)

    def got(self) -> str | None:
        assert self.has.wait(10)
        return self.gpus

    def end(self) -> None:
        self.over.set()
        self.join()


def test_each_job_has_gpus_of_its_own_and_waits_for_them(machine, capsys):
    machine(2)
    first, second = Job(), Job()
    assert {first.got(), second.got()} == {"0", "1"}
    third = Job()
    assert not third.has.wait(0.5)
    assert "waiting for a free GPU of 0, 1" in capsys.readouterr().err
    first.end()
    assert third.got() == first.gpus
    for job in (second, third):
        job.end()


def test_a_job_that_needs_several_does_not_go_without_for_ever(machine):
    machine(3)
    single, other = Job(), Job()
    assert {single.got(), other.got()} == {"0", "1"}
    large = Job(needs=3)
    assert not large.has.wait(0.5)
    late = Job()
    assert not late.has.wait(0.5), "the free one is kept for the job that came before"
    single.end()
    other.end()
    assert large.got() == "0,1,2"
    assert not late.has.wait(0.5)
    large.end()
    assert late.got() in ("0", "1", "2")
    late.end()


def test_what_a_scheduler_has_named_is_dealt(machine):
    machine(2, CUDA_VISIBLE_DEVICES="5,GPU-1a/b")
    jobs = [Job(), Job()]
    assert {job.got() for job in jobs} == {"5", "GPU-1a/b"}
    machine(1, CUDA_VISIBLE_DEVICES="5", SLURM_JOB_ID="77")  # its own numbers: another job's 5 is another GPU
    jobs.append(Job())
    assert jobs[-1].got() == "5"
    for job in jobs:
        job.end()


@pytest.mark.parametrize(("count", "settings"), [(0, ()), (1, ("strategy=ddp", "trainer.devices=2")),
                                                 (2, ("trainer.accelerator=cpu",))])  # fmt: skip
def test_nothing_is_dealt_where_there_is_nothing(count, settings, machine, tmp_path):
    machine(count)
    with devices.taken(load("train", *COMMON, *settings)) as environment:
        assert environment == {}
    assert not list(tmp_path.iterdir())


def test_a_job_that_was_killed_leaves_its_gpu(machine):
    machine(1)
    script = (
        "import sys, torch\nfrom vicuna_lit.config.compose import load\nfrom vicuna_lit.train import devices\n"
        "torch.cuda.device_count = lambda: 1\n"
        "with devices.taken(load('train')) as environment:\n"
        "    print(environment['CUDA_VISIBLE_DEVICES'], flush=True)\n    sys.stdin.read()\n"
    )
    environment = os.environ | {"TMPDIR": str(tempfile.tempdir)}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout
    assert process.stdout.readline() == "0\n"
    job = Job()
    assert not job.has.wait(0.5)
    process.kill()
    process.communicate()
    assert job.got() == "0"
    job.end()


def test_a_job_that_waits_can_be_told_to_stop(machine, monkeypatch):
    machine(1)
    holder = Job()
    holder.got()
    monkeypatch.setattr(stop_signal, "signals", 1)
    with pytest.raises(Preempted), devices.taken(holder.config):
        pass
    monkeypatch.setattr(stop_signal, "signals", 0)
    holder.end()
    job = Job()  # the queue is free again
    assert job.got() == "0"
    job.end()


def test_a_job_of_a_sweep_and_its_evaluation_see_their_gpus(machine, monkeypatch, tmp_path):
    from vicuna_lit.cli import evaluate_after as afterwards
    from vicuna_lit.cli.train_sweep import Ending, _attempt
    from vicuna_lit.train import distributed as world

    machine(2)
    seen: list[Any] = []
    other = Job()
    other.got()
    monkeypatch.setattr(world, "launch", lambda config, environment: seen.append(environment))
    monkeypatch.setattr(afterwards, "evaluate_result", lambda config, environment: seen.append(environment) or 0)
    before = time.monotonic()
    assert _attempt(load("train", *COMMON, f"run.dir={tmp_path / 'run'}"), {}) == Ending()
    assert time.monotonic() - before < 20
    free = {"0", "1"} - {other.gpus}
    assert seen == [{"CUDA_VISIBLE_DEVICES": free.pop()}] * 2
    other.end()


def test_the_processes_of_a_job_see_its_gpus():
    """What `launch` gives to its processes."""
    given = {"CUDA_VISIBLE_DEVICES": "1,3"}
    ours = _environment("run", 2, given)
    assert ours["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert ours["WORLD_SIZE"] == "2"
    assert ours["PATH"] == os.environ["PATH"]
