"""Saving the state of a run, and finding it again: `checkpoints/step-<n>` in the run folder.

The strategy writes it, each rank its own shard; a `complete` file is written last, and a checkpoint without
it does not exist.
"""

import shutil
from pathlib import Path
from typing import Any

import lightning as L

from vicuna_lit.folder import RunError, read_json, refuse_other_settings
from vicuna_lit.train.config import TrainConfig

KEPT = 2
"""Complete checkpoints that stay."""


class Checkpoints(L.Callback):
    """Saves every so many optimizer steps."""

    def __init__(self, folder: Path, every_steps: int | None):
        self.folder, self.every_steps = folder / "checkpoints", every_steps

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Saves when a step is done; the last one needs no checkpoint."""
        step, micro = divmod(batch_idx + 1, pl_module.plan.accumulation)
        if self.every_steps and not micro and step % self.every_steps == 0 and step < pl_module.plan.steps:
            self._save(trainer, step)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Lightning counts a batch as completed only after the callbacks; this one is."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["current"], progress["total"]):
            counts["completed"] = counts["processed"]

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """A finished run is its exported model."""
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _save(self, trainer: L.Trainer, step: int) -> None:
        path = self.folder / f"step-{step:08d}"
        if trainer.is_global_zero:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        trainer.strategy.barrier()
        trainer.save_checkpoint(path / "state")
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            (path / "complete").touch()
            for old in complete(self.folder.parent)[:-KEPT]:
                shutil.rmtree(old)


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints of a run folder, oldest first."""
    return sorted(p.parent for p in (folder / "checkpoints").glob("step-*/complete"))


def newest(config: TrainConfig, folder: Path) -> Path | None:
    """Where the run goes on, or None: from the start.

    Raises:
        RunError: `resume=must`, and there is no complete checkpoint; or one of a run with other settings.
    """
    found = complete(folder) if config.resume != "never" else []
    if config.resume == "must" and not found:
        raise RunError(
            f"resume=must, but {folder / 'checkpoints'} holds no complete checkpoint; resume=auto starts anew"
        )
    if not found:
        return None
    saved, wanted = read_json(folder, "config.json") or {}, config.model_dump(mode="json")
    refuse_other_settings(folder, saved | {"resume": config.resume}, wanted)
    return found[-1] / "state"
