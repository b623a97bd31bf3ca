"""Attention that never crosses from one conversation of a packed row into another.

Every kernel is registered with transformers' `AttentionInterface`, so a model whose attention goes through it works
unmodified. All take the row's `RowLayout` and a layer's `Form` and no mask, and give the same numbers to within
rounding.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from vicuna_lit.paths import ModelError

Heads = Float[Tensor, "1 _ L _"]

ANYWHERE = "sdpa_per_conversation"
"""The kernel that runs on every device, in every precision, and computes every `Form`."""

IGNORED = frozenset(
    "position_ids cache_position use_cache output_attentions output_hidden_states output_router_logits return_dict "
    "num_items_in_batch logits_to_keep token_type_ids".split()
)
"""What transformers also passes on its way to the attention, and what changes nothing in it: positions are in queries
and keys already, the rest is about what a model returns. Any other argument is an error."""


class RowLayout:
    """How the conversations of a row lie in it; made once per row and shared by all layers."""

    def __init__(
        self, lengths: tuple[int, ...], device: torch.device | str, bounds: Int[Tensor, " bounds"] | None = None
    ):
        self.lengths, self.device = lengths, torch.device(device)
        if bounds is not None:
            self.bounds = bounds
        self._masks: dict[int | None, Tensor] = {}
        self._block_masks: dict[int | None, Any] = {}

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
        tokens = torch.arange(sum(self.lengths), dtype=torch.int32, device=self.device)
        return torch.searchsorted(self.bounds, tokens, right=True) - 1

    def mask(self, window: int | None = None) -> Bool[Tensor, "L L"]:
        """Which token sees which: itself and the earlier ones of its conversation, within the window."""
        if window not in self._masks:
            own = self.conversation
            self._masks[window] = (own[:, None] == own) & banded(len(own), window, self.device)
        return self._masks[window]

    def block_mask(self, window: int | None = None) -> Any:
        """The same for flex attention, which stores it by blocks of 128 tokens."""
        from torch.nn.attention.flex_attention import create_block_mask

        if window not in self._block_masks:
            own, length = self.conversation, sum(self.lengths)
            most = window or length
            self._block_masks[window] = create_block_mask(  # counts the arguments: a lambda, which nothing wraps
                lambda _b, _h, q, k: (q >= k) & (q - k < most) & (own[q] == own[k]),
                None,
                None,
                length,
                length,
                device=str(self.device),
            )
        return self._block_masks[window]


def banded(length: int, window: int | None, device: torch.device | str = "cpu") -> Bool[Tensor, "n n"]:
    """The causal mask of one conversation; a token sees itself and the `window` − 1 tokens before it."""
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return causal if window is None else causal.triu(1 - window)


@dataclass(frozen=True)
class Form:
    """What a layer computes of the scores of its queries and keys, besides that they are causal."""

    scale: float | None = None
    """They are multiplied by it; None: one over the square root of a head's size."""
    window: int | None = None
    """A token sees itself and the `window` − 1 tokens before it; None: all before it."""
    softcap: float | None = None
    """Scores become softcap · tanh(score / softcap) (Gemma 2)."""
    sinks: Float[Tensor, " heads"] | None = None
    """A score of each head for a token without a value, which takes part in the softmax (gpt-oss)."""

    def width(self, length: int) -> int | None:
        """The window, where a conversation of this length is longer than it."""
        return self.window if self.window is not None and self.window < length else None


def explicit(q: Heads, k: Heads, v: Heads, mask: Bool[Tensor, "L L"], form: Form) -> Heads:
    """Attention written out: the scores of a whole block exist. For what torch's kernels have no argument for."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if form.scale is None else form.scale)
    if form.softcap is not None:
        scores = form.softcap * torch.tanh(scores / form.softcap)
    scores = scores.float().masked_fill(~mask, -torch.inf)
    if form.sinks is not None:
        sinks = form.sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], -1)
    return scores.softmax(-1)[..., : len(mask)].to(v.dtype) @ v


def _sdpa(q: Heads, k: Heads, v: Heads, scale: float | None, **options: Any) -> Heads:
    """torch's own attention. On a GPU no kernel takes fp32 with grouped heads but one that keeps all the scores."""
    grouped = q.shape[1] != k.shape[1]
    if grouped and q.is_cuda and q.dtype == torch.float32:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        grouped = False
    return scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped, **options)


def sdpa_per_conversation(q: Heads, k: Heads, v: Heads, layout: RowLayout, form: Form) -> Heads:
    """torch's causal attention, one call for each conversation.

    A mask over the whole row costs the square of the row's length; this costs the sum of the squares of
    the conversations' lengths.
    """
    sizes = list(layout.lengths)

    def one(q: Heads, k: Heads, v: Heads) -> Heads:
        length = q.shape[2]
        window = form.width(length)
        if form.softcap is not None or form.sinks is not None:
            return explicit(q, k, v, banded(length, window, q.device), form)
        if window is not None:
            return _sdpa(q, k, v, form.scale, attn_mask=banded(length, window, q.device))
        return _sdpa(q, k, v, form.scale, is_causal=True)

    pieces = [one(*x) for x in zip(q.split(sizes, 2), k.split(sizes, 2), v.split(sizes, 2), strict=True)]
    return torch.cat(pieces, 2)


def sdpa_mask(q: Heads, k: Heads, v: Heads, layout: RowLayout, form: Form) -> Heads:
    """torch's attention with one mask over the whole row: the baseline."""
    mask = layout.mask(form.width(layout.longest))
    if form.softcap is not None or form.sinks is not None:
        return explicit(q, k, v, mask, form)
    return _sdpa(q, k, v, form.scale, attn_mask=mask)


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def flex(q: Heads, k: Heads, v: Heads, layout: RowLayout, form: Form) -> Heads:
    """torch's flex attention, compiled on a GPU; it has no backward pass on the CPU."""
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    cap = form.softcap
    kernel: Any = _compiled_flex() if q.is_cuda else flex_attention
    out = kernel(
        q,
        k,
        v,
        score_mod=None if cap is None else lambda score, _b, _h, _q, _k: cap * torch.tanh(score / cap),
        block_mask=layout.block_mask(form.width(layout.longest)),
        scale=form.scale,
        enable_gqa=q.shape[1] != k.shape[1],
        return_aux=None if form.sinks is None else AuxRequest(lse=True),
    )
    if form.sinks is None:
        return out
    # A sink takes exp(sink) / (exp(sink) + exp(lse)) of the weight, and has no value.
    out, more = out
    return (out * torch.sigmoid(more.lse - form.sinks.float()[None, :, None])[..., None]).to(v.dtype)


def _flat(q: Heads, k: Heads, v: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens × heads × size, as the kernels of FlashAttention take them; values as wide as queries."""
    v = pad(v, (0, q.shape[-1] - v.shape[-1]))
    return q[0].transpose(0, 1), k[0].transpose(0, 1), v[0].transpose(0, 1)


def varlen(q: Heads, k: Heads, v: Heads, layout: RowLayout, form: Form) -> Heads:
    """torch's own kernel for sequences of different lengths."""
    from torch.nn.attention.varlen import varlen_attn

    # torch 2.11 has no `enable_gqa` here, and groups heads by their counts.
    takes_groups = "enable_gqa" in inspect.signature(varlen_attn).parameters
    grouped: dict[str, Any] = {"enable_gqa": q.shape[1] != k.shape[1]} if takes_groups else {}
    window = form.width(layout.longest)
    out: Any = varlen_attn(
        *_flat(q, k, v),
        layout.bounds,
        layout.bounds,
        layout.longest,
        layout.longest,
        scale=form.scale,
        window_size=(-1 if window is None else window - 1, 0),
        **grouped,
    )
    return out.transpose(0, 1)[None, ..., : v.shape[-1]]


FLASH = ("flash_attn_interface", "flash_attn.cute", "flash_attn")
"""Where flash-attn 3, 4 and 2 keep `flash_attn_varlen_func`."""


@cache
def _flash() -> Callable[..., Any] | None:
    """The newest FlashAttention that can be imported; a namespace alone is none."""
    for name in FLASH:
        try:
            module = __import__(name, fromlist=["flash_attn_varlen_func"])
            return module.flash_attn_varlen_func
        except (ImportError, AttributeError):
            continue
    return None


def flash(q: Heads, k: Heads, v: Heads, layout: RowLayout, form: Form) -> Heads:
    """flash-attn 3, 4 or 2, the first that is installed (Dao 2023)."""
    kernel = _flash()
    assert kernel is not None
    window = form.width(layout.longest)
    q_flat, k_flat, v_flat = _flat(q, k, v)
    takes = inspect.signature(kernel).parameters
    optional = {"softcap": form.softcap or 0.0, "deterministic": torch.are_deterministic_algorithms_enabled()}
    if form.softcap is not None and "softcap" not in takes:
        raise ModelError(f"attention=flash: {kernel.__module__} has no soft cap; attention={ANYWHERE} has")
    out = kernel(
        q_flat,
        k_flat,
        v_flat,
        cu_seqlens_q=layout.bounds,
        cu_seqlens_k=layout.bounds,
        max_seqlen_q=layout.longest,
        max_seqlen_k=layout.longest,
        softmax_scale=form.scale,
        causal=True,
        window_size=(-1 if window is None else window - 1, 0),
        **{name: value for name, value in optional.items() if name in takes},
    )
    return (out[0] if isinstance(out, tuple) else out).transpose(0, 1)[None, ..., : v.shape[-1]]


KERNELS: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (sdpa_per_conversation, sdpa_mask, flash, varlen, flex)
}
LACKS: dict[str, tuple[str, ...]] = {"flash": ("sinks",), "varlen": ("softcap", "sinks")}
"""Parts of a `Form` that a kernel cannot compute."""


@torch.compiler.disable  # else every row would be compiled anew, for the lengths of its conversations
def attend(
    kernel: str,
    module: torch.nn.Module,
    query: Float[Tensor, "1 heads L d"],
    key: Float[Tensor, "1 kv_heads L d"],
    value: Float[Tensor, "1 kv_heads L dv"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Float[Tensor, " heads"] | None = None,
    layout: RowLayout | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "1 L heads dv"], None]:
    """What transformers calls, with the names that it uses.

    Raises:
        ValueError: no layout came with the batch. Without it packed conversations would see each other,
            silently.
        ModelError: the layer asks for something that this kernel, or no kernel of ours, computes.
    """
    if layout is None or attention_mask is not None:
        raise ValueError(f"attention={kernel} needs the row's layout and takes no mask")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    unknown = sorted(name for name, wanted in others.items() if wanted is not None and name not in IGNORED)
    if unknown or not causal:
        asked = ", ".join([*unknown, *([] if causal else ["attention to later tokens"])])
        raise ModelError(f"{type(module).__name__} asks its attention for {asked}, which no kernel here computes")
    if dropout:
        raise ModelError(
            f"{type(module).__name__} has a dropout of {dropout}, whose random numbers would depend on how "
            "conversations lie in rows; set it to 0 in the model's config.json"
        )
    form = Form(scaling, sliding_window, softcap, s_aux)
    for part in LACKS.get(kernel, ()):
        if getattr(form, part) is not None:
            raise ModelError(f"attention={kernel} has no {part}; attention={ANYWHERE} or flex has")
    # Under autocast rotary positions leave queries and keys in fp32, and only some kernels would cast them back.
    query, key = query.to(value.dtype), key.to(value.dtype)
    return KERNELS[kernel](query, key, value, layout, form).transpose(1, 2).contiguous(), None


def use(model: PreTrainedModel, kernel: str) -> None:
    """Makes a model attend with one of `KERNELS`.

    Raises:
        ModelError: the model's attention does not go through transformers' interface.
    """
    # torch prefers cuDNN's SDPA on Hopper and later. It builds a plan for every new length and stride, half a second
    # each: for every conversation here, for every token in generation (modelscope/FunASR#3704, transformers#48163).
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        model.set_attn_implementation(_registered(kernel))
        done = model.config._attn_implementation == _registered(kernel)
    except (ValueError, NotImplementedError):
        done = False
    if not done:
        raise ModelError(f"{type(model).__name__}: its attention is its own, and cannot be kept within conversations")


def _registered(kernel: str) -> str:
    """The name that transformers knows. One with "flash" or "sdpa" in it would be taken for its own: looked up on the
    hub, or refused where a family's form is beyond torch's SDPA."""
    return "packed_" + kernel.replace("flash", "fa").replace("sdpa_", "")


for _name in KERNELS:
    AttentionInterface.register(_registered(_name), partial(attend, _name))


def chosen(kernel: str, precision: str, model: PreTrainedModel, gpu: bool) -> str:
    """What `auto` stands for: one call for all conversations on a GPU in 16 bits, else one for each."""
    if kernel != "auto":
        return kernel
    if not gpu or precision == "fp32":
        return ANYWHERE
    asked = {
        "softcap": getattr(model.config.get_text_config(decoder=True), "attn_logit_softcapping", None) is not None,
        "sinks": any(name.endswith("sinks") for name, _ in model.named_parameters()),
    }
    fast = "varlen" if _flash() is None else "flash"
    return "flex" if any(asked[part] for part in LACKS[fast]) else fast


def require(kernel: str, precision: str) -> None:
    """Stops where a kernel cannot run.

    Raises:
        ModelError: what is missing, and what to choose instead.
    """
    if kernel.startswith("sdpa"):
        return
    if not torch.cuda.is_available():
        raise ModelError(f"attention={kernel} needs an NVIDIA GPU; attention={ANYWHERE} runs anywhere")
    if kernel in ("flash", "varlen") and precision == "fp32":
        raise ModelError(f"attention={kernel} has no fp32; precision=bf16-mixed, or attention={ANYWHERE}")
    if kernel == "flash" and _flash() is None:
        raise ModelError(
            "attention=flash: pip install flash-attn --no-build-isolation, or attention=varlen, torch's own"
        )


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block the model runs as transformers does, for generation with a cache: nothing is compiled."""
    before = str(model.config._attn_implementation)
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.set_attn_implementation(before)
