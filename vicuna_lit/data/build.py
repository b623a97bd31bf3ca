"""Files of conversations → tokenised examples, with every record, turn and exchange accounted for."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from vicuna_lit.conversation import Conversation, DataError, Rejection, trim
from vicuna_lit.data.split import split
from vicuna_lit.data.tokenize import Encoder, Example

CHUNK = 512
"""Records tokenised together: enough to keep all cores busy, little enough to stay small."""


@dataclass(frozen=True)
class Examples:
    """All examples of a set, laid flat: a large set costs five bytes a token."""

    ids: tuple[str, ...]
    input_ids: np.ndarray
    """int32 [tokens]"""
    supervised_mask: np.ndarray
    """bool [tokens]"""
    offsets: np.ndarray
    """int64 [examples + 1]"""
    records: np.ndarray
    """int64 [examples]: the number of the conversation that each is a piece of."""

    @classmethod
    def of(cls, examples: Iterable[Example], records: Iterable[int] | None = None) -> "Examples":
        """Lays examples one behind the other; without `records` each is a conversation of its own."""
        listed = list(examples)
        offsets = np.cumsum([0, *(len(e.input_ids) for e in listed)], dtype=np.int64)
        input_ids = [np.empty(0, np.int32), *(e.input_ids for e in listed)]
        mask = [np.empty(0, bool), *(e.supervised for e in listed)]
        numbers = np.array(range(len(listed)) if records is None else list(records), dtype=np.int64)
        return cls(tuple(e.id for e in listed), np.concatenate(input_ids), np.concatenate(mask), offsets, numbers)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < len(self):
            raise IndexError(i)
        span = slice(self.offsets[i], self.offsets[i + 1])
        return Example(self.ids[i], self.input_ids[span], self.supervised_mask[span])

    @property
    def lengths(self) -> np.ndarray:
        """int64 [examples]: tokens of each."""
        return np.diff(self.offsets)

    @property
    def supervised(self) -> np.ndarray:
        """int64 [examples]: supervised tokens of each."""
        sums = np.concatenate([[0], np.cumsum(self.supervised_mask)])
        return sums[self.offsets[1:]] - sums[self.offsets[:-1]]


@dataclass
class Account:
    """What became of every record. `records_in` = `records_kept` + `records_rejected`."""

    records_in: int = 0
    records_kept: int = 0
    rejected_by_reason: Counter[str] = field(default_factory=Counter)
    turns_cut: int = 0
    """Turns before the first question or after the last answer."""
    exchanges_kept: int = 0
    """Questions with their answers that became part of an example."""
    exchanges_rejected_by_reason: Counter[str] = field(default_factory=Counter)
    """Exchanges lost out of records that were kept."""
    first_rejections: list[Rejection] = field(default_factory=list)

    @property
    def records_rejected(self) -> int:
        """Records of which nothing is used."""
        return sum(self.rejected_by_reason.values())

    def reject(self, rejection: Rejection) -> None:
        """Counts a record; keeps the first few to show."""
        self.rejected_by_reason[rejection.reason] += 1
        if len(self.first_rejections) < 5:
            self.first_rejections.append(rejection)

    def nothing_left(self, where: str) -> DataError:
        """The error for a set without a single example."""
        reasons = ", ".join(f"{count} × {reason}" for reason, count in self.rejected_by_reason.most_common())
        first = ""
        if self.first_rejections:
            id, reason, detail = self.first_rejections[0]
            first = f"; the first, {id}: {reason}" + (f" ({detail})" if detail else "")
        return DataError(f"{where}: none of {self.records_in} records can be used: {reasons or 'there is none'}{first}")

    def summary(self) -> dict[str, object]:
        """For `result.json` and W&B."""
        return {
            "records_in": self.records_in,
            "records_kept": self.records_kept,
            "records_rejected": self.records_rejected,
            "rejected_by_reason": dict(self.rejected_by_reason.most_common()),
            "turns_cut": self.turns_cut,
            "exchanges_kept": self.exchanges_kept,
            "exchanges_rejected_by_reason": dict(self.exchanges_rejected_by_reason.most_common()),
        }


def build(
    records: Iterable[Conversation | Rejection],
    encoder: Encoder,
    context_length: int,
    most: int | None = None,
    supervised: str = "replies",
) -> tuple[Examples, Account]:
    """Tokenises records until `most` of them are kept.

    Conversations longer than the context are split on turn boundaries, each piece with the system
    prompt; an exchange that is too long by itself is rejected and counted.

    Args:
        supervised: what the loss is taken on, see `TrainConfig.supervised`.
    """
    account, kept = Account(), []
    records = iter(records)
    while most is None or account.records_kept < most:
        chunk = list(islice(records, CHUNK if most is None else min(CHUNK, most - account.records_kept)))
        if not chunk:
            break
        kept += _build_chunk(chunk, encoder, context_length, account, supervised)
    return Examples.of((_masked(e, supervised) for _, e in kept), (number for number, _ in kept)), account


def _masked(example: Example, supervised: str) -> Example:
    match supervised:
        case "all_tokens":  # the first has nothing before it to be predicted from
            return replace(example, supervised=np.arange(len(example.input_ids)) > 0)
        case "last_reply":
            unsupervised = np.flatnonzero(~example.supervised[: np.flatnonzero(example.supervised)[-1]])
            return replace(
                example, supervised=example.supervised & (np.arange(len(example.input_ids)) > unsupervised[-1])
            )
    return example


def _build_chunk(
    chunk: list[Conversation | Rejection], encoder: Encoder, context_length: int, account: Account, supervised: str
) -> Iterator[tuple[int, Example]]:
    """Pairs of a kept record's number and an example."""
    account.records_in += len(chunk)
    usable: list[Conversation] = []
    for record in chunk:
        trimmed, cut = (record, 0) if isinstance(record, Rejection) else trim(record)
        if isinstance(trimmed, Rejection):
            account.reject(trimmed)
        else:
            account.turns_cut += cut
            usable.append(trimmed)
    most = 1 if supervised == "single_turns" else None
    for conversation, parts in zip(usable, split(usable, encoder, context_length, most=most), strict=True):
        rejections = [part.result for part in parts if isinstance(part.result, Rejection)]
        if len(rejections) == len(parts):
            account.reject(Rejection(conversation.id, *rejections[0][1:]))
            continue
        account.records_kept += 1
        for part in parts:
            if isinstance(part.result, Rejection):
                account.exchanges_rejected_by_reason[part.result.reason] += part.exchanges
            else:
                account.exchanges_kept += part.exchanges
                yield account.records_kept, part.result
