"""A run's folder that was moved or copied goes to W&B whole: its record is mended, and W&B's own command uploads it."""

import json
import os
import shutil
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import wandb

from tests.helpers.wandb_server import WandbServer, environment
from vicuna_lit.config.compose import load
from vicuna_lit.tracking import sync
from vicuna_lit.tracking.session import open_session
from vicuna_lit.tracking.wandb_file import BLOCK, chunks, log_of, messages


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A run with a table and a model, offline."""
    folder = tmp_path_factory.mktemp("first") / "run"
    config = load("train", "wandb.console=off", "wandb.mode=offline")
    session = open_session(config.wandb, config.run, folder, "abc", {}, print)
    assert session
    session.log({"loss": 1.0, "a/table": wandb.Table(columns=["text"], data=[["so far"]])}, step=1)
    (folder / "hf").mkdir()
    (folder / "hf/weights").write_bytes(b"123")
    model = wandb.Artifact("model-abc", "model")
    model.add_file(str(folder / "hf/weights"), policy="immutable")
    session.do("", lambda run: run.log_artifact(model))
    session.finish()
    wandb.teardown()
    return folder


@pytest.fixture
def moved(written, tmp_path) -> Path:
    """As if there were no other any more: every path that the record names is of a folder that is gone."""
    gone = written.parent / "gone"
    folder = Path(shutil.copytree(written, tmp_path / "elsewhere"))
    record(folder).write_bytes(log_of(record(folder).read_bytes()[:7], said_to_lie_in(record(folder), written, gone)))
    return folder


def said_to_lie_in(record: Path, before: Path, now: Path) -> list[bytes]:
    found = []
    for one in messages(record):
        for entry in one.artifact.manifest.contents if one.HasField("artifact") else ():
            entry.local_path = entry.local_path.replace(str(before), str(now))
        found.append(one.SerializeToString())
    return found


def record(folder: Path) -> Path:
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    return file


def files(folder: Path) -> list[Path]:
    found: list[Any] = [one.artifact for one in messages(record(folder)) if one.HasField("artifact")]
    return [Path(entry.local_path) for one in found for entry in one.manifest.contents]


def test_the_paths_of_a_moved_folder_are_mended_and_nothing_else(written, moved):
    assert len(files(moved)) == 2 and not any(file.exists() for file in files(moved))
    assert sync.mend_paths(record(moved)) == []
    assert all(file.is_relative_to(moved) and file.is_file() for file in files(moved))
    back = [one.SerializeToString() for one in messages(record(written))]
    assert said_to_lie_in(record(moved), moved, written) == back
    before = record(moved).read_bytes()
    assert sync.mend_paths(record(moved)) == [] and record(moved).read_bytes() == before


def test_a_copy_sends_its_own_files_and_one_without_them_says_so(written, tmp_path):
    copied = Path(shutil.copytree(written, tmp_path / "copy"))
    assert sync.mend_paths(record(copied)) == []
    assert all(file.is_relative_to(copied) for file in files(copied))
    shutil.rmtree(copied / "wandb/data")
    (lost,) = sync.mend_paths(record(copied))
    assert lost.startswith(f"{copied}/wandb/data/artifacts/staging/")


@pytest.mark.parametrize("lengths", [[1, 0, BLOCK - 30, 5], [BLOCK * 3, 7], [BLOCK - 14 - 7, 1], [BLOCK - 14 - 1, 9]])
def test_a_log_is_read_as_it_was_written(lengths):
    records = [bytes([i]) * length for i, length in enumerate(lengths)]
    assert list(chunks(log_of(b":W&B\xe1\xbe\x00", records))) == records


def test_a_log_of_ours_is_that_of_wandb_to_the_byte(written):
    log = record(written).read_bytes()
    assert log_of(log[:7], chunks(log)) == log


def test_a_folder_that_is_reached_by_a_link_has_not_moved(written, tmp_path):
    (tmp_path / "link").symlink_to(written)
    before = record(written).read_bytes()
    for way in (tmp_path / "link", written / ".." / written.name):
        assert sync.mend_paths(record(way)) == []
        assert record(written).read_bytes() == before


def test_the_options_of_wandb_stand_behind_the_folders(moved, written, capsys, monkeypatch):
    ran: list[list[str]] = []
    monkeypatch.setattr(sync.subprocess, "run", lambda command: ran.append(command) or CompletedProcess(command, 0))
    assert sync.main([str(moved), "--", "-p", "mine"]) == 0
    assert ran[0][2:] == ["wandb", "sync", "-p", "mine", "--", str(record(moved).parent)]
    with pytest.raises(SystemExit):
        sync.main(["-p", "mine", str(moved)])
    assert "-p: options of wandb sync stand behind the folders and --" in capsys.readouterr().err
    assert sync.main([str(moved), str(moved / "hf")]) == 2
    assert f"error: {moved / 'hf'}: no record of W&B" in capsys.readouterr().err
    assert len(ran) == 1


def test_a_record_that_is_still_written_is_left_alone(moved, capsys, monkeypatch):
    monkeypatch.setattr(sync.subprocess, "run", lambda command: pytest.fail(f"ran {command}"))
    file, found = record(moved), list(messages(record(moved)))
    assert not sync.is_written(file)
    unended = [one.SerializeToString() for one in found if not one.HasField("exit")]
    assert len(unended) < len(found)
    file.write_bytes(before := log_of(file.read_bytes()[:7], unended))
    assert sync.main([str(moved)]) == 1
    assert f"error: {file}: its run may still write it" in capsys.readouterr().err
    assert file.read_bytes() == before
    os.utime(file, (0, 0))
    with file.open("ab"):
        assert sync.is_written(file) == Path("/proc").is_dir()
    assert not sync.is_written(file)


@pytest.mark.slow
def test_a_moved_folder_goes_to_wandb_whole(moved, monkeypatch, capfd):
    """By W&B's own command, which without this leaves both artifacts out and ends with 0."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    with WandbServer() as server:
        for name, value in environment(server.address).items():
            monkeypatch.setenv(name, value)
        assert sync.main([str(moved.parent)]) == 0
    assert server.files["weights"] == b"123"
    assert json.loads(server.files["a/table.table.json"])["data"] == [["so far"]]
    assert server.asked.count("CommitArtifact") == 2
    assert "Finished syncing" in capfd.readouterr().err
