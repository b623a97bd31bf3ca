"""Tiny random models of the families that people train, for whatever must hold for all of them."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.helpers.runs import QUICKSTART

BASE: dict[str, Any] = dict(
    vocab_size=1024, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512,
)  # fmt: skip
"""Of every one; a config class takes fields that it does not know."""
CHOSEN: dict[str, Any] = dict(num_experts_per_tok=2, moe_intermediate_size=32)
SHARED: dict[str, Any] = dict(
    n_routed_experts=4, first_k_dense_replace=1, n_group=1, topk_group=1, n_shared_experts=1, **CHOSEN
)  # fmt: skip
STEADY: dict[str, Any] = dict(attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama_tied": ("llama", dict(tie_word_embeddings=True)),
    "qwen2": ("qwen2", {}),
    "qwen2_window": ("qwen2", dict(use_sliding_window=True, sliding_window=16, max_window_layers=1)),
    "qwen3": ("qwen3", dict(head_dim=16)),
    "mistral_window": ("mistral", dict(sliding_window=16)),
    "gemma": ("gemma", dict(head_dim=16)),
    "gemma2": ("gemma2", dict(head_dim=16, sliding_window=16, attn_logit_softcapping=5.0)),
    "gemma3": ("gemma3_text", dict(head_dim=16, sliding_window=16)),
    "phi3_window": ("phi3", dict(sliding_window=16, pad_token_id=0)),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", dict(sliding_window=16)),
    "smollm3": ("smollm3", {}),
    "granite": ("granite", dict(logits_scaling=8.0)),
    "exaone4": ("exaone4", dict(sliding_window=16)),
    "glm4": ("glm4", dict(head_dim=16)),
    "gpt_neox": ("gpt_neox", {}),
    "phi": ("phi", {}),
    "bitnet": ("bitnet", {}),
    "starcoder2": ("starcoder2", {}),
    "mixtral": ("mixtral", dict(num_local_experts=4, num_experts_per_tok=2)),
    "qwen2_moe": ("qwen2_moe", dict(num_experts=4, shared_expert_intermediate_size=48, **CHOSEN)),
    "qwen3_moe": ("qwen3_moe", dict(head_dim=16, num_experts=4, **CHOSEN)),
    "gpt_oss": ("gpt_oss", dict(head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=16)),
    "deepseek_v3": (
        "deepseek_v3",
        dict(num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, v_head_dim=16)
        | dict(qk_nope_head_dim=16, **SHARED),
    ),
    "glm4_moe": ("glm4_moe", dict(head_dim=16, **SHARED)),
    "gpt2": ("gpt2", dict(n_embd=64, n_layer=2, n_head=4, n_positions=512, **STEADY)),
    "bloom": ("bloom", dict(n_layer=2, n_head=4)),
    "mamba": ("mamba", dict(state_size=8)),
}
"""Name → transformers' model type, and what its config has besides `BASE`."""


def tiny_config(name: str, **fields: Any) -> Any:
    """Of a family; `fields` take the place of what `FAMILIES` says."""
    kind, own = FAMILIES[name]
    values: dict[str, Any] = BASE | _special_tokens() | own | fields
    return CONFIG_MAPPING[kind](**values)


def tiny_model(name: str, seed: int = 0, **fields: Any) -> PreTrainedModel:
    """Of a family, in fp32, the same for the same seed.

    Its weights are large enough for windows, caps and biases to show in the loss; a fresh model's are so small that a
    model without them gives almost the same.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(name, **fields), dtype=torch.float32)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.dim() > 1 and "embed" not in key:
                tensor.mul_(4)
            if tensor.dim() == 1 and (key.endswith(".bias") or "sinks" in key or "correction_bias" in key):
                tensor.copy_(torch.randn_like(tensor) * (0.1 if key.endswith(".bias") else 2))
    return model


@cache
def _special_tokens() -> dict[str, int]:
    tokenizer = AutoTokenizer.from_pretrained(QUICKSTART / "tokenizer")
    eos = tokenizer.eos_token_id
    return dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=eos, pad_token_id=eos)


def save_tiny(name: str, folder: Path, seed: int = 0, **fields: Any) -> Path:
    """The same as a Hugging Face folder with the quickstart's tokenizer; returns the folder."""
    tiny_model(name, seed, **fields).save_pretrained(folder)
    AutoTokenizer.from_pretrained(QUICKSTART / "tokenizer").save_pretrained(folder)
    return folder
