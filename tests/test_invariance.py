"""Layout is not mathematics: any layout, kernel or memory setting gives one giant padded batch, on one process."""

import itertools
import math
from pathlib import Path

import pytest
import torch

from tests.runs import COMMON, CONTEXT, STEPS, Curve, agree, compare, curve
from vicuna_lit.compose import load
from vicuna_lit.data.datamodule import ConversationData
from vicuna_lit.tokenizer import make_encoder
from vicuna_lit.train.model import build_model
from vicuna_lit.train.module import lr_factor
from vicuna_lit.train.run import fit

LAYOUTS = {
    f"{factor}x-{'packed' if packing else 'one per row'}": (
        f"tokens_per_device={factor * CONTEXT}",
        f"packing={packing}",
    )
    for factor in (1, 2, 4, 16)
    for packing in (True, False)
}


def ours(folder: Path, *settings: str) -> Curve:
    fit(load("train", *COMMON, *settings, f"run.dir={folder}"))
    return curve(folder)


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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_one_giant_padded_batch(layout: str, tmp_path, oracle, reference):
    losses_and_norms = ours(tmp_path / "run", *LAYOUTS[layout])
    agree(losses_and_norms, oracle)
    agree(losses_and_norms, reference)
    assert losses_and_norms[0][-1] < losses_and_norms[0][0]


def test_the_same_command_gives_the_same_bits(tmp_path, reference):
    assert ours(tmp_path / "run", *LAYOUTS["4x-packed"]) == reference


MEMORY = [f"tokens_per_device={factor * CONTEXT}" for factor in (1, 8)]
CHECKPOINTING = ["gradient_checkpointing=none", "gradient_checkpointing=full"]
ATTENTION = ["attention=sdpa_per_conversation", "attention=sdpa_mask"]
HEAD = ["head=chunked", "head=plain"]
ALL = list(itertools.product(MEMORY, CHECKPOINTING, ATTENTION, HEAD))
FEW = [ALL[0], ALL[-1]]
"""Each value of each key once; the others are slow tests."""


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("single") / "run"
    ours(folder, *LAYOUTS["4x-packed"])
    return folder


@pytest.mark.parametrize(
    "setting", [pytest.param(s, marks=[pytest.mark.slow] * (s not in FEW), id=" ".join(s)) for s in ALL]
)
def test_every_setting(setting: tuple[str, ...], tmp_path, single):
    ours(tmp_path / "run", *setting)
    compare(tmp_path / "run", single)
