"""What is loaded is what is there, or the command ends with one line and exit code 2."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.helpers.families import save_tiny
from tests.helpers.runs import QUICKSTART
from vicuna_lit.data.tokenizer import load_tokenizer
from vicuna_lit.inference.generate import Chat
from vicuna_lit.models.architecture import read_config
from vicuna_lit.models.load_weights import load_weights
from vicuna_lit.paths import ModelError

FIELDS: dict[str, Any] = dict(
    vocab_size=1024, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, max_position_embeddings=512,
)  # fmt: skip


def folder_of(tmp_path: Path, **fields: Any) -> Path:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**FIELDS | fields)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(QUICKSTART / "tokenizer").save_pretrained(tmp_path)
    return tmp_path


def changed(folder: Path, change: Any) -> None:
    """The folder's weights, changed."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def load(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    return load_weights(read_config(folder), str(folder), device, dtype, {})


def test_a_whole_folder_is_loaded_to_the_bit(tmp_path: Path):
    folder = folder_of(tmp_path)
    for name, tensor in load(folder).state_dict().items():
        assert torch.equal(tensor, load_file(folder / "model.safetensors")[name])


@pytest.mark.parametrize("family", ["llama_tied", "mixtral", "deepseek_v3", "mamba"])
def test_weights_are_read_in_their_dtype_and_buffers_in_fp32(family: str, tmp_path: Path):
    """As reading in fp32 and rounding gives them; tied weights are still one."""
    folder = save_tiny(family, tmp_path)
    exact, rounded = load(folder), load(folder, dtype=torch.bfloat16)
    for (name, ours), (_, theirs) in zip(*(m.named_parameters() for m in (rounded, exact)), strict=True):
        assert ours.dtype == torch.bfloat16
        assert torch.equal(ours, theirs.bfloat16()), name
    for (name, ours), (_, theirs) in zip(*(m.named_buffers() for m in (rounded, exact)), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_is_read_straight_onto_the_gpu(dtype: torch.dtype, tmp_path: Path):
    """No more than it takes there at the end, and a tensor or two."""
    folder = folder_of(tmp_path, hidden_size=512, intermediate_size=2048, num_hidden_layers=8)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    model = load(folder, "cuda:0", dtype)
    peak = torch.cuda.max_memory_allocated() - before
    assert {(t.device.type, t.dtype) for t in model.parameters()} == {("cuda", dtype)}
    assert {b.device.type for b in model.buffers()} == {"cuda"}
    assert peak < 1.3 * sum(p.numel() * p.element_size() for p in model.parameters())
    for name, tensor in load(folder, "cpu", dtype).state_dict().items():
        assert torch.equal(model.state_dict()[name].cpu(), tensor), name


def test_the_decoder_alone_lacks_a_head(tmp_path: Path):
    folder = folder_of(tmp_path)
    AutoModel.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"the folder lacks lm_head\.weight$"):
        load(folder)


def test_a_layer_more_in_the_config(tmp_path: Path):
    folder = folder_of(tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 3}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"the folder lacks model\.layers\.2\..*, .* and 6 more"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda w: w.update({"model.extra.weight": torch.ones(2)}),
            "has no place for model.extra.weight",
        ),
        (lambda w: w.update({"model.norm.weight": torch.ones(7)}), "of another shape are model.norm.weight"),
        (lambda w: w["model.norm.weight"].fill_(torch.nan), r"not finite \(NaN or infinite\) are model.norm.weight"),
        (lambda w: w["lm_head.weight"].fill_(-torch.inf), "not finite .* are lm_head.weight"),
    ],
    ids=["left over", "shape", "NaN", "infinite"],
)
@pytest.mark.promise("Weights that are missing, left over, of another shape or not finite are refused with their names")
def test_weights_that_do_not_belong_to_the_config(tmp_path: Path, change: Any, expected: str):
    changed(folder := folder_of(tmp_path), change)
    with pytest.raises(ModelError, match=expected) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, r"quantised already \(fp8\)"),
        ({"model_type": "new_thing", "auto_map": {"AutoConfig": "evil.Config"}}, "Python code of its own .* never run"),
        ({"model_type": "t5"}, "an encoder and a decoder"),
        ({"model_type": "clip_text_model"}, "no language model"),
        ({"num_hidden_layers": -1}, "config.json: num_hidden_layers=-1: is not between 1 and 10,000"),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers=10000000: is not between"),
        ({"hidden_size": 2**40}, "hidden_size=1099511627776: is not between"),
        ({"num_key_value_heads": 0}, "num_key_value_heads=0: is not between"),
        ({"max_position_embeddings": -1}, "max_position_embeddings=-1: is not between"),
        ({"layer_types": ["full_attention"] * 10_001}, "layer_types names 10,001 layers"),
        ({"x": "y" * 2**24}, "bytes, at most 16,777,216 are read"),
    ],
    ids=[
        *("quantised", "remote code", "encoder and decoder", "no language model", "nonsense", "layers", "size"),
        *("groups", "positions", "types of layers", "length"),
    ],
)
def test_a_config_that_is_not_trained(tmp_path: Path, fields: dict[str, Any], expected: str):
    """No code of the folder is run, and nobody is asked on the console."""
    folder = folder_of(tmp_path)
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match=expected):
        load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, name: str):
    for text in (b"\x9f\x00", b"[" * 100_000, b"[1]"):
        folder = folder_of(tmp_path)
        (folder / name).write_bytes(text)
        with pytest.raises(ModelError, match=r"test_a_file_that_is_no_json") as caught:
            load_tokenizer(str(folder))
        assert "\n" not in str(caught.value)


def test_weights_that_are_cut_off_are_said_in_one_line(tmp_path: Path):
    folder = folder_of(tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    for damaged in (whole[:-999], whole[:5], b"", b"\xff" * 999, (2**40).to_bytes(8, "little") + whole[8:]):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ModelError, match="no model could be loaded") as caught:
            load(folder)
        assert "\n" not in str(caught.value)


def test_a_tokenizer_that_asks_for_its_own_code_is_refused_and_nobody_is_asked(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the console"))
    folder = folder_of(tmp_path)
    settings = {"tokenizer_class": "Odd", "auto_map": {"AutoTokenizer": ["evil.Tok", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match=r"Python code of its own .* never run"):
        load_tokenizer(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.promise("No id without a token is ever sampled")
def test_ids_without_a_token_are_never_said_and_shown_as_unknown(tmp_path: Path):
    """The head prefers an id of the padded vocabulary: greedy generation takes the best that has a token."""
    folder = folder_of(tmp_path)
    changed(folder, lambda w: (w["lm_head.weight"].zero_(), w["lm_head.weight"][1020].fill_(100.0)))
    chat = Chat.load(with_template(folder))
    assert chat.encoder.decode([1020]) == "\N{REPLACEMENT CHARACTER}"
    assert "\N{REPLACEMENT CHARACTER}" not in chat.say("Who are you?", max_new_tokens=4)
    assert chat.encoder.nameless_ids(1024) == list(range(len(chat.encoder.tokenizer), 1024))


def with_template(folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token if m.role == 'assistant' }} "
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer.save_pretrained(folder)
    return folder
