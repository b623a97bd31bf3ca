"""What a config trains on: its files, the examples in them, and the step plan of those."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vicuna_lit.conversation import Conversation, DataError, Rejection, is_heldout
from vicuna_lit.data.build import Account, Examples, build
from vicuna_lit.data.schedule import Plan, schedule
from vicuna_lit.data.tokenize import Encoder
from vicuna_lit.formats import find_files, read
from vicuna_lit.paths import locate
from vicuna_lit.train.config import TrainConfig


@dataclass(frozen=True)
class Sizes:
    """All that a plan needs to know of the examples."""

    lengths: np.ndarray
    """int64 [examples]: tokens of each."""
    supervised: np.ndarray
    """int64 [examples]: supervised tokens of each."""
    records: np.ndarray
    """int64 [examples]: the number of the conversation that each is a piece of."""

    @classmethod
    def of(cls, examples: Examples) -> "Sizes":
        """Of tokenised examples."""
        return cls(examples.lengths, examples.supervised, examples.records)


def plan_run(config: TrainConfig, sizes: Sizes, world_size: int) -> Plan:
    """The step plan of a config."""
    return schedule(
        sizes.lengths,
        sizes.supervised,
        conversations_per_step=config.conversations_per_step,
        tokens_per_device=config.tokens_per_device,
        world_size=world_size,
        seed=config.seed,
        epochs=config.trainer.epochs,
        max_steps=config.trainer.max_steps,
        packing=config.packing,
        groups=sizes.records if config.step_unit == "conversation" else None,
    )


class Source:
    """The files of a config, and the conversations in them."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.prepared = _prepared(config.data.path)
        """The folder, where `data.path` is one that `vicuna-prepare` wrote."""

    def examples(self, encoder: Encoder, heldout: bool) -> tuple[Examples, Account]:
        """Tokenised, with what became of every record.

        Raises:
            DataError: no usable conversation to train on.
        """
        data = self.config.data
        most = data.max_heldout if heldout else data.max_conversations
        if data.heldout_path is None and self.prepared is None:
            records = self._side(heldout)
        else:
            records = read(self._file(heldout))
        c = self.config
        context = (c.heldout.context_length if heldout else None) or c.context_length
        examples, account = build(records, encoder, context, most, "replies" if heldout else c.supervised)
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


def _prepared(path: str) -> Path | None:
    folder = locate(path)
    if not folder.is_dir() or not ((folder / "work").is_dir() or (folder / "manifest.json").exists()):
        return None
    if not (folder / "manifest.json").exists():
        raise DataError(f"{folder}: vicuna-prepare has not finished here; give its command again, it goes on")
    return folder
