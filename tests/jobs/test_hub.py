"""Names on the Hub: fetched once, pinned to a commit that is part of the run, refused in one line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import vicuna_lit as vl
from tests.helpers import commands
from tests.helpers.families import save_tiny
from tests.helpers.hub_server import TOKEN, Files, Hub, files_of
from tests.helpers.runs import QUICKSTART
from vicuna_lit.config.compose import load
from vicuna_lit.hub import HubName, hub_name
from vicuna_lit.paths import HUB, MissingPath, locate, model_name

ROOT = str(Path(__file__).parents[2])
RECORDS = (QUICKSTART / "conversations.jsonl").read_bytes().splitlines(keepends=True)
DATA = {
    "README.md": b"---\nlicense: cc-by-4.0\n---\n# Talk",
    "train.jsonl": b"".join(RECORDS[:40]),
    "dataset_infos.json": b"{}",
    "code.py": b"raise SystemExit",
}
SHA = "a" * 40
FAST = ("experiment=quickstart", "conversations_per_step=8", "trainer.max_steps=2", "samples.questions=[]",
        "wandb.mode=disabled", "data.validation_fraction=0.1")  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Files:
    """A tiny model as a repository has it, and things that are not fetched."""
    folder = tmp_path_factory.mktemp("model")
    overrides = [
        "run.name=base",
        f"run.dir={folder}/run",
        "trainer.max_steps=1",
        *(o for o in FAST if "max_steps" not in o),
    ]
    done = commands.run("vicuna_lit.train", *overrides)
    assert done.returncode == 0, done.stderr
    card = b"---\nlicense: llama2\n---\n# Tiny"
    extra = {
        "pytorch_model.bin": b"pickle",
        "modeling.py": b"raise SystemExit",
        "onnx/config.json": b"{}",
        "README.md": card,
    }
    return files_of(folder / "run/hf") | extra


@pytest.fixture
def hub(tmp_path: Path, monkeypatch) -> Iterator[Hub]:
    """A hub, and an empty cache for the commands."""
    with Hub() as server:
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HF_TOKEN_PATH"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))
        yield server


def command(job: str, *overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The last line of stdout says whether torch was imported."""
    code = f"import sys; sys.argv[0] = 'vicuna-{job}'\nfrom vicuna_lit.cli.{job} import main\n"
    code += "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    paths = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code, *overrides], capture_output=True, text=True, cwd=cwd,
        env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip


LINES = """
import json, os, sys
import vicuna_lit.cli.app, vicuna_lit.hub, huggingface_hub
from vicuna_lit.cli.{job} import main

for number, line in enumerate(json.loads(sys.argv[1])):
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    for stream in (1, 2):
        os.dup2(os.open(f"{{sys.argv[2]}}/{{number}}.{{stream}}", os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = ["vicuna-{job}", *line]
    try:
        main()
    finally:
        print("torch" in sys.modules)
    sys.exit()
"""


def lines_of(job: str, lines: Sequence[Sequence[str]], cwd: Path) -> list[subprocess.CompletedProcess[str]]:
    """`command` for several lines, each in a fork of one process that has imported what every command does."""
    said = cwd / "said"
    said.mkdir()
    codes = subprocess.run(
        [sys.executable, "-c", LINES.format(job=job), json.dumps(lines), str(said)],
        stdout=subprocess.PIPE, text=True, check=True, cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])},
    ).stdout.split()  # fmt: skip
    return [
        subprocess.CompletedProcess(line, int(code), *((said / f"{i}.{stream}").read_text() for stream in (1, 2)))
        for i, (line, code) in enumerate(zip(lines, codes, strict=True))
    ]


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal, which came before torch."""
    assert done.returncode == 2, done.stderr
    assert done.stdout.splitlines()[-1] == "False", "torch was imported"
    (line,) = done.stderr.strip().splitlines()
    assert TOKEN not in done.stderr + done.stdout
    return line


def test_what_is_a_name_on_the_hub_and_what_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here/model").mkdir(parents=True)
    of = {
        "Qwen/Qwen3-0.6B": HubName("model", "Qwen/Qwen3-0.6B", None, None),
        "org/name@v1.0": HubName("model", "org/name", "v1.0", None),
        "hf://here/model": HubName("model", "here/model", None, None),
        "hf://org/name@main": HubName("model", "org/name", "main", None),
        "here/model": None,
        "here/other": None,
        "org/data.jsonl": None,
        "org/model.gguf": None,
        "a/b/c": None,
        "/a/b": None,
        "./a": None,
        "~/a": None,
        "name": None,
        "package://org/name": None,
        "hf://name": None,
    }
    assert {path: hub_name(path, "model") for path in of} == of
    inner = hub_name("hf://datasets/org/name@main/data/train.jsonl", "dataset")
    assert inner == HubName("dataset", "org/name", "main", "data/train.jsonl")
    assert str(inner) == "hf://datasets/org/name@main/data/train.jsonl"


def test_a_name_without_a_commit_is_no_place(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingPath, match="@<commit>"):
        locate("hf://org/name")
    folder = tmp_path / "models--org--my-name" / "snapshots" / SHA
    folder.mkdir(parents=True)
    assert locate(f"{HUB}org/my-name@{SHA}") == folder
    assert model_name(folder) == "my-name"


@pytest.mark.slow
def test_python_takes_names_wherever_it_takes_paths(tmp_path, monkeypatch):
    """Each is asked for once a process, weights only where they are needed."""
    asked = []

    def answer(name: HubName, weights: bool) -> HubName:
        asked.append((name.repo, weights))
        return replace(name, revision=SHA)

    monkeypatch.setattr("vicuna_lit.hub._fetch", answer)
    monkeypatch.setattr("vicuna_lit.hub._fetched", {})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    save_tiny("llama", tmp_path / f"models--org--tiny/snapshots/{SHA}")
    data = tmp_path / f"datasets--org--talk/snapshots/{SHA}/train.jsonl"
    data.parent.mkdir(parents=True)
    data.write_bytes(DATA["train.jsonl"])
    monkeypatch.chdir(tmp_path)

    assert len(list(vl.read("org/talk"))) == 40
    assert vl.make_encoder("org/tiny", "vicuna_v1").tokenizer.eos_token
    trained = load("train", *FAST, "model=local", "model.path=org/tiny", "data=org/talk", "model.tokenizer=org/tiny")
    loaded = vl.ConversationDataModule(trained)
    loaded.setup()
    assert (loaded.plan.steps, asked) == (2, [("org/talk", True), ("org/tiny", False)])
    estimate = vl.estimate_run(load("estimate", *FAST, "model=local", "model.path=org/tiny", "data=org/talk", "gpu=l4"))
    assert estimate.fits
    module = vl.SupervisedModule.of(trained)
    assert module.lm.model.config.vocab_size
    chat = vl.Chat.load("org/tiny", template=trained.template)
    assert isinstance(chat.say("Hello", max_new_tokens=2), str)
    assert asked[2:] == [("org/tiny", True)]
    found = vl.evaluate_models(
        load("evaluate", "models=[org/tiny]", "judge=rule", "judge.mode=single", "max_questions=8",
             "wandb.mode=disabled", "answers.max_new_tokens=2", "template=vicuna_v1", "run.dir=evaluated")
    )  # fmt: skip
    assert (found.models, len(asked)) == (["tiny"], 3)
    made = vl.prepare_data(load("prepare", "raw=org/talk", "tokenizer=org/tiny", "template=vicuna_v1", "workers=1",
                                "run.dir=prepared"))  # fmt: skip
    assert made.manifest["config"]["raw"] == f"{HUB}datasets/org/talk@{SHA}"
    assert len(asked) == 3


@pytest.mark.slow
def test_a_run_on_names_is_pinned_and_goes_on_with_the_same_commits_when_the_hub_has_newer_ones(hub, model, tmp_path):
    sha, data = hub.commit("org/tiny", model), hub.commit("datasets/org/talk", DATA)
    names = ("model=local", "model.path=org/tiny", "data=org/talk", "run.dir=run")
    done = command("train", *FAST, *names, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["model"]["path"] == f"hf://org/tiny@{sha}"
    assert config["data"]["path"] == f"hf://datasets/org/talk@{data}"
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["status"] == "finished"
    fetched = {request.split(f"{sha}/")[1] for request in hub.requests if f"resolve/{sha}/" in request}
    assert "model.safetensors" in fetched
    assert not {"pytorch_model.bin", "modeling.py", "onnx/config.json"} & fetched
    assert not any("code.py" in request or "dataset_infos" in request for request in hub.requests)

    hub.commit("org/tiny", model | {"config.json": b"{}"})
    hub.commit("datasets/org/talk", {"train.jsonl": b"{}"})
    again = command("train", *FAST, *names, cwd=tmp_path)
    assert (again.returncode, "already holds" in again.stdout + again.stderr) == (0, True), again.stderr
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        offline = command("train", *FAST, *names, cwd=tmp_path)
    finally:
        del os.environ["HF_HUB_OFFLINE"]
    assert offline.returncode == 0, offline.stderr
    other = command("train", *FAST, *names, "resume=never", cwd=tmp_path)
    assert other.returncode == 2
    assert f"org/tiny@{sha}" in other.stderr


@pytest.mark.slow
def test_a_plan_and_an_estimate_fetch_no_weights(hub, model, tmp_path):
    hub.commit("org/tiny", model)
    names = ("model=local", "model.path=org/tiny", "data=quickstart")
    done = command("train", *FAST, *names, "dry_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = command("estimate", *FAST, *names, "gpu=a100-80gb", "output=json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.removesuffix("True\n"))
    assert not any("safetensors" in request for request in hub.requests)


@pytest.mark.slow
def test_a_sweep_over_names_resolves_each_once_and_says_which_job_has_none(hub, model, tmp_path):
    sha = hub.commit("org/tiny", model)
    hub.commit("datasets/org/talk", DATA)
    swept = ("-m", "model=local", "model.path=org/tiny,org/none", "data=org/talk", "hydra.sweep.dir=sweep")
    done = command("train", *swept, *FAST, cwd=tmp_path)
    assert done.returncode not in (0, 2), done.stderr
    assert "org/none: no such file or folder, and no model of this name" in done.stderr
    (config,) = (tmp_path / "sweep").glob("*/config.json")
    assert json.loads(config.read_text())["model"]["path"] == f"hf://org/tiny@{sha}"
    assert sum("datasets/org/talk/revision/main" in request for request in hub.requests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("job", ["train", "estimate"])
def test_what_cannot_be_fetched_is_one_line_before_torch(hub, tmp_path, job, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.commit("org/pickles", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    hub.commit("datasets/org/empty", {"README.md": b"x", "a.csv": b"x"})
    hub.commit("datasets/org/splits", {"data/train.jsonl": b"x", "data/test.jsonl": b"x"})
    said = {
        ("model.path=org/none",): "org/none: no such file or folder, and no model of this name on the Hub",
        ("model.path=org/pickles@v9",): "no revision v9",
        ("model.path=mine",): "mine: no such file or folder",
        ("model.path=hf_home/x",): "(hf://hf_home/x is the one on the Hub)",
        ("model.path=org/x.gguf",): "org/x.gguf: no such file or folder",
        ("model=tiny", "data=org/none"): "no data set of this name",
        ("model=tiny", "data=org/empty"): "a data set without a JSON, JSON lines or Parquet file",
        ("model=tiny", "data=org/splits"): "name the files: data=hf://datasets/org/splits@",
        ("model=tiny", "data=hf://datasets/org/splits/no.jsonl"): "there is no no.jsonl in it",
    }
    if job == "train":
        said[("model.path=org/pickles",)] = "no weights as safetensors"
    (tmp_path / "hf_home").mkdir()
    given = [
        (*(() if line[0] == "model=tiny" else ("model=local", "data=quickstart")), *line, "run.dir=run")
        for line in said
    ]
    for done, what in zip(lines_of(job, given, tmp_path), said.values(), strict=True):
        assert what in refused(done)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_private_and_gated_repositories_ask_for_a_login(hub, model, tmp_path):
    hub.commit("org/secret", model)
    hub.commit("org/gated", model)
    hub.private.add("org/secret")
    hub.gated.add("org/gated")
    line = refused(command("train", "model=local", "data=quickstart", "model.path=org/secret", cwd=tmp_path))
    assert "`hf auth login`" in line
    line = refused(command("train", "model=local", "data=quickstart", "model.path=org/gated", cwd=tmp_path))
    assert f"{hub.url}/org/gated" in line


def test_without_a_network_the_command_for_another_machine_is_said(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    line = refused(command("train", "model=local", "data=quickstart", "model.path=org/tiny@v1", cwd=tmp_path))
    assert "HF_HUB_OFFLINE=1 is set" in line
    assert "hf download org/tiny --revision v1;" in line
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    line = refused(command("train", "data=org/talk", cwd=tmp_path))
    assert "the Hub cannot be reached" in line
    assert "hf download org/talk --repo-type dataset;" in line


@pytest.mark.slow
def test_prepare_takes_a_data_set_of_the_hub(hub, tmp_path):
    sha = hub.commit("datasets/org/talk", DATA)
    done = command("prepare", "raw=org/talk", "run.dir=prepared", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "prepared/manifest.json").read_text())
    assert manifest["config"]["raw"] == f"hf://datasets/org/talk@{sha}"
    assert manifest["records_in"] >= 40
    hub.commit("datasets/org/talk", {"train.jsonl": b"{}"})
    again = command("prepare", "raw=org/talk", "run.dir=prepared", cwd=tmp_path)
    assert (again.returncode, "already prepared" in again.stdout) == (0, True), again.stderr


def test_a_config_without_names_is_left_alone_and_asks_nobody(hub):
    from vicuna_lit.hub import fetched

    config = load("train")
    assert fetched(config) is config
    assert hub.requests == []


@pytest.mark.slow
def test_a_model_is_pushed_with_a_card_private_and_a_failed_push_keeps_the_run(hub, model, tmp_path, monkeypatch):
    sha = hub.commit("org/tiny", model)
    hub.commit("datasets/org/talk", DATA)
    names = ("model=local", "model.path=org/tiny", "data=org/talk", "run.dir=run", "push=me/tuned")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.broken = True
    failed = command("train", *FAST, *names, cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == (
        "error: me/tuned: not pushed, the Hub answered 500; the run is whole. Again: "
        "hf upload me/tuned 'run/hf' --private"
    )
    assert json.loads((tmp_path / "run/result.json").read_text())["status"] == "finished"
    hub.broken = False
    done = command("train", *FAST, *names, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr + failed.stdout + failed.stderr
    assert not any(TOKEN in p.read_text(errors="ignore") for p in (tmp_path / "run").rglob("*") if p.is_file())
    (made,) = hub.made
    assert made.get("private") is True or made.get("visibility") == "private"
    pushed = hub.newest("me/tuned")
    assert pushed == files_of(tmp_path / "run/hf")
    _, head, card = pushed["README.md"].decode().split("---\n", 2)
    about = yaml.safe_load(head)
    assert (about["license"], about["base_model"], about["datasets"]) == ("llama2", "org/tiny", ["org/talk"])
    for part in (f"org/tiny/tree/{sha}", "licence: cc-by-4.0", "lr: 0.005", "| train | ", "validation loss"):
        assert part in card, card
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert f"| {result['val_loss_before']:.4f} | {result['val_loss']:.4f} |" in card
    assert str(tmp_path) not in card


@pytest.mark.slow
def test_a_push_that_cannot_be_is_refused_before_training(hub, tmp_path, monkeypatch):
    for extra, token, what in (
        ((), None, "nobody is logged in; `hf auth login`, or HF_TOKEN"),
        (("push=tuned",), TOKEN, "push=tuned: is no name on the Hub, organisation/name"),
    ):
        monkeypatch.setenv("HF_TOKEN", token or "")
        assert what in refused(command("train", "push=me/tuned", *extra, "run.dir=run", cwd=tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE=1 is set" in refused(command("train", "push=me/tuned", cwd=tmp_path))
    assert not (tmp_path / "run").exists()
