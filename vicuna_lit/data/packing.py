"""How the examples of each optimizer step lie in rows: dealt to the ranks by cost, then packed.

A pure NumPy function of numbers. Which examples a step holds is decided before, in `plan.py`.
"""

import heapq
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice, pairwise
from typing import Any

import numpy as np

Row = tuple[int, ...]
"""Indices of the examples that lie one after another in one micro-batch; empty where a rank has none left."""


@dataclass(frozen=True, eq=False)
class Rows(Sequence[tuple[tuple[Row, ...], ...]]):
    """`rows[step][rank][micro]`, laid flat: four bytes each time that an example is drawn, and eight a row."""

    order: np.ndarray
    """int32 [drawn]: the examples of every row, one row behind the other."""
    bounds: np.ndarray
    """int64 [rows + 1]: where each row starts, and where the last ends."""
    world_size: int
    accumulation: int
    """Rows of a rank in a step."""

    def __len__(self) -> int:
        return (len(self.bounds) - 1) // (self.world_size * self.accumulation)

    def __getitem__(self, i: Any) -> Any:
        each = self.world_size * self.accumulation
        if isinstance(i, slice):
            start, stop, stride = i.indices(len(self))
            if stride != 1:
                raise ValueError("steps that follow one another")
            return Rows(
                self.order, self.bounds[start * each : max(start, stop) * each + 1], self.world_size, self.accumulation
            )
        step = range(len(self))[i]
        return tuple(tuple(self.row(step, r, m) for m in range(self.accumulation)) for r in range(self.world_size))

    def row(self, step: int, rank: int, micro: int) -> Row:
        """One of them."""
        place = (step * self.world_size + rank) * self.accumulation + micro
        return tuple(self.order[self.bounds[place] : self.bounds[place + 1]].tolist())

    @property
    def step_bounds(self) -> np.ndarray:
        """int64 [steps + 1]: where each step starts in `order`, and where the last ends."""
        return self.bounds[:: self.world_size * self.accumulation]


def costs(lengths: np.ndarray) -> np.ndarray:
    """Relative time of examples: linear layers grow with ℓ, attention with ℓ².

    The quadratic part equals the linear one at 12 × the hidden size, about 50K tokens for a 7B
    model (Kaplan et al. 2020, §2.1: 2N + 2·layers·ℓ·d FLOPs per token).
    """
    lengths = lengths.astype(np.float64)
    return lengths * (1 + lengths / 50_000)


def lay_rows(
    steps: Iterable[np.ndarray], lengths: np.ndarray, tokens_per_device: int, world_size: int, packing: bool
) -> Rows:
    """Lays the examples of each step into rows."""
    capacity, accumulation = tokens_per_device if packing else 1, 0
    order, ends, bounds = array("i"), array("q", [0]), array("q", [0])  # lists would be ten times as large

    def measured(hand: Sequence[int]) -> tuple[list[int], list[float]]:
        own = lengths[hand]
        return own.tolist() if packing else [1] * len(hand), costs(own).tolist()

    for step in steps:
        for hand in _assign_ranks(step, costs(lengths[step]), min(world_size, len(step))):
            # By cost, the highest first; without packing in the order of the indices.
            dealt = hand if packing else sorted(hand)
            order.extend(dealt)
            ends.append(len(order))
            accumulation = max(accumulation, len(_first_pack(measured(dealt)[0], capacity)))
        ends.extend([len(order)] * (world_size - min(world_size, len(step))))
    for start, end in pairwise(ends):
        hand = order[start:end].tolist()
        if not hand:  # of a rank that has no example in this step
            bounds.extend([start] * accumulation)
            continue
        rows = _balance(hand, *measured(hand), capacity, accumulation)
        order[start:end] = array("i", chain(*rows))
        bounds.extend(islice(accumulate(map(len, rows), initial=start), 1, None))
    return Rows(np.frombuffer(order, np.int32), np.frombuffer(bounds, np.int64), world_size, accumulation)


def _assign_ranks(step: np.ndarray, cost: np.ndarray, ranks: int) -> list[list[int]]:
    """Deals a step to ranks, no more than it has examples: the dearest first, to the rank with the least so far."""
    heap: list[tuple[float, int]] = [(0.0, rank) for rank in range(ranks)]
    hands: list[list[int]] = [[] for _ in range(ranks)]
    dearest = np.lexsort((step, -cost))
    for c, own in zip(step[dearest].tolist(), cost[dearest].tolist(), strict=True):
        load, rank = heap[0]
        hands[rank].append(c)
        heapq.heapreplace(heap, (load + own, rank))
    return hands


def _first_pack(sizes: list[int], capacity: int) -> list[list[int]]:
    """As few rows as best-fit finds, for the sizes of a hand with the largest first; rows hold places in the hand."""
    rows: list[list[int]] = []
    free: list[int] = []
    for place, size in enumerate(sizes):
        fitting = [(room, i) for i, room in enumerate(free) if room >= size]
        if fitting:
            _, i = min(fitting)
            rows[i].append(place)
            free[i] -= size
        else:
            rows.append([place])
            free.append(capacity - size)
    return rows


def _balance(hand: list[int], sizes: list[int], cost: list[float], capacity: int, count: int) -> list[list[int]]:
    """The examples of a hand in exactly `count` rows of similar cost, dearest row first.

    Even rows keep the peak memory low, and row k of every rank costs about the same. Falls back
    to the tight packing where an even one does not fit.

    Args:
        sizes, cost: of each example of the hand.
    """
    even: list[list[int]] = [[] for _ in range(count)]
    load, room = [0.0] * count, [capacity] * count
    for place, size in enumerate(sizes):
        fitting = [(load[i], i) for i in range(count) if room[i] >= size]
        if not fitting:
            tight = _first_pack(sizes, capacity)
            even = [*tight, *([] for _ in range(count - len(tight)))]
            break
        _, i = min(fitting)
        even[i].append(place)
        load[i] += cost[place]
        room[i] -= size
    rows = [(-sum(cost[place] for place in row), [hand[place] for place in row]) for row in even]
    return [sorted(row) for _, row in sorted(rows)]
