"""The step plan: which conversations every optimizer step holds, and how they lie on the hardware.

A pure NumPy function of numbers, computed before training starts. *Which* conversations a step
holds depends on (data, seed, conversations per step, run length) alone; *how* they are laid out in
rows depends on world size and memory. So hardware never changes the mathematics, and a resumed run
needs one integer: the step.
"""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice

import numpy as np

from vicuna_lit.config.train import Order
from vicuna_lit.data.order import WHOLE, Shares, Units, passes

Row = tuple[int, ...]
"""Indices of the examples that lie one after another in one micro-batch; empty where a rank has none left."""


@dataclass(frozen=True)
class Plan:
    """A whole run. `rows[step][rank][micro]` are indices of examples (conversations, or pieces of them)."""

    rows: tuple[tuple[tuple[Row, ...], ...], ...]
    lengths: np.ndarray
    supervised: np.ndarray
    tokens_per_device: int
    epochs: float
    """Passes, of which the last may be cut short."""
    one_pass: np.ndarray
    """int64 [units]: the number of the source of each unit (`step_unit`) that the first pass takes."""
    weights: np.ndarray | None = None
    """float64 [examples]: the weights of each one's supervised tokens together; None: every token counts once."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return len(self.rows)

    @property
    def world_size(self) -> int:
        """Ranks the plan is laid out for."""
        return len(self.rows[0])

    @property
    def accumulation(self) -> int:
        """Micro-batches per optimizer step on each rank, constant over the run."""
        return len(self.rows[0][0])

    def taken(self, steps: int, conversations_per_step: int) -> int:
        """Units of so many steps; the last step of the run may hold fewer than the others."""
        return min(steps * conversations_per_step, round(self.epochs * len(self.one_pass)))

    @cached_property
    def step_conversations(self) -> tuple[tuple[int, ...], ...]:
        """The conversations of each step, sorted: the same for any layout."""
        return tuple(tuple(sorted(c for rank in step for row in rank for c in row)) for step in self.rows)

    @cached_property
    def step_supervised(self) -> np.ndarray:
        """int64 [steps]: supervised tokens of each step."""
        return np.array([self.supervised[list(step)].sum() for step in self.step_conversations], dtype=np.int64)

    @cached_property
    def denominators(self) -> np.ndarray:
        """[steps]: what the loss of each step is divided by: its supervised tokens, or their weights' sum in fp64."""
        if self.weights is None:
            return self.step_supervised
        return np.array([self.weights[list(step)].sum() for step in self.step_conversations])

    @cached_property
    def step_tokens(self) -> np.ndarray:
        """int64 [steps]: all tokens of each step."""
        return np.array([self.lengths[list(step)].sum() for step in self.step_conversations], dtype=np.int64)

    @property
    def capacity(self) -> int:
        """Tokens that the rows of one step could hold, on all ranks together."""
        return self.world_size * self.accumulation * self.tokens_per_device

    @property
    def fill(self) -> float:
        """Share of the rows' capacity that holds tokens; the rest is free memory, not padding."""
        return float(self.step_tokens.sum() / (self.steps * self.capacity))

    def padding(self, step: int) -> int:
        """Tokens of a step that belong to no conversation: one for every empty row."""
        return sum(not row for rank in self.rows[step] for row in rank)

    def rank_costs(self, step: int) -> np.ndarray:
        """float64 [world]: the cost of one step on each rank."""
        cost = costs(self.lengths)
        return np.array([sum(cost[c] for row in rank for c in row) for rank in self.rows[step]])

    def conversations_hash(self, step: int) -> str:
        """Names the conversations of a step, for the ledger in `metrics.csv`."""
        return hashlib.sha256(np.array(self.step_conversations[step], dtype="<i8").tobytes()).hexdigest()[:16]


def cut_into_steps(
    stream: Iterable[np.ndarray],
    size: int,
    conversations_per_step: int,
    epochs: float,
    max_steps: int | None,
    skip: int = 0,
) -> list[np.ndarray]:
    """The units of every step, whatever the hardware.

    The run is one stream of passes cut into steps: a step may straddle two of them. `max_steps` overrides `epochs`.

    Args:
        stream: passes of this size.
        skip: units at its beginning that are left out.
    """
    total = max_steps * conversations_per_step if max_steps else max(1, round(size * epochs))
    whole, rest = divmod(skip, size)
    units = np.concatenate([*islice(stream, whole, whole - (-(rest + total) // size))])[rest : rest + total]
    return [units[i : i + conversations_per_step] for i in range(0, total, conversations_per_step)]


def costs(lengths: np.ndarray) -> np.ndarray:
    """Relative time of conversations: linear layers grow with ℓ, attention with ℓ².

    The quadratic part equals the linear one at 12 × the hidden size, about 50K tokens for a 7B
    model (Kaplan et al. 2020, §2.1: 2N + 2·layers·ℓ·d FLOPs per token).
    """
    lengths = lengths.astype(np.float64)
    return lengths * (1 + lengths / 50_000)


def plan_steps(
    lengths: Sequence[int] | np.ndarray,
    supervised: Sequence[int] | np.ndarray,
    *,
    conversations_per_step: int,
    tokens_per_device: int,
    world_size: int = 1,
    seed: int = 0,
    epochs: float = 1,
    max_steps: int | None = None,
    packing: bool = True,
    groups: np.ndarray | None = None,
    sources: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    shares: Shares = WHOLE,
    order: Order = "shuffled",
    skip: int = 0,
) -> Plan:
    """Plans a run.

    Args:
        lengths: tokens of each conversation.
        supervised: supervised tokens of each conversation.
        conversations_per_step: on all ranks together.
        tokens_per_device: capacity of a row.
        packing: several conversations to a row; False: one each.
        groups: int64 [conversations]: those of one number are pieces that count as one conversation and stand in one
            step; None: each counts.
        sources: int64 [conversations]: the number of the source of each; None: there is one.
        scores: float64 [conversations]: for `order="by_score"`.
        shares, order: what one pass holds of each source, and how it is ordered.
        skip: units (of `groups`) at the beginning of the first pass, and of the next ones, that were taken before.

    Raises:
        ValueError: a conversation is longer than a row, or there is none.
        DataError: the shares draw none, or there are no scores to go by.
    """
    lengths, supervised = np.asarray(lengths), np.asarray(supervised)
    if len(lengths) and lengths.max() > tokens_per_device:
        longest = int(lengths.argmax())
        raise ValueError(
            f"conversation {longest} has {lengths[longest]} tokens, a row holds tokens_per_device={tokens_per_device}"
        )
    members = _members(np.arange(len(lengths)) if groups is None else groups)
    of_units = _units(members, lengths, supervised, sources, scores)
    stream = passes(of_units, shares, order, seed)
    one_pass = next(stream)
    units = cut_into_steps(chain([one_pass], stream), len(one_pass), conversations_per_step, epochs, max_steps, skip)
    steps = [np.concatenate([members[unit] for unit in step]) for step in units]
    rows = _rows(steps, lengths, tokens_per_device, world_size, packing)
    run = sum(map(len, units)) / len(one_pass)
    return Plan(rows, lengths, supervised, tokens_per_device, run, of_units.sources[one_pass])


def _rows(
    steps: list[np.ndarray], lengths: np.ndarray, tokens_per_device: int, world_size: int, packing: bool
) -> tuple[tuple[tuple[Row, ...], ...], ...]:
    """Lays the conversations of each step into rows: [step][rank][micro-batch]."""
    price = costs(lengths)
    dealt = [_assign_ranks(step, price, world_size) for step in steps]
    # By cost, the highest first; without packing in the order of the indices.
    hands = dealt if packing else [[sorted(hand) for hand in step] for step in dealt]
    capacity = tokens_per_device if packing else 1
    sizes: list[int] = (lengths if packing else np.ones_like(lengths)).tolist()
    cost: list[float] = price.tolist()
    packed = [[_first_pack(hand, sizes, capacity) for hand in step] for step in hands]
    accumulation = max(len(rows) for step in packed for rows in step)
    return tuple(
        tuple(_balance(hand, tight, sizes, cost, capacity, accumulation) for hand, tight in zip(*both, strict=True))
        for both in zip(hands, packed, strict=True)
    )


def _units(
    members: list[np.ndarray],
    lengths: np.ndarray,
    supervised: np.ndarray,
    sources: np.ndarray | None,
    scores: np.ndarray | None,
) -> Units:
    """What a pass is made of: each unit with all its conversations."""
    if not members:
        raise ValueError("there is no conversation to train on")
    ends = np.cumsum([len(own) for own in members])
    order, starts = np.concatenate(members), np.array([0, *ends[:-1]])
    found = np.zeros(len(order), np.int64) if sources is None else sources[order]
    tokens, said = (np.add.reduceat(sizes[order], starts) for sizes in (lengths, supervised))
    return Units(tokens, said, found[starts], None if scores is None else scores[order][starts])


def _members(groups: np.ndarray) -> list[np.ndarray]:
    """The indices of each group, groups in the order in which they first appear."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[inverse]
    return np.split(np.argsort(rank, kind="stable"), np.cumsum(np.bincount(rank))[:-1]) if len(groups) else []


def _assign_ranks(step: np.ndarray, cost: np.ndarray, ranks: int) -> list[list[int]]:
    """Deals a step to ranks: the dearest conversation first, always to the rank with the least so far."""
    heap: list[tuple[float, int]] = [(0.0, rank) for rank in range(ranks)]
    hands: list[list[int]] = [[] for _ in range(ranks)]
    dearest = step[np.lexsort((step, -cost[step]))]
    for c, own in zip(dearest.tolist(), cost[dearest].tolist(), strict=True):
        load, rank = heap[0]
        hands[rank].append(c)
        heapq.heapreplace(heap, (load + own, rank))
    return hands


def _first_pack(hand: list[int], sizes: list[int], capacity: int) -> list[list[int]]:
    """As few rows as best-fit finds, for a hand with the largest first."""
    rows: list[list[int]] = []
    free: list[int] = []
    for c in hand:
        size = sizes[c]
        fitting = [(room, i) for i, room in enumerate(free) if room >= size]
        if fitting:
            _, i = min(fitting)
            rows[i].append(c)
            free[i] -= size
        else:
            rows.append([c])
            free.append(capacity - size)
    return rows


def _balance(
    hand: list[int], rows: list[list[int]], sizes: list[int], cost: list[float], capacity: int, count: int
) -> tuple[Row, ...]:
    """The same conversations in exactly `count` rows of similar cost, dearest row first.

    Even rows keep the peak memory low, and row k of every rank costs about the same. Falls back
    to the tight packing where an even one does not fit.
    """
    even: list[list[int]] = [[] for _ in range(count)]
    load, room = [0.0] * count, [capacity] * count
    for c in hand:
        size = sizes[c]
        fitting = [(load[i], i) for i in range(count) if room[i] >= size]
        if not fitting:
            even = [*rows, *([] for _ in range(count - len(rows)))]
            break
        _, i = min(fitting)
        even[i].append(c)
        load[i] += cost[c]
        room[i] -= size
    even.sort(key=lambda row: (-sum(cost[c] for c in row), row))
    return tuple(tuple(sorted(row)) for row in even)
