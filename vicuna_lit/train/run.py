"""The train job: a config in, a run folder out."""

import json
import statistics
import time
import uuid
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LambdaCallback

from vicuna_lit.data.datamodule import ConversationData
from vicuna_lit.folder import RunError, flatten, read_json, write, write_json
from vicuna_lit.tokenizer import make_encoder
from vicuna_lit.train.checkpoint import Checkpoint
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.exam import Exam
from vicuna_lit.train.export import export, export_dtype, exported_bytes
from vicuna_lit.train.finetune import save_adapter
from vicuna_lit.train.folder import Result, already_done, changed_layout, lacks_room, locked, open_folder
from vicuna_lit.train.history import History, lost_time_table, masks_table, recorded_step, replies_table, start_wandb
from vicuna_lit.train.logbook import Logbook
from vicuna_lit.train.model import SupervisedLM, build_model
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.preemption import Preempted, notice
from vicuna_lit.train.recovery import Recovery, choose
from vicuna_lit.train.report import render
from vicuna_lit.train.strategies import keep_signals, trainer_arguments
from vicuna_lit.train.terminal import conclude, console, describe, quiet_libraries
from vicuna_lit.train.times import Times, lost_time
from vicuna_lit.train.world import World, join, launch, of_all_ranks, of_first_rank


def fit(config: TrainConfig) -> Result:
    """Runs the job, goes on with it, or finds it already done in its folder.

    With `trainer.devices` above 1 it starts that many processes and waits for them; under torchrun it is one
    of them. Told to stop (SIGTERM, SIGUSR1, Ctrl-C) it saves its state and returns a result with the status
    `preempted`; the same call goes on from there.

    Raises:
        RunError, DataError, ModelError, TemplateError, MissingPath: bad input, before anything is written
            (but for a ModelError or OSError when the disk fills).
        ProcessesFailed: a process that this one started ended with an error, which it has printed.
    """
    with notice.listening():
        notice.grace_seconds = config.checkpoint.grace_seconds
        try:
            return _fit(config)
        except Preempted as stop:
            return Result("preempted", config.run.dir, steps=stop.step)


def _fit(config: TrainConfig) -> Result:
    config, world = join(config)
    folder = Path(config.run.dir)
    console.quiet = world.rank > 0
    notice.speaks = world.rank == 0
    if not config.dry_run and (done := already_done(config, folder)):
        console.print(f"{folder} already holds this run's result; run.dir=<another folder> starts a new one.")
        conclude(done, folder)
        return done
    quiet_libraries()
    if config.trainer.devices > 1 and not config.dry_run and World.of_environment() is None:
        try:
            launch(config)
        except Preempted:
            stopped = read_json(folder, "result.json") or {}
            raise Preempted(stopped.get("steps", 0)) from None
        done = already_done(config, folder)
        assert done is not None
        return done
    L.seed_everything(config.seed, verbose=False)
    encoder = make_encoder(config)
    data = ConversationData(config, encoder, world.rank, world.size)
    data.setup()
    notice.check()
    elsewhere = config.strategy.kind == "fsdp" and world.rank > 0  # the first rank reads the weights and deals them
    model = build_model(config, encoder, "meta" if config.dry_run or elsewhere else "cpu")
    notice.check()
    describe(config, data, model)
    if config.dry_run:
        supervised = int(data.plan.step_supervised.sum())
        return Result("dry_run", str(folder), data.plan.steps, supervised_tokens=supervised, data=data.statistics())
    with locked(folder) if world.rank == 0 else nullcontext():
        return _Run(config, world, data, SupervisedLM.of(model, config), folder).run()


class _Run:
    """One process's part of a run, from one start to its end or to the next interruption."""

    def __init__(self, config: TrainConfig, world: World, data: ConversationData, lm: SupervisedLM, folder: Path):
        self.config, self.world, self.data, self.lm, self.folder = config, world, data, lm, folder
        self.first = world.rank == 0
        self.fingerprint = data.fingerprint()
        self.attempt = of_first_rank(uuid.uuid4().hex)
        self.start = self._start()
        self.before: dict[str, Any] = self.start.about["run"] if self.start else {}
        data.start = self.start.step if self.start else 0
        self.wandb: Any = None
        self.times = Times(folder, notice.started, writes=False)
        self.history = History(None)

    def _start(self) -> Checkpoint | None:
        """Where the run goes on. Raises RunError."""
        start = choose(self.folder / "checkpoints", self.config.resume, self.world)
        if start is None:
            return None
        for line in changed_layout(self.config, self.folder):
            console.print(f"another layout than before: {line}", highlight=False)
        if start.about["fingerprint"] != self.fingerprint:
            raise RunError(
                f"{self.folder}: the conversations are not those of {start.path.name}: "
                f"data.path={self.config.data.path} holds others now, or they are tokenised in another way; "
                "resume=never starts anew"
            )
        console.print(f"going on from step {start.step} of {self.data.plan.steps}", highlight=False)
        return start

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
            result = self.train()
            self.history.flush()
            figures = flatten(
                {k: v for k, v in asdict(result).items() if k not in ("data", "replies", "heldout", "heldout_by_step")}
            )
            self.wandb.summary.update({k: v for k, v in figures.items() if v is not None})
        except Preempted as stop:
            self._stopped("preempted", steps=stop.step)
            console.print(f"stopped after step {stop.step}: the same command goes on from there", highlight=False)
            raise
        except BaseException as error:
            self._stopped("failed", error=repr(error)[:1000])
            raise
        self.wandb.finish()
        write_json(self.folder / "result.json", asdict(result), durable=True)
        conclude(result, self.folder)
        return result

    def _stopped(self, status: str, **what: Any) -> None:
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
        logbook = Logbook(self.folder, self.before.get("rows", []), self.history, self.times)

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
        questions = zip(exam.before or (), exam.after, strict=True)
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
            peak_memory_bytes=max(of_all_ranks(logbook.memory.overall)),
            model_bytes=exported_bytes(self.lm.model, export_dtype(self.config)),
            seconds=time.time() - notice.started,
            heldout_loss_before=exam.heldout.get(0, {}).get("heldout/loss"),
            heldout_loss=last.get("heldout/loss"),
            heldout=last,
            heldout_by_step={step: metrics["heldout/loss"] for step, metrics in exam.heldout.items()},
            replies=[{"question": q, "before": old, "after": new} for (q, old), (_, new) in questions],
            data=data.statistics(),
            lost_time=asdict(lost) if lost else {},
            saves_failed=recovery.saves_failed,
        )
        if self.first:
            tables = {"samples/replies": replies_table(exam.before or (), exam.after)}
            self.history.add(steps, tables | ({"time/lost": lost_time_table(lost)} if lost else {}))
            write(self.folder / "report.html", [render(result, logbook.rows, lost).encode()])
        return result

    def _export(self) -> None:
        save_adapter(self.lm.model, self.folder / "adapter", self.config.model.path, self.first)
        export(self.lm.model, self.data.encoder, self.folder / "hf", export_dtype(self.config))
