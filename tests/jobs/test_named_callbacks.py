"""Callbacks, debugging and trainers by name, as users of Lightning and Hydra type them; conversations of a script."""

import csv
import json
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import lightning as L
import pytest
from lightning.pytorch.callbacks import EarlyStopping

import vicuna_lit as vl
from tests.helpers.runs import COMMON, curve
from vicuna_lit.compare.run import read_run
from vicuna_lit.config.train import Layout, Recipe, TrainConfig
from vicuna_lit.run_folder import RunError
from vicuna_lit.tracking.wandb_file import history_rows
from vicuna_lit.train.extensions import Extensions, MonitorsAreThere, with_data
from vicuna_lit.train.tracking.history_logger import HistoryLogger
from vicuna_lit.train.tracking.wandb_run import History

SHORT = (*COMMON, "tokens_per_device=512", "validation.every_steps=2")
STOPPING = ("callbacks=[early_stopping]", "callbacks.early_stopping.patience=2", "callbacks.early_stopping.min_delta=9")


def config(folder: Path, *more: str) -> TrainConfig:
    return vl.load("train", *SHORT, f"run.dir={folder / 'run'}", *more)


def said(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run/result.json").read_text())


def test_early_stopping_by_name_ends_the_run_and_says_why(tmp_path, capsys):
    result = vl.fit(config(tmp_path, *STOPPING, "trainer.max_steps=8", "checkpoint.every_steps=4"))
    assert (result.status, result.steps) == ("finished", 4)
    assert result.ended_early and "val/loss did not improve" in result.ended_early
    assert said(tmp_path)["ended_early"] == result.ended_early
    assert "ended after step 4: EarlyStopping" in capsys.readouterr().out
    curve(tmp_path / "run", 4)
    assert vl.fit(config(tmp_path, *STOPPING, "trainer.max_steps=8")).steps == 4, "found, not trained again"
    (tmp_path / "run/result.json").unlink()  # killed as it wrote its model
    again = vl.fit(config(tmp_path, *STOPPING, "trainer.max_steps=8"))
    assert (again.steps, again.ended_early, again.val_loss) == (4, result.ended_early, result.val_loss)
    with pytest.raises(RunError, match=r"callbacks\.early_stopping\.min_delta"):
        vl.fit(config(tmp_path, *STOPPING, "trainer.max_steps=8", "callbacks.early_stopping.min_delta=0.1"))


def test_early_stopping_that_sees_nothing_is_refused(tmp_path):
    with pytest.raises(vl.ConfigError, match=r"validation\.every_steps="):
        config(tmp_path, *STOPPING, "validation.every_steps=null")
    with pytest.raises(RunError, match="no conversation is held out"):
        vl.fit(config(tmp_path, *STOPPING, "data.validation_fraction=0"))
    for given in (EarlyStopping("val_loss"), EarlyStopping("train/loss", strict=False)):
        with pytest.raises(RunError, match=r"of this name.*; there are val/loss, val/loss_by_turn/1"):
            vl.fit(config(tmp_path), callbacks=given)
    assert not (tmp_path / "run").exists(), "before anything is loaded"
    looks = EarlyStopping("val/how_many"), OwnFigures()
    Extensions(callbacks=looks).refuse_unknown_monitors()  # the second may log it
    seen = create_autospec(L.Trainer, callback_metrics={"val/loss": 1.0, "val/how_many": 1.0})
    MonitorsAreThere(looks).on_validation_end(seen, None)
    with pytest.raises(RunError, match=r"did you mean val/how_many\?\); there are val/loss, val/how_many; an own"):
        MonitorsAreThere([EarlyStopping("val/howmany")]).on_validation_end(seen, None)


def test_what_looks_on_changes_nothing_and_what_decides_is_recipe(tmp_path):
    watched = config(tmp_path, "callbacks=[lr_monitor,profiler]")
    assert watched.recipe == config(tmp_path).recipe and watched.layout == config(tmp_path).layout
    assert config(tmp_path, *STOPPING).recipe != config(tmp_path).recipe
    assert "callbacks" in Recipe.model_fields and "callbacks" not in Layout.model_fields


class OwnFigures(L.Callback):
    """As users of Lightning log them, under names that begin like the run's own."""

    validations = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.log("train/loss_twice", 2 * pl_module.step_loss)

    def on_validation_epoch_end(self, trainer, pl_module):
        self.validations += 1
        pl_module.log("val/how_many", float(self.validations))


def test_lr_monitor_and_own_figures_reach_the_wandb_history_and_the_profile_the_folder(tmp_path):
    watched = config(tmp_path, "callbacks=[lr_monitor,profiler]", "trainer.max_steps=3", "wandb.mode=offline")
    result = vl.fit(watched, callbacks=[OwnFigures()])
    rows = dict(history_rows(next(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))))
    with (tmp_path / "run/metrics.csv").open() as file:
        rates = {int(row["step"]): float(row["lr"]) for row in csv.DictReader(file)}
    assert {step: row["lr-AdamW/pg1"] for step, row in rows.items() if step} == pytest.approx(rates)
    losses = {step: row["train/loss"] for step, row in rows.items() if step}
    assert {step: row["train/loss_twice"] for step, row in rows.items() if step} == pytest.approx(
        {step: 2 * loss for step, loss in losses.items()}
    )
    assert {step: row["val/how_many"] for step, row in rows.items() if "val/how_many" in row} == {0: 1, 2: 2, 3: 3}
    assert {step for step, row in rows.items() if "val/loss" in row} == {0, 2, 3} and set(rows) == {0, 1, 2, 3}
    found = read_run(tmp_path / "run")
    assert found.metric("train/loss_twice") == pytest.approx(2 * losses[3]) and found.metric("val/how_many") == 3
    assert "val/how_many 3" in str(result) and not {"val/loss", "train/loss"} & set(result.logged)
    assert "run_training_batch" in (tmp_path / "run/fit-profile.txt").read_text()


class FakeRun:
    def __init__(self):
        self.rows: dict[int, dict[str, Any]] = {}

    def log_soon(self, row: dict[str, Any], step: int) -> None:
        assert step not in self.rows
        self.rows[step] = row


def test_figures_that_the_run_writes_are_not_written_twice():
    history = History(run := FakeRun())
    history.add(1, {"train/loss": 0.1 + 0.2})
    logged = {"mine": 1.0}
    logger = HistoryLogger(history, logged)
    logger.log_metrics({"train/loss": 0.30000001192, "mine": 2.0, "epoch": 0.0}, 0)
    history.flush()
    assert run.rows == {1: {"train/loss": 0.1 + 0.2, "mine": 2.0, "trainer/global_step": 1}}
    logger.log_metrics({"val/loss": 1.0, "val/loss_by_turn/1": 1.0, "val/loss_weighted": 3.0})
    assert logged == {"mine": 2.0, "val/loss_weighted": 3.0}
    with pytest.raises(RunError, match=r"self\.log\('train/lr', …\): the run writes a figure of this name"):
        logger.log_metrics({"mine": 3.0, "train/lr": 1.0}, 1)
    logger.log_metrics({"train/lr_scale": 1.0, "time/mine": 1.0, "data/mine": 1.0, "lr-AdamW": 1.0}, 1)
    assert {"train/lr_scale", "time/mine", "data/mine", "lr-AdamW"} < logged.keys()


@pytest.mark.parametrize("name", ["fdr", "limit", "overfit", "profiler"])
def test_each_way_of_debugging_composes_with_every_recipe(name: str):
    for recipe in ("quickstart", "vicuna_7b"):
        own = () if recipe == "quickstart" else ("model.path=/weights", "data.path=/data")
        c = vl.load("train", f"experiment={recipe}", f"debug={name}", *own, "trainer.max_steps=2")
        assert c.run.dir.startswith(f"runs/debug/{name}_") and c.wandb.mode == "disabled"
        assert c.trainer.max_steps == 2, "what is typed wins"
        assert (c.callbacks.profiler is not None) == (name == "profiler")


def test_a_fast_run_goes_through_everything(tmp_path):
    result = vl.fit(vl.load("train", "debug=fdr", f"run.dir={tmp_path / 'run'}", "trainer=cpu"))
    assert (result.status, result.steps) == ("finished", 1)
    assert result.val_loss is not None and (tmp_path / "run/hf/model.safetensors").exists()


@pytest.mark.slow
def test_overfitting_learns_its_conversations_by_heart(tmp_path):
    vl.fit(vl.load("train", "debug=overfit", f"run.dir={tmp_path / 'run'}"))
    losses, _ = curve(tmp_path / "run", 150)
    assert losses[-1] < 0.1 < losses[0]


def test_trainers_by_name():
    assert vl.load("train", "trainer=cpu").trainer.accelerator == "cpu"
    assert vl.load("train", "trainer=gpu").trainer.accelerator == "gpu"
    assert vl.load("train", "trainer=ddp", "trainer.devices=2").strategy.kind == "ddp"
    with pytest.raises(vl.ConfigError, match=r"trainer=tpu: no such choice.*cpu, ddp, gpu"):
        vl.load("train", "trainer=tpu")


RECORDS = [
    {"messages": [{"role": "user", "content": f"What is {n} + 1?"}, {"role": "assistant", "content": str(n + 1)}]}
    for n in range(40)
]


def test_conversations_of_a_script_are_those_of_a_file(tmp_path):
    (tmp_path / "file.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    few = ("trainer.max_steps=3", "data.validation_fraction=0")
    read = vl.fit(config(tmp_path / "read", *few, f"data.path={tmp_path / 'file.jsonl'}"))
    given = vl.fit(config(tmp_path / "given", *few), data=RECORDS)
    parsed = [one for one in vl.read(tmp_path / "file.jsonl") if isinstance(one, vl.Conversation)]
    objects = vl.fit(config(tmp_path / "objects", *few), data=parsed)
    assert given.steps == read.steps == objects.steps == 3
    curves = [curve(tmp_path / name / "run", 3) for name in ("read", "given", "objects")]
    assert curves[0] == curves[1] == curves[2]


def test_a_scripts_conversations_are_not_judged_by_the_quickstarts(tmp_path):
    def data_of(*more: str) -> Any:
        return with_data(vl.load("train", f"run.dir={tmp_path / 'run'}", *more), RECORDS).data

    usual, own = data_of(), data_of("data.validation_fraction=0.3")
    assert (usual.validation_path, usual.validation_fraction) == (None, 0.01), "as of a file"
    assert (own.validation_path, own.validation_fraction) == (None, 0.3)
    assert data_of("data.validation_path=mine.jsonl").validation_path == "mine.jsonl"


def test_a_script_with_other_conversations_is_another_run(tmp_path):
    few = ("trainer.max_steps=2",)
    assert vl.fit(config(tmp_path, *few), data=RECORDS).status == "finished"
    assert vl.fit(config(tmp_path, *few), data=iter(RECORDS)).steps == 2, "found again"
    with pytest.raises(RunError, match=r"data\.path"):
        vl.fit(config(tmp_path, *few), data=RECORDS[:30])
    with pytest.raises(RunError, match="no conversation in it"):
        vl.fit(config(tmp_path / "new", *few), data=[])
    with pytest.raises(RunError, match="cannot be kept as JSON"):
        vl.fit(config(tmp_path / "new", *few), data=[{"messages": object()}])
