"""Paths that lead nowhere, or to no regular file, are one line."""

import os

import pytest

from vicuna_lit.config.evaluate import FolderSource
from vicuna_lit.evaluate.questions import fields_of
from vicuna_lit.inference.backend import place_of_model
from vicuna_lit.paths import MissingPath, ModelError, locate, locate_model
from vicuna_lit.records.conversation import DataError
from vicuna_lit.records.files import find_files, skipped_files


@pytest.mark.parametrize(
    "path", ["package://..", "package://a.b/x", "package://", "package://no such/x", "package://os/x"]
)
def test_what_is_no_package_is_said(path):
    with pytest.raises(MissingPath, match="the package is not installed"):
        locate(path)


def test_a_path_stays_within_its_package():
    with pytest.raises(MissingPath, match="leads out of the package"):
        locate("package://vicuna_lit/../README.md")


def test_pipes_and_devices_are_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", "/dev/null"):
        with pytest.raises(DataError, match="is no regular file"):
            find_files(path)


def test_what_is_no_file_in_a_folder_or_pattern_is_named(tmp_path):
    folder, other = tmp_path / "data", tmp_path / "other"
    for place in (folder / "inner", other):
        place.mkdir(parents=True)
        (place / "b.jsonl").write_text("{}")
    (folder / "a.jsonl").write_text("{}")
    os.mkfifo(folder / "pipe.jsonl")
    for name, target in (("device.jsonl", "/dev/null"), ("gone.jsonl", "/nowhere"), ("self.jsonl", "self.jsonl"),
                         ("linked", other), ("file.jsonl", other / "b.jsonl")):  # fmt: skip
        (folder / name).symlink_to(target)
    said = {
        "device.jsonl": "is a pipe or device", "pipe.jsonl": "is a pipe or device",
        "gone.jsonl": "is a link to nothing", "self.jsonl": "is a link to nothing",
        "linked": "is a link to a folder, which is not followed",
    }  # fmt: skip

    def reasons(path) -> dict[str, str]:
        return {skipped.id: skipped.detail.removeprefix(f"{skipped.id}: ") for skipped in skipped_files(path)}

    assert reasons(folder) == said
    assert [name for _, name in find_files(folder)] == ["a.jsonl", "file.jsonl", "inner/b.jsonl"]
    assert reasons(f"{folder}/*") == said | {"inner": "is a folder"}
    assert [name for _, name in find_files(f"{folder}/*")] == ["a.jsonl", "file.jsonl"]
    names = [name for _, name in find_files(f"{folder}/**/*.jsonl")]
    assert names == ["a.jsonl", "file.jsonl", "inner/b.jsonl", "linked/b.jsonl"]
    (tmp_path / "none").mkdir()
    (tmp_path / "none/gone.jsonl").symlink_to("/nowhere")
    with pytest.raises(DataError, match=r"no file that can be read.*skipped: gone\.jsonl .*is a link to nothing"):
        find_files(tmp_path / "none")


def test_what_is_near_to_a_model_is_said(tmp_path):
    (tmp_path / "sweep/seed=0/hf").mkdir(parents=True)
    (tmp_path / "sweep/seed=0/hf/config.json").touch()
    with pytest.raises(ModelError, match=r"sweep: is a folder of runs; name one of them, such as .*sweep/seed=0$"):
        locate_model(f"{tmp_path}/sweep")
    with pytest.raises(MissingPath, match=r"swep: no such file or folder \(did you mean .*sweep\?\)$"):
        place_of_model(FolderSource(kind="folder", path=f"{tmp_path}/swep"))
    with pytest.raises(MissingPath, match=r"; a model of a server is gpt-4@<url>$"):
        place_of_model(FolderSource(kind="folder", path="gpt-4"))
    assert fields_of(dict.fromkeys("lkjihgfedcba")) == "a, b, c, d, e, f, g, h, i, j and 2 more"
