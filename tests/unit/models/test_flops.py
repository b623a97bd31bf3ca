"""The FLOPs of a step against torch's own count of a real model's forward and backward pass."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface, PreTrainedModel

from tests.helpers.families import FAMILIES, tiny_config, tiny_model
from tests.helpers.runs import QUICKSTART
from vicuna_lit.config.compose import load
from vicuna_lit.data.plan import plan_steps
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.models.adapters import choose_trained
from vicuna_lit.models.causal_lm import build_model
from vicuna_lit.models.flops import Flops, count_flops, flops_of, windows_of
from vicuna_lit.train import throughput
from vicuna_lit.train.throughput import Throughput, peak_flops

LENGTHS, SUPERVISED = (96, 33, 160), (40, 10, 100)
FINETUNE = {
    "full": ("finetune=full",),
    "head_only": ("finetune=head_only",),
    "last_layers": ("finetune=last_layers", "finetune.layers=1"),
    "first_layer": ("finetune=partial", r"finetune.train=['layers\.0\.mlp']"),
    "biases": ("finetune=partial", r"finetune.train=['layers\.1\.self_attn\..*bias']"),
    "embeddings": ("finetune=partial", "finetune.train=[embed_tokens]"),
    "lora": ("finetune=lora",),
    "adapters_on_q_and_v": ("finetune=lora", "finetune.targets=[q_proj,v_proj]"),
}
COUNTED = sorted(set(FAMILIES) - {"mamba", "bitnet"})
PLAN = plan_steps(LENGTHS, SUPERVISED, conversations_per_step=3, tokens_per_device=160)
cached = cache(load)


def finetuned(model: PreTrainedModel, how: str) -> PreTrainedModel:
    choose_trained(model, cached("train", *FINETUNE[how]).finetune)
    model.set_attn_implementation("eager")
    model.config._experts_implementation = "eager"  # products by groups are not counted by torch
    return model


def llama(how: str, **fields: Any) -> PreTrainedModel:
    """A small one."""
    return finetuned(tiny_model("llama", num_hidden_layers=3, attention_bias=how == "biases", **fields), how)


def counted_by_torch(model: PreTrainedModel, windows: list[int | None]) -> float:
    """Forward and backward of each conversation; the head on as many positions as are supervised.

    Eager attention is dense: of its products those inside the window, causal, are useful, and torch counts all. (The
    CPU's fused attention, which runs use, torch does not count at all.)
    """
    head: Any = model.get_output_embeddings()
    total = 0.0
    for length, supervised in zip(LENGTHS, SUPERVISED, strict=True):
        with FlopCounterMode(display=False) as counter:
            ids = torch.randint(0, 256, (1, length))
            hidden = model.base_model(ids, use_cache=False).last_hidden_state[0, :supervised]
            head(hidden).float().sum().backward()
        by_module = counter.get_flop_counts()
        counts = by_module.pop("Global")
        for name, those in by_module.items():
            if name.endswith("rotary_emb"):  # older transformers compute the angles as a product of matrices
                counts = {op: n - those.get(op, 0) for op, n in counts.items()}
        attention = sum(n for op, n in counts.items() if "bmm" in str(op) or "attention" in str(op))
        seen = [np.minimum(np.arange(length) + 0.5, window or length).mean() / length for window in windows]
        total += sum(counts.values()) - attention * (1 - float(np.mean(seen)))
    return total


def ours(model: PreTrainedModel) -> Flops:
    flops = flops_of(model)
    assert flops is not None
    return flops


@pytest.mark.parametrize("finetune", FINETUNE)
@pytest.mark.promise("FLOPs are those that torch counts, for full, partial and LoRA training")
def test_as_many_as_torch_counts(finetune: str):
    """To the FLOP; but where the first layer's keys need no gradient, that product is left out, and counted by us."""
    if "lora" in finetune or "adapters" in finetune:
        pytest.importorskip("peft")
    model = llama(finetune)
    (step,) = ours(model).of_steps(PLAN)
    within = 0.02 if finetune == "adapters_on_q_and_v" else 1e-12
    assert step == pytest.approx(counted_by_torch(model, [None] * 3), rel=within)


@pytest.mark.parametrize("finetune", ["full", "lora"])
@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.promise("FLOPs are those that torch counts, for full, partial and LoRA training")
def test_as_many_as_torch_counts_in_any_family(name: str, finetune: str):
    """Fused matrices, experts, windows, heads of two sizes, attention and MLP side by side."""
    if finetune == "lora":
        pytest.importorskip("peft")
    model = finetuned(tiny_model(name), finetune)
    windows = windows_of(model.config)
    assert windows is not None
    (step,) = ours(model).of_steps(PLAN)
    assert step == pytest.approx(counted_by_torch(model, windows), rel=1e-12)


@pytest.mark.parametrize("name", sorted(set(COUNTED) - {"bloom"}))  # which does without transformers' interface
def test_windows_are_those_that_the_model_asks_for(name: str):
    asked = []

    def spy(_module: Any, query: Any, _key: Any, value: Any, _mask: Any, **settings: Any) -> tuple[Any, None]:
        asked.append(settings.get("sliding_window"))
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None

    AttentionInterface.register("spy", spy)
    model = tiny_model(name, num_hidden_layers=7)
    model.set_attn_implementation("spy")
    model.base_model(torch.randint(0, 256, (1, 9)), use_cache=False)
    assert asked == windows_of(model.config)


def test_the_textbook_figures():
    """6N a token with all weights trained; 4N with frozen ones under small adapters; attention is half of 12·L·d·ℓ²."""
    model = llama("full", num_key_value_heads=4)
    weights = sum(p.numel() for n, p in model.named_parameters() if "proj" in n)
    flops = ours(model)
    assert flops.per_token == 6 * weights
    assert flops.per_squared_length == 12 * 3 * 64 / 2
    assert flops.per_supervised_token == 6 * 64 * 1024
    frozen = count_flops(model.config, {n: tuple(p.shape) for n, p in model.named_parameters()}, [])
    assert frozen == Flops(2 * weights, 12 * 3 * 64 / 6, 2 * 64 * 1024)


MODEL_LAYER = "model.layers.1."
UNKNOWN: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "another matrix": ({f"{MODEL_LAYER}self_attn.gate_proj.weight": (64, 64)}, {}),
    "a weight of its own": ({f"{MODEL_LAYER}self_attn.lambda_q": (16,)}, {}),
    "a convolution": ({f"{MODEL_LAYER}mlp.conv1d.weight": (64, 1, 4)}, {}),
    "queries with a gate": ({f"{MODEL_LAYER}self_attn.q_proj.weight": (128, 64)}, {}),
    "a matrix before the layers": ({"model.project_in.weight": (64, 64)}, {}),
    "another decoder": ({"vision.layers.0.mlp.up_proj.weight": (96, 64)}, {}),
    "experts without a router": ({f"{MODEL_LAYER}mlp.experts.gate_up_proj": (4, 64, 64)}, {"num_experts_per_tok": 2}),
    "another attention": ({}, {"layer_types": ["full_attention", "linear_attention"]}),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_is_not_known_is_not_guessed(what: str):
    more, fields = UNKNOWN[what]
    config = tiny_config("llama")
    for key, value in fields.items():
        setattr(config, key, value)
    shapes = {n: tuple(p.shape) for n, p in tiny_model("llama").named_parameters()}
    assert count_flops(tiny_config("llama"), shapes, []) is not None
    assert count_flops(config, shapes | more, []) is None


@pytest.mark.parametrize("name", ["mamba", "bitnet"])
def test_other_families_have_no_figure(name: str):
    assert flops_of(tiny_model(name)) is None


def test_attention_inside_a_window():
    plan = plan_steps((3, 8, 20), (1, 1, 1), conversations_per_step=3, tokens_per_device=31)
    (found,) = Flops(0.0, 1.0, 0.0, ((8, 2.0),)).of_steps(plan)
    twice_the_pairs = [2 * np.minimum(np.arange(length) + 0.5, 8).sum() for length in (3, 8, 20)]
    assert found == 9 + 64 + 400 + 2 * sum(twice_the_pairs)


def test_a_plans_steps_by_hand_and_the_same_on_any_layout():
    plan = plan_steps((3, 5, 7, 9), (1, 2, 3, 4), conversations_per_step=2, tokens_per_device=9, max_steps=2)
    found = Flops(10.0, 1.0, 100.0).of_steps(plan)
    each = {0: 30 + 9 + 100, 1: 50 + 25 + 200, 2: 70 + 49 + 300, 3: 90 + 81 + 400}
    assert found.tolist() == [sum(each[c] for c in step) for step in plan.step_examples]
    wide = plan_steps(
        (3, 5, 7, 9), (1, 2, 3, 4), conversations_per_step=2, tokens_per_device=24, max_steps=2, world_size=2
    )
    np.testing.assert_array_equal(Flops(10.0, 1.0, 100.0).of_steps(wide), found)


def test_figures_are_of_one_device():
    config = load("train", "trainer.peak_tflops=0.5", f"model.tokenizer={QUICKSTART / 'tokenizer'}")
    model = build_model(config, make_encoder(config), "meta")
    one, two = (
        Throughput(config, model, plan_steps((30, 50), (10, 20), conversations_per_step=2, tokens_per_device=64,
                                           world_size=n)) for n in (1, 2)
    )  # fmt: skip
    a, b = one.figures(1, 2.0), two.figures(1, 2.0)
    assert a["speed/supervised_tokens_per_second"] == b["speed/supervised_tokens_per_second"] == 15
    assert a["speed/tokens_per_second"] == 40
    assert a["speed/model_tflops_per_second"] == pytest.approx(2 * b["speed/model_tflops_per_second"])
    assert a["speed/mfu"] == pytest.approx(a["speed/model_tflops_per_second"] / 0.5)
    one.figures(1, 4.0)
    one.figures(1, 400.0)
    assert one.tflops_per_second == pytest.approx(a["speed/model_tflops_per_second"] / 2)
    assert one.mfu == pytest.approx(a["speed/mfu"] / 2)


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16-mixed", 312),
        ("NVIDIA H100 80GB HBM3", "bf16-true", 989),
        ("NVIDIA H100 PCIe", "bf16-mixed", 756),
        ("NVIDIA L4", "bf16-mixed", 121),
        ("NVIDIA H100 NVL", "bf16-mixed", 835),
        ("NVIDIA H200", "bf16-mixed", 989),
        ("NVIDIA L40S", "bf16-mixed", 362),
        ("NVIDIA RTX A6000", "bf16-mixed", 154.8),
        ("NVIDIA B200", "bf16-mixed", 2250),
        ("NVIDIA B200", "fp32", 80),
        ("NVIDIA GeForce RTX 4090", "bf16-mixed", 165),
        ("NVIDIA GeForce RTX 5090", "bf16-true", 209.5),
        ("AMD Instinct MI300X", "bf16-mixed", 1307),
        ("Tesla V100-SXM2-16GB", "bf16-mixed", None),
        ("NVIDIA GH200 480GB", "bf16-mixed", None),
    ],
)
def test_the_peak_of_a_gpu(name, precision, tflops, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    found = peak_flops(load("train", f"precision={precision}"))
    assert found == (None if tflops is None else pytest.approx(tflops * 1e12))
    assert peak_flops(load("train", "trainer.peak_tflops=7")) == 7e12
    assert throughput.peak_flops(load("train", "trainer.accelerator=cpu")) is None
