"""Hardware is not mathematics: any layout, strategy, kernel or memory setting gives one giant padded batch."""

import csv
import itertools
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import QUICKSTART, SHARED
from tests.processes import run_all
from vicuna_lit.compose import load
from vicuna_lit.data.datamodule import ConversationData
from vicuna_lit.tokenizer import make_encoder
from vicuna_lit.train.model import build_model
from vicuna_lit.train.module import lr_factor
from vicuna_lit.train.run import fit

STEPS, CONTEXT = 20, 256
REAL = SHARED / "conversations/sharegpt_v3_random_a.json"
DATA = REAL if REAL.exists() else QUICKSTART / "conversations.jsonl"
COMMON = (
    "experiment=quickstart",
    "data=files",
    f"data.path={DATA}",
    "data.max_conversations=60",
    "data.max_heldout=4",
    f"context_length={CONTEXT}",
    "conversations_per_step=8",
    f"trainer.max_steps={STEPS}",
    "optimizer.lr=1e-3",
    "optimizer.weight_decay=0.1",
    "optimizer.clip_norm=0.5",
    "sample.questions=[]",
    "wandb.mode=disabled",
    "model.architecture={hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4, "
    "num_key_value_heads: 2, max_position_embeddings: 512}",
)
LAYOUTS = {
    f"{factor}x-{'packed' if packing else 'one per row'}": (
        f"tokens_per_device={factor * CONTEXT}",
        f"packing={packing}",
    )
    for factor in (1, 2, 4, 16)
    for packing in (True, False)
}
Curve = tuple[list[float], list[float]]


def ours(folder: Path, *layout: str) -> Curve:
    fit(load("train", *COMMON, *layout, f"run.dir={folder}"))
    return curve(folder)


def curve(folder: Path) -> Curve:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == list(range(1, STEPS + 1))
    return [float(r["loss"]) for r in rows], [float(r["grad_norm"]) for r in rows]


@pytest.fixture(scope="module")
def oracle() -> Curve:
    """Plain transformers: one padded batch per step, its own loss, its own attention."""
    config = load("train", *COMMON, f"tokens_per_device={CONTEXT}")
    torch.manual_seed(config.seed)
    encoder = make_encoder(config)
    data = ConversationData(config, encoder)
    data.setup()
    torch.manual_seed(config.seed)
    model = build_model(config, encoder)
    model.set_attn_implementation("eager")
    model.train()
    c = config.optimizer
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": c.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=c.lr,
        betas=c.betas,
        eps=c.eps,
    )
    losses, norms = [], []
    for step, conversations in enumerate(data.plan.step_conversations):
        examples = [data.train[i] for i in conversations]
        longest = max(len(e.input_ids) for e in examples)
        ids, labels = torch.zeros(len(examples), longest, dtype=torch.long), torch.full((len(examples), longest), -100)
        mask = torch.zeros_like(ids)
        for i, e in enumerate(examples):
            n = len(e.input_ids)
            ids[i, :n], labels[i, :n] = torch.from_numpy(e.input_ids.astype("int64")), torch.from_numpy(e.labels)
            mask[i, :n] = 1
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), c.clip_norm or math.inf)))
        for group in optimizer.param_groups:
            group["lr"] = c.lr * lr_factor(step, STEPS, c)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, norms


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Curve:
    return ours(tmp_path_factory.mktemp("reference") / "run", *LAYOUTS["4x-packed"])


def agree(a: Curve, b: Curve) -> None:
    for ours, theirs in zip(a, b, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_one_giant_padded_batch(layout: str, tmp_path, oracle, reference):
    curve = ours(tmp_path / "run", *LAYOUTS[layout])
    agree(curve, oracle)
    agree(curve, reference)
    assert curve[0][-1] < curve[0][0]


def test_the_same_command_gives_the_same_bits(tmp_path, reference):
    assert ours(tmp_path / "run", *LAYOUTS["4x-packed"]) == reference


STRATEGIES = ("ddp", "fsdp", "fsdp_offload", "zero1", "zero2", "zero3", "zero3_offload")
MEMORY = [f"tokens_per_device={factor * CONTEXT}" for factor in (1, 8)]
CHECKPOINTING = ["gradient_checkpointing=none", "gradient_checkpointing=full"]
ATTENTION = ["attention=sdpa_per_conversation", "attention=sdpa_mask"]
HEAD = ["head=chunked", "head=plain"]
ALL = list(itertools.product(MEMORY, CHECKPOINTING, ATTENTION, HEAD))
FEW = [ALL[0], ALL[-1]]
"""Each value of each key once."""


def compare(folder: Path, settings: tuple[str, ...], reference: Path) -> None:
    """Losses and norms step by step, and every exported weight, to 1e-5."""
    agree(curve(folder), curve(reference))
    weights, theirs = (load_file(f / "hf" / "model.safetensors") for f in (folder, reference))
    assert weights.keys() == theirs.keys()
    for name, weight in weights.items():
        assert (weight - theirs[name]).norm() <= 1e-5 * theirs[name].norm(), (settings, name)


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("single") / "run"
    ours(folder, *LAYOUTS["4x-packed"])
    return folder


def across(strategy: str, settings: list[tuple[str, ...]], folder: Path, single: Path) -> None:
    jobs = [
        [*COMMON, *setting, f"strategy={strategy}", f"run.dir={folder / str(i)}"] for i, setting in enumerate(settings)
    ]
    run_all(jobs, folder)
    for i, setting in enumerate(settings):
        compare(folder / str(i), setting, single)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_on_two_processes(strategy: str, tmp_path, single):
    across(strategy, FEW, tmp_path, single)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_with_every_setting(strategy: str, tmp_path, single):
    across(strategy, ALL, tmp_path, single)


@pytest.mark.parametrize("setting", ALL, ids=" ".join)
def test_every_setting_on_one_process(setting: tuple[str, ...], tmp_path, single):
    ours(tmp_path / "run", *setting)
    compare(tmp_path / "run", setting, single)
