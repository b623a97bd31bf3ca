"""`wandb agent` starts trials: by its own code, environment and command line; only its server is not there."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb import wandb_agent

from tests.helpers import commands
from tests.helpers.runs import COMMON
from vicuna_lit.cli.command_line import jobs_of, read
from vicuna_lit.config.compose import ConfigError
from vicuna_lit.evaluate.tracking import runs_behind
from vicuna_lit.run_folder import RunError, new_wandb_id

SWEEP = yaml.safe_load((Path(__file__).parents[2] / "experiments/sweep.yaml").read_text())


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """What the agent would start for a trial: its command line and its environment."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "WANDB_RUN_ID",
        "WANDB_SWEEP_PARAM_PATH",
        "WANDB_DIR",
        "WANDB_MODE",
    ):  # it sets them in its own process
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sw33p")
    monkeypatch.setenv("WANDB_PROJECT", "its_project")
    monkeypatch.setenv("WANDB_ENTITY", "its-team")
    started: list[tuple[list[str], dict[str, str]]] = []

    class Process:
        def __init__(self, env: Any, command: Any, **_: Any) -> None:
            started.append((command, env))

    monkeypatch.setattr(wandb_agent, "AgentProcess", Process)
    its = wandb_agent.Agent(api=None, queue=None, sweep_id="sw33p")
    its._sweep_command = SWEEP["command"]

    def trial(run: str, **values: Any) -> tuple[list[str], dict[str, str]]:
        arguments = {key.replace("__", "."): {"value": value} for key, value in values.items()}
        its._command_run({"type": "run", "run_id": run, "program": SWEEP["program"], "args": arguments})
        command, environment = started[-1]
        assert command[:2] == ["/usr/bin/env", "vicuna-train"]
        return command[2:], environment

    return trial


def composed(trial: tuple[list[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch, job: Any = "train") -> Any:
    arguments, environment = trial
    for key, value in environment.items():
        if key.startswith("WANDB_"):
            monkeypatch.setenv(key, value)
    (config,) = jobs_of(read(job, arguments)[0])
    return config


def test_each_trial_is_online_under_its_own_name_in_its_own_folder(agent, monkeypatch):
    one = composed(agent("tr1al", optimizer__lr=0.002, packing=True, validation__every_steps=50), monkeypatch)
    assert (one.run.name, one.run.dir) == ("tr1al", "runs/sweeps/sw33p/tr1al")
    assert (one.wandb.mode, one.wandb.project, one.wandb.entity) == ("online", "its_project", "its-team")
    assert one.wandb.dir == one.run.dir  # not the agent's own working folder, its WANDB_DIR
    assert (one.optimizer.lr, one.packing, one.validation.every_steps) == (0.002, True, 50)
    other = composed(agent("tr2al", optimizer__lr=1e-05, packing=False), monkeypatch)
    assert (other.run.dir, other.optimizer.lr, other.packing) == ("runs/sweeps/sw33p/tr2al", 1e-5, False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert composed(agent("tr3al"), monkeypatch).wandb.mode == "offline"


def test_values_arrive_as_the_agent_writes_them(agent, monkeypatch):
    values: dict[str, Any] = {
        "data__max_validation": None, "optimizer__betas": [0.8, 0.95], "system_prompt": "Be brief, 'please'; a=b",
        "samples__questions": [["Who?", "It's?"]], "optimizer": {"lr": 0.003}, "seed": 3,
    }  # fmt: skip
    config = composed(agent("v", **values), monkeypatch)
    assert (config.data.max_validation, config.optimizer.betas, config.seed) == (None, (0.8, 0.95), 3)
    assert config.system_prompt == values["system_prompt"]
    assert config.samples.questions == (("Who?", "It's?"),)
    assert (config.optimizer.lr, config.optimizer.eps) == (0.003, 1e-8)


def test_what_the_command_says_counts(agent, monkeypatch):
    command, environment = agent("r")
    config = composed(([*command, "run.name=mine", "run.dir=there", "wandb.mode=disabled"], environment), monkeypatch)
    assert (config.run.name, config.run.dir, config.wandb.mode) == ("mine", "there", "disabled")
    assert config.wandb.dir == "there"
    with pytest.raises(ConfigError, match="WANDB_RUN_ID=r names one run, and a multirun is several"):
        read("train", [*command, "-m", "seed=0,1"])
    monkeypatch.delenv("WANDB_SWEEP_ID")
    alone = composed((command, {"WANDB_RUN_ID": "by-hand"}), monkeypatch)
    assert (alone.run.name, alone.run.dir, alone.wandb.mode) == ("by-hand", "runs/by-hand", "offline")
    named = composed(([*command, "run.name=mine"], {"WANDB_RUN_ID": "by-hand"}), monkeypatch)
    assert (named.run.name, named.run.dir) == ("mine", "runs/mine")


def test_a_folder_of_another_run_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_RUN_ID", "new")
    assert new_wandb_id(tmp_path) == new_wandb_id(tmp_path, "new") == "new"
    with pytest.raises(RunError, match="holds W&B's run old, and WANDB_RUN_ID is new"):
        new_wandb_id(tmp_path, "old")
    monkeypatch.delenv("WANDB_RUN_ID")
    assert new_wandb_id(tmp_path, "old") == "old"
    assert len(new_wandb_id(tmp_path)) == 8


@pytest.mark.slow
@pytest.mark.promise("Each trial of `wandb agent` is a run with the agent's id in a folder of its own")
def test_two_trials_run_and_an_evaluation_names_them(agent, tmp_path):
    short = [o for o in COMMON if not o.startswith(("run.", "wandb.", "experiment="))]
    for run, lr in (("tr1al", 0.002), ("tr2al", 0.004)):
        command, environment = agent(run, optimizer__lr=lr, packing=True)
        given = [*short, *command, "trainer.max_steps=1", "data.max_validation=2"]
        done = commands.run("vicuna_lit.train", *given, env=environment | {"WANDB_MODE": "offline"}, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        folder = tmp_path / "runs/sweeps/sw33p" / run
        assert json.loads((folder / "run.json").read_text())["wandb_id"] == run
        assert json.loads((folder / "config.json").read_text())["optimizer"]["lr"] == lr
        assert len(list(folder.glob(f"wandb/offline-run-*-{run}/run-{run}.wandb"))) == 1
        models = read("evaluate", [f"models=[{folder}/hf,{{name: b, path: {folder}/hf}}]", "judge=rule"])
        for key in ("WANDB_RUN_ID", "WANDB_SWEEP_ID"):
            os.environ.pop(key, None)
        (config,) = jobs_of(models[0])
        assert set(runs_behind(config).values()) == {(run, f"its-team/its_project/model-{run}:latest")}
        os.environ["WANDB_SWEEP_ID"] = "sw33p"
