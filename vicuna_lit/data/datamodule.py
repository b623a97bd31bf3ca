"""The LightningDataModule: files in, the rows of a plan out.

A file's way to the loss: `source.py` (which files, which side of the split) → `readers.py` (`Conversation`) →
`dataset.py` (`tokenised`) → `encoder.py` (`Example`: ids and mask) → `packing.py` (`Plan`) → `batch.py` (`Batch`) →
`models/causal_lm.py` (`SupervisedLM.loss_sum`) → `train/module.py`, which divides by the step's supervised tokens.

- An *example* is a conversation, or a *piece* of one that is longer than `context_length`: whole exchanges, cut by
  `splitting.py`, each piece behind the system prompt.
- A *row* is a micro-batch of one device: examples one after another, without padding, at most `tokens_per_device` long.
- A *step* is an update of the weights: `conversations_per_step` examples (or whole conversations, see `step_unit`) on
  all devices together, in `plan.accumulation` rows on each. Which ones does not depend on how they lie in rows.
"""

from typing import Any

import lightning as L
import numpy as np
import torch

from vicuna_lit.config.train import Computation
from vicuna_lit.data.batch import Batch, PlannedRows, PrefetchedRows
from vicuna_lit.data.dataset import DataReport
from vicuna_lit.data.encoder import Encoder
from vicuna_lit.data.mixture import JoinedExamples, drawn, statistics, total
from vicuna_lit.data.packing import Plan, plan_steps
from vicuna_lit.data.source import ExampleLengths, Sources, plan_run
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.hub import fetched


class ConversationDataModule(L.LightningDataModule):
    """Reads and tokenises on `setup()`; afterwards `plan`, `train`, `validation` and their reports are there.

    Args:
        encoder: None: of the config.
        rank, world_size: of this process; those of the trainer count where there is one.
    """

    train: JoinedExamples
    validation: JoinedExamples
    reports: dict[str, DataReport]
    """What became of every record, by the name of its source; an empty name where there is but one."""
    validation_reports: dict[str, DataReport]
    plan: Plan
    validation_plan: Plan

    def __init__(self, config: Computation, encoder: Encoder | None = None, rank: int = 0, world_size: int = 1):
        super().__init__()
        config = fetched(config, weights=False)
        self.config, self.encoder = config, encoder or make_encoder(config)
        self.rank, self.world_size = rank, world_size
        self.start = 0
        """Optimizer steps that are done already; training starts after them. `fit` sets it when a run resumes."""
        self.source = Sources(config)

    def setup(self, stage: str = "fit") -> None:
        """Reads everything once, and plans it for the processes that there are; Lightning may call it again.

        Raises:
            DataError: no usable conversation.
        """
        if self.trainer is not None:
            self.rank, self.world_size = self.trainer.global_rank, self.trainer.world_size
        if hasattr(self, "plan") and self.plan.world_size == self.world_size:
            return
        if not hasattr(self, "validation"):
            self.train, self.reports = self.source.examples(self.encoder, validation=False)
            self.validation, self.validation_reports = self.source.examples(self.encoder, validation=True)
        c = self.config
        self.plan = plan_run(c, ExampleLengths.of(self.train), self.world_size)
        if len(self.validation):
            self.validation_plan = plan_steps(
                self.validation.lengths,
                self.validation.supervised,
                conversations_per_step=len(self.validation),
                tokens_per_device=max(c.tokens_per_device, int(self.validation.lengths.max())),
                world_size=self.world_size,
                packing=c.packing,
            )

    @property
    def report(self) -> DataReport:
        """What became of all records to train on."""
        return total(self.reports.values())

    @property
    def drawn(self) -> dict[str, dict[str, Any]]:
        """What the run takes of each source, see `mixture.drawn`."""
        order = np.concatenate([np.array(step, np.int64) for step in self.plan.step_conversations])
        return drawn(self.train, order, self.plan.one_pass)

    def statistics(self) -> dict[str, Any]:
        """Counts of both sets (`mixture.statistics`) and what is drawn of each source, for `result.json` and W&B."""
        train, validation = statistics(self.train, self.reports), statistics(self.validation, self.validation_reports)
        for source, taken in self.drawn.items() if self.config.data.sources else ():
            train["sources"][source]["drawn"] = taken
        return {"train": train, "validation": validation}

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

    def conversations_of(self, step: int) -> list[str]:
        """The ids of the conversations in an optimizer step, from 1."""
        return [self.train.id_of(i) for rank in self.plan.rows[step - 1] for row in rank for i in row]
