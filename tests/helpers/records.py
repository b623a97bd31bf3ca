"""Records of other tools in small, and what they become in one line."""

from typing import Any

from vicuna_lit.records.conversation import Conversation, Rejection, trim
from vicuna_lit.records.readers import parse

Q, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


def shown(record: Any, columns: dict[str, str] | None = None) -> str:
    """A conversation in one line: `a(thought) text call{}`, out of the loss in brackets; or why it is refused."""
    found = parse(record, "x", columns)
    found = trim(found)[0] if isinstance(found, Conversation) else found
    if isinstance(found, Rejection):
        return f"refused: {found.reason}: {found.detail}"
    turns = []
    for turn in found.turns:
        thought = f"({turn.reasoning})" if turn.reasoning else ""
        calls = "".join(f" {call.name}{call.arguments}" for call in turn.tool_calls)
        text = f"{turn.role[0]}{thought} {turn.content}{calls}"
        turns.append(text if turn.supervised or turn.role != "assistant" else f"[{text}]")
    return " | ".join(turns) + (f" ; {found.tools}" if found.tools else "")
