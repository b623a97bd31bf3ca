"""The FLOPs of a step against torch's own count of a real model's forward and backward pass."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from tests.runs import QUICKSTART
from vicuna_lit.compose import load
from vicuna_lit.data.schedule import schedule
from vicuna_lit.tokenizer import make_encoder
from vicuna_lit.train import throughput
from vicuna_lit.train.choices import LoraConfig
from vicuna_lit.train.finetune import choose_trained
from vicuna_lit.train.flops import Flops, count_flops
from vicuna_lit.train.model import build_model
from vicuna_lit.train.throughput import Throughput, peak_flops

LENGTHS, SUPERVISED = (96, 33, 160), (40, 10, 100)
FINETUNE = {
    "full": ("finetune=full",),
    "head_only": ("finetune=head_only",),
    "last_layers": ("finetune=last_layers", r"finetune.train=['layers\.2\.','^model\.norm','lm_head']"),
    "first_layer": ("finetune=last_layers", r"finetune.train=['layers\.0\.mlp']"),
    "embeddings": ("finetune=last_layers", "finetune.train=[embed_tokens]"),
    "lora": ("finetune=lora",),
    "adapters_on_q_and_v": ("finetune=lora", "finetune.targets=[q_proj,v_proj]"),
}


def model_of(finetune: str, groups: int = 2) -> tuple[LlamaForCausalLM, int]:
    """A small LLaMA, and the rank of its adapters."""
    hf = LlamaConfig(
        hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=groups,
        vocab_size=256, max_position_embeddings=256, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM._from_config(hf, attn_implementation="eager")
    config = load("train", *FINETUNE[finetune]).finetune
    choose_trained(model, config)
    return model, config.rank if isinstance(config, LoraConfig) else 0


def counted_by_torch(model: LlamaForCausalLM) -> float:
    """Forward and backward of each conversation; the head on as many positions as are supervised.

    Eager attention is dense: of its products the causal half is useful, and torch counts both halves. (The CPU's
    fused attention, which runs use, torch does not count at all.)
    """
    total = 0.0
    for length, supervised in zip(LENGTHS, SUPERVISED, strict=True):
        with FlopCounterMode(display=False) as counter:
            hidden = model.model(torch.randint(0, 256, (1, length)), use_cache=False).last_hidden_state[0, :supervised]
            model.lm_head(hidden).float().sum().backward()
        counts = counter.get_flop_counts()["Global"]
        attention = sum(n for op, n in counts.items() if "bmm" in str(op) or "attention" in str(op))
        total += sum(counts.values()) - attention / 2
    return total


def ours(model: LlamaForCausalLM, rank: int) -> Flops:
    named = dict(model.named_parameters(remove_duplicate=False))
    flops = count_flops(model.config, list(named), [n for n, p in named.items() if p.requires_grad], rank)
    assert flops is not None
    return flops


@pytest.mark.parametrize("finetune", FINETUNE)
def test_as_many_as_torch_counts(finetune):
    """To the FLOP; but where the first layer's keys need no gradient, that product is left out, and counted by us."""
    if "lora" in finetune or "adapters" in finetune:
        pytest.importorskip("peft")
    model, rank = model_of(finetune)
    plan = schedule(LENGTHS, SUPERVISED, conversations_per_step=3, tokens_per_device=160)
    (step,) = ours(model, rank).of_steps(plan)
    within = 0.02 if finetune == "adapters_on_q_and_v" else 1e-12
    assert step == pytest.approx(counted_by_torch(model), rel=within)


def test_the_textbook_figures():
    """6N a token with all weights trained; 4N with frozen ones under small adapters; attention is half of 12·L·d·ℓ²."""
    model, _ = model_of("full", groups=4)
    weights = sum(p.numel() for n, p in model.named_parameters() if "proj" in n)
    flops = ours(model, 0)
    assert flops.per_token == 6 * weights
    assert flops.per_squared_length == 12 * 3 * 64 / 2
    assert flops.per_supervised_token == 6 * 64 * 256
    frozen = count_flops(model.config, [n for n, _ in model.named_parameters()], [], 0)
    assert frozen == Flops(2 * weights, 12 * 3 * 64 / 6, 2 * 64 * 256)


def test_other_layers_are_not_guessed():
    model, _ = model_of("full")
    names = [n.replace("gate_proj", "gate_up_proj") for n, _ in model.named_parameters() if "up_proj" not in n]
    assert count_flops(model.config, names, names) is None


def test_a_plans_steps_by_hand_and_the_same_on_any_layout():
    plan = schedule((3, 5, 7, 9), (1, 2, 3, 4), conversations_per_step=2, tokens_per_device=9, max_steps=2)
    found = Flops(10.0, 1.0, 100.0).of_steps(plan)
    each = {0: 30 + 9 + 100, 1: 50 + 25 + 200, 2: 70 + 49 + 300, 3: 90 + 81 + 400}
    assert found.tolist() == [sum(each[c] for c in step) for step in plan.step_conversations]
    wide = schedule(
        (3, 5, 7, 9), (1, 2, 3, 4), conversations_per_step=2, tokens_per_device=24, max_steps=2, world_size=2
    )
    np.testing.assert_array_equal(Flops(10.0, 1.0, 100.0).of_steps(wide), found)


def test_figures_are_of_one_device():
    config = load("train", "trainer.peak_tflops=0.5", f"model.tokenizer={QUICKSTART / 'tokenizer'}")
    model = build_model(config, make_encoder(config), "meta")
    one, two = (
        Throughput(config, model, schedule((30, 50), (10, 20), conversations_per_step=2, tokens_per_device=64,
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
        ("NVIDIA H100 80GB HBM3", "bf16-true", 989.4),
        ("NVIDIA H100 PCIe", "bf16-mixed", 756),
        ("NVIDIA L4", "bf16-mixed", 121),
        ("NVIDIA H100 NVL", "bf16-mixed", None),
        ("NVIDIA H200", "bf16-mixed", None),
        ("NVIDIA L40S", "bf16-mixed", None),
        ("NVIDIA RTX A6000", "bf16-mixed", None),
        ("NVIDIA B200", "bf16-mixed", None),
    ],
)
def test_the_peak_of_a_gpu(name, precision, tflops, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    found = peak_flops(load("train", f"precision={precision}"))
    assert found == (None if tflops is None else pytest.approx(tflops * 1e12))
    assert peak_flops(load("train", "trainer.peak_tflops=7")) == 7e12
    assert throughput.peak_flops(load("train", "trainer.accelerator=cpu")) is None
