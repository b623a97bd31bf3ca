"""`template=auto`: the model's own template where it is proven, else its family's, else Vicuna's."""

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from vicuna_lit.config.prepare import PrepareConfig, PrepareRecipe
from vicuna_lit.config.template import TextTemplateConfig, TokenizerTemplateConfig
from vicuna_lit.config.train import Recipe, TrainConfig
from vicuna_lit.data.chat_template import TemplateError, template_named
from vicuna_lit.data.jinja_template import TokenizerTemplate
from vicuna_lit.paths import MissingPath, ModelError, locate_model

MISTRAL = ("mistral_v7", "mistral_v3_tekken", "mistral_v3", "mistral")
FAMILIES: dict[str, tuple[str, ...]] = {
    "qwen2": ("qwen2_5",),
    "qwen2_moe": ("qwen2_5",),
    "qwen3": ("qwen3",),
    "qwen3_moe": ("qwen3",),
    "gemma3": ("gemma3",),
    "gemma3_text": ("gemma3",),
    "mistral": MISTRAL,
    "mistral3": MISTRAL,
    "ministral3": MISTRAL,
    "mixtral": MISTRAL,
    "phi3": ("phi4",),
    "olmo2": ("olmo2",),
    "olmoe": ("olmo2",),
    "smollm3": ("smollm3",),
}
"""By transformers' name of the family: its templates; the first whose special tokens the tokenizer has is taken."""
LAST = "vicuna_v1"
"""For models of no such family: it needs no token of its own."""
ConfigT = TypeVar("ConfigT", TrainConfig, PrepareConfig)


class Choice(NamedTuple):
    """A template, and why it was taken."""

    template: TextTemplateConfig | TokenizerTemplateConfig
    why: str


def with_template(config: ConfigT) -> ConfigT:
    """A config in which `auto` is the template that it stands for; says which.

    Raises:
        ModelError, MissingPath: no tokenizer could be loaded.
    """
    return template_and_tokenizer(config)[0]


def template_and_tokenizer(config: ConfigT) -> tuple[ConfigT, Any]:
    """The same, with the `Tokenizer` where one had to be loaded for it, else None."""
    from vicuna_lit.data.tokenizer import tokenizer_of

    if config.template.kind != "auto" or not config.tokenizer_path:
        return config, None
    loaded = tokenizer_of(config)
    found = choice_of(config, loaded.tokenizer)
    name = found.template.name if found.template.kind == "text" else "the model's own"
    print(f"template  {name}: {found.why}", file=sys.stderr)
    return config.model_copy(update={"template": found.template}), loaded


def choice_of(config: Recipe | PrepareRecipe, tokenizer: Any) -> Choice:
    """What `auto` stands for in a config whose tokenizer is loaded."""
    if isinstance(config, PrepareRecipe):
        return choose(tokenizer, [config.tokenizer_path])
    return choose(tokenizer, [config.model.path, config.tokenizer_path], config.model.architecture)


def choose(tokenizer: Any, places: Iterable[str | None], architecture: Mapping[str, Any] | None = None) -> Choice:
    """The template that `auto` stands for.

    Args:
        tokenizer: the model's, loaded.
        places: folders in which its `config.json` may lie; the first one counts.
        architecture: its values, where there is no such file.
    """
    why = "the tokenizer has no chat template of its own"
    if tokenizer.chat_template:
        try:
            TokenizerTemplate(tokenizer)
            return Choice(TokenizerTemplateConfig(kind="tokenizer", variables=None), "it can be proven")
        except TemplateError as error:
            why = f"the model's own cannot be proven ({error})"
    values = next((found for place in places if place and (found := _config_of(place))), architecture or {})
    family = str(values.get("model_type"))
    known = {token.content for token in tokenizer.added_tokens_decoder.values()}
    for name in _llama(values) if family == "llama" else FAMILIES.get(family, ()):
        template = _ours(name)
        if set(template.special) <= known and (not name.endswith("_tekken") or _by_bytes(tokenizer)):
            return Choice(template, f"{why}; this is its family's ({family})")
    return Choice(_ours(LAST), f"{why}, and there is none for its family ({family})")


def _ours(name: str) -> TextTemplateConfig:
    template = template_named(name)
    assert template.kind == "text"
    return template


def _llama(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Llama 3.1 and 3.2 stretch the positions, each in its way. LLaMA 1 and 2 lack the tokens of Llama 3."""
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if rope.get("rope_type", rope.get("type")) == "llama3":
        return ("llama3_2",) if rope.get("factor") == 32 else ("llama3_1",)
    return ("llama3",)


def _by_bytes(tokenizer: Any) -> bool:
    return '"ByteLevel"' in tokenizer.backend_tokenizer.to_str()


def _config_of(place: str) -> dict[str, Any]:
    with suppress(MissingPath, ModelError, OSError, ValueError):
        values = json.loads((locate_model(place) / "config.json").read_bytes())
        return values if isinstance(values, dict) else {}
    return {}
