"""One process's part of a run, from one start to its end or to the next interruption."""

import json
import statistics
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LambdaCallback

from vicuna_lit.data.datamodule import ConversationData
from vicuna_lit.folder import RunError, flatten, write, write_json
from vicuna_lit.train.artifacts import log_data, log_model
from vicuna_lit.train.checkpoint import Checkpoint
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.exam import Exam
from vicuna_lit.train.export import export, export_dtype, exported_bytes
from vicuna_lit.train.finetune import save_adapter
from vicuna_lit.train.folder import Result, lacks_room, open_folder
from vicuna_lit.train.history import History, lost_time_table, masks_table, recorded_step, replies_table, start_wandb
from vicuna_lit.train.logbook import Logbook
from vicuna_lit.train.memory import out_of_memory
from vicuna_lit.train.model import SupervisedLM
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.preemption import Preempted, notice
from vicuna_lit.train.recovery import Recovery
from vicuna_lit.train.report import render
from vicuna_lit.train.strategies import keep_signals, trainer_arguments
from vicuna_lit.train.terminal import conclude, console
from vicuna_lit.train.throughput import Throughput
from vicuna_lit.train.times import Times, lost_time
from vicuna_lit.train.world import World, of_all_ranks, of_first_rank


class Session:
    """One process's part of a run, from one start to its end or to the next interruption.

    Args:
        start: where the run goes on, or None: from the first step.

    Raises:
        RunError: the data are not those of `start`.
    """

    def __init__(
        self,
        config: TrainConfig,
        world: World,
        data: ConversationData,
        lm: SupervisedLM,
        folder: Path,
        start: Checkpoint | None,
    ):
        self.config, self.world, self.data, self.lm = config, world, data, lm
        self.folder, self.start, self.first = folder, start, world.rank == 0
        self.fingerprint = data.fingerprint()
        self.attempt = of_first_rank(uuid.uuid4().hex)
        self.before: dict[str, Any] = {}
        self.wandb: Any = None
        self.times = Times(folder, notice.started, writes=False)
        self.history = History(None)
        if start:
            self._check(start)
            self.before, data.start = start.about["run"], start.step
        elif (folder / "metrics.csv").exists():
            console.print("nothing of the run in this folder is saved: starting from the first step", highlight=False)

    def _check(self, start: Checkpoint) -> None:
        if start.about["fingerprint"] != self.fingerprint:
            raise RunError(
                f"{self.folder}: the conversations are not those of {start.path.name}: "
                f"data.path={self.config.data.path} holds others now, or they are tokenised in another way; "
                "resume=never starts anew"
            )
        console.print(f"going on from step {start.step} of {self.data.plan.steps}", highlight=False)

    def run(self) -> Result:
        """Trains; the first rank keeps the folder and the W&B run."""
        if not self.first:
            return self.train()
        known = self.before.get("wandb_id")
        known = open_folder(self.config, self.folder, self.lm.model, self.fingerprint, known)
        if lacks := lacks_room(self.config, self.folder, self.lm.model):
            console.print(f"[yellow]{lacks}[/]", highlight=False)
        try:
            self.times = Times(self.folder, notice.started)
            self.wandb = start_wandb(self.config, self.data, self.folder, known)
            self.history = History(self.wandb, recorded_step(self.wandb, self.folder))
            log_data(self.wandb, self.data, self.fingerprint)
            result = self.train()
            self.history.flush()
            figures = flatten(
                {k: v for k, v in asdict(result).items() if k not in ("data", "replies", "heldout", "heldout_by_step")}
            )
            self.wandb.summary.update({k: v for k, v in figures.items() if v is not None})
            log_model(self.wandb, self.config, self.data, self.fingerprint, result)
        except Preempted as stop:
            self._leave("preempted", steps=stop.step)
            raise
        except BaseException as error:
            cause = "out_of_memory" if out_of_memory(error) else None
            self._leave("failed", error=repr(error)[:1000], cause=cause)
            raise
        self.wandb.finish()
        write_json(self.folder / "result.json", asdict(result), durable=True)
        conclude(result, self.folder, brief=bool(self.config.run.swept))
        return result

    def _leave(self, status: str, **what: Any) -> None:
        """Leaves the folder to the next start."""
        self.times.close(what.get("steps", 0))
        write_json(self.folder / "result.json", {"status": status, **what})
        if self.wandb is not None:
            self.history.drop()
            if status == "preempted":
                self.wandb.mark_preempting()
            self.wandb.finish(exit_code=1)

    def train(self) -> Result:
        """Takes part in the training; the result is the same on every rank but for its times."""
        config, data = self.config, self.data
        throughput = Throughput(config, self.lm.model, data.plan)
        logbook = Logbook(self.folder, self.before.get("rows", []), self.history, self.times, throughput)

        def about() -> dict[str, Any]:
            marks = {"attempt": self.attempt, "fingerprint": self.fingerprint}
            run = {"wandb_id": self.wandb and self.wandb.id, "rows": logbook.rows, "exam": exam.state()}
            return json.loads(json.dumps(marks | ({"run": run} if self.first else {})))

        recovery = Recovery(
            self.folder / "checkpoints", config.checkpoint, self.world, self.start, self.times, about,
            best=lambda: exam.best,
        )  # fmt: skip
        exam = Exam(data, self.history, self.times, self.before.get("exam"), recovery.pause)
        done, steps = data.start, data.plan.steps
        if self.first:
            self._fill_history(logbook, exam)

        def finish(trainer: L.Trainer, module: Any) -> None:
            logbook.close()
            exam.finish(trainer, module)
            recovery.prune()  # the last exam may have found another best
            recovery.pause(trainer, module, steps)
            self._export()
            self.times.lap("exam")
            self.times.close(steps)

        ends = LambdaCallback(on_fit_start=finish) if done == steps else LambdaCallback(on_train_end=finish)
        trainer = L.Trainer(
            **trainer_arguments(config, self.world),
            max_epochs=1,
            max_steps=steps - done,
            accumulate_grad_batches=data.plan.accumulation,
            limit_train_batches=None if done < steps else 0,
            limit_val_batches=0,
            logger=False,
            callbacks=[logbook, recovery, exam, ends],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        keep_signals(trainer)
        trainer.fit(SupervisedModule(self.lm, config, data.plan, done), data)
        return self._result(logbook, exam, recovery)

    def _fill_history(self, logbook: Logbook, exam: Exam) -> None:
        """Rows that an interruption took from W&B and a checkpoint kept."""
        self.history.add(0, {"data/masks": masks_table(self.data)} | exam.heldout.get(0, {}))
        for row in logbook.rows:
            self.history.add(row["step"], logbook.figures(row, self.data.plan) | exam.heldout.get(row["step"], {}))

    def _result(self, logbook: Logbook, exam: Exam, recovery: Recovery) -> Result:
        data, steps = self.data, self.data.plan.steps
        before, after = exam.replies[0], exam.replies[steps]
        lost = lost_time(self.folder)
        last = exam.heldout.get(steps, {})
        result = Result(
            status="finished",
            run_dir=str(self.folder),
            steps=steps,
            tokens=int(data.plan.step_tokens.sum()),
            supervised_tokens=logbook.supervised_tokens,
            supervised_tokens_per_second=logbook.tokens_per_second,
            step_seconds=statistics.median(logbook.step_seconds or [0.0]),
            model_tflops_per_second=logbook.throughput.tflops_per_second,
            mfu=logbook.throughput.mfu,
            peak_memory_bytes=max(of_all_ranks(logbook.memory.overall)),
            model_bytes=exported_bytes(self.lm.model, export_dtype(self.config)),
            seconds=lost.total if lost else time.time() - notice.started,
            heldout_loss_before=exam.heldout.get(0, {}).get("heldout/loss"),
            heldout_loss=last.get("heldout/loss"),
            heldout=last,
            heldout_by_step={step: metrics["heldout/loss"] for step, metrics in exam.heldout.items()},
            replies=[
                {"question": q, "before": old, "after": new} for (q, old), (_, new) in zip(before, after, strict=True)
            ],
            data=data.statistics(),
            lost_time=asdict(lost) if lost else {},
            saves_failed=recovery.saves_failed,
        )
        if self.first:
            tables = {"samples/replies": replies_table(before, after)}
            self.history.add(steps, tables | ({"time/lost": lost_time_table(lost)} if lost else {}))
            write(self.folder / "report.html", [render(result, logbook.rows, lost).encode()])
        return result

    def _export(self) -> None:
        save_adapter(self.lm.model, self.folder / "adapter", self.config.model.path, self.first)
        export(self.lm.model, self.data.encoder, self.folder / "hf", export_dtype(self.config))
