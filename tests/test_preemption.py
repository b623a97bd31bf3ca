"""Signals: flags alone, one answer of all ranks, and the exit code that asks for a restart."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.spot.simulate import steps_done
from tests.runs import COMMON, compare, run_here
from vicuna_lit.train.preemption import PREEMPTED, Notice, Preempted
from vicuna_lit.train.recovery import Recovery

SLOW = ("heldout.every_steps=3", "checkpoint.every_steps=4")


def command(*arguments: str) -> subprocess.Popen[str]:
    """A Python module in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[1],
    )


def start(folder: Path, *settings: str) -> subprocess.Popen[str]:
    """What a user types."""
    return command("vicuna_lit.train", *COMMON, *settings, f"run.dir={folder}")


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it printed."""
    out = process.communicate()[0]
    assert process.returncode == code, out
    return out


def wait_for(condition, process: subprocess.Popen[str], seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < ends
        time.sleep(0.002)


@pytest.fixture(scope="module")
def never(tmp_path_factory) -> Path:
    """The run that was left alone."""
    folder = tmp_path_factory.mktemp("never") / "run"
    run_here([*COMMON, *SLOW, f"run.dir={folder}"])
    return folder


def same(folder: Path, never: Path) -> None:
    compare(folder, never, within=0)
    assert (folder / "metrics.csv").read_bytes() == (never / "metrics.csv").read_bytes()
    ours, theirs = (json.loads((f / "result.json").read_text()) for f in (folder, never))
    for key in ("status", "steps", "supervised_tokens", "heldout", "heldout_loss_before", "data", "tokens"):
        assert ours[key] == theirs[key], key


def test_sigterm_saves_and_the_same_command_goes_on(tmp_path, never):
    """No step is lost, and the folder says what happened."""
    folder = tmp_path / "run"
    process = start(folder, *SLOW)
    wait_for(lambda: steps_done(folder) >= 5, process)
    process.send_signal(signal.SIGTERM)
    out = ended(process, PREEMPTED)
    assert "Traceback" not in out
    assert "the same command goes on from there" in out
    stopped = json.loads((folder / "result.json").read_text())
    assert stopped["status"] == "preempted"
    out = ended(start(folder, *SLOW))
    assert f"going on from step {stopped['steps']} of 20" in out
    same(folder, never)
    result = json.loads((folder / "result.json").read_text())
    assert result["lost_time"]["starts"] == 2
    assert result["lost_time"]["steps_replayed"] == 0
    assert "2 starts, 0 steps taken again" in out
    assert "interrupted" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_sigkill_loses_only_what_no_checkpoint_holds(tmp_path, never):
    folder = tmp_path / "run"
    process = start(folder, *SLOW)
    wait_for(lambda: steps_done(folder) >= 11, process)
    process.kill()
    process.communicate()
    out = ended(start(folder, *SLOW))
    assert "going on from step" in out
    same(folder, never)


@pytest.mark.slow
def test_a_signal_to_any_one_rank_stops_all(tmp_path, never):
    """And one to the command itself; afterwards the run goes on in one process."""
    folder = tmp_path / "run"
    two = ("strategy=fsdp", "trainer.devices=2")
    process = start(folder, *SLOW, *two)
    wait_for(lambda: steps_done(folder) >= 3, process)
    os.kill(children(process.pid)[1], signal.SIGTERM)
    out = ended(process, PREEMPTED)
    assert "Traceback" not in out
    before = steps_done(folder)
    process = start(folder, *SLOW, *two)
    wait_for(lambda: steps_done(folder) >= before + 3, process)
    process.send_signal(signal.SIGTERM)
    out = ended(process, PREEMPTED)
    out = ended(start(folder, *SLOW))
    assert "another layout than before: trainer.devices: 2 → 1" in out
    compare(folder, never)


@pytest.mark.slow
def test_torchrun_passes_the_signal_on(tmp_path, never):
    """Its own exit code is 1, whatever its processes say; the folder says `preempted`."""
    folder = tmp_path / "run"
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2",
                "-m", "vicuna_lit.train", *COMMON, *SLOW, "strategy=ddp", f"run.dir={folder}"]  # fmt: skip
    process = command(*torchrun)
    wait_for(lambda: steps_done(folder) >= 3, process)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode not in (0, PREEMPTED)
    assert json.loads((folder / "result.json").read_text())["status"] == "preempted"
    assert "going on from step" in ended(command(*torchrun))
    compare(folder, never)


def children(pid: int) -> list[int]:
    """Of a launcher, by rank."""
    found: dict[int, int] = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        rank = next((e for e in environment if e.startswith(b"RANK=")), None)
        if rank:
            found[int(rank[5:])] = int(child)
    return [found[rank] for rank in sorted(found)]


@pytest.mark.slow
def test_a_killed_launcher_takes_its_processes_along(tmp_path):
    """They would train on beside those of the next start."""
    folder = tmp_path / "run"
    process = start(folder, "strategy=ddp", "trainer.devices=2")
    wait_for(lambda: steps_done(folder) >= 1, process)
    pids = children(process.pid)
    process.kill()
    ends = time.monotonic() + 10
    while any(
        Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text() for pid in pids
    ):
        assert time.monotonic() < ends
        time.sleep(0.05)
    process.communicate()


def test_a_second_process_is_kept_out(tmp_path):
    from vicuna_lit.folder import RunError
    from vicuna_lit.train.folder import locked

    with locked(tmp_path), pytest.raises(RunError, match="another process is running here"), locked(tmp_path, 0.3):
        pass
    with locked(tmp_path):
        pass


def told_at(monkeypatch: pytest.MonkeyPatch, condition, signals: int = 1) -> list[Any]:
    """Sends this process a signal when a hook of Recovery sees the condition; returns what it saw."""
    seen: list[Any] = []
    pause, batch_end = Recovery.pause, Recovery.on_train_batch_end

    def tell(where: str, step: int, batch: int = 0) -> None:
        if not seen and condition(where, step, batch):
            seen.append((where, step, batch))
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGTERM)

    def paused(self, trainer, module, step):
        tell("exam", step)
        pause(self, trainer, module, step)

    def batch_ended(self, trainer, pl_module, outputs, batch, batch_idx):
        tell("batch", pl_module.last_step(batch_idx), batch_idx)
        batch_end(self, trainer, pl_module, outputs, batch, batch_idx)

    monkeypatch.setattr(Recovery, "pause", paused)
    monkeypatch.setattr(Recovery, "on_train_batch_end", batch_ended)
    return seen


@pytest.mark.parametrize("at", [0, 3, pytest.param(9, marks=pytest.mark.slow), 20])
def test_during_an_exam(at, tmp_path, never, monkeypatch):
    """Held-out losses before, between and after the steps; the exam is taken again in full."""
    folder = tmp_path / "run"
    overrides = [*COMMON, *SLOW, f"run.dir={folder}"]
    with monkeypatch.context() as patch:
        seen = told_at(patch, lambda where, step, _: where == "exam" and step == at)
        run_here(overrides)
    assert seen
    stopped = json.loads((folder / "result.json").read_text())
    assert (stopped["status"], stopped["steps"]) == ("preempted", at)
    assert not (folder / "hf").exists()
    run_here(overrides)
    same(folder, never)


def test_an_overdue_step_is_given_up(tmp_path, never, monkeypatch):
    """After a second signal, or the grace period, nobody waits for the end of the step."""
    folder = tmp_path / "run"
    overrides = [*COMMON, *SLOW, f"run.dir={folder}", "tokens_per_device=256"]
    with monkeypatch.context() as patch:
        patch.setattr("vicuna_lit.train.preemption.SAME", -1.0)
        seen = told_at(patch, lambda where, step, batch: where == "batch" and step == 5 and batch % 7 == 1, signals=2)
        run_here(overrides)
    assert seen
    stopped = json.loads((folder / "result.json").read_text())
    assert (stopped["status"], stopped["steps"]) == ("preempted", 5)
    run_here(overrides)
    compare(folder, never)


def test_flags(monkeypatch):
    """A repeated signal within a second is the same one; another, or the time, makes the step overdue."""
    notice = Notice()
    with notice.listening(), notice.listening():
        notice.check()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert notice.given
        assert not notice.overdue
        with pytest.raises(Preempted):
            notice.check()
        monkeypatch.setattr("vicuna_lit.train.preemption.SAME", 0.0)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert notice.overdue
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with notice.listening():
        assert not notice.given
        notice.grace_seconds = 0.05
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.06)
        assert notice.overdue
    assert threading.active_count() < 20


def test_a_process_that_hangs_leaves_at_the_end():
    script = (
        "import time\nfrom vicuna_lit.train.preemption import notice\n"
        "with notice.listening():\n    notice.grace_seconds = 0.2\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=20)[1]
    assert process.returncode == PREEMPTED
    assert "leaving without saving" in errors
