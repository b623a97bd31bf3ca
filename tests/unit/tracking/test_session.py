"""W&B never stops a job and never takes another's run: with a stand-in of its server, and with its process killed."""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.sdk import wandb_setup

from tests.helpers.wandb_server import WandbServer, environment
from vicuna_lit.config.compose import load
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.run_folder import RunError
from vicuna_lit.tracking import session as sessions
from vicuna_lit.tracking.server import check_wandb
from vicuna_lit.tracking.session import Session, open_session, what_leaves
from vicuna_lit.tracking.wandb_file import history_rows, state


@pytest.fixture(autouse=True)
def as_in_a_process_of_its_own(monkeypatch) -> Iterator[None]:
    """W&B reads its variables once a process."""
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    yield
    wandb.teardown()


def config(*overrides: str) -> TrainConfig:
    return load("train", "wandb.console=off", *overrides)


def opened(config: TrainConfig, folder: Path, said: list[str]) -> Session:
    session = open_session(config.wandb, config.run, folder, "abc", {"a": {"b": 1}}, said.append)
    assert session
    return session


def rows(folder: Path) -> list[tuple[int, Any]]:
    wandb.teardown()  # its process may still be writing
    (file,) = folder.glob("wandb/*run-*-abc/run-abc.wandb")
    return [(step, figures["loss"]) for step, figures in history_rows(file)]


@pytest.mark.promise("W&B costs a run nothing but itself")
@pytest.mark.parametrize("fault", ["nobody", *(pytest.param(x, marks=pytest.mark.slow) for x in ("slow", 429, 503))])
def test_a_server_that_is_down_or_late_costs_a_line_and_the_run_is_offline(fault, tmp_path, monkeypatch):
    with WandbServer(None if fault == "nobody" else fault) as server:
        address = "http://127.0.0.1:9" if fault == "nobody" else server.address
        for name, value in environment(address).items():
            monkeypatch.setenv(name, value)
        asked, said = config("wandb.mode=online"), []
        check_wandb(asked.wandb)
        session = opened(asked, tmp_path, said)
        session.log({"loss": 1.0}, step=1)
        session.finish()
    (line,) = said
    assert line.startswith(
        f"W&B: {address} does not answer; the run goes on offline: `wandb sync {tmp_path}/wandb/offline-"
    )
    assert (session.online, session.url, session.failed) == (False, None, 0)
    assert rows(tmp_path) == [(1, 1.0)]


@pytest.mark.parametrize("fault", [401, 403])
def test_a_key_that_the_server_refuses_is_bad_input(fault, monkeypatch):
    with WandbServer(fault) as server:
        for name, value in environment(server.address).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(RunError, match=r"wandb\.mode=online: .*refused by the stand-in; `wandb login`, or WANDB_"):
            check_wandb(config("wandb.mode=online").wandb)
        check_wandb(config("wandb.mode=offline").wandb)
        assert set(server.asked) - {"/sdk/otel/v1/metrics"} == {"Viewer"}


@pytest.mark.parametrize("key", [None, "short"])
def test_without_a_key_that_could_be_one_nobody_is_asked(key, monkeypatch, tmp_path):
    with WandbServer() as server:
        for name, value in environment(server.address).items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("WANDB_API_KEY")
        if key:
            monkeypatch.setenv("WANDB_API_KEY", key)
        monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
        with pytest.raises(RunError, match=r"nobody is logged in|WANDB_API_KEY invalid"):
            check_wandb(config("wandb.mode=online").wandb)
        assert "Viewer" not in server.asked


def test_online_the_page_is_said_and_what_goes_there(tmp_path, monkeypatch):
    with WandbServer() as server:
        for name, value in environment(server.address).items():
            monkeypatch.setenv(name, value)
        asked, said = config("wandb.mode=online", "wandb.samples=none"), []
        check_wandb(asked.wandb)
        session = opened(asked, tmp_path, said)
        url = session.url
        session.log({"loss": 1.0}, step=1)
        session.finish()
        assert url == f"{server.address}/me/vicuna_lit/runs/abc"
        assert any("/file_stream" in asked for asked in server.asked)
    (line,) = said
    assert line.startswith(f"W&B: {url}\n  there go settings, figures, paths, host name")
    assert line.endswith("no conversations")
    assert rows(tmp_path) == [(1, 1.0)]


def test_a_run_that_the_server_refuses_at_its_begin_goes_on_offline_with_the_same_id(tmp_path, monkeypatch):
    with WandbServer() as server:
        for name, value in environment(server.address).items():
            monkeypatch.setenv(name, value)
        asked, said = config("wandb.mode=online", "wandb.entity=others"), []
        check_wandb(asked.wandb)
        server.fault = 403
        monkeypatch.setattr(sessions, "INIT_SECONDS", 3.0)
        session = opened(asked, tmp_path, said)
        session.log({"loss": 1.0}, step=1)
        session.finish()
    assert len(said) == 1
    assert "refused by the stand-in" in said[0] and "the run goes on offline" in said[0]
    assert session.id == "abc"
    assert rows(tmp_path) == [(1, 1.0)]


LATE = "W&B did not take its end: Timed out finishing run"


@pytest.mark.promise("W&B costs a run nothing but itself")
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (402, "W&B's server has refused what came after: filestream: fatal error: .*402 Payment Required"),  # a quota
        pytest.param(401, "W&B's server has refused what came after: .*401 Unauthorized", marks=pytest.mark.slow),
        *(pytest.param(fault, LATE, marks=pytest.mark.slow) for fault in (429, 503, "slow", "cut")),
    ],
)
def test_a_fault_in_the_middle_costs_a_line_and_the_record_is_whole(fault, why, tmp_path, monkeypatch):
    """A server that refuses, is late, or is gone after the run began well."""
    monkeypatch.setattr(sessions, "FINISH_SECONDS", 2.0)
    with WandbServer() as server:
        for name, value in environment(server.address).items():
            monkeypatch.setenv(name, value)
        said: list[str] = []
        session = opened(config("wandb.mode=online"), tmp_path, said)
        session.log_soon({"loss": 1.0}, 1)
        session.do("nothing", lambda _: None)
        if fault == "cut":
            server.http.shutdown()
            server.http.socket.close()
        server.fault = fault
        for step in range(2, 9):
            session.log_soon({"loss": float(step)}, step)
        session.summarize({"x": 1})
        session.finish()
        folder = next(tmp_path.glob("wandb/run-*-abc"))
        wandb.teardown()
    assert re.match(why, said[1]), said
    assert said[2:] == [
        f"W&B missed 1 of the run's calls; the run's folder holds it all; `wandb sync {folder}` uploads what it has"
    ]
    assert rows(tmp_path) == [(step, float(step)) for step in range(1, 9)]


@pytest.mark.promise("W&B costs a run nothing but itself")
def test_an_open_run_of_the_users_stays_open_and_is_not_written_to(tmp_path):
    mine = wandb.init(project="mine", mode="offline", dir=tmp_path / "mine", settings=wandb.Settings(silent=True))
    session = opened(config(), tmp_path / "ours", [])
    session.log({"loss": 1.0}, step=1)
    session.summarize({"val_loss": 2.0})
    session.finish()
    assert wandb.run is mine
    mine.log({"own": 3.0})
    mine.finish()
    wandb.teardown()
    (file,) = (tmp_path / "mine").glob("wandb/offline-run-*/*.wandb")
    assert [figures["own"] for _, figures in history_rows(file)] == [3.0]
    assert state(tmp_path / "mine", mine.id) == ({}, {"own": 3.0})
    assert state(tmp_path / "ours", "abc") == ({"a": {"b": 1}}, {"loss": 1.0, "val_loss": 2.0})


@pytest.mark.promise("W&B costs a run nothing but itself")
def test_the_death_of_wandbs_process_is_said_once_and_counted(tmp_path):
    said: list[str] = []
    session = opened(config(), tmp_path, said)
    session.log({"loss": 1.0}, step=1)
    service: Any = wandb_setup.singleton().ensure_service()
    os.kill(service._proc._process.pid, signal.SIGKILL)
    service._proc._process.wait()
    for step in range(2, 6):
        session.log({"loss": 1.0}, step=step)
    session.summarize({"x": 1})
    session.alert("a", "b")
    session.finish(exit_code=1)
    assert session.failed == 6 or session.failed == 7  # the first may still be taken by the socket
    assert len(said) == 2
    assert said[0].startswith("W&B did not take a row of its history: ")
    assert said[1].startswith(f"W&B missed {session.failed} of the run's calls; the run's folder holds it all")


def test_rows_of_a_thread_are_whole_in_order_and_before_what_is_called_after_them(tmp_path, monkeypatch):
    """Also where W&B is slow to take them, and where it takes none any more."""
    said: list[str] = []
    session, threads = opened(config(), tmp_path, said), set()
    log = wandb.Run.log

    def slow(self: Any, row: Any, step: int | None = None, commit: bool | None = None) -> None:
        threads.add(threading.current_thread())
        time.sleep(0.02)
        log(self, row, step=step, commit=commit)

    monkeypatch.setattr(wandb.Run, "log", slow)
    before = dict(os.environ)
    for step in range(1, 20):
        session.log_soon({"loss": step / 2}, step)
    assert dict(os.environ) == before
    session.log({"loss": 0.0, "table": wandb.Table(columns=["a"], data=[["text"]])}, step=20, commit=True)
    session.log_soon({"loss": 9.0}, 21)
    assert session.do("its step", lambda run: run.step) == 22
    assert len(threads) == 2 and threading.main_thread() in threads
    monkeypatch.setattr(wandb.Run, "log", lambda *_, **__: (_ for _ in ()).throw(TypeError("no such type")))
    for step in range(22, 25):
        session.log_soon({"loss": 1.0}, step)
    session.finish()
    assert session.failed == 3
    assert [line.partition(":")[0] for line in said[:-1]] == ["W&B did not take a row of its history"]
    assert rows(tmp_path) == [*((step, step / 2) for step in range(1, 20)), (20, 0.0), (21, 9.0)]


def test_a_call_that_raises_costs_itself_alone(tmp_path, monkeypatch):
    said: list[str] = []
    session = opened(config(), tmp_path, said)
    session.log({"loss": 1.0}, step=1)
    with monkeypatch.context() as patch:
        patch.setattr(wandb.Run, "log", lambda *_, **__: (_ for _ in ()).throw(TypeError("no such type")))
        session.log({"loss": 2.0}, step=2)
        session.log({"loss": 3.0}, step=3)
    session.log({"loss": 4.0}, step=4)
    session.finish()
    assert said[0] == "W&B did not take a row of its history: no such type; the run goes on"
    assert said[1].startswith("W&B missed 2 of the run's calls")
    assert [step for step, _ in rows(tmp_path)] == [1, 4]


def test_a_run_that_cannot_begin_at_all_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: (_ for _ in ()).throw(OSError("no room")))
    said: list[str] = []
    session = opened(config(), tmp_path, said)
    session.log({"loss": 1.0}, step=1)
    session.finish()
    assert said[0] == "W&B does not start: no room; the run goes on without it"


def test_all_of_a_run_lies_in_its_folder_and_the_environment_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    session = opened(config(), tmp_path / "run", [])
    session.log({"table": wandb.Table(columns=["a"], data=[["text"]])}, step=1)
    session.finish()
    assert list((tmp_path / "run/wandb/data/artifacts/staging").iterdir())
    assert not [file for file in (tmp_path / "home").rglob("*") if file.is_file() and "artifacts" in str(file)]
    assert {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"} == before


def test_what_is_printed_is_in_the_record_unless_it_shall_not(tmp_path):
    for console, is_kept in (("wrap", True), ("off", False)):
        session = opened(config(f"wandb.console={console}"), tmp_path / console, [])
        print("a line of the run")
        session.finish()
        wandb.teardown()
        logs = [file.read_text() for file in (tmp_path / console).glob("wandb/offline-run-*/files/output.log")]
        assert ["a line of the run" in text for text in logs] == [True] * is_kept


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["wandb.settings={no_such_thing: 1}"], r"wandb\.settings\.no_such_thing: wandb\.Settings has no such field"),
        (["wandb.settings={init_timeout: soon}"], r"wandb\.settings\.init_timeout: "),
    ],
)
def test_settings_that_wandb_does_not_have_are_refused_first(overrides, said):
    with pytest.raises(RunError, match=said):
        check_wandb(config(*overrides).wandb)
    check_wandb(config("wandb.settings={save_code: true, init_timeout: 5}").wandb)


def test_what_leaves_is_said_as_it_is_switched():
    all_of_it = what_leaves(load("train", "wandb.log_model=upload").wandb)
    for words in ("the commit and its diff", "what is printed", "the weights", "sample conversations and replies"):
        assert words in all_of_it
    little = load("train", "wandb.console=off", "wandb.samples=ids", "wandb.settings={disable_git: true}").wandb
    assert what_leaves(little).endswith("; ids of conversations, without their texts")
    for words in ("diff", "printed", "weights", "replies"):
        assert words not in what_leaves(little)


def test_the_names_of_a_run():
    for name, group, swept, expected in (
        (None, None, {}, "a"),
        (None, "sweep", {}, "a"),
        ("b", None, {}, "b"),
        ("b", "sweep", {"seed": "1"}, "b: a"),
        (None, "sweep", {"seed": "1"}, "sweep: a"),
        (None, "another", {"seed": "1"}, "another: a"),  # another sweep over the same key
        (None, None, {"seed": "1"}, "a"),
    ):
        asked = config("run.name=a", *[f"wandb.name={name}"] * bool(name), *[f"wandb.group={group}"] * bool(group))
        assert sessions.run_name(asked.wandb, asked.run.model_copy(update={"swept": swept})) == expected
