"""A `.gguf` file is the model that it says it is, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vicuna_lit.models.architecture import read_config
from vicuna_lit.models.load_weights import load_weights
from vicuna_lit.paths import ModelError

gguf = pytest.importorskip("gguf")

SIZES: dict[str, Any] = dict(
    vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=131072,
)  # fmt: skip
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
)
LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    **{f"model.layers.0.{theirs}": f"blk.0.{ours}" for theirs, ours in LAYER.items()},
}  # fmt: skip


def llama(**rope: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 5e5} | rope))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    return model


def written(model: LlamaForCausalLM, file: Path, more: dict[str, float] | None = None, **tensors: Any) -> Path:
    """As llama.cpp's converter writes it, with more of its family's keys, and more tensors."""
    c, out = model.config, gguf.GGUFWriter(file, "llama")
    out.add_name("tiny")
    out.add_context_length(c.max_position_embeddings)
    out.add_block_count(1)
    out.add_feed_forward_length(c.intermediate_size)
    out.add_embedding_length(c.hidden_size)
    out.add_rope_dimension_count(16)
    out.add_rope_freq_base(5e5)
    out.add_head_count(4)
    out.add_head_count_kv(2)
    out.add_layer_norm_rms_eps(c.rms_norm_eps)
    out.add_vocab_size(c.vocab_size)
    for key, value in (more or {}).items():
        out.add_string(key, value) if isinstance(value, str) else out.add_float32(key, value)
    for name, weight in model.state_dict().items():
        array, heads = weight.numpy(), {"q": 4, "k": 2}.get(name.partition("_proj")[0][-1], 0)
        if "_proj" in name and heads:  # its rotary halves lie interleaved
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        out.add_tensor(NAMES[name.removesuffix(".weight")] + ".weight", np.ascontiguousarray(array))
    for name, array in tensors.items():
        out.add_tensor(name.replace("__", "."), np.asarray(array, np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return file


def read(file: Path) -> Any:
    return load_weights(read_config(file), str(file), "cpu", torch.float32, {})


@pytest.mark.promise("A .gguf file of Llama 3.1 and later has its long positions, which transformers does not read")
def test_llama_3s_positions_come_out_of_the_file(tmp_path: Path):
    plain, long = llama(), llama(**LLAMA3)
    factors = plain.model.rotary_emb.inv_freq / long.model.rotary_emb.inv_freq
    assert factors.max() == 8
    found = read(written(long, tmp_path / "long.gguf", rope_freqs__weight=factors))
    ids = torch.arange(60)[None]
    with torch.no_grad():
        assert torch.equal(found(ids).logits, long(ids).logits)
        assert torch.equal(read(written(plain, tmp_path / "plain.gguf"))(ids).logits, plain(ids).logits)
        assert not torch.allclose(plain(ids).logits, long(ids).logits, atol=1e-3)


def test_what_transformers_would_pass_over_is_refused(tmp_path: Path):
    model, one = llama(), tmp_path / "m.gguf"
    for key, value in {
        "llama.rope.scaling.type": "linear",
        "llama.attention.sliding_window": 16.0,
        "llama.attention.key_length": 32.0,
        "llama.logit_scale": 0.5,
    }.items():
        with pytest.raises(ModelError, match=rf"{key}={value}, which transformers does not read"):
            read_config(written(model, one, {key: value}))
    with pytest.raises(ModelError, match=r"its positions .* are none that are known"):
        read_config(written(model, one, rope_freqs__weight=np.full(8, 3.0)))
    with pytest.raises(ModelError, match=r"the model has no place for 64 of its [\d,]+ numbers"):
        read(written(model, one, blk__0__attn_q__bias=np.ones(64)))
    harmless = {
        "llama.rope.scaling.type": "none",
        "llama.attention.key_length": 16.0,
        "llama.attention.sliding_window": 2e5,
    }
    assert read(written(model, one, harmless)).config.rope_parameters["rope_type"] == "default"
