"""The tokenizer of a config, bound to its template."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from vicuna_lit.data.tokenize import Encoder
from vicuna_lit.paths import ModelError, locate
from vicuna_lit.prepare.config import PrepareConfig
from vicuna_lit.template import Template, TextTemplate
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


def make_encoder(config: TrainConfig | PrepareConfig) -> Encoder:
    """The tokenizer of a config bound to its template and system prompt."""
    tokenizer = load_tokenizer(config.tokenizer_path)
    template: Template
    if config.template.kind == "tokenizer":
        template = TokenizerTemplate(tokenizer, config.system_prompt)
    else:
        prompt = config.system_prompt
        ours = {"default_system": prompt, "default_system_with_input": None}
        text = config.template if prompt is None else config.template.model_copy(update=ours)
        template = TextTemplate(text, tokenizer.bos_token or "", tokenizer.eos_token)
    return Encoder(tokenizer, template)
