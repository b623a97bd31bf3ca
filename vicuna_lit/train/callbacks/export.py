"""After the last step: the last validation, then the model as a folder that transformers opens."""

from typing import Any

import lightning as L

from vicuna_lit.models.adapters import save_adapter
from vicuna_lit.models.export import export, export_dtype
from vicuna_lit.train.callbacks.checkpointing import CheckpointCallback
from vicuna_lit.train.callbacks.validating import ValidationCallback
from vicuna_lit.train.finite import check_weights
from vicuna_lit.train.run_record import RunRecord


class ExportCallback(L.Callback):
    """Ends a run; the last of its callbacks.

    Args:
        done: steps that were done before this start.
        over: they are all, or a callback has ended the run there: it ends as soon as its state is in place.
    """

    def __init__(
        self, record: RunRecord, validation: ValidationCallback, checkpoints: CheckpointCallback, done: int, over: bool
    ):
        self.record, self.validation, self.checkpoints, self.done = record, validation, checkpoints, done
        self.over = over

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Nothing is left to train."""
        if self.over:
            self._end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """The last step is done."""
        if not self.over:
            self._end(trainer, pl_module)

    def _end(self, trainer: L.Trainer, module: Any) -> None:
        record, last = self.record, self.done + trainer.global_step
        self.validation.finish(trainer, module, last)
        self.checkpoints.prune()  # the last validation may have found another best
        self.checkpoints.stop_if_told(trainer, module, last)
        shards = module.strategy.local_shards(record.lm, trainer.optimizers[0])
        check_weights((piece.data for piece in shards), last)
        save_adapter(record.lm.model, record.folder / "adapter", record.config.model.path, record.first)
        export(record.lm.model, record.data.encoder, record.folder / "hf", export_dtype(record.config))
        record.times.lap("validation")
        record.times.close(last)
