"""Adapters and last layers on every family: which weights get one, and that what is exported is the same model."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.helpers.families import FAMILIES, save_tiny, tiny_model
from vicuna_lit.config.compose import load
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.models.adapters import choose_trained, describe_adapters, save_adapter
from vicuna_lit.models.export import export
from vicuna_lit.paths import ModelError

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's, of transformers

ATTENTION = "q_proj k_proj v_proj o_proj"
LLAMA = f"{ATTENTION} gate_proj up_proj down_proj"
FUSED = "query_key_value dense dense_h_to_4h dense_4h_to_h"
LINEAR = dict.fromkeys(FAMILIES, LLAMA) | {
    "phi3_window": "qkv_proj o_proj gate_up_proj down_proj",
    "glm4": f"{ATTENTION} gate_up_proj down_proj",
    "gpt_neox": FUSED,
    "bloom": FUSED,
    "phi": "q_proj k_proj v_proj dense fc1 fc2",
    "starcoder2": f"{ATTENTION} c_fc c_proj",
    "gpt2": "c_attn c_proj c_fc",
    **dict.fromkeys(("mixtral", "qwen3_moe", "gpt_oss", "glm4_moe"), ATTENTION),
    "deepseek_v3": "q_a_proj q_b_proj kv_a_proj_with_mqa kv_b_proj o_proj",
}
"""Of PEFT's reading, DeepSeek's and GLM's other layers cannot be told from the experts."""
IDS = torch.randint(0, 1000, (1, 60), generator=torch.Generator().manual_seed(0))


cached = cache(load)  # a third of a second each


def adapted(name: str, *overrides: str) -> PreTrainedModel:
    model = tiny_model(name)
    choose_trained(model, cached("train", "finetune=lora", *overrides).finetune)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:  # they begin as nothing
            nn.init.normal_(parameter, std=0.05)
    return model


@torch.no_grad()
def loss(model: Any) -> float:
    return model.eval()(input_ids=IDS, labels=IDS, use_cache=False).loss.item()


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"mamba"}))
def test_every_linear_layer_of_the_decoder_has_an_adapter_and_no_router_and_no_head(name: str):
    model = adapted(name)
    named = {key.split(".lora_A.")[0] for key, _ in model.named_parameters() if ".lora_A." in key}
    assert {key.rpartition(".")[2] for key in named} == set(LINEAR[name].split())
    assert all(re.search(r"\.(layers|h)\.\d+\.", key) for key in named)
    assert all(".lora_" in key for key, p in model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("phi3_window", "LoRA on 8 linear layers"),
        ("mixtral", "LoRA on 8 linear layers; the experts' weights are not among them"),
        ("deepseek_v3", r"LoRA on 10 of 16 linear layers \(PEFT takes .*\); the experts' weights are not among them"),
    ],
)
def test_a_run_says_which_layers_have_adapters(name: str, said: str):
    assert re.fullmatch(said, describe_adapters(adapted(name), "all-linear"))


def test_a_family_without_a_layer_to_adapt_says_so():
    with pytest.raises(ModelError, match="MambaForCausalLM has no linear layer that an adapter can stand beside"):
        adapted("mamba")


def test_what_peft_would_take_for_experts_is_refused():
    with pytest.raises(ModelError, match="PEFT takes gate_proj, up_proj for the experts'"):
        adapted("glm4_moe", "finetune.targets=[up_proj,gate_proj,q_proj]")


@pytest.mark.parametrize(
    "name",
    ["llama", "llama_tied", "qwen2", "phi3_window", "gpt_neox", "gpt2", "gemma", "glm4", "mixtral", "qwen2_moe",
     "qwen3_moe", "deepseek_v3"],
)  # fmt: skip
def test_merged_and_as_peft_reads_them_adapters_give_the_same_loss(name: str, tmp_path: Path):
    from peft import PeftModel

    model = adapted(name)
    expected = loss(model)
    save_adapter(model, tmp_path / "adapter", None, writes=True)
    export(model, make_encoder(cached("train")), tmp_path / "hf")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    plain, info = loaded
    assert not any(info.values())
    base: Any = AutoModelForCausalLM.from_pretrained(save_tiny(name, tmp_path / "base"))
    assert abs(loss(base) - expected) > 1e-3, "the adapters do something"
    assert loss(plain) == pytest.approx(expected, abs=1e-5)
    assert loss(PeftModel.from_pretrained(base, tmp_path / "adapter")) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize(
    ("name", "norm"),
    [("llama", "model.norm."), ("llama_tied", "model.norm."), ("gpt_neox", "gpt_neox.final_layer_norm."),
     ("gpt2", "transformer.ln_f."), ("bloom", "transformer.ln_f."), ("deepseek_v3", "model.norm.")],
)  # fmt: skip
def test_the_last_layers_are_the_last_of_any_family(name: str, norm: str, head: bool):
    model = tiny_model(name)
    choose_trained(
        model, cached("train", "finetune=last_layers", "finetune.layers=1", f"finetune.lm_head={head}").finetune
    )
    named = dict(model.named_parameters(remove_duplicate=False))
    output = model.get_output_embeddings()
    assert output is not None
    expected = {key for key in named if re.search(r"\.(layers|h)\.1\.", key) or key.startswith(norm)}
    expected |= {key for key, p in named.items() if head and p is output.weight}
    assert {key for key, p in named.items() if p.requires_grad} == expected


@pytest.mark.parametrize("how", [["finetune=partial", "finetune.train=['.']"], ["finetune=last_layers"]])
@pytest.mark.promise("A weight that its family keeps out of the training is trained by no choice of weights")
def test_a_bias_that_balances_experts_stays_out_of_the_training(how: list[str]):
    """AFMoE's and ERNIE's get no gradient: as trained weights they stopped ddp and the resumption."""
    model: Any = tiny_model("llama")
    model.model.layers[1].input_layernorm.weight.requires_grad_(False)
    choose_trained(model, cached("train", *how, *["finetune.layers=1"] * ("last" in how[0])).finetune)
    kept = {name for name, p in model.named_parameters() if not p.requires_grad and "layers.1" in name}
    assert kept == {"model.layers.1.input_layernorm.weight"}


def test_more_last_layers_than_there_are():
    with pytest.raises(ModelError, match=r"finetune\.layers=4: the model has 2"):
        choose_trained(tiny_model("llama"), cached("train", "finetune=last_layers").finetune)
