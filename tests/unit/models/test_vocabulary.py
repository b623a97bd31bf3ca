"""`model.add_tokens`: the tokenizer's new tokens have rows, the mean of the others', and leave all else as it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers.runs import COMMON, QUICKSTART
from vicuna_lit.config.base import ConfigError
from vicuna_lit.config.compose import load
from vicuna_lit.data.encoder import Example
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.estimate.memory import Weights
from vicuna_lit.models.architecture import model_config
from vicuna_lit.models.causal_lm import build_model
from vicuna_lit.models.export import export
from vicuna_lit.paths import ModelError
from vicuna_lit.records.conversation import Conversation

TOKENS = ("<|im_start|>", "<|im_end|>")
ADDED = ("model.add_tokens=['<|im_start|>','<|im_end|>']", "template=chatml")


@pytest.fixture
def folder(tmp_path_factory):
    """A model's folder, of a vocabulary that is longer than the tokenizer's by `padding`."""

    def make(padding: int, tied: bool) -> tuple[str, ...]:
        place = tmp_path_factory.mktemp("base")
        config = load("train", *COMMON)
        encoder = make_encoder(config)
        hf = model_config(config, encoder.tokenizer)
        hf.tie_word_embeddings, hf.vocab_size = tied, hf.vocab_size + padding
        AutoModelForCausalLM.from_config(hf).save_pretrained(place)
        AutoTokenizer.from_pretrained(QUICKSTART / "tokenizer").save_pretrained(place)
        return *COMMON[:-1], "model=local", f"model.path={place}"

    return make


def tables(model: Any) -> list[torch.Tensor]:
    return [model.get_input_embeddings().weight, model.get_output_embeddings().weight]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padding", [0, 1, 30])
@pytest.mark.promise(
    "Tokens that `model.add_tokens` adds begin as the mean of the other tokens' rows; no other weight changes"
)
def test_new_rows_are_the_mean_of_the_others_and_nothing_else_changes(folder, tied, padding, tmp_path):
    given = folder(padding, tied)
    plain, config = load("train", *given), load("train", *given, *ADDED)
    encoder = make_encoder(config)
    before: Any = build_model(plain, make_encoder(plain))
    after: Any = build_model(config, encoder)
    count = len(make_encoder(plain).tokenizer)
    assert encoder.new_ids == (count, count + 1)
    length = max(count + 2, count + padding)
    assert after.config.vocab_size == length == build_model(config, encoder, "meta").config.vocab_size
    assert length == build_model(config, None, "meta").config.vocab_size, "the estimate counts them"
    for old, new in zip(tables(before), tables(after), strict=True):
        mean = torch.from_numpy(old[:count].double().detach().numpy().mean(0))
        assert torch.allclose(new[count].double(), mean, rtol=1e-6, atol=1e-9)
        assert torch.equal(new[count], new[count + 1])
        assert torch.equal(new[:count], old[:count])
        assert torch.equal(new[count + 2 :], old[count + 2 :]), "rows of no token stay"
    assert (tables(after)[0] is tables(after)[1]) == tied
    others = {name: p for name, p in before.named_parameters() if p.shape[0] != len(tables(before)[0])}
    assert all(torch.equal(p, dict(after.named_parameters())[name]) for name, p in others.items())
    export(after, encoder, tmp_path / "hf")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert all(torch.equal(a, b) for a, b in zip(tables(again), tables(after), strict=True))
    exported = AutoTokenizer.from_pretrained(tmp_path / "hf")
    said = Conversation.of("Do you write <|im_end|>?", "I do.", id="a")
    mine = encoder.encode([said])[0]
    assert isinstance(mine, Example)
    theirs = exported.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert exported(theirs, add_special_tokens=False).input_ids.count(count + 1) == 2, (
        "of the system prompt and the user"
    )
    assert mine.input_ids.tolist().count(count + 1) == 3, "what a user types stays plain"
    assert encoder.fingerprint != make_encoder(plain, "vicuna_v1").fingerprint
    assert make_encoder(tmp_path / "hf").prompt_ids(Conversation.of("Hi")) == encoder.prompt_ids(Conversation.of("Hi"))


def test_random_weights_stay_those_of_the_seed():
    plain, config = load("train", *COMMON), load("train", *COMMON, *ADDED)
    torch.manual_seed(0)
    before: Any = build_model(plain, make_encoder(plain))
    drawn = torch.rand(1)
    torch.manual_seed(0)
    after: Any = build_model(config, make_encoder(config))
    assert torch.equal(torch.rand(1), drawn)
    rows = len(tables(before)[0])
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(new[:rows] if old.shape[0] == rows else new, old), name
    weights = [Weights.of(m, False).all for m in (before, build_model(config, None, "meta"))]
    assert weights[1] > weights[0]


def test_in_bf16_the_mean_is_that_of_the_rounded_rows(folder):
    given = [*folder(0, False), *ADDED, "precision=bf16-true"]
    found = []
    for strategy in ("single", "fsdp"):  # kept in bf16, or in fp32
        config = load("train", *given, f"strategy={strategy}")
        encoder = make_encoder(config)
        found.append([table[list(encoder.new_ids)].float() for table in tables(build_model(config, encoder))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_is_a_token_already_stays_and_what_is_no_token_is_refused(folder):
    given = folder(0, False)
    eos = make_encoder(load("train", *given, "template=vicuna_v1")).tokenizer.eos_token
    config = load("train", *given, "template=vicuna_v1", f"model.add_tokens=['{eos}']", "finetune=lora")
    encoder = make_encoder(config)
    assert encoder.new_ids == ()
    build_model(config, encoder)
    for tokens in ("['']", "[' a']", "[a,a]"):
        with pytest.raises(ConfigError, match=r"model\.add_tokens"):
            load("train", *given, f"model.add_tokens={tokens}")


@pytest.mark.parametrize(
    "finetune", [("lora",), ("last_layers", "finetune.layers=1"), ("partial", "finetune.train=[layers]")]
)
def test_rows_that_would_stay_as_they_begin_are_refused(folder, finetune):
    config = load("train", *folder(0, False), *ADDED, f"finetune={finetune[0]}", *finetune[1:])
    for encoder in (make_encoder(config), None):
        with pytest.raises(
            ModelError, match="would leave the rows of 2 new tokens as they begin, all alike; train the"
        ):
            build_model(config, encoder, "meta" if encoder is None else "cpu")
    trained = load("train", *folder(0, False), *ADDED, "finetune=partial", "finetune.train=[embed_tokens,lm_head]")
    assert build_model(trained, make_encoder(trained)).get_input_embeddings().weight.requires_grad


def test_a_tokenizer_with_other_tokens_than_the_model_is_refused_as_before(folder, tmp_path):
    given = folder(0, False)
    path = Path(load("train", *given).model.path or "")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["<other>"], special_tokens=True)
    tokenizer.save_pretrained(path)
    config = load("train", *given, *ADDED)
    with pytest.raises(ModelError, match="do not belong together"):
        build_model(config, make_encoder(config))
    named = load("train", *given, "template=chatml", "model.add_tokens=['<|im_start|>','<|im_end|>','<other>']")
    encoder = make_encoder(named)
    model: Any = build_model(named, encoder)
    assert np.unique(tables(model)[0][-3:].detach().numpy(), axis=0).shape[0] == 1, "a token without a row gets one"
