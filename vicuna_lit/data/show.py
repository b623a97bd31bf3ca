"""A conversation with its mask in colour: what the model is trained on, token by token."""

import html
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from vicuna_lit.conversation import Conversation
from vicuna_lit.data.tokenize import Encoder, Example
from vicuna_lit.template import TemplateError

COLOURS = ("#bfe8c5", "#9fd8a9")
"""Two greens in turn, so that the tokens can be told apart."""


@dataclass(frozen=True)
class MaskView:
    """Prints in colour in a terminal, draws itself in a notebook; `str()` marks supervised text with ⟦ ⟧."""

    tokens: tuple[tuple[str, bool], ...]

    def _repr_html_(self) -> str:
        spans = []
        for i, (text, supervised) in enumerate(self.tokens):
            shown = html.escape(text).replace("\n", "↵<br>")
            style = f"background:{COLOURS[i % 2]};color:#000" if supervised else "color:#888"
            spans.append(f'<span style="{style}">{shown}</span>')
        count = sum(s for _, s in self.tokens)
        legend = f"{count} of {len(self.tokens)} tokens supervised (green)"
        body = "".join(spans)
        return f'<div style="font-family:monospace;white-space:pre-wrap">{body}<br><small>{legend}</small></div>'

    def __str__(self) -> str:
        out, inside = [], False
        for text, supervised in self.tokens:
            if supervised != inside:
                out.append("⟦" if supervised else "⟧")
            out.append(text)
            inside = supervised
        return "".join(out) + ("⟧" if inside else "")

    def print(self) -> None:
        """Writes it to the terminal: supervised tokens on green."""
        line = Text()
        for i, (text, supervised) in enumerate(self.tokens):
            line.append(text, style=f"black on {COLOURS[i % 2]}" if supervised else "bright_black")
        Console().print(line)


def show_mask(conversation: Conversation | Example, encoder: Encoder) -> MaskView:
    """The tokens of a conversation and which of them the loss is taken on.

    Raises:
        TemplateError: the conversation would be rejected; the message says why.
    """
    if isinstance(conversation, Example):
        example = conversation
    else:
        example = encoder.encode([conversation])[0]
        if not isinstance(example, Example):
            raise TemplateError(f"rejected: {example.reason}: {example.detail}")
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
