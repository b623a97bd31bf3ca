"""The loss: only supervised positions reach the LM head, and full logits never exist."""

from importlib.util import find_spec

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear_cross_entropy

from vicuna_lit.paths import ModelError

LOGITS = 2**25
"""Logits that exist at one time, 128 MiB of them, whatever the context and the vocabulary."""


def chunk(vocabulary: int) -> int:
    """Positions whose logits exist at one time; more than 512 are not faster."""
    return max(1, min(512, LOGITS // vocabulary))


def supervised_positions(labels: Int[Tensor, "1 L"]) -> Bool[Tensor, " M"]:
    """Which of the L − 1 positions predict a supervised token: position t predicts label t + 1."""
    return labels[0, 1:] != -100


def loss_sum(
    hidden: Float[Tensor, "1 L D"], head: Float[Tensor, "V D"], labels: Int[Tensor, "1 L"], how: str = "chunked"
) -> Float[Tensor, ""]:
    """Sum of the cross-entropies of the supervised tokens, in nats, computed in fp32.

    Args:
        how: `chunked` (torch's fused head), `plain` (full logits of the supervised positions), or `liger`
            (Liger's fused head, GPU).
    """
    chosen = supervised_positions(labels)
    if not chosen.any():
        return (hidden.sum() + head.sum()) * 0
    return chosen_loss(hidden[0, :-1][chosen], head, labels[0, 1:][chosen], how)


def chosen_loss(
    states: Float[Tensor, "S D"], head: Float[Tensor, "V D"], targets: Int[Tensor, " S"], how: str
) -> Float[Tensor, ""]:
    """The same of the positions that reach the head, and the tokens that they predict."""
    with torch.autocast(states.device.type, enabled=False):
        states, weight = states.float(), head.float()
        match how:
            case "plain":
                return cross_entropy(states @ weight.T, targets, reduction="sum")
            case "liger":
                from liger_kernel.transformers.functional import (  # pyright: ignore[reportMissingImports]
                    liger_fused_linear_cross_entropy,
                )

                return liger_fused_linear_cross_entropy(states, weight, targets, reduction="sum")
            case _:
                options = nn.LinearCrossEntropyOptions(
                    acc_policy="accurate", batch_chunk_size=chunk(len(weight)), chunking_method=None
                )
                return linear_cross_entropy(states, weight, targets, reduction="sum", options=options)


def require(how: str) -> None:
    """Stops where a head cannot run.

    Raises:
        ModelError: what is missing, and what to choose instead.
    """
    if how == "liger" and not (torch.cuda.is_available() and find_spec("liger_kernel")):
        raise ModelError("head=liger needs an NVIDIA GPU and pip install liger-kernel; head=chunked runs anywhere")


@torch.no_grad()
def token_losses(
    hidden: Float[Tensor, "1 L D"], head: Float[Tensor, "V D"], labels: Int[Tensor, "1 L"]
) -> Float[Tensor, " S"]:
    """The cross-entropy of each supervised token, in nats."""
    chosen = supervised_positions(labels)
    states, targets, size = hidden[0, :-1][chosen], labels[0, 1:][chosen], chunk(len(head))
    with torch.autocast(hidden.device.type, enabled=False):
        chunks = [
            cross_entropy(h @ head.to(h.dtype).T, t, reduction="none")
            for h, t in zip(states.float().split(size), targets.split(size), strict=True)
        ]
    return torch.cat(chunks) if chunks else states.new_zeros(0)
