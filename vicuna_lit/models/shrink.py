"""A small copy of a model's config: the same kinds of layers, in miniature."""

import copy
import re
from collections.abc import Iterator
from typing import Any

from vicuna_lit.models import experts

ALIKE, LAYERS, MOST_LAYERS = 3, 8, 16
"""Layers of a small copy where all are alike; within which the patterns of published families repeat; at most, where
there are many kinds."""
KV = "num_key_value_heads"
WIDTH, HEAD = 128, 256
"""Hidden size where heads do not fix it; size of a head at most."""
MOST: dict[str, float] = {
    r"vocab_size(_per_layer_input)?": 160,
    r".*_token_id": 1,
    r"(.*_)?(intermediate_size(_mlp)?|ffn_hidden_size|ffn_dim|d_ff|n_inner)|intermediate_size_.*": 64,
    r"sliding_window(_size)?|attention_chunk_size|attention_window_size|local_attention|window_size": 8,
    r"(attn|final|router)?_?logit_?s?_?soft_?cap(ping)?": 2.0,
    experts.COUNT.pattern: 4,
    experts.CHOSEN.pattern: 2,
    r"(mamba_|ssm_)?(chunk_size|d_state|state_size|dstate)": 8,
    r"floor_scale": 8,
    r"n_group|num_expert_group": 2,
    r"topk_group|n_shared_experts": 1,
}
"""Patterns of names, and the most that a small copy has of each: windows and caps are small enough to matter."""
PERIOD = re.compile(r"period|interval|step|freq|pattern|every|first_k|max_window_layers|dense_layers|start_index")
FIRST_OF_A_KIND = ("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers", "n_dense_layers")
"""Counts of layers at the beginning that differ from the rest."""


def small_copy(config: Any) -> Any:
    """The same architecture with few layers, heads, experts and tokens, and with windows and caps that matter.

    Sizes that must fit each other keep their ratio: a head keeps its size up to 256 (rotary factors are given for
    each of its numbers), so the hidden size follows from the number of heads.

    Args:
        config: a transformers config of a causal language model; it stays as it is.
    """
    small = copy.deepcopy(config)
    for part in _parts(small):
        of_layers = _taken_apart(part)
        kept = _layers(part)
        _sizes(part)
        _heads(part)
        _mixers(part)
        if of_layers:
            few = part.num_key_value_heads
            part.per_layer_config = {
                kept.index(i): own | ({KV: min(own[KV], few)} if KV in own else {})
                for i, own in of_layers.items()
                if i in kept
            }
    small.tie_word_embeddings = getattr(config, "tie_word_embeddings", False)
    return small


def _parts(config: Any) -> Iterator[Any]:
    """The config, and those of the text model inside it where it has some."""
    yield config
    text = config.get_text_config(decoder=True)
    if text is not config:
        yield text


def _taken_apart(config: Any) -> dict[int, dict[str, Any]]:
    """What single layers have of their own (Gemma 4: the size of heads), by layer; the config has none of it then."""
    spec = getattr(config, "_heterogeneity_spec", None)
    if spec is None:
        return {}
    config._heterogeneity_spec = None
    return spec.per_layer_overrides


def _fields(config: Any) -> dict[str, Any]:
    """Plain values by name, without those that are another's alias."""
    return {k: v for k, v in vars(config).items() if not k.startswith("_")}


def _layers(config: Any) -> list[int]:
    """Keeps the first layers, and two of each kind where kinds are listed, or one; returns which."""
    count = getattr(config, "num_hidden_layers", None)
    if not isinstance(count, int):
        return []
    lists = {k: v for k, v in _fields(config).items() if isinstance(v, list | tuple) and len(v) == count}
    shared = getattr(config, "num_kv_shared_layers", None) or 0  # the last ones have keys of earlier layers
    kinds = [(*(repr(v[i]) for v in lists.values()), i >= count - shared) for i in range(count)]
    each = 2 if 2 * len(set(kinds)) <= LAYERS else 1
    kept: list[int] = []
    for i, kind in enumerate(kinds):
        if lists and sum(kinds[k] == kind for k in kept) < each and len(kept) < MOST_LAYERS:
            kept.append(i)
    repeats = any(isinstance(v, int) and v > 1 and PERIOD.search(k) for k, v in _fields(config).items())
    least = LAYERS if repeats else 0 if lists else ALIKE
    kept = sorted({*kept, *[i for i in range(count) if i not in kept][: max(0, least - len(kept))]})
    config.num_hidden_layers = len(kept)
    for name, values in lists.items():
        setattr(config, name, type(values)(values[i] for i in kept))
    if shared:
        config.num_kv_shared_layers = sum(i >= count - shared for i in kept)
    for name in FIRST_OF_A_KIND:
        if isinstance(first := getattr(config, name, None), int) and first >= len(kept):
            setattr(config, name, 1)
    return kept


def _sizes(config: Any) -> None:
    for name, value in _fields(config).items():
        most = next((most for names, most in MOST.items() if re.fullmatch(names, name)), None)
        if most is None:
            continue
        if _is_number(value):
            setattr(config, name, min(value, most))
        elif isinstance(value, list) and all(map(_is_number, value)):  # one for each layer
            setattr(config, name, [min(v, most) for v in value])
    if isinstance(getattr(config, "eos_token_id", None), list):
        config.eos_token_id = 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _heads(config: Any) -> None:
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int) or not isinstance(getattr(config, "hidden_size", None), int):
        return
    groups = getattr(config, "num_key_value_heads", None)
    size = config.hidden_size // heads
    if not _rotary_factors(config):
        size = min(size, HEAD)
    few = min(heads, 2 if groups in (None, heads, 1) else 4)
    config.num_attention_heads = few
    if isinstance(groups, int):
        config.num_key_value_heads = few if groups == heads else min(groups, max(1, few // 2))
    own = isinstance(_fields(config).get("head_dim"), int)
    config.hidden_size = min(config.hidden_size, WIDTH if own and config.head_dim != size else few * size)


def _rotary_factors(config: Any) -> bool:
    """Whether the config holds a number for each pair of a head's numbers."""
    rope = getattr(config, "rope_parameters", None) or {}
    return any(isinstance(value, list) for value in rope.values())


def _mixers(config: Any) -> None:
    """State spaces and linear attention, whose heads follow from the hidden size."""
    fields = _fields(config)
    if isinstance(fields.get("num_heads"), int) and isinstance(fields.get("expand"), int | float):  # Mamba 2
        config.num_heads, config.n_groups = 2, 1
        config.hidden_size = int(2 * config.head_dim / config.expand)
    if isinstance(keys := fields.get("linear_num_key_heads"), int):
        ratio = fields["linear_num_value_heads"] // keys
        config.linear_num_key_heads, config.linear_num_value_heads = min(keys, 2), min(keys, 2) * ratio
    if isinstance(fields.get("mamba_n_heads"), int):
        inner = int(fields.get("mamba_expand", 2) * config.hidden_size)
        config.mamba_n_heads = max(1, inner // config.mamba_d_head)
        if fields.get("mamba_d_ssm"):
            config.mamba_d_ssm = config.mamba_n_heads * config.mamba_d_head
        if isinstance(fields.get("mamba_n_groups"), int):
            config.mamba_n_groups = 1
