"""The tokenizer of a config, bound to its template."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from vicuna_lit.config import TemplateConfig, TokenizerTemplateConfig
from vicuna_lit.data.tokenize import Encoder
from vicuna_lit.paths import ModelError, locate
from vicuna_lit.prepare.config import PrepareConfig
from vicuna_lit.template import Template, TextTemplate, template_named
from vicuna_lit.tokenizer_template import TokenizerTemplate
from vicuna_lit.train.config import TrainConfig


def need_package(name: str, asked_by: str, extra: str) -> None:
    """
    Raises:
        ModelError: an optional package is not installed.
    """
    if find_spec(name) is None:
        raise ModelError(f"{asked_by} needs {name}: pip install 'vicuna_lit[{extra}]'")


def source(path: Path) -> dict[str, Any]:
    """A folder or a `.gguf` file as arguments of `from_pretrained`; nothing is ever fetched."""
    if path.suffix == ".gguf":
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "local_files_only": True}
    return {"pretrained_model_name_or_path": str(path), "local_files_only": True}


def load_tokenizer(folder: str) -> Any:
    """The tokenizer in a folder or beside a model's weights.

    Raises:
        ModelError: there is none, or it has no EOS token.
    """
    path = locate(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source(path))
    except Exception as error:  # transformers raises many kinds
        raise ModelError(f"{path}: no tokenizer could be loaded: {' '.join(str(error).split())[:200]}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{path}: the tokenizer has no EOS token, so no reply could end; set eos_token in its files")
    tokenizer.model_max_length = int(1e30)
    return tokenizer


def make_encoder(
    tokenizer: TrainConfig | PrepareConfig | str | Path,
    template: str | TemplateConfig | None = None,
    system_prompt: str | None = None,
) -> Encoder:
    """A tokenizer bound to a template: `make_encoder(config)`, or `make_encoder("my/tokenizer", "chatml")`.

    Args:
        tokenizer: a config, or the folder of a tokenizer or model, or a `.gguf` file.
        template: a name of `conf/template`, or a template's config; None: the config's, or the tokenizer's own.
        system_prompt: for conversations without a system turn; None: the config's, or the template's.

    Raises:
        ModelError, MissingPath: no tokenizer could be loaded.
        TemplateError: there is no such template, or the tokenizer lacks a token that it needs.
    """
    if isinstance(tokenizer, str | Path):
        loaded, own, prompt = load_tokenizer(str(tokenizer)), TokenizerTemplateConfig(kind="tokenizer"), None
    else:
        loaded = load_tokenizer(tokenizer.tokenizer_path)
        own, prompt = tokenizer.template, tokenizer.system_prompt
    chosen = own if template is None else template_named(template) if isinstance(template, str) else template
    return Encoder(loaded, bind(loaded, chosen, prompt if system_prompt is None else system_prompt))


def bind(tokenizer: Any, template: TemplateConfig, system_prompt: str | None = None) -> Template:
    """A template with a tokenizer's BOS and EOS, and a system prompt of one's own."""
    if template.kind == "tokenizer":
        return TokenizerTemplate(tokenizer, system_prompt)
    if system_prompt is not None:
        ours = {"default_system": system_prompt, "default_system_with_input": None}
        template = template.model_copy(update=ours)
    return TextTemplate(template, tokenizer.bos_token or "", tokenizer.eos_token)
