"""What halving has decided is said with the losses of both sides; a rung that is open is said as such."""

import json
from pathlib import Path

import pytest

from vicuna_lit.compare.run import Run
from vicuna_lit.compare.rungs import rungs_in_words
from vicuna_lit.compare.runs import Sweep
from vicuna_lit.run_folder import RunError

SETTINGS = {"lr=1": ["lr=1,seed=0", "lr=1,seed=1"], "lr=2": ["lr=2,seed=0", "lr=2,seed=1"]}


def said(folder: Path, decided: list[dict], stands: dict[str, str], stop_after: float | None = None) -> list[str]:
    """
    Args:
        stands: the status of each job's run; `stopped 0.1`: at that part of its steps.
    """
    goes_on = [job for jobs in SETTINGS.values() for job in jobs]
    told = {"rungs": [0.1, 0.3], "keep": 0.5, "settings": SETTINGS, "goes_on": goes_on, "decided": decided}
    (folder / "halving.json").write_text(json.dumps(told | {"stop_after": stop_after}))
    runs = []
    for name, stand in stands.items():
        status, _, part = stand.partition(" ")
        result = {"status": status} | ({"stop_after": float(part)} if part else {})
        runs.append(Run(folder / name, {"run": {"name": name}}, result))
    return rungs_in_words(Sweep(folder, tuple(runs)))


def test_who_was_stopped_by_which_losses(tmp_path):
    rung = {"after": 0.1, "val_loss": {"lr=1": 5.96889, "lr=2": 4.5903}, "goes_on": ["lr=2"]}
    assert said(tmp_path, [rung], {}) == [
        "Halving stopped lr=1 after 10% of the steps, with a validation loss of 5.9689 there against 4.5903 of lr=2, "
        "which went on",
        "Halving leaves lr=2 of 2 settings",
    ]
    rung["val_loss"] |= {"lr=3": 7.0, "lr=4": None}
    assert "stopped 2 settings, the best of them lr=1, after" in said(tmp_path, [rung], {})[0]


def test_a_rung_that_is_open(tmp_path):
    stands = {"lr=1,seed=0": "stopped 0.1", "lr=1,seed=1": "preempted", "lr=2,seed=0": "finished"}
    assert said(tmp_path, [], stands, stop_after=0.1) == [
        "Halving has not decided at 10% of the steps: 2 of 4 runs are there, 1 preempted, 1 not begun; "
        "the same command goes on"
    ]


def test_a_run_that_was_stopped_at_an_earlier_rung_has_not_come_to_this_one(tmp_path):
    stands = {"lr=1,seed=0": "stopped 0.3", "lr=1,seed=1": "stopped 0.1", "lr=2,seed=0": "stopped 0.3"}
    assert said(tmp_path, [], stands | {"lr=2,seed=1": "finished"}, stop_after=0.3) == [
        "Halving has not decided at 30% of the steps: 3 of 4 runs are there, 1 waiting at an earlier rung; "
        "the same command goes on"
    ]


def test_a_damaged_file_is_said_with_what_to_do(tmp_path):
    (tmp_path / "halving.json").write_text('{"rungs": [0.1]}')
    with pytest.raises(RunError, match=r"halving\.json: is damaged \(keys are missing\); delete it"):
        rungs_in_words(Sweep(tmp_path, ()))


def test_a_sweep_that_is_not_halved(tmp_path):
    assert rungs_in_words(Sweep(tmp_path, ())) == []
