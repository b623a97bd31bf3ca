"""What a run writes down step by step: `metrics.csv`, the W&B history, its times, and the progress bar."""

import csv
import sys
from pathlib import Path
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vicuna_lit.notebook import Line
from vicuna_lit.train.finite import check_step
from vicuna_lit.train.memory import PeakMemory
from vicuna_lit.train.throughput import Throughput
from vicuna_lit.train.times import WORK, Times
from vicuna_lit.train.tracking.wandb_run import History
from vicuna_lit.whole_files import add_rows, naming

COLUMNS = ("step", "loss", "grad_norm", "lr", "supervised_tokens", "conversations_hash")
console = Console(emoji=False, stderr=True)
StepFigures = dict[str, Any]


class MetricsCallback(L.Callback):
    """Writes one row per optimizer step; knows the supervised tokens per second of the training alone.

    Args:
        rows: of the steps that are done already; the file begins with them, whatever it holds.
        history: where the same figures go, and those of rows that it lacks.
        shows: whether the progress is printed.
    """

    def __init__(
        self,
        folder: Path,
        rows: list[StepFigures],
        history: History,
        times: Times,
        throughput: Throughput,
        shows: bool = True,
    ):
        self.path, self.rows, self.history, self.times = folder / "metrics.csv", rows, history, times
        self.throughput = throughput
        self.memory = PeakMemory()
        self.seconds = 0.0
        self.step_seconds: list[float] = []
        """Of the steps that this process took."""
        self.stop: int | None = None
        """The step after which this start stops, where that is not the run's last."""
        self._tokens = 0
        self._bar: Progress | None = None
        self._shows = shows
        self._line = Line()

    @property
    def tokens_per_second(self) -> float:
        """Supervised tokens per second of training, since this start; validation left out."""
        return self._tokens / self.seconds if self.seconds else 0.0

    @property
    def supervised_tokens(self) -> int:
        """Trained on so far."""
        return sum(row["supervised_tokens"] for row in self.rows)

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Begins the file."""
        if self.times.writes:
            with naming(self.path), self.path.open("w", encoding="utf-8", newline="") as file:
                rows: Any = csv.DictWriter(file, COLUMNS)
                rows.writeheader()
                rows.writerows(self.rows)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Opens the bar."""
        self.memory.step()
        if self.times.writes and self._shows and console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn())
            done, total = len(self.rows), self.stop or pl_module.plan.steps
            of = f", of {pl_module.plan.steps} in all," if self.stop else ""
            self._bar = Progress(TextColumn(f"step{of}"), *columns, console=console, refresh_per_second=4)
            self._task = self._bar.add_task("train", completed=done, total=total, figures="")
            self._bar.start()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The batch is there; the step before it is over, its validation and what others log of it too."""
        self.history.over(pl_module.last_step(batch_idx - 1))
        self.times.lap("data")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Writes the step's row when its last micro-batch is done.

        Raises:
            NotFiniteError: the step's loss or gradient norm is no number. No callback after this one saves the step.
        """
        step = pl_module.step_done(batch_idx)
        if step is None:
            self.times.lap("step")
            return
        plan, peak = pl_module.plan, self.memory.step()
        loss, grad_norm, tokens = float(pl_module.step_loss), pl_module.grad_norm(), int(plan.step_supervised[step - 1])
        self.times.lap("step")
        check_step(step, loss, grad_norm, trainer.datamodule.example_ids(step))
        spans = self.times.close(step)
        elapsed = sum(spans.get(what, 0.0) for what in WORK)
        self.seconds += elapsed
        self.step_seconds.append(elapsed)
        self._tokens += tokens
        speed = self.throughput.figures(step, elapsed)
        values = (step, loss, grad_norm, pl_module.step_lr, tokens, plan.examples_hash(step - 1))
        self.rows.append(dict(zip(COLUMNS, values, strict=True)))
        if not self.times.writes:
            return
        add_rows(self.path, values)
        self.history.add(
            step,
            self.figures(self.rows[-1], plan)
            | speed
            | {
                "data/fill": int(plan.step_tokens[step - 1]) / plan.capacity,
                "data/padding_tokens": plan.padding(step - 1),
                "memory/step_peak_gib": peak / 2**30,
            }
            | ({"memory/reserved_gib": self.memory.reserved / 2**30} if self.memory.reserved else {})
            | {f"time/{what}_seconds": seconds for what, seconds in spans.items()},
        )
        if self._shows:
            self._show(step, plan.steps, loss)

    def figures(self, row: StepFigures, plan: Any) -> dict[str, Any]:
        """A step's figures that are the same however often it is taken."""
        step = row["step"]
        return {
            "train/loss": row["loss"],
            "train/grad_norm": row["grad_norm"],
            "train/lr": row["lr"],
            "train/epoch": step / plan.steps * plan.epochs,
            "train/supervised_tokens": int(plan.step_supervised[:step].sum()),
        }

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Closes the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar:
            self._bar.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Closes the bar."""
        self._close()

    def _show(self, step: int, steps: int, loss: float) -> None:
        figures = f"loss {loss:.3f} · {self.tokens_per_second:,.0f} supervised tokens/s"
        if self._bar:
            self._bar.update(self._task, completed=step, figures=figures)
        elif console.is_jupyter:
            self._line.write(f"step {step}/{steps} · {figures}")
        else:
            last = self.stop or steps
            whither = f" to step {last}" if self.stop else ""
            if step == last or step % max(1, last // 10) == 0:
                left = self.seconds / len(self.step_seconds) * (last - step)
                print(f"step {step}/{steps} · {figures} · {left:.0f} s left{whither}", file=sys.stderr, flush=True)
