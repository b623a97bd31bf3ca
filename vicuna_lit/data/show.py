"""What a model is trained on, token by token."""

import html
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from vicuna_lit.conversation import Conversation
from vicuna_lit.data.tokenize import Encoder, Example, tokenize

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
        """Writes it to the terminal: supervised tokens on green."""
        line = Text()
        for i, (text, supervised) in enumerate(self.tokens):
            line.append(text, style=f"black on {COLOURS[i % 2]}" if supervised else "bright_black")
        Console().print(line)


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
    """The tokens of a conversation and which of them the loss is taken on.

    Raises:
        TemplateError: the conversation would be rejected; the message says why.
    """
    example = conversation if isinstance(conversation, Example) else tokenize(conversation, encoder)
    pieces = _pieces(encoder, example.input_ids.tolist())
    return MaskView(tuple(zip(pieces, example.supervised.tolist(), strict=True)))


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
