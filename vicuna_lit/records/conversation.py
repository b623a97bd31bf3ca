"""Conversations: the one type that flows from raw data to training, with its checks and its writer.

What cannot be used becomes a `Rejection` that says why; nothing is dropped silently.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import orjson

from vicuna_lit.config.base import Role
from vicuna_lit.config.prepare import PersonalData

SHAREGPT_ROLES: dict[Role, str] = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}
ALPACA_INPUT = "\n\n### Input:\n"
"""What stands between an Alpaca record's instruction and its input (Stanford Alpaca, `train.py`)."""
SOURCE = "source"
"""Key of a record that `vicuna-prepare` wrote of several sources: the name of its own."""
INLINE_THOUGHT = re.compile(r"(\s*<think>)(.*?)(</think>)", re.DOTALL)
"""Thoughts that stand at the beginning of an assistant's text, as most records of reasoning have them."""

INVISIBLE = re.compile(r"[\s\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u2064\ufeff\x00-\x1f\x7f-\x9f]*+")
_PIECE = re.compile(r"^(\w{7}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_\d+$")
PLACEHOLDER = re.compile(rf"\[(?:{'|'.join(get_args(PersonalData)).upper()})\]")
"""What `vicuna-prepare` puts in the place of personal data."""


class DataError(ValueError):
    """The data as a whole cannot be used; the message says which file and what to do."""


class ToolCall(NamedTuple):
    """What an assistant asks a tool to do."""

    name: str
    arguments: str = "{}"
    """JSON of an object; any text where a model wrote no JSON."""
    id: str = ""
    """Names the call, for the tool's turn that answers it."""

    @property
    def values(self) -> Any:
        """The arguments as templates take them: an object, or the text that is no JSON of one."""
        try:
            values = json.loads(self.arguments)
        except (ValueError, RecursionError):
            return self.arguments
        return values if isinstance(values, dict) else self.arguments

    @property
    def python(self) -> str:
        """The arguments as Python prints them, where that is no JSON: what a template must not write."""
        return repr(self.values) if isinstance(self.values, dict) and "'" in repr(self.values) else ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message."""

    role: Role
    content: str
    supervised: bool = True
    """Whether the loss is taken on it, if it is an assistant's."""
    reasoning: str = ""
    """What an assistant thought before it answered."""
    tool_calls: tuple[ToolCall, ...] = ()
    """What an assistant asks for, behind its text."""
    name: str = ""
    """Of the tool whose result this is."""
    call_id: str = ""
    """The call that a tool's result answers."""
    weight: float = 1.0
    """How much each of its tokens counts in the loss, if it is an assistant's and supervised; above 0."""

    @property
    def is_empty(self) -> bool:
        """Whether it has no visible character and no call; a thought before it does not count."""
        return not (self.tool_calls or self.content[:1].isalnum()) and INVISIBLE.fullmatch(self.content) is not None

    @property
    def in_text(self) -> str:
        """Reasoning, content and calls as one text, for templates that have no form of their own for them."""
        if not (self.reasoning or self.tool_calls):
            return self.content
        thought = f"<think>\n{self.reasoning}\n</think>\n\n" if self.reasoning else ""
        calls = (json.dumps({"name": c.name, "arguments": c.values}, ensure_ascii=False) for c in self.tool_calls)
        return thought + "\n".join(filter(None, (self.content, *calls)))


@dataclass(frozen=True, slots=True)
class Conversation:
    """A multi-turn conversation. `id` names its origin: a ShareGPT id, or `<file>:<record>`, from 1."""

    id: str
    turns: tuple[Turn, ...]
    tools: str = ""
    """JSON of a list: the schemas of the tools that the assistant may call; "" where there are none."""
    marks_removed: int = field(default=0, compare=False)
    """Marks of search results that a reader took out of the answers."""
    said: str = field(default="", compare=False)
    """Of a record without an id of its own: a hash of all that its user says, as it was read."""
    score: float = field(default=math.nan, compare=False)
    """The number of its record that `data.score_field` names; not a number where none is read."""
    source: str = field(default="", compare=False)
    """The one of several named sources that `vicuna-prepare` read it from."""

    @property
    def split_key(self) -> str:
        """What decides whether it is held out, see `is_validation`. The place in a file is no part of it."""
        return self.said or self.id

    @classmethod
    def of(cls, *contents: str, id: str = "", system: str | None = None) -> "Conversation":
        """Builds one by hand: `Conversation.of("Hi!", "Hello.", "Who are you?")`, user first."""
        turns = [Turn("system", system)] if system is not None else []
        turns += [Turn("assistant" if i % 2 else "user", text) for i, text in enumerate(contents)]
        return cls(id, tuple(turns))

    def say(self, role: Role, content: str) -> "Conversation":
        """The conversation with one more turn."""
        return replace(self, turns=(*self.turns, Turn(role, content)))


class Rejection(NamedTuple):
    """Why a record (or a part of one) is not used. `reason` is one of a few fixed phrases."""

    id: str
    reason: str
    detail: str = ""


def trim(conversation: Conversation) -> tuple[Conversation | Rejection, int]:
    """Checks the order of the turns: an optional system turn, then user (or tool) and assistant in turn.

    Several results of tools may follow one another, and a user may speak behind one, as who stops a call does.

    Assistant turns before the first user turn, with the results of their calls, and user turns after the last answer
    teach nothing (there is no question, or no answer); they are cut off. Returns the conversation, or why it
    cannot be used, and how many turns were cut off.
    """
    turns = list(conversation.turns)
    system = [turns.pop(0)] if turns and turns[0].role == "system" else []
    before = len(turns)
    while turns and (turns[0].role == "assistant" or (len(turns) < before and turns[0].role == "tool")):
        turns.pop(0)
    while turns and turns[-1].role in ("user", "tool"):
        turns.pop()
    cut = before - len(turns)
    if not turns:
        return Rejection(
            conversation.id, "no answered turn", f"{before} turn{'s' * (before != 1)}, none a question with its answer"
        ), 0
    for number, (before_it, turn) in enumerate(zip((None, *turns), turns, strict=False), 1 + len(system)):
        if not follows(turn, before_it):
            detail = f"turn {number} is {turn.role} after {before_it.role if before_it else 'the start'}"
            return Rejection(conversation.id, "roles do not alternate", detail), 0
    return (replace(conversation, turns=(*system, *turns)) if cut else conversation), cut


def follows(turn: Turn, before: Turn | None) -> bool:
    """Whether a turn may stand behind another, or (None) begin the conversation behind its system turn."""
    match turn.role:
        case "assistant":
            return before is not None and before.role != "assistant"
        case "user":
            return before is None or before.role in ("assistant", "tool")
        case "tool":
            return before is None or before.role != "user"
        case "system":
            return False


def to_record(conversation: Conversation) -> dict[str, Any]:
    """A ShareGPT record: `{"id", "conversations": [{"from", "value"}]}`.

    What ShareGPT has no form for stands as in OpenAI's: `"weight": 0` on a turn out of the loss, `tool_calls`,
    `reasoning_content`, `tools`. One that was read from a named source has its `source`.
    """
    turns = [_turn_record(turn) for turn in conversation.turns]
    others = {"tools": conversation.tools, SOURCE: conversation.source}
    return {"id": conversation.id, "conversations": turns} | {key: value for key, value in others.items() if value}


def _turn_record(turn: Turn) -> dict[str, Any]:
    calls = [
        {"type": "function", "function": {"name": c.name, "arguments": c.arguments}} | ({"id": c.id} if c.id else {})
        for c in turn.tool_calls
    ]
    others = {
        "reasoning_content": turn.reasoning,
        "tool_calls": calls,
        "name": turn.name,
        "tool_call_id": turn.call_id,
    }
    record = {"from": SHAREGPT_ROLES[turn.role], "value": turn.content} | {k: v for k, v in others.items() if v}
    if turn.supervised and turn.weight == 1:
        return record
    return record | {"weight": turn.weight if turn.supervised else 0}


def write_jsonl(conversations: Iterable[Conversation], path: str | Path) -> None:
    """Writes records as `to_record` makes them, one a line."""
    with Path(path).open("wb") as stream:
        stream.writelines(orjson.dumps(to_record(c)) + b"\n" for c in conversations)


def said_by_user(conversation: Conversation) -> str:
    """A hash of the user's turns: other answers, another system prompt, file or line leave it as it is."""
    said = [turn.content for turn in conversation.turns if turn.role == "user"]
    return hashlib.sha256(json.dumps(said or [t.content for t in conversation.turns]).encode()).hexdigest()


def is_validation(id: str, fraction: float) -> bool:
    """Whether a conversation belongs to the held-out set, by the hash of its original id (its `split_key`).

    Pieces are named `<original>_<start>`, the original being ShareGPT's seven letters and digits or a UUID; all
    pieces of one original fall on one side, and adding data never moves a conversation.
    """
    original = _PIECE.sub(r"\1", id)
    return int.from_bytes(hashlib.sha256(original.encode()).digest()[:8]) < fraction * 2**64
