"""The held-out loss, whole and split by turn number and by position in the conversation."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vicuna_lit.data.batch import Batch
from vicuna_lit.train.loss import supervised_positions

TURNS = 8
"""Replies from this one on are counted together."""


class HeldoutLoss:
    """Gathers token losses row by row; sums in float64, so the layout of the rows does not show."""

    def __init__(self) -> None:
        self._losses: list[np.ndarray] = []
        self._turns: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []

    def add(self, batch: Batch, losses: Float[Tensor, " S"]) -> None:
        """Adds a row's supervised tokens."""
        chosen = supervised_positions(batch.labels)
        self._losses.append(losses.double().cpu().numpy())
        self._turns.append(_reply_numbers(batch)[1:][chosen.cpu()].numpy())
        self._positions.append(batch.position_ids[0, 1:][chosen].cpu().numpy())

    def gather(self) -> None:
        """Brings the rows of all ranks together, on every rank."""
        if not torch.distributed.is_initialized():
            return
        everyone: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everyone, (self._losses, self._turns, self._positions))
        self._losses, self._turns, self._positions = ([x for one in everyone for x in one[i]] for i in range(3))

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

    def metrics(self) -> dict[str, float]:
        """All of it as W&B keys."""
        metrics = {"heldout/loss": self.loss}
        metrics |= {f"heldout/loss_by_turn/{turn}": loss for turn, loss in self.by_turn().items()}
        return metrics | {f"heldout/loss_by_position/{bucket}": loss for bucket, loss in self.by_position().items()}

    def _mean(self, inside: np.ndarray) -> float:
        return float(np.concatenate(self._losses)[inside].mean())


def _reply_numbers(batch: Batch) -> Tensor:
    """int64 [L]: which reply of its conversation a supervised token belongs to, from 1."""
    supervised = batch.labels[0].cpu() != -100
    opens = supervised & ~torch.cat([supervised.new_zeros(1), supervised[:-1]])
    counted = opens.cumsum(0)
    starts = torch.tensor([0, *np.cumsum(batch.lengths)[:-1].tolist()])
    before = counted[starts] - opens[starts].long()
    return counted - torch.repeat_interleave(before, torch.tensor(batch.lengths))
