"""A run keeps what Hydra composed in `.hydra` of its folder, and the command outlives the reader of its output."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.helpers import commands
from tests.helpers.runs import COMMON

FILES = ["config.yaml", "hydra.yaml", "overrides.yaml"]
SHORT = (*COMMON, "trainer.max_steps=2", "data.max_validation=2")


def train(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    given = {o.partition("=")[0] for o in overrides}
    common = [o for o in SHORT if o.partition("=")[0] not in given]
    return commands.run("vicuna_lit.train", *common, *overrides, cwd=folder, workers=True)


def hydra_of(run: Path) -> tuple[list[str], list[str], str]:
    assert sorted(file.name for file in (run / ".hydra").iterdir()) == FILES
    config = OmegaConf.load(run / ".hydra/config.yaml")
    settings = OmegaConf.load(run / ".hydra/hydra.yaml").hydra
    assert "hydra" not in config
    assert Path(settings.runtime.output_dir) == run
    assert settings.output_subdir == ".hydra"
    overrides: Any = OmegaConf.to_container(OmegaConf.load(run / ".hydra/overrides.yaml"))
    assert overrides == OmegaConf.to_container(settings.overrides.task)
    return overrides, [str(config.seed), str(config.run.name)], str(settings.runtime.choices.experiment)


@pytest.mark.slow
@pytest.mark.promise("A run's folder has Hydra's own account of it, also after a resume, and no other command's")
def test_a_run_keeps_what_hydra_composed(tmp_path):
    assert train(tmp_path, "run.name=r", "seed=3").returncode == 0
    overrides, values, choice = hydra_of(tmp_path / "runs/r")
    assert {"run.name=r", "seed=3"} < set(overrides)
    assert (values, choice) == (["3", "r"], "quickstart")
    refused = train(tmp_path, "run.name=r", "seed=4")
    assert refused.returncode == 2
    assert hydra_of(tmp_path / "runs/r")[0] == overrides
    (tmp_path / "runs/r/result.json").unlink()  # as if it had been stopped
    resumed = train(tmp_path, "run.name=r", "seed=3", "checkpoint.keep=1")
    assert resumed.returncode == 0
    assert "checkpoint.keep=1" in hydra_of(tmp_path / "runs/r")[0]
    for nothing in (["dry_run=true"], ["data.path=nowhere.jsonl"]):
        train(tmp_path, "run.name=none", *nothing)
        assert not (tmp_path / "runs/none").exists()

    began = train(tmp_path, "from=runs/r", "run.name=s", "trainer.max_steps=1")
    assert began.returncode == 2  # an experiment beside it
    given = [o for o in SHORT if o.startswith(("wandb.", "samples."))]
    began = commands.run("vicuna_lit.train", "from=runs/r", "seed=5", "run.name=s", *given, cwd=tmp_path)
    assert began.returncode == 0, began.stderr[-3000:]
    assert "seed: 3 → 5" in began.stderr
    overrides, values, _ = hydra_of(tmp_path / "runs/s")
    assert "from='runs/r'" in overrides
    assert values == ["5", "s"]


@pytest.mark.slow
def test_each_job_of_a_sweep_keeps_it_too(tmp_path):
    """Also where its processes are others than the one that Hydra runs in."""
    done = train(tmp_path, "-m", "seed=0,1", "hydra.sweep.dir=sweep", "trainer.max_steps=1")
    assert done.returncode == 0, done.stderr[-3000:]
    for seed in ("0", "1"):
        overrides, values, _ = hydra_of(tmp_path / f"sweep/seed={seed}")
        assert f"seed={seed}" in overrides
        assert values == [seed, f"seed={seed}"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["vicuna_lit.train", "--explain"],
        pytest.param(["vicuna_lit.train", "--cfg", "job"], marks=pytest.mark.slow),
        pytest.param(["vicuna_lit.prepare", "--help"], marks=pytest.mark.slow),
    ],
)
def test_a_command_whose_reader_has_gone_ends_quietly(arguments):
    """As `| head` leaves it: the pipe is closed before the command writes."""
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    os.close(read)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (0, "")
