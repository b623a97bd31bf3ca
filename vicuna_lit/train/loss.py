"""The loss: only supervised positions reach the LM head, and full logits never exist."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear_cross_entropy

CHUNK = 512
"""Positions whose logits exist at one time."""
OPTIONS = nn.LinearCrossEntropyOptions(acc_policy="accurate", batch_chunk_size=CHUNK, chunking_method=None)


def supervised_positions(labels: Int[Tensor, "1 L"]) -> Bool[Tensor, " M"]:
    """Which of the L − 1 positions predict a supervised token: position t predicts label t + 1."""
    return labels[0, 1:] != -100


def loss_sum(
    hidden: Float[Tensor, "1 L D"], head: Float[Tensor, "V D"], labels: Int[Tensor, "1 L"]
) -> Float[Tensor, ""]:
    """Sum of the cross-entropies of the supervised tokens, in nats."""
    chosen = supervised_positions(labels)
    if not chosen.any():
        return (hidden.sum() + head.sum()) * 0
    return linear_cross_entropy(
        hidden[0, :-1][chosen].float(), head.float(), labels[0, 1:][chosen], reduction="sum", options=OPTIONS
    )


@torch.no_grad()
def token_losses(
    hidden: Float[Tensor, "1 L D"], head: Float[Tensor, "V D"], labels: Int[Tensor, "1 L"]
) -> Float[Tensor, " S"]:
    """The cross-entropy of each supervised token, in nats."""
    chosen = supervised_positions(labels)
    states, targets = hidden[0, :-1][chosen], labels[0, 1:][chosen]
    chunks = [
        cross_entropy(h @ head.to(h.dtype).T, t, reduction="none")
        for h, t in zip(states.float().split(CHUNK), targets.split(CHUNK), strict=True)
    ]
    return torch.cat(chunks) if chunks else states.new_zeros(0)
