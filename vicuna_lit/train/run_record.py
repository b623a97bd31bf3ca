"""What is kept of a run from one start to its end or to the next interruption: its folder, its times, its W&B run."""

import json
import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vicuna_lit.config.compose import load
from vicuna_lit.config.renamed import with_new_names
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.data.mixture import fingerprint
from vicuna_lit.file_hashes import Hashes
from vicuna_lit.machine import is_out_of_memory
from vicuna_lit.models.automatic import on_gpu
from vicuna_lit.models.causal_lm import SupervisedLM
from vicuna_lit.models.export import export_dtype, exported_bytes
from vicuna_lit.paths import ModelError
from vicuna_lit.run_folder import RunError, flatten, identity_of
from vicuna_lit.tracking.session import Session, run_name
from vicuna_lit.train import starts
from vicuna_lit.train.callbacks.checkpointing import CheckpointCallback
from vicuna_lit.train.callbacks.metrics import MetricsCallback
from vicuna_lit.train.callbacks.validating import ValidationCallback
from vicuna_lit.train.checkpoint.format import Checkpoint
from vicuna_lit.train.console import console, spread
from vicuna_lit.train.distributed import DistributedEnv, all_gather_object, broadcast_object
from vicuna_lit.train.extensions import Extensions
from vicuna_lit.train.finite import NotFiniteError
from vicuna_lit.train.lineage import Origin
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.notes import low, notes, unmoved, worse
from vicuna_lit.train.preemption import Preempted, stop_signal
from vicuna_lit.train.report import About, about, render
from vicuna_lit.train.result import Result
from vicuna_lit.train.resume import lacks_room, open_folder
from vicuna_lit.train.times import LostTime, Opening, Times, lost_time
from vicuna_lit.train.tracking.artifacts import log_data, log_model
from vicuna_lit.train.tracking.wandb_run import (
    History,
    last_validation,
    lost_time_table,
    masks_table,
    recorded_step,
    replies_table,
    start_wandb,
)
from vicuna_lit.train.validation_loss import conversations_csv
from vicuna_lit.whole_files import sync, write, write_json

OF_AN_END = dict.fromkeys(("stop_after", "ended_early", "error", "cause"))
"""In W&B's summary of a run: what an earlier start has said of its end counts no longer."""
VOUCHED_FOR = ("hf", "adapter", "metrics.csv", "validation.csv", "times.csv", "starts.jsonl", "report.html")
"""Of the folder of a finished run: they are on the disk before `result.json` says so. A power loss would else leave a
finished run whose model has no bytes."""


class RunRecord:
    """One process's record of the run; files and W&B are the first rank's.

    Args:
        start: where the run resumes, or None: from the first step.
        origin: of a run that extends another one.

    Raises:
        RunError: the data are not those of `start`.
    """

    def __init__(
        self,
        config: TrainConfig,
        env: DistributedEnv,
        data: ConversationDataModule,
        lm: SupervisedLM,
        start: Checkpoint | None,
        extensions: Extensions,
        origin: Origin | None,
    ):
        self.config, self.env, self.data, self.lm = config, env, data, lm
        self.start, self.extensions, self.origin = start, extensions, origin
        self.folder, self.first = Path(config.run.dir), env.rank == 0
        self.fingerprint = fingerprint(data.train, data.plan)
        self.attempt = broadcast_object(uuid.uuid4().hex)
        self.resumed: dict[str, Any] = {}
        """`state()` in the checkpoint that the run resumes from."""
        self.logged: dict[str, float] = {}
        """By callbacks and an own module; the last values."""
        self.wandb_id: str | None = None
        """The run's, whatever its W&B mode."""
        self.wandb: Session | None = None
        self.history = History(None)
        """Of W&B; `open` puts the first rank's in its place."""
        if start:
            self._check(start)
            self.resumed = with_new_names(start.about["run"])
            self.logged = dict(self.resumed.get("logged", {}))
            extensions.restore(self.resumed.get("callbacks", {}))
        elif (self.folder / "metrics.csv").exists():
            console.print("nothing of the run in this folder is saved: starting from the first step", highlight=False)

    def _check(self, start: Checkpoint) -> None:
        if start.about["fingerprint"] != self.fingerprint:
            raise RunError(
                f"{self.folder}: the conversations are not those of {start.path.name}: "
                f"{', '.join(self.config.data.paths)} holds others now, or they are tokenised in another way; "
                "resume=never starts anew"
            )
        console.print(f"going on from step {start.step} of {self.data.plan.steps}", highlight=False)
        if on_gpu(self.config) and not self.config.deterministic:
            console.print(
                "on a GPU the run ends as it would have without the stop to within rounding; with deterministic=true, "
                "to the bit",
                highlight=False,
            )

    @contextmanager
    def open(self, hashes: Hashes, opening: Opening, described: dict[str, str]) -> Iterator[None]:
        """Opens folder and W&B run, and leaves both to the next start where the block ends with an exception.

        Args:
            hashes: what the run reads, as it was before it was read.
            opening: where the time of this start went until now.
            described: what was printed of the run before its first step.
        """
        self.described = described
        if not self.first:
            self.times = Times(self.folder, opening, writes=False)
            yield
            return
        self.usual = load("train").model_dump(mode="json")  # now: at the end it must not fail
        known = self.resumed.get("wandb_id")
        read = {"files": hashes, "fingerprint": self.fingerprint}
        if self.origin:
            read["lineage"] = list(self.origin.lineage)
        self.wandb_id = open_folder(self.config, self.folder, self.lm.model, read, known, self.extensions.identity)
        if lacks := lacks_room(self.config, self.folder, self.lm.model):
            console.print(f"[yellow]{lacks}[/]", highlight=False)
        self.times = Times(self.folder, opening)
        try:
            starts.begin(self.folder, spread(self.config, self.data.plan), self.start.step if self.start else 0)
            self.extensions.open_loggers()
            self.wandb = start_wandb(self.config, self.env, self.data, self.lm.model, self.wandb_id)
            self.history = History(self.wandb, recorded_step(self.wandb, Path(self.config.wandb.dir or self.folder)))
            log_data(self.wandb, self.data, self.fingerprint)
            yield
        except Preempted as stop:
            starts.end(self.folder, "told to stop", stop.step)
            self._leave("preempted", steps=stop.step)
            raise
        except BaseException as error:
            said = str(error) if isinstance(error, NotFiniteError | RunError | ModelError | OSError) else repr(error)
            starts.end(self.folder, f"failed: {said[:200]}", None)
            self._leave("failed", error=said[:1000], cause=_cause(error))
            raise

    def finish(self, result: Result) -> Result:
        """Closes W&B's run; then, as the last thing, `result.json` says that the run has finished."""
        if not self.first:
            return result
        self.history.flush()
        if self.wandb is not None:
            tables = ("data", "replies", "validation", "val_by_step", "logged", "notes", "wandb_url")
            figures = flatten({k: v for k, v in asdict(result).items() if k not in tables})
            found = {k: v for k, v in figures.items() if v not in (None, [])}
            self.wandb.summarize(OF_AN_END | found)
            if result.status == "finished":
                log_model(self.wandb, self.config, self.data, self.fingerprint, result)
            self.wandb.finish()
            result = replace(result, wandb_missed=self.wandb.failed)
        result = replace(result, identity=identity_of(self.folder))
        sync(self.folder, VOUCHED_FOR)
        write_json(self.folder / "result.json", asdict(result), durable=True)
        return result

    def _leave(self, status: str, **what: Any) -> None:
        """Leaves the folder to the next start. A full disk does not hide what went wrong."""
        with suppress(OSError):
            self.times.close(what.get("steps", 0))
        with suppress(OSError):
            write_json(self.folder / "result.json", {"status": status, **what}, durable=True)
        if self.wandb is None:
            return
        self.history.drop()
        self.wandb.summarize(OF_AN_END | {"status": status, **what})
        if status == "preempted":
            self.wandb.do("that it was told to stop", lambda run: run.mark_preempting())
        elif self.config.wandb.alert and what["cause"] != "interrupted":
            name = run_name(self.config.wandb, self.config.run)
            self.wandb.alert(f"{name} failed", f"{what['error']}\n\n{self.folder.absolute()}")
        self.wandb.finish(exit_code=1)

    def state(self, metrics: MetricsCallback, validation: ValidationCallback, ended: int | None) -> dict[str, Any]:
        """What a checkpoint says besides its tensors, as JSON values.

        Args:
            ended: the step at which a callback has ended the run, or None.
        """
        marks = {"attempt": self.attempt, "fingerprint": self.fingerprint}
        run = {
            "wandb_id": self.wandb_id,
            "rows": metrics.rows,
            "validation": validation.state(),
            "callbacks": self.extensions.state(),
            "logged": self.logged,
        }
        if ended:
            run["ended"] = {"step": ended, "why": self._why_ended()}
        return json.loads(json.dumps(marks | ({"run": run} if self.first else {})))

    def fill_history(self, metrics: MetricsCallback, validation: ValidationCallback) -> None:
        """Rows that an interruption took from W&B and a checkpoint kept."""
        if self.wandb is None:
            return
        masks = self.wandb.do("the masks", lambda _: masks_table(self.data, self.config.wandb.samples)) or {}
        self.history.add(0, masks | validation.losses.get(0, {}))
        for row in metrics.rows:
            self.history.add(row["step"], metrics.figures(row, self.data.plan) | validation.losses.get(row["step"], {}))

    def result(
        self,
        metrics: MetricsCallback,
        validation: ValidationCallback,
        checkpointing: CheckpointCallback,
        steps: int,
        stopped: bool = False,
    ) -> Result:
        """What `steps` steps came to, and `report.html`; the same on every rank but for its times.

        Args:
            stopped: the run is to go on another time.
        """
        data = self.data
        replies = zip(validation.replies[0], validation.replies.get(steps, []), strict=not stopped)
        if stopped:
            self.times.stop(steps)
        lost = lost_time(self.folder)
        last = validation.losses.get(steps, {})
        by_step = {step: losses["val/loss"] for step, losses in validation.losses.items()}
        result = Result(
            status="stopped" if stopped else "finished",
            run_dir=str(self.folder),
            steps=steps,
            planned=data.plan.steps,
            stop_after=self.config.stop_after if stopped else None,
            taken=(self.config.taken_before or 0) + data.plan.taken(steps, self.config.conversations_per_step),
            lineage=list(self.origin.lineage) if self.origin else [],
            ended_early=self._why_ended() if steps < data.plan.steps and not stopped else None,
            tokens=int(data.plan.step_tokens[:steps].sum()),
            supervised_tokens=metrics.supervised_tokens,
            supervised_tokens_per_second=metrics.tokens_per_second,
            step_seconds=statistics.median(metrics.step_seconds or [0.0]),
            model_tflops_per_second=metrics.throughput.tflops_per_second,
            mfu=metrics.throughput.mfu,
            peak_memory_bytes=max(all_gather_object(metrics.memory.overall)),
            peak_memory_reserved_bytes=max(all_gather_object(metrics.memory.reserved)),
            model_bytes=exported_bytes(self.lm.model, export_dtype(self.config)),
            seconds=lost.worked if lost else time.monotonic() - stop_signal.started,
            val_loss_before=validation.losses.get(0, {}).get("val/loss"),
            val_loss=last.get("val/loss"),
            validation=last,
            val_loss_best=validation.losses[validation.best]["val/loss"] if validation.best else None,
            val_loss_best_step=validation.best,
            val_by_step=by_step,
            logged=self.logged,
            replies=[{"question": q, "before": old, "after": new} for (q, old), (_, new) in replies],
            data=data.statistics(),
            lost_time=asdict(lost) if lost else {},
            saves_failed=checkpointing.saves_failed,
            notes=self._notes(by_step, [row["loss"] for row in metrics.rows]),
            wandb_url=self.wandb.url if self.wandb else None,
        )
        if self.first:
            self._write_last(result, metrics, validation, lost)
        return result

    def _notes(self, validations: dict[int, float], steps: list[float]) -> list[str]:
        """Of the config and its data, and of what came of them."""
        own = low(validations, steps) if self.extensions.module is not SupervisedModule else ()
        return [*self.doubts(), *own, *unmoved(self.config, validations), *worse(self.config, validations, steps)]

    def doubts(self) -> list[str]:
        """The notes that are known before the first step, as the start printed them."""
        return list(notes(self.config, self.data, getattr(self.lm.model.config, "max_position_embeddings", None)))

    def _why_ended(self) -> str:
        """Why the run has ended before its last planned step, in this start or in the one before."""
        return self.resumed.get("ended", {}).get("why") or self.extensions.reason_of_end()

    def _write_last(
        self, result: Result, metrics: MetricsCallback, validation: ValidationCallback, lost: LostTime | None
    ) -> None:
        """The tables of the last step in W&B, `validation.csv` and `report.html`."""
        if self.wandb is not None and result.status == "finished":
            before, after = validation.replies[0], validation.replies[result.steps]
            samples = self.config.wandb.samples
            replies = self.wandb.do("replies", lambda _: replies_table("samples/replies", before, after, samples))
            times = self.wandb.do("where the time went", lambda _: lost_time_table(lost)) if lost else None
            curves = self.wandb.do("the last validation", lambda _: last_validation(result.validation)) or {}
            self.history.add(result.steps, curves | (replies or {}) | ({"time/lost": times} if times else {}))
        if validation.conversations:
            found = conversations_csv(self.data.validation, validation.conversations)
            write(self.folder / "validation.csv", [found.encode()])
        starts.end(self.folder, result.status, result.steps)
        write(self.folder / "report.html", [render(result, metrics.rows, lost, self._about()).encode()])

    def _about(self) -> About:
        config = self.config.model_dump(mode="json")
        return about(self.folder, self.described, config, self.usual, starts.starts_of(self.folder))


def _cause(error: BaseException) -> str | None:
    """The kind of a failure that the user can do something about, or `interrupted`: by the user."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, NotFiniteError):
        return "not_finite"
    return "out_of_memory" if is_out_of_memory(error) else None
