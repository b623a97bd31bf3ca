"""One conversation under several templates and tokenizers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vicuna_lit.conversation import Conversation
from vicuna_lit.data.show import MaskGrid, MaskView, show_mask
from vicuna_lit.data.tokenize import Encoder
from vicuna_lit.template import TemplateError, template_named
from vicuna_lit.tokenizer import bind, load_tokenizer


def show_masks(
    conversation: Conversation,
    tokenizers: Mapping[str, str | Path],
    templates: Sequence[str],
    system_prompt: str | None = None,
) -> MaskGrid:
    """The masks of a conversation side by side: a row for each template, a column for each tokenizer.

    Args:
        tokenizers: a folder or a `.gguf` file by the title of its column.
        templates: names of `conf/template`.
        system_prompt: for a conversation without a system turn; None: each template's own.

    Raises:
        ModelError, MissingPath: a tokenizer could not be loaded.
        TemplateError: there is no template of a name. What a template refuses stands in its cell.
    """
    configs = {name: template_named(name) for name in templates}
    loaded = {title: load_tokenizer(str(folder)) for title, folder in tokenizers.items()}

    def cell(tokenizer: Any, name: str) -> MaskView | str:
        try:
            return show_mask(conversation, Encoder(tokenizer, bind(tokenizer, configs[name], system_prompt)))
        except TemplateError as refusal:
            return str(refusal)

    return MaskGrid({name: {title: cell(one, name) for title, one in loaded.items()} for name in templates})
