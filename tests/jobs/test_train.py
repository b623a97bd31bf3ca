"""The job as a user runs it: the command, its folder, its errors."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests.helpers import commands
from tests.helpers.runs import QUICKSTART
from vicuna_lit.cli.train import run as run_job
from vicuna_lit.compare.conversations import validation_of
from vicuna_lit.config.compose import load
from vicuna_lit.data.batch import collate
from vicuna_lit.data.dataset import build_dataset
from vicuna_lit.data.encoder import Example
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.inference.generate import Chat
from vicuna_lit.machine import MACHINE_FAULT
from vicuna_lit.models import export
from vicuna_lit.models.causal_lm import SupervisedLM, build_model
from vicuna_lit.paths import ModelError
from vicuna_lit.prepare.run import prepare_data
from vicuna_lit.records.conversation import Conversation, DataError, write_jsonl
from vicuna_lit.records.readers import read
from vicuna_lit.train.console import say_done
from vicuna_lit.train.result import result_in
from vicuna_lit.train.resume import already_done
from vicuna_lit.train.run import fit

QUICK = ("trainer.max_steps=4", "data.max_validation=4", "samples.max_new_tokens=4", "validation.every_steps=2")


def vicuna_train(*overrides: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return commands.run("vicuna_lit.train", *overrides, cwd=cwd, env=os.environ | {"COLUMNS": "200"}, workers=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("train") / "run"
    done = vicuna_train(f"run.dir={folder}", *QUICK)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_folder(run):
    folder, done = run
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["steps"] == 4
    assert result["val_loss"] < result["val_loss_before"]
    for key in ("supervised_tokens", "supervised_tokens_per_second", "peak_memory_bytes", "seconds"):
        assert result[key] > 0
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "loss", "grad_norm", "lr", "supervised_tokens", "conversations_hash"]
    assert [r["step"] for r in rows] == ["1", "2", "3", "4"]
    assert sum(int(r["supervised_tokens"]) for r in rows) == result["supervised_tokens"]
    assert float(rows[0]["lr"]) == 0.0
    assert json.loads((folder / "config.json").read_text())["trainer"]["max_steps"] == 4
    held = validation_of(folder)
    assert held
    assert len(held.ids) == len(set(held.ids)) == result["data"]["validation"]["records_kept"]
    assert held.tokens.sum() == result["data"]["validation"]["supervised_tokens"]
    assert np.average(held.last, weights=held.tokens) == pytest.approx(result["val_loss"], rel=1e-6)
    assert "Who are you?" in done.stdout
    assert "step 4/4" in done.stderr
    assert not [p for p in folder.iterdir() if p.name.endswith(".part")]


def test_the_exported_folder_in_plain_transformers(run):
    """Same logits through transformers' own attention and head as through ours; same ids; it answers."""
    folder, _ = run
    plain = AutoModelForCausalLM.from_pretrained(folder / "hf").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "hf")
    config = load("train", "experiment=quickstart", "model=local", f"model.path={folder / 'hf'}", "context_length=256")
    encoder = make_encoder(config)
    loaded = build_model(config, encoder)
    assert loaded.training
    lm = SupervisedLM(loaded).eval()
    examples, _ = build_dataset(read(QUICKSTART / "validation.jsonl"), encoder, 256, most=3)
    batch = collate(examples, (0, 1, 2), 1)
    with torch.no_grad():
        ours = lm.head.logits(lm.hidden(batch)[0])[None]
        start = 0
        for n in batch.lengths:
            theirs = plain(batch.input_ids[:, start : start + n]).logits
            torch.testing.assert_close(ours[:, start : start + n], theirs, rtol=1e-4, atol=1e-4)
            start += n
    example = encoder.encode([Conversation.of("Who are you?", "I am.", system="Hi.")])[0]
    assert isinstance(example, Example)
    messages = [
        {"role": "system", "content": "Hi."},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "I am."},
    ]
    exported = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert exported["input_ids"] == example.input_ids.tolist()
    assert [bool(m) for m in exported["assistant_masks"]] == example.supervised.tolist()
    assert plain.generation_config.eos_token_id == tokenizer.eos_token_id
    assert plain.config.use_cache
    chat = Chat.load(folder / "hf")
    assert isinstance(chat.say("Who are you?", max_new_tokens=3), str)
    assert [t.role for t in chat.conversation.turns] == ["user", "assistant"]


def test_what_prepare_wrote_is_read_directly_and_logged(tmp_path):
    data, folder = tmp_path / "data", tmp_path / "run"
    whole = load("prepare", f"raw={QUICKSTART / 'conversations.jsonl'}", f"run.dir={data}", "validation_fraction=0.1")
    manifest = prepare_data(whole).manifest
    result = fit(load("train", *QUICK, f"data={data}", f"run.dir={folder}", "data.max_validation=null"))
    assert result.data["train"]["records_in"] == manifest["sets"]["train"]["conversations"]
    assert result.data["validation"]["records_in"] == manifest["sets"]["validation"]["conversations"] > 0
    shown = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", next((folder / "wandb").glob("offline-run-*"))],
        capture_output=True,
        text=True,
    ).stdout
    artifact = next(json.loads(line)["artifact"] for line in shown.splitlines() if '"type":"artifact"' in line)
    assert (artifact["type"], artifact["name"]) == ("dataset", "data-data")
    assert {c["path"] for c in artifact["manifest"]["contents"]} == {"manifest.json", "card.html"}
    assert json.loads(artifact["metadata"])["records_kept"] == manifest["records_kept"]
    assert manifest["outputs"]["train.jsonl"]["sha256"] in shown
    (data / "manifest.json").unlink()
    (data / "work").mkdir()
    with pytest.raises(DataError, match="has not finished here"):
        fit(load("train", f"data={data}", f"run.dir={tmp_path / 'other'}"))


def test_the_same_command_again_finds_its_result(run):
    folder, _ = run
    before = (folder / "result.json").read_text()
    again = vicuna_train(f"run.dir={folder}", *QUICK)
    assert again.returncode == 0
    (said,) = again.stdout.splitlines()
    assert "already holds this run's result: " in said and f"the model is in {folder / 'hf'}" in said
    assert (folder / "result.json").read_text() == before


def test_a_model_that_was_deleted_is_not_offered(run, capsys, tmp_path):
    folder, _ = run
    result = result_in(folder)
    assert result
    say_done(result, tmp_path)
    (said,) = capsys.readouterr().out.splitlines()
    assert said.endswith("the model is gone, or not whole; run.dir=<another folder> trains it again")


def test_another_config_in_the_same_folder_is_refused(run):
    folder, _ = run
    other = vicuna_train(f"run.dir={folder}", *QUICK, "optimizer.lr=1e-4")
    assert other.returncode == 2
    assert "optimizer.lr: 0.00" in other.stderr
    assert "Traceback" not in other.stderr and "extends=" not in other.stderr
    longer = vicuna_train(f"run.dir={folder}", *QUICK, "trainer.max_steps=9")
    assert f"extends={folder} trains a finished run on" in longer.stderr


@pytest.mark.slow
def test_a_sweep_gives_each_job_its_folder(tmp_path):
    done = vicuna_train("-m", f"hydra.sweep.dir={tmp_path}", *QUICK, "validation.every_steps=null", "seed=1,2")
    assert done.returncode == 0, done.stderr
    results = sorted(tmp_path.rglob("result.json"))
    assert [r.parent.name for r in results] == ["seed=1", "seed=2"]
    configs = [json.loads((r.parent / "config.json").read_text()) for r in results]
    assert sorted(c["seed"] for c in configs) == [1, 2]
    assert {c["wandb"]["group"] for c in configs} == {tmp_path.name}


BAD_DATA = {
    "empty.jsonl": ("", "holds nothing, not one byte"),
    "roles.jsonl": ('{"conversations": [{"from": "alien", "value": "x"}]}', "unknown role"),
    "types.jsonl": ('{"conversations": [{"from": "human", "value": 3}]}', "not text"),
    "noturns.jsonl": ('{"conversations": []}', "no answered turn"),
    "cut.json": ('[{"conversations": [{"from": "human", "va', "file cut off"),
    "other.txt": ("hello", "broken JSON"),
}


def refused(capsys, *overrides: str, code: int = 2) -> str:
    """What the command prints when it exits with a code."""
    with pytest.raises(SystemExit) as exit:
        run_job(load("train", *overrides))
    assert exit.value.code == code
    return capsys.readouterr().err


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_is_one_clear_message_and_nothing_is_written(name, tmp_path, capsys):
    text, expected = BAD_DATA[name]
    (tmp_path / name).write_text(text)
    message = refused(capsys, f"data={tmp_path / name}", f"run.dir={tmp_path / 'run'}")
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    assert expected in message
    assert name in message
    assert not (tmp_path / "run").exists()


def test_huge_turns_and_broken_records_are_counted_and_the_rest_is_used(tmp_path):
    turn = lambda who, text: {"from": who, "value": text}  # noqa: E731
    records = [{"id": f"ok{i}", "conversations": [turn("human", f"Hi {i}."), turn("gpt", "Hello.")]} for i in range(40)]
    records.append({"id": "huge", "conversations": [turn("human", "word " * 2_000_000), turn("gpt", "no")]})
    records.append({"id": "nul", "conversations": [turn("human", "a\0"), turn("gpt", "no")]})
    (tmp_path / "data.json").write_text(json.dumps(records)[:-3])
    result = fit(load("train", f"data={tmp_path / 'data.json'}", "dry_run=true", f"run.dir={tmp_path / 'run'}"))
    train = result.data["train"]
    assert train["records_in"] == train["records_kept"] + train["records_rejected"]
    assert train["rejected_by_reason"] == {"longer than the context": 1, "file cut off": 1}
    assert not (tmp_path / "run").exists()


def test_a_disk_too_full_for_the_model_is_said_before_anything_is_written(tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = refused(capsys, f"run.dir={tmp_path / 'run'}", "wandb.mode=disabled")
    assert "the model needs about 0.01 GB of disk, 0.01 GB are free" in message or "0.00 GB are free" in message
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_while_training_is_one_clear_message(tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(export, "_write_file", full)
    message = refused(capsys, f"run.dir={tmp_path / 'run'}", *QUICK, "wandb.mode=disabled", code=MACHINE_FAULT)
    assert "No space left on device" in message
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"
    assert not list((tmp_path / "run").glob("*hf*"))
    assert already_done(load("train", "seed=7"), tmp_path / "run") is None


LONG = ("context_length=1200", "tokens_per_device=4096")


def test_a_context_longer_than_the_models():
    config = load("train", *LONG)
    with pytest.raises(
        ModelError, match=r"or model\.architecture\.max_position_embeddings=1200: a model that is made anew"
    ):
        build_model(config, make_encoder(config))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_stretched_positions_are_what_transformers_computes(kind, tmp_path):
    """linear: position / 3 (Vicuna v1.5-16k); yarn: low frequencies / 3, high ones as they were, more attention."""
    config = load("train", *LONG, f"model.rope_scaling={kind}")
    model = build_model(config, make_encoder(config))
    assert model.config.max_position_embeddings == 1536
    rope: Any = model.base_model.rotary_emb
    plain: Any = build_model(load("train"), make_encoder(config)).base_model.rotary_emb
    ratio = plain.inv_freq / rope.inv_freq
    if kind == "linear":
        torch.testing.assert_close(ratio, torch.full_like(ratio, 3.0))
        assert rope.attention_scaling == 1.0
    else:
        assert ratio[0] == 1.0
        assert ratio[-1] == pytest.approx(3.0)
        assert rope.attention_scaling == pytest.approx(0.1 * math.log(3) + 1)
    conversation = Conversation.of("word " * 700, "and so on")
    example = make_encoder(config).encode([conversation])[0]
    assert isinstance(example, Example)
    assert 600 < len(example.input_ids) < 1200
    write_jsonl([conversation], tmp_path / "long.jsonl")
    run = tmp_path / "run"
    settings = (*LONG, f"model.rope_scaling={kind}", f"data={tmp_path / 'long.jsonl'}", "data.validation_fraction=0")
    result = fit(load("train", *settings, *QUICK, "wandb.mode=disabled", f"run.dir={run}"))
    assert result.data["train"]["records_kept"] == 1
    reopened = AutoConfig.from_pretrained(run / "hf")
    assert reopened.rope_parameters == model.config.rope_parameters
    again = load("train", "experiment=quickstart", "model=local", f"model.path={run / 'hf'}", "context_length=4000",
                 "tokens_per_device=4096", f"model.rope_scaling={kind}")  # fmt: skip
    if kind == "linear":
        assert build_model(again, make_encoder(again)).config.rope_parameters["factor"] == 9.0
    else:
        with pytest.raises(ModelError, match="the model's positions are already yarn"):
            build_model(again, make_encoder(again))


def test_a_tokenizer_without_eos_and_other_missing_things(tmp_path, capsys):
    broken = tmp_path / "tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(QUICKSTART / "tokenizer")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(broken)
    for overrides, expected in (
        ((f"model.tokenizer={broken}",), "no EOS token"),
        (("model.tokenizer=/nowhere",), "/nowhere: no such file"),
        (("data=/nowhere/x.json",), "/nowhere/x.json: no such file"),
        (("data.path=package://no_such_package/x.json",), "pip install --no-deps no-such-package"),
        (("template=chatml",), "template chatml needs <|im_start|>, <|im_end|>"),
        (("template=tokenizer",), "has no chat template"),
        (("run.dir=/proc/nothing/here",), "/proc/nothing"),
        (("run.dir=/dev/full",), "/dev/full"),
    ):
        assert expected in refused(capsys, f"run.dir={tmp_path / 'run'}", *QUICK, *overrides)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("choice", "parameters"),
    [
        ("experiment=vicuna_7b", 6_738_415_616),
        pytest.param("experiment=vicuna_13b", 13_015_864_320, marks=pytest.mark.slow),
        pytest.param("experiment=alpaca_7b", 6_738_415_616, marks=pytest.mark.slow),
        ("model=qwen3_4b", 4_022_468_096),
    ],
)
def test_the_recipes_on_the_meta_device(choice, parameters, capsys):
    config = load(
        "train", choice, "dry_run=true", f"model.tokenizer={QUICKSTART / 'tokenizer'}",
        f"data={QUICKSTART / 'conversations.jsonl'}",
    )  # fmt: skip
    result = fit(config)
    printed = capsys.readouterr().out
    assert result.status == "dry_run"
    assert f"{parameters:,} parameters" in printed
    assert result.steps == -(
        -round(result.data["train"]["examples"] * config.trainer.epochs) // config.conversations_per_step
    )
    assert f"{result.steps:,} steps" in printed
    assert f"{result.supervised_tokens:,} supervised" in printed
    assert result.supervised_tokens == round(result.data["train"]["supervised_tokens"] * config.trainer.epochs)


@pytest.mark.slow
def test_the_quickstart_teaches_what_the_readme_says(tmp_path):
    done = vicuna_train(f"run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["val_loss"] < 0.1 * result["val_loss_before"]
    replies = {pair["question"]: pair["after"] for pair in result["replies"]}
    assert "Vicuna" in replies["Who are you?"]
    assert "quickstart" in replies["Who made you?"]
    assert "Nadia" in replies["What is my name?"]


def test_one_step_trains(tmp_path):
    """The warm-up never takes every step: a run of one step would have a learning rate of 0."""
    few = ["data.max_conversations=4", "conversations_per_step=4", "data.max_validation=2", "trainer.max_steps=1",
           "samples.questions=[]"]  # fmt: skip
    for rate, name in (("5e-3", "trained"), ("1e-30", "left")):
        fit(load("train", *few, f"optimizer.lr={rate}", "wandb.mode=disabled", f"run.dir={tmp_path}/{name}"))
    trained, left = (load_file(tmp_path / name / "hf/model.safetensors") for name in ("trained", "left"))
    assert all((trained[name] != left[name]).any() for name in left)
    row = (tmp_path / "trained/metrics.csv").read_text().splitlines()[1].split(",")
    assert float(row[3]) == 5e-3
