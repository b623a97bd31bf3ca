"""Attention that never crosses from one conversation of a packed row into another.

Registered with transformers' `AttentionInterface`, so any Llama-type model works unmodified.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel


def sdpa_per_conversation(
    module: torch.nn.Module,
    query: Float[Tensor, "1 heads L d"],
    key: Float[Tensor, "1 kv_heads L d"],
    value: Float[Tensor, "1 kv_heads L d"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    conversation_lengths: tuple[int, ...] | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 L heads d"], None]:
    """Causal attention inside each conversation of the row, one call each.

    A block mask over the whole row costs the square of the row's length; this costs the sum of the
    squares of the conversations' lengths.

    Raises:
        ValueError: no `conversation_lengths` came with the batch. Without them packed
            conversations would see each other, silently.
    """
    if conversation_lengths is None or attention_mask is not None:
        raise ValueError("attention=sdpa_per_conversation needs conversation_lengths and takes no mask")
    sizes = list(conversation_lengths)
    grouped = query.shape[1] != key.shape[1]
    pieces = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped)
        for q, k, v in zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    ]
    return torch.cat(pieces, 2).transpose(1, 2), None


AttentionInterface.register("sdpa_per_conversation", sdpa_per_conversation)


class plain_attention:
    """Inside the block the model attends as transformers does, for generation with a cache."""

    def __init__(self, model: PreTrainedModel):
        self.model, self.before = model, str(model.config._attn_implementation)

    def __enter__(self) -> None:
        self.model.set_attn_implementation("sdpa")

    def __exit__(self, *_: object) -> None:
        self.model.set_attn_implementation(self.before)
