"""The LightningDataModule: files in, the rows of a plan out."""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from vicuna_lit.conversation import Conversation, DataError, Rejection, is_heldout
from vicuna_lit.data.batch import Batch, PlannedRows
from vicuna_lit.data.build import Account, Examples, build
from vicuna_lit.data.schedule import Plan, schedule
from vicuna_lit.data.tokenize import Encoder
from vicuna_lit.formats import find_files, read
from vicuna_lit.paths import locate
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
        self.prepared = _prepared(config.data.path)
        """The folder, where `data.path` is one that `vicuna-prepare` wrote."""
        self._ready = False

    def setup(self, stage: str = "fit") -> None:
        """Builds everything once; Lightning may call it again.

        Raises:
            DataError: no usable conversation.
        """
        if self._ready:
            return
        self.train, self.account = self._build(heldout=False)
        self.heldout, self.heldout_account = self._build(heldout=True)
        c = self.config
        self.plan = self.planned(c, self.world_size)
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

    def planned(self, config: TrainConfig, world_size: int) -> Plan:
        """The step plan of these conversations under a config."""
        return schedule(
            self.train.lengths,
            self.train.supervised,
            conversations_per_step=config.conversations_per_step,
            tokens_per_device=config.tokens_per_device,
            world_size=world_size,
            seed=config.seed,
            epochs=config.trainer.epochs,
            max_steps=config.trainer.max_steps,
            packing=config.packing,
            groups=self.train.records if config.step_unit == "conversation" else None,
        )

    def statistics(self) -> dict[str, Any]:
        """Counts of records, exchanges and tokens of both sets, for `result.json` and W&B."""

        def of(examples: Examples, account: Account) -> dict[str, Any]:
            supervised = int(examples.supervised_mask.sum())
            tokens = {"examples": len(examples), "tokens": len(examples.input_ids), "supervised_tokens": supervised}
            return account.summary() | tokens

        return {"train": of(self.train, self.account), "heldout": of(self.heldout, self.heldout_account)}

    def _build(self, heldout: bool) -> tuple[Examples, Account]:
        data = self.config.data
        most = data.max_heldout if heldout else data.max_conversations
        if data.heldout_path is None and self.prepared is None:
            records = self._side(heldout)
        else:
            records = read(self._file(heldout))
        c = self.config
        context = (c.heldout.context_length if heldout else None) or c.context_length
        examples, account = build(records, self.encoder, context, most, "replies" if heldout else c.supervised)
        if not len(examples) and not heldout:
            raise account.nothing_left(data.path)
        return examples, account

    def _file(self, heldout: bool) -> Path:
        """Training or held-out conversations, where they are files of their own."""
        named = self.config.data.heldout_path
        if heldout and named is not None:
            return locate(named)
        if self.prepared is not None:
            return self.prepared / ("heldout.jsonl" if heldout else "train.jsonl")
        return locate(self.config.data.path)

    def _side(self, heldout: bool) -> Iterator[Conversation | Rejection]:
        """The records on one side of the split; broken ones count with the training set."""
        fraction = self.config.data.heldout_fraction
        for record in read(locate(self.config.data.path)):
            whole = isinstance(record, Conversation)
            if (whole and is_heldout(record.id, fraction)) == heldout:
                yield record

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

    @property
    def files(self) -> dict[str, Path]:
        """Where the conversations came from, by name; `heldout/…` where `data.heldout_path` names them."""
        named = self.config.data.heldout_path
        heldout = {f"heldout/{name}": file for file, name in find_files(locate(named))} if named else {}
        if self.prepared is not None:
            names = ("train.jsonl",) if named else ("train.jsonl", "heldout.jsonl")
            return {name: self.prepared / name for name in names} | heldout
        return {name: file for file, name in find_files(locate(self.config.data.path))} | heldout

    @cached_property
    def file_hashes(self) -> dict[str, str]:
        """sha256 of each of the files, as they are now."""
        out = {}
        for name, path in self.files.items():
            with path.open("rb") as file:
                out[name] = hashlib.file_digest(file, "sha256").hexdigest()
        return out

    def heldout_rows(self) -> PlannedRows:
        """This rank's held-out rows."""
        return PlannedRows(self.heldout, self.heldout_plan, self.rank)


def _prepared(path: str) -> Path | None:
    folder = locate(path)
    if not folder.is_dir() or not ((folder / "work").is_dir() or (folder / "manifest.json").exists()):
        return None
    if not (folder / "manifest.json").exists():
        raise DataError(f"{folder}: vicuna-prepare has not finished here; give its command again, it goes on")
    return folder
