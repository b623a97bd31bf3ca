"""The job files for spot machines: their commands compose, and their schedulers read them."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from vicuna_lit.config.compose import load

SPOT = Path(__file__).parents[2] / "experiments" / "spot"
JOBS = sorted(SPOT.glob("*.yaml"))


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_the_command_composes(file: Path):
    """What the job runs is a config that is accepted; its folder follows from the job's id."""
    words = shlex.split(yaml.safe_load(file.read_text())["run"].replace("\\\n", " "))
    assert words[0] == "vicuna-train"
    sweep = words[1] == "-m"
    place = "hydra.sweep.dir=" if sweep else "run.dir="
    assert f"{place}/runs/$SKYPILOT_TASK_ID" in words
    overrides = [w.split(",")[0] for w in words[1:] if "=" in w and not w.startswith("hydra.")]
    config = load("train", *(o.replace("$DATA", "/inputs/x.jsonl") for o in overrides))
    assert config.checkpoint.grace_seconds * 2 < 30, "the shortest notice of a cloud"
    assert config.checkpoint.every_minutes
    assert config.wandb.mode == "online"


@pytest.mark.slow
def test_skypilot_reads_them():
    python = os.environ.get("SKY_PYTHON")
    if not python:
        pytest.skip("SKY_PYTHON names no Python with SkyPilot; see experiments/spot/check.py")
    done = subprocess.run([python, str(SPOT / "check.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": ok") == len(JOBS) == 3


@pytest.mark.slow
def test_skypilot_s_check_can_fail(tmp_path):
    python = os.environ.get("SKY_PYTHON")
    if not python:
        pytest.skip("SKY_PYTHON names no Python with SkyPilot; see experiments/spot/check.py")
    (tmp_path / "check.py").write_text((SPOT / "check.py").read_text())
    job = (SPOT / "vicuna_7b.yaml").read_text()
    (tmp_path / "codes.yaml").write_text(job.replace("[33, 35]", "[33, 137]"))
    (tmp_path / "copied.yaml").write_text(job.replace("MOUNT_CACHED", "MOUNT"))
    done = subprocess.run([python, str(tmp_path / "check.py")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "codes.yaml: " in done.stdout
    assert "on 33 and 35 alone" in done.stdout
    assert "/runs is mounted as" in done.stdout


def slurm(folder: Path, body: str, *arguments: str) -> subprocess.Popen[str]:
    """The script with a `vicuna-train` and a `scontrol` that write down how they were called."""
    for name, text in {"vicuna-train": body, "scontrol": f'echo "$@" >> {folder}/calls'}.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    job = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "RUNS": "runs"}
    return subprocess.Popen(
        ["bash", str(SPOT / "slurm.sh"), *arguments], env=os.environ | job, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("code", "queued"), [(0, False), (33, True), (35, True), (1, False), (2, False)])
def test_slurm_queues_again_on_33_and_35_alone(code: int, queued: bool, tmp_path):
    process = slurm(tmp_path, f'echo "$@"; exit {code}', "experiment=vicuna_7b", "seed=$TASK")
    out = process.communicate(timeout=30)[0]
    assert process.returncode == code
    assert out.split() == ["experiment=vicuna_7b", "seed=0", "run.dir=runs/slurm-77", "checkpoint.grace_seconds=50"]
    assert (tmp_path / "calls").exists() == queued
    if queued:
        assert (tmp_path / "calls").read_text() == "requeue 77\n"


def test_slurm_passes_the_signal_on_and_waits(tmp_path):
    body = f"trap 'sleep 0.5; exit 33' TERM; touch {tmp_path}/ready; for i in $(seq 200); do sleep 0.05; done; exit 9"
    process = slurm(tmp_path, body)
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert process.returncode == 33
    assert (tmp_path / "calls").read_text() == "requeue 77\n"
