"""Conversations: the one type that flows from raw data to training, with its checks and its writer.

What cannot be used becomes a `Rejection` that says why; nothing is dropped silently.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

Role = Literal["system", "user", "assistant", "tool"]

SHAREGPT_ROLES: dict[Role, str] = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}
ALPACA_INPUT = "\n\n### Input:\n"
"""What stands between an Alpaca record's instruction and its input (Stanford Alpaca, `train.py`)."""


class DataError(ValueError):
    """The data as a whole cannot be used; the message says which file and what to do."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message."""

    role: Role
    content: str
    supervised: bool = True
    """Whether the loss is taken on it, if it is an assistant's."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A multi-turn conversation. `id` names its origin, e.g. a ShareGPT id or `file:record`."""

    id: str
    turns: tuple[Turn, ...]

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

    Assistant turns before the first user turn and user turns after the last answer teach nothing
    (there is no question, or no answer); they are cut off. Returns the conversation, or why it
    cannot be used, and how many turns were cut off.
    """
    turns = list(conversation.turns)
    system = [turns.pop(0)] if turns and turns[0].role == "system" else []
    before = len(turns)
    while turns and turns[0].role == "assistant":
        turns.pop(0)
    while turns and turns[-1].role in ("user", "tool"):
        turns.pop()
    cut = before - len(turns)
    if not turns:
        return Rejection(conversation.id, "no answered turn", f"{before} turns, none a question with its answer"), 0
    for i, turn in enumerate(turns):
        if (turn.role == "assistant") != (i % 2 == 1) or turn.role == "system":
            detail = f"turn {i + len(system)} is {turn.role} after {turns[i - 1].role if i else 'the start'}"
            return Rejection(conversation.id, "roles do not alternate", detail), 0
    return replace(conversation, turns=(*system, *turns)), cut


def to_record(conversation: Conversation) -> dict[str, Any]:
    """A ShareGPT record: `{"id", "conversations": [{"from", "value"}]}`.

    A turn out of the loss gets `"weight": 0`, as in OpenAI's fine-tuning form.
    """
    turns = [
        {"from": SHAREGPT_ROLES[t.role], "value": t.content} | ({} if t.supervised else {"weight": 0})
        for t in conversation.turns
    ]
    return {"id": conversation.id, "conversations": turns}


def write_jsonl(conversations: Iterable[Conversation], path: str | Path) -> None:
    """Writes records as `to_record` makes them, one a line."""
    with Path(path).open("wb") as stream:
        stream.writelines(orjson.dumps(to_record(c)) + b"\n" for c in conversations)


def is_heldout(id: str, fraction: float) -> bool:
    """Whether a conversation belongs to the held-out set, by the hash of its original id.

    ShareGPT's pieces are named `<original>_<start>`, the original being seven letters and digits; all
    pieces of one original fall on one side, and adding data never moves a conversation.
    """
    original = re.sub(r"^(\w{7})_\d+$", r"\1", id)
    return int.from_bytes(hashlib.sha256(original.encode()).digest()[:8]) < fraction * 2**64
