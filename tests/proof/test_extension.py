"""A run that extends a finished one goes on with its weights, its optimizer state and its order of the data."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.helpers.runs import COMMON, run_here, weights
from tests.proof.test_recovery import state
from vicuna_lit.config.base import ConfigError
from vicuna_lit.config.compose import load
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.distributed import DistributedEnv
from vicuna_lit.train.lineage import check_plan, origin_of
from vicuna_lit.train.optimizer import lr_factor
from vicuna_lit.train.resume import already_done, as_begun, input_hashes

FLAT = (
    "optimizer.schedule=constant",
    "optimizer.warmup_ratio=0",
    "checkpoint.at_end=true",
    "checkpoint.every_minutes=null",
)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.promise(
    "A run that extends a finished one is, at a constant rate, the longer run to the bit: losses, weights, optimizer "
    "state and the order of the data"
)
def test_two_runs_at_a_constant_rate_are_one_to_the_bit(tmp_path):
    def job(name: str, steps: int, *settings: str) -> list[str]:
        return [*COMMON, *FLAT, f"trainer.max_steps={steps}", f"run.dir={tmp_path / name}", *settings]

    run_here(job("long", 10))
    run_here(job("first", 6))
    extended = job("second", 4, f"extends={tmp_path / 'first'}", "checkpoint.every_steps=2")
    run_here(extended, stop_after=2)
    shutil.move(tmp_path / "first" / "checkpoints", tmp_path / "kept")  # a run that goes on needs nothing of it
    run_here(extended)
    long, second = tmp_path / "long", tmp_path / "second"
    figures = ("loss", "grad_norm", "lr", "conversations_hash")
    assert [[row[f] for f in figures] for row in rows(second)] == [[row[f] for f in figures] for row in rows(long)[6:]]
    ours, theirs = state(second, 4), state(long, 10)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(torch.equal(weight, weights(second)[name]) for name, weight in weights(long).items())
    # what is said about it
    config, result, before = (json.loads((second / f).read_text()) for f in ("config.json", "result.json", "run.json"))
    other = json.loads((tmp_path / "first" / "run.json").read_text())
    assert config["taken_before"] == 48
    assert result["taken"] == 80
    lineage = [{"run": str(tmp_path / "first"), "steps": 6, "wandb_id": other["wandb_id"]}]
    assert result["lineage"] == before["lineage"] == lineage
    assert before["wandb_id"] != other["wandb_id"]
    assert result["val_loss_before"] == json.loads((tmp_path / "first" / "result.json").read_text())["val_loss"]
    assert "It extends" in (second / "report.html").read_text()
    assert already_done(load("train", *extended), second)  # the same command finds it

    # what is refused
    def refused(*settings: str) -> str:
        other = load("train", *job("third", 4, f"extends={tmp_path / 'first'}", *settings))
        with pytest.raises(RunError) as error:
            origin_of(other, tmp_path / "third", False, input_hashes(other), {}, DistributedEnv())
        return str(error.value)

    said = refused("seed=1", "optimizer.betas=[0.8,0.9]", "optimizer.lr=1e-4")
    assert "seed: 0 → 1" in said and "optimizer.betas" in said and "optimizer.lr" not in said
    assert "checkpoint.at_end=true keeps it" in refused()
    with pytest.raises(RunError, match=r"checkpoint\.at_end=true keeps it"):  # and a plan foresees it
        check_plan(load("train", *job("third", 4, f"extends={tmp_path / 'first'}")), tmp_path / "third")
    check_plan(load("train", *extended), second)  # it has begun, and needs nothing of the other
    (tmp_path / "first" / "result.json").unlink()
    assert "has not finished; its own command goes on" in refused("taken_before=0")
    assert "no such folder" in refused(f"extends={tmp_path / 'nowhere'}", "taken_before=0")
    with pytest.raises(RunError, match="has not finished"):
        as_begun(load("train", *job("third", 4, f"extends={tmp_path / 'first'}")), tmp_path / "third")
    losses = tmp_path / "first" / "metrics.csv"  # trained anew, and not to the same bits
    losses.write_text(losses.read_text() + "\n")
    with pytest.raises(RunError, match=r"first/metrics\.csv is not the same file any more"):
        already_done(load("train", *extended), second)


def test_rates_of_an_extension():
    """A warm restart is the usual schedule over the new steps; a constant rate can end with a cool-down."""

    def rates(steps: int, *settings: str) -> list[float]:
        config = load("train", *settings).optimizer
        return [lr_factor(step, steps, config) for step in range(steps)]

    constant = ("optimizer.schedule=constant", "optimizer.warmup_ratio=0", "optimizer.cooldown_ratio=0.4")
    assert rates(10, *constant) == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert rates(10, "optimizer.warmup_ratio=0.2", "optimizer.schedule=linear")[:4] == [0, 0.5, 1, 1 - 1 / 8]
    assert rates(3, "optimizer.schedule=constant", "optimizer.warmup_ratio=0") == [1, 1, 1]
    for wrong in ("optimizer.schedule=cosine", "optimizer.warmup_ratio=0.7"):
        with pytest.raises(ConfigError, match=r"optimizer.cooldown_ratio: 0.4 "):
            load("train", *constant, wrong)
