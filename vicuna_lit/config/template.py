"""Chat templates as data: the keys of the files in `conf/template`. Which one `auto` takes: `data/auto_template.py`."""

import datetime
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from vicuna_lit.config.base import Config, Role

Trim = Literal["blanks", "blanks_behind", "newlines_before"]
"""What a template takes off a turn's text: white space on both sides, behind it, or newlines before it."""


class ReasoningForm(Config):
    """How an assistant's reasoning stands in its reply."""

    text: str
    """In front of the reply's text; {reasoning} is the reasoning without the newlines around it."""
    absent: str
    """In its place where a reply has none."""
    tags: tuple[str, str] | None
    """Open and close reasoning inside a reply's text, which is then read as reasoning; null: it stays text."""


class ToolForm(Config):
    """How a family writes tools. Slots: {tools} and {with_tools} in `system` or the first `user`."""

    with_tools: str
    """What {with_tools} is where a conversation has tools; nothing where it has none."""
    schemas: str
    """What {tools} is where it has some: {tools} inside stands for every schema."""
    each_schema: str
    """One schema: {tool} is its JSON."""
    indent: int | None
    """Of that JSON; null: on one line."""
    behind_system: str
    """In front of `schemas` where there is a system prompt."""
    call: str
    """One call: {name}, and {arguments} as JSON. Calls stand on lines of their own behind the reply's text."""
    alone: bool
    """Whether a reply is either text or one call; others are refused."""
    results: str
    """Around results that follow one another: {results}."""


class TextTemplateConfig(Config):
    """A chat template as text with slots; see `conf/template`.

    {content} {system} {bos} {eos}, {date}, {json} (a tool's result as a JSON text), {tools} and {with_tools}.
    """

    kind: Literal["text"]
    name: str
    """As the file is called."""
    begin: str
    """Opens the conversation."""
    default_system: str | None
    """The system prompt of conversations without one of their own."""
    default_system_with_input: str | None
    """The same for Alpaca records that have an input."""
    system: str | None
    """A system turn; null where the template has none."""
    user: str
    """A user turn; where {system} stands in it, the system turn is rendered inside the first one."""
    tool: str | None
    """A tool's result; null where the template has none."""
    assistant: str
    """Opens an assistant turn: what generation starts from, never supervised."""
    reply: str
    """The reply and its stop string: supervised."""
    end: str
    """Follows a reply, not supervised."""
    special: tuple[str, ...]
    """Texts that must each be one token, besides {bos} and {eos}."""
    between: str | None
    """Follows a reply and its end where another turn comes; not supervised."""
    date: str | None
    """The form of {date}, as strftime has it; see `template_date`."""
    trims: dict[Role, Trim] | None
    """What is taken off the texts of a role."""
    blank_is_default: bool | None
    """Whether a blank system prompt stands for the default."""
    refused: dict[Role, tuple[str, ...]] | None
    """Texts that turns of a role must not hold: the published template reads them as switches."""
    reasoning: ReasoningForm | Literal["refused"] | None
    """null: in the reply's text, as <think>; refused: conversations with reasoning are."""
    tool_use: ToolForm | Literal["refused"] | None
    """null: calls in the reply's text and schemas behind the system prompt, as JSON; refused: conversations with them
    are."""

    @model_validator(mode="after")
    def _has_content_and_stop(self) -> "TextTemplateConfig":
        for key in ("system", "user", "tool", "reply"):
            text = getattr(self, key)
            if text is not None and text.count("{content}") + text.count("{json}") * (key == "tool") != 1:
                raise ValueError(f"{key} must hold {{content}} once, it is {text!r}")
        if not self.reply.partition("{content}")[2].strip():
            raise ValueError("reply must have a stop string behind {content}, or the model never learns to stop")
        return self


class TokenizerTemplateConfig(Config):
    """The model's own Jinja chat template, where its mask can be proven."""

    kind: Literal["tokenizer"]
    variables: dict[str, bool | int | str] | None
    """What the template's variables are unless a caller sets them, such as {enable_thinking: false}, in the exported
    template too; null: its own."""

    @field_validator("variables")
    @classmethod
    def _are_names(cls, variables: dict[str, Any] | None) -> dict[str, Any] | None:
        for name in variables or ():
            if not re.fullmatch("[a-z_][a-z0-9_]*", name) or name in ("messages", "tools", "add_generation_prompt"):
                raise ValueError(f"{name!r} is no variable that can be set")
        return variables


class AutoTemplateConfig(Config):
    """The model's own where its mask can be proven, else its family's: `vicuna_lit/data/auto_template.py`."""

    kind: Literal["auto"]


def _day(given: Any) -> Any:
    if given is not None:
        try:
            return datetime.date.fromisoformat(str(given)).isoformat()
        except ValueError:
            raise ValueError(f"{given} is no date, such as 2024-07-26") from None
    return None


TemplateDate = Annotated[str | None, BeforeValidator(_day)]
"""What a chat template that writes today's date writes in its place: a date such as 2024-07-26."""
TemplateConfig = Annotated[
    TextTemplateConfig | TokenizerTemplateConfig | AutoTemplateConfig, Field(discriminator="kind")
]
