"""What a job writes into its folder arrives whole, wherever the folder's parts lie, or is refused before the work."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from tests.helpers.runs import COMMON
from vicuna_lit import run_folder
from vicuna_lit.config.compose import load
from vicuna_lit.run_folder import (
    RunError,
    check_disk,
    check_replaceable,
    differences,
    refuse_other_settings,
    whole_folder,
)
from vicuna_lit.train.resume import lacks_room


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
