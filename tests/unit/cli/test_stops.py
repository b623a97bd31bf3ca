"""Signals: one line, the code that shells know, and an end in time, whatever the command was doing."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from vicuna_lit.cli import stops
from vicuna_lit.cli.app import guarded
from vicuna_lit.prepare.executor import run_all
from vicuna_lit.signals import held

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def left(monkeypatch):
    """What ends the process at once is written down here; the signals' handlers are those of before again."""
    found: list[int] = []
    monkeypatch.setattr(stops, "_leave", found.append)
    monkeypatch.setattr(stops, "GRACE", 0.05)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = [signal.getsignal(number) for number in SIGNALS]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield found
    stops._stop.forget()
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGTERM, 143, "\nstopped by SIGTERM"), (signal.SIGINT, 130, "stopped")]
)
@pytest.mark.parametrize("job", ["a command", "a job that resumes", "a job that does not"])
def test_a_stop_is_one_line_and_the_code_that_shells_know(capfd, left, monkeypatch, job, number, code, said):
    with pytest.raises(SystemExit) as end, stops.stops_in_one_line():
        if job != "a command":
            guarded(lambda: signal.raise_signal(number), "runs/a", resumes=job == "a job that resumes")
        signal.raise_signal(number)
    then = "; the same command goes on in runs/a" if job == "a job that resumes" else ""
    assert (end.value.code, capfd.readouterr().err) == (code, f"{said}{then}\n")
    signal.raise_signal(number)  # while Python shuts down, from whoever passes it on too
    time.sleep(0.1)
    assert left == [code], "it has not ended in time"
    monkeypatch.setattr(stops, "SAME", 0)
    signal.raise_signal(number)
    assert left == [code, code], "told once more"


def test_a_command_that_ends_by_itself_leaves_the_signals_as_they_were(left):
    with stops.stops_in_one_line():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and not left
    thread = threading.Thread(target=lambda: left.append(stops.stops_in_one_line().__enter__()))
    thread.start()
    thread.join()
    assert left == [None], "a thread hears no signals"


def test_a_stop_that_python_drops_comes_once_more(left, capfd):
    class Odd:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as end, stops.stops_in_one_line():
        Odd()
        time.sleep(5)
    assert (end.value.code, capfd.readouterr().err) == (143, "\nstopped by SIGTERM\n")


def test_what_must_not_be_torn_ends_first(left):
    done = []
    with pytest.raises(KeyboardInterrupt), held(lambda: done.append("told")):
        signal.raise_signal(signal.SIGINT)
        done.append("the end")
        raise ValueError
    assert done == ["told", "the end"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "in a script it is nobody's, and stays so"


def _sleep(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)


def test_workers_end_with_the_job_that_was_stopped(tmp_path):
    def stop() -> None:
        while len([*tmp_path.iterdir()]) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=stop).start()
        with pytest.raises(KeyboardInterrupt):
            list(run_all("local", _sleep, [str(tmp_path), f"{tmp_path}/."], 2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not multiprocessing.active_children()
