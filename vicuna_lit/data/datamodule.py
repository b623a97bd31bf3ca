"""The LightningDataModule: files in, the rows of a plan out."""

import hashlib
from typing import Any

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from vicuna_lit.data.batch import Batch, PlannedRows
from vicuna_lit.data.build import Account, Examples
from vicuna_lit.data.schedule import Plan, schedule
from vicuna_lit.data.source import Sizes, Source, plan_run
from vicuna_lit.data.tokenize import Encoder
from vicuna_lit.train.config import TrainConfig


class ConversationData(L.LightningDataModule):
    """Reads and tokenises on `setup()`; afterwards `plan`, `train`, `heldout` and their accounts are there."""

    train: Examples
    heldout: Examples
    account: Account
    heldout_account: Account
    plan: Plan
    heldout_plan: Plan

    def __init__(self, config: TrainConfig, encoder: Encoder, rank: int = 0, world_size: int = 1):
        super().__init__()
        self.config, self.encoder, self.rank, self.world_size = config, encoder, rank, world_size
        self.start = 0
        """Optimizer steps that are done already; their rows are not dealt again."""
        self.source = Source(config)
        self._ready = False

    def setup(self, stage: str = "fit") -> None:
        """Builds everything once; Lightning may call it again.

        Raises:
            DataError: no usable conversation.
        """
        if self._ready:
            return
        self.train, self.account = self.source.examples(self.encoder, heldout=False)
        self.heldout, self.heldout_account = self.source.examples(self.encoder, heldout=True)
        c = self.config
        self.plan = plan_run(c, Sizes.of(self.train), self.world_size)
        if len(self.heldout):
            self.heldout_plan = schedule(
                self.heldout.lengths,
                self.heldout.supervised,
                conversations_per_step=len(self.heldout),
                tokens_per_device=max(c.tokens_per_device, int(self.heldout.lengths.max())),
                world_size=self.world_size,
                packing=c.packing,
            )
        self._ready = True

    def statistics(self) -> dict[str, Any]:
        """Counts of records, exchanges and tokens of both sets, for `result.json` and W&B."""

        def of(examples: Examples, account: Account) -> dict[str, Any]:
            supervised = int(examples.supervised_mask.sum())
            tokens = {"examples": len(examples), "tokens": len(examples.input_ids), "supervised_tokens": supervised}
            return account.summary() | tokens

        return {"train": of(self.train, self.account), "heldout": of(self.heldout, self.heldout_account)}

    def train_dataloader(self) -> DataLoader[Batch]:
        """This rank's micro-batches, in order; a run that goes on starts where it stopped."""
        rows = PlannedRows(self.train, self.plan, self.rank)
        return DataLoader(rows, batch_size=None, sampler=range(self.start * self.plan.accumulation, len(rows)))

    def fingerprint(self) -> str:
        """Names the tokens, the masks and the order in which a run takes them, whatever the layout."""
        digest = hashlib.sha256()
        for array in (self.train.input_ids, self.train.supervised_mask, self.train.lengths):
            digest.update(np.ascontiguousarray(array).data)
        for step in range(self.plan.steps):
            digest.update(self.plan.conversations_hash(step).encode())
        return digest.hexdigest()

    def heldout_rows(self) -> PlannedRows:
        """This rank's held-out rows."""
        return PlannedRows(self.heldout, self.heldout_plan, self.rank)
