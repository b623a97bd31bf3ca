"""What a default run prints: what will happen, what happened, what to do next, and not a word of any library."""

import subprocess
import sys
from pathlib import Path

import pytest

from vicuna_lit.train.console import MOST_OF_A_REPLY


@pytest.mark.slow
def test_a_default_run_prints_its_own_words_alone(tmp_path: Path):
    settings = ("trainer.max_steps=3", "data.max_validation=4", f"run.dir={tmp_path / 'run'}")
    done = subprocess.run(
        [sys.executable, "-m", "vicuna_lit.train", *settings], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if not line.startswith("step ")]
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["model", "data", "rejected"]
    assert lines[-1].strip() == "vicuna-train experiment=smollm2_sharegpt", "the last lines say what comes next"
    replies = [line for line in lines if line.startswith(("  before:", "  after:"))]
    assert replies and max(map(len, replies)) < MOST_OF_A_REPLY + 50
