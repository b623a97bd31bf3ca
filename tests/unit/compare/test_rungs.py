"""What halving has decided is said with the losses of both sides; a rung that is open is said as such."""

import json
from pathlib import Path

from vicuna_lit.compare.rungs import rungs_in_words
from vicuna_lit.compare.runs import Run, Sweep

SETTINGS = {"lr=1": ["lr=1,seed=0", "lr=1,seed=1"], "lr=2": ["lr=2,seed=0", "lr=2,seed=1"]}


def said(folder: Path, decided: list[dict], stands: dict[str, str]) -> list[str]:
    (folder / "halving.json").write_text(json.dumps({"rungs": [0.1], "settings": SETTINGS, "decided": decided}))
    runs = [Run(folder / name, {"run": {"name": name}}, {"status": status}) for name, status in stands.items()]
    return rungs_in_words(Sweep(folder, tuple(runs)))


def test_who_was_stopped_by_which_losses(tmp_path):
    rung = {"after": 0.1, "val_loss": {"lr=1": 5.96889, "lr=2": 4.5903}, "goes_on": ["lr=2"]}
    assert said(tmp_path, [rung], {}) == [
        "Halving stopped lr=1 after 10% of the steps, with a validation loss of 5.9689 there against 4.5903 of lr=2, "
        "which went on"
    ]
    rung["val_loss"] |= {"lr=3": 7.0, "lr=4": None}
    assert "stopped 2 settings, the best of them lr=1, after" in said(tmp_path, [rung], {})[0]


def test_a_rung_that_is_open(tmp_path):
    stands = {"lr=1,seed=0": "stopped", "lr=1,seed=1": "preempted", "lr=2,seed=0": "finished"}
    assert said(tmp_path, [], stands) == [
        "Halving has not decided at 10% of the steps: 2 of 4 runs are there, 1 preempted, 1 not begun; "
        "the same command goes on"
    ]


def test_a_sweep_that_is_not_halved(tmp_path):
    assert rungs_in_words(Sweep(tmp_path, ())) == []
