"""Known mistakes get one line and exit code 2, before torch is imported where that is possible."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vicuna_lit
from tests.helpers import commands
from tests.helpers.encoders import QUICKSTART
from tests.helpers.wandb_server import KEY, WandbServer
from vicuna_lit import hub
from vicuna_lit.config.compose import ConfigError, load
from vicuna_lit.config.train_checks import devices_here
from vicuna_lit.data.source import ConversationFiles
from vicuna_lit.estimate.advice import to_fit
from vicuna_lit.estimate.report import lines, row_of
from vicuna_lit.estimate.run import estimate_run
from vicuna_lit.paths import ModelError
from vicuna_lit.records.conversation import DataError
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.early import refuse_early
from vicuna_lit.train.run import fit

OWN = ("experiment=vicuna", "model=local")
DATA = f"data={QUICKSTART / 'conversations.jsonl'}"


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch, tmp_path):
    for key in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))


def test_wrong_data_are_one_line_before_torch_is_imported(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder").mkdir()
    code = (
        "import sys\n"
        "from vicuna_lit.cli.train import main\n"
        "for path in ('/no/where.jsonl', '', 'folder', 'empty.jsonl'):\n"
        "    sys.argv = ['train', f'data={path}', 'wandb.mode=disabled']\n"
        "    try: main()\n"
        "    except SystemExit as end: assert end.code == 2\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(vicuna_lit.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    no_path, no_name, folder, empty = done.stderr.splitlines()
    assert no_path == "error: data.path: /no/where.jsonl: no such file or folder"
    assert no_name == "error: data.path: the name is empty (an unset variable?); . is the folder that you are in"
    assert folder.startswith("error: folder: the folder holds no file that can be read")
    assert empty == "error: empty.jsonl: holds nothing, not one byte; name a file with conversations"


def test_a_folder_without_a_model_or_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no model is in this folder \(config\.json\)"):
        refuse_early(load("train", *OWN, f"model.path={tmp_path}", DATA))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no tokenizer is in this folder \(tokenizer\.json\); model\.tokenizer="):
        refuse_early(load("train", *OWN, f"model.path={tmp_path}", DATA))
    shutil.copy(QUICKSTART / "tokenizer/tokenizer.json", tmp_path)
    refuse_early(load("train", *OWN, f"model.path={tmp_path}", DATA))


def test_wandb_online_without_a_login_is_refused_and_with_one_is_not(monkeypatch):
    config = load("train", "wandb.mode=online")
    with pytest.raises(RunError, match=r"nobody is logged in on this machine; `wandb login`.*wandb\.mode=offline"):
        refuse_early(config)
    refuse_early(load("train", "wandb.mode=online", "dry_run=true"))
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        with pytest.raises(RunError, match="nobody is logged in on this machine"):
            refuse_early(config)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        refuse_early(config)
        assert "Viewer" in server.asked


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(RunError, match=r"torch finds no GPU here; trainer\.accelerator=auto"):
        fit(load("train", "trainer.accelerator=gpu", "wandb.mode=disabled", f"run.dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()


def test_a_table_is_refused_with_what_to_do_and_a_pattern_is_read(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion\nHi,Hello\n")
    with pytest.raises(DataError, match=r"a\.csv: a table is not read.*pandas\.read_csv"):
        refuse_early(load("train", f"data={tmp_path / 'a.csv'}", "wandb.mode=disabled"))
    for name in "ab":
        shutil.copy(QUICKSTART / "validation.jsonl", tmp_path / f"{name}.jsonl")
    assert len(ConversationFiles(load("train", f"data={tmp_path}/*.jsonl")).files) == 2
    for command in ("train", "estimate"):
        assert hub.found(load(command, f"data={tmp_path}/*.jsonl")).data.path == f"{tmp_path}/*.jsonl"
    done = commands.run("vicuna_lit.train", f"data={tmp_path}/*.jsonl", "dry_run=true", f"run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    with pytest.raises(ConfigError, match=r"data\.path: is one file, folder or pattern"):
        load("train", "data=files", "data.path=[a.jsonl,b.jsonl]")


def test_devices_auto_is_every_gpu_that_there_is(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,GPU-7")
    assert load("train", "trainer.devices=auto", "strategy=ddp").trainer.devices == 3
    assert load("estimate", "trainer.devices=auto", "strategy=ddp").count == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert load("train", "trainer.devices=auto").trainer.devices == 1
    assert devices_here(5) == 5


def test_a_strategy_for_several_processes_in_one_is_said(tmp_path):
    given = ["experiment=quickstart", "strategy=fsdp", "dry_run=true", "wandb.mode=disabled"]
    done = commands.run("vicuna_lit.train", *given)
    assert "note: strategy=fsdp runs in one process; trainer.devices=auto takes every GPU" in " ".join(
        done.stdout.split()
    )


QWEN = ("experiment=vicuna", "model=qwen2_5_7b", "gpu=rtx4090", "count=1", "conversations=200",
        "data.path=package://vicuna_lit/estimate/sharegpt_lengths.csv")  # fmt: skip


@pytest.mark.slow
def test_an_estimate_without_a_price_has_memory_and_hours_and_names_what_fits_on_this_card():
    found = estimate_run(load("estimate", *QWEN))
    said = lines(found)
    assert said["cost"].startswith("not known; price=on-demand: none for rtx4090 is known")
    assert "MFU" in said["speed"] and "of 23.6 GiB" in said["memory"]
    assert {"time", "memory"} <= row_of(found).keys()
    assert found.to_dict()["usd"] is None and found.to_dict()["seconds"] > 0
    assert not found.fits
    assert any(change.overrides == ("finetune=qlora",) for change in to_fit(found))
    with pytest.raises(ConfigError, match="none of aws for rtx4090"):
        estimate_run(load("estimate", *QWEN, "cloud=aws"))


def test_no_gpus_and_no_price_are_no_numbers_of_an_estimate():
    with pytest.raises(ConfigError, match="count"):
        load("estimate", "experiment=quickstart", "count=0")
    for price in ("0", "-1", "cheap"):
        with pytest.raises(ConfigError, match=f"price.*{price}: a price is on-demand, spot, or USD"):
            load("estimate", "experiment=quickstart", f"price={price}")
    assert load("estimate", "experiment=quickstart", "price=0.4").price == 0.4


def test_nothing_that_is_right_is_refused(tmp_path):
    refuse_early(load("train", "wandb.mode=disabled"))
    assert Path(QUICKSTART).exists()
