"""The validation loss, whole and split by turn number, by position, by source and by conversation."""

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vicuna_lit.data.batch import Batch
from vicuna_lit.data.mixture import JoinedExamples
from vicuna_lit.whole_files import cell

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
        self._examples: list[np.ndarray] = []

    def add(self, batch: Batch, losses: Float[Tensor, " S"]) -> None:
        """Adds a row's supervised tokens."""
        chosen = batch.predicting.cpu() + 1
        self._losses.append(losses.double().cpu().numpy())
        self._turns.append(_reply_numbers(batch)[chosen].numpy())
        self._positions.append(batch.position_ids[0].cpu()[chosen].numpy())
        if self._names:
            self._sources.append(np.repeat(batch.sources, batch.lengths)[chosen.numpy()])
        if batch.examples:
            self._examples.append(np.repeat(batch.examples, batch.lengths)[chosen.numpy()])

    def gather(self) -> None:
        """Brings the rows of all ranks together, on every rank."""
        if not torch.distributed.is_initialized():
            return
        everyone: list[Any] = [None] * torch.distributed.get_world_size()
        mine = (self._losses, self._turns, self._positions, self._sources, self._examples)
        torch.distributed.all_gather_object(everyone, mine)
        self._losses, self._turns, self._positions, self._sources, self._examples = (
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

    def by_conversation(self, records: np.ndarray) -> list[float]:
        """The sum of each held-out conversation's token losses, in the order of the set.

        Args:
            records: int64 [examples]: the number of the conversation that each example is a piece of.
        """
        if not self._examples:
            return []
        examples, losses = np.concatenate(self._examples), np.concatenate(self._losses)
        order = np.argsort(examples, kind="stable")  # the same sums in whatever rows they lay
        _, places = np.unique(records, return_inverse=True)
        return np.bincount(places[examples[order]], losses[order], minlength=int(places.max()) + 1).tolist()

    def metrics(self) -> dict[str, float]:
        """All of it as W&B keys."""
        metrics = {"val/loss": self.loss}
        metrics |= {f"val/loss_by_turn/{turn}": loss for turn, loss in self.by_turn().items()}
        metrics |= {f"val/loss_by_position/{bucket}": loss for bucket, loss in self.by_position().items()}
        return metrics | {f"{BY_SOURCE}{name}": loss for name, loss in self.by_source().items()}

    def _mean(self, inside: np.ndarray) -> float:
        return float(np.concatenate(self._losses)[inside].mean())


def conversations_csv(examples: JoinedExamples, sums: Mapping[int, Sequence[float]]) -> str:
    """`validation.csv`: a row for each held-out conversation, with what it lost at each of some validations.

    Columns: `conversation` (its id, below its source, as a `cell`), `supervised_tokens`, and `loss_<step>`: the mean
    over those tokens, in nats; empty of a conversation without a supervised token.

    Args:
        sums: by step, see `ValidationLoss.by_conversation`.
    """
    _, firsts, places = np.unique(examples.records, return_index=True, return_inverse=True)
    tokens = np.bincount(places, examples.supervised).astype(int).tolist()
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["conversation", "supervised_tokens", *(f"loss_{step}" for step in sums)])
    for i, (first, n) in enumerate(zip(firsts.tolist(), tokens, strict=True)):
        rows.writerow(
            [cell(examples.id_of(first)), n, *(f"{of_step[i] / n:.9g}" if n else "" for of_step in sums.values())]
        )
    return out.getvalue()


def _reply_numbers(batch: Batch) -> Tensor:
    """int64 [L]: which reply of its conversation a supervised token belongs to, from 1."""
    supervised = batch.labels[0].cpu() != -100
    opens = supervised & ~torch.cat([supervised.new_zeros(1), supervised[:-1]])
    counted = opens.cumsum(0)
    starts = torch.tensor([0, *np.cumsum(batch.lengths)[:-1].tolist()])
    before = counted[starts] - opens[starts].long()
    before = before - torch.tensor(batch.replies_before)
    return counted - torch.repeat_interleave(before, torch.tensor(batch.lengths))
