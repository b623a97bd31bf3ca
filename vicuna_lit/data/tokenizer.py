"""The tokenizer of a config, bound to its template."""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken
from transformers import AutoTokenizer

from vicuna_lit.config.prepare import PrepareRecipe
from vicuna_lit.config.template import TemplateConfig, TokenizerTemplateConfig
from vicuna_lit.config.train import Recipe
from vicuna_lit.data.auto_template import choice_of, choose
from vicuna_lit.data.chat_template import Template, TemplateError, TextTemplate, template_named
from vicuna_lit.data.encoder import Encoder
from vicuna_lit.data.jinja_template import TokenizerTemplate
from vicuna_lit.data.model_folder import refuse_no_tokenizer, refuse_odd_files, told_as_model_error
from vicuna_lit.data.template_jinja import in_front, quote
from vicuna_lit.hub import fetched_path
from vicuna_lit.paths import ModelError, locate_model


class Tokenizer(NamedTuple):
    """A tokenizer that is loaded, and the ids of the tokens that it got besides its own."""

    tokenizer: Any
    new: tuple[int, ...] = ()


def pretrained_kwargs(path: Path) -> dict[str, Any]:
    """A folder or a `.gguf` file as arguments of `from_pretrained`; nothing is fetched, no code of a folder is run.

    Raises:
        ModelError: a file of the folder is none that can be read.
    """
    refuse_odd_files(path)
    safe = {"local_files_only": True, "trust_remote_code": False}
    if path.suffix == ".gguf":
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, **safe}
    return {"pretrained_model_name_or_path": str(path), **safe}


def load_tokenizer(folder: str) -> Any:
    """The tokenizer in a folder or beside a model's weights.

    Raises:
        ModelError: there is none, or it has no EOS token.
    """
    path = locate_model(folder)
    refuse_no_tokenizer(path)
    with told_as_model_error(f"{path}: no tokenizer could be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(**pretrained_kwargs(path))
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{path}: the tokenizer has no EOS token, so no reply could end; set eos_token in its files")
    tokenizer.model_max_length = int(1e30)
    return tokenizer


def tokenizer_of(config: Recipe | PrepareRecipe) -> Tokenizer:
    """A config's tokenizer, with the special tokens that `model.add_tokens` names, of prepare `add_tokens`.

    Raises:
        ModelError, MissingPath: as `load_tokenizer`.
    """
    loaded = load_tokenizer(fetched_path(config.tokenizer_path, "model", weights=False))
    named = config.add_tokens if isinstance(config, PrepareRecipe) else config.model.add_tokens
    return Tokenizer(loaded, add_tokens(loaded, named or ()))


def add_tokens(tokenizer: Any, tokens: Sequence[str]) -> tuple[int, ...]:
    """Makes texts special tokens of a tokenizer; the ids of those that it did not know.

    What it has added already stays as it is; a piece of its vocabulary becomes special under the id that it has.
    """
    known = tokenizer.get_vocab()
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    wanted = [AddedToken(token, special=True, normalized=False) for token in tokens if token not in added]
    if wanted:
        tokenizer.add_tokens(wanted, special_tokens=True)
    return tuple(tokenizer.convert_tokens_to_ids(token) for token in tokens if token not in known)


def make_encoder(
    tokenizer: Recipe | PrepareRecipe | str | Path,
    template: str | TemplateConfig | None = None,
    system_prompt: str | None = None,
    date: str | None = None,
    loaded: Tokenizer | None = None,
) -> Encoder:
    """A tokenizer bound to a template: `make_encoder(config)`, or `make_encoder("my/tokenizer", "chatml")`.

    Args:
        tokenizer: a config, or the folder of a tokenizer or model, a `.gguf` file or a name on the Hub.
        template: a name of `conf/template`, or a template's config; None: the config's, or the tokenizer's own.
        system_prompt: for conversations without a system turn; None: the config's, or the template's.
        date: for templates that write today's date, `2024-07-26`; None: the config's, or today's.
        loaded: the config's tokenizer, where somebody has loaded it.

    Raises:
        ModelError, MissingPath: no tokenizer could be loaded.
        TemplateError: there is no such template, or the tokenizer lacks a token that it needs.
    """
    if isinstance(tokenizer, str | Path):
        found = loaded or Tokenizer(load_tokenizer(fetched_path(tokenizer, "model", weights=False)))
        own, prompt = TokenizerTemplateConfig(kind="tokenizer", variables=None), None
    else:
        found = loaded or tokenizer_of(tokenizer)
        own, prompt = tokenizer.template, tokenizer.system_prompt
        own = choice_of(tokenizer, found.tokenizer).template if own.kind == "auto" else own
        date = date or getattr(tokenizer, "template_date", None)
    chosen = own if template is None else template_named(template) if isinstance(template, str) else template
    bound = bind(found.tokenizer, chosen, prompt if system_prompt is None else system_prompt, date)
    return Encoder(found.tokenizer, bound, found.new)


def bind(
    tokenizer: Any, template: TemplateConfig, system_prompt: str | None = None, date: str | None = None
) -> Template:
    """A template with a tokenizer's BOS and EOS, a system prompt of one's own, and the date where it writes one."""
    chosen = choose(tokenizer, [tokenizer.name_or_path]).template if template.kind == "auto" else template
    if chosen.kind == "tokenizer":
        return TokenizerTemplate(with_variables(tokenizer, chosen.variables), system_prompt, date=date)
    if system_prompt is not None:
        if switch := next((s for s in (chosen.refused or {}).get("system", ()) if s in system_prompt), None):
            raise TemplateError(f"system_prompt: template {chosen.name} reads {switch} in it as a switch")
        ours = {"default_system": system_prompt, "default_system_with_input": None}
        chosen = chosen.model_copy(update=ours)
    dated = {} if date is None else {"date": date}
    return TextTemplate(chosen, tokenizer.bos_token or "", tokenizer.eos_token, **dated)


def with_variables(tokenizer: Any, variables: Mapping[str, bool | int | str] | None) -> Any:
    """A tokenizer whose chat template has other variables, unless a caller sets them.

    Raises:
        TemplateError: its template reads no such variable.
    """
    if not variables or not tokenizer.chat_template:
        return tokenizer
    for name in variables:
        if not re.search(rf"\b{name}\b", str(tokenizer.chat_template)):
            raise TemplateError(f"template.variables: the tokenizer's chat template reads no {name}")
    values = {name: quote(v) if isinstance(v, str) else str(v).lower() for name, v in variables.items()}
    sets = (f"{{% if {n} is not defined %}}{{% set {n} = {v} %}}{{% endif %}}" for n, v in values.items())
    other = copy.copy(tokenizer)
    other.chat_template = in_front("".join(sets), tokenizer.chat_template)
    return other
