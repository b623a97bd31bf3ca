"""Conversations longer than the context → pieces that fit, cut on turn boundaries."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from vicuna_lit.data.cut_tokens import Whole
from vicuna_lit.data.encoder import Encoder, Example
from vicuna_lit.records.conversation import Conversation, Rejection, Turn

TOO_LONG = "longer than the context"


@dataclass(frozen=True)
class Part:
    """A piece of a conversation: its examples (more than one where the template unfolds it) or why there is none."""

    result: list[Example] | Rejection
    exchanges: int
    """Questions with their answers in it; those carried over from the piece before do not count."""
    piece: Conversation
    """The turns of the piece: the system prompt, what is carried over, and the exchanges."""


def split(
    conversations: Iterable[Conversation],
    encoder: Encoder,
    context_length: int,
    carried: int = 0,
    most: int | None = None,
) -> list[list[Part]]:
    """Cuts conversations into pieces of at most `context_length` tokens, greedily, on turn boundaries.

    A piece begins with a user's turn and carries the system prompt, so every assistant turn is
    supervised exactly once. Lengths are those of the piece as tokenised, not estimates.

    A piece also begins with the last `carried` exchanges of the one before it, as context outside
    the loss; with fewer where they do not fit together with the next exchange. Behind an exchange
    that is rejected nothing is carried: the conversation would have a gap nobody left in it.

    Args:
        most: exchanges in a piece; None: as many as fit.
    """
    everything = [_remainder(c, encoder.longest_token, most) for c in conversations]
    pending = everything
    while True:
        for remainder in pending:
            remainder.next(context_length, carried)
        pending = [r for r in pending if r.first < len(r.exchanges)]
        if not pending:
            return [r.parts for r in everything]
        trials = pending
        while trials:
            found = encoder.unfold([r.piece() for r in trials], context_length, [r.known for r in trials])
            results = zip(trials, found, strict=True)
            trials = [r for r, result in results if not _settle(r, result, encoder, context_length)]


@dataclass
class _Remainder:
    """What is still to be placed of one conversation."""

    whole: Conversation
    system: tuple[Turn, ...]
    exchanges: list[tuple[Turn, ...]]
    tokens: list[int]
    """Estimated tokens of each exchange: at first a lower bound, then as measured."""
    most: int | None
    """Exchanges in a piece."""
    parts: list[Part] = field(default_factory=list)
    first: int = 0
    """The first exchange not yet placed."""
    take: int = 0
    """Exchanges in the piece to try next."""
    carry: int = 0
    """Exchanges before them, carried over from the piece before."""
    floor: int = 0
    """The first exchange that may be carried."""
    start: int = 0
    known: Whole = field(default_factory=Whole)
    """Its tokens, as far as they have been counted."""

    def piece(self) -> Conversation:
        carried = [_unsupervised(turn) for exchange in self._slice(self.carry, 0) for turn in exchange]
        turns = [turn for exchange in self._slice(0, self.take) for turn in exchange]
        id = f"{self.whole.id}_{self.start}" if self.start else self.whole.id
        return Conversation(id, (*self.system, *carried, *turns), self.whole.tools, source=self.whole.source)

    def _slice(self, before: int, behind: int) -> list[tuple[Turn, ...]]:
        return self.exchanges[self.first - before : self.first + behind]

    def place(self, result: list[Example] | Rejection) -> None:
        self.parts.append(Part(result, self.take, self.piece()))
        self.start += sum(map(len, self._slice(0, self.take)))
        self.floor = self.first + self.take if isinstance(result, Rejection) else self.first - self.carry
        self.first += self.take
        if self.first == len(self.exchanges):
            self.known.clear()

    def next(self, context_length: int, carried: int) -> None:
        """Chooses the piece to try next; rejects exchanges that cannot fit whatever their tokens."""
        while self.first < len(self.tokens) and self.tokens[self.first] > context_length:
            self.take, self.carry = 1, 0
            self.place(Rejection(self.whole.id, TOO_LONG, f"one exchange has over {context_length} tokens"))
        self.carry = min(carried, self.first - self.floor)
        self.take = self.fitting(context_length)

    def fitting(self, context_length: int) -> int:
        """How many of the next exchanges fit behind those carried, by the estimates; one at least."""
        last = None if self.most is None else self.first + self.most
        ends = np.cumsum(self.tokens[self.first - self.carry : last])
        return max(1, int(np.searchsorted(ends, context_length, side="right")) - self.carry)

    def measure(self, encoder: Encoder, result: list[Example], context_length: int) -> int:
        """Counts the tokens of each exchange of a piece, read off where the supervised spans end.

        Returns how many of the next exchanges could be counted: examples end with the first that is too long.
        """
        piece = self.piece()
        everything = replace(piece, turns=tuple(replace(turn, supervised=True) for turn in piece.turns))
        whole = result if piece == everything else encoder.unfold([everything], context_length)[0]
        if isinstance(whole, Rejection):  # a reply out of the loss has no provable span: the estimates stay
            return self.take
        counted = _exchange_tokens(self._slice(self.carry, self.take), whole, context_length)
        first = self.first - self.carry
        self.tokens[first : first + len(counted)] = counted
        return len(counted) - self.carry


def _settle(remainder: _Remainder, result: list[Example] | Rejection, encoder: Encoder, context_length: int) -> bool:
    """Places a piece that fits or never will; otherwise makes it smaller, for another trial."""
    tokens = 0 if isinstance(result, Rejection) else max(len(example.input_ids) for example in result)
    if isinstance(result, Rejection) or tokens <= context_length:
        remainder.place(result)
        return True
    if remainder.take == 1 and not remainder.carry:
        detail = f"one exchange has {tokens} tokens, the context {context_length}"
        remainder.place(Rejection(remainder.whole.id, TOO_LONG, detail))
        return True
    smaller = remainder.take - 1
    counted = remainder.measure(encoder, result, context_length)
    if smaller:
        remainder.take = max(1, min(smaller, counted, remainder.fitting(context_length)))
    else:
        remainder.carry -= 1
        remainder.take = remainder.fitting(context_length)
    return False


def _unsupervised(turn: Turn) -> Turn:
    return replace(turn, supervised=False) if turn.role == "assistant" else turn


def _remainder(c: Conversation, longest_token: int, most: int | None) -> _Remainder:
    system = c.turns[:1] if c.turns and c.turns[0].role == "system" else ()
    exchanges: list[tuple[Turn, ...]] = []
    for turn in c.turns[len(system) :]:
        if turn.role == "user" or not exchanges:
            exchanges.append((turn,))
        else:
            exchanges[-1] += (turn,)
    # No token has more characters than the longest one: a 10 MB turn is refused without seconds of tokenising.
    bounds = [max(len(t.content) for t in exchange) // longest_token for exchange in exchanges]
    return _Remainder(c, system, exchanges, bounds, most)


def _exchange_tokens(exchanges: list[tuple[Turn, ...]], whole: list[Example], context_length: int) -> list[int]:
    """Tokens that each exchange adds to the longest example so far."""
    ends = [end for example in whole for end in _span_ends(example)]
    replies = np.cumsum([sum(t.role == "assistant" for t in exchange) for exchange in exchanges])
    longest = np.maximum.accumulate([ends[r - 1] for r in replies if r <= len(ends)])
    added = np.diff(longest, prepend=0)
    # What an exchange adds behind others is no lower bound of what it has alone, where the others are rewritten.
    return (added if len(whole) == 1 else np.minimum(added, context_length)).tolist()


def _span_ends(example: Example) -> list[int]:
    ends = np.flatnonzero(np.diff(example.supervised.astype(np.int8)) == -1) + 1
    return [*ends.tolist(), len(example.input_ids)] if example.supervised[-1] else ends.tolist()
