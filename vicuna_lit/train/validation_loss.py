"""The validation loss, whole and split by turn number, by position in the conversation and by source."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vicuna_lit.data.batch import Batch

TURNS = 8
"""Replies from this one on are counted together."""
BY_SOURCE = "val/loss_by_source/"
"""In front of the name of a source."""


class ValidationLoss:
    """Gathers token losses row by row; sums in float64, so the layout of the rows does not show.

    Args:
        sources: names of the sources, in the order of their numbers; () leaves them out.
    """

    def __init__(self, sources: Sequence[str] = ()) -> None:
        self._names = sources
        self._losses: list[np.ndarray] = []
        self._turns: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []
        self._sources: list[np.ndarray] = []

    def add(self, batch: Batch, losses: Float[Tensor, " S"]) -> None:
        """Adds a row's supervised tokens."""
        chosen = batch.predicting.cpu() + 1
        self._losses.append(losses.double().cpu().numpy())
        self._turns.append(_reply_numbers(batch)[chosen].numpy())
        self._positions.append(batch.position_ids[0].cpu()[chosen].numpy())
        if self._names:
            self._sources.append(np.repeat(batch.sources, batch.lengths)[chosen.numpy()])

    def gather(self) -> None:
        """Brings the rows of all ranks together, on every rank."""
        if not torch.distributed.is_initialized():
            return
        everyone: list[Any] = [None] * torch.distributed.get_world_size()
        mine = (self._losses, self._turns, self._positions, self._sources)
        torch.distributed.all_gather_object(everyone, mine)
        self._losses, self._turns, self._positions, self._sources = (
            [x for one in everyone for x in one[i]] for i in range(len(mine))
        )

    @property
    def tokens(self) -> int:
        """Supervised tokens seen."""
        return sum(map(len, self._losses))

    @property
    def loss(self) -> float:
        """Mean over all supervised tokens, in nats."""
        return float(np.concatenate(self._losses).mean()) if self.tokens else float("nan")

    def by_turn(self) -> dict[str, float]:
        """Mean loss of first replies, second replies, …; `8+` from the eighth on."""
        turns = np.minimum(np.concatenate(self._turns), TURNS) if self.tokens else np.empty(0)
        return {f"{t}{'+' if t == TURNS else ''}": self._mean(turns == t) for t in np.unique(turns).tolist()}

    def by_position(self) -> dict[str, float]:
        """Mean loss by position in the conversation, in buckets that double: `0-127`, `128-255`, `256-511`, …"""
        if not self.tokens:
            return {}
        positions = np.concatenate(self._positions)
        edges = [0, 128]
        while edges[-1] <= positions.max():
            edges.append(edges[-1] * 2)
        buckets = {f"{a}-{b - 1}": (positions >= a) & (positions < b) for a, b in pairwise(edges)}
        return {name: self._mean(inside) for name, inside in buckets.items() if inside.any()}

    def by_source(self) -> dict[str, float]:
        """Mean loss of each source that has held-out conversations."""
        numbers = np.concatenate(self._sources) if self._sources else np.empty(0)
        found = {name: numbers == i for i, name in enumerate(self._names)}
        return {name: self._mean(inside) for name, inside in found.items() if inside.any()}

    def metrics(self) -> dict[str, float]:
        """All of it as W&B keys."""
        metrics = {"val/loss": self.loss}
        metrics |= {f"val/loss_by_turn/{turn}": loss for turn, loss in self.by_turn().items()}
        metrics |= {f"val/loss_by_position/{bucket}": loss for bucket, loss in self.by_position().items()}
        return metrics | {f"{BY_SOURCE}{name}": loss for name, loss in self.by_source().items()}

    def _mean(self, inside: np.ndarray) -> float:
        return float(np.concatenate(self._losses)[inside].mean())


def _reply_numbers(batch: Batch) -> Tensor:
    """int64 [L]: which reply of its conversation a supervised token belongs to, from 1."""
    supervised = batch.labels[0].cpu() != -100
    opens = supervised & ~torch.cat([supervised.new_zeros(1), supervised[:-1]])
    counted = opens.cumsum(0)
    starts = torch.tensor([0, *np.cumsum(batch.lengths)[:-1].tolist()])
    before = counted[starts] - opens[starts].long()
    before = before - torch.tensor(batch.replies_before)
    return counted - torch.repeat_interleave(before, torch.tensor(batch.lengths))
