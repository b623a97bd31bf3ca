"""Files with one message in each record → a record for each conversation.

Jan's threads and other tables whose rows name their conversation, Open-Assistant's messages (oasst1, oasst2), of which
the tree is put together, and SillyTavern's chats, of which a file is one.
"""

from collections.abc import Iterator
from typing import Any

from vicuna_lit.records.exports import Unusable
from vicuna_lit.records.field_names import snake
from vicuna_lit.records.fields import filled

_CONVERSATION = ("message_tree_id", "thread_id", "conversation_id", "session_id", "chat_id", "dialog_id", "dialogue_id")
"""Where a row says which conversation it belongs to, also in camelCase."""
_SPEAKER = ("role", "from", "sender")
_SAID = ("content", "text", "value", "message", "parts", "tool_calls")
_LISTS = ("messages", "conversations", "conversation", "items", "chat_messages", "responses", "mapping")


def is_row(row: Any) -> bool:
    """Whether a record is one message that names its conversation."""
    if not isinstance(row, dict) or not any(key in row for key in _SPEAKER) or any(key in row for key in _LISTS):
        return False
    return filled(row, *_SPEAKER) is not None and any(key in row for key in _SAID) and bool(name_of(row))


def name_of(row: dict[str, Any]) -> str:
    """The conversation of a row; "" where it names none."""
    for key, value in row.items():
        if snake(key) in _CONVERSATION and isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)
    return ""


def kept(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it stands."""
    return row


def goes_on(rows: list[dict[str, Any]], names: set[str], row: dict[str, Any]) -> bool:
    """Whether a row belongs to the conversation of those before it."""
    return not rows or name_of(row) == name_of(rows[-1])


def conversations(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any] | Unusable]:
    """The one conversation of some rows."""
    if all(row.keys() >= {"message_tree_id", "message_id", "parent_id", "text"} for row in rows):
        yield _tree(rows)
        return
    for number, row in enumerate(rows, 1):
        held = row.get("metadata")
        if isinstance(held, dict) and held.get("tool_calls"):
            yield Unusable("unknown content type", f"turn {number}: metadata.tool_calls: Jan's calls are no turns")
            return
    others = [{key: value for key, value in row.items() if snake(key) not in _CONVERSATION} for row in rows]
    yield {"id": name_of(rows[0]), "messages": others}


def _tree(rows: list[dict[str, Any]]) -> dict[str, Any] | Unusable:
    """Open-Assistant's, as its file of trees has them."""
    nodes = {str(row["message_id"]): row | {"replies": []} for row in rows}
    roots = []
    for node in nodes.values():
        if node["parent_id"] is None:
            roots.append(node)
        elif str(node["parent_id"]) in nodes:
            nodes[str(node["parent_id"])]["replies"].append(node)
        else:
            return Unusable("broken tree", f"message {node['parent_id']!r:.60}, which another answers, is missing")
    if len(roots) != 1:
        return Unusable("broken tree", f"{len(roots)} messages of a tree have no parent")
    tree = {"message_tree_id": rows[0]["message_tree_id"], "prompt": roots[0]}
    return tree | {"tree_state": state} if (state := rows[0].get("tree_state")) else tree


def begins_chat(row: Any) -> bool:
    """Whether a record is the head of a chat of SillyTavern."""
    return isinstance(row, dict) and isinstance(row.get("chat_metadata"), dict) and "messages" not in row


def is_said(row: Any) -> bool:
    """Whether a record is the head of such a chat, or a message of it."""
    return begins_chat(row) or (isinstance(row, dict) and "mes" in row)


def said_only(row: dict[str, Any]) -> dict[str, Any] | None:
    """A message; None: the head, which says who talks and when."""
    return None if begins_chat(row) else row


def in_chat(rows: list[dict[str, Any]], names: set[str], row: dict[str, Any]) -> bool:
    """Whether a record belongs to the chat of those before it."""
    return not rows or not begins_chat(row)


def chats(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any] | Unusable]:
    """The one chat of some rows."""
    yield {"messages": rows}
