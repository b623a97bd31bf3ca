"""A row of the plan as tensors."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from vicuna_lit.data.dataset import Examples
from vicuna_lit.data.mixture import JoinedExamples
from vicuna_lit.data.packing import Row
from vicuna_lit.data.plan import Plan


@dataclass(frozen=True)
class Batch:
    """One micro-batch: whole conversations one behind the other, no padding.

    `labels` are −100 where not supervised, and the loss shifts them (transformers' convention).
    `position_ids` restart with every conversation; `lengths` are the conversations' tokens, summing
    to L. `denominator` is the number of supervised tokens in the whole optimizer step, or the sum of
    their weights. `weights` has those of the tokens, if one counts other than once. `sources` has the number of the
    source of each conversation, from 0, `examples` its place in the set; () where nobody asks.
    """

    input_ids: Int[Tensor, "1 L"]
    labels: Int[Tensor, "1 L"]
    position_ids: Int[Tensor, "1 L"]
    lengths: tuple[int, ...]
    denominator: int | float
    replies_before: tuple[int, ...] = (0,)
    """For each conversation of the row, see `Example`."""
    sources: tuple[int, ...] = ()
    examples: tuple[int, ...] = ()
    weights: Float[Tensor, "1 L"] | None = None

    @cached_property
    def predicting(self) -> Int[Tensor, " S"]:
        """The positions of the row whose next token is supervised."""
        return (self.labels[0, 1:] != -100).nonzero()[:, 0]

    @cached_property
    def targets(self) -> Int[Tensor, " S"]:
        """The tokens that they predict."""
        return self.labels[0, 1:][self.predicting]

    @cached_property
    def target_weights(self) -> Float[Tensor, " S"] | None:
        """How much each of them counts in the loss; None: each once."""
        return None if self.weights is None else self.weights[0, 1:][self.predicting]

    @cached_property
    def bounds(self) -> Int[Tensor, " bounds"]:
        """int32, one more than conversations: where each starts, and where the last ends (`cu_seqlens`)."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """What a model reads, on a device; `labels` and `weights` stay where they are."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """In memory from which a GPU copies without making the program wait."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """What follows from the labels is computed on the CPU, before the copy; a GPU would be waited for."""
        batch = replace(self, input_ids=change(self.input_ids), position_ids=change(self.position_ids))
        for name in ("predicting", "targets", "target_weights", "bounds"):
            value = getattr(self, name)
            batch.__dict__[name] = None if value is None else change(value)
        return batch


def collate(examples: Examples | JoinedExamples, row: Row, denominator: int | float) -> Batch:
    """Lays the conversations of a row one behind the other.

    An empty row (a rank that has no conversation left in this step) becomes one unsupervised token,
    so that every rank runs the same number of micro-batches.
    """
    if not row:
        zero = torch.zeros(1, 1, dtype=torch.int64)
        return Batch(zero, zero - 100, zero, (1,), denominator, replies_before=(0,), sources=(0,), examples=(0,))
    parts = [examples[c] for c in row]
    lengths = tuple(len(e.input_ids) for e in parts)

    def row_of(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays).astype(np.int64))[None]

    weights = None
    if any(e.weights is not None for e in parts):
        weights = torch.from_numpy(np.concatenate([e.counted for e in parts]))[None]
    return Batch(
        row_of([e.input_ids for e in parts]),
        row_of([e.labels for e in parts]),
        row_of([np.arange(n) for n in lengths]),
        lengths,
        denominator,
        replies_before=tuple(e.replies_before for e in parts),
        sources=tuple(examples.source_of(c) for c in row),
        examples=tuple(row),
        weights=weights,
    )


class PlannedRows(Dataset[Batch]):
    """One rank's micro-batches in the order of the plan: item `step * accumulation + micro`."""

    def __init__(self, examples: Examples | JoinedExamples, plan: Plan, rank: int = 0):
        self.examples, self.plan, self.rank = examples, plan, rank

    def __len__(self) -> int:
        return self.plan.steps * self.plan.accumulation

    def __getitem__(self, i: int) -> Batch:
        step, micro = divmod(i, self.plan.accumulation)
        row = self.plan.rows.row(step, self.rank, micro)
        return collate(self.examples, row, self.plan.denominators[step].item())


class PrefetchedRows:
    """Rows from `start` on; each is made in a thread while the one before it is trained on, and pinned for a GPU."""

    def __init__(self, rows: PlannedRows, start: int = 0):
        self.rows, self.start = rows, start

    def __len__(self) -> int:
        return len(self.rows) - self.start

    def __iter__(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(1, "rows") as thread:
            coming = [thread.submit(self._row, self.start)] if len(self) else []
            for i in range(self.start, len(self.rows)):
                batch = coming.pop().result()
                if i + 1 < len(self.rows):
                    coming.append(thread.submit(self._row, i + 1))
                yield batch

    def _row(self, i: int) -> Batch:
        batch = self.rows[i]
        return batch.pin_memory() if torch.cuda.is_initialized() else batch
