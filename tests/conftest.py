"""Shapes and types are enforced while the tests run; real data is used where it is present."""

import os
from pathlib import Path

from jaxtyping import install_import_hook

import tests.checker

os.environ.setdefault("WANDB_MODE", "offline")
if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core: more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
PACKAGE = Path(__file__).parents[1] / "vicuna_lit"
CONFIGS = ("config", "choices")  # pydantic checks those
CHECKED = [
    f"vicuna_lit.{job}.{p.stem}"
    for job in ("train", "chat")
    for p in (PACKAGE / job).glob("*.py")
    if p.stem not in CONFIGS
]
hook = install_import_hook(["vicuna_lit.data", *CHECKED], f"{tests.checker.__name__}.check")

import pytest  # noqa: E402

pytest.register_assert_rewrite("tests.runs")

from transformers import AutoTokenizer  # noqa: E402

from tests.runs import QUICKSTART, SHARED  # noqa: E402
from tests.tokenizers import byte_level, llama3_like, sentencepiece_like, whitespace_dropping  # noqa: E402
from vicuna_lit.config import CONF_DIR  # noqa: E402
from vicuna_lit.data.tokenize import Encoder  # noqa: E402
from vicuna_lit.template import TextTemplate, template_named  # noqa: E402

TEMPLATES = sorted(p.stem for p in (CONF_DIR / "template").glob("*.yaml") if p.stem != "tokenizer")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the checkout; tests that need it skip where it is absent."""
    if not SHARED.exists():
        pytest.skip("no shared data on this machine")
    return SHARED


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
    return Encoder(tokenizer, TextTemplate(config, tokenizer.bos_token or "", tokenizer.eos_token))


def pytest_addoption(parser):
    """`--golden` writes the golden files anew; read the difference before committing it."""
    parser.addoption("--golden", action="store_true", help="write tests/golden anew")
