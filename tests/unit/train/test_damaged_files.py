"""A damaged file of a run's folder is one line with its name, or is not needed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.helpers.runs import COMMON
from vicuna_lit.compare.run import read_run
from vicuna_lit.config.compose import load
from vicuna_lit.run_folder import ForeignResult, RunError, identity_of, read_json
from vicuna_lit.train.console import say_done
from vicuna_lit.train.result import Result, result_in
from vicuna_lit.train.resume import already_done, open_folder
from vicuna_lit.whole_files import write_json

DAMAGED = [b"", b"\x00\xff\x13", b"[]", b"null", b'{"status": "fin', b"[" * 100_000]


@pytest.mark.parametrize("damaged", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_named(damaged, tmp_path, capsys):
    (tmp_path / "config.json").write_bytes(damaged)
    with pytest.raises(RunError, match=r"config\.json: is damaged \(.*; bring it back from a copy") as caught:
        read_json(tmp_path, "config.json")
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "result.json").write_bytes(damaged)
    assert result_in(tmp_path) is None
    assert capsys.readouterr().err == (
        f"note: {tmp_path}/result.json is damaged; the run goes on from its last checkpoint, or begins anew\n"
    )


@pytest.mark.parametrize("change", [{"x": 1}, {"val_by_step": {"a": 1}}, {"val_by_step": 3}])
def test_a_result_of_another_form_is_none(change, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    whole = {"status": "finished", "run_dir": "a", "val_by_step": {"3": 1.5}}
    (tmp_path / "result.json").write_text(json.dumps(whole))
    found = result_in(tmp_path)
    assert found is not None and found.val_by_step == {3: 1.5}
    (tmp_path / "result.json").write_text(json.dumps(whole | change))
    assert result_in(tmp_path) is None
    assert "result.json is damaged" in capsys.readouterr().err


def finished(folder, config, **about):
    """A folder as a run leaves it."""
    folder.mkdir()
    write_json(folder / "config.json", config)
    write_json(folder / "run.json", {"wandb_id": folder.name, "files": {}} | about)
    write_json(folder / "result.json", {"status": "finished", "run_dir": "a", "identity": identity_of(folder)})


@pytest.mark.promise("A result beside the config of another run, or of another run of the same config, is refused")
def test_the_result_of_another_run_is_refused(tmp_path):
    """Of the same config, too: by training, comparing and all that reads it; one of an earlier version says nothing."""
    config = load("train", *COMMON, f"run.dir={tmp_path / 'a'}")
    values = config.model_dump(mode="json")
    for name in ("a", "b"):
        finished(tmp_path / name, values)
    for name in ("run.json", "config.json"):
        (tmp_path / "a" / name).write_text(json.dumps(json.loads((tmp_path / "a" / name).read_text())))  # laid out anew
    assert result_in(tmp_path / "a") is not None and read_run(tmp_path / "a").status == "finished"
    whole = (tmp_path / "a/result.json").read_text()
    (tmp_path / "a/result.json").write_bytes((tmp_path / "b/result.json").read_bytes())
    readers = (
        lambda: read_json(tmp_path / "a", "result.json"),
        lambda: result_in(tmp_path / "a"),
        lambda: read_run(tmp_path / "a"),
        lambda: already_done(config, tmp_path / "a"),
    )
    for reader in readers:
        with pytest.raises(
            ForeignResult, match=r"a/result\.json: is the result of another run than .* run\.json beside"
        ):
            reader()
    (tmp_path / "a/result.json").write_text(json.dumps(json.loads(whole) | {"identity": {}}))
    assert result_in(tmp_path / "a") is not None
    (tmp_path / "a/result.json").write_text(whole)
    write_json(tmp_path / "a/config.json", values | {"seed": 7})
    with pytest.raises(ForeignResult, match=r"than the one that config\.json beside"):
        result_in(tmp_path / "a")
    write_json(tmp_path / "a/config.json", values)
    (tmp_path / "a/run.json").unlink()
    with pytest.raises(RunError, match=r"run\.json: has gone, which says what the run read; bring it back"):
        already_done(config, tmp_path / "a")


@pytest.mark.promise("A copied run folder goes on as a W&B run of its own; a moved one keeps its run")
def test_a_copied_folder_is_a_run_of_its_own(tmp_path, monkeypatch, capsys):
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))

    def opened(place: str, known: str | None) -> str:
        config = load("train", *COMMON, f"run.dir={place}")
        return open_folder(config, Path(config.run.dir), model, {"files": {}}, known)

    monkeypatch.chdir(tmp_path)
    first = opened(f"{tmp_path}/a", None)
    assert opened(f"{tmp_path}/a", first) == first
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    second = opened(f"{tmp_path}/b", first)
    assert second != first and "b is a copy: in W&B it goes on as a run of its own" in " ".join(
        capsys.readouterr().out.split()
    )
    assert opened(f"{tmp_path}/b", first) == second, "the checkpoint is older than the copy"
    assert opened(f"{tmp_path}/a", first) == first
    (tmp_path / "a").rename(tmp_path / "c")
    assert opened(f"{tmp_path}/c", first) == first
    (tmp_path / "d").symlink_to(tmp_path / "c")
    assert opened(f"{tmp_path}/d", first) == first
    assert "copy" not in capsys.readouterr().out
    (tmp_path / "p").mkdir()
    monkeypatch.chdir(tmp_path / "p")
    first = opened("runs/x", None)
    shutil.copytree(tmp_path / "p", tmp_path / "q")
    monkeypatch.chdir(tmp_path / "q")
    assert opened("runs/x", first) != first, "a relative folder of a copied project"
    monkeypatch.chdir(tmp_path)
    assert opened("p/runs/x", first) == first, "the same one, from elsewhere"
    (tmp_path / "p").rename(tmp_path / "r")
    assert opened("r/runs/x", first) == first


def test_a_model_that_is_not_whole_is_said(tmp_path, capsys):
    """Where a finished run is found: its result stands, its model does not."""
    hf = tmp_path / "hf"
    hf.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (hf / name).write_text("{}")
    save_file({"a": np.zeros(9)}, hf / "model.safetensors")

    def said() -> str:
        say_done(Result("finished", "a"), tmp_path)
        return " ".join(capsys.readouterr().out.split())

    assert "the model is in " in said()
    for name in ("model.safetensors", "config.json"):
        whole = (hf / name).read_bytes()
        for damaged in (b"", whole[:-1] if name == "model.safetensors" else b""):
            (hf / name).write_bytes(damaged)
            assert "the model is gone, or not whole; run.dir=<another folder> trains it again" in said()
        (hf / name).write_bytes(whole)
    (hf / "model.safetensors").unlink()
    assert "the model is gone" in said()
