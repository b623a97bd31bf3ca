"""What a decoder's layers multiply a token with, and in which order, by the names of its weights. No torch.

Only what is known for certain: a layer with a module that is not listed here has no structure.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

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
ATTENTION = ("self_attn", "attention", "self_attention", "attn")
"""What families call it."""
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


def read(hf: Any, shapes: Mapping[str, Collection[int]], trained: Collection[str]) -> Decoder | None:
    """The decoder of a model; None where a weight is found whose use is not known.

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
