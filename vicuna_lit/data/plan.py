"""The step plan: which examples every optimizer step holds, and how they lie on the hardware.

A pure NumPy function of numbers, computed before training starts. *Which* examples a step holds depends on data, seed
and recipe alone; *how* they lie in rows (`packing.py`) depends on world size and memory. So hardware never changes the
mathematics, and a resumed run needs one integer: the step.
"""

import ctypes
import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice

import numpy as np

from vicuna_lit.config.train import Computation, Order
from vicuna_lit.data.order import WHOLE, Shares, Units, passes
from vicuna_lit.data.packing import Rows, costs, lay_rows
from vicuna_lit.records.conversation import DataError


@dataclass(frozen=True)
class Plan:
    """A whole run. It holds about 14 bytes for each example, and no object."""

    rows: Rows
    """Indices of examples."""
    lengths: np.ndarray
    """int32 [examples]: tokens of each."""
    supervised: np.ndarray
    """int32 [examples]: supervised tokens of each."""
    tokens_per_device: int
    epochs: float
    """Passes, of which the last may be cut short."""
    one_pass: np.ndarray
    """int64 [sources]: how many units (`step_unit`) of each source the first pass takes."""
    weights: np.ndarray | None = None
    """float64 [examples]: the weights of each one's supervised tokens together; None: every token counts once."""
    left_out: tuple[int, ...] = ()
    """Steps that the plan lacks, by their number from 0 with them: each of their conversations is refused."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return len(self.rows)

    @property
    def world_size(self) -> int:
        """Ranks the plan is laid out for."""
        return self.rows.world_size

    @property
    def accumulation(self) -> int:
        """Micro-batches per optimizer step on each rank, constant over the run."""
        return self.rows.accumulation

    def of_step(self, step: int) -> np.ndarray:
        """int64 [drawn]: the examples of a step, sorted: the same for any layout."""
        start, end = self.rows.step_bounds[step : step + 2]
        return np.sort(self.rows.order[start:end]).astype(np.int64)

    def taken(self, steps: int, conversations_per_step: int) -> int:
        """Units of so many steps; the last step of the run may hold fewer than the others."""
        for place in self.left_out:
            steps += place < steps
        return min(steps * conversations_per_step, round(self.epochs * int(self.one_pass.sum())))

    @property
    def step_examples(self) -> tuple[tuple[int, ...], ...]:
        """The examples of every step; made anew each time."""
        return tuple(tuple(self.of_step(step).tolist()) for step in range(self.steps))

    def sums(self, each: np.ndarray) -> np.ndarray:
        """[steps]: the sum over each step of a number that every example has."""
        return np.array([each[self.of_step(step)].sum() for step in range(self.steps)])

    @cached_property
    def step_supervised(self) -> np.ndarray:
        """int64 [steps]: supervised tokens of each step."""
        return self.sums(self.supervised)

    @cached_property
    def denominators(self) -> np.ndarray:
        """[steps]: what the loss of each step is divided by: its supervised tokens, or their weights' sum in fp64."""
        return self.step_supervised if self.weights is None else self.sums(self.weights)

    @cached_property
    def step_tokens(self) -> np.ndarray:
        """int64 [steps]: all tokens of each step."""
        return self.sums(self.lengths)

    @property
    def capacity(self) -> int:
        """Tokens that the rows of one step could hold, on all ranks together."""
        return self.world_size * self.accumulation * self.tokens_per_device

    @property
    def fill(self) -> float:
        """Share of the rows' capacity that holds tokens; the rest is free memory, not padding."""
        return float(self.step_tokens.sum() / (self.steps * self.capacity))

    def padding(self, step: int) -> int:
        """Tokens of a step that belong to no example: one for every empty row."""
        return sum(not row for rank in self.rows[step] for row in rank)

    def rank_costs(self, step: int) -> np.ndarray:
        """float64 [world]: the cost of one step on each rank."""
        return np.array([sum(costs(self.lengths[[*chain(*rank)]])) for rank in self.rows[step]])

    def examples_hash(self, step: int) -> str:
        """Names the examples of a step, for `conversations_hash` in `metrics.csv`."""
        return hashlib.sha256(self.of_step(step).astype("<i8").tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Refused:
    """Conversations without an example, which keep their place where steps count conversations: what refuses them,
    such as a short context, then changes nothing else of the order."""

    numbers: np.ndarray
    """int64 [refused]: where they lie among `ExampleLengths.records`."""
    scores: np.ndarray
    """float64 [refused]: see `Conversation`."""


@dataclass(frozen=True)
class ExampleLengths:
    """All that a plan needs to know of the examples."""

    lengths: np.ndarray
    """int64 [examples]: tokens of each."""
    supervised: np.ndarray
    """int32 [examples]: supervised tokens of each."""
    records: np.ndarray
    """int64 [examples]: the number of the conversation that each is a piece of."""
    sources: np.ndarray
    """int64 [examples]: the number of the source of each."""
    scores: np.ndarray | None = None
    """float64 [examples]: see `Conversation`; None: not known."""
    weights: np.ndarray | None = None
    """float64 [examples]: the weights of each one's supervised tokens together; None: every token counts once."""
    refused: Refused | None = None
    """None: of a mixture, whose shares are exact in what is trained on; or not known."""


def plan_run(config: Computation, sizes: ExampleLengths, world_size: int) -> Plan:
    """The step plan of a config: `plan_steps` with its keys.

    Raises:
        DataError: the shares of the sources draw nothing, or there is no source or score to go by.
    """
    if config.order == "by_source" and not config.data.sources:
        raise DataError("order=by_source: data.sources names none; data=mixture, or order=shuffled")
    plan = plan_steps(
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
        refused=sizes.refused if config.step_unit == "conversation" else None,
        sources=sizes.sources,
        scores=sizes.scores,
        shares=Shares.of_config(config.data),
        order=config.order,
        skip=config.taken_before or 0,
    )
    return replace(plan, weights=sizes.weights)


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
    refused: Refused | None = None,
    sources: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    shares: Shares = WHOLE,
    order: Order = "shuffled",
    skip: int = 0,
) -> Plan:
    """Plans a run.

    Args:
        lengths: tokens of each example.
        supervised: supervised tokens of each example.
        conversations_per_step: units (of `groups`) in a step, on all ranks together.
        tokens_per_device: capacity of a row.
        packing: several examples to a row; False: one each.
        groups: int64 [examples]: those of one number are pieces that count as one conversation and stand in one step;
            they lie one behind the other. None: each example counts.
        refused: conversations that are drawn too, and bring nothing; of a single source, with ascending `groups`.
            A step of such alone is left out. None: there are none.
        sources: int64 [examples]: the number of the source of each; None: there is one.
        scores: float64 [examples]: for `order="by_score"`.
        shares, order: what one pass holds of each source, and how it is ordered.
        skip: units (of `groups`) at the beginning of the first pass, and of the next ones, that were taken before.

    Raises:
        ValueError: an example is longer than a row, there is none, or the pieces of one do not lie together.
        DataError: the shares draw none, or there are no scores to go by.
    """
    lengths, supervised = np.asarray(lengths), np.asarray(supervised)
    if len(lengths) and lengths.max() > tokens_per_device:
        longest = int(lengths.argmax())
        raise ValueError(
            f"conversation {longest} has {lengths[longest]} tokens, a row holds tokens_per_device={tokens_per_device}"
        )
    lengths, supervised = lengths.astype(np.int32, copy=False), supervised.astype(np.int32, copy=False)
    starts = _starts(len(lengths), groups, refused)
    of_units = _units(starts, lengths, supervised, sources, scores, refused)
    stream = passes(of_units, shares, order, seed)
    one_pass = next(stream)
    per_pass = np.bincount(of_units.sources[one_pass], minlength=len(shares.amounts))
    size, total = len(one_pass), max_steps and max_steps * conversations_per_step
    units = _drawn(chain([one_pass], stream), size, total, epochs, skip)
    del of_units, stream, one_pass  # several times as large as the plan
    left_out = () if refused is None else _empty_steps(units, starts, conversations_per_step)
    rows = lay_rows(_examples(units, starts, conversations_per_step), lengths, tokens_per_device, world_size, packing)
    return Plan(rows, lengths, supervised, tokens_per_device, len(units) / size, per_pass, left_out=left_out)


def _starts(count: int, groups: np.ndarray | None, refused: Refused | None) -> np.ndarray:
    """int64 [units + 1]: where the examples of each unit start, and where the last ends."""
    if groups is None:
        return np.arange(count + 1)
    firsts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    if len(np.unique(groups)) != len(firsts):
        raise ValueError("groups: the pieces of a conversation do not lie one behind the other")
    if refused is None:
        return np.append(firsts, count)
    numbers = np.sort(np.concatenate([groups[firsts], refused.numbers]))
    return np.append(np.searchsorted(groups, numbers), count)


def _units(
    starts: np.ndarray,
    lengths: np.ndarray,
    supervised: np.ndarray,
    sources: np.ndarray | None,
    scores: np.ndarray | None,
    refused: Refused | None,
) -> Units:
    """What a pass is made of: each unit with all its examples.

    Args:
        starts: int64 [units + 1], see `_starts`.
    """
    if not len(lengths):
        raise ValueError("there is no conversation to train on")
    tokens, said = (np.diff(np.append(0, np.cumsum(sizes, dtype=np.int64))[starts]) for sizes in (lengths, supervised))
    there = np.diff(starts) > 0

    def of_each(values: np.ndarray, of_refused: np.ndarray | int) -> np.ndarray:
        found = np.empty(len(there), values.dtype)
        found[there], found[~there] = values[starts[:-1][there]], of_refused
        return found

    found = np.zeros(len(there), np.int64) if sources is None else of_each(sources, 0)
    of_refused = np.empty(0) if refused is None else refused.scores
    return Units(tokens, said, found, None if scores is None else of_each(scores, of_refused))


def _drawn(stream: Iterable[np.ndarray], size: int, total: int | None, epochs: float, skip: int) -> np.ndarray:
    """int32 [drawn]: the units of the run, one stream of passes: a step may straddle two of them.

    Args:
        stream: passes of this size.
        total: how many; it overrides `epochs`.
        skip: units at the beginning of the stream that are left out.
    """
    total = total or max(1, round(size * epochs))
    units, filled = np.empty(total, np.int32), 0
    whole, rest = divmod(skip, size)
    for one in islice(stream, whole, None):
        taken = one[rest : rest + total - filled]
        units[filled : filled + len(taken)] = taken
        filled, rest = filled + len(taken), 0
        if filled == total:
            return units
    raise AssertionError("passes have no end")


def _examples(units: np.ndarray, starts: np.ndarray, per_step: int) -> Iterator[np.ndarray]:
    """int32: the examples of the units of each step that has one, whatever the hardware."""
    for first in range(0, len(units), per_step):
        own = units[first : first + per_step]
        counts = starts[own + 1] - starts[own]
        if not counts.any():
            continue
        skipped = np.cumsum(counts) - counts
        yield (np.repeat(starts[own] - skipped, counts) + np.arange(counts.sum())).astype(np.int32)


def _empty_steps(units: np.ndarray, starts: np.ndarray, per_step: int) -> tuple[int, ...]:
    """The steps without an example.

    Raises:
        DataError: all of them.
    """
    examples = np.add.reduceat(np.diff(starts)[units], np.arange(0, len(units), per_step))
    empty = np.flatnonzero(examples == 0)
    if len(empty) == len(examples):
        raise DataError("not one conversation of these steps fits: a larger context_length, or more steps")
    return tuple(empty.tolist())


def give_back_memory() -> None:
    """Of a million conversations glibc would keep 40 MB that planning has freed, in holes below what is still used.

    To be called once the sizes that the plan was made of are gone too.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
