"""The LightningDataModule: files in, the rows of a plan out.

A file's way to the loss: `vicuna-train data=x.jsonl` (`cli/train.py` and `cli/app.py`; `config/short_forms.py` makes it
`data=files data.path=x.jsonl`, `config/compose.py` a `TrainConfig`) → `train/run.py` (`fit`), `train/setup.py` →
`planned.py` (`read`: all that follows, up to the plan) → `source.py` (which files, which side of the held-out split;
where `token_cache.py` has them tokenised, nothing up to `mixture.py` is done anew) → `readers.py` (a `Conversation`; of
a record of `files.py`, by `messages.py`) → `dataset.py` (`tokenised`) → `splitting.py` (pieces) → `encoder.py`
(`Example`: ids and mask; the text is `chat_template.py`'s) → `mixture.py` (`JoinedExamples`: all sources as one set) →
`plan.py` (`plan_run`, `plan_steps`: which examples a step holds; `packing.py`: in which rows) → `batch.py` (`collate`:
a row as a `Batch`) → `models/causal_lm.py` (`SupervisedLM.row_loss`) → `models/loss.py` (`loss_sum`, over the row's
supervised tokens) → `train/module.py`, which divides by `Batch.denominator`, the step's.

- A *record* of a file is one conversation, or is rejected with a reason and counted.
- An *example* is a conversation, or a *piece* of one that is longer than `context_length`: whole exchanges, cut by
  `splitting.py`, each piece behind the system prompt. With `train_on=single_turns` each exchange is a piece. A template
  that rewrites earlier turns makes several examples of one piece (`encoder.py`).
- A *row* is a micro-batch of one device: examples one after another, without padding, at most `tokens_per_device` long
  (in a validation: or as long as the longest held-out example, where that is more). A rank that has no example left in
  a step takes an empty row: one token without loss.
- A *step* is an update of the weights: `conversations_per_step` examples (or whole conversations, see `step_unit`) on
  all devices together, in `plan.accumulation` rows on each. Which ones does not depend on how they lie in rows.
"""

from typing import Any

import lightning as L
import torch

from vicuna_lit.config.train import Computation
from vicuna_lit.data.batch import Batch, PlannedRows, PrefetchedRows
from vicuna_lit.data.encoder import Encoder
from vicuna_lit.data.planned import PlannedData


class ConversationDataModule(PlannedData, L.LightningDataModule):
    """Reads and tokenises on `setup()`; afterwards `plan`, `train`, `validation` and their reports are there.

    Args:
        encoder: None: of the config.
        rank, world_size: of this process; those of the trainer count where there is one.
    """

    def __init__(self, config: Computation, encoder: Encoder | None = None, rank: int = 0, world_size: int = 1):
        super().__init__(config, encoder, rank, world_size)
        self.start = 0
        """Optimizer steps that are done already; training starts after them. `fit` sets it when a run resumes."""

    def setup(self, stage: str = "fit") -> None:
        """Reads everything once, and plans it for the processes that there are; Lightning may call it again.

        Raises:
            DataError: no usable conversation.
        """
        if self.trainer is not None:
            self.rank, self.world_size = self.trainer.global_rank, self.trainer.world_size
        self.read()

    def train_dataloader(self) -> PrefetchedRows:
        """This rank's micro-batches, in order; a run that goes on starts where it stopped."""
        return PrefetchedRows(PlannedRows(self.train, self.plan, self.rank), self.start * self.plan.accumulation)

    def val_dataloader(self) -> Any:
        """This rank's held-out rows."""
        if not len(self.validation):
            return []
        return PrefetchedRows(PlannedRows(self.validation, self.validation_plan, self.rank))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Copies without waiting: the row's memory is pinned."""
        return batch.to(device, non_blocking=True)
