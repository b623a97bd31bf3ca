"""A run that stops to go on later: after a step that the config names, or told to by a signal."""

from typing import Any

import lightning as L

from vicuna_lit.train.callbacks.checkpointing import CheckpointCallback, told_to_stop
from vicuna_lit.train.preemption import Stopped


class StopAfterStep(L.Callback):
    """Stops behind the step's validation, which is saved with it; no such stop is a failure to a script's loggers.

    Args:
        step: of the run; None: it goes to its end.
    """

    def __init__(self, step: int | None, checkpoints: CheckpointCallback):
        self.step, self.checkpoints = step, checkpoints

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """A run that was stopped at this step, or past it, before that step's validation."""
        if self.step is not None and pl_module.start >= self.step:
            self._stop(trainer, pl_module, pl_module.start)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The step is done."""
        if self.step is not None and pl_module.step_done(batch_idx) == self.step:
            self._stop(trainer, pl_module, self.step)

    def _stop(self, trainer: L.Trainer, module: Any, step: int) -> None:
        """A run that another callback ends at this step has ended."""
        if trainer.should_stop:
            return
        self.checkpoints.stop_as_configured(trainer, module, step)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Of the words that Lightning has for an end, MLflow takes `success` and `failed` alone."""
        if isinstance(exception, Stopped) or told_to_stop(exception):
            for logger in trainer.loggers:
                logger.finalize("success")
            trainer.loggers = []  # else Lightning tells them that the run has failed
