"""A run on a mixture: the same losses on another layout and after a stop; each source's validation loss, everywhere."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.group import run_group
from tests.helpers.runs import COMMON, QUICKSTART, compare, run_here
from vicuna_lit.data.batch import Batch, collate
from vicuna_lit.data.dataset import Examples
from vicuna_lit.tracking.wandb_file import history_rows
from vicuna_lit.train.validation_loss import ValidationLoss

STEPS = 6
SOURCES = ", ".join(
    f"{{path: '{QUICKSTART / file}', name: {name}, weight: {weight}}}"
    for file, name, weight in (("conversations.jsonl", "code", 2), ("validation.jsonl", "chat", 1))
)
MIXTURE = (
    *(o for o in COMMON if not o.startswith("data")), "data=mixture", f"data.sources=[{SOURCES}]",
    "data.shares=supervised_tokens", "data.max_conversations=25", "data.validation_fraction=0.05", "order=by_length",
    f"trainer.max_steps={STEPS}", "checkpoint.every_steps=2", "validation.every_steps=3", "wandb.mode=offline",
)  # fmt: skip


@pytest.fixture(scope="module")
def never(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mixture") / "never"
    run_here([*MIXTURE, f"run.dir={folder}"])
    return folder


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.slow
@pytest.mark.promise("A mixture gives the same losses on another layout, and after a stop to the bit")
def test_another_layout_and_a_stop_leave_the_losses_of_a_mixture_alone(never, tmp_path):
    common = [*MIXTURE, f"run.dir={tmp_path / 'often'}", "wandb.mode=disabled"]
    run_here(common, stop_after=3)
    run_here(common)
    assert (tmp_path / "often/metrics.csv").read_bytes() == (never / "metrics.csv").read_bytes()
    assert result(tmp_path / "often")["validation"] == result(never)["validation"]
    run_here([*MIXTURE, f"run.dir={tmp_path / 'other'}", "tokens_per_device=256", "wandb.mode=disabled"])
    compare(tmp_path / "other", never, steps=STEPS)
    for name, loss in result(tmp_path / "other")["validation"].items():
        assert loss == pytest.approx(result(never)["validation"][name], rel=1e-5)


def test_each_source_has_its_validation_loss_in_the_result_the_report_and_wandb(never):
    found = result(never)
    losses = {name: found["validation"][f"val/loss_by_source/{name}"] for name in ("code", "chat")}
    tokens = {name: found["data"]["validation"]["sources"][name]["supervised_tokens"] for name in losses}
    mean = sum(losses[name] * tokens[name] for name in losses) / sum(tokens.values())
    assert found["val_loss"] == pytest.approx(mean)
    assert losses["code"] != losses["chat"]
    page = (never / "report.html").read_text()
    (record,) = never.glob("wandb/offline-run-*/*.wandb")
    logged = [row for _, row in history_rows(record) if "val/loss" in row]
    assert len(logged) == 3
    for name, loss in losses.items():
        assert f"{loss:.4f}" in page.partition("<h2>Sources")[2].partition("</table>")[0]
        assert logged[-1][f"val/loss_by_source/{name}"] == loss
    assert "source code has 25 examples: each is seen " in " ".join(found["notes"])


def test_the_loss_of_each_source_is_the_mean_over_its_tokens():
    labels = torch.tensor([[-100, 1, 1, -100, 1, -100, 1]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 1]])
    held = ValidationLoss(("code", "chat", "none"))
    row = Batch(labels.clamp(min=0), labels, positions, (3, 2, 2), 1, replies_before=(0, 0, 0), sources=(1, 0, 1))
    held.add(row, torch.tensor([1.0, 2.0, 4.0, 6.0]))
    held.add(collate(Examples.of([]), (), 1), torch.zeros(0))
    assert held.by_source() == {"code": 4.0, "chat": 3.0}


@pytest.mark.slow
def test_without_the_cache_to_the_bit_and_two_processes_as_one(never, tmp_path):
    run_here([*MIXTURE, f"run.dir={tmp_path / 'alone'}", "token_cache_gb=0", "wandb.mode=disabled"])
    assert (tmp_path / "alone/metrics.csv").read_bytes() == (never / "metrics.csv").read_bytes()
    assert result(tmp_path / "alone")["val_by_step"] == result(never)["val_by_step"]
    overrides = [*MIXTURE, f"run.dir={tmp_path / 'two'}", "strategy=ddp", "trainer.devices=2", "wandb.mode=disabled"]
    run_group([{"overrides": overrides, "stop_after": 3}, {"overrides": overrides}], tmp_path)
    compare(tmp_path / "two", never, steps=STEPS)
    for name, loss in result(tmp_path / "two")["validation"].items():
        assert loss == pytest.approx(result(never)["validation"][name], rel=1e-5)
