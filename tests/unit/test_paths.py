"""Paths that lead nowhere, or to no regular file, are one line."""

import os

import pytest

from vicuna_lit.data.conversation import DataError
from vicuna_lit.data.files import find_files
from vicuna_lit.paths import MissingPath, locate


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
