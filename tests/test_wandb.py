"""What W&B holds of a train run and an evaluation, read back from their offline records."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from tests.runs import COMMON, run_here
from vicuna_lit import dashboard
from vicuna_lit.compose import load
from vicuna_lit.evaluate import board
from vicuna_lit.folder import columns, flatten
from vicuna_lit.train import artifacts
from vicuna_lit.train.history import _records, history_rows

SECRETS = {
    "WANDB_API_KEY": "5ec2e70a" * 5,
    "OPENAI_API_KEY": "sk-sentinel-of-openai",
    "HF_TOKEN": "hf_sentinelOfHuggingFace",
}
SETTINGS = (
    *COMMON, "trainer.max_steps=4", "heldout.every_steps=2", "checkpoint.every_steps=2", "trainer.peak_tflops=0.1",
    "evaluate.questions=[[Who are you?]]", "evaluate.every=2", "evaluate.max_new_tokens=4", "wandb.mode=offline",
    "wandb.group=the_sweep", "wandb.tags=[a,b]",
)  # fmt: skip
EVERY_STEP = {
    "trainer/global_step", "train/loss", "train/grad_norm", "train/lr", "train/epoch", "train/supervised_tokens",
    "speed/supervised_tokens_per_second", "speed/tokens_per_second", "speed/model_tflops_per_second", "speed/mfu",
    "memory/step_peak_gib", "data/fill", "data/padding_tokens", "time/step_seconds", "time/data_seconds",
}  # fmt: skip
HELD_OUT = {"heldout/loss", "heldout/loss_by_turn/1", "heldout/loss_by_position/0-127"}


def command(job: str, *overrides: str) -> None:
    environment = os.environ | SECRETS | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    called = [sys.executable, "-m", f"vicuna_lit.{job}", *overrides]
    done = subprocess.run(called, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wandb") / "train"
    command("train", *SETTINGS, f"run.dir={folder}")
    return folder


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory) -> Path:
    """The model against itself, under two names."""
    folder = tmp_path_factory.mktemp("wandb") / "evaluation"
    models = ",".join(f"{{name: {name}, path: {trained}/hf}}" for name in ("one", "other"))
    quick = ("max_questions=1", "answers.max_new_tokens=4", "bootstrap.samples=50")
    command("evaluate", f"models=[{models}]", "judge=rule", "wandb.mode=offline", f"run.dir={folder}", *quick)
    return folder


def record(folder: Path) -> Path:
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    return file


def inspect(folder: Path, *options: str) -> str:
    shown = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(record(folder).parent)]
    done = subprocess.run(shown, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def summary_of(folder: Path) -> Any:
    """`config`, `summary`, … as W&B would show them."""
    return json.loads(inspect(folder, "--summary"))


def artifacts_of(folder: Path) -> dict[str, list[Any]]:
    """The logged artifacts by type, without those of tables."""
    found = defaultdict(list)
    for line in filter(None, inspect(folder).splitlines()):
        if (artifact := json.loads(line).get("artifact")) and artifact["type"] != "run_table":
            found[artifact["type"]].append(artifact | {"metadata": json.loads(artifact["metadata"])})
    return found


def inputs_of(folder: Path) -> list[str]:
    """The artifacts that a synced record makes the run's inputs; `leet` does not show it."""
    found = []
    for data in _records(record(folder).read_bytes()):
        one: Any = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue]
        one.ParseFromString(data)
        if one.HasField("artifact") and one.artifact.use_after_commit:
            found.append(one.artifact.name)
    return found


def keys(folder: Path) -> set[str]:
    """Of the history; those of tables and pages without what W&B puts behind them."""
    return {re.sub(r"\._type$", "", key) for _, row in history_rows(record(folder)) for key in row}


def test_every_setting_is_a_column(trained, evaluated):
    for folder in (trained, evaluated):
        config = summary_of(folder)["config"]
        assert not {k: v for k, v in config.items() if not isinstance(v, str | int | float | bool | None)}
    config = summary_of(trained)["config"]
    settings = flatten(json.loads((trained / "config.json").read_text()))
    assert {k for k, v in settings.items() if v != {}} <= set(config)
    for key, value in settings.items():
        if not isinstance(value, list | dict):
            assert config[key] == value, key
    assert json.loads(config["optimizer.betas"]) == settings["optimizer.betas"]
    assert config["wandb.group"] == "the_sweep"
    assert config["data_statistics.train.examples"] > 0
    data = Path(settings["data.path"])
    assert config[f"data_sha256.{data.name}"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert config["git_commit"] is None or len(config["git_commit"]) == 40
    config = summary_of(evaluated)["config"]
    assert config["models.1.name"] == "other"
    assert config["judge.kind"] == "rule"


def test_columns_of_lists_and_dicts():
    values = {"a": {"b": (1, 2), "c": {}}, "d": [{"e": 1}, {"e": [3]}], "f": [], "g": None}
    assert columns(values) == {"a.b": "[1, 2]", "d.0.e": 1, "d.1.e": "[3]", "f": "[]", "g": None}


def test_the_history(trained):
    rows = dict(history_rows(record(trained)))
    assert list(rows) == [0, 1, 2, 3, 4]
    for step in (1, 2, 3, 4):
        assert set(rows[step]) >= EVERY_STEP, EVERY_STEP - set(rows[step])
        figures = rows[step]
        assert figures["speed/mfu"] == pytest.approx(figures["speed/model_tflops_per_second"] / 0.1)
    assert all(set(rows[step]) >= HELD_OUT for step in (0, 2, 4))
    assert any("time/save_seconds" in row for row in rows.values())
    assert any("time/exam_seconds" in row for row in rows.values())
    for step, table, count in ((0, "data/masks", 8), (2, "samples/changes", 1), (4, "samples/replies", 1)):
        assert rows[step][f"{table}.nrows"] == count
    assert rows[4]["time/lost.nrows"] == 7


def test_the_summary(trained):
    summary = summary_of(trained)["summary"]
    result = json.loads((trained / "result.json").read_text())
    assert summary["status"] == "finished"
    for key in ("heldout_loss", "heldout_loss_before", "supervised_tokens", "supervised_tokens_per_second", "mfu",
                "model_tflops_per_second", "peak_memory_bytes", "step_seconds", "saves_failed"):  # fmt: skip
        assert summary[key] == pytest.approx(result[key]), key
    assert result["mfu"] == pytest.approx(result["model_tflops_per_second"] / 0.1)
    assert set(dashboard.COLUMNS) <= set(summary)


def test_data_run_model_evaluation(trained, evaluated):
    """Each names the one before it."""
    identity = json.loads((trained / "run.json").read_text())
    found = artifacts_of(trained)
    assert inputs_of(trained) == [found["dataset"][0]["name"]]
    (data,), (model,) = found["dataset"], found["model"]
    file = Path(json.loads((trained / "config.json").read_text())["data"]["path"])
    (entry,) = data["manifest"]["contents"]
    assert (entry["path"], entry["ref"]) == (file.name, file.absolute().as_uri())
    assert data["metadata"]["bytes"] == {file.name: file.stat().st_size}
    assert data["metadata"]["fingerprint"] == identity["fingerprint"]
    assert model["name"] == f"model-{identity['wandb_id']}"
    entries = {entry["path"]: entry["ref"] for entry in model["manifest"]["contents"]}
    assert entries == {p.name: p.absolute().as_uri() for p in (trained / "hf").iterdir()}
    about = model["metadata"]
    result = json.loads((trained / "result.json").read_text())
    assert about["run_id"] == identity["wandb_id"]
    assert about["data_sha256"] == data["metadata"]["sha256"]
    assert about["data_fingerprint"] == identity["fingerprint"]
    assert about["heldout_loss"] == result["heldout_loss"]
    assert about["parameters"] == result["model_bytes"] // 4
    assert {"base_model", "git_commit"} <= set(about)
    config = summary_of(evaluated)["config"]
    assert config["lineage/models.one"] == config["lineage/models.other"] == identity["wandb_id"]
    (evaluation,) = artifacts_of(evaluated)["evaluation"]
    assert evaluation["metadata"]["models"] == {"one": identity["wandb_id"], "other": identity["wandb_id"]}
    assert {entry["path"] for entry in evaluation["manifest"]["contents"]} == set(board.FILES)


def test_the_evaluation(evaluated):
    expected = {"evaluation/table", "evaluation/answers", "evaluation/reviews", "evaluation/report"}
    assert keys(evaluated) >= expected | {"evaluation/other vs one/win_rate"}
    assert summary_of(evaluated)["summary"]["evaluation/other vs one/win_rate"] == 0.5


def test_every_panel_shows_what_runs_log(trained, evaluated, capsys):
    dashboard.main(["entity=e", "project=p", "output=json"])
    spec = json.loads(capsys.readouterr().out)["section"]
    assert spec["runSets"][0]["grouping"] == [{"section": "run", "name": "group"}]
    logged, panels = keys(trained) | keys(evaluated), 0
    for section in spec["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            panels += 1
            config, kind = panel["config"], panel["viewType"]
            if kind == "Run History Line Plot":
                assert config["xAxis"] == ("_step" if section["name"] == "Evaluation" else "trainer/global_step")
                if pattern := config.get("metricRegex"):
                    assert any(re.search(pattern, key) for key in logged), pattern
                else:
                    assert config["metrics"]
                    assert set(config["metrics"]) <= logged, config["metrics"]
            elif kind == "Media Browser":
                assert set(config["mediaKeys"]) <= logged
            else:
                assert any(f'"{key}"' in json.dumps(config) for key in logged), config
    assert panels > 20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["entity=e"], "must be given"),
        (["entity=e", "project=p", "output=pdf"], "output=pdf: no such choice"),
        (["entity=e", "project=p"], "`wandb login`"),
    ],
)
def test_the_command_says_what_is_missing(arguments, said, tmp_path):
    nobody = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    environment = {k: v for k, v in os.environ.items() if k != "WANDB_API_KEY"} | nobody
    called = [sys.executable, "-m", "vicuna_lit.dashboard", *arguments]
    done = subprocess.run(called, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_no_secret_is_written(trained, evaluated):
    files = [file for folder in (trained, evaluated) for file in folder.rglob("*") if file.is_file()]
    assert any(file.suffix == ".wandb" for file in files)
    for file in files:
        content = file.read_bytes()
        for name, secret in SECRETS.items():
            assert secret.encode() not in content, (file, name)


@pytest.mark.parametrize("how", ["upload", "none"])
def test_how_the_model_is_logged(how, tmp_path):
    run_here([*SETTINGS, "trainer.max_steps=1", f"wandb.log_model={how}", f"run.dir={tmp_path}/run"])
    found = artifacts_of(tmp_path / "run")
    assert len(found["dataset"]) == 1
    if how == "none":
        assert "model" not in found
        return
    (model,) = found["model"]
    places = {entry["path"]: Path(entry["local_path"]) for entry in model["manifest"]["contents"]}
    assert places["model.safetensors"] == tmp_path / "run/hf/model.safetensors"  # not a copy
    assert set(places) == {p.name for p in (tmp_path / "run/hf").iterdir()}


def test_a_run_outlives_what_wandb_refuses(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError("no room in the staging folder")

    monkeypatch.setattr(artifacts, "wandb", SimpleNamespace(Artifact=refuse))
    run_here([*SETTINGS, "trainer.max_steps=1", "evaluate.questions=[]", f"run.dir={tmp_path}/run"])
    assert json.loads((tmp_path / "run/result.json").read_text())["status"] == "finished"
    said = capsys.readouterr().out
    for what in ("the data set", "the model"):
        assert f"W&B did not take {what} as an artifact: no room" in " ".join(said.split())


class OnlineRun:
    """What a run online is asked for; it knows one model."""

    def __init__(self, known: str):
        self.settings, self.id, self.known = SimpleNamespace(mode="online"), "e1", known
        self.used: list[str] = []
        self.logged: list[str] = []

    def use_artifact(self, artifact: Any) -> None:
        if artifact != self.known:
            raise ValueError("artifact not found")
        self.used.append(artifact)

    def log_artifact(self, artifact: Any) -> None:
        self.logged.append(artifact.name)


def test_online_the_models_are_inputs(trained, evaluated, tmp_path, capsys, monkeypatch):
    """One that was never logged is said, and costs nothing."""
    identity = json.loads((trained / "run.json").read_text())["wandb_id"]
    (tmp_path / "other" / "hf").mkdir(parents=True)
    (tmp_path / "other" / "run.json").write_text('{"wandb_id": "unsynced"}')
    (tmp_path / "other" / "config.json").write_text('{"wandb": {"entity": "us", "project": "p"}}')
    (tmp_path / "downloaded" / "hf").mkdir(parents=True)
    (tmp_path / "downloaded" / "thesis.tex").touch()
    paths = [tmp_path / "other/hf", tmp_path / "downloaded/hf", evaluated / "answers"]
    config = load("evaluate", f"models=[{{name: a, path: {trained}/hf}},{','.join(map(str, paths))}]")
    run = OnlineRun(f"vicuna_lit/model-{identity}:latest")
    behind = board.runs_behind(config)
    assert {name: one for name, (one, _) in behind.items()} == {"a": identity, "other": "unsynced"}
    board._log_lineage(run, config, behind, evaluated)
    assert run.used == [run.known]
    assert run.logged == ["evaluation-e1"]
    assert "W&B does not know other (us/p/model-unsynced:latest): artifact not found" in capsys.readouterr().out
