"""The recipes of conf/model are the models that they name; any family is built, or refused in one line."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    LlamaConfig,
    Phi3Config,
)

from tests.helpers.runs import QUICKSTART
from vicuna_lit.config.base import CONF_DIR
from vicuna_lit.config.compose import load
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.estimate.run import estimate_run
from vicuna_lit.models.architecture import SHAPE, model_config
from vicuna_lit.models.causal_lm import build_model
from vicuna_lit.paths import ModelError
from vicuna_lit.train.run import fit

PLAN = ("experiment=quickstart", "dry_run=true", "model.tokenizer=x")
PUBLISHED = {  # weights, tied ones once: as the hub counts the safetensors files, where no other source is named
    "llama_7b": 6_738_415_616,  # as Llama 2 7B
    "llama_13b": 13_015_864_320,  # as Llama 2 13B
    "llama2_7b": 6_738_415_616,  # the hub counts 32 tables of 64 frequencies besides, 6,738,417,664
    "llama2_13b": 13_015_864_320,  # the same with 40 tables, 13,015,866,880
    "llama3_8b": 8_030_261_248,
    "llama3_1_8b": 8_030_261_248,
    "llama3_2_1b": 1_235_814_400,
    "llama3_2_3b": 3_212_749_824,
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_7b": 7_615_616_512,
    "qwen3_0_6b": 596_049_920,  # the hub counts the tied head twice, 751,632,384 = this + 151,936 · 1,024
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "gemma3_1b": 999_885_952,
    "gemma3_4b": 3_880_263_168,  # its text part, as llama.cpp counts; Keras' 3,880,099,328 lacks 64 rows for images
    "mistral_7b_v0_1": 7_241_732_096,
    "mistral_7b_v0_3": 7_248_023_552,
    "phi4_mini": 3_836_021_760,
    "olmo2_7b": 7_298_617_344,
    "smollm2_360m": 361_821_120,
    "smollm2_1_7b": 1_711_376_384,
    "smollm3_3b": 3_075_098_624,
}
SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
NESTED = {
    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


def written(config: Any, folder: Path) -> Path:
    config.save_pretrained(folder)
    return folder


def of_folder(folder: Path, *overrides: str) -> Any:
    return model_config(load("train", "experiment=quickstart", "model=local", f"model.path={folder}", *overrides))


@pytest.mark.promise("Each recipe has the published number of weights, windows and positions")
def test_every_recipe_has_its_published_count():
    without_weights = {p.stem for p in (CONF_DIR / "model").glob("*.yaml")} - {"local", "tiny", "smollm2_135m"}
    assert PUBLISHED.keys() == without_weights
    for file in (CONF_DIR / "model").glob("*.yaml"):
        assert f"\nname: {file.stem}\n" in file.read_text()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_as_many_weights_as_the_published_model(name: str):
    model = build_model(load("train", f"model={name}", *PLAN), None, "meta")
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]


@pytest.mark.promise("Each recipe has the published number of weights, windows and positions")
def test_windows_and_positions_are_the_published_ones():
    special = ("gemma3_1b", "gemma3_4b", "mistral_7b_v0_1", "mistral_7b_v0_3", "qwen2_5_7b", "qwen3_4b", "phi4_mini",
               "smollm3_3b", "llama3_1_8b", "llama3_2_1b", "llama3_2_3b")  # fmt: skip
    hf = {name: model_config(load("train", f"model={name}", *PLAN)) for name in special}
    assert [i for i, kind in enumerate(hf["gemma3_1b"].layer_types) if kind == "full_attention"] == [5, 11, 17, 23]
    assert [i for i, kind in enumerate(hf["gemma3_4b"].layer_types) if kind == "full_attention"] == [5, 11, 17, 23, 29]
    windows = {name: getattr(config, "sliding_window", None) for name, config in hf.items()}
    assert {name: size for name, size in windows.items() if size} == {
        "gemma3_1b": 512, "gemma3_4b": 1024, "mistral_7b_v0_1": 4096, "phi4_mini": 262_144,
    }  # fmt: skip
    assert [i for i, has in enumerate(hf["smollm3_3b"].no_rope_layers) if not has] == [3, 7, 11, 15, 19, 23, 27, 31, 35]
    phi = hf["phi4_mini"].rope_parameters
    assert (len(phi["short_factor"]), len(phi["long_factor"]), phi["partial_rotary_factor"]) == (48, 48, 0.75)
    assert [hf[name].rope_parameters["factor"] for name in ("llama3_1_8b", "llama3_2_1b", "llama3_2_3b")] == [8, 32, 32]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.architecture.model_type=qwen4"], "model_type=qwen4: no such language model (did you mean qwen3"),
        (["model.architecture.model_type=gemma3"], "model_type=gemma3 is more than text (did you mean gemma3_text"),
        (["+model.architecture.rope_theta=1e6"], "rope_theta: llama has no such field (did you mean rope_parameters"),
        (["+model.architecture.n_layers=2"], "model.architecture.n_layers: llama has no such field"),
        (["model.architecture.hidden_size=wide"], "model.architecture: Validation error for field 'hidden_size'"),
        (["model.architecture.num_key_value_heads=3"], "num_attention_heads=8 is no multiple of num_key_value_heads=3"),
        (["model=phi4_mini", *PLAN, "context_length=5000"], "(longrope) depend on the longest conversation of a row"),
        (["model=phi4_mini", *PLAN, "validation.context_length=5000"], "packing=false, or context_length=4096"),
        (["model=llama3_1_8b", *PLAN, "context_length=200000", "model.rope_scaling=linear"], "are already llama3"),
        (["model=llama3_1_8b", *PLAN, "context_length=200000"], "already llama3: they cannot be stretched"),
        (["model=phi4_mini", *PLAN, "context_length=200000", "packing=false"], "already longrope"),
    ],
)
@pytest.mark.promise("An architecture that cannot be, and another model's folder, are refused in one line")
def test_an_architecture_that_cannot_be_is_refused_in_one_line(overrides: list[str], expected: str):
    with pytest.raises(ModelError) as error:
        model_config(load("train", *overrides, "tokens_per_device=200000"))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_longrope_with_one_conversation_to_a_row():
    config = load("train", "model=phi4_mini", *PLAN, "context_length=5000", "tokens_per_device=5000", "packing=false")
    assert model_config(config).rope_parameters["rope_type"] == "longrope"


@pytest.mark.parametrize("key", [key for key in SHAPE if key != "model_type"])
@pytest.mark.promise("An architecture that cannot be, and another model's folder, are refused in one line")
def test_a_folder_that_holds_another_model_than_the_recipe(tmp_path: Path, key: str):
    folder = written(LlamaConfig(**SMALL), tmp_path / "m")
    named = [f"model.architecture.{k}={v}" for k, v in SMALL.items()]
    alike = load(
        "train", "experiment=quickstart", "model=llama3_8b", f"model.path={folder}", "context_length=64", *named
    )
    assert model_config(alike).hidden_size == 32
    other = load(
        "train",
        "experiment=quickstart",
        "model=llama3_8b",
        f"model.path={folder}",
        *named,
        f"model.architecture.{key}=96",
    )
    with pytest.raises(ModelError) as error:
        model_config(other)
    assert str(error.value) == f"model=llama3_8b says {key}=96, {folder} has {SMALL[key]}; model=local takes any folder"


def test_a_folder_of_another_family_and_one_with_a_longer_vocabulary(tmp_path: Path):
    config = AutoConfig.for_model("qwen3", **SMALL)
    folder = written(config, tmp_path / "m")
    with pytest.raises(ModelError, match=f"model=qwen2_5_7b says model_type=qwen2, {folder} has qwen3; model=local"):
        model_config(load("train", "experiment=quickstart", "model=qwen2_5_7b", f"model.path={folder}"))
    named = [f"model.architecture.{k}={v}" for k, v in SMALL.items() if k != "vocab_size"]
    assert model_config(
        load("train", "experiment=quickstart", "model=qwen3_4b", f"model.path={folder}", "context_length=64", *named)
    ).vocab_size


@pytest.mark.parametrize("how", ["linear", "yarn"])
def test_layers_with_a_window_keep_their_positions(tmp_path: Path, how: str):
    window = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "rope_parameters": NESTED}
    folder = written(AutoConfig.for_model("gemma3_text", **SMALL, **window, head_dim=8), tmp_path / "m")
    plain = of_folder(folder, "context_length=64")
    hf = of_folder(folder, "context_length=200", "tokens_per_device=200", f"model.rope_scaling={how}")
    assert hf.max_position_embeddings == 256
    assert hf.rope_parameters["sliding_attention"] == plain.rope_parameters["sliding_attention"]
    assert (hf.rope_parameters["full_attention"]["rope_type"], hf.rope_parameters["full_attention"]["factor"]) == (
        how,
        4,
    )
    from transformers import AutoModelForCausalLM

    before, after = (AutoModelForCausalLM.from_config(c).model.rotary_emb for c in (plain, hf))
    assert torch.equal(before.sliding_attention_inv_freq, after.sliding_attention_inv_freq)
    slowest = before.full_attention_inv_freq[-1] / after.full_attention_inv_freq[-1]
    assert math.isclose(slowest, 4, rel_tol=1e-6)
    assert written(hf, tmp_path / "again") and of_folder(tmp_path / "again", "context_length=200").rope_parameters


@pytest.mark.parametrize(
    ("config", "how", "expected"),
    [
        (GPT2Config(n_embd=32, n_layer=1, n_head=2), "linear", "1024, and the positions of gpt2 cannot be stretched"),
        (GPT2Config(n_embd=32, n_layer=1, n_head=2), "none", "1024, and the positions of gpt2 cannot be stretched"),
        (Phi3Config(**SMALL, pad_token_id=None), "linear", "model.rope_scaling=linear, phi3: "),
        (Gemma3Config(text_config=SMALL | {"head_dim": 8}), "none", "model.rope_scaling=linear, which stretches"),
    ],
)
def test_what_cannot_be_stretched_is_refused_in_one_line(tmp_path: Path, config: Any, how: str, expected: str):
    folder = written(config, tmp_path / "m")
    with pytest.raises(ModelError) as error:
        of_folder(folder, "context_length=2048", f"model.rope_scaling={how}")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_validation_beyond_the_models_positions(tmp_path: Path):
    """A rope has positions everywhere; a table ends, and a dynamic rope looks at what else lies in the row."""
    dynamic = LlamaConfig(**SMALL, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    far = ("context_length=32", "validation.context_length=2048")
    for config, why in (
        (GPT2Config(n_embd=32, n_layer=1, n_head=2), "the positions of gpt2 end there"),
        (dynamic, r"beyond it the positions of llama \(dynamic\) depend on the longest conversation of a row"),
    ):
        folder = written(config, tmp_path / config.model_type)
        with pytest.raises(ModelError, match=rf"{why}; validation.context_length="):
            of_folder(folder, *far)
    assert of_folder(written(LlamaConfig(**SMALL), tmp_path / "rope"), *far).max_position_embeddings == 64


def test_a_folder_without_a_language_model(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no model could be read"):
        of_folder(tmp_path / "empty")
    with pytest.raises(ModelError, match="siglip_vision_model is no language model"):
        of_folder(written(AutoConfig.for_model("siglip_vision_model"), tmp_path / "images"))


def test_a_family_whose_layers_differ_in_heads(tmp_path: Path):
    with pytest.raises(ModelError, match="dots3_note_text: its layers have different numbers of heads"):
        of_folder(written(AutoConfig.for_model("dots3_note_text"), tmp_path / "m"))


def text_and_images(folder: Path) -> Any:
    """A Gemma 3 of text and images as its makers publish them, and its folder with a tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(QUICKSTART / "tokenizer")
    text = SMALL | {"vocab_size": len(tokenizer) + 1, "head_dim": 8, "sliding_window": 512, "pad_token_id": None}
    eyes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    images = eyes | {"image_size": 28, "patch_size": 14}
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=images, mm_tokens_per_image=4, image_token_index=len(tokenizer))
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def test_of_a_model_of_text_and_images_the_text_part_is_trained(tmp_path: Path):
    whole = text_and_images(tmp_path / "m")
    config = load("train", "experiment=quickstart", "model=local", f"model.path={tmp_path / 'm'}", "context_length=64")
    model: Any = build_model(config, make_encoder(config))
    text = whole.model.language_model.state_dict()
    assert {name.removeprefix("model."): w for name, w in model.state_dict().items()}.keys() == {
        *text,
        "lm_head.weight",
    }
    assert all(torch.equal(model.state_dict()[f"model.{name}"], weight) for name, weight in text.items())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_text_part_whose_weights_have_other_names_is_not_given_random_ones(tmp_path: Path):
    text_and_images(tmp_path / "m")
    (tmp_path / "m/model.safetensors").unlink()
    config = load("train", "experiment=quickstart", "model=local", f"model.path={tmp_path / 'm'}", "context_length=64")
    with pytest.raises(ModelError, match="the text part of this gemma3 have names that are not known"):
        build_model(config, make_encoder(config))


def test_another_family_is_learned_from_scratch(tmp_path: Path):
    settings = ("trainer.max_steps=2", "data.max_validation=4", "samples.questions=[]", "wandb.mode=disabled")
    result = fit(load("train", "model.architecture.model_type=olmo2", f"run.dir={tmp_path}", *settings))
    assert result.val_loss is not None and result.val_loss_before is not None
    assert result.val_loss < result.val_loss_before
    assert AutoConfig.from_pretrained(tmp_path / "hf").model_type == "olmo2"


def test_an_estimate_needs_no_weights():
    found = estimate_run(
        load("estimate", "experiment=vicuna", "model=qwen3_0_6b", "gpu=h100", "price=4", "conversations=500")
    )
    assert found.memory.weights.all == PUBLISHED["qwen3_0_6b"]
    assert found.fits
