"""What a model is trained on, token by token."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from vicuna_lit.data.chat_template import TemplateError, template_named
from vicuna_lit.data.encoder import Encoder, Example, proven
from vicuna_lit.data.tokenizer import bind, load_tokenizer
from vicuna_lit.hub import fetched_path
from vicuna_lit.pages import visible
from vicuna_lit.records.conversation import Conversation

COLOURS = ("#bfe8c5", "#9fd8a9")
"""Two greens in turn, so that the tokens can be told apart."""


@dataclass(frozen=True, repr=False)
class MaskView:
    """Prints in colour in a terminal, draws itself in a notebook; `str()` marks supervised text with ⟦ ⟧."""

    tokens: tuple[tuple[str, bool], ...]

    @property
    def supervised(self) -> int:
        """How many tokens the loss is taken on."""
        return sum(supervised for _, supervised in self.tokens)

    def _repr_html_(self) -> str:
        spans = []
        for i, (text, supervised) in enumerate(self.tokens):
            shown = html.escape(text).replace("\n", "↵<br>")
            # A <mark> stays marked where a page's styles are taken away, as on GitHub.
            style = f"background:{COLOURS[i % 2]};color:#000"
            spans.append(f'<mark style="{style}">{shown}</mark>' if supervised else shown)
        legend = f"{self.supervised} of {len(self.tokens)} tokens supervised (marked)"
        body = "".join(spans)
        style = "font-family:monospace;white-space:pre-wrap;text-align:left;color:#777"
        return f'<div style="{style}"><div>{body}</div><div><small>{legend}</small></div></div>'

    def __str__(self) -> str:
        out, inside = [], False
        for text, supervised in self.tokens:
            if supervised != inside:
                out.append("⟦" if supervised else "⟧")
            out.append(text)
            inside = supervised
        return "".join(out) + ("⟧" if inside else "")

    __repr__ = __str__

    def print(self) -> None:
        """Writes it to the terminal: supervised tokens on green; between ⟦ ⟧ where there are no colours."""
        console = Console(emoji=False, soft_wrap=True, highlight=False)
        if console.color_system is None or console.no_color:
            console.print(visible(str(self)), markup=False, emoji=False)
            return
        line = Text()
        for i, (text, supervised) in enumerate(self.tokens):
            line.append(visible(text), style=f"black on {COLOURS[i % 2]}" if supervised else "bright_black")
        console.print(line)


@dataclass(frozen=True, repr=False)
class MaskGrid:
    """The same conversation under several templates (rows) and tokenizers (columns); a refusal stands as its reason."""

    rows: Mapping[str, Mapping[str, MaskView | str]]

    def _repr_html_(self) -> str:
        titles = dict.fromkeys(title for row in self.rows.values() for title in row)
        head = "".join(f'<th style="text-align:left">{html.escape(title)}</th>' for title in titles)
        lines = [f"<tr><th></th>{head}</tr>"]
        for name, row in self.rows.items():
            cells = "".join(f'<td style="vertical-align:top;text-align:left">{_cell(row[t])}</td>' for t in titles)
            title = f'<th style="vertical-align:top;text-align:left;width:1%">{html.escape(name)}</th>'
            lines.append(f"<tr>{title}{cells}</tr>")
        return f'<table style="width:100%;table-layout:auto">{"".join(lines)}</table>'

    def __str__(self) -> str:
        return "\n\n".join(f"{name}, {t}:\n{cell}" for name, row in self.rows.items() for t, cell in row.items())

    __repr__ = __str__


def _cell(cell: MaskView | str) -> str:
    return cell._repr_html_() if isinstance(cell, MaskView) else f"<i>{html.escape(cell)}</i>"


def show_mask(conversation: Conversation | Example, encoder: Encoder) -> MaskView:
    """The tokens of a conversation and which of them the loss is taken on; of all examples that it becomes.

    Raises:
        TemplateError: the conversation would be rejected; the message says why.
    """
    unfolded = [conversation] if isinstance(conversation, Example) else proven(encoder.unfold([conversation])[0])
    tokens: list[tuple[str, bool]] = []
    for example in unfolded:
        first, *others = _pieces(encoder, example.input_ids.tolist())
        pieces = [f"\n\n{first}" if tokens else first, *others]
        tokens += zip(pieces, example.supervised.tolist(), strict=True)
    return MaskView(tuple(tokens))


def _pieces(encoder: Encoder, ids: list[int]) -> list[str]:
    """The text of each token; bytes of a character split over tokens show at the last of them."""
    pieces, held = [], []
    for id in ids:
        held.append(id)
        text = encoder.decode(held)
        whole = not text.endswith("�") or len(held) > 4
        pieces.append(text if whole else "")
        held = [] if whole else held
    return pieces


def show_masks(
    conversation: Conversation,
    tokenizers: Mapping[str, str | Path],
    templates: Sequence[str],
    system_prompt: str | None = None,
) -> MaskGrid:
    """The masks of a conversation side by side: a row for each template, a column for each tokenizer.

    Args:
        tokenizers: a folder, a `.gguf` file or a name on the Hub by the title of its column.
        templates: names of `conf/template`.
        system_prompt: for a conversation without a system turn; None: each template's own.

    Raises:
        ModelError, MissingPath: a tokenizer could not be loaded.
        TemplateError: there is no template of a name. What a template refuses stands in its cell.
    """
    configs = {name: template_named(name) for name in templates}
    loaded = {
        title: load_tokenizer(fetched_path(folder, "model", weights=False)) for title, folder in tokenizers.items()
    }

    def cell(tokenizer: Any, name: str) -> MaskView | str:
        try:
            return show_mask(conversation, Encoder(tokenizer, bind(tokenizer, configs[name], system_prompt)))
        except TemplateError as refusal:
            return str(refusal)

    return MaskGrid({name: {title: cell(one, name) for title, one in loaded.items()} for name in templates})
