"""What a `.gguf` file says of its model and transformers does not read; it would be another model, silently."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from vicuna_lit.paths import ModelError

EPSILON = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")
CALLED = {
    "attention.layer_norm_epsilon": EPSILON,
    "attention.layer_norm_rms_epsilon": EPSILON,
    "attention.key_length": ("global_head_dim", "head_dim"),
    "attention.value_length": ("global_head_dim", "head_dim"),
    "attention.key_length_swa": ("head_dim",),
    "attention.value_length_swa": ("head_dim",),
    "attention.shared_kv_layers": ("num_kv_shared_layers",),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "embedding_length_per_layer_input": ("hidden_size_per_layer_input",),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "shortconv.l_cache": ("conv_L_cache",),
    "ssm.conv_kernel": ("conv_kernel",),
    "ssm.state_size": ("state_size",),
    "ssm.time_step_rank": ("time_step_rank",),
    "ssm.inner_size": ("intermediate_size",),
}
"""A file's keys, without the family's name, and what the same is called in a config of transformers."""
SHOWN_BY_WEIGHTS = {
    "vocab_size", "context_length", "block_count", "embedding_length", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "use_parallel_residual",
}  # fmt: skip
"""Sizes; of another one the weights would not fit. Stable LM's residual is read from its weights."""
WITHOUT_EFFECT = {
    "tensor_data_layout", "pooling_type", "rope.scaling.finetuned", "rope.scaling.original_context_length",
    "expert_gating_func", "attention.causal", "attention.sliding_window_pattern",
}  # fmt: skip
"""On what is read beside them, or at all."""
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of all Llamas from 3.1 on. A file holds what follows from them."""
FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class GgufFile:
    """What of a file is compared."""

    family: str
    settings: dict[str, Any]
    """By key, without the family's name."""
    sizes: dict[str, int]
    """Numbers in each tensor."""
    factors: tuple[float, ...]
    """By which the rotary frequencies are divided; empty: they are the plain ones."""


def complete(hf: Any, place: Path) -> None:
    """Gives a config of transformers what its file says beyond what transformers has read: Llama's long positions.

    Raises:
        ModelError: the file says something else that the config does not.
    """
    file = _read(str(place), place.stat().st_mtime_ns)
    rope = getattr(hf, "rope_parameters", None) or {}
    if file.factors and rope.get("rope_type") == "default":
        hf.rope_parameters = _as_llama3(hf, file.factors, place)
    for key, value in file.settings.items():
        if key not in SHOWN_BY_WEIGHTS | WITHOUT_EFFECT and not _agrees(hf, key, value):
            raise ModelError(
                f"{place}: {file.family}.{key}={value}, which transformers does not read from .gguf files: it would be "
                "another model; model.path=<the folder that it was made from>"
            )


def left_out(place: Path, model: nn.Module) -> list[str]:
    """Says how many numbers of a file are in no weight of the model, if any; transformers passes over their names."""
    file = _read(str(place), place.stat().st_mtime_ns)
    tied = getattr(getattr(model, "config", None), "tie_word_embeddings", False)
    beside = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
    beside |= {"output.weight"} if tied else set()
    held = sum(size for name, size in file.sizes.items() if name not in beside)
    taken = sum(p.numel() for p in model.parameters())
    taken += sum(b.numel() for name, b in model.named_buffers() if name in model.state_dict())
    return [f"{held - taken:,} of its {held:,} numbers"] if held > taken else []


@lru_cache(maxsize=4)
def _read(path: str, _changed: int) -> GgufFile:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    family = str(reader.fields["general.architecture"].contents())
    own = {k.removeprefix(f"{family}."): f for k, f in reader.fields.items() if k.startswith(f"{family}.")}
    factors = next((t.data.tolist() for t in reader.tensors if t.name == FACTORS), [])
    sizes = {t.name: int(t.n_elements) for t in reader.tensors}
    return GgufFile(family, {k: f.contents() for k, f in own.items()}, sizes, tuple(factors))


def _as_llama3(hf: Any, factors: Iterable[float], place: Path) -> dict[str, Any]:
    """The kind of positions whose frequencies are a file's; llama.cpp keeps them alone."""
    plain, wanted = hf.rope_parameters, torch.tensor(list(factors))
    hf.rope_parameters = plain | LLAMA3 | {"rope_type": "llama3", "factor": float(wanted.max())}
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](hf, torch.device("cpu"))
    width = 2 * len(scaled)
    unscaled = 1.0 / plain["rope_theta"] ** (torch.arange(0, width, 2) / width)
    if len(scaled) == len(wanted) and torch.allclose(unscaled / scaled, wanted, rtol=1e-3):
        return hf.rope_parameters
    raise ModelError(f"{place}: its positions ({FACTORS}) are none that are known; model.path=<the folder it is of>")


def _agrees(hf: Any, key: str, value: Any) -> bool:
    """Whether a config says what a file does."""
    ropes = _ropes(hf)
    if key.startswith("rope.scaling."):
        kinds = {rope.get("rope_type", "default") for rope in ropes}
        known = {str(number) for rope in ropes for number in rope.values()} | kinds
        return value in ("none", 1.0) or str(value) in known
    if key in ("rope.freq_base", "rope.freq_base_swa"):
        return not ropes or any(_same(value, rope.get("rope_theta")) for rope in ropes)
    if key in ("rope.dimension_count", "rope.dimension_count_swa"):
        return not ropes or len(ropes) > 1 or int(value) in _rotated(hf, ropes[0])
    names = CALLED.get(key, ())
    if key == "attention.sliding_window" and value >= hf.max_position_embeddings:
        return True
    return any(_same(value, found) for name in names if (found := _value(hf, name)) is not None)


def _rotated(hf: Any, rope: Mapping[str, Any]) -> set[int]:
    """Numbers of a head that positions turn."""
    size = _value(hf, "head_dim")
    shares = (rope.get("partial_rotary_factor"), getattr(hf, "partial_rotary_factor", None))
    share = next((s for s in shares if s is not None), 1.0)
    return {int(size * share), getattr(hf, "qk_rope_head_dim", None) or 0, getattr(hf, "rotary_dim", None) or 0}


def _value(hf: Any, name: str) -> Any:
    found = getattr(hf, name, None)
    if found is None and name == "head_dim" and getattr(hf, "num_attention_heads", None):
        return hf.hidden_size // hf.num_attention_heads
    return found


def _ropes(hf: Any) -> list[dict[str, Any]]:
    """RoPE's parameters, of each kind of layer that has its own."""
    rope = getattr(hf, "rope_parameters", None) or {}
    return [rope] if "rope_type" in rope else [part for part in rope.values() if isinstance(part, dict)]


def _same(a: Any, b: Any) -> bool:
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-12) if numbers else a == b
