"""When the state of a run is saved, and how it goes on from there.

A shard is written in the background while the next step's gradients are computed: until the optimizer moves them,
the live weights are the checkpoint, so nothing is copied, and the optimizer waits for the writer.
"""

import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import lightning as L

from vicuna_lit.folder import RunError
from vicuna_lit.train import checkpoint as files
from vicuna_lit.train.checkpoint import Checkpoint, Shards
from vicuna_lit.train.config import CheckpointConfig
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.preemption import Preempted, notice
from vicuna_lit.train.state import held, restore
from vicuna_lit.train.terminal import console
from vicuna_lit.train.times import Times
from vicuna_lit.train.world import World, any_rank, of_all_ranks


class Recovery(L.Callback):
    """Restores, saves and stops.

    Args:
        folder: the run's checkpoints.
        start: where the run goes on, or None.
        about: what the JSON of this rank's shard says besides the shard itself.
        best: the step with the lowest held-out loss so far.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        world: World,
        start: Checkpoint | None,
        times: Times,
        about: Callable[[], dict[str, Any]],
        best: Callable[[], int | None],
    ):
        self.folder, self.config, self.world, self.start, self.times = folder, config, world, start, times
        self.about, self.best = about, best
        self.saves_failed = 0
        self._saved = self._before = start.step if start else 0
        self._writer: Thread | None = None
        self._error: OSError | None = None
        self._clock = time.monotonic()

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Puts the state of the checkpoint in place; what lies behind it is damaged, or was never whole."""
        done = self.start.step if self.start else 0
        if self.world.rank == 0:
            found = files.find(self.folder)
            for path in [*(c.path for c in found.complete if c.step > done), *found.half_written]:
                files.remove(path)
        if self.start:
            restore(pl_module.lm, trainer.optimizers[0], Shards(self.start), self.start.step)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """The weights are about to move: what is being written must be on disk."""
        if self._writer and pl_module.closes_step:
            self.times.lap("step")
            self.wait()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Between steps the ranks agree on whether to save and to stop."""
        step = pl_module.step_done(batch_idx)
        if step is None:
            if notice.overdue:
                self._stop(trainer, pl_module, pl_module.last_step(batch_idx))
            return
        minutes = self.config.every_minutes
        late = self.world.rank == 0 and minutes and time.monotonic() - self._clock > 60 * minutes
        told, late = any_rank(notice.given, bool(late))
        if told:
            self._stop(trainer, pl_module, step)
        every = self.config.every_steps
        if late or (every and (step % every == 0 or step == pl_module.plan.steps)):
            self.save(trainer, pl_module, step)

    def pause(self, trainer: L.Trainer, module: SupervisedModule, step: int) -> None:
        """Between two questions of an exam: stops if any rank was told to.

        Raises:
            Preempted: after `step`, which is saved.
        """
        if any_rank(notice.given)[0]:
            self._stop(trainer, module, step)

    def _stop(self, trainer: L.Trainer, module: SupervisedModule, step: int) -> None:
        if step > self._saved:
            self.wait()
            self.save(trainer, module, step)
        self.wait()
        raise Preempted(self._saved)

    def save(self, trainer: L.Trainer, module: SupervisedModule, step: int) -> None:
        """Begins to write this rank's shard; `wait` ends it."""
        self.times.lap("step")
        about, pieces = self.about(), list(held(module.lm, trainer.optimizers[0]))
        rank, size = self.world.rank, self.world.size

        def write() -> None:
            try:
                files.save(self.folder, step, rank, size, pieces, about)
            except OSError as error:
                self._error = error

        self._writer = Thread(target=write)
        self._writer.start()
        self._before, self._saved, self._clock = self._saved, step, time.monotonic()
        self.times.lap("save")

    def wait(self) -> None:
        """Until the shard is on disk. A save that fails is said and counted; training goes on without it."""
        if self._writer is None:
            return
        self._writer.join()
        self._writer = None
        if self._error is not None:
            self.saves_failed += 1
            console.print(f"[red]the checkpoint of step {self._saved} could not be written:[/] {self._error}")
            self._error, self._saved = None, self._before
        self.prune()
        self.times.lap("save")

    def prune(self) -> None:
        """Keeps the last complete ones and the best. What another rank is still writing is not complete yet."""
        if self.world.rank:
            return
        found = files.find(self.folder)
        old = [c.path for c in found.complete[: -self.config.keep] if c.step != self.best()]
        for path in [*old, *found.half_written]:
            if path != files.folder_of(self.folder, self._saved):
                files.remove(path)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """The last one is whole, on all ranks, before anything else happens."""
        self.wait()
        trainer.strategy.barrier()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """What is being written is worth having."""
        self.wait()


def choose(folder: Path, resume: str, world: World) -> Checkpoint | None:
    """The newest checkpoint that can be trusted, or None: from the start. All ranks share the reading.

    Raises:
        RunError: `resume=must` and there is none; or there are, and all of them are damaged.
    """
    found = files.find(folder)
    if resume == "never":
        return None
    damaged = []
    for candidate in reversed(found.complete):
        problems = of_all_ranks(files.damage(candidate, world.rank, world.size))
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
