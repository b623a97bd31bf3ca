"""What a job writes into its folder arrives whole, wherever the folder's parts lie, or is refused before the work."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
import tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from tests.helpers.runs import COMMON
from vicuna_lit import run_folder, whole_files
from vicuna_lit.cli.app import fail
from vicuna_lit.compare.runs import FAILURES, failures_in
from vicuna_lit.config.base import ConfigError
from vicuna_lit.config.compose import load
from vicuna_lit.machine import MACHINE_FAULT
from vicuna_lit.run_folder import (
    RunError,
    check_can_be_made,
    check_disk,
    check_replaceable,
    differences,
    locked,
    read_json,
    refuse_other_settings,
)
from vicuna_lit.train.result import Result
from vicuna_lit.train.resume import lacks_room, refused_in, settings
from vicuna_lit.train.run_record import RunRecord
from vicuna_lit.whole_files import add_line, add_rows, naming, whole_folder


@pytest.fixture
def elsewhere(tmp_path) -> Iterator[Path]:
    """A folder of another disk where there is one."""
    shm = Path("/dev/shm")
    place = shm / tmp_path.name if shm.is_dir() and os.access(shm, os.W_OK) else tmp_path / "elsewhere"
    place.mkdir()
    yield place
    shutil.rmtree(place)


def replace(folder: Path, text: str) -> None:
    check_replaceable(folder)
    with whole_folder(folder) as part:
        (part / "file").write_text(text)


def test_a_folder_that_is_a_link_to_another_disk_is_replaced_there(tmp_path, elsewhere):
    link = tmp_path / "hf"
    link.symlink_to(elsewhere / "hf")
    for text in ("dangling before", "again"):
        replace(link, text)
        assert link.is_symlink() and (elsewhere / "hf/file").read_text() == text
    with pytest.raises(ZeroDivisionError), whole_folder(link):
        raise ZeroDivisionError
    assert [path.name for path in elsewhere.iterdir()] == ["hf"] and (link / "file").read_text() == "again"


def test_parts_on_another_disk_may_be_linked_before_the_run(tmp_path, elsewhere):
    """A link to a folder that is not there is said as such; other files are nobody's run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").symlink_to(elsewhere)
    assert read_json(tmp_path / "run", "config.json") is None
    (tmp_path / "run/mine.txt").touch()
    with pytest.raises(RunError, match="exists and is no run folder"):
        read_json(tmp_path / "run", "config.json")
    (tmp_path / "dangling").symlink_to(elsewhere / "nothing")
    with (
        pytest.raises(RunError, match=r"dangling: is a link to a folder that is not there; choose"),
        locked(tmp_path / "dangling"),
    ):
        pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_place_that_is_somebody_elses_is_one_line_and_a_full_disk_stays_one(number, tmp_path):
    with (
        patch.object(Path, "mkdir", side_effect=OSError(number, "as the system says it", "run")),
        pytest.raises(OSError if number == errno.ENOSPC else RunError) as error,
        locked(tmp_path / "run"),
    ):
        pass
    if number != errno.ENOSPC:
        assert str(error.value).startswith(f"run.dir={tmp_path}/run: no run can be kept there (as the system says it)")


def test_what_cannot_be_replaced_in_the_end_is_said_first(tmp_path, monkeypatch):
    (tmp_path / "hf").write_text("a file")
    with pytest.raises(RunError, match=r"hf: is no folder; results go there: move it away"):
        check_replaceable(tmp_path / "hf")
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "disk")
    (tmp_path / "disk").mkdir()
    with pytest.raises(RunError, match=r"disk: is a disk of its own, .*; link it to a folder on that disk"):
        check_replaceable(tmp_path / "disk")
    check_replaceable(tmp_path / "nothing yet")


@pytest.mark.parametrize(("total", "free", "refused"), [(0, 0, False), (1000, 9, True), (10**7, 10**6, False)])
def test_a_disk_without_inodes_is_said_first(total, free, refused, tmp_path, monkeypatch):
    class Disk:
        f_files, f_favail, f_frsize, f_blocks, f_bfree, f_bavail = total, free, 1, 9, 9, 9

    monkeypatch.setattr(run_folder.os, "statvfs", lambda _: Disk)
    if refused:
        with pytest.raises(RunError, match=r"the model needs up to 100 files, the disk has room for 9 \(its inodes"):
            check_disk(tmp_path / "run", 0, "the model")
    else:
        check_disk(tmp_path / "run", 0, "the model")


@pytest.mark.promise("A full disk is one line: the file, that there is no room, and that the same command goes on")
def test_a_full_disk_names_the_file(tmp_path, capsys):
    """Python's own error does not, nor do those of tokenizers and safetensors, which are no `OSError`."""
    full = Path("/dev/full")
    for job in (lambda: add_rows(full, ("a", 1)), lambda: add_line(full, {"a": 1})):
        with pytest.raises(OSError, match=r"No space left on device: '/dev/full'$"):
            job()
    with (
        pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/hf'$") as caught,
        whole_folder(tmp_path / "hf"),
    ):
        tokenizers.Tokenizer(tokenizers.models.WordLevel()).save(str(full))
    assert not (tmp_path / "hf").exists()
    (tmp_path / "late").write_text("a")
    with (
        patch.object(whole_files.os, "fsync", side_effect=OSError(28, "No space left on device")),
        pytest.raises(OSError, match=rf"'{tmp_path}/late'$"),
    ):  # as a disk of a network says it
        whole_files.sync(tmp_path, ["late"])
    with pytest.raises(SystemExit) as end:
        fail(caught.value)
    said = (
        f"error: [Errno 28] No space left on device: '{tmp_path}/hf'; make room there, then give the same command again"
    )
    assert (end.value.code, capsys.readouterr().err) == (MACHINE_FAULT, said + "\n")
    for other in (FileNotFoundError(2, "no", "mine"), RunError("quotes (os error 28)"), KeyError("a")):
        with pytest.raises(type(other)) as same, naming(tmp_path):
            raise other
        assert same.value is other


def test_a_line_stands_for_itself_whatever_the_last_one_has_come_to(tmp_path):
    file = tmp_path / FAILURES
    for torn in ("", '{"job": "b", "er', "\0\0\0"):
        with file.open("a") as stream:
            stream.write(torn)
        add_line(file, {"job": "a", "error": "é"})
    assert file.read_bytes().count(b"\n") == 5
    said = [failure["job"] for failure in failures_in(tmp_path)]
    assert said == ["a", f"line 2 of {FAILURES}", "a", f"line 4 of {FAILURES}", "a"]


def test_what_a_result_vouches_for_is_on_the_disk_before_it(tmp_path, monkeypatch):
    """Names too; behind a link, and in folders of folders."""
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere/deeper").mkdir(parents=True)
    (tmp_path / "run/hf").symlink_to(tmp_path / "elsewhere")
    files = [tmp_path / "elsewhere/model", tmp_path / "elsewhere/deeper/file", tmp_path / "run/metrics.csv"]
    for file in files:
        file.write_text("a")
    synced: list[int] = []
    monkeypatch.setattr(whole_files.os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    record: Any = object.__new__(RunRecord)
    record.folder, record.first, record.wandb, record.history = tmp_path / "run", True, None, Mock()
    record.finish(Result("finished", "run"))
    inodes = [path.stat().st_ino for path in (*files, files[1].parent, files[0].parent, tmp_path / "run")]
    assert set(inodes) <= set(synced) and synced.index((tmp_path / "run/result.json").stat().st_ino) >= len(inodes)


def test_checkpoints_must_fit_where_they_lie(tmp_path, monkeypatch):
    """They may be a link to another disk."""

    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: free._replace(free=10**12 if place == tmp_path else 5))
    config = load("train", *COMMON, "checkpoint.every_steps=1")
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    assert lacks_room(config, tmp_path, model) is None
    (tmp_path / "checkpoints").mkdir()
    assert "GB are free" in (lacks_room(config, tmp_path, model) or "")


def test_a_key_that_an_earlier_version_lacks_is_said_to_be_absent():
    old, new = {"seed": 1, "run": {"name": "a"}}, {"seed": 1, "run": {"name": "b"}, "order": "shuffled", "push": None}
    assert differences(old, new) == ["order: absent → 'shuffled'", "run.name: 'a' → 'b'"]  # one that is null is none
    assert differences(old, new, ("run",)) == ["order: absent → 'shuffled'"]
    with pytest.raises(RunError, match="order: absent"):
        refuse_other_settings(Path("run"), old, new, ("run",))
    assert refuse_other_settings(Path("run"), old, new, ("run", "order")) == differences(old, new)


def test_a_folder_that_cannot_be_is_refused_by_its_key_and_another_is_offered_as_the_user_names_it(tmp_path):
    (tmp_path / "file").touch()
    for place, said in (
        ("file/run", "file/run: cannot be a folder, for .*file is a file"),
        ("x" * 300, "a name of 300 bytes is too long for a folder"),
    ):
        with pytest.raises(ConfigError, match=f"^run.dir: .*{said}"):
            load("train", f"run.dir={tmp_path / place}")
    with (
        pytest.raises(RunError, match=r"^run\.dir=/proc/run: no run can be kept there \(No such"),
        locked(Path("/proc/run")),
    ):
        pass
    with patch.object(os, "access", return_value=False), pytest.raises(RunError, match="may not be written"):
        check_can_be_made(tmp_path / "new/run")
    check_can_be_made(tmp_path / "new/run")
    for run, ways in (
        ({"name": "mine", "dir": "runs/mine"}, "run.name=<name>"),
        ({"name": "lr=1", "dir": "runs/sweeps/a/lr=1", "swept": {"lr": "1"}}, "hydra.sweep.dir=<folder>"),
        ({"name": "mine", "dir": "here"}, "run.dir=<folder>"),
        (None, "run.dir=<folder>"),
    ):
        with pytest.raises(RunError, match=f"choose another with {ways}:"):
            refuse_other_settings(tmp_path, {"seed": 0}, {"seed": 1, "run": run}, ("run",))


def test_a_fingerprint_is_said_by_what_it_is_taken_of():
    old = {"inputs": {"0 a.json": "a" * 64, "1 b.json": "b" * 64}, "files": {"tokenizer": "e" * 64}}
    new = {"inputs": {"0 a.json": "c" * 64}, "files": {"questions q": "d" * 64, "tokenizer": "e" * 64}}
    said = ["files.questions q: new", "inputs.0 a.json: other content", "inputs.1 b.json: gone"]
    assert differences(old, new) == said


def test_a_plan_says_why_its_run_would_be_refused(tmp_path):
    config = load("train", f"run.dir={tmp_path}")
    assert refused_in(tmp_path, config) == ""
    (tmp_path / "config.json").write_text(json.dumps(settings(config, {}) | {"seed": 7}))
    assert refused_in(tmp_path, config) == "", "it has not begun: training takes the folder"
    (tmp_path / "result.json").write_text('{"status": "finished"}')
    assert "holds a run with other settings" in refused_in(tmp_path, config)
