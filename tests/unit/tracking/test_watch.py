"""W&B's own process is stopped, and does not die: no call waits for it for ever."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.sdk import wandb_setup

from vicuna_lit.config.compose import load
from vicuna_lit.tracking import watch
from vicuna_lit.tracking.session import Session, open_session
from vicuna_lit.tracking.watch import Watch, is_stopped


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> Iterator[None]:
    """A minute is a fifth of a second; W&B begins anew."""
    wandb.teardown()
    monkeypatch.setattr(watch, "STOPPED_SECONDS", 0.2)
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(watch, "WATCH", fresh := Watch())
    for module in ("session", "server"):
        monkeypatch.setattr(f"vicuna_lit.tracking.{module}.WATCH", fresh)
    yield
    wandb.teardown()


def opened(folder: Path, said: list[str]) -> Session:
    config = load("train", "wandb.console=off")
    session = open_session(config.wandb, config.run, folder, "abc", {}, said.append)
    assert session
    return session


def process() -> subprocess.Popen[Any]:
    service: Any = wandb_setup.singleton().ensure_service()
    return service._proc._process


@pytest.mark.promise("W&B costs a run nothing but itself")
@pytest.mark.parametrize("where", ["its pipe is full", "its end", "a second run begins"])
def test_a_process_that_is_stopped_costs_a_line_and_the_run_goes_on(where, tmp_path):
    said: list[str] = []
    session = opened(tmp_path / "a", said)
    session.log({"loss": 1.0}, step=0)
    stopped = process()
    stopped.send_signal(signal.SIGSTOP)
    if where == "its pipe is full":
        for step in range(1, 40):
            session.log({"text": "x" * 50_000}, step=step)
        assert session.run is None and session.failed > 20
    elif where == "a second run begins":
        assert opened(tmp_path / "b", said).run is None
    session.finish()
    assert stopped.wait(10) == -signal.SIGKILL
    assert any("its process was stopped, for 0.2 s" in line for line in said)
    assert said[-1].startswith("W&B missed ") and len(said) <= 3


def test_what_takes_long_is_left_alone_unless_it_should_not(monkeypatch):
    monkeypatch.setattr(watch, "HUNG_SECONDS", 0.2)
    over, ended = Watch(), threading.Event()
    monkeypatch.setattr(over, "_end", lambda why: ended.set())
    with over.over():
        assert not ended.wait(0.5)
        with over.over(may_last=False):
            assert ended.wait(5)


def test_who_is_stopped():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as one:
        assert not is_stopped(one) and not is_stopped(None)
        one.send_signal(signal.SIGSTOP)
        os.waitpid(one.pid, os.WUNTRACED)
        assert is_stopped(one)
        one.kill()
    assert not is_stopped(one)


@pytest.mark.slow
def test_a_process_that_is_stopped_does_not_keep_the_interpreter_from_ending(tmp_path):
    code = """
    import signal, sys
    from pathlib import Path
    from vicuna_lit.config.compose import load
    from vicuna_lit.tracking import watch
    from vicuna_lit.tracking.session import open_session
    watch.STOPPED_SECONDS = watch.LOOK_SECONDS = 0.2
    config = load("train", "wandb.console=off", "wandb.mode=offline")
    open_session(config.wandb, config.run, Path(sys.argv[1]), "abc", {}, print).finish()
    watch._process().send_signal(signal.SIGSTOP)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
