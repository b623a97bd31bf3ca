"""Attention that never crosses from one conversation of a packed row into another.

Every kernel is registered with transformers' `AttentionInterface`, so any Llama-type model works unmodified.
All take the row's `Layout` and no mask, and give the same numbers to within rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, partial
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from vicuna_lit.paths import ModelError

Heads = Float[Tensor, "1 _ L d"]


class Layout:
    """How the conversations of a row lie in it; made once per row and shared by all layers."""

    def __init__(self, lengths: tuple[int, ...], device: torch.device | str):
        self.lengths, self.device = lengths, torch.device(device)

    @property
    def longest(self) -> int:
        """Tokens of the longest conversation."""
        return max(self.lengths)

    @cached_property
    def bounds(self) -> Int[Tensor, " bounds"]:
        """int32, one more than conversations: where each starts, and where the last ends (`cu_seqlens`)."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32, device=self.device)

    @cached_property
    def conversation(self) -> Int[Tensor, " L"]:
        """Which conversation each token belongs to."""
        sizes = torch.tensor(self.lengths, device=self.device)
        return torch.arange(len(sizes), device=self.device).repeat_interleave(sizes, output_size=sum(self.lengths))

    @cached_property
    def mask(self) -> Bool[Tensor, "L L"]:
        """Which token sees which: the earlier ones of its conversation, and itself."""
        own = self.conversation
        return (own[:, None] == own).tril()

    @cached_property
    def block_mask(self) -> Any:
        """The same for flex attention, which stores it by blocks of 128 tokens."""
        from torch.nn.attention.flex_attention import create_block_mask

        own, length = self.conversation, sum(self.lengths)
        return create_block_mask(
            lambda _b, _h, q, k: (q >= k) & (own[q] == own[k]), None, None, length, length, device=str(self.device)
        )


def sdpa_per_conversation(q: Heads, k: Heads, v: Heads, layout: Layout, scale: float | None) -> Heads:
    """torch's causal attention, one call for each conversation.

    A mask over the whole row costs the square of the row's length; this costs the sum of the squares of
    the conversations' lengths.
    """
    sizes, grouped = list(layout.lengths), q.shape[1] != k.shape[1]
    pieces = [
        scaled_dot_product_attention(*one, is_causal=True, scale=scale, enable_gqa=grouped)
        for one in zip(q.split(sizes, 2), k.split(sizes, 2), v.split(sizes, 2), strict=True)
    ]
    return torch.cat(pieces, 2)


def sdpa_mask(q: Heads, k: Heads, v: Heads, layout: Layout, scale: float | None) -> Heads:
    """torch's attention with one mask over the whole row: the baseline."""
    grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, layout.mask, scale=scale, enable_gqa=grouped)


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def flex(q: Heads, k: Heads, v: Heads, layout: Layout, scale: float | None) -> Heads:
    """torch's flex attention, compiled on a GPU; it has no backward pass on the CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Any = _compiled_flex() if q.is_cuda else flex_attention
    return kernel(q, k, v, block_mask=layout.block_mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])


def varlen(q: Heads, k: Heads, v: Heads, layout: Layout, scale: float | None) -> Heads:
    """torch's own kernel for sequences of different lengths."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
    out: Any = varlen_attn(
        q,
        k,
        v,
        layout.bounds,
        layout.bounds,
        layout.longest,
        layout.longest,
        scale=scale,
        window_size=(-1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.transpose(0, 1)[None]


def flash(q: Heads, k: Heads, v: Heads, layout: Layout, scale: float | None) -> Heads:
    """flash-attn 3 where it is installed, else 2 (Dao 2023)."""
    if find_spec("flash_attn_interface"):
        from flash_attn_interface import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]
    else:
        from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]
    q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
    bounds, longest = layout.bounds, layout.longest
    out = flash_attn_varlen_func(q, k, v, bounds, bounds, longest, longest, softmax_scale=scale, causal=True)
    return (out[0] if isinstance(out, tuple) else out).transpose(0, 1)[None]


KERNELS: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (sdpa_per_conversation, sdpa_mask, flash, varlen, flex)
}


@torch.compiler.disable  # else every row would be compiled anew, for the lengths of its conversations
def attend(
    kernel: str,
    module: torch.nn.Module,
    query: Float[Tensor, "1 heads L d"],
    key: Float[Tensor, "1 kv_heads L d"],
    value: Float[Tensor, "1 kv_heads L d"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 L heads d"], None]:
    """What transformers calls.

    Raises:
        ValueError: no layout came with the batch. Without it packed conversations would see each other,
            silently.
    """
    if layout is None or attention_mask is not None:
        raise ValueError(f"attention={kernel} needs the row's layout and takes no mask")
    return KERNELS[kernel](query, key, value, layout, scaling).transpose(1, 2), None


def use(model: PreTrainedModel, kernel: str) -> None:
    """Makes a model attend with one of `KERNELS`."""
    model.set_attn_implementation(_registered(kernel))


def _registered(kernel: str) -> str:
    """The name that transformers knows; it takes any with "flash" in it for its own, and looks on the hub."""
    return "packed_" + kernel.replace("flash", "fa")


for _name in KERNELS:
    AttentionInterface.register(_registered(_name), partial(attend, _name))


def require(kernel: str, precision: str) -> None:
    """Stops where a kernel cannot run.

    Raises:
        ModelError: what is missing, and what to choose instead.
    """
    if kernel.startswith("sdpa"):
        return
    if not torch.cuda.is_available():
        raise ModelError(f"attention={kernel} needs an NVIDIA GPU; attention=sdpa_per_conversation runs anywhere")
    if kernel in ("flash", "varlen") and precision == "fp32":
        raise ModelError(f"attention={kernel} has no fp32; precision=bf16-mixed, or attention=sdpa_per_conversation")
    if kernel == "flash" and not (find_spec("flash_attn") or find_spec("flash_attn_interface")):
        raise ModelError(
            "attention=flash: pip install flash-attn --no-build-isolation, or attention=varlen, torch's own"
        )


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block the model runs as transformers does, for generation with a cache: nothing is compiled."""
    before = str(model.config._attn_implementation)
    model.set_attn_implementation("sdpa")
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.set_attn_implementation(before)
