"""The exported folder: any number of files, either dtype, whole or not there."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.helpers.runs import COMMON
from vicuna_lit.config.compose import load
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.models import export
from vicuna_lit.models.adapters import merged
from vicuna_lit.models.causal_lm import build_model
from vicuna_lit.paths import ModelError


@pytest.fixture
def model():
    config = load("train", *COMMON)
    encoder = make_encoder(config)
    torch.manual_seed(0)
    return build_model(config, encoder), encoder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("limit", [60_000, 200_000, 2**30])
@pytest.mark.parametrize("piece", [1000, 2**20])
def test_any_number_of_files(model, dtype, limit, piece, tmp_path, monkeypatch):
    """A tensor larger than the limit gets a file of its own; pieces do not show."""
    lm, encoder = model
    monkeypatch.setattr(export, "PIECE", piece)
    monkeypatch.setattr(export, "FILE", limit)
    export.export(lm, encoder, tmp_path / "hf", dtype)
    files = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert (len(files) == 1) == (limit == 2**30)
    size = sum(f.stat().st_size for f in files)
    assert export.exported_bytes(lm, dtype) < size < export.exported_bytes(lm, dtype) + 10_000
    if len(files) > 1:
        index = json.loads((tmp_path / "hf/model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == export.exported_bytes(lm, dtype)
        assert set(index["weight_map"].values()) == {f.name for f in files}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert loaded.dtype == dtype
    state = loaded.state_dict()
    for name, weight in merged(lm).items():
        assert torch.equal(state[name], weight.to(dtype)), name
    assert lm.config.use_cache is False, "the model in training is left as it was"


def test_what_was_there_stays_until_the_new_one_is_whole(model, tmp_path, monkeypatch):
    lm, encoder = model
    export.export(lm, encoder, tmp_path / "hf")
    before = (tmp_path / "hf/model.safetensors").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_write_file", full)
    with pytest.raises(ModelError, match="hf: the model could not be written"):
        export.export(lm, encoder, tmp_path / "hf")
    assert (tmp_path / "hf/model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]
