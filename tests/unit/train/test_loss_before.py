"""The validation before the first step is taken once of one model and one held-out set."""

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers.runs import COMMON, QUICKSTART, run_here, weights
from vicuna_lit.config.compose import load
from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.file_hashes import cache_folder
from vicuna_lit.train import loss_before as module
from vicuna_lit.train.callbacks.validating import ValidationCallback
from vicuna_lit.train.resume import input_hashes

TINY = [
    *COMMON,
    f"data.path={QUICKSTART / 'conversations.jsonl'}",
    "trainer.max_steps=2",
    "validation.every_steps=null",
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VICUNA_LIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def place(*overrides: str) -> Path | None:
    config = load("train", *TINY, *overrides)
    data = ConversationDataModule(config)
    data.setup()
    found = module.loss_before_cache(config, data, input_hashes(config))
    return found and found.file


def test_whatever_could_change_a_bit_of_it_is_another_entry(tmp_path, monkeypatch):
    first = place()
    assert first is not None
    assert place("optimizer.lr=3e-3", "trainer.max_steps=7", "data.max_conversations=20") == first, "training alone"
    others = (
        "seed=1", "precision=bf16-mixed", "data.max_validation=3", "tokens_per_device=512", "packing=false",
        "lm_head=exact", "model.architecture.num_hidden_layers=3", "finetune=lora", "system_prompt=Hello.",
        "context_length=128",
    )  # fmt: skip
    found = {place(other) for other in others}
    assert len(found) == len(others)
    assert first not in found
    tokenizer = tmp_path / "tokenizer"
    shutil.copytree(QUICKSTART / "tokenizer", tokenizer)
    assert place(f"model.tokenizer={tokenizer}") == first, "the content, wherever it lies"
    monkeypatch.setattr(module, "code_hash", lambda *_: "changed")
    assert place() != first
    assert place("token_cache_gb=0") is None
    config = load("train", *TINY)
    data = ConversationDataModule(config)
    data.setup()
    changed = dict.fromkeys(input_hashes(config), "another")
    assert module.loss_before_cache(config, data, changed) is None, "a file has changed since"


@pytest.mark.promise("Jobs with the same model and held-out conversations take the validation before training once")
def test_a_second_job_finds_it_and_ends_to_the_bit_as_without(tmp_path, monkeypatch):
    taken = []
    real = ValidationCallback._take
    monkeypatch.setattr(ValidationCallback, "_take", lambda self, *given: (taken.append(given[2]), real(self, *given)))

    def run(name: str, *overrides: str) -> dict:
        run_here([*TINY, f"run.dir={tmp_path / name}", *overrides])
        return json.loads((tmp_path / name / "result.json").read_text())

    one, two = run("one"), run("two")
    assert taken == [0, 2, 2]
    assert run("other", "optimizer.lr=3e-3")["val_loss_before"] == one["val_loss_before"]
    (kept,) = (cache_folder() / "validations").iterdir()
    kept.write_text(kept.read_text()[:20])
    alone = run("alone")
    assert taken == [0, 2, 2, 2, 0, 2], "a broken one is taken anew"
    for found in (two, alone):
        assert (found["val_loss_before"], found["validation"]) == (one["val_loss_before"], one["validation"])
        assert found["val_by_step"] == one["val_by_step"]
    for name in ("two", "alone"):
        for key, weight in weights(tmp_path / name).items():
            assert weight.equal(weights(tmp_path / "one")[key])
    times = (tmp_path / "two" / "times.csv").read_text()
    for what in ("imports", "tokenizer", "conversations", "model"):
        assert f",start/{what}," in times
