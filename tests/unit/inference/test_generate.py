"""A reply is the model's, whatever else lies in its folder, and ends where its context does."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tests.helpers.families import save_tiny, tiny_config
from vicuna_lit.config.compose import load
from vicuna_lit.config.evaluate import FolderSource
from vicuna_lit.evaluate.generate import Model, by_folder
from vicuna_lit.evaluate.questions import Question
from vicuna_lit.inference.backend import Settings
from vicuna_lit.inference.generate import (
    Chat,
    arguments,
    common_dtype,
    generate,
    keeps_keys_alone,
    likelihoods,
    own_sampling_put_aside,
    replies,
    reply,
    said,
)
from vicuna_lit.inference.local import LocalBackend
from vicuna_lit.models.load_weights import refuse_faults
from vicuna_lit.models.shrink import small_copy
from vicuna_lit.paths import ModelError
from vicuna_lit.records.conversation import Conversation

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def folder_of(family: str, tmp_path: Path, **generation: Any) -> Path:
    folder = save_tiny(family, tmp_path)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | generation))
    return folder


@pytest.mark.promise("No generation_config.json changes a reply: a base and what is trained from it are alike")
def test_a_folders_own_sampling_is_put_aside(tmp_path: Path):
    plain = Chat.load(folder_of("llama", tmp_path / "plain"))
    habits = {"repetition_penalty": 1.5, "top_k": 1, "top_p": 0.1, "no_repeat_ngram_size": 2, "bad_words_ids": [[5]]}
    fussy = Chat.load(folder_of("llama", tmp_path / "fussy", **habits))
    own = fussy.model.generation_config
    assert generate(plain, "hello there", 30) == generate(fussy, "hello there", 30)
    assert fussy.model.generation_config is own and own.repetition_penalty == 1.5, "the caller's model stays its own"
    with pytest.raises(ZeroDivisionError), own_sampling_put_aside(fussy.model), own_sampling_put_aside(fussy.model):
        assert fussy.model.generation_config.repetition_penalty is None
        raise ZeroDivisionError
    assert fussy.model.generation_config is own
    told = arguments(fussy.model, fussy.encoder, 1, 1.0)
    prompt = torch.tensor([fussy.encoder.prompt_ids(Conversation.of("hello there"))] * 500)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), own_sampling_put_aside(fussy.model):
        torch.manual_seed(0)
        sampled: Any = fussy.model.generate(prompt, **told)  # pyright: ignore[reportCallIssue]
        likely = fussy.model(prompt[:1]).logits[0, -1].topk(50).indices
    assert not set(sampled[:, -1].tolist()) <= set(likely.tolist()), "at temperature 1 there is no top-k"


@pytest.mark.promise(
    "Models that are compared answer in one dtype: equal weights, kept in bf16 and in fp32, say the same"
)
def test_a_base_in_bf16_and_a_run_in_fp32_answer_alike(tmp_path: Path, capsys):
    wide, narrow, other = (folder_of("llama", tmp_path / name) for name in ("wide", "narrow", "other"))
    model = AutoModelForCausalLM.from_pretrained(wide, dtype=torch.bfloat16)
    model.save_pretrained(narrow)
    model.float().save_pretrained(wide)  # the same numbers
    save_file({k: v.half() for k, v in load_file(other / "model.safetensors").items()}, other / "model.safetensors")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "dtype"}))
    paths = [str(folder) for folder in (wide, narrow, other)]
    assert [common_dtype([path]) for path in paths] == [None] * 3
    assert [common_dtype([path, paths[0]]) for path in paths] == [None, torch.float32, torch.float32]
    quantised = json.loads((other / "config.json").read_text()) | {"quantization_config": {"quant_method": "fp8"}}
    (other / "config.json").write_text(json.dumps(quantised))
    assert common_dtype([paths[0], paths[2]]) is None, "what is quantised stays as it is"
    evaluation = load("evaluate", f"models=[{narrow},{wide}]", "answers.max_new_tokens=30")
    found: list[Any] = []
    for name in ("narrow", "wide"):
        source = FolderSource(kind="folder", path=str(tmp_path / name), name=name)
        by_folder([Question("1", "", ("Hi",))], Model(name, source, tmp_path / "none"), evaluation, found.extend)
    assert found[0].turns == found[1].turns
    assert [line for line in capsys.readouterr().err.splitlines() if "fp32" in line] == [
        "note: narrow answers in fp32, as the others do: their weights are kept in several dtypes"
    ]


def test_a_stop_that_is_written_in_other_tokens_is_text(tmp_path: Path):
    """Where the stop is a token; a stop of plain words is found in the text."""
    encoder = Chat.load(folder_of("llama", tmp_path)).encoder
    tokenizer, stop = encoder.tokenizer, encoder.template.stop
    assert stop == tokenizer.eos_token
    pieces = [i for c in f"say {stop} at the end" for i in tokenizer(c, add_special_tokens=False)["input_ids"]]
    assert tokenizer.eos_token_id not in pieces
    text = encoder.decode(pieces)
    assert stop in text and said(encoder, pieces) == (text, False)
    assert said(encoder, [*pieces, tokenizer.eos_token_id, *pieces]) == (text, True)
    with mock.patch.object(encoder, "template", SimpleNamespace(stop="at", call_stop="")):
        assert said(encoder, pieces) == (text.partition("at")[0], True)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_reply_ends_with_the_context_and_does_not_depend_on_its_batch(family: str, tmp_path: Path):
    chat = Chat.load(folder_of(family, tmp_path))
    long, full = Conversation.of("word " * 470), Conversation.of("word " * 520)
    room = 512 - len(chat.encoder.prompt_ids(long))
    assert 0 < room < 60 and len(chat.encoder.prompt_ids(full)) > 512
    alone = [replies(chat.model, chat.encoder, [talk], 60)[0] for talk in (Conversation.of("hi"), long, full)]
    assert replies(chat.model, chat.encoder, [Conversation.of("hi"), long, full], 60) == alone
    assert alone[2] == ("", True)
    with pytest.raises(ModelError, match=r"the prompt has \d+ tokens, the model reads 512"):
        reply(chat.model, chat.encoder, full, 60)
    with pytest.raises(ModelError, match="the model reads 512"):
        chat.say("word " * 520)
    assert chat.conversation == Conversation.of(), "what could not be answered was not asked"


def test_a_model_is_whole_or_it_does_not_answer(tmp_path: Path):
    folder = folder_of("llama", tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != "lm_head.weight"}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"do not belong together: the folder lacks lm_head\.weight"):
        Chat.load(folder)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')
    with pytest.raises(ModelError, match=r"holds an adapter \(adapter_config\.json\); merge it"):
        Chat.load(folder)


def test_weights_in_8_bits_are_looked_at_too(tmp_path: Path):
    folder = folder_of("llama", tmp_path)
    model: Any = Chat.load(folder).model
    layer, nothing = model.model.layers[0].mlp.up_proj, dict.fromkeys(("unexpected", "missing", "mismatched"), ())
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    report = {f"{kind}_keys": names for kind, names in nothing.items()}
    refuse_faults(folder, model, report)
    layer.weight.data.view(torch.uint8)[0, 0] = 0x7F  # its NaN
    with pytest.raises(ModelError, match=r"not finite \(NaN or infinite\) are .*up_proj"):
        refuse_faults(folder, model, report)


@pytest.mark.parametrize("family", ["gemma3", "mixtral", "gpt2", "mamba"])
def test_a_reply_is_what_the_model_gives_without_a_cache(family: str, tmp_path: Path):
    """Greedy, in padded batches, turn by turn in a chat, and the likelihoods of choices: windows are shorter than the
    prompts; one keeps a state."""
    encoder = Chat.load(folder_of("llama", tmp_path)).encoder
    torch.manual_seed(0)
    config: Any = tiny_config(family)
    config.vocab_size = len(encoder.tokenizer)
    config.pad_token_id = config.eos_token_id = encoder.tokenizer.eos_token_id
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.mul_(3)

    def logits(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)

    def greedy(talk: Conversation) -> str:
        ids, new = encoder.prompt_ids(talk), []
        while len(new) < 6 and encoder.tokenizer.eos_token_id not in new:
            new.append(int(logits([*ids, *new])[-1].argmax()))
        return said(encoder, new)[0].strip()

    first = Conversation.of("Tell me about the river, the old house on the hill and its people.", id="a")
    second = first.say("assistant", greedy(first) or "yes").say("user", "And then? What came of them?")
    talks = [Conversation.of("hi"), first, second]
    expected = [greedy(talk) for talk in talks]
    assert [one.text for one in replies(model, encoder, talks, 6)] == expected
    backend = LocalBackend(Chat(model, encoder), family, 2)
    for talk, whole in zip([first, second, first], [*expected[1:], expected[1]], strict=True):
        assert "".join(backend.reply(talk, Settings(0.0, 6))).strip() == whole
    choices = ["1", "22 and more", "none at all"]
    found = likelihoods(model, encoder, first, "Score", choices)
    prompt, begin = encoder.prompt_ids(first), encoder.tokenizer("Score", add_special_tokens=False)["input_ids"]
    tails = [encoder.tokenizer("Score" + choice, add_special_tokens=False)["input_ids"] for choice in choices]
    start = len(prompt) + next(i for i in range(len(begin), -1, -1) if all(t[:i] == begin[:i] for t in tails))
    for tail, value in zip(tails, found, strict=True):
        ids = prompt + tail
        rows = logits(ids)
        assert value == pytest.approx(sum(float(rows[i - 1, ids[i]]) for i in range(start, len(ids))), abs=1e-3)


def test_what_is_kept_of_read_tokens_is_used_where_it_is_keys_alone():
    """Jamba's state is lost where several tokens follow it; MiniMax, Mamba take no cache of ours."""

    def reuses(kind: str) -> bool:
        with torch.device("meta"):
            return keeps_keys_alone(AutoModelForCausalLM.from_config(small_copy(CONFIG_MAPPING[kind]())))

    kinds = ("llama", "gemma3_text", "jamba", "falcon_h1", "minimax", "qwen3_next")
    assert [kind for kind in kinds if reuses(kind)] == ["llama", "gemma3_text"]
