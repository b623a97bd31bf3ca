"""Liger's kernels compute what torch's do, in the layers of one model alone; where they cannot run they are refused."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.llama import modeling_llama

from tests.helpers.families import tiny_config
from tests.unit.models.test_activations import gradients, row
from vicuna_lit.config.compose import ConfigError, load
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.models import attention, liger
from vicuna_lit.models.causal_lm import SupervisedLM, build_model
from vicuna_lit.paths import ModelError

NEAR = {"fp32": 1e-5, "bf16-mixed": 2e-2, "bf16-true": 4e-2}
"""Relative error of loss and gradient; bf16 has three digits."""
TINY = ("llama", "mistral_window", "qwen2", "qwen3", "phi3_window", "smollm3", "gemma2", "gemma3")


def family(name: str, precision: str, device: str) -> SupervisedLM:
    """A tiny model, with norms that do not leave everything as it is."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(name), dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2) if weight.ndim < 2 else weight.mul_(2)
    attention.use(model, attention.ANYWHERE)
    model.config.use_cache = False
    model = model.to(torch.bfloat16 if precision == "bf16-true" else torch.float32).to(device).train()
    return SupervisedLM(model, autocast=precision == "bf16-mixed")


def apart(name: str, precision: str, device: str) -> tuple[float, float]:
    """How far Liger's loss and gradient are from torch's, relative to them."""
    lm, batch = family(name, precision, device), row(40, 7, 90, 1).to(device)
    plain, wanted = gradients(lm, batch)
    liger.use(lm.model)
    loss, found = gradients(lm, batch)
    assert len(found) == len(wanted) > 10
    flat = [torch.cat([g.double().flatten() for g in some]) for some in (wanted, found)]
    return abs(float(loss / plain) - 1), float((flat[1] - flat[0]).norm() / flat[0].norm())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", NEAR)
@pytest.mark.parametrize("name", TINY)
def test_the_loss_stays(name: str, precision: str):
    pytest.importorskip("liger_kernel")
    assert max(apart(name, precision, "cuda")) < NEAR[precision]


@pytest.fixture
def has_all(monkeypatch):
    """A machine with a GPU and Liger, as far as `require` asks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(liger, "find_spec", lambda _: SimpleNamespace())


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"model_type": "olmoe"}, "kernels=liger: olmoe is none of llama, mistral, .*; kernels=torch"),
        ({"hidden_act": "gelu"}, "kernels=liger: its MLP for llama has no gelu; kernels=torch"),
    ],
)
def test_another_model_is_not_computed(has_all, changed: dict[str, str], why: str):
    config: Any = SimpleNamespace(**{"model_type": "llama", "hidden_act": "silu"} | changed)
    with pytest.raises(ModelError, match=why):
        liger.require("liger", config)
    liger.require("torch", config)


def test_every_family_is_compared():
    assert {tiny_config(name).model_type for name in TINY} == liger.FAMILIES.keys()


@pytest.mark.parametrize("name", liger.FAMILIES)
def test_families_have_the_activation_of_ligers_mlp(has_all, name: str):
    liger.require("liger", CONFIG_MAPPING[name]())


@pytest.mark.parametrize("missing", ["GPU", "package"])
def test_what_is_missing_is_said_before_the_model_is_made(missing: str, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: missing != "GPU")
    monkeypatch.setattr(liger, "find_spec", lambda _: None if missing == "package" else SimpleNamespace())
    config = load("train", "kernels=liger", "attention=sdpa_mask", "trainer.accelerator=cpu")
    with pytest.raises(ModelError, match="kernels=liger needs an NVIDIA GPU and pip install liger-kernel"):
        build_model(config, make_encoder(config))


def test_layers_are_fused_once():
    with pytest.raises(ConfigError, match="compiled layers are fused already: kernels=torch, or compile=false"):
        load("train", "kernels=liger", "compile=true")


def test_other_models_of_the_process_stay_torchs(monkeypatch):
    """Liger's own function also changes the family's module; its arguments are those of 0.8."""
    asked: dict[str, Any] = {}

    def apply(model: Any, **options: Any) -> None:
        asked.update(options)
        modeling_llama.LlamaRMSNorm = modeling_llama.apply_rotary_pos_emb = None  # pyright: ignore[reportAttributeAccessIssue]
        model.model.norm.forward = lambda x: x * 2

    stand_in: Any = ModuleType("liger_kernel.transformers")
    stand_in._apply_liger_kernel_to_instance = apply
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", stand_in)
    norm, positions = modeling_llama.LlamaRMSNorm, modeling_llama.apply_rotary_pos_emb
    lm, other = family("llama", "fp32", "cpu"), family("llama", "fp32", "cpu")
    liger.use(lm.model)
    assert (modeling_llama.LlamaRMSNorm, modeling_llama.apply_rotary_pos_emb) == (norm, positions)
    assert asked == {"rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False}
    batch = row(5, 9)
    assert not torch.equal(lm.hidden(batch), other.hidden(batch))
    assert torch.equal(other.hidden(batch), family("llama", "fp32", "cpu").hidden(batch))
