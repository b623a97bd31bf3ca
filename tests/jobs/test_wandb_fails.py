"""A run whose W&B dies, a run that fails, a run that keeps its texts: what is in its folder and in W&B's record."""

import csv
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import wandb
from wandb.sdk import wandb_setup

from tests.helpers.runs import COMMON, run_here
from tests.helpers.wandb_server import WandbServer, environment
from vicuna_lit.tracking.session import Session
from vicuna_lit.tracking.wandb_file import messages, state
from vicuna_lit.train.callbacks.metrics import MetricsCallback
from vicuna_lit.train.finite import NotFiniteError
from vicuna_lit.train.result import result_in

SHORT = (*COMMON, "trainer.max_steps=4", "validation.every_steps=2", "samples.questions=[[Who are you?]]",
         "samples.max_new_tokens=4", "wandb.mode=offline", "wandb.console=off")  # fmt: skip


@pytest.fixture(autouse=True)
def as_in_a_process_of_its_own() -> Iterator[None]:
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.promise("W&B costs a run nothing but itself")
def test_wandbs_process_dies_in_the_middle_and_the_run_is_whole(tmp_path, monkeypatch, capsys):
    log = Session.log

    def kills(self: Session, row: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        if step == 2:
            service: Any = wandb_setup.singleton().ensure_service()
            os.kill(service._proc._process.pid, signal.SIGKILL)
            service._proc._process.wait()
        log(self, row, step, commit)

    monkeypatch.setattr(Session, "log", kills)
    folder = tmp_path / "run"
    run_here([*SHORT, f"run.dir={folder}"])
    result = result_in(folder)
    assert result and result.status == "finished"
    assert result.wandb_missed >= 3
    with (folder / "metrics.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [1, 2, 3, 4]
    assert (folder / "hf/model.safetensors").exists() and (folder / "report.html").exists()
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("W&B did not take a row of its history") == 1
    assert f"W&B missed {result.wandb_missed} of the run's calls; the run's folder holds it all" in said


@pytest.mark.parametrize("alert", ["true", "false"])
def test_a_run_that_fails_says_why_in_wandb_and_sends_a_message(alert, tmp_path, monkeypatch):
    def fails(*_: Any) -> None:
        raise NotFiniteError("step 2: loss nan")

    folder = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(NotFiniteError):
        patch.setattr(MetricsCallback, "figures", fails)
        run_here([*SHORT, f"wandb.alert={alert}", f"run.dir={folder}"])
    wandb.teardown()  # its process may still be writing
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    sent = [message.alert for message in messages(file) if message.HasField("alert")]
    assert len(sent) == (alert == "true")
    for one in sent:
        assert one.title == "quickstart failed"
        assert "step 2: loss nan" in one.text and str(folder) in one.text
    identity = json.loads((folder / "run.json").read_text())["wandb_id"]
    _, summary = state(folder, identity)
    assert (summary["status"], summary["cause"]) == ("failed", "not_finite")
    assert "step 2: loss nan" in summary["error"]
    assert [message.exit.exit_code for message in messages(file) if message.HasField("exit")] == [1]


def test_an_online_run_names_its_page(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    with WandbServer() as server:
        for name, value in environment(server.address).items():
            monkeypatch.setenv(name, value)
        run_here([*SHORT, "wandb.mode=online", f"run.dir={folder}"])
        wandb.teardown()
    result = result_in(folder)
    assert result and result.wandb_url == f"{server.address}/me/vicuna_lit/runs/abc"  # so the stand-in calls each
    assert f'href="{result.wandb_url}"' in result._repr_html_()
    assert b"val/loss" in b"".join(server.uploaded)


@pytest.mark.parametrize("samples", ["none", "ids", "text"])
def test_no_text_leaves_that_shall_not(samples, tmp_path):
    """What lies in W&B's folder, which `wandb sync` uploads."""
    folder = tmp_path / "run"
    run_here([*SHORT, f"wandb.samples={samples}", f"run.dir={folder}"])
    wandb.teardown()
    tables = [json.loads(file.read_text()) for file in folder.glob("wandb/offline-run-*/files/media/table/**/*.json")]
    columns = {column for table in tables for column in table["columns"]}
    assert ("mask" in columns, "reply after" in columns) == (samples == "text", samples == "text")
    assert ("supervised" in columns, "characters after" in columns) == (samples != "none", samples == "ids")
    assert "seconds" in columns
