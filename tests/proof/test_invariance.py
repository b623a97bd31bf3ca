"""Layout is not mathematics: any layout, kernel or memory setting gives one giant padded batch, on one process."""

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.runs import COMMON, CONTEXT, STEPS, Curve, agree, compare, curve
from vicuna_lit.config.base import other_keys
from vicuna_lit.config.compose import load
from vicuna_lit.config.train import Computation, Layout, Recipe, RunSettings
from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.models.causal_lm import build_model
from vicuna_lit.run_folder import RunError, flatten
from vicuna_lit.train.module import lr_factor
from vicuna_lit.train.resume import changed_settings
from vicuna_lit.train.run import fit
from vicuna_lit.whole_files import write_json

LAYOUTS = {
    f"{factor}x-{'packed' if packing else 'one per row'}": (
        f"tokens_per_device={factor * CONTEXT}",
        f"packing={packing}",
    )
    for factor in (1, 2, 4, 16)
    for packing in (True, False)
}


EXTREME = ("1x-one per row", "16x-packed")
"""The others are slow tests; `reference` is 4x-packed."""


def ours(folder: Path, *settings: str) -> Curve:
    fit(load("train", *COMMON, *settings, f"run.dir={folder}"))
    return curve(folder)


@pytest.fixture(scope="module")
def oracle() -> Curve:
    """Plain transformers: one padded batch per step, its own loss, its own attention."""
    config = load("train", *COMMON, f"tokens_per_device={CONTEXT}")
    torch.manual_seed(config.seed)
    encoder = make_encoder(config)
    data = ConversationDataModule(config, encoder)
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
    for step, conversations in enumerate(data.plan.step_examples):
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
def single(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("single") / "run"
    ours(folder, *LAYOUTS["4x-packed"])
    return folder


@pytest.fixture(scope="module")
def reference(single) -> Curve:
    return curve(single)


@pytest.mark.parametrize("layout", [pytest.param(x, marks=[pytest.mark.slow] * (x not in EXTREME)) for x in LAYOUTS])
@pytest.mark.promise(
    "Every layout (row length from the context to 16×, packed or not) gives the losses and gradient norms of one "
    "padded batch in plain transformers, to 1e-5 over 20 steps (fp32, a small model, real conversations)"
)
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
HEAD = ["lm_head=chunked", "lm_head=plain"]
ALL = list(itertools.product(MEMORY, CHECKPOINTING, ATTENTION, HEAD))
FEW = [ALL[0], ALL[-1]]
"""Each value of each key once; the others are slow tests."""


@pytest.mark.parametrize(
    "setting", [pytest.param(s, marks=[pytest.mark.slow] * (s not in FEW), id=" ".join(s)) for s in ALL]
)
@pytest.mark.promise(
    "Every key of the layout leaves losses, gradient norms and final weights as they are, alone and in combination"
)
def test_every_setting(setting: tuple[str, ...], tmp_path, single):
    ours(tmp_path / "run", *setting)
    compare(tmp_path / "run", single)


EACH = {
    "tokens_per_device": "tokens_per_device=512",
    "packing": "packing=false",
    "token_cache_gb": "token_cache_gb=0",
    "attention": "attention=sdpa_mask",
    "lm_head": "lm_head=plain",
    "gradient_checkpointing": "gradient_checkpointing=full",
    "offload_activations": "offload_activations=true",
    "kernels": "kernels=torch",  # liger: tests/unit/models/test_liger.py
    "compile": "compile=true",
    "deterministic": "deterministic=true",
    "strategy": "strategy=ddp",
    "trainer.devices": "trainer.devices=1",  # more: tests/proof/test_strategies.py
    "trainer.accelerator": "trainer.accelerator=cpu",  # gpu: the tests that are marked so
    "trainer.peak_tflops": "trainer.peak_tflops=1",
}
"""Another value of each key of the layout."""
ALONE = ("offload_activations", "deterministic", "strategy")
"""Those that quick tests change nowhere else; FEW and EXTREME have most of the others. The rest are slow tests."""


def test_no_key_of_the_layout_is_without_a_proof():
    assert set(EACH) == set(other_keys(Computation, Recipe))


@pytest.mark.parametrize("key", [pytest.param(k, marks=[pytest.mark.slow] * (k not in ALONE)) for k in EACH])
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of itself, of other things after other tests
@pytest.mark.promise(
    "Every key of the layout leaves losses, gradient norms and final weights as they are, alone and in combination"
)
def test_every_key_of_the_layout_leaves_the_losses_alone(key: str, tmp_path, single):
    ours(tmp_path / "run", EACH[key])
    compare(tmp_path / "run", single)


def leaves(values: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each dict and key that holds a value below no other key."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value)
        else:
            yield values, key


def test_a_run_goes_on_with_its_own_recipe_alone(tmp_path):
    """Whatever else has changed in `config.json`: each key of the recipe is refused by name, all others are said."""
    config = load("train", *COMMON, "finetune=lora", "evaluate_after={judge: rule}")
    saved = config.model_dump(mode="json")
    recipe = flatten(Recipe.values_of(config))
    for (holder, key), name in zip(leaves(saved), flatten(saved), strict=True):
        right, holder[key] = holder[key], "another"
        write_json(tmp_path / "config.json", saved)
        if name in recipe:
            with pytest.raises(RunError, match=re.escape(f"  {name}: 'another' → ")):
                changed_settings(config, tmp_path)
        else:
            assert changed_settings(config, tmp_path)[0].startswith(f"{name}: 'another' → ")
        holder[key] = right


def test_a_config_is_its_three_parts():
    config = load("train", *COMMON)
    parts = (config.recipe, config.layout, config.run_settings)
    assert [type(part) for part in parts] == [Recipe, Layout, RunSettings]
    whole = {key for part in parts for key in flatten(part.model_dump(mode="json"))}
    assert whole == set(flatten(config.model_dump(mode="json")))
    other = load("train", *COMMON, "tokens_per_device=512", "run.name=other")
    assert (config.recipe == other.recipe, config.layout == other.layout) == (True, False)
