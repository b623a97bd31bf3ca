"""A row of the plan as tensors."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from vicuna_lit.data.build import Examples
from vicuna_lit.data.schedule import Plan, Row


@dataclass(frozen=True)
class Batch:
    """One micro-batch: whole conversations one behind the other, no padding.

    `labels` are −100 where not supervised, and the loss shifts them (transformers' convention).
    `position_ids` restart with every conversation; `lengths` are the conversations' tokens, summing
    to L. `denominator` is the number of supervised tokens in the whole optimizer step.
    """

    input_ids: Int[Tensor, "1 L"]
    labels: Int[Tensor, "1 L"]
    position_ids: Int[Tensor, "1 L"]
    lengths: tuple[int, ...]
    denominator: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The batch on a device."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking)
            for name in ("input_ids", "labels", "position_ids")
        }
        return replace(self, **moved)


def collate(examples: Examples, row: Row, denominator: int) -> Batch:
    """Lays the conversations of a row one behind the other.

    An empty row (a rank that has no conversation left in this step) becomes one unsupervised token,
    so that every rank runs the same number of micro-batches.
    """
    if not row:
        zero = torch.zeros(1, 1, dtype=torch.int64)
        return Batch(zero, zero - 100, zero, (1,), denominator)
    parts = [examples[c] for c in row]
    lengths = tuple(len(e.input_ids) for e in parts)

    def row_of(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays).astype(np.int64))[None]

    return Batch(
        row_of([e.input_ids for e in parts]),
        row_of([e.labels for e in parts]),
        row_of([np.arange(n) for n in lengths]),
        lengths,
        denominator,
    )


class PlannedRows(Dataset[Batch]):
    """One rank's micro-batches in the order of the plan: item `step * accumulation + micro`."""

    def __init__(self, examples: Examples, plan: Plan, rank: int = 0):
        self.examples, self.plan, self.rank = examples, plan, rank

    def __len__(self) -> int:
        return self.plan.steps * self.plan.accumulation

    def __getitem__(self, i: int) -> Batch:
        step, micro = divmod(i, self.plan.accumulation)
        row = self.plan.rows[step][self.rank][micro]
        return collate(self.examples, row, int(self.plan.step_supervised[step]))
