"""Everything a run writes down: `metrics.csv`, W&B, and the progress bar."""

import csv
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import wandb
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vicuna_lit.config import PACKAGE
from vicuna_lit.data.datamodule import ConversationData
from vicuna_lit.data.show import show_mask
from vicuna_lit.folder import flatten
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.heldout import HeldoutLoss
from vicuna_lit.train.memory import PeakMemory
from vicuna_lit.train.module import SupervisedModule

COLUMNS = ("step", "loss", "grad_norm", "lr", "supervised_tokens", "conversations_hash")
console = Console(stderr=True)


def start_wandb(config: TrainConfig, data: ConversationData, folder: Path) -> Any:
    """Opens the W&B run with the resolved config, the commit, data statistics and a table of masks."""
    known = {"git_commit": _git_commit(), "data_statistics": data.statistics()}
    run = wandb.init(
        mode=config.wandb.mode,
        project=config.wandb.project,
        entity=config.wandb.entity,
        group=config.wandb.group,
        tags=config.wandb.tags,
        name=config.run.name,
        dir=str(folder),
        config=flatten(config.model_dump(mode="json") | known),
        settings=wandb.Settings(silent=True, console="off"),
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step")
    if data.prepared is not None:
        _log_prepared(run, data.prepared)
    masks = wandb.Table(columns=["id", "tokens", "supervised", "mask"])
    for example in (data.train[i] for i in range(min(8, len(data.train)))):
        view = show_mask(example, data.encoder)
        masks.add_data(
            example.id, len(example.input_ids), int(example.supervised.sum()), wandb.Html(view._repr_html_())
        )
    run.log({"data/masks": masks})
    return run


def _log_prepared(run: Any, folder: Path) -> None:
    """The manifest and the card of the data as an artifact: the run's input (offline it can only be logged)."""
    manifest = json.loads((folder / "manifest.json").read_text())
    counts = {key: manifest[key] for key in ("records_in", "records_kept", "records_rejected", "rejected_by_reason")}
    hashes = {name: output["sha256"] for name, output in manifest["outputs"].items()}
    name = re.sub(r"[^\w.-]", "_", f"data-{folder.resolve().name}")
    artifact = wandb.Artifact(name, "dataset", metadata=counts | {"sha256": hashes})
    for file in ("manifest.json", "card.html"):
        artifact.add_file(str(folder / file))
    (run.log_artifact if run.settings.mode == "offline" else run.use_artifact)(artifact)
    run.config.update({"data_sha256": hashes})


def log_replies(run: Any, before: Sequence[Any], after: Sequence[Any]) -> None:
    """One table: each sample question with the replies before and after training."""
    table = wandb.Table(columns=["question", "reply before", "reply after"])
    for (question, old), (_, new) in zip(before, after, strict=True):
        table.add_data(question, old, new)
    run.log({"samples/replies": table})


def _git_commit() -> str | None:
    command = ["git", "-C", str(PACKAGE), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def heldout_metrics(heldout: HeldoutLoss) -> dict[str, float]:
    """The held-out loss as W&B keys."""
    metrics = {"heldout/loss": heldout.loss}
    metrics |= {f"heldout/loss_by_turn/{turn}": loss for turn, loss in heldout.by_turn().items()}
    return metrics | {f"heldout/loss_by_position/{bucket}": loss for bucket, loss in heldout.by_position().items()}


class Logbook(L.Callback):
    """Writes one row per optimizer step; knows the supervised tokens per second of the training alone."""

    def __init__(self, folder: Path, writes: bool = True):
        self.path, self.writes = folder / "metrics.csv", writes
        self.memory = PeakMemory()
        self.supervised_tokens = 0
        self.seconds = 0.0
        self.step_seconds: list[float] = []
        """Of the steps that this process took."""
        self._clock = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Supervised tokens per second of training, validation left out."""
        return self.supervised_tokens / self.seconds if self.seconds else 0.0

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"supervised_tokens": self.supervised_tokens, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.supervised_tokens, self.seconds = state_dict["supervised_tokens"], state_dict["seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Opens the file and the bar; rows of steps that a resumed run takes again are dropped."""
        self.memory.step()
        if not self.writes:
            return
        self._open(trainer.global_step)
        self._bar = _bar() if console.is_terminal or console.is_jupyter else None
        if self._bar:
            self._task = self._bar.add_task("train", total=pl_module.plan.steps, figures="")
            self._bar.start()
        self.start_clock()

    def start_clock(self) -> None:
        """The next step's time starts now."""
        self._clock = time.perf_counter()

    def _open(self, done: int) -> None:
        rows: list[Any] = []
        if done:
            with self.path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= done]
        self._file = self.path.open("w", newline="")
        self._rows = csv.DictWriter(self._file, COLUMNS)
        self._rows.writeheader()
        self._rows.writerows(rows)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Writes the step's row when its last micro-batch is done."""
        module: SupervisedModule = pl_module
        plan = module.plan
        step, micro = divmod(batch_idx + 1, plan.accumulation)
        if micro:
            return
        peak = self.memory.step()
        if not self.writes:
            return
        loss, grad_norm, tokens = (
            float(module.step_loss),
            module.grad_norm(),
            int(plan.step_supervised[step - 1]),
        )
        now = time.perf_counter()
        elapsed, self._clock = now - self._clock, now
        self.seconds += elapsed
        self.step_seconds.append(elapsed)
        self.supervised_tokens += tokens
        row = (step, loss, grad_norm, module.step_lr, tokens, plan.conversations_hash(step - 1))
        self._rows.writerow(dict(zip(COLUMNS, row, strict=True)))
        self._file.flush()
        all_tokens = int(plan.step_tokens[step - 1])
        metrics = {
            "train/loss": loss,
            "train/grad_norm": grad_norm,
            "train/lr": module.step_lr,
            "train/epoch": step / plan.steps * plan.epochs,
            "train/supervised_tokens": self.supervised_tokens,
            "speed/supervised_tokens_per_second": tokens / elapsed,
            "speed/tokens_per_second": all_tokens / elapsed,
            "data/fill": all_tokens / plan.capacity,
            "data/padding_tokens": plan.padding(step - 1),
            "memory/step_peak_gib": peak / 2**30,
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step)
        self._show(step, plan.steps, loss)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Closes the file and the bar."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Closes the file and the bar."""
        self._close()

    def _close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()
            if self._bar:
                self._bar.stop()

    def _show(self, step: int, steps: int, loss: float) -> None:
        figures = f"loss {loss:.3f} · {self.tokens_per_second:,.0f} supervised tokens/s"
        if self._bar:
            self._bar.update(self._task, completed=step, figures=figures)
        elif step == steps or step % max(1, steps // 10) == 0:
            left = self.seconds / step * (steps - step)
            print(f"step {step}/{steps} · {figures} · {left:.0f} s left", file=sys.stderr, flush=True)


def _bar() -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn())
    return Progress(TextColumn("step"), *columns, console=console, refresh_per_second=4)
