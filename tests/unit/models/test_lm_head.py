"""What a model's logits are is read off the model: no family's bias, scale or cap is forgotten."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from vicuna_lit.models.lm_head import Head

TINY = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": None, "bos_token_id": None,
    "eos_token_id": None,
}  # fmt: skip
FAMILIES = {
    "llama": {},
    "phi": {},
    "gemma2": {"final_logit_softcapping": 0.5},
    "recurrent_gemma": {"logits_soft_cap": 0.5, "lru_width": 32, "block_types": ["recurrent", "attention"]},
    "xlstm": {"output_logit_soft_cap": 0.5},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 3.0},
    "hyperclovax": {"logits_scaling": 3.0},
    "minicpm3": {
        "dim_model_base": 16, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4,
        "v_head_dim": 8,
    },
    "falcon_h1": {
        "lm_head_multiplier": 0.3, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8,
        "mamba_n_groups": 1, "mamba_chunk_size": 8,
    },
}  # fmt: skip
"""One for each form, and for each name that a form goes by."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_logits_are_its_own(family):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **TINY | FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.get_output_embeddings().parameters():
        parameter.data.normal_()
    ids = torch.randint(0, 64, (1, 12))
    with torch.no_grad():
        states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        logits = model(input_ids=ids, use_cache=False).logits[0]
        head = Head.of(model)
        torch.testing.assert_close(head.logits(states), logits, rtol=1e-5, atol=1e-5)
        assert torch.allclose(states @ head.weight.T, logits, atol=0.1) == (family == "llama")
