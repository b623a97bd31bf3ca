"""`from=<run folder>`: another run's whole config, of which the command line changes what it names."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from vicuna_lit.cli.app import _say_differences
from vicuna_lit.cli.command_line import jobs_of, read
from vicuna_lit.config.compose import ConfigError, load
from vicuna_lit.config.from_run import said_as
from vicuna_lit.config.texts import quoted, typed
from vicuna_lit.file_hashes import sha256_of

ODD = "costs ${x} or \\${y}, \\ {z} 'q'"


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """A run of an earlier version, of another model and strategy, with texts that Hydra would read as its own."""
    monkeypatch.chdir(tmp_path)
    config: dict[str, Any] = load(
        "train", "experiment=vicuna", "model=llama_7b", "model.path=w", "data=files", "data.path=x", "seed=3",
        "strategy=zero3", "trainer.devices=2", "finetune=lora", "callbacks=[lr_monitor]", "push=org/name",
        "+run.swept.seed='3'", "wandb.group=sweep",
    ).model_dump(mode="json")  # fmt: skip
    config |= {"system_prompt": ODD, "heldout": config.pop("validation"), "resume": "must"}
    folder = tmp_path / "runs/old, of=2"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder.relative_to(tmp_path)


def one(*arguments: str) -> Any:
    (config,) = jobs_of(read("train", arguments)[0])
    return config


def test_every_value_is_the_runs_but_for_what_is_given(old):
    saved = json.loads((old / "config.json").read_text())
    saved["validation"] = saved.pop("heldout")
    config = one(f"from={old}", "optimizer.lr=1e-3")
    assert config.run.name == "vicuna,optimizer.lr=1e-3"
    assert config.run.dir == "runs/vicuna,optimizer.lr=1e-3"
    found = config.model_dump(mode="json")
    own = {"run", "optimizer", "push", "resume", "wandb"}
    assert {k: v for k, v in found.items() if k not in own} == {k: v for k, v in saved.items() if k not in own}
    assert found["optimizer"] == saved["optimizer"] | {"lr": 1e-3}
    assert (config.push, config.resume, config.run.swept, config.wandb.group) == (None, "auto", {}, None)
    assert config.system_prompt == ODD


def test_a_choice_takes_the_place_of_the_whole_group(old):
    config = one(f"from={old}", "strategy=ddp", "finetune=full", "model=tiny", "trainer=cpu", "run.name=mine")
    assert (config.strategy.kind, config.finetune.kind, config.trainer.devices) == ("ddp", "full", 1)
    assert config.model == load("train", "model=tiny", "experiment=null", "context_length=512").model
    assert (config.run.name, config.run.dir, config.seed) == ("mine", "runs/mine", 3)


def test_it_is_swept_and_estimated_like_any_recipe(old):
    line = read("train", ["-m", f"from={old}", "seed=4,5", "optimizer.lr=1e-3"])[0]
    assert [(c.run.name, c.seed, c.optimizer.lr) for c in jobs_of(line)] == [("seed=4", 4, 1e-3), ("seed=5", 5, 1e-3)]
    assert line.folder == Path("runs/sweeps/vicuna,optimizer.lr=1e-3")
    (estimate,) = jobs_of(read("estimate", [f"from={old}", "gpu=h100"])[0])
    assert (estimate.strategy.kind, estimate.gpu) == ("zero", "h100")
    assert load("train", f"from={old}", "seed=8").seed == 8


def test_what_is_different_is_said(old, capsys):
    _say_differences(str(old), [one(f"from={old}", "seed=4", "strategy=ddp")])
    said = capsys.readouterr().err
    assert said.startswith(f"from {old} to runs/vicuna,seed=4,strategy=ddp")
    assert "seed: 3 → 4" in said
    assert "strategy.kind: 'zero' → 'ddp'" in said
    _say_differences(str(old), [one(f"from={old}")])  # a single run is in no sweep's group
    assert capsys.readouterr().err.splitlines()[1:] == ["  wandb.group: 'sweep' → None"]
    _say_differences(str(old), [one(f"from={old}", "wandb.group=sweep")])
    assert "no value differs" in capsys.readouterr().err
    Path("x").mkdir()
    Path("x/talks.jsonl").write_text("edited")
    Path("w").write_text("as it was")
    files = {"x/talks.jsonl": "hash of before", "x/gone.jsonl": "1", "w": sha256_of(Path("w")), "elsewhere": "2"}
    (old / "run.json").write_text(json.dumps({"files": files}))
    _say_differences(str(old), [one(f"from={old}", "wandb.group=sweep")])
    assert capsys.readouterr().err.splitlines()[1:] == ["  x/talks.jsonl is not the same file any more"]
    _say_differences(str(old), [one(f"from={old}", "wandb.group=sweep", "data.path=y")])
    assert "talks" not in capsys.readouterr().err


def test_the_next_change_takes_the_place_of_the_last_in_the_name(old):
    values = json.loads((old / "config.json").read_text())
    values["run"]["name"] = "vicuna,seed=4"
    (old / "config.json").write_text(json.dumps(values))
    assert one(f"from={old}", "seed=5", "packing=false").run.name == "vicuna,seed=5,packing=false"
    assert one(f"from={old}").run.name == "vicuna,seed=4,again"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["from=nowhere"], "from=nowhere: no such folder"),
        (["from=."], "holds no run (config.json)"),
        (["from=prepared"], "is no folder of a train run"),
        (["from=broken"], "cannot be read"),
        (["from=scripted"], "its config has module, which no config has"),
        (["from=scripted", "from=broken"], "is a whole recipe; give one"),
        (["from=scripted", "experiment=vicuna"], "is a whole recipe; give one, and no experiment beside it"),
    ],
)
def test_what_is_no_run_is_said_in_one_line(old, arguments, said):
    values = json.loads((old / "config.json").read_text())
    for name, text in {
        "prepared": '{"raw": "x", "run": {}}',
        "broken": "{",
        "scripted": json.dumps(values | {"module": "mine:Loss"}),
    }.items():
        Path(name).mkdir()
        Path(name, "config.json").write_text(text)
    with pytest.raises(ConfigError) as error:
        read("train", arguments)
    (line,) = error.value.problems
    assert said in line


def test_a_run_is_extended_with_its_own_recipe(old):
    saved = json.loads((old / "config.json").read_text())
    saved |= {"taken_before": 96, "extends": "runs/older", "halving": {"rungs": [0.3], "keep": 0.5}, "stop_after": 9}
    saved["validation"] = saved.pop("heldout")
    (old / "config.json").write_text(json.dumps(saved))
    config = one(f"extends={old}", "trainer.epochs=1")
    assert (config.extends, config.taken_before, config.seed) == (str(old), None, 3)
    assert (config.halving, config.stop_after) == (None, None)
    assert config.run.name == "vicuna,extended,trainer.epochs=1"
    saved["trainer"]["max_steps"] = 9  # of that run; it would override the epochs that are asked for
    (old / "config.json").write_text(json.dumps(saved))
    lengths = [one(f"extends={old}", *given).trainer.max_steps for given in (
        ["trainer.epochs=1"], ["trainer.epochs=1", "trainer.max_steps=5"], []
    )]  # fmt: skip
    assert lengths == [None, 5, 9]
    again = one(f"from={old}")  # the same extension once more
    assert (again.extends, again.taken_before, again.run.name) == ("runs/older", 96, "vicuna,again")
    line = read("train", ["-m", f"extends={old}", "optimizer.lr=1e-5,2e-5"])[0]
    assert line.source == str(old)
    assert [c.run.name for c in jobs_of(line)] == ["optimizer.lr=1e-05", "optimizer.lr=2e-05"]


def test_the_command_is_said_as_it_was_typed():
    folder = "runs/mine,trainer.epochs=2"
    short = ["experiment=from_run", f"extends={quoted(folder)}"]
    assert said_as(short, folder) == short[1:], "extends= says from= already"
    assert said_as(["experiment=from_run", "seed=1"], folder) == [f"from='{folder}'", "seed=1"]
    assert typed([f"from='{folder}'", "a=b c", "seed=1"]) == f"\"from='{folder}'\" 'a=b c' seed=1"
    assert shlex.split(typed(odd := ["a='$x'", 'b="c"', "d=e'f"])) == odd
