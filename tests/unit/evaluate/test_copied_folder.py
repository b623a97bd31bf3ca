"""Two folders never write into one run of W&B's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from vicuna_lit.evaluate.run import _claim
from vicuna_lit.run_folder import read_json


def test_a_copied_evaluation_is_a_run_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    told = {"wandb_id": "first", "wandb_logged": "digest", "wandb_url": "https://wandb.test/first"}

    def claimed(folder: Path, files: Any = None) -> dict[str, Any]:
        _claim(folder, {"run": {"dir": str(folder)}}, files)
        return read_json(folder, "run.json") or {}

    a, b, c = (tmp_path / name for name in "abc")
    files = {"model": {"model.safetensors": "0" * 64}}
    before = claimed(a, files)
    assert "wandb_id" not in before and before["files"] == files
    (a / "run.json").write_text(json.dumps(before | told))
    assert claimed(a).items() >= told.items() and claimed(a)["files"] == files
    shutil.copytree(a, b)
    assert not claimed(b).keys() & told.keys() and claimed(b)["files"] == files
    assert "b is a copy: in W&B it goes on as a run of its own" in " ".join(capsys.readouterr().out.split())
    a.rename(c)
    assert claimed(c).items() >= told.items(), "the folder was moved"
    shutil.copytree(c, a)
    (a / "run.json").write_text(json.dumps(told))  # of an earlier version, whose config.json has its place
    assert not claimed(a).keys() & told.keys()
    assert capsys.readouterr().out.count("copy") == 1
