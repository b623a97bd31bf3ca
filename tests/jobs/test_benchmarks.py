"""The benchmarks run, at sizes that only show it, so that no README drifts from the code."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments import tables
from experiments.benchmarks.gpu import report as gpu_report
from experiments.benchmarks.train import head
from experiments.benchmarks.train import report as train_report
from tests.helpers import commands
from tests.helpers.runs import QUICKSTART

BENCHMARKS = Path(__file__).parents[2] / "experiments" / "benchmarks"


def benchmark(*arguments: str, python: str = sys.executable) -> str:
    done = subprocess.run([python, *arguments], capture_output=True, text=True, cwd=BENCHMARKS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_scale():
    results = (BENCHMARKS / "scale" / "results.json").read_bytes()
    printed = benchmark("scale/run.py", "--quick", "--rounds", "1", python=commands.python())
    for part in ("head", "attention", "checkpointing", "strategies", "export"):
        assert f"## {part}" in printed
    assert printed.count("\n| ") >= 16
    assert (BENCHMARKS / "scale" / "results.json").read_bytes() == results


@pytest.mark.slow
def test_a_second_job_finds_the_tokens_of_the_first(tmp_path):
    """The benchmark itself stops where tokens, masks or steps differ."""
    data, tokenizer = (str(QUICKSTART / name) for name in ("conversations.jsonl", "tokenizer"))
    short = ("--rounds", "1", "--copies", "1", "2", "--of", "60", "--conversations", "60")
    printed = benchmark(
        "data/run.py", "--tokenizer", tokenizer, "--data", data, *short, "--out", str(tmp_path / "a.json")
    )
    seconds = {row.split(" | ")[0]: float(row.split(" | ")[1]) for row in printed.splitlines()[2:5]}
    assert seconds["| again"] < seconds["| without"]
    assert [row.split(" | ")[0] for row in printed.splitlines()[-2:]] == ["| 60", "| 120"]


@pytest.mark.slow
def test_what_a_template_refuses_is_counted():
    tokenizer, data = str(QUICKSTART / "tokenizer"), str(QUICKSTART / "validation.jsonl")
    given = ("--tokenizer", tokenizer, "--data", data, "--template", "vicuna_v1", "--conversations", "9")
    found = json.loads(benchmark("data/refused.py", *given))
    assert (found["records_kept"], found["records_rejected"], found["empty_masks"]) == (9, 0, 0)


@pytest.mark.slow
def test_gpu_on_any_machine():
    printed = benchmark("gpu/run.py", "--tiny", python=commands.python())
    rows = [line for line in printed.splitlines() if line.startswith("| tiny")]
    assert [row.split(" | ")[2] for row in rows] == ["fsdp"]
    assert all(int(row.split(" | ")[4].replace(",", "")) > 0 for row in rows)


@pytest.mark.slow
def test_the_check_of_a_gpu_runs_in_miniature(tmp_path):
    """All its phases; and the tables that are made of its lines."""
    online = {"HF_HUB_OFFLINE": ""}  # it sets what is lacking, and a fork has read it already
    check = ("experiments.benchmarks.gpu.check", "A", "B", "C", "--tiny", "--out", str(tmp_path))
    done = commands.run(*check, env=os.environ | online, cwd=BENCHMARKS.parents[1], workers=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(rows) > 45 and all(row["ok"] for row in rows)
    assert {row["phase"] for row in rows} == {"-", "A", "B", "C"}
    table = gpu_report.tables(rows)
    assert "0 failed" in table and table.count("| ours tiny") == 2
    assert gpu_report.speeds(rows, "h100") == []


def test_the_speeds_of_a_card_become_the_estimates(tmp_path, monkeypatch):
    """Lines as a card would give them; a second report takes the place of the first."""
    speeds, readme = tmp_path / "speeds.yaml", tmp_path / "README.md"
    speeds.write_text((gpu_report.SPEEDS).read_text())
    readme.write_text("before\n" + "\n".join(gpu_report.MARKS) + "\nafter\n")
    monkeypatch.setattr(gpu_report, "SPEEDS", speeds)
    monkeypatch.setattr(gpu_report, "HERE", tmp_path)
    about = {"phase": "-", "check": "about", "ok": True, "figures": {"card": "NVIDIA H100 80GB HBM3", "versions": {}}}
    check = "ours llama3_1_8b 2048 precision=bf16-true gradient_checkpointing=full compile=true"
    for speed in (7000.0, 8000.4):
        figures = {"tokens_per_second": speed, "mfu": 0.4, "tflops": 400.0, "gib": 60.0}
        gpu_report.write([about, {"phase": "C", "check": check, "ok": True, "figures": figures}])
    written = yaml.safe_load(speeds.read_text())
    assert [row for row in written["speeds"] if row[6] == "V"] == [["llama3_1_8b", "h100", 1, 2048, True, 8000, "V"]]
    assert "V" in written["sources"] and written["shapes"]["llama3_1_8b"] == [8.03, 32, 4096]
    assert readme.read_text().startswith("before") and readme.read_text().count("8,000") == 1


@pytest.mark.slow
def test_gpu_composes_every_line(tmp_path):
    """7B and 13B on the meta device; the useful FLOPs of a 7B are near 6 · weights · tokens."""
    spec = importlib.util.spec_from_file_location("gpu_benchmark", BENCHMARKS / "gpu" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    gpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu)
    for context in (2048, 16384):
        gpu.write_conversations(tmp_path / f"{context}.jsonl", context)
    for model, context, attention in itertools.product(
        ("llama_7b", "llama_13b"), (2048, 16384), ("varlen", "flash", "flex")
    ):
        line = gpu.settings(model, context, "fsdp", attention, tmp_path, 8)
        flops, tokens = gpu.useful_flops(line, 8)
        per_weight = flops / tokens / (6.74e9 if model == "llama_7b" else 13.0e9)
        assert 5.7 < per_weight < 8, "6 without attention over 2K; more with 16K"


def test_the_training_table_is_that_of_its_figures():
    """And every peer has computed the steps and losses of ours."""
    runs = train_report.load()
    train_report.check(runs)
    assert tables.of_readme((train_report.HERE / "README.md").read_text()) == train_report.table(runs)


@pytest.mark.slow
def test_training_beside_peers_in_miniature(tmp_path):
    """The job itself and the HF Trainer, step by step in turn; TRL only where it is installed."""
    results, figures = (BENCHMARKS / "train" / "results.json").read_bytes(), tmp_path / "results.json"
    printed = benchmark("train/run.py", "--tiny", "--output", str(figures))
    assert ("TRL is left out" in printed) == (importlib.util.find_spec("trl") is None)
    runs = train_report.load(figures)
    assert {run["system"] for run in runs} >= {"ours", "hf"} and all(len(run["losses"]) == 7 for run in runs)
    assert train_report.table(runs) in printed
    assert (BENCHMARKS / "train" / "results.json").read_bytes() == results


@pytest.mark.parametrize("dtype", [head.FLOAT32, head.BFLOAT16])
def test_every_head_finds_the_same_loss(dtype):
    """Within what the format of the products allows."""
    lines = head.compare(head.TINY[0], dtype, "cpu", rounds=1)
    assert len(lines) >= 2 + (dtype == head.BFLOAT16)
    assert all(float(line[-1]) < (1e-6 if dtype == head.FLOAT32 else 1e-2) for line in lines)


def test_a_peer_that_computes_something_else_is_no_peer():
    runs = train_report.load()
    peer = next(run for run in runs if run["system"] == "hf")
    peer["losses"] = [loss * 1.01 for loss in peer["losses"]]
    with pytest.raises(ValueError, match="hf/1"):
        train_report.check(runs)
