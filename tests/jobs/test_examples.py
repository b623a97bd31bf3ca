"""What people copy: every example composes, can be planned, and fits the card that it names."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from tests.helpers import commands
from tests.helpers.runs import QUICKSTART
from vicuna_lit.config.base import CONF_DIR
from vicuna_lit.config.compose import load
from vicuna_lit.estimate.run import Estimator
from vicuna_lit.hub import hub_name

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CARDS = {
    "lora_24gb": [("l4", 1), ("a10g", 1), ("rtx4090", 1)],
    "tools_24gb": [("l4", 1), ("a10g", 1), ("rtx4090", 1)],
    "full_8b": [("a100-80gb", 8), ("h100", 8)],
    "context_16k": [("a100-80gb", 8), ("h100", 8)],
}


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return Estimator()


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "gpu", "count"), [(e, *card) for e, cards in CARDS.items() for card in cards])
def test_an_experiment_fits_the_card_that_it_names(experiment: str, gpu: str, count: int, estimator: Estimator):
    """With its own step plan, on conversations as long as ShareGPT's; no weights are needed."""
    config = load("estimate", f"experiment={experiment}", f"gpu={gpu}", f"count={count}", "price=1.0")
    found = estimator.estimate(config)
    assert found.fits, (found.memory.likely, found.memory.limit)
    assert found.plan.steps > 0


@pytest.mark.parametrize("experiment", CARDS)
def test_the_command_of_an_experiment_is_a_valid_config_of_a_run(experiment: str):
    table = (EXAMPLES / "README.md").read_text()
    (model,) = re.findall(rf"experiment={experiment} model.path=(\S+)", table)
    head = (CONF_DIR / "experiment" / f"{experiment}.yaml").read_text()
    assert f"vicuna-train experiment={experiment} model.path={model} data=" in head
    assert f"vicuna-estimate experiment={experiment} gpu=" in head
    assert hub_name(model, "model")
    config = load("train", f"experiment={experiment}", f"model.path={model}", "data=organisation/name")
    assert config.trainer.devices == CARDS[experiment][0][1]


def arguments_of(script: str, *arguments: str, folder: Path, **environment: str) -> list[list[str]]:
    """What a script calls `vicuna-train` and `vicuna-compare` with, a list each."""
    log = folder / "log"
    for name in ("vicuna-train", "vicuna-compare"):
        stand_in = folder / name
        stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" "" >> "{log}"\n')
        stand_in.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = ["bash", str(EXAMPLES / script), *arguments]
    subprocess.run(done, check=True, cwd=folder, env=os.environ | {"PATH": path} | environment)
    return [call.split("\n") for call in log.read_text().rstrip("\n").split("\n\n")]


def test_the_sweep_on_slurm_asks_for_a_card_for_each_of_its_jobs(tmp_path: Path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (train, *overrides), compare = arguments_of("slurm_sweep.sh", "data=organisation/name", folder=tmp_path)
    assert (train, overrides[0]) == ("vicuna-train", "-m")
    assert compare == ["vicuna-compare", "runs/sweeps/slurm_sweep"]
    one = [re.sub(r"=([^,]+),.*", r"=\1", override) for override in overrides[1:]]
    assert load("train", *(o for o in one if not o.startswith("hydra"))).finetune.kind == "lora"
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        launcher = compose("train", [o for o in one if o[:5] != "data="], return_hydra_config=True).hydra.launcher
    assert (launcher.gpus_per_node, launcher.partition) == (1, "gpu")
    assert launcher._target_.endswith("SlurmLauncher")


@pytest.mark.slow
def test_the_ablation_of_the_data_plans_a_run_for_each_set_and_seed(tmp_path: Path):
    files = [str(QUICKSTART / f"{name}.jsonl") for name in ("conversations", "conversations", "validation")]
    files[1] = str(tmp_path / "cleaned.jsonl")
    Path(files[1]).write_bytes(b"".join(Path(files[0]).read_bytes().splitlines(keepends=True)[:100]))
    settings = {"EXPERIMENT": "quickstart", "STEPS": "3", "SEEDS": "0,1"}
    (_, *overrides), compare = arguments_of("data_ablation.sh", *files, folder=tmp_path, **settings)
    assert compare == ["vicuna-compare", "runs/sweeps/data_ablation"]
    planned = commands.run("vicuna_lit.train", *overrides, "dry_run=true", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "4 jobs in runs/sweeps/data_ablation" in planned.stdout


@pytest.mark.slow
def test_the_spot_job_runs_the_example_on_cards_that_it_fits(estimator: Estimator):
    job = yaml.safe_load((EXAMPLES / "spot_lora.yaml").read_text())
    command = job["run"].replace("\\\n", " ").replace("$SKYPILOT_TASK_ID", "1")
    for name, value in job["envs"].items():
        command = command.replace(f'"${name}"', value)
    program, *overrides = command.replace('"', "").split()
    assert program == "vicuna-train"
    assert load("train", *overrides).run.dir == "/runs/1"
    of_estimate = [o for o in overrides if not o.startswith(("data=", "model.path="))]
    for card in job["resources"]["accelerators"]:
        gpu, count = card.lower().split(":")
        assert estimator.estimate(load("estimate", *of_estimate, f"gpu={gpu}", f"count={count}")).fits
    assert job["resources"]["job_recovery"]["recover_on_exit_codes"] == [33]
