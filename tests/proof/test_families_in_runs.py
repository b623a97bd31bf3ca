"""Families with windows, experts and other mixers give what transformers gives, on any number of processes."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers.group import run_group
from tests.helpers.runs import COMMON, QUICKSTART, compare, run_here
from vicuna_lit.config.compose import load
from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.data.tokenizer import make_encoder

SMALL = "hidden_size: 64, intermediate_size: 96, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2"
FIELDS = {
    "mistral": "sliding_window: 16",
    "gemma3_text": "head_dim: 16, sliding_window: 16, layer_types: [sliding_attention, full_attention]",
    "gemma2": "head_dim: 16, sliding_window: 16, attn_logit_softcapping: 5.0",
    "gpt_oss": "head_dim: 16, num_local_experts: 4, num_experts_per_tok: 2, sliding_window: 16",
    "qwen3_moe": "num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 32",
    "lfm2": "layer_types: [conv, full_attention]",
}


def settings(family: str, *more: str) -> list[str]:
    """A run of a tiny model of a family, from scratch, on conversations that are longer than its window."""
    base = [s for s in COMMON if not s.startswith(("model.architecture", "trainer.max_steps"))]
    architecture = f"{{model_type: {family}, {SMALL}, max_position_embeddings: 512, {FIELDS[family]}}}"
    return [*base, f"+model.architecture={architecture}", "trainer.max_steps=6", *more]


def job(folder: Path, name: str, family: str, *more: str) -> dict[str, Any]:
    return {"overrides": [*settings(family, *more), f"run.dir={folder / name}"]}


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("family", FIELDS)
@pytest.mark.promise(
    "Families with windows, experts and other mixers begin with the loss of transformers, and two processes give "
    "what one gives"
)
def test_the_first_loss_is_that_of_transformers(family: str, tmp_path: Path):
    """Eager attention, one conversation at a time, on the weights that the run began with."""
    overrides = settings(family, f"run.dir={tmp_path / 'run'}", "trainer.max_steps=1", "validation.every_steps=null")
    model = start_of(family, overrides, tmp_path)
    run_here([*overrides, "model=local", f"model.path={model}"])
    config = load("train", *overrides)
    data = ConversationDataModule(config, make_encoder(config))
    data.setup()
    eager: Any = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager")
    total = count = 0.0
    for index in data.plan.step_examples[0]:
        ids = torch.tensor(data.train[int(index)].input_ids)[None].long()
        wanted = torch.tensor(data.train[int(index)].labels)
        with torch.no_grad():
            logits = eager(input_ids=ids).logits[0, :-1]
        total += float(cross_entropy(logits, wanted[1:], reduction="sum"))
        count += int((wanted[1:] != -100).sum())
    assert losses(tmp_path / "run")[0] == pytest.approx(total / count, rel=1e-6)


def start_of(family: str, overrides: list[str], tmp_path: Path) -> Path:
    """Random weights that are large enough for a window to matter, as a folder."""
    from vicuna_lit.models.architecture import model_config

    config = load("train", *overrides)
    encoder = make_encoder(config)
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(model_config(config, encoder.tokenizer), dtype=torch.float32)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dim() > 1 and "embed" not in name:
                tensor.mul_(4)
            if "sinks" in name:
                tensor.copy_(torch.randn_like(tensor) * 2)
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(QUICKSTART / "tokenizer").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


LAYOUTS = {"ddp": ("tokens_per_device=512",), "fsdp": ("packing=false",)}


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory) -> Path:
    """Every family in one group of processes: starting them takes longer than a run."""
    folder = tmp_path_factory.mktemp("families")
    jobs = [
        job(folder, f"{family}/{name}", family, f"strategy={name}", *more)
        for family in FIELDS
        for name, more in LAYOUTS.items()
    ]
    run_group(jobs, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", FIELDS)
@pytest.mark.promise(
    "Families with windows, experts and other mixers begin with the loss of transformers, and two processes give "
    "what one gives"
)
def test_two_processes_give_what_one_gives(family: str, tmp_path: Path, of_two_processes: Path):
    """Other rows, other micro-batches, other processes; fsdp gathers the weights of mixers once a layer."""
    run_here(**job(tmp_path, "single", family))
    for name in LAYOUTS:
        compare(of_two_processes / family / name, tmp_path / "single", steps=6)


def test_the_load_of_experts_is_told(tmp_path: Path):
    run_here([*settings("qwen3_moe", f"run.dir={tmp_path / 'run'}", "trainer.max_steps=1")])
    validation = json.loads((tmp_path / "run" / "result.json").read_text())["validation"]
    assert 1 <= validation["val/experts/busiest"] <= 4
    assert 0 <= validation["val/experts/idle"] < 8
