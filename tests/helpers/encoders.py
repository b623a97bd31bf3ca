"""Tokenizers with our templates, and what the loss takes."""

from functools import cache

import pytest
from transformers import AutoTokenizer

from tests.helpers.runs import QUICKSTART, SHARED
from tests.helpers.tokenizers import byte_level, llama3_like, sentencepiece_like, whitespace_dropping
from vicuna_lit.config.base import CONF_DIR
from vicuna_lit.data.chat_template import TextTemplate, template_named
from vicuna_lit.data.encoder import Encoder

FAMILIES = (
    "gemma3", "hermes", "llama3_1", "llama3_2", "mistral_v3", "mistral_v3_tekken", "mistral_v7", "olmo2", "phi4",
    "qwen2_5", "qwen3", "qwen3_instruct", "qwen3_nothink", "smollm3", "smollm3_think",
)  # fmt: skip
"""Templates that are made of the same parts, for families of today; proven in `test_family_templates.py`."""
TEMPLATES = sorted(
    p.stem for p in (CONF_DIR / "template").glob("*.yaml") if p.stem not in ("tokenizer", "auto", *FAMILIES)
)
"""Those that are tried with every kind of tokenizer."""


def predicted(hidden, head, labels):
    """What `loss_sum` takes: the states that predict a supervised token, the head, the tokens."""
    chosen = labels[0, 1:] != -100
    return hidden[0, :-1][chosen], head, labels[0, 1:][chosen]


def tokenizer_named(name: str):
    """llama, mistral_v1 and smollm2_chatml are real ones; the others are made here."""
    match name:
        case "quickstart":
            return AutoTokenizer.from_pretrained(QUICKSTART / "tokenizer")
        case "byte_level":
            return byte_level()
        case "llama3_like":
            return llama3_like()
        case "sentencepiece_like":
            return sentencepiece_like()
        case "whitespace_dropping":
            return whitespace_dropping()
        case _:
            folder = SHARED / "tokenizers" / name
            if not folder.exists():
                pytest.skip("no shared data on this machine")
            return AutoTokenizer.from_pretrained(folder)


def encoder_for(tokenizer, template: str) -> Encoder:
    """A tokenizer with a template of ours; what the template needs as single tokens is added."""
    config = template_named(template)
    assert config.kind == "text"
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(config.special)}, replace_extra_special_tokens=False
    )
    return Encoder(tokenizer, TextTemplate(config, tokenizer.bos_token or "", tokenizer.eos_token, "2026-02-03"))


@cache
def encoder_of(tokenizer: str, template: str) -> Encoder:
    """Made once a process, and changed by nobody: to read a tokenizer takes a second."""
    return encoder_for(tokenizer_named(tokenizer), template)
