"""What a model writes although its chat template has no field for it: thoughts that the prompt opens or that stand in
the text, and calls in the form that the template itself describes."""

import json
import re
from dataclasses import replace
from typing import NamedTuple

from vicuna_lit.records.conversation import INLINE_THOUGHT, Turn

OPENED = re.compile(r"<think>\s*\Z")
"""A prompt that ends so lets the reply begin inside a thought (DeepSeek-R1, QwQ, Qwen3 Thinking)."""
_EMPTY = re.compile(
    r"(?:<think>\s*)?</think>\s*\Z|<\|START_THINKING\|><\|END_THINKING\|>\Z|<\|channel>thought\n<channel\|>\Z"
)
"""An empty thought, or its end, that a prompt adds where the model is to answer at once."""
_THINKS = re.compile(r"\s*</?think>|\s*<\|START_THINKING|\s*<\|channel>thought")
_NEWLINES = re.compile(r"</think>((?:\\n|\n)+)")
_CALL = '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
"""How templates that have tools but write no calls tell the model to call (SmolLM3)."""
NO_THOUGHT = "the tokenizer's chat template opens a thought in its prompt, and this reply has none"
CLOSED = "the tokenizer's chat template closes the thought in its prompt, and this reply has one"
ONE_TOKEN = "the prompt opens a thought which the template leaves empty: the newlines between its tags are one token"


class InText(NamedTuple):
    """What of a turn stands in its text, by a template's source."""

    newlines: str | None
    """Between the end of a thought and the answer; None: thoughts do not stand in the text."""
    calls: bool

    @classmethod
    def of(cls, template: str, has_field: bool) -> "InText":
        """
        Args:
            has_field: whether messages have a field for thoughts.
        """
        found = _NEWLINES.search(template)
        newlines = (found[1].replace("\\n", "\n") if found else "\n\n") if "</think>" in template else None
        plain = template.replace('\\"', '"').replace("\\n", "\n")
        return cls(None if has_field else newlines, _CALL in plain and "tool_calls" not in template)

    def moved(self, turn: Turn) -> Turn:
        """A turn with thoughts and calls in its text, if they stand there."""
        content, calls = turn.content, turn.tool_calls
        if self.calls and calls:
            written = (f'<tool_call>\n{{"name": {_json(c.name)}, "arguments": {_json(c.values)}}}\n</tool_call>'
                       for c in calls)  # fmt: skip
            content, calls = "\n".join(filter(None, (content, *written))), ()
        if self.newlines is None or not turn.reasoning:
            return replace(turn, content=content, tool_calls=calls)
        thought = f"<think>\n{turn.reasoning}\n</think>{self.newlines}"
        return replace(turn, content=thought + content, tool_calls=calls, reasoning="")


def thought_of(turn: Turn) -> str:
    """What an assistant thought, from its field or the beginning of its text."""
    inline = INLINE_THOUGHT.match(turn.content)
    return (turn.reasoning or (inline[2] if inline else "")).strip()


class Opening(NamedTuple):
    """What a reply begins with behind a prompt that has opened a thought, and that the template does not write."""

    thought: str = ""
    newlines: str = ""

    @property
    def text(self) -> str:
        """The thought and its end; "" where the reply begins otherwise."""
        return f"{self.thought}\n</think>{self.newlines}" if self.thought else ""


def opening(prompt: str, written: str, turn: Turn, newlines: str | None) -> tuple[int, Opening] | None:
    """Where a reply begins if the prompt ends in a thought that `written`, the template's text with the reply, lacks,
    and what is generated before that; None: something else is other."""
    opened = OPENED.search(prompt) if thought_of(turn) else None
    found = opened or _EMPTY.search(prompt)
    if found is None or not written.startswith(prompt[: found.start()]) or _THINKS.match(written, found.start()):
        return None
    if found is not opened:
        return found.start(), Opening()
    rest = written[found.start() :].lstrip("\n")  # the newlines that stood behind the thought
    return len(written) - len(rest), Opening(thought_of(turn), newlines or "\n\n")


def unfit(prompt: str, turn: Turn) -> str | None:
    """Why a reply is none that is generated behind a prompt, by its thought."""
    if thought_of(turn):
        return CLOSED if _EMPTY.search(prompt) else None
    return NO_THOUGHT if OPENED.search(prompt) else None


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
