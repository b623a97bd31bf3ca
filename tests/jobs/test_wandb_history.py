"""One W&B run for all starts: every step has one row, and its figures are those of `metrics.csv`."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.runs import COMMON, STEPS, run_here
from tests.proof.test_preemption import told_at
from vicuna_lit.tracking.session import Session
from vicuna_lit.tracking.wandb_file import BLOCK, chunks, history_rows
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.tracking.wandb_run import History

OFFLINE = ("wandb.mode=offline", "validation.every_steps=2", "checkpoint.every_steps=4")


def merged(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """The rows of all starts in the order in which they would be uploaded."""
    records = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    return [row for record in records for row in history_rows(record)]


@pytest.mark.slow
@pytest.mark.promise("One W&B run has one row a step, whatever was interrupted or lost of its record")
def test_three_interruptions_are_one_run(tmp_path, monkeypatch):
    """Stopped before the first checkpoint, between two, and in the middle of a validation loss."""
    folder = tmp_path / "run"
    overrides = [*COMMON, *OFFLINE, f"run.dir={folder}"]
    run_here(overrides, stop_after=3)
    run_here(overrides, stop_after=10)
    with monkeypatch.context() as patch:
        told_at(patch, lambda where, step, _: where == "validation" and step == 14)
        run_here(overrides)
    run_here(overrides)
    assert len({p.name.split("-")[3] for p in (folder / "wandb").glob("offline-run-*")}) == 1
    has_one_row_a_step(folder)
    last = merged(folder)[-1][1]
    assert {"samples/replies._type", "time/lost._type", "val/loss", "train/loss"} <= set(last)
    result = json.loads((folder / "result.json").read_text())
    assert result["lost_time"]["starts"] == 4
    assert result["lost_time"]["steps_replayed"] == 3 + 2


def has_one_row_a_step(folder: Path, steps: int = STEPS) -> None:
    rows = merged(folder)
    assert [step for step, _ in rows] == list(range(steps + 1))
    with (folder / "metrics.csv").open() as file:
        for row, (step, figures) in zip(csv.DictReader(file), rows[1:], strict=True):
            assert step == figures["trainer/global_step"] == int(row["step"])
            for ours, theirs in {"train/loss": "loss", "train/grad_norm": "grad_norm", "train/lr": "lr"}.items():
                assert figures[ours] == float(row[theirs])
            assert ("val/loss" in figures) == (step % 2 == 0)


@pytest.mark.slow
@pytest.mark.promise("One W&B run has one row a step, whatever was interrupted or lost of its record")
def test_rows_that_the_record_lost_come_back(tmp_path):
    """The machine went with the end of W&B's file; the checkpoint has the figures."""
    folder = tmp_path / "run"
    overrides = [*COMMON, *OFFLINE, f"run.dir={folder}"]
    run_here(overrides, stop_after=10)
    record = next((folder / "wandb").glob("offline-run-*/*.wandb"))
    while len(list(history_rows(record))) > 4:
        record.write_bytes(record.read_bytes()[:-100])
    run_here(overrides)
    has_one_row_a_step(folder)


@pytest.mark.parametrize("tokens", [4096, 256])
def test_a_row_is_sent_before_the_next_step_is_computed(tokens, tmp_path, monkeypatch):
    """With its validation in it: an online page is not a step behind."""
    happened: list[str] = []
    log, log_soon, step = Session.log, Session.log_soon, SupervisedModule.training_step

    def said(row: dict[str, Any], step: int) -> None:
        happened.append(f"row {step}{' with val/loss' * ('val/loss' in row)}")

    def steps(self: SupervisedModule, batch: Any, batch_idx: int) -> Any:
        happened.append(f"step {self.last_step(batch_idx - 1) + 1}")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Session, "log", lambda self, row, step, commit: (said(row, step), log(self, row, step, commit)))
    monkeypatch.setattr(Session, "log_soon", lambda self, row, step: (said(row, step), log_soon(self, row, step)))
    monkeypatch.setattr(SupervisedModule, "training_step", steps)
    short = ("trainer.max_steps=3", f"tokens_per_device={tokens}", "callbacks=[lr_monitor]")
    run_here([*COMMON, *OFFLINE, *short, f"run.dir={tmp_path / 'run'}"])
    assert (len(happened) > 7) == (tokens == 256), "rows of several parts too"
    assert list(dict.fromkeys(happened)) == [
        "row 0 with val/loss", "step 1", "row 1", "step 2", "row 2 with val/loss", "step 3", "row 3 with val/loss"
    ]  # fmt: skip


class Run:
    def __init__(self):
        self.rows: list[tuple[int, dict[str, Any]]] = []

    def log_soon(self, row, step):
        self.rows.append((step, row))


def test_rows_are_whole_and_never_twice():
    run = Run()
    history = History(run, recorded=1)
    history.add(1, {"a": 1})
    history.add(2, {"a": 2})
    history.add(2, {"b": 3})
    assert not run.rows
    history.over(1)
    assert not run.rows
    history.over(2)
    assert len(run.rows) == 1
    history.add(3, {"a": 4})
    history.drop()
    history.add(3, {"a": 5})
    history.flush()
    history.flush()
    assert [(step, {k: v for k, v in row.items() if k != "trainer/global_step"}) for step, row in run.rows] == [
        (2, {"a": 2, "b": 3}),
        (3, {"a": 5}),
    ]


@pytest.mark.parametrize("size", [0, 1, 100, BLOCK - 20, BLOCK, 3 * BLOCK])
def test_records_across_blocks(size):
    """As LevelDB writes them, cut off anywhere."""
    payloads = [bytes([i % 251]) * (size + i) for i in range(5)]
    log, ends = bytearray(7), []
    for payload in payloads:
        first, left = True, payload
        while first or left:
            room = BLOCK - len(log) % BLOCK
            if room < 7:
                log += bytes(room)
                continue
            part, left = left[: room - 7], left[room - 7 :]
            kind = (1 if not left else 2) if first else (4 if not left else 3)
            log += bytes(4) + len(part).to_bytes(2, "little") + bytes([kind]) + part
            first = False
        ends.append(len(log))
    assert list(chunks(bytes(log))) == payloads
    counts = Counter(len(list(chunks(bytes(log[:cut])))) for cut in range(ends[0], len(log), 997))
    assert all(count in range(1, 6) for count in counts)
    for i, end in enumerate(ends):
        assert len(list(chunks(bytes(log[: end - 1])))) == i
