"""How many floating-point operations a step needs: numbers of an architecture and a plan in, FLOPs out. No torch.

*Model* FLOPs, as MFU counts them (Chowdhery et al. 2022, appendix B): what forward and backward pass need for
useful tokens, whatever the hardware does besides. Recomputed activations, padding, and positions whose logits
nobody needs count nothing. Unlike there, attention is counted as causal, which halves it, and inside its window.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vicuna_lit.data.plan import Plan
from vicuna_lit.models.matrices import (
    FROM_ATTENTION,
    MLP,
    NORMS_AFTER_MLP,
    NORMS_BEFORE_ATTENTION,
    NORMS_BEFORE_MLP,
    TO_ATTENTION,
    Modules,
    Stages,
    read,
)


@dataclass(frozen=True)
class Flops:
    """FLOPs of one optimizer step, forward and backward."""

    per_token: float
    """The layers' matrices: 6 for each of their weights, where all are trained (2 forward, 4 backward)."""
    per_squared_length: float
    """Attention to all that was said before, by the sum of the squared lengths of the conversations."""
    per_supervised_token: float
    """The LM head."""
    per_squared_window: tuple[tuple[int, float], ...] = ()
    """Attention to the last so many tokens; a longer conversation of L counts w · (2 L − w) in place of L²."""

    def of_conversations(self, lengths: np.ndarray, supervised: np.ndarray) -> np.ndarray:
        """float64 [C]: of each conversation, by its tokens and those that are supervised."""
        lengths, supervised = lengths.astype(np.float64), supervised.astype(np.float64)
        each = self.per_token * lengths + self.per_squared_length * lengths**2 + self.per_supervised_token * supervised
        for window, factor in self.per_squared_window:
            each += factor * np.where(lengths > window, window * (2 * lengths - window), lengths**2)
        return each

    def of_steps(self, plan: Plan) -> np.ndarray:
        """float64 [steps]: of each step, on all devices together."""
        return plan.sums(self.of_conversations(plan.lengths, plan.supervised))


def count_flops(hf: Any, shapes: Mapping[str, Collection[int]], trained: Collection[str]) -> Flops | None:
    """The FLOPs of a model whose layers are attention and an MLP, or experts; None where that is not certain.

    A matrix costs 2 FLOPs a weight and token forward, 2 for the gradient of its input and 2 for its own. Frozen
    ones lack the last, and those before the first trained weight both; adapters count as the matrices that they
    are. So LoRA costs about 4 a weight, `head_only` 2. Of experts those count that a token is sent to.

    Args:
        hf: the model's config.
        shapes: of all weights by name, tied ones under each name.
        trained: names of those that are trained.
    """
    decoder, windows = read(hf, shapes, trained), windows_of(hf)
    if decoder is None or windows is None:
        return None
    per_token, flows = 0.0, decoder.embedding_trained  # whether a gradient is needed at this point
    attention: Counter[int | None] = Counter()
    for window, modules in zip(windows, decoder.layers, strict=True):
        width = _attention_width(hf, modules)
        if width is None or not _complete(modules):
            return None
        each, mixes, flows = _layer(hf, modules, flows)
        if modules:
            return None  # something that is in none of the lists
        per_token += each
        attention[window] += width * (3 if mixes else 1)  # pyright: ignore[reportArgumentType]
    head = decoder.head.flops(flows or decoder.norm_trained)
    full = attention.pop(None, 0)
    return Flops(per_token, full, head, tuple(sorted(attention.items())))  # pyright: ignore[reportArgumentType]


def flops_of(model: Any) -> Flops | None:
    """The same of a model (also one on the meta device) as `finetune` has left it, before it is sharded."""
    named = dict(model.named_parameters(remove_duplicate=False))
    shapes = {}
    for name, parameter in named.items():
        packed = getattr(parameter, "quant_state", None)  # of weights in 4 bits
        shapes[name] = tuple((packed or parameter).shape)
    return count_flops(model.config, shapes, [name for name, p in named.items() if p.requires_grad])


def windows_of(hf: Any) -> list[int | None] | None:
    """How many tokens each layer's attention reaches back; None: all. None in place of the list: it is not known."""
    kinds = getattr(hf, "layer_types", None)
    declared = hasattr(type(hf), "sliding_window") and getattr(hf, "use_sliding_window", True)
    window = (hf.sliding_window or None) if declared else None
    if kinds is None:
        return [window] * hf.num_hidden_layers
    if set(kinds) - {"full_attention", "sliding_attention"} or len(kinds) != hf.num_hidden_layers:
        return None
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _layer(hf: Any, modules: Modules, flows: bool) -> tuple[float, bool, bool]:
    """A token's FLOPs, and whether gradients are needed in the attention and behind the layer; takes what it knows out
    of `modules`."""
    norms = [n for n in (*NORMS_BEFORE_ATTENTION, *NORMS_BEFORE_MLP, *NORMS_AFTER_MLP) if n in modules]
    parallel = getattr(hf, "use_parallel_residual", False) or len(norms) == 1  # attention and MLP, side by side
    own = any(n in modules for n in NORMS_BEFORE_MLP)
    _, before = _pass(modules, "", ((NORMS_BEFORE_ATTENTION,),), flows)
    to, mixes = _pass(modules, "attention.", TO_ATTENTION, before)
    back, after = _pass(modules, "attention.", FROM_ATTENTION, mixes)
    start = after if not parallel else flows if own else before
    _, start = _pass(modules, "", ((NORMS_BEFORE_MLP,),), start)
    mlp, end = _pass(modules, "mlp.", MLP, start)
    _, end = _pass(modules, "", ((NORMS_AFTER_MLP,),), end or after)
    return to + back + mlp, mixes, end


def _pass(modules: Modules, block: str, branches: tuple[Stages, ...], flows: bool) -> tuple[float, bool]:
    total, after = 0.0, flows
    for stages in branches:
        here = flows
        for stage in stages:
            present = [modules.pop(block + name) for name in stage if block + name in modules]
            total += sum(module.flops(here) for module in present)
            here = here or any(module.trained for module in present)
        after = after or here
    return total, after


def _attention_width(hf: Any, modules: Modules) -> int | None:
    """Of all heads together, a query's and a value's; None where the matrices do not say."""

    def size(*names: str) -> int:
        return int(sum(modules[f"attention.{n}"].met for n in names if f"attention.{n}" in modules))

    hidden = hf.hidden_size
    values, rest = divmod(size(*FROM_ATTENTION[0][-1]), hidden)
    if rest or not values:
        return None
    if "attention.kv_b_proj" in modules:
        heads = hf.num_attention_heads
        queries = heads * (hf.qk_nope_head_dim + hf.qk_rope_head_dim)
        fits = (
            size("q_b_proj") == queries * hf.q_lora_rank
            if "attention.q_b_proj" in modules
            else (size("q_proj") == queries * hidden)
        )
        return queries + values if fits and values == heads * hf.v_head_dim else None
    if "attention.q_proj" in modules:
        return 2 * values if size("q_proj") == values * hidden else None
    keys = size("qkv_proj", "query_key_value", "c_attn") - values * hidden  # and values
    return 2 * values if keys > 0 and keys % (2 * hidden) == 0 else None


def _complete(modules: Modules) -> bool:
    """Whether an MLP has both of its matrices, and experts their router."""
    first, second = MLP[0]
    dense = any(f"mlp.{n}" in modules for n in first) and any(f"mlp.{n}" in modules for n in second)
    experts = modules.get("mlp.experts.gate_up_proj")
    router = modules.get("mlp.gate") or modules.get("mlp.router")
    if experts is None:
        return dense and router is None
    return not dense and router is not None and router.shape[:1] == experts.shape[:1]
