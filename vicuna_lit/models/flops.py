"""How many floating-point operations a step needs: numbers of an architecture and a plan in, FLOPs out.

*Model* FLOPs, as MFU counts them (Chowdhery et al. 2022, appendix B): what forward and backward pass need for
useful tokens, whatever the hardware does besides. Recomputed activations, padding, and positions whose logits
nobody needs count nothing. Unlike there, attention is counted as causal, which halves it, and inside its window.

What a layer multiplies a token with, and in which order, follows from the names of its weights. Only what is known for
certain counts: where a name is not listed here, nothing is said of the model.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vicuna_lit.data.plan import Plan
from vicuna_lit.models.decoder import ATTENTION

Stages = tuple[tuple[str, ...], ...]
"""Modules that follow one another; those of a stage have the same input. A layer has some of them."""

NORMS_BEFORE_ATTENTION = ("input_layernorm", "ln_1")
NORMS_BEFORE_MLP = ("post_attention_layernorm", "pre_feedforward_layernorm", "post_self_attn_layernorm", "ln_2")
"""Some of them stand behind the attention, before its result is added: a gradient that they need passes the MLP too."""
NORMS_AFTER_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm")
TO_ATTENTION: tuple[Stages, ...] = (
    (
        ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn"),
        ("q_norm", "k_norm", "q_layernorm", "k_layernorm"),
    ),
    (("q_a_proj",), ("q_a_layernorm",), ("q_b_proj",)),  # DeepSeek's, of low rank
    (("kv_a_proj_with_mqa",), ("kv_a_layernorm",), ("kv_b_proj",)),
)
FROM_ATTENTION: tuple[Stages, ...] = ((("sinks",), ("o_proj", "dense", "out_proj", "c_proj")),)
MLP: tuple[Stages, ...] = (
    (
        ("gate_proj", "up_proj", "gate_up_proj", "fc1", "c_fc", "dense_h_to_4h"),
        ("down_proj", "fc2", "c_proj", "dense_4h_to_h"),
    ),
    (("gate", "router", "shared_expert_gate"),),
    (("experts.gate_up_proj",), ("experts.down_proj",)),
    (("shared_experts.gate_proj", "shared_experts.up_proj"), ("shared_experts.down_proj",)),
    (("shared_expert.gate_proj", "shared_expert.up_proj"), ("shared_expert.down_proj",)),
)
IN_LAYER = re.compile(r"^(?P<stack>.*?)\.?(?:layers|h)\.(?P<layer>\d+)\.(?P<path>.+)$")
SUFFIX = re.compile(r"(?:\.lora_(?P<half>[AB])\.\w+)?\.(?P<kind>weight|bias)$|(?P<raw>_bias)$")


@dataclass
class Module:
    """What a token is multiplied with in one module."""

    shape: tuple[int, ...] = ()
    """Of its matrix; (): it has none, as a norm."""
    met: float = 0.0
    """Elements of it that a token meets: of experts, the chosen ones'."""
    halves: tuple[int, int] = (0, 0)
    """Elements of an adapter's two matrices."""
    matrix_trained: bool = False
    trained: bool = False
    """Any of its weights is."""

    def flops(self, flows: bool) -> float:
        """A token's, forward and backward.

        Args:
            flows: whether its input needs a gradient.
        """
        a, b = self.halves  # the second always passes its gradient on to the first
        return self.met * (2 + 2 * flows + 2 * self.matrix_trained) + a * (4 + 2 * flows) + b * 6


Modules = dict[str, Module]


@dataclass(frozen=True)
class Decoder:
    """Its modules by their names inside their layer, and those around the layers."""

    layers: list[Modules]
    embedding_trained: bool
    norm_trained: bool
    head: Module


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
    decoder, windows = _read(hf, shapes, trained), windows_of(hf)
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


def _read(hf: Any, shapes: Mapping[str, Collection[int]], trained: Collection[str]) -> Decoder | None:
    """The decoder of a model, by the names of its weights; None where the use of one is not known.

    Args:
        hf: its config.
        shapes: of all weights by name, tied ones under each.
        trained: names of those that are.
    """
    layers: list[Modules] = [{} for _ in range(hf.num_hidden_layers)]
    around: Modules = {"head": Module(), "norm": Module()}
    wanted, stacks, embedding_trained = set(trained), set(), False
    for name, shape in shapes.items():
        inside = IN_LAYER.match(name.replace(".base_layer", ""))
        if inside is None:
            place = _outside(name, len(shape))
            if place == "embedding":
                embedding_trained |= name in wanted
                continue
            module = around.get(place or "")
        else:
            stacks.add(inside["stack"])
            path, number = _path(inside["path"]), int(inside["layer"])
            module = layers[number].setdefault(path, Module()) if number < len(layers) else None
        if module is None or not _add(module, hf, name, tuple(shape), name in wanted):
            return None
    if len(stacks) != 1 or not around["head"].shape:
        return None
    return Decoder(layers, embedding_trained, around["norm"].trained, around["head"])


def _path(path: str) -> str:
    """`attention.q_proj` of "self_attn.q_proj.lora_A.default.weight"."""
    path = SUFFIX.sub("", path)
    block, dot, rest = path.partition(".")
    block = "attention" if block in ATTENTION else "mlp" if block == "block_sparse_moe" else block
    return block + dot + rest


def _outside(name: str, dimensions: int) -> str | None:
    if name.startswith(("lm_head.", "embed_out.")):
        return "head"
    if "embed" in name or ".wte." in name or ".wpe." in name:
        return "embedding"
    return "norm" if dimensions == 1 and ("norm" in name or ".ln_f." in name) else None


def _add(module: Module, hf: Any, name: str, shape: tuple[int, ...], trained: bool) -> bool:
    """Whether it is known what the weight does."""
    suffix, size = SUFFIX.search(name), math.prod(shape)
    module.trained |= trained
    if suffix and suffix["half"]:
        a, b = module.halves
        module.halves = (size, b) if suffix["half"] == "A" else (a, size)
    elif len(shape) > 1 and not (suffix and (suffix["raw"] or suffix["kind"] == "bias")):
        chosen = getattr(hf, "num_experts_per_tok", None) if len(shape) == 3 else 1
        if module.shape or len(shape) > 3 or not isinstance(chosen, int):
            return False
        module.shape, module.matrix_trained = shape, trained
        module.met = size * chosen / shape[0] if len(shape) == 3 else size
    return True
