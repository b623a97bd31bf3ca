"""Files of conversations → tokenised examples, with every record, turn and exchange accounted for."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from vicuna_lit.conversation import Conversation, DataError, Rejection, Turn, trim
from vicuna_lit.data.tokenize import Encoder, Example

CHUNK = 512
"""Records tokenised together: enough to keep all cores busy, little enough to stay small."""
TOO_LONG = "longer than the context"


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

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "Examples":
        """Lays examples one behind the other."""
        listed = list(examples)
        offsets = np.cumsum([0, *(len(e.input_ids) for e in listed)], dtype=np.int64)
        input_ids = [np.empty(0, np.int32), *(e.input_ids for e in listed)]
        mask = [np.empty(0, bool), *(e.supervised for e in listed)]
        return cls(tuple(e.id for e in listed), np.concatenate(input_ids), np.concatenate(mask), offsets)

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
    records: Iterable[Conversation | Rejection], encoder: Encoder, context_length: int, most: int | None = None
) -> tuple[Examples, Account]:
    """Tokenises records until `most` of them are kept.

    Conversations longer than the context are split on turn boundaries, each piece with the system
    prompt; an exchange that is too long by itself is rejected and counted.
    """
    account, kept = Account(), []
    records = iter(records)
    while most is None or account.records_kept < most:
        chunk = list(islice(records, CHUNK if most is None else min(CHUNK, most - account.records_kept)))
        if not chunk:
            break
        kept += _build_chunk(chunk, encoder, context_length, account)
    return Examples.of(kept), account


def _build_chunk(
    chunk: list[Conversation | Rejection], encoder: Encoder, context_length: int, account: Account
) -> Iterator[Example]:
    account.records_in += len(chunk)
    usable: list[Conversation] = []
    for record in chunk:
        trimmed, cut = (record, 0) if isinstance(record, Rejection) else trim(record)
        if isinstance(trimmed, Rejection):
            account.reject(trimmed)
        else:
            account.turns_cut += cut
            usable.append(trimmed)
    for conversation, parts in zip(usable, split(usable, encoder, context_length), strict=True):
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
                yield part.result


@dataclass(frozen=True)
class Part:
    """A piece of a conversation: its example or why there is none, and how many exchanges it holds."""

    result: Example | Rejection
    exchanges: int


@dataclass
class _Remainder:
    """What is still to be placed of one conversation."""

    id: str
    system: tuple[Turn, ...]
    exchanges: list[tuple[Turn, ...]]
    tokens: list[int]
    """Estimated tokens of each exchange: at first a lower bound, then as measured."""
    parts: list[Part] = field(default_factory=list)
    take: int = 0
    """Exchanges in the piece to try next."""
    start: int = 0

    def piece(self) -> Conversation:
        turns = tuple(turn for exchange in self.exchanges[: self.take] for turn in exchange)
        return Conversation(f"{self.id}_{self.start}" if self.start else self.id, (*self.system, *turns))

    def place(self, result: Example | Rejection) -> None:
        self.parts.append(Part(result, self.take))
        self.start += sum(len(exchange) for exchange in self.exchanges[: self.take])
        del self.exchanges[: self.take], self.tokens[: self.take]

    def next(self, context_length: int) -> None:
        """Chooses the piece to try next; rejects exchanges that cannot fit whatever their tokens."""
        while self.tokens and self.tokens[0] > context_length:
            self.take = 1
            self.place(Rejection(self.id, TOO_LONG, f"one exchange has over {context_length} tokens"))
        self.take = self.fitting(context_length)

    def fitting(self, context_length: int) -> int:
        """How many of the next exchanges fit, by the estimates."""
        return int(np.searchsorted(np.cumsum(self.tokens), context_length, side="right"))


def split(conversations: Iterable[Conversation], encoder: Encoder, context_length: int) -> list[list[Part]]:
    """Cuts conversations into pieces of at most `context_length` tokens, greedily, on turn boundaries.

    A piece begins with a user's turn and carries the system prompt, so every assistant turn is
    supervised exactly once. Lengths are those of the piece as tokenised, not estimates.
    """
    everything = [_remainder(c, encoder.longest_piece) for c in conversations]
    pending = everything
    while True:
        for remainder in pending:
            remainder.next(context_length)
        pending = [r for r in pending if r.exchanges]
        if not pending:
            return [r.parts for r in everything]
        trials = pending
        while trials:
            results = zip(trials, encoder.encode([r.piece() for r in trials]), strict=True)
            trials = [r for r, result in results if not _settle(r, result, context_length)]


def _settle(remainder: _Remainder, result: Example | Rejection, context_length: int) -> bool:
    """Places a piece that fits or never will; otherwise makes it smaller, for another trial."""
    if isinstance(result, Rejection) or len(result.input_ids) <= context_length:
        remainder.place(result)
        return True
    if remainder.take == 1:
        detail = f"one exchange has {len(result.input_ids)} tokens, the context {context_length}"
        remainder.place(Rejection(remainder.id, TOO_LONG, detail))
        return True
    smaller = remainder.take - 1
    remainder.tokens[: remainder.take] = _exchange_tokens(remainder, result)
    remainder.take = max(1, min(smaller, remainder.fitting(context_length)))
    return False


def _remainder(c: Conversation, longest_piece: int) -> _Remainder:
    system = c.turns[:1] if c.turns and c.turns[0].role == "system" else ()
    exchanges: list[tuple[Turn, ...]] = []
    for turn in c.turns[len(system) :]:
        if turn.role == "user" or not exchanges:
            exchanges.append((turn,))
        else:
            exchanges[-1] += (turn,)
    # No token is longer than the longest piece: a 10 MB turn is refused without seconds of tokenising.
    bounds = [max(len(t.content) for t in exchange) // longest_piece for exchange in exchanges]
    return _Remainder(c.id, system, exchanges, bounds)


def _exchange_tokens(remainder: _Remainder, whole: Example) -> list[int]:
    """Tokens of each exchange, read off where the supervised spans end."""
    ends = np.flatnonzero(np.diff(whole.supervised.astype(np.int8)) == -1) + 1
    ends = [*ends.tolist(), len(whole.input_ids)] if whole.supervised[-1] else ends.tolist()
    taken = remainder.exchanges[: remainder.take]
    replies = np.cumsum([sum(t.role == "assistant" for t in exchange) for exchange in taken])
    return np.diff([0, *(ends[r - 1] for r in replies)]).tolist()
