"""When the state of a run is saved, and how it goes on from there.

A shard is written in the background while the next step's gradients are computed: until the optimizer moves them,
the live weights are the checkpoint, so nothing is copied, and the optimizer waits for the writer. From a GPU the
numbers come on a stream of their own, piece by piece.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn

import lightning as L
import torch
from rich.markup import escape

from vicuna_lit.config.checkpoint import CheckpointConfig
from vicuna_lit.machine import is_lost_peer
from vicuna_lit.models.safetensors_stream import aside
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.checkpoint import format as checkpoint_files
from vicuna_lit.train.checkpoint.format import Checkpoint, Shards
from vicuna_lit.train.console import console
from vicuna_lit.train.distributed import DistributedEnv, all_gather_object, any_rank
from vicuna_lit.train.finite import NotFiniteError, all_finite
from vicuna_lit.train.lineage import Origin
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.preemption import Preempted, Stopped, stop_signal
from vicuna_lit.train.times import Times


class RestoreCallback(L.Callback):
    """Puts weights and optimizer back, before a script's callbacks look at them.

    Args:
        folder: the run's checkpoints.
        start: where the run goes on, or None.
        origin: of a run that extends another one: where it begins.
    """

    def __init__(self, folder: Path, env: DistributedEnv, start: Checkpoint | None, origin: Origin | None):
        self.folder, self.env, self.start, self.origin = folder, env, start, origin

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Puts the state of the checkpoint in place; newer ones are damaged or incomplete."""
        done = self.start.step if self.start else 0
        if self.env.rank == 0:
            found = checkpoint_files.find(self.folder)
            for path in [*(c.path for c in found.complete if c.step > done), *found.half_written]:
                checkpoint_files.remove(path)
        state, before = self.start, self.origin.steps if self.origin else 0
        if state is None and self.origin:
            state = self.origin.checkpoint
        if state:
            pl_module.strategy.restore(pl_module.lm, trainer.optimizers[0], Shards(state), before + done)


class CheckpointCallback(L.Callback):
    """Saves and stops. It comes behind a script's callbacks, so what they have made of a step is saved with it.

    Args:
        folder: the run's checkpoints.
        start: where the run goes on, or None.
        about: what the JSON of this rank's shard says besides the shard itself.
        best: the step with the lowest validation loss so far.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        env: DistributedEnv,
        start: Checkpoint | None,
        times: Times,
        about: Callable[[], dict[str, Any]],
        best: Callable[[], int | None],
    ):
        self.folder, self.config, self.env, self.times = folder, config, env, times
        self.about, self.best = about, best
        self.saves_failed = 0
        self.ended: int | None = None
        """The step at which a callback has ended the run."""
        self._on_disk = {start.step if start else 0}
        """Steps of which this rank's shard is whole; 0 needs none."""
        self._tried = 0
        self._writer: Thread | None = None
        self._error: BaseException | None = None
        self._clock = time.monotonic()

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """The weights are about to move: what is being written must be on disk."""
        if self._writer and pl_module.closes_step:
            if torch.cuda.is_initialized():
                torch.cuda.current_stream().synchronize()  # gradients that are on their way are the step's time
            self.times.lap("step")
            self.wait()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Between steps the ranks agree on whether to save and to stop."""
        step = pl_module.step_done(batch_idx)
        if step is None:
            if stop_signal.expired:  # of this rank alone: the others may be in the middle of the step
                self._save_last(trainer, pl_module, pl_module.last_step(batch_idx))
                raise Preempted(max(self._on_disk))
            return
        if trainer.should_stop and step < pl_module.plan.steps:
            self.ended = step  # saved with the step: a callback that has seen it does not end the run once more
        minutes = self.config.every_minutes
        late = self.env.rank == 0 and minutes and time.monotonic() - self._clock > 60 * minutes
        told, late = any_rank(stop_signal.requested, bool(late))
        if told:
            self._stop_preempted(trainer, pl_module, step)
        every = self.config.every_steps
        if late or (every and (step % every == 0 or step == pl_module.plan.steps)):
            self.save(trainer, pl_module, step)

    def stop_if_told(self, trainer: L.Trainer, module: SupervisedModule, step: int) -> None:
        """Between two rows or two questions of a validation: stops if any rank was told to.

        Raises:
            Preempted: after `step`, which is saved.
        """
        if any_rank(stop_signal.requested)[0]:
            self._stop_preempted(trainer, module, step)

    def _stop_preempted(self, trainer: L.Trainer, module: SupervisedModule, step: int) -> NoReturn:
        """Saves where all ranks have agreed to stop; names the step that all of them have on disk."""
        self._save_last(trainer, module, step)
        raise Preempted(self._saved_by_all())

    @contextmanager
    def telling_who_left(self) -> Iterator[None]:
        """Around the loop: a rank whose grace is over leaves it alone, and the others lose that rank in a collective.

        Raises:
            Preempted: in place of what the lost rank raised here; after the last step that this rank has on disk.
        """
        try:
            yield
        except RuntimeError as error:
            if not told_to_stop(error):
                raise
            raise Preempted(max(self._on_disk)) from error

    def _saved_by_all(self) -> int:
        """The last step that every rank has on disk."""
        return max(set.intersection(*all_gather_object(self._on_disk)))

    def stop_as_configured(self, trainer: L.Trainer, module: SupervisedModule, step: int) -> NoReturn:
        """Saves after a step and its validation, on all ranks, and stops as the config has asked.

        Raises:
            Stopped: after this step.
            RunError: it could not be saved.
        """
        self._save_last(trainer, module, step)
        saved = self._saved_by_all()
        if saved < step:
            raise RunError(
                f"{self.folder}: the state after step {step}, where stop_after stops, could not be saved; "
                f"the same command goes on from step {saved}"
            )
        self._describe(step)
        raise Stopped(step)

    def _describe(self, step: int) -> None:
        """What was found since a step was saved: its validation, or that a callback has ended the run there."""
        if self.env.rank:
            return
        try:
            checkpoint_files.describe(self.folder, step, self.about())
        except OSError as error:  # what was saved stays, and its validation is taken again
            console.print(f"[red]the checkpoint of step {step} could not be renewed:[/] {escape(str(error))}")

    def _save_last(self, trainer: L.Trainer, module: SupervisedModule, step: int) -> None:
        """A save of this step may be under way, and may fail: then it is tried once more."""
        self.wait()
        if step not in self._on_disk:
            self.save(trainer, module, step)
            self.wait()

    def save(self, trainer: L.Trainer, module: SupervisedModule, step: int) -> None:
        """Begins to write this rank's shard; `wait` ends it."""
        self.times.lap("step")
        about, pieces = self.about(), list(module.strategy.local_shards(module.lm, trainer.optimizers[0]))
        rank, size, on_its_stream = self.env.rank, self.env.size, aside(piece.data for piece in pieces)

        def write() -> None:
            try:
                with on_its_stream:
                    if not all_finite(piece.data for piece in pieces):
                        raise NotFiniteError("its weights or optimizer state are not all finite")
                    checkpoint_files.save(self.folder, step, rank, size, pieces, about)
            except BaseException as error:  # whatever ends this thread, nothing is saved
                self._error = error

        self._writer = Thread(target=write)
        self._writer.start()
        self._tried, self._clock = step, time.monotonic()
        self.times.lap("save")

    def wait(self) -> None:
        """Until the shard is on disk. A save that fails is said and counted; training goes on without it."""
        if self._writer is None:
            return
        self._writer.join()
        self._writer = None
        if self._error is None:
            self._on_disk.add(self._tried)
        else:
            self.saves_failed += 1
            said = self._error if isinstance(self._error, OSError | NotFiniteError) else repr(self._error)
            console.print(f"[red]the checkpoint of step {self._tried} could not be written:[/] {escape(str(said))}")
            self._error = None
        self.prune()
        self.times.lap("save")

    def prune(self) -> None:
        """Keeps the last complete ones and the best. What other ranks still write, or this one will try again, is not
        complete yet.
        """
        if self.env.rank:
            return
        found = checkpoint_files.find(self.folder)
        old = [c.path for c in found.complete[: -self.config.keep] if c.step != self.best()]
        for path in [*old, *found.half_written]:
            if path != checkpoint_files.folder_of(self.folder, self._tried):
                checkpoint_files.remove(path)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """The last one is whole, on all ranks, before anything else happens. A run that a callback has ended stays so:
        it goes on with its export."""
        step = pl_module.start + trainer.global_step
        self.ended = step if step < pl_module.plan.steps else None
        if self.config.at_end:
            self._save_last(trainer, pl_module, step)
        self.wait()
        trainer.strategy.barrier()
        if self.ended:
            self._describe(step)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """What is being written is worth having."""
        self.wait()


def find_resume_point(folder: Path, resume: str, env: DistributedEnv) -> Checkpoint | None:
    """The newest checkpoint that can be trusted, or None: from the start. All ranks share the reading.

    Raises:
        RunError: `resume=must` and there is none; or there are, and all of them are damaged.
    """
    found = checkpoint_files.find(folder)
    if resume == "never":
        return None
    damaged = []
    for candidate in reversed(found.complete):
        problems = all_gather_object(checkpoint_files.find_damage(candidate, env.rank, env.size))
        problem = next((p for p in problems if p), None)
        if problem is None:
            for line in damaged:
                console.print(f"[yellow]{line}; going on from step {candidate.step}[/]")
            return candidate
        damaged.append(f"{candidate.path.name} cannot be used: {problem}")
    if damaged:
        damaged += [f"{path.name} was never finished" for path in found.half_written]
        lines = "\n  ".join(damaged)
        raise RunError(f"{folder}: no checkpoint can be used, resume=never starts anew:\n  {lines}")
    if resume == "must":
        raise RunError(f"resume=must, but {folder} holds no complete checkpoint; resume=auto starts anew")
    if found.half_written:
        names = ", ".join(path.name for path in found.half_written)
        console.print(f"[yellow]{names}: the first save was interrupted; starting from the first step again[/]")
    return None


def told_to_stop(error: BaseException) -> bool:
    """Whether a run ends with this because it was told to stop, at this rank or at one that left before it."""
    return isinstance(error, Preempted) or (stop_signal.requested and is_lost_peer(error))
