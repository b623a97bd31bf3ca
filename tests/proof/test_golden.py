"""The proof rule: a refactor keeps the losses bit-identical."""

import csv
import json
from pathlib import Path

import pytest
import torch

from vicuna_lit.config.compose import load
from vicuna_lit.train.run import fit

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.json"
SHORT = ("trainer.max_steps=20", "samples.questions=[]", "wandb.mode=disabled", "data.max_validation=2")


@pytest.mark.promise("A refactor keeps the losses bit-identical (same torch and kind of processor)")
def test_twenty_steps_of_the_quickstart(tmp_path, request):
    """To the bit with the torch and processor kind of the golden file; elsewhere within rounding."""
    machine = {"torch": torch.__version__.split("+")[0], "cpu": torch.backends.cpu.get_cpu_capability()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fit(load("train", *SHORT, f"run.dir={tmp_path / 'run'}"))
    finally:
        torch.set_num_threads(threads)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    now = {k: [float(r[k]) for r in rows] for k in ("loss", "grad_norm", "lr")}
    now |= {"conversations_hash": [r["conversations_hash"] for r in rows]}
    if request.config.getoption("--golden"):
        GOLDEN.write_text(json.dumps(machine | now, indent=1))
    golden = json.loads(GOLDEN.read_text())
    assert now["conversations_hash"] == golden["conversations_hash"]
    if {k: golden[k] for k in machine} == machine:
        assert now == {k: golden[k] for k in now}
    else:
        for key in ("loss", "grad_norm", "lr"):
            assert now[key] == pytest.approx(golden[key], rel=1e-3)
