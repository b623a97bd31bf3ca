"""A run stops where its numbers are no longer numbers, and nothing that holds such numbers is kept."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from vicuna_lit.train.distributed import any_rank

SHOWN = 8
"""Conversations that a message names."""


class NotFiniteError(RuntimeError):
    """A loss, a gradient norm or a weight is infinite or not a number; the message says where."""


def check_step(step: int, loss: float, grad_norm: float, conversations: Iterable[str]) -> None:
    """
    Args:
        step: the optimizer step, from 1.
        conversations: the ids of those that it held.

    Raises:
        NotFiniteError: the step's loss or gradient norm is infinite or not a number.
    """
    bad = {"loss": loss, "gradient norm": grad_norm}
    if said := [f"{name} {value}" for name, value in bad.items() if not math.isfinite(value)]:
        ids = list(dict.fromkeys(conversations))
        more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
        raise NotFiniteError(
            f"step {step}: {' and '.join(said)}; it held the conversations {', '.join(ids[:SHOWN])}{more}. "
            "Nothing of this step is kept. A lower optimizer.lr, optimizer.clip_norm=1.0 or another precision "
            "may help"
        )


def check_validation(step: int, loss: float) -> None:
    """
    Raises:
        NotFiniteError: the validation loss after `step` is infinite or not a number.
    """
    if not math.isfinite(loss):
        when = f"after step {step}" if step else "before the first step: the model itself gives such numbers"
        raise NotFiniteError(f"validation loss {loss} {when}")


def check_weights(tensors: Iterable[Tensor], step: int) -> None:
    """Takes part on all ranks.

    Raises:
        NotFiniteError: on any rank one of the tensors holds a number that is infinite or none.
    """
    if any_rank(not all_finite(tensors))[0]:
        raise NotFiniteError(f"the weights after step {step} are not all finite; nothing of them is saved")


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number of every tensor is one; integers always are."""
    return all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point())
