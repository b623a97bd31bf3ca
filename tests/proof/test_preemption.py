"""Signals: flags alone, one answer of all ranks, and the exit code that asks for a restart."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from experiments.spot.simulate import steps_done
from tests.helpers import commands
from tests.helpers.commands import Command
from tests.helpers.runs import COMMON, compare, run_here
from vicuna_lit.train import distributed
from vicuna_lit.train.callbacks.checkpointing import CheckpointCallback
from vicuna_lit.train.preemption import PREEMPTED, Preempted, StopSignal, stop_signal
from vicuna_lit.train.starts import starts_of

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
SLOW = ("validation.every_steps=3", "checkpoint.every_steps=4")


def command(*arguments: str) -> subprocess.Popen[str]:
    """A Python module in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ONE_THREAD,
        cwd=Path(__file__).parents[2],
    )


def start(folder: Path, *settings: str, workers: bool = False) -> Command:
    """What a user types."""
    run = f"run.dir={folder}"
    return commands.start("vicuna_lit.train", *COMMON, *settings, run, together=True, workers=workers)


def ended(process: subprocess.Popen[str] | Command, code: int = 0) -> str:
    """What it printed."""
    out = process.communicate()[0]
    assert process.returncode == code, out
    return out


def wait_for(condition, process: subprocess.Popen[str] | Command, seconds: float = 120) -> None:
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
    for key in ("status", "steps", "supervised_tokens", "validation", "val_loss_before", "data", "tokens"):
        assert ours[key] == theirs[key], key


@pytest.mark.promise(
    "SIGTERM to the command or to any rank, in steps and validations, saves, and the same command goes on"
)
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
    page = (folder / "report.html").read_text()
    assert "interrupted" in page
    assert [(s.step, s.until, s.why) for s in starts_of(folder)] == [
        (0, stopped["steps"], "told to stop"), (stopped["steps"], 20, "finished"),
    ]  # fmt: skip
    assert page.count("told to stop") == 1


@pytest.mark.slow
@pytest.mark.promise(
    "SIGKILL loses only what no checkpoint holds, an overdue step is given up, and a killed launcher takes its "
    "processes along"
)
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
@pytest.mark.promise(
    "SIGTERM to the command or to any rank, in steps and validations, saves, and the same command goes on"
)
def test_a_signal_to_any_one_rank_stops_all(tmp_path, never):
    """And one to the command itself; afterwards the run goes on in one process."""
    folder = tmp_path / "run"
    two = ("strategy=fsdp", "trainer.devices=2")
    process = start(folder, *SLOW, *two, workers=True)
    wait_for(lambda: steps_done(folder) >= 3, process)
    os.kill(children(process.pid)[1], signal.SIGTERM)
    out = ended(process, PREEMPTED)
    assert "Traceback" not in out
    before = steps_done(folder)
    process = start(folder, *SLOW, *two, workers=True)
    wait_for(lambda: steps_done(folder) >= before + 3, process)
    process.send_signal(signal.SIGTERM)
    out = ended(process, PREEMPTED)
    out = ended(start(folder, *SLOW))
    assert "changed since the last start: trainer.devices: 2 → 1" in out
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
    assert "going on from step" in ended(commands.start(*torchrun, env=ONE_THREAD, together=True, workers=True))
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
@pytest.mark.promise(
    "SIGKILL loses only what no checkpoint holds, an overdue step is given up, and a killed launcher takes its "
    "processes along"
)
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
    from vicuna_lit.run_folder import RunError, locked

    with (
        locked(tmp_path),
        pytest.raises(RunError, match="another process is running here"),
        locked(tmp_path, patience=0.3),
    ):
        pass
    with locked(tmp_path):
        pass


def told_at(monkeypatch: pytest.MonkeyPatch, condition, signals: int = 1) -> list[Any]:
    """Sends this process a signal when a hook of CheckpointCallback sees the condition; returns what it saw."""
    seen: list[Any] = []
    pause, batch_end = CheckpointCallback.stop_if_told, CheckpointCallback.on_train_batch_end

    def tell(where: str, step: int, batch: int = 0) -> None:
        if not seen and condition(where, step, batch):
            seen.append((where, step, batch))
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGTERM)

    def paused(self, trainer, module, step):
        tell("validation", step)
        pause(self, trainer, module, step)

    def batch_ended(self, trainer, pl_module, outputs, batch, batch_idx):
        tell("batch", pl_module.last_step(batch_idx), batch_idx)
        batch_end(self, trainer, pl_module, outputs, batch, batch_idx)

    monkeypatch.setattr(CheckpointCallback, "stop_if_told", paused)
    monkeypatch.setattr(CheckpointCallback, "on_train_batch_end", batch_ended)
    return seen


@pytest.mark.parametrize("at", [0, *(pytest.param(step, marks=pytest.mark.slow) for step in (3, 9, 20))])
@pytest.mark.promise(
    "SIGTERM to the command or to any rank, in steps and validations, saves, and the same command goes on"
)
def test_during_validation(at, tmp_path, never, monkeypatch):
    """Validation losses before, between and after the steps; the validation is taken again in full."""
    folder = tmp_path / "run"
    overrides = [*COMMON, *SLOW, f"run.dir={folder}", "token_cache_gb=0"]  # else the first may be found again
    with monkeypatch.context() as patch:
        seen = told_at(patch, lambda where, step, _: where == "validation" and step == at)
        run_here(overrides)
    assert seen
    stopped = json.loads((folder / "result.json").read_text())
    assert (stopped["status"], stopped["steps"]) == ("preempted", at)
    assert not (folder / "hf").exists()
    run_here(overrides)
    same(folder, never)


@pytest.mark.slow
@pytest.mark.promise(
    "SIGKILL loses only what no checkpoint holds, an overdue step is given up, and a killed launcher takes its "
    "processes along"
)
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


LATE = """
import os, signal, sys, time
import lightning as L
import vicuna_lit as vl
class Late(L.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 9:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1.4 * trainer.global_rank)
print(vl.fit(vl.load("train", *sys.argv[1:]), callbacks=[Late()]).status)
"""


@pytest.mark.slow
def test_a_rank_whose_grace_is_over_leaves_no_failure_behind(tmp_path):
    """The other one waits for it in a collective, and loses it there."""
    settings = (*COMMON, f"run.dir={tmp_path / 'run'}", "strategy=ddp", "tokens_per_device=256")
    shared = os.environ | distributed._environment("late", 2, {"OMP_NUM_THREADS": "1"})
    processes = [
        subprocess.Popen([sys.executable, "-c", LATE, *settings, "checkpoint.grace_seconds=1"], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=shared | ranks)
        for ranks in ({"RANK": "0", "LOCAL_RANK": "0"}, {"RANK": "1", "LOCAL_RANK": "1"})
    ]  # fmt: skip
    for process in processes:
        assert ended(process).endswith("preempted\n")
    assert json.loads((tmp_path / "run/result.json").read_text())["status"] == "preempted"


def test_flags(monkeypatch):
    """A repeated signal within a second is the same one; another, or the time, makes the step overdue."""
    stop_signal = StopSignal()
    with stop_signal.listening(), stop_signal.listening():
        stop_signal.check()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_signal.requested
        assert not stop_signal.expired
        with pytest.raises(Preempted):
            stop_signal.check()
        monkeypatch.setattr("vicuna_lit.train.preemption.SAME", 0.0)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop_signal.expired
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with stop_signal.listening():
        assert not stop_signal.requested
        stop_signal.grace_seconds = 0.05
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.06)
        assert stop_signal.expired
    assert threading.active_count() < 20


BLOCKED = """
import sys, torch, torch.distributed as dist
from vicuna_lit.train.preemption import stop_signal
with stop_signal.listening():
    stop_signal.grace_seconds = 1
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=int(sys.argv[2]), world_size=2)
    print("ready", flush=True)
    if sys.argv[2] == "0":
        dist.all_reduce(torch.ones(1))
    sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_a_process_that_is_blocked_in_a_collective_leaves_at_the_end(signals, tmp_path):
    """Its other side never comes: Python's own handlers would not run before it did."""
    processes = [
        subprocess.Popen([sys.executable, "-c", BLOCKED, str(tmp_path / "store"), str(rank)],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)  # it is blocked now
    for _ in range(signals):
        processes[0].send_signal(signal.SIGTERM)
    told = time.monotonic()
    code = processes[0].wait(timeout=30)
    processes[1].kill()
    assert code == PREEMPTED
    assert 1.5 < time.monotonic() - told < 10
    assert "leaving without saving" in processes[0].communicate()[1]
    processes[1].communicate()


def test_a_second_signal_while_it_leaves_changes_nothing(tmp_path):
    """Until the very end: also while Python shuts down."""
    process = start(tmp_path / "run", *SLOW)
    wait_for(lambda: steps_done(tmp_path / "run") >= 2, process)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    ended(process, PREEMPTED)


@pytest.mark.slow
def test_a_signal_as_soon_as_it_is_heard(tmp_path):
    """Before the config is read, or anything large is imported."""
    process = command("vicuna_lit.train", *COMMON, f"run.dir={tmp_path / 'run'}")
    status = Path(f"/proc/{process.pid}/status")
    caught = lambda: int(status.read_text().split("SigCgt:")[1].split()[0], 16)  # noqa: E731
    wait_for(lambda: caught() & 1 << signal.SIGTERM - 1, process)
    assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    process.send_signal(signal.SIGTERM)
    out = ended(process, PREEMPTED)
    assert "stopped before a step was saved" in out
    assert "Traceback" not in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("module", ["train", "worker"])
def test_what_is_imported_before_it_listens(module):
    code = f"import sys, vicuna_lit.cli.{module} as m; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"hydra", "pydantic", "torch", "numpy", "vicuna_lit.cli.app"} & set(loaded)


def test_others_keep_their_signals():
    """An event loop's own: what it wakes by comes through meanwhile, and is there again afterwards."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ours.settimeout(5)
    before, handler = signal.set_wakeup_fd(theirs.fileno()), signal.signal(signal.SIGUSR2, lambda *_: None)
    stop_signal = StopSignal()
    try:
        with stop_signal.listening():
            os.kill(os.getpid(), signal.SIGUSR2)
            assert ours.recv(10) == bytes([signal.SIGUSR2])
            assert not stop_signal.requested
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop_signal.requested
        os.kill(os.getpid(), signal.SIGUSR2)
        assert ours.recv(10) == bytes([signal.SIGUSR2])
        with stop_signal.listening():
            signal.set_wakeup_fd(-1)  # theirs was closed inside
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGUSR2, handler)
        ours.close()
        theirs.close()


def test_a_forked_process_is_not_the_run():
    """It dies of what it is told, and the run hears nothing of it."""
    script = (
        "import os, signal, time\nfrom vicuna_lit.train.preemption import stop_signal\n"
        "with stop_signal.listening():\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        time.sleep(60)\n"
        "    time.sleep(0.3)\n"
        "    os.kill(child, signal.SIGTERM)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "    time.sleep(0.3)\n"
        "    print(stop_signal.signals)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    assert done.stdout.split() == [str(-signal.SIGTERM), "0"], done.stderr


def test_a_process_that_hangs_leaves_at_the_end():
    script = (
        "import time\nfrom vicuna_lit.train.preemption import stop_signal\n"
        "with stop_signal.listening():\n    stop_signal.grace_seconds = 0.2\n"
        "    print('ready', flush=True)\n    time.sleep(60)\n"
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


def test_another_process_has_its_own_notice():
    """Hydra's launchers pickle the job by value, and what it names with it."""
    assert pickle.loads(cloudpickle.dumps(stop_signal)) is stop_signal
