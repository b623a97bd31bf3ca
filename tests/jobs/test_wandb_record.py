"""What W&B holds of a train run and an evaluation, read back from their offline records."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import wandb
from wandb_workspaces.workspaces import Workspace

from tests.helpers import commands
from tests.helpers.runs import COMMON, run_here
from vicuna_lit import wandb_workspace as dashboard
from vicuna_lit.config.base import RunConfig
from vicuna_lit.config.compose import load
from vicuna_lit.evaluate import tracking as board
from vicuna_lit.run_folder import flatten
from vicuna_lit.tracking.about import COMMAND, about_run, nested
from vicuna_lit.tracking.about import command as command_of_a_run
from vicuna_lit.tracking.session import Session
from vicuna_lit.tracking.wandb_file import history_rows, messages
from vicuna_lit.train import distributed
from vicuna_lit.train import run_record as record_of_a_run
from vicuna_lit.train.tracking.history_logger import HistoryLogger
from vicuna_lit.train.validation_loss import BY_SOURCE

SECRETS = {
    "WANDB_API_KEY": "5ec2e70a" * 5,
    "OPENAI_API_KEY": "sk-sentinel-of-openai",
    "HF_TOKEN": "hf_sentinelOfHuggingFace",
}
SETTINGS = (
    *COMMON, "trainer.max_steps=4", "validation.every_steps=2", "checkpoint.every_steps=2", "trainer.peak_tflops=0.1",
    "samples.questions=[[Who are you?]]", "samples.every=2", "samples.max_new_tokens=4", "wandb.mode=offline",
    "wandb.group=the_sweep", "wandb.tags=[a,b]",
)  # fmt: skip
EVERY_STEP = {
    "trainer/global_step", "train/loss", "train/grad_norm", "train/lr", "train/epoch", "train/supervised_tokens",
    "speed/supervised_tokens_per_second", "speed/tokens_per_second", "speed/model_tflops_per_second", "speed/mfu",
    "memory/step_peak_gib", "data/fill", "data/padding_tokens", "time/step_seconds", "time/data_seconds",
}  # fmt: skip
VALIDATION = {"val/loss", "val/loss_by_turn/1", "val/loss_by_position/0-127"}


def command(job: str, *overrides: str) -> None:
    environment = os.environ | SECRETS | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    done = commands.run(f"vicuna_lit.{job}", *overrides, env=environment)
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
    quick = ("max_questions=8", "answers.max_new_tokens=4", "bootstrap.samples=50")
    command("evaluate", f"models=[{models}]", "judge=rule", "wandb.mode=offline", f"run.dir={folder}", *quick)
    return folder


def record(folder: Path) -> Path:
    """The run's own; a later one, of what an evaluation says about it, is `evaluated.json`'s."""
    mark = folder / "wandb" / "evaluated.json"
    later = json.loads(mark.read_text()) if mark.exists() else None
    (file,) = (f for f in folder.glob("wandb/offline-run-*/*.wandb") if f.parent.name != later)
    return file


def inspect(place: Path, *options: str) -> str:
    (file,) = place.glob("*.wandb")
    return shown_of(place, file.stat().st_size, *options)


@cache
def shown_of(place: Path, size: int, *options: str) -> str:
    """A process of a second, once for a record of this size."""
    shown = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(place)]
    done = subprocess.run(shown, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def summary_of(folder: Path) -> Any:
    """`config`, `summary`, … as W&B would show them."""
    return summary_at(record(folder).parent)


def summary_at(place: Path) -> Any:
    """The same of one record."""
    return json.loads(inspect(place, "--summary"))


def artifacts_of(folder: Path) -> dict[str, list[Any]]:
    """The logged artifacts by type, without those of tables."""
    found = defaultdict(list)
    for line in filter(None, inspect(record(folder).parent).splitlines()):
        if (artifact := json.loads(line).get("artifact")) and artifact["type"] != "run_table":
            found[artifact["type"]].append(artifact | {"metadata": json.loads(artifact["metadata"])})
    return found


def inputs_of(folder: Path) -> list[str]:
    """The artifacts that a synced record makes the run's inputs; `leet` does not show it."""
    found = []
    for one in messages(record(folder)):
        if one.HasField("artifact") and one.artifact.use_after_commit:
            found.append(one.artifact.name)
    return found


def keys(folder: Path) -> set[str]:
    """Of the history; those of tables and pages without what W&B puts behind them."""
    return {re.sub(r"\._type$", "", key) for _, row in history_rows(record(folder)) for key in row}


@pytest.mark.promise(
    "W&B holds every setting as a column, the history, tables and lineage; every panel shows what is logged"
)
def test_every_setting_is_a_column(trained, evaluated):
    for folder in (trained, evaluated):
        config = flatten(summary_of(folder)["config"])
        assert not {k: v for k, v in config.items() if not isinstance(v, str | int | float | bool | None)}
        assert not [key for key in config if "" in key.split(".")]
    config = summary_of(trained)["config"]
    settings = json.loads((trained / "config.json").read_text())
    columns = flatten(config)
    for key, value in flatten(settings).items():
        if not isinstance(value, list | dict):
            assert columns[key] == value, key
    assert json.loads(config["optimizer"]["betas"]) == settings["optimizer"]["betas"]
    assert config["wandb"]["group"] == "the_sweep"
    assert config["data_statistics"]["train"]["examples"] > 0
    data = Path(settings["data"]["path"])
    assert config["data_sha256"][data.name.replace(".", "_")] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert config["git_commit"] is None or len(config["git_commit"]) == 40
    config = summary_of(evaluated)["config"]
    assert config["models"]["1"]["name"] == "other"
    assert config["judge"]["kind"] == "rule"


def test_a_run_says_what_it_is(trained):
    config = summary_of(trained)["config"]
    choices = {"model": "tiny", "strategy": "single", "experiment": "quickstart", "data": "files"}
    assert choices.items() <= config["run"]["choices"].items()
    assert config["parameters"]["total"] == config["parameters"]["trained"] > 10_000
    assert (config["world_size"], config["nodes"]) == (1, 1)
    assert config["device"] == ("cpu" if not torch.cuda.is_available() else torch.cuda.get_device_name())
    assert config["setting"] == "quickstart"
    assert json.loads(config["overrides"]) == [*SETTINGS, f"run.dir={trained}"]


def test_the_columns_of_a_job_of_a_sweep():
    values = {"a": {"b.c": (1, 2), "d": {}}, "e": [{"f": 1}, {"f": [3]}], "g": [], "h": None}
    assert nested(values) == {"a": {"b_c": "[1, 2]"}, "e": {"0": {"f": 1}, "1": {"f": "[3]"}}, "g": "[]", "h": None}
    swept = {"optimizer.lr": "1e-3", "seed": "2", "packing": "false", "strategy": "ddp", "system_prompt": "nan"}
    about = about_run(RunConfig(name="x", dir="y", swept=swept, choices={}))
    numbers = {"optimizer": {"lr": 0.001}, "seed": 2, "packing": False, "strategy": "ddp", "system_prompt": "nan"}
    assert about["swept"] == numbers
    assert about["setting"] == "optimizer.lr=1e-3,packing=false,strategy=ddp,system_prompt=nan"
    alone = about_run(RunConfig(name="x", dir="y", swept={"seed": "2"}, choices={}))
    assert alone["setting"] == "x"
    over_seeds = [about_run(RunConfig(name=f"seed={i}", dir="y", swept={"seed": i}, choices={}), "s") for i in "01"]
    assert [one["setting"] for one in over_seeds] == ["s", "s"], "seeds of one setting are one line with a band"


@pytest.mark.promise(
    "W&B holds every setting as a column, the history, tables and lineage; every panel shows what is logged"
)
def test_the_history(trained):
    rows = dict(history_rows(record(trained)))
    assert list(rows) == [0, 1, 2, 3, 4]
    for step in (1, 2, 3, 4):
        assert set(rows[step]) >= EVERY_STEP, EVERY_STEP - set(rows[step])
        numbers = {name for name in rows[step] if "." not in name}  # else of a table or a chart
        for name in numbers - {"_step", "_runtime", "_timestamp", *HistoryLogger.WRITTEN}:
            taken = HistoryLogger.TAKEN.match(name) or HistoryLogger.OF_VALIDATION.match(name)
            assert taken, f"{name}: a figure of an own module would take its place"
        figures = rows[step]
        assert figures["speed/mfu"] == pytest.approx(figures["speed/model_tflops_per_second"] / 0.1)
    assert all(set(rows[step]) >= VALIDATION for step in (0, 2, 4))
    assert any("time/save_seconds" in row for row in rows.values())
    assert any("time/validation_seconds" in row for row in rows.values())
    for step, table, count in ((0, "data/masks", 8), (2, "samples/changes", 1), (4, "samples/replies", 1)):
        assert rows[step][f"{table}.nrows"] == count
    assert rows[4]["time/lost.nrows"] == 7


def test_the_summary(trained):
    summary = summary_of(trained)["summary"]
    result = json.loads((trained / "result.json").read_text())
    assert summary["status"] == "finished"
    for key in ("val_loss", "val_loss_before", "supervised_tokens", "supervised_tokens_per_second", "mfu",
                "model_tflops_per_second", "peak_memory_bytes", "step_seconds", "saves_failed"):  # fmt: skip
        assert summary[key] == pytest.approx(result[key]), key
    assert result["mfu"] == pytest.approx(result["model_tflops_per_second"] / 0.1)
    assert set(dashboard.COLUMNS) - {"eval/win_rate"} <= set(summary)


@pytest.mark.promise(
    "W&B holds every setting as a column, the history, tables and lineage; every panel shows what is logged"
)
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
    assert about["val_loss"] == result["val_loss"]
    assert about["parameters"] == result["model_bytes"] // 4
    assert {"base_model", "git_commit"} <= set(about)
    config = summary_of(evaluated)["config"]
    assert config["lineage"]["models"] == {"one": identity["wandb_id"], "other": identity["wandb_id"]}
    assert (config["model"], config["opponent"]) == ("other", "one")
    (evaluation,) = artifacts_of(evaluated)["evaluation"]
    assert evaluation["metadata"]["models"] == {"one": identity["wandb_id"], "other": identity["wandb_id"]}
    assert {entry["path"] for entry in evaluation["manifest"]["contents"]} == set(board.FILES)


def test_an_evaluation_has_the_same_names_as_any_other_with_intervals(evaluated):
    assert keys(evaluated) >= {"eval/table", "eval/answers", "eval/reviews", "eval/report"}
    summary = summary_of(evaluated)["summary"]
    assert summary["eval/win_rate"] == 0.5
    assert 0 <= summary["eval/win_rate_low"] < 0.5 < summary["eval/win_rate_high"] <= 1
    rows = json.loads((evaluated / "table.json").read_text())
    (row,) = [r for r in rows if r["category"] == "all" and r["turn"] is None]
    assert [summary["eval/win_rate_low"], summary["eval/win_rate_high"]] == row["win_rate_interval"]


def test_the_win_rate_goes_to_the_run_that_made_the_model_and_takes_nothing_from_it(trained, evaluated):
    identity = json.loads((trained / "run.json").read_text())["wandb_id"]
    records = sorted(trained.glob("wandb/offline-run-*/*.wandb"))
    assert [file.name for file in records] == [f"run-{identity}.wandb"] * 2
    first, whole = summary_of(trained), summary_at(records[1].parent)
    assert whole["summary"]["eval/win_rate"] == 0.5
    assert whole["summary"]["eval/opponent"] == "one"
    assert whole["summary"]["val_loss"] == first["summary"]["val_loss"]
    assert whole["config"] == first["config"]
    assert (whole["name"], whole["project"], whole["tags"]) == (first["name"], first["project"], first["tags"])
    assert not list(history_rows(records[1]))


@pytest.mark.slow
def test_the_same_evaluation_again_is_the_same_record(trained, evaluated):
    """And where it is to be another one it takes its place."""
    before = record(evaluated)
    identity = json.loads((evaluated / "run.json").read_text())["wandb_id"]
    models = ",".join(f"{{name: {name}, path: {trained}/hf}}" for name in ("one", "other"))
    quick = ("max_questions=8", "answers.max_new_tokens=4", "wandb.mode=offline")
    again = (f"models=[{models}]", "judge=rule", f"run.dir={evaluated}", *quick)
    command("evaluate", *again, "bootstrap.samples=50")
    assert record(evaluated) == before
    command("evaluate", *again, "bootstrap.samples=50", "wandb.tags=[again]")
    assert record(evaluated) != before
    assert json.loads((evaluated / "run.json").read_text())["wandb_id"] == identity
    assert len(list(trained.glob("wandb/offline-run-*/*.wandb"))) == 2


@pytest.mark.promise(
    "W&B holds every setting as a column, the history, tables and lineage; every panel shows what is logged"
)
def test_every_panel_shows_what_runs_log(trained, evaluated, capsys):
    dashboard.main(["entity=e", "project=p", "output=json"])
    spec = json.loads(capsys.readouterr().out)["section"]
    assert spec["runSets"][0]["grouping"] == [{"section": "config", "name": "setting.value"}]
    of_a_mixture = {f"{BY_SOURCE}chat"}  # logged: tests/proof/test_mixtures.py
    logged, panels = keys(trained) | keys(evaluated) | of_a_mixture, 0
    train, evaluation = summary_of(trained), summary_of(evaluated)["summary"]
    for section in spec["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            panels += 1
            shows_what_is_logged(panel, section["name"], logged, train, evaluation)
    assert panels > 30
    assert spec["settings"]["shouldAutoGeneratePanels"]


def shows_what_is_logged(panel: Any, section: str, logged: set[str], train: Any, evaluation: Any) -> None:
    config, kind = panel["config"], panel["viewType"]
    known = logged | set(train["summary"]) | set(evaluation)
    match kind:
        case "Run History Line Plot" if section == "System":
            assert all(name.startswith("system.") for name in config["metrics"])
        case "Run History Line Plot":
            assert config["xAxis"] == "trainer/global_step"
            if pattern := config.get("metricRegex"):
                assert any(re.search(pattern, key) for key in logged), pattern
            else:
                assert config["metrics"]
                assert set(config["metrics"]) <= logged, config["metrics"]
        case "Media Browser":
            assert set(config["mediaKeys"]) <= logged
        case "Bar Chart":
            (key,) = config["metrics"]
            assert key.removeprefix("summary_metrics.") in known, key
        case "Parallel Coordinates Plot":
            columns = {column["accessor"] for column in config["columns"]}
            names = {f"config:{name}" for name in flatten(train["config"])} | {f"summary:{name}" for name in known}
            assert {column.replace(".value", "", 1) for column in columns} <= names, columns - names
        case "Parameter Importance":
            assert config["targetKey"] in known
        case "Vega2":
            table = json.dumps(config["userQuery"])
            assert any(f'"{key}"' in table for key in logged), table
        case "Run Comparer":
            pass
        case _:
            assert any(f'"{key}"' in json.dumps(config) for key in logged), config


def test_the_machines_use_stands_under_the_names_of_the_panels(trained):
    """As far as this machine has it: the record has a sample each 15 s, and one at the end."""
    named = {item.key for message in messages(record(trained)) for item in message.stats.item}
    assert {f"system.{name}" for name in named} & {name for names in dashboard.SYSTEM.values() for name in names}


class Project:
    """What `wandb.Api` says of a project."""

    def __init__(self, runs: int):
        self.found = runs

    def runs(self, path: str, per_page: int) -> list[str]:
        assert path == "e/p"
        return ["run"] * self.found


@pytest.mark.parametrize(("runs", "saved"), [(0, 1), (1, 1), (2, 0), (30, 0)])
def test_the_first_online_run_of_a_project_saves_the_workspace(runs, saved, monkeypatch):
    views = []
    monkeypatch.setattr(wandb, "Api", lambda timeout: Project(runs))

    monkeypatch.setattr(Workspace, "save", lambda view: views.append(view))
    monkeypatch.setattr(Workspace, "url", "https://w")
    said = dashboard.save_first(SimpleNamespace(entity="e", project="p"))
    assert len(views) == saved
    assert (said is not None) == bool(saved)


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
    done = commands.run("vicuna_lit.wandb_workspace", *arguments, env=environment)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.promise("No secret is in any byte that a run writes")
def test_no_secret_is_written(trained, evaluated):
    files = [file for folder in (trained, evaluated) for file in folder.rglob("*") if file.is_file()]
    assert any(file.suffix == ".wandb" for file in files)
    for file in files:
        content = file.read_bytes()
        for name, secret in SECRETS.items():
            assert secret.encode() not in content, (file, name)


def test_the_command_is_what_was_typed_in_the_processes_of_a_run_too(monkeypatch):
    """Theirs names a worker and a file that is gone later."""
    monkeypatch.delenv(COMMAND, raising=False)
    for words, said in (
        (
            ["python3.11", "/bin/vicuna-train", "-m", "seed=0,1", "run.dir=a b"],
            "/bin/vicuna-train -m seed=0,1 'run.dir=a b'",
        ),
        (["python3.11", "-m", "vicuna_lit.train", "seed=1"], "python -m vicuna_lit.train seed=1"),
    ):
        monkeypatch.setattr(sys, "orig_argv", words)
        inside = distributed._environment("x", 2, {})
        assert command_of_a_run() == inside[COMMAND] == said
        with monkeypatch.context() as worker:
            worker.setenv(COMMAND, inside[COMMAND])
            worker.setattr(sys, "orig_argv", ["python3.11", "-m", "vicuna_lit.cli.worker", "/tmp/gone/config.json"])
            assert command_of_a_run() == distributed._environment("x", 2, {})[COMMAND] == said


def test_the_memory_of_a_step_is_the_first_devices_and_says_so_and_the_summarys_is_of_all(tmp_path, monkeypatch, capfd):
    """No rank waits for another in each step to know it."""
    (title,) = (title for title, keys in dashboard.CURVES["Memory"].items() if keys == ["memory/step_peak_gib"])
    assert "on the first device" in title
    monkeypatch.setattr(record_of_a_run, "all_gather_object", lambda value: [value, 10**15])  # another rank's
    run_here([*SETTINGS, "trainer.max_steps=1", "samples.questions=[]", f"run.dir={tmp_path}/run"])
    assert summary_of(tmp_path / "run")["summary"]["peak_memory_bytes"] == 10**15
    (row,) = [row for step, row in history_rows(record(tmp_path / "run")) if step == 1]
    assert 0 < row["memory/step_peak_gib"] * 2**30 < 10**12
    assert "checksum" not in "".join(capfd.readouterr()), "a line of W&B's for each folder"


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
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no room in the staging folder")

    monkeypatch.setattr(wandb.Artifact, "add_reference", refuse)
    run_here([*SETTINGS, "trainer.max_steps=1", "samples.questions=[]", f"run.dir={tmp_path}/run"])
    assert json.loads((tmp_path / "run/result.json").read_text())["status"] == "finished"
    said = capsys.readouterr().out
    for what in ("the data set", "the model"):
        assert f"W&B did not take {what} as an artifact: no room" in " ".join(said.split())
    assert json.loads((tmp_path / "run/result.json").read_text())["wandb_missed"] == 2


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


def test_online_the_models_are_inputs(trained, evaluated, tmp_path, capsys):
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
    board._log_lineage(Session(run, print, tmp_path / "data"), config, behind, evaluated)
    assert run.used == [run.known]
    assert run.logged == ["evaluation-e1"]
    said = capsys.readouterr().out
    assert "W&B did not take other as its input (us/p/model-unsynced:latest): artifact not found" in said


@pytest.mark.slow
def test_without_wandb_it_is_not_imported(tmp_path):
    """It takes a second, and a training machine may not have it."""
    command = [
        "-c",
        "import sys; from vicuna_lit.cli.train import main\ntry: main()\nfinally: print('wandb' in sys.modules)",
    ]
    settings = [*SETTINGS, "wandb.mode=disabled", "trainer.max_steps=1", f"run.dir={tmp_path}/run"]
    done = subprocess.run([sys.executable, *command, *settings], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
