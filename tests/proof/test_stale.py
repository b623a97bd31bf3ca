"""A result is found again only where everything that it was computed from is the same to the byte."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers.encoders import QUICKSTART
from tests.helpers.runs import run_here
from vicuna_lit import file_hashes
from vicuna_lit.config.compose import load
from vicuna_lit.estimate.lengths import sizes_of
from vicuna_lit.evaluate.run import evaluate_models
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.run import fit

SMALL = (
    "wandb.mode=disabled",
    "samples.questions=[]",
    "trainer.max_steps=2",
    "conversations_per_step=2",
    "context_length=128",
    "model.architecture={hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2, "
    "num_key_value_heads: 2}",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model folder."""
    folder = tmp_path_factory.mktemp("base") / "run"
    fit(load("train", "experiment=quickstart", f"run.dir={folder}", *SMALL))
    return folder / "hf"


def conversations(path: Path, count: int = 12) -> Path:
    path.write_text("\n".join((QUICKSTART / "conversations.jsonl").read_text().splitlines()[:count]) + "\n")
    return path


def settings(tmp_path: Path, base: Path) -> list[str]:
    shutil.copytree(base, tmp_path / "base", dirs_exist_ok=True)
    data = conversations(tmp_path / "data.jsonl")
    validation = conversations(tmp_path / "validation.jsonl", 2)
    return [
        "experiment=quickstart", "model=local", f"model.path={tmp_path / 'base'}", f"data={data}",
        f"data.validation_path={validation}", *SMALL[:-1], f"run.dir={tmp_path / 'run'}",
    ]  # fmt: skip


def add_a_line(file: Path) -> None:
    file.write_text(file.read_text() + file.read_text().splitlines()[0].replace("Vicuna", "Alpaca") + "\n")


def change_a_weight(file: Path) -> None:
    """One number; the size stays, and the time is set back."""
    stat = file.stat()
    weights = load_file(file)
    name = sorted(weights)[0]
    weights[name] = np.nextafter(weights[name], 1)
    save_file(weights, file, {"format": "pt"})
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def change_the_template(file: Path) -> None:
    file.write_text("{# another #}" + file.read_text())


CHANGES = {
    "data.jsonl": add_a_line,
    "validation.jsonl": add_a_line,
    "base/model.safetensors": change_a_weight,
    "base/chat_template.jinja": change_the_template,
}


QUICK = ("data.jsonl", "base/model.safetensors")
EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in CHANGES]


@pytest.mark.parametrize("name", EACH)
def test_a_finished_run_is_not_found_again_where_a_file_that_it_read_has_changed(name, tmp_path, base):
    given = settings(tmp_path, base)
    run_here(given)
    assert fit(load("train", *given)).status == "finished"
    for file in tmp_path.rglob("*"):
        os.utime(file)  # touched, and the same
    assert fit(load("train", *given)).status == "finished"
    CHANGES[name](tmp_path / name)
    with pytest.raises(RunError, match=rf"(?s)changed since it began; run\.dir=<another.*{name} is not the same file"):
        fit(load("train", *given))


@pytest.mark.parametrize("name", EACH)
def test_a_run_does_not_go_on_where_a_file_that_it_read_has_changed(name, tmp_path, base):
    given = [*settings(tmp_path, base), "checkpoint.every_steps=1"]
    run_here(given, stop_after=1)
    CHANGES[name](tmp_path / name)
    with pytest.raises(RunError, match=rf"(?s)changed since it began; .*resume=never.*{name} is not the same file"):
        fit(load("train", *given))
    assert fit(load("train", *given, "resume=never")).status == "finished"


def test_a_file_that_comes_into_the_folder_of_the_data_is_named(tmp_path, base):
    (tmp_path / "folder").mkdir()
    conversations(tmp_path / "folder" / "a.jsonl")
    given = [*settings(tmp_path, base), f"data.path={tmp_path / 'folder'}"]
    run_here(given)
    conversations(tmp_path / "folder" / "b.jsonl")
    with pytest.raises(RunError, match=r"folder/b\.jsonl is new"):
        fit(load("train", *given))


def test_a_run_of_a_version_that_kept_no_hashes_is_found_again(tmp_path, base):
    given = settings(tmp_path, base)
    run_here(given)
    about = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps({"wandb_id": about["wandb_id"]}))
    result = json.loads((tmp_path / "run/result.json").read_text())
    (tmp_path / "run/result.json").write_text(json.dumps({k: v for k, v in result.items() if k != "identity"}))
    add_a_line(tmp_path / "data.jsonl")
    assert fit(load("train", *given)).status == "finished"


def questions(path: Path) -> Path:
    row = {"question_id": "1", "category": "who", "turns": ["Who are you?"], "reference": ["a small model"]}
    path.write_text(json.dumps(row) + "\n")
    return path


def test_answers_and_reviews_stand_for_the_models_answers_and_questions_that_were_there(tmp_path, base):
    """Each of them changed in turn; put back, the evaluation is found again."""
    shutil.copytree(base, tmp_path / "model")
    answers = tmp_path / "other.jsonl"
    answers.write_text(json.dumps({"question_id": "1", "turns": ["a small thing"]}) + "\n")
    asked = questions(tmp_path / "questions.jsonl")
    given = [
        f"models=[{tmp_path / 'model'},{answers}]", "judge=rule", f"questions={asked}", f"run.dir={tmp_path / 'run'}",
        "answers.max_new_tokens=4", "wandb.mode=disabled",
    ]  # fmt: skip
    first = evaluate_models(load("evaluate", *given))
    for file, change in {
        tmp_path / "model/model.safetensors": change_a_weight,
        tmp_path / "model/chat_template.jinja": change_the_template,
        answers: lambda file: file.write_text(file.read_text().replace("thing", "model")),
        asked: lambda file: file.write_text(file.read_text().replace("small", "large")),
    }.items():
        before = file.read_bytes()
        change(file)
        with pytest.raises(RunError, match=rf"(?s)run\.dir=<another folder> asks.*{file.name} is not the same file"):
            evaluate_models(load("evaluate", *given))
        file.write_bytes(before)
    assert evaluate_models(load("evaluate", *given)).table == first.table


def test_lengths_are_counted_anew_where_data_or_tokenizer_have_changed(tmp_path, base, monkeypatch):
    """Same size, same time, another text."""
    monkeypatch.setenv("VICUNA_LIT_CACHE", str(tmp_path / "cache"))
    data = conversations(tmp_path / "data.jsonl")
    given = ["experiment=quickstart", f"data={data}", "gpu=cpu"]
    before = sizes_of(load("estimate", *given)).sizes
    stat = data.stat()
    data.write_text(data.read_text().replace(" you ", " 9 8 "))
    os.utime(data, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert data.stat().st_size == stat.st_size
    after = sizes_of(load("estimate", *given)).sizes
    assert after.lengths.sum() > before.lengths.sum()


def test_a_large_file_is_read_once_and_again_when_anything_of_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("VICUNA_LIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hashes, "SMALL", 4)
    monkeypatch.setattr(file_hashes, "SETTLED", 0.0)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"first one")
    digest, read = file_hashes.hashlib.file_digest, []
    monkeypatch.setattr(file_hashes.hashlib, "file_digest", lambda *a: read.append(1) or digest(*a))
    first = file_hashes.sha256_of(file)
    assert file_hashes.sha256_of(file) == first
    assert len(read) == 1
    stat = file.stat()
    file.write_bytes(b"other one")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_hashes.sha256_of(file) != first
    assert len(read) == 2
