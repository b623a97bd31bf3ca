"""A sweep's report in W&B, against a stand-in of its server: what is sent, whose runs it shows, who may send it."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from tests.helpers.wandb_server import WandbServer, environment
from tests.unit.compare.test_table_and_page import run
from vicuna_lit.cli import compare as command
from vicuna_lit.tracking import server as asked_server
from vicuna_lit.wandb_workspace import as_json, markdown, workspace


@pytest.fixture
def server(monkeypatch) -> Iterator[WandbServer]:
    """W&B as in a process of its own, which has asked nobody yet."""
    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(asked_server, "_answers", {})
    with WandbServer() as server:
        for name, value in environment(server.address).items():
            monkeypatch.setenv(name, value)
        yield server
        wandb.teardown()


@pytest.fixture
def sweep(tmp_path) -> Path:
    for context, loss in (("256", 1.5), ("512", 1.25)):
        for seed in range(2):
            swept, name = {"context_length": context, "seed": str(seed)}, f"{context}-{seed}"
            one = run(tmp_path / "my sweep" / name, loss + 0.01 * seed, swept=swept, steps=9)
            (one / "run.json").write_text(json.dumps({"wandb_id": f"id{name}"}))
    return tmp_path / "my sweep"


def compare(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vicuna-compare", *map(str, arguments)])
    try:
        command.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def at_wandb(sweep: Path, **keys: Any) -> None:
    """All runs have such values of `wandb`."""
    for file in sweep.glob("*/config.json"):
        config = json.loads(file.read_text())
        config["wandb"] |= keys
        file.write_text(json.dumps(config))


def test_the_report_says_what_the_page_says_and_has_the_panels_of_the_workspace(server, sweep, monkeypatch, capsys):
    at_wandb(sweep, mode="offline", project="vicuna_lit")
    assert compare(monkeypatch, sweep, "--wandb-report") == 0
    printed = capsys.readouterr().out.split()
    (sent,) = server.views
    assert (sent["entityName"], sent["projectName"], sent["displayName"]) == ("me", "vicuna_lit", "my sweep")
    saved = json.loads((sweep / "wandb_report.json").read_text())
    assert saved["url"] in printed and "/me/vicuna_lit/reports/" in saved["url"]
    blocks = json.loads(sent["spec"])["blocks"]
    said = json.dumps([block for block in blocks if block["type"] == "list"])
    assert "context_length=512 cannot be told from context_length=256" in said
    (table,) = (block["content"] for block in blocks if block["type"] == "markdown-block")
    assert table.count("\n| ") == 2 and "1.505" in table
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    assert len(grids) > 8
    for grid in grids:
        (runs,) = grid["runSets"]
        (chosen,) = runs["filters"]["filters"]
        assert chosen["key"] == {"section": "run", "name": "name"}
        assert sorted(chosen["value"]) == ["id256-0", "id256-1", "id512-0", "id512-1"]
        assert runs["grouping"] == [{"section": "config", "name": "setting.value"}]
    sections = json.loads(as_json(workspace("me", "vicuna_lit")))["section"]["panelBankConfig"]["sections"]
    theirs = [panel["config"] for one in sections for panel in one["panels"]]
    ours = [panel["config"] for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    assert ours == theirs

    assert compare(monkeypatch, sweep, "--wandb-report") == 0  # takes its place
    assert [view.get("id") for view in server.views] == [None, saved["id"]]


def test_who_cannot_save_it_is_told_so_in_one_line_and_has_the_page(server, sweep, monkeypatch, capsys):
    at_wandb(sweep, mode="disabled")
    assert compare(monkeypatch, sweep, "--wandb-report") == 2
    assert "none of these runs was logged to W&B" in capsys.readouterr().err and not server.asked
    at_wandb(sweep, mode="offline")
    monkeypatch.delenv("WANDB_API_KEY")
    assert compare(monkeypatch, sweep, "--wandb-report") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: --wandb-report: nobody is logged in on this machine; `wandb login`, or WANDB_API_KEY"
    assert (sweep / "compare.html").exists() and not server.views


def test_runs_of_two_projects_are_no_report(server, sweep, monkeypatch, capsys):
    at_wandb(sweep, mode="online", entity="us", project="one")
    result = sweep / "256-0" / "result.json"
    page = {"wandb_url": "https://wandb.ai/you/other/runs/id"}
    result.write_text(json.dumps(json.loads(result.read_text()) | page))
    assert compare(monkeypatch, sweep, "--wandb-report") == 2
    assert "these runs lie in several projects (us/one, you/other)" in capsys.readouterr().err


def test_a_cell_is_text():
    rows = [{"a|b": "<img src=x>", "c": "[x](y) `z`\n# *d*"}]
    assert markdown(rows) == "| a\\|b | c |\n|---|---|\n| \\<img src=x\\> | \\[x\\](y) \\`z\\` \\# \\*d\\* |"
