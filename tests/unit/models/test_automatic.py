"""What `auto` stands for is chosen once, written down, and may be another thing when a run goes on."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.helpers.families import tiny_model
from tests.helpers.runs import COMMON
from vicuna_lit.config.compose import load
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.data.plan import Plan, plan_run
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.estimate import memory
from vicuna_lit.estimate.lengths import sizes_of
from vicuna_lit.estimate.memory import LEVELS, Memory, lightest
from vicuna_lit.estimate.run import Estimator
from vicuna_lit.models import automatic
from vicuna_lit.models.attention import ANYWHERE
from vicuna_lit.models.automatic import resolved
from vicuna_lit.models.causal_lm import SupervisedLM, build_model
from vicuna_lit.train import run

AUTO = ("attention", "gradient_checkpointing", "compile")
GPU = [
    "experiment=vicuna",
    "model=llama3_2_1b",
    "conversations=600",
    "gradient_checkpointing=auto",
    "price=1",
    "tokens_per_device=2048",
]


@pytest.fixture
def compiler(monkeypatch):
    monkeypatch.setattr(automatic, "_can_compile", lambda: True)


def test_on_a_cpu_it_is_the_plain_way():
    config = resolved(load("train"), tiny_model("llama"), gpu=False)
    assert [getattr(config, key) for key in AUTO] == [ANYWHERE, "none", False]


@pytest.mark.parametrize(
    ("overrides", "family", "compiles"),
    [
        ((), "llama", True),
        (("strategy=fsdp", "trainer.devices=2"), "llama", True),
        (("gradient_checkpointing=attention",), "gemma2", True),
        (("deterministic=true",), "llama", False),
        (("offload_activations=true",), "llama", False),
        (("kernels=liger",), "llama", False),
        (("strategy=zero3", "trainer.devices=2"), "llama", False),
        ((), "qwen3_moe", False),
        ((), "mamba", False),
        (("compile=true",), "qwen3_moe", True),
        (("compile=false",), "llama", False),
    ],
)
def test_on_a_gpu_layers_are_compiled_where_they_can_be(compiler, overrides, family: str, compiles: bool):
    config = load("train", "precision=bf16-mixed", *overrides)
    chosen = resolved(config, tiny_model(family), gpu=True)
    assert chosen.compile is compiles
    assert chosen.gradient_checkpointing == config.gradient_checkpointing, "the memory decides that"
    assert chosen.attention != "auto"


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(automatic, "find_spec", lambda _: SimpleNamespace())
    monkeypatch.setattr(automatic.shutil, "which", {"gcc": "/bin/gcc"}.get)
    assert automatic._can_compile()
    monkeypatch.setattr(automatic.shutil, "which", {}.get)
    assert not automatic._can_compile()


def test_a_run_on_the_cpu_of_a_machine_with_gpus_takes_what_runs_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = load("train", "trainer.accelerator=cpu", "precision=bf16-mixed")
    assert build_model(config, make_encoder(config)).config._attn_implementation == "packed_per_conversation"


def test_what_no_job_has_chosen_is_the_plain_way():
    config = load("train")
    lm = SupervisedLM.of(build_model(config, make_encoder(config)), config)
    assert not any("forward" in vars(layer) for layer in lm.layers), "neither compiled nor computed again"


def test_the_choice_is_said_and_written_and_another_goes_on(tmp_path, capsys):
    few = [*COMMON, "checkpoint.every_steps=2", f"run.dir={tmp_path / 'run'}", "trainer.max_steps=2"]
    run.fit(load("train", *few))
    assert f"attention {ANYWHERE}, layers of torch; gradient checkpointing: none" in " ".join(
        capsys.readouterr().out.split()
    )
    written = json.loads((tmp_path / "run/config.json").read_text())
    assert [written[key] for key in AUTO] == [ANYWHERE, "none", False]
    assert TrainConfig.model_validate(written)
    (tmp_path / "run/result.json").unlink()
    run.fit(load("train", *few, "gradient_checkpointing=full"))
    out = capsys.readouterr().out
    assert "changed since the last start: gradient_checkpointing: 'none' → 'full'" in out.replace("\n", " ")
    assert "attention: " not in out and "compile: " not in out, "auto chose the same again"
    (tmp_path / "run/result.json").unlink()
    run.fit(load("train", *few, "attention=sdpa_mask", "gradient_checkpointing=auto"))
    assert json.loads((tmp_path / "run/config.json").read_text())["gradient_checkpointing"] == "none"


@pytest.mark.parametrize(
    ("room", "level", "asked"), [(50, "none", 1), (35, "every_4", 2), (25, "every_2", 3), (5, "full", 3)]
)
def test_the_lightest_that_fits_at_its_worst(room: int, level: str, asked: int):
    seen = []

    def memory(how: Any) -> Memory:
        seen.append(how)
        high = dict(zip(LEVELS, (40, 30, 20, 10), strict=True))[how]
        found: Any = SimpleNamespace(high=high, likely=high - 9, limit=room)
        return found

    assert lightest(memory) == level
    assert seen == list(LEVELS[:asked])


@pytest.mark.slow
def test_the_estimate_says_what_a_run_would_choose(tmp_path, monkeypatch):
    """Its figures are those of the level by name, and the run, with its own plan, comes to the same."""
    monkeypatch.setenv("VICUNA_LIT_CACHE", str(tmp_path))
    estimator = Estimator()
    small = load("estimate", *GPU, "gpu=rtx4090")
    found = estimator.estimate(small)
    assert (found.asked.gradient_checkpointing, found.config.attention) == ("auto", "varlen")
    level = found.config.gradient_checkpointing
    assert found.to_dict()["gradient_checkpointing"] == level
    named = estimator.estimate(load("estimate", *GPU, "gpu=rtx4090", f"gradient_checkpointing={level}"))
    assert named.memory == found.memory
    roomy = estimator.estimate(load("estimate", *GPU, "gpu=h200"))
    assert roomy.config.gradient_checkpointing == "none" != level
    assert roomy.memory.high <= roomy.memory.limit
    on_cpu = estimator.estimate(load("estimate", *GPU, "gpu=cpu"))
    assert [getattr(on_cpu.config, key) for key in AUTO] == [ANYWHERE, "none", False]

    monkeypatch.setattr(memory, "on_gpu", lambda _: True)
    plan: Plan = plan_run(small, sizes_of(small).sizes, 1)
    for card, chosen in ((found, level), (roomy, "none")):
        gpu = SimpleNamespace(total_memory=card.memory.limit)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu=gpu: gpu)
        ours = memory.resolved_here(small, build_model(small, None, "meta"), plan)
        assert (ours.gradient_checkpointing, ours.attention) == (chosen, "varlen")
