"""How many floating-point operations a step needs: numbers of an architecture and a plan in, FLOPs out. No torch.

*Model* FLOPs, as MFU counts them (Chowdhery et al. 2022, appendix B): what forward and backward pass need for
useful tokens, whatever the hardware does besides. Recomputed activations, padding, and positions whose logits
nobody needs count nothing. Unlike there, attention is counted as causal, which halves it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from vicuna_lit.data.schedule import Plan

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Of a LLaMA layer, in the order in which a token meets them."""


@dataclass(frozen=True)
class Flops:
    """FLOPs of one optimizer step, forward and backward."""

    per_token: float
    """The layers' matrices: 6 for each of their weights, where all are trained (2 forward, 4 backward)."""
    per_squared_length: float
    """Attention, by the sum of the squared lengths of the conversations."""
    per_supervised_token: float
    """The LM head."""

    def of_steps(self, plan: Plan) -> np.ndarray:
        """float64 [steps]: of each step, on all devices together."""
        lengths, supervised = plan.lengths.astype(np.float64), plan.supervised.astype(np.float64)
        each = self.per_token * lengths + self.per_squared_length * lengths**2 + self.per_supervised_token * supervised
        return np.array([each[list(step)].sum() for step in plan.step_conversations])


def count_flops(hf: Any, weights: Collection[str], trained: Collection[str], rank: int = 0) -> Flops | None:
    """The FLOPs of a LLaMA-type model; None where its layers have other matrices (fused ones, experts).

    A matrix costs 2 FLOPs a weight and token forward, 2 for the gradient of its input and 2 for its own. Frozen
    ones lack the last, and those before the first trained weight both; adapters count as the matrices that they
    are. So LoRA costs about 4 a weight, `head_only` 2.

    Args:
        hf: the `LlamaConfig`, or one with the same fields.
        weights: names of all weights, tied ones under each name.
        trained: those of them that are trained.
        rank: of the adapters, where `trained` names some.
    """
    layers = {part for name in weights if (part := _layer_and_matrix(name)) is not None}
    if layers != {(i, m) for i in range(hf.num_hidden_layers) for m in MATRICES}:
        return None
    shapes, width = _shapes(hf), hf.num_attention_heads * _head_size(hf)
    per_token = per_squared_length = 0.0
    flows = _any(trained, "embed_tokens.")  # whether a gradient is needed at this point
    for i in range(hf.num_hidden_layers):
        inside = [name for name in trained if f"layers.{i}." in name]
        for together in (MATRICES[:3], MATRICES[3:4], MATRICES[4:6], MATRICES[6:]):
            if together == MATRICES[3:4]:
                per_squared_length += width * (6 if flows else 2)
            norm = {"q_proj": ".input_layernorm.", "gate_proj": ".post_attention_layernorm."}.get(together[0])
            flows = flows or (norm is not None and _any(inside, norm))
            wanted = flows
            for matrix in together:
                (rows, columns), own = shapes[matrix], [n for n in inside if f".{matrix}." in n]
                adapted = any(".lora_" in n for n in own)
                whole = any(".lora_" not in n for n in own)
                per_token += rows * columns * (2 + 2 * wanted + 2 * whole)
                # Of an adapter's two matrices the second always passes its gradient on to the first.
                per_token += rank * (columns * (4 + 2 * wanted) + rows * 6) if adapted else 0
                flows = flows or bool(own)
    flows = flows or _any([n for n in trained if "layers." not in n], "norm.")
    head = hf.hidden_size * hf.vocab_size * (2 + 2 * flows + 2 * _any(trained, "lm_head."))
    return Flops(per_token, per_squared_length, head)


def _layer_and_matrix(name: str) -> tuple[int, str] | None:
    """(3, "q_proj") of "model.layers.3.self_attn.q_proj.weight"."""
    parts = name.replace(".base_layer", "").split(".")
    if "layers" not in parts or parts[-1] != "weight" or "norm" in parts[-2] or ".lora_" in name:
        return None
    return int(parts[parts.index("layers") + 1]), parts[-2]


def _shapes(hf: Any) -> dict[str, tuple[int, int]]:
    """Outputs × inputs of a layer's matrices."""
    size, inner, head = hf.hidden_size, hf.intermediate_size, _head_size(hf)
    queries, keys = hf.num_attention_heads * head, (hf.num_key_value_heads or hf.num_attention_heads) * head
    return {
        "q_proj": (queries, size), "k_proj": (keys, size), "v_proj": (keys, size), "o_proj": (size, queries),
        "gate_proj": (inner, size), "up_proj": (inner, size), "down_proj": (size, inner),
    }  # fmt: skip


def _head_size(hf: Any) -> int:
    return getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads


def _any(names: Collection[str], part: str) -> bool:
    return any(part in name for name in names)
