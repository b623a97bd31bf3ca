"""What a Lightning user brings: an own Trainer, callbacks, loggers and losses, with the numbers that `fit` gives."""

import csv
import importlib
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import wandb
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.nn.functional import cross_entropy

import vicuna_lit as vl
from tests.helpers.runs import COMMON, curve
from tests.proof.test_preemption import told_at
from vicuna_lit.data.batch import Batch
from vicuna_lit.run_folder import RunError
from vicuna_lit.tracking.wandb_file import history_rows
from vicuna_lit.train import resume
from vicuna_lit.train.extensions import Extensions
from vicuna_lit.train.strategies import strategy_of
from vicuna_lit.whole_files import write_json

STEPS = 6
SHORT = (*COMMON, f"trainer.max_steps={STEPS}", "tokens_per_device=512", "validation.every_steps=2")


def config(folder: Path, *more: str) -> Any:
    return vl.load("train", *SHORT, *more, f"run.dir={folder / 'run'}")


def rows(folder: Path, key: str) -> dict[int, float]:
    """A metric of Lightning's `metrics.csv` by step, from 1."""
    with (folder / "lightning/metrics.csv").open() as file:
        return {int(row["step"]) + 1: float(row[key]) for row in csv.DictReader(file) if row.get(key)}


def logger(folder: Path) -> CSVLogger:
    return CSVLogger(folder / "lightning", name="", version="")


def trainer(folder: Path, **more: Any) -> L.Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    settings = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "log_every_n_steps": 1, "logger": logger(folder)}
    return L.Trainer(**quiet | settings | more)


def test_an_own_trainer_computes_what_fit_computes(tmp_path):
    result = vl.fit(config(tmp_path))
    losses, norms = curve(tmp_path / "run", STEPS)
    data = vl.ConversationDataModule(config(tmp_path))
    module = vl.SupervisedModule.of(config(tmp_path), data.encoder)
    own = trainer(tmp_path)
    own.fit(module, data)
    assert list(rows(tmp_path, "train/loss").values()) == pytest.approx(losses, rel=1e-6)  # Lightning logs fp32
    assert list(rows(tmp_path, "train/grad_norm").values()) == pytest.approx(norms, rel=1e-6)
    assert float(own.callback_metrics["val/loss"]) == pytest.approx(result.val_loss, rel=1e-6)
    assert result.val_loss == module.validation.loss, "to the bit"


SCRIPT = """
import sys
from pathlib import Path
import vicuna_lit as vl
from tests.jobs.test_own_trainer import config, trainer

folder = Path(sys.argv[1])
settings = config(folder)
trainer(folder, devices=2, strategy="ddp").fit(vl.SupervisedModule.of(settings), vl.ConversationDataModule(settings))
"""


@pytest.mark.slow
def test_an_own_trainer_under_ddp(tmp_path):
    vl.fit(config(tmp_path))
    losses, norms = curve(tmp_path / "run", STEPS)
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(tmp_path / "script.py"), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(rows(tmp_path, "train/loss").values()) == pytest.approx(losses, rel=1e-5)
    assert list(rows(tmp_path, "train/grad_norm").values()) == pytest.approx(norms, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_epochs": 2}, "the plan holds all epochs"),
        ({"gradient_clip_val": 1.0}, "optimizer.clip_norm of the config clips"),
        ({"precision": "bf16-mixed"}, "the config's precision counts"),
        ({"limit_train_batches": 1}, "ends after 1 batches, within an optimizer step, which has "),
        ({"callbacks": [GradientAccumulationScheduler({0: 4})]}, "GradientAccumulationScheduler counts in epochs"),
        ({"callbacks": [StochasticWeightAveraging(0.01)]}, "StochasticWeightAveraging counts in epochs"),
        ({"config": "strategy=zero2"}, "strategy=zero2, the trainer SingleDeviceStrategy"),
    ],
)
def test_settings_that_are_the_configs_are_refused(settings: dict[str, Any], said: str, tmp_path):
    settings = dict(settings)
    own = config(tmp_path, *([settings.pop("config")] if "config" in settings else []))
    data = vl.ConversationDataModule(own)
    with pytest.raises(RunError, match=said):
        trainer(tmp_path, **settings).fit(vl.SupervisedModule.of(own, data.encoder), data)


def test_own_ddp_sums_no_gradients_in_bf16(tmp_path):
    for more, strategy, fits in (
        ("precision=bf16-true", DDPStrategy(), False),
        ("precision=bf16-true", SingleDeviceStrategy(), True),
        ("precision=fp32", DDPStrategy(), True),
    ):
        with nullcontext() if fits else pytest.raises(RunError, match="sums gradients of bf16 weights in bf16"):
            strategy_of(config(tmp_path, more, "strategy=ddp")).check(strategy)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_lightning_does_not_resume_what_it_cannot(tmp_path):
    data = vl.ConversationDataModule(config(tmp_path))
    saves = ModelCheckpoint(tmp_path / "saved", "{step}", every_n_train_steps=2, save_top_k=-1)
    first = trainer(tmp_path, callbacks=[saves], enable_checkpointing=True)
    first.fit(vl.SupervisedModule.of(config(tmp_path), data.encoder), data)
    with pytest.raises(RunError, match=r"vicuna_lit\.fit resumes"):
        trainer(tmp_path / "again").fit(
            vl.SupervisedModule.of(config(tmp_path), data.encoder), data, ckpt_path=tmp_path / "saved/step=2.ckpt"
        )


def test_callbacks_and_loggers_under_fit(tmp_path):
    """W&B's logger of Lightning too: a run of its own, beside the one that `fit` opens."""
    # Lightning's `offline` sets a variable, which W&B reads once a process.
    own = WandbLogger(save_dir=tmp_path, project="own", offline=True, mode="offline")
    result = vl.fit(
        config(tmp_path, "wandb.mode=offline"),
        callbacks=[LearningRateMonitor("step")],
        loggers=[CSVLogger(tmp_path / "lightning", name="", version=""), own],
    )
    with (tmp_path / "run/metrics.csv").open() as file:
        written = list(csv.DictReader(file))
    assert list(rows(tmp_path, "train/loss")) == list(range(1, STEPS + 1))
    assert list(rows(tmp_path, "lr-AdamW/pg1").values()) == pytest.approx([float(row["lr"]) for row in written])
    seen = rows(tmp_path, "val/loss")
    assert seen[2] == pytest.approx(result.val_by_step[2]) and seen[4] == pytest.approx(result.val_by_step[4])
    own.experiment.finish()
    wandb.teardown()  # its process has written all when it is gone
    (record,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert "callbacks LearningRateMonitor; loggers CSVLogger, WandbLogger" in (tmp_path / "run/report.html").read_text()
    losses = [figures["train/loss"] for _, figures in history_rows(record) if "train/loss" in figures]
    assert losses == pytest.approx([float(row["loss"]) for row in written], rel=1e-6)
    (ours,) = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    assert [step for step, _ in history_rows(ours)] == list(range(STEPS + 1))


class Stops(L.Callback):
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.step_done(batch_idx) == 3:
            raise KeyboardInterrupt


class Told(CSVLogger):
    """Remembers how it was told that runs ended."""

    ends: list[str]

    def finalize(self, status: str) -> None:
        self.ends.append(status)
        super().finalize(status)


class Seen(L.Callback):
    """Remembers its steps, and ends the run at one of them."""

    def __init__(self, end: int | None = None):
        self.steps: list[int] = []
        self.end = end

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (step := pl_module.step_done(batch_idx)) is not None:
            self.steps.append(step)
            trainer.should_stop = trainer.should_stop or step == self.end

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = state_dict["steps"]


def test_a_logger_hears_how_each_start_has_ended_and_a_callback_sees_each_step_once(tmp_path, monkeypatch):
    """Told to stop, stopped as planned, finished: none of these has failed. An error has.

    The step after which a run is told to stop is in its callbacks' state, and an end that they ask for there stays.
    """
    told, seen = Told(tmp_path / "lightning", name="", version=""), Seen()
    told.ends = []
    with monkeypatch.context() as patch:
        told_at(patch, lambda where, step, _: (where, step) == ("batch", 1))
        assert vl.fit(config(tmp_path), callbacks=[seen], loggers=[told]).status == "preempted"
    seen = Seen()
    assert vl.fit(config(tmp_path, "stop_after=3"), callbacks=[seen], loggers=[told]).status == "stopped"
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        vl.fit(config(tmp_path / "other"), callbacks=[Stops()], loggers=[told])
    with monkeypatch.context() as patch:
        told_at(patch, lambda where, step, _: (where, step) == ("batch", 5))
        assert vl.fit(config(tmp_path), callbacks=[Seen(end=5)], loggers=[told]).status == "preempted"
    seen = Seen(end=5)
    result = vl.fit(config(tmp_path), callbacks=[seen], loggers=[told])
    assert (result.status, result.steps, seen.steps) == ("finished", 5, [1, 2, 3, 4, 5])
    assert told.ends == ["success", "success", "failed", "success", "success"]


def test_early_stopping_ends_the_run_and_counts_on_after_a_stop(tmp_path):
    """No improvement of 10 nats: the second look in a row that says so ends the run, whichever start it falls into."""
    how = ("checkpoint.every_steps=1",)
    stopping = EarlyStopping("val/loss", min_delta=10.0, patience=2)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        vl.fit(config(tmp_path, *how), callbacks=[stopping, Stops()])
    again = EarlyStopping("val/loss", min_delta=10.0, patience=2)
    result = vl.fit(config(tmp_path, *how), callbacks=[again])
    assert (result.status, result.steps, again.wait_count) == ("finished", 4, 2)
    curve(tmp_path / "run", 4)
    assert set(result.val_by_step) == {0, 2, 4}


class Smoothed(vl.SupervisedModule):
    """Label smoothing (Szegedy et al. 2016)."""

    def loss(self, batch: Batch) -> Tensor:
        logits = self.lm(vl.SupervisedLM.logits, batch)
        return cross_entropy(logits, batch.targets, reduction="sum", label_smoothing=0.1)


class Same(vl.SupervisedModule):
    """The usual loss, by way of the logits."""

    def loss(self, batch: Batch) -> Tensor:
        return cross_entropy(self.lm(vl.SupervisedLM.logits, batch), batch.targets, reduction="sum")


@pytest.mark.slow
def test_an_own_loss_is_another_run(tmp_path, capsys):
    vl.fit(config(tmp_path / "ours"))
    vl.fit(config(tmp_path / "same"), module=Same)
    vl.fit(config(tmp_path / "smoothed", "tokens_per_device=256"), module=Smoothed)
    vl.fit(config(tmp_path / "packed"), module=Smoothed)
    said = "module Smoothed"
    assert said in capsys.readouterr().out and said in (tmp_path / "packed/run/report.html").read_text()
    ours, same, smoothed, packed = (
        curve(tmp_path / name / "run", STEPS)[0] for name in ("ours", "same", "smoothed", "packed")
    )
    assert same == pytest.approx(ours, rel=1e-6)
    assert packed == pytest.approx(smoothed, rel=1e-6), "the layout leaves it alone too"
    assert abs(smoothed[0] - ours[0]) > 1e-3
    with pytest.raises(RunError, match=r"module: 'tests\.jobs\.test_own_trainer\.Smoothed' → absent"):
        vl.fit(config(tmp_path / "smoothed"))
    assert (
        json.loads((tmp_path / "smoothed/run/config.json").read_text())["module"]
        == "tests.jobs.test_own_trainer.Smoothed"
    )


def test_several_processes_need_torchrun(tmp_path):
    with pytest.raises(RunError, match="torchrun --nproc-per-node 2"):
        vl.fit(config(tmp_path, "strategy=ddp", "trainer.devices=2"), callbacks=[Stops()])


def test_a_state_that_json_cannot_hold_is_said():
    class Odd(L.Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"what": torch.Generator()}

    with pytest.raises(RunError, match="holds a Generator"):
        Extensions(callbacks=(Odd(),)).state()
    with pytest.raises(RunError, match="EMAWeightAveraging keeps its state in Lightning's own checkpoints"):
        Extensions(callbacks=(EMAWeightAveraging(decay=0.5),))


EDITED = """
import vicuna_lit as vl

class Scaled(vl.SupervisedModule):
    def loss(self, batch):
        return {factor} * super().loss(batch)
"""


def test_an_edited_loss_is_another_run(tmp_path, monkeypatch):
    """A finished run of what stood there before is no result of what stands there now."""
    monkeypatch.syspath_prepend(tmp_path)
    identities = []
    for factor in (1, 2):
        name = f"losses{factor}"
        (tmp_path / f"{name}.py").write_text(EDITED.format(factor=factor))
        scaled = importlib.import_module(name).Scaled
        scaled.__module__ = "losses"
        monkeypatch.setitem(sys.modules, "losses", sys.modules[name])
        identities.append(Extensions(module=scaled).identity)
    assert identities[0]["module"] == identities[1]["module"] == "losses.Scaled"
    settings = config(tmp_path, "data.path=nowhere")
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run/config.json", resume.settings(settings, identities[0]))
    assert resume.changed_settings(settings, tmp_path / "run", identities[0]) == []
    said = r"\n  module losses\.Scaled: what it computes with is another: its source, or that of a function .*$"
    with pytest.raises(RunError, match=said):
        resume.changed_settings(settings, tmp_path / "run", identities[1])
