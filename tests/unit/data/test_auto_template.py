"""`template=auto`: one rule decides, the run says what and why, and its result is of that template."""

import json

import pytest

from tests.helpers.runs import QUICKSTART
from tests.helpers.tokenizers import byte_level, sentencepiece_like
from vicuna_lit.config.compose import load
from vicuna_lit.data.auto_template import FAMILIES, choose, with_template
from vicuna_lit.data.chat_template import template_named
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.train.run import fit

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
STRETCHED = {"rope_type": "llama3"}
INST = ["[INST]", "[/INST]"]
SYSTEM = ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]


def tokenizer_with(*special: str, template: str | None = None, by_bytes: bool = True):
    tokenizer = byte_level() if by_bytes else sentencepiece_like()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return tokenizer


def chosen(tokenizer, **architecture) -> tuple[str, str]:
    found = choose(tokenizer, [], architecture)
    return getattr(found.template, "name", found.template.kind), found.why


def test_the_models_own_template_is_taken_where_it_is_proven():
    tokenizer = tokenizer_with("<|im_start|>", "<|im_end|>", template=CHATML)
    assert chosen(tokenizer, model_type="qwen3") == ("tokenizer", "it can be proven")


def test_where_it_cannot_be_proven_the_familys_is_taken_and_the_reason_said():
    broken = CHATML.replace("m['content']", "(m['content'] | upper)")
    name, why = chosen(tokenizer_with("<|im_start|>", "<|im_end|>", template=broken), model_type="qwen3")
    assert name == "qwen3"
    assert why.startswith("the model's own cannot be proven (")
    assert why.endswith("this is its family's (qwen3)")


@pytest.mark.parametrize(
    ("tokenizer", "architecture", "name"),
    [
        (tokenizer_with("<|im_start|>", "<|im_end|>"), {"model_type": "qwen2"}, "qwen2_5"),
        (tokenizer_with("<|im_start|>", "<|im_end|>", "<|im_sep|>"), {"model_type": "phi3"}, "phi4"),
        (tokenizer_with("<|end|>"), {"model_type": "phi3"}, "vicuna_v1"),
        (tokenizer_with("<start_of_turn>", "<end_of_turn>"), {"model_type": "gemma3_text"}, "gemma3"),
        (tokenizer_with(*LLAMA3), {"model_type": "llama"}, "llama3"),
        (tokenizer_with(*LLAMA3), {"model_type": "llama", "rope_scaling": STRETCHED | {"factor": 8.0}}, "llama3_1"),
        (tokenizer_with(*LLAMA3), {"model_type": "llama", "rope_parameters": STRETCHED | {"factor": 32.0}}, "llama3_2"),
        (tokenizer_with(), {"model_type": "llama"}, "vicuna_v1"),
        (tokenizer_with(*INST, *SYSTEM), {"model_type": "mistral"}, "mistral_v7"),
        (tokenizer_with(*INST), {"model_type": "mistral"}, "mistral_v3_tekken"),
        (tokenizer_with(*INST, by_bytes=False), {"model_type": "mixtral"}, "mistral_v3"),
        (tokenizer_with(by_bytes=False), {"model_type": "mistral"}, "mistral"),
        (tokenizer_with(), {"model_type": "gpt2"}, "vicuna_v1"),
        (tokenizer_with(), {}, "vicuna_v1"),
    ],
)  # fmt: skip
def test_a_model_without_a_template_takes_its_familys_where_the_tokenizer_has_its_tokens(tokenizer, architecture, name):
    assert chosen(tokenizer, **architecture)[0] == name


def test_every_family_names_templates_that_there_are():
    assert {template_named(name).kind for names in FAMILIES.values() for name in names} == {"text"}


def test_the_result_is_of_the_template_that_was_taken(tmp_path, capsys):
    given = ("experiment=quickstart", "template=auto", "wandb.mode=disabled", "samples.questions=[]",
             "trainer.max_steps=1", "conversations_per_step=2", "context_length=128", "data.max_validation=2",
             f"run.dir={tmp_path}")  # fmt: skip
    config = load("train", *given)
    fit(config)
    assert "template  vicuna_v1: the tokenizer has no chat template of its own" in capsys.readouterr().err
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["template"]["kind"], saved["template"]["name"]) == ("text", "vicuna_v1")
    assert make_encoder(config).template.name == "vicuna_v1"
    fit(load("train", *given, "template=vicuna_v1"))  # the very same run
    assert "already holds this run's result" in capsys.readouterr().out


def test_a_preparation_says_the_template_too(capsys):
    config = load(
        "prepare", f"raw={QUICKSTART / 'conversations.jsonl'}", f"tokenizer={QUICKSTART / 'tokenizer'}", "template=auto"
    )
    assert getattr(with_template(config).template, "name", None) == "vicuna_v1"
    assert "template  vicuna_v1" in capsys.readouterr().err
