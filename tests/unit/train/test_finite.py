"""A run stops where its numbers are no longer numbers; nothing that holds such numbers is kept, and JSON stays JSON."""

import json
import math

import pytest
import torch

from tests.helpers.runs import run_here
from vicuna_lit.train.checkpoint.format import find
from vicuna_lit.train.finite import NotFiniteError, all_finite, check_step, check_validation
from vicuna_lit.whole_files import write_json

SMALL = [
    "data.max_conversations=24", "data.max_validation=4", "trainer.max_steps=4", "conversations_per_step=6",
    "samples.questions=[]", "wandb.mode=disabled", "checkpoint.every_steps=1",
]  # fmt: skip


def strict(text: str):
    def refuse(name: str):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def spoil(monkeypatch, last: int, value: float) -> None:
    """After so many steps of the optimizer one weight becomes this value."""
    steps, real = [], torch.optim.AdamW.step

    def step(self, closure=None):
        result = real(self, closure)
        steps.append(1)
        if len(steps) == last:
            with torch.no_grad():
                self.param_groups[0]["params"][0].view(-1)[0] = value
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", step)


def test_a_run_whose_loss_explodes_stops_at_that_step(tmp_path):
    """The step is named with its conversations; only steps before it are kept; nothing is exported."""
    settings = [*SMALL, f"run.dir={tmp_path}/run", "optimizer.lr=1e30", "optimizer.clip_norm=null"]
    with pytest.raises(NotFiniteError, match=r"^step 2: .*(nan|inf).*; it held the conversations ") as error:
        run_here([*settings, "optimizer.warmup_ratio=0"])
    result = strict((tmp_path / "run/result.json").read_text())
    assert (result["status"], result["cause"]) == ("failed", "not_finite")
    assert str(error.value) in result["error"]
    assert not (tmp_path / "run/hf").exists()
    for checkpoint in find(tmp_path / "run/checkpoints").complete:
        assert checkpoint.step < 2


def test_weights_that_are_no_numbers_are_not_saved(tmp_path, monkeypatch, capsys):
    """The step's own loss is fine; what its update made is not."""
    spoil(monkeypatch, 2, math.inf)
    with pytest.raises(NotFiniteError, match=r"^step 3: "):
        run_here([*SMALL, f"run.dir={tmp_path}/run"])
    assert [c.step for c in find(tmp_path / "run/checkpoints").complete] == [1]
    assert "the checkpoint of step 2 could not be written: its weights or optimizer state are not all finite" in (
        " ".join(capsys.readouterr().out.split())
    )


def test_the_last_weights_must_be_numbers(tmp_path, monkeypatch):
    """No later step would show it; without a validation set nothing else would."""
    spoil(monkeypatch, 4, math.nan)
    with pytest.raises(NotFiniteError, match="the weights after step 4 are not all finite"):
        run_here(
            [
                *SMALL,
                "data.validation_path=null",
                "data.validation_fraction=0",
                "checkpoint.every_steps=null",
                f"run.dir={tmp_path}/run",
            ]
        )
    assert not (tmp_path / "run/hf").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_every_figure_is_looked_at(value: float):
    check_step(3, 1.0, 0.0, [])
    check_validation(0, 2.0)
    with pytest.raises(NotFiniteError, match=r"^step 3: loss"):
        check_step(3, value, 1.0, ["a"])
    with pytest.raises(NotFiniteError, match=r"^step 3: gradient norm"):
        check_step(3, 1.0, value, [f"c{i}" for i in range(20)])
    with pytest.raises(NotFiniteError, match="before the first step"):
        check_validation(0, value)
    assert not all_finite([torch.ones(3), torch.tensor([1.0, value])])
    assert all_finite([torch.ones(3, dtype=torch.bfloat16), torch.tensor([1, 2])])


def test_json_is_json(tmp_path):
    write_json(tmp_path / "a.json", {"a": math.nan, "b": [1.5, -math.inf, {"c": (math.inf, "x", None)}], "d": 3})
    assert strict((tmp_path / "a.json").read_text()) == {"a": None, "b": [1.5, None, {"c": [None, "x", None]}], "d": 3}


def test_a_learning_rate_that_moves_no_weight_is_said(tmp_path, capsys):
    run_here([*SMALL, f"run.dir={tmp_path}/run", "optimizer.lr=1e-12", "trainer.max_steps=2"])
    notes = strict((tmp_path / "run/result.json").read_text())["notes"]
    assert any("has not changed the validation loss" in note and "optimizer.lr=1e-12" in note for note in notes)
    assert "optimizer.lr=1e-12 may be too small" in " ".join(capsys.readouterr().out.split())
