"""Messages in the forms of other tools → messages with a role and content, one branch, in the order of the talk.

LangChain's, OpenAI's Responses items, harmony's channels, trees whose messages name their parent, camelCase. What says
that a message is not to be imitated (failed, cut off), or was drawn from what is not there, refuses the record.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from vicuna_lit.records.exports import Unusable, branch, is_cut_off
from vicuna_lit.records.field_names import (
    FLAGS,
    is_bad,
    refuse_cited,
    refuse_sources,
    says_thought,
    signs_of_turn,
    snake,
)
from vicuna_lit.records.fields import filled, is_absent, present
from vicuna_lit.records.roles import role_of, speaker
from vicuna_lit.records.tool_parts import holds_tools, split

NO_PARENT = ("00000000-0000-4000-8000-000000000000", "00000000-0000-0000-0000-000000000000")
"""What Claude's and LibreChat's exports write for the parent of a first message."""
_PLAIN = {
    "role", "content", "from", "value", "name", "tool_calls", "tool_call_id", "reasoning_content",
    "weight", "train", "loss", "loss_mask", "trainable", "training", "train_on_turn", "supervised",
}  # fmt: skip
"""Fields that need nothing done to them here; most messages have no others with anything in them."""
_SPEAKER = ("sender", "author", "speaker", "type")
"""Where a message says who speaks, if it has no role."""
_BY_USER = ("is_user", "is_created_by_user")
_PARTS = ("parts", "content_parts", "content_blocks", "content_chunks")
_ID = ("id", "uuid", "message_id", "_id")
_PARENT = ("parent", "parent_id", "parent_uuid", "parent_message_id", "parent_message_uuid", "parent_response_id")
_THOUGHTS = ("reasoning", "thinking", "thought", "thoughts", "analysis")
"""Roles and channels of a message that is what an assistant thought before its next one."""
_FAILED = {
    f"{before}{name}"
    for before in ("", "is_", "was_", "has_")
    for name in (
        "error", "api_error_message", "failed", "unfinished", "incomplete", "partial", "interrupted", "truncated",
        "aborted", "cancelled", "canceled", "stopped", "streaming", "generating", "prefix", "ipython",
    )
}  # fmt: skip
_DONE = ("done", "is_complete", "is_finished", "finished", "completed", "need_eos_token", "eot")
_HIDDEN = ("hidden", "is_hidden", "deleted", "is_deleted", "is_meta", "is_sidechain", "ignore", "ignored", "excluded")
_ENDED = (
    "finish_reason", "stop_reason", "done_reason", "finishReason", "stopReason", "generation_status",
    "incomplete_details",
)  # fmt: skip
_ENDS = frozenset(_ENDED)
_ATTACHED = (
    "attachments", "experimental_attachments", "files", "file_ids", "image_files", "file_attachments",
    "image_attachments",
)  # fmt: skip
_DRAWN_FROM = ("documents", "sources", "citations", "context")
"""What an answer was drawn from; it is in no turn."""
_TAKE_OUT = "take the record out, or the field"
_PUT_IN = "put it there, or take the field out"
_UNREAD = ("tool_invocations", "invalid_tool_calls", "tool_results", "tool_outputs", "steps")
_TIMES = ("timestamp", "created_at", "create_time", "created", "date")
_PLACES = {
    "index", "idx", "position", "order", "seq", "sequence", "turn", "turn_id", "turn_idx", "turn_index", "turn_number",
    "turn_identifier", "message_index", "message_idx",
}  # fmt: skip
"""Where a message may say its place."""
_JITTER = 60
"""Seconds by which a message may be stored before the one that it answers."""


def as_said(messages: list[Any], leaf: Any = None) -> list[Any]:
    """The messages of one branch, with role and content; a list that is in OpenAI's or ShareGPT's form stays as it is.

    Args:
        leaf: the name of the message that the user ended on; None: the last one in the list.

    Raises:
        Unusable: they are in no one order, or one is not to be imitated, or drawn from what is not there.
    """
    if not all(isinstance(m, dict) for m in messages) or all(_is_plain(m) for m in messages):
        return messages
    opened = _branch([_opened(m) for m in _unnested(messages)], leaf)
    _refuse_other_orders(opened)
    opened = [piece for number, m in enumerate(opened, 1) for piece in split(m, f"turn {number}")]
    for number, message in enumerate(opened, 1):
        _refuse(message, f"turn {number}")
    return list(_joined(opened))


def _is_plain(message: dict[str, Any]) -> bool:
    if len(message) == 2 and message.get("from") is not None and "value" in message:
        return message["from"] not in _THOUGHTS  # ShareGPT's: the short way to what the rest would say
    for key, value in message.items():
        if key not in _PLAIN and value is not None:
            return False
    role, content = (message.get("role"), message.get("from")), (message.get("content"), message.get("value"))
    if isinstance(content[0], list) and holds_tools(content[0]):
        return False
    return (role[0] is None) != (role[1] is None) and None in content and not any(one in _THOUGHTS for one in role)


def refuse_cut_off(record: dict[str, Any], where: str, *others: str) -> None:
    """
    Raises:
        Unusable: the record says that its answer was cut off.
    """
    if not others and _ENDS.isdisjoint(record):
        return
    for key in (*_ENDED, *others):
        value = record.get(key)
        value = (value.get("type") or value.get("reason")) if isinstance(value, dict) else value
        if isinstance(value, str) and is_cut_off(value):
            raise Unusable("bad answer", f"{where}: {key} is {value}: the answer was cut off; {_TAKE_OUT}")


def _unnested(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages in one list; of those that hold the ones behind them (`children`), the last of each."""
    inside = [child for m in messages for child in _nested(m)]
    names = {_name(m.get(present(m, *_ID, "messageId") or "")) for m in messages} - {None}
    if not inside or any(_name(child.get(present(child, *_ID, "messageId") or "")) in names for child in inside):
        return messages
    found: list[dict[str, Any]] = []
    while messages:
        found.append(messages[-1])
        messages = _nested(messages[-1])
    return found


def _nested(message: dict[str, Any]) -> list[dict[str, Any]]:
    children = message.get("children")
    return children if isinstance(children, list) and all(isinstance(c, dict) for c in children) else []


def _opened(message: dict[str, Any]) -> dict[str, Any]:
    """One message, out of what it is wrapped in, its fields by the names that are read."""
    inner = next((message[key] for key in ("data", "kwargs", "message", "response") if _wraps(message, key)), None)
    if inner is not None:
        kind = str(message["id"][-1]).removesuffix("Chunk") if isinstance(message.get("id"), list) else None
        kind = kind.removesuffix("Message").lower() if kind else message.get("type")
        message = {k: v for k, v in message.items() if not isinstance(v, dict | list)} | {"type": kind} | inner
    said = {snake(key): value for key, value in message.items()}
    said |= {key: message[key] for key in said.keys() & message.keys() if not is_absent(message[key])}
    if said.get("is_system") is True:  # SillyTavern's notes
        said["role"] = "system"
    if not filled(said, "role", "from"):
        if by_user := present(said, *_BY_USER):
            said["role"] = "user" if said[by_user] else "assistant"
        elif (key := filled(said, *_SPEAKER)) and not (key == "type" and said[key] not in _KINDS):
            speaker = said[key]
            said["role"] = speaker.get("role") if isinstance(speaker, dict) else speaker
    if "parent_uuid" in said and filled(said, "uuid"):  # Claude Code's; the message in it has the server's id
        said["id"] = said["uuid"]
    if "mes" in said and not filled(said, "content"):
        said["content"] = said["mes"]
    for key in said.keys() & _INNER.keys():
        more, names = said[key] or {}, _INNER[key]
        for name in names if isinstance(more, dict) else ():
            if filled(more, name) and not filled(said, name):
                said[name] = more[name]
    return _with_parts(said)


_OF_LANGCHAIN = ("reasoning_content", "tool_calls", "function_call", *_ENDED)
_INNER = {
    "additional_kwargs": _OF_LANGCHAIN, "response_metadata": _OF_LANGCHAIN, "extra": ("reasoning", *_ENDED),
    "meta": _ENDED, "metadata": _ENDED, "generation_info": _ENDED,
}  # fmt: skip
"""Objects in a message, and what is read of them."""
_KINDS = ("human", "ai", "gemini", "system", "tool", "function", "user", "assistant", "developer")
"""Types of messages that are roles; of Responses' items it says something else."""


def _wraps(message: dict[str, Any], key: str) -> bool:
    """Whether a message is in a field of what stands in the list, as LangChain's, Claude Code's and Grok's are."""
    if not isinstance(inner := message.get(key), dict) or filled(message, "role", "from"):
        return False
    return filled(inner, "role", "sender") is not None or "content" in inner


def _with_parts(said: dict[str, Any]) -> dict[str, Any]:
    """With the parts that stand beside a content, where they say more than it.

    Raises:
        Unusable: they say something else.
    """
    key = filled(said, *_PARTS)
    parts = said[key] if key else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        return said
    content = said.get("content")
    said = {name: value for name, value in said.items() if name not in (key, "tool_invocations")}
    if isinstance(content, str) and content:
        text = "".join(
            part["text"] for part in parts if part.get("type") == "text" and isinstance(part.get("text"), str)
        )
        if text.strip() != content.strip():
            raise Unusable("two texts of a turn", f"content and {key} differ; keep one of them")
    return said | {"content": parts}


def _branch(messages: list[dict[str, Any]], leaf: Any) -> list[dict[str, Any]]:
    """The branch that ends with a message, where messages name their parent; otherwise all of them.

    Raises:
        Unusable: two messages have one name, a parent is missing, or several messages have none.
    """
    names = [_name(message.get(present(message, *_ID) or "")) for message in messages]
    parents = [_parent(message) for message in messages]
    if not {parent for parent in parents if parent} & {name for name in names if name}:
        return messages
    if len(set(names)) < len(names) or None in names:
        twice = next(name for name in names if name is None or names.count(name) > 1)
        raise Unusable("broken tree", f"two messages are called {twice!r:.40}" if twice else "a message has no name")
    without = [number for number, parent in enumerate(parents, 1) if parent is None]
    if len(without) > 1:
        raise Unusable(
            "broken tree",
            f"turns {without[0]} and {without[1]} have no parent; keep one branch, or take out the parents",
        )
    nodes = {
        str(name): {"message": message, "parent": None if not parent or (n == 0 and parent not in names) else parent}
        for n, (name, parent, message) in enumerate(zip(names, parents, messages, strict=True))
    }
    end = _name(leaf) if _name(leaf) in nodes else names[-1]
    return [node["message"] for node in branch(nodes, end).values()]


def _name(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and value != "" else None


def _parent(message: dict[str, Any]) -> str | None:
    """The name of the message before; "" where it is said that there is none, None where nothing is said."""
    if isinstance(above := message.get("ancestors"), list):
        return _name(above[-1]) if above else ""
    parent = _name(message.get(present(message, *_PARENT) or ""))
    return "" if parent in NO_PARENT else parent


def _refuse_other_orders(messages: list[dict[str, Any]]) -> None:
    """
    Raises:
        Unusable: by their times the messages stand in another order, as in exports with the newest first.
    """
    for key in messages[0].keys() & _PLACES if messages else ():
        places = [place for m in messages if isinstance(place := m.get(key), int) and not isinstance(place, bool)]
        if len(places) == len(messages) and (
            fall := next((n for n in range(1, len(places)) if places[n] < places[n - 1]), 0)
        ):
            raise Unusable("turns out of order", f"turn {fall + 1} is before turn {fall} by {key}; sort them by it")
    times = [(number, key, at) for number, message in enumerate(messages, 1) for key, at in _time(message)]
    pairs = list(pairwise(times))
    falls = len(pairs) > 1 and all(after[2] < before[2] for before, after in pairs) and times[0][2] - times[-1][2] >= 1
    for before, after in pairs:
        if after[1] == before[1] and (falls or after[2] < before[2] - _JITTER):
            raise Unusable(
                "turns out of order", f"turn {after[0]} is earlier than turn {before[0]} by {after[1]}; sort them by it"
            )


def _time(message: dict[str, Any]) -> Iterator[tuple[str, float]]:
    key = present(message, *_TIMES)
    value = message[key] if key else None
    while isinstance(value, dict) and len(value) == 1:  # MongoDB's {"$date": {"$numberLong": "1700000000000"}}
        value = next(iter(value.values()))
    if isinstance(value, str | datetime):
        try:
            at = value if isinstance(value, datetime) else datetime.fromisoformat(value)
            value = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            value = float(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else None
    if key and isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value / 1000 if value > 1e11 else value


def _refuse(message: dict[str, Any], where: str) -> None:
    """
    Raises:
        Unusable: a message is not to be imitated, or was drawn from what is not there.
    """
    role = speaker(message)
    if key := next((key for key in _HIDDEN if message.get(key) is True), None):
        raise Unusable("hidden turn", f"{where}: {key} is true; take the turn out, or the flag")
    if role not in ("tool", "user"):
        if failed := next(
            (key for key in sorted(message.keys() & _FAILED) if message[key] and filled(message, key)), ""
        ):
            raise Unusable("bad answer", f"{where}: {failed}: the reply failed or was cut off; {_TAKE_OUT}")
        if open_one := next((key for key in _DONE if message.get(key) is False), None):
            raise Unusable("bad answer", f"{where}: {open_one} is false: the reply was not finished; {_TAKE_OUT}")
        refuse_cut_off(message, where, "status")
    if key := filled(message, *_ATTACHED):
        raise Unusable("images and other media", f"{where}: {key}: what they hold is in no turn; {_PUT_IN}")
    for key in _DRAWN_FROM:
        said = message.get(key)
        if said and not is_absent(said) and not (isinstance(said, str) and said in str(message.get("content"))):
            raise Unusable("context beside the turns", f"{where}: {key} is in no turn; {_PUT_IN}")
    refuse_cited(message, where)
    _refuse_by_names(message, role, where)
    if key := filled(message, *_UNREAD):
        raise Unusable("unknown content type", f"{where}: {key}; give calls as tool_calls, results as turns of tool")
    for one, other, of in (("content", "value", str), ("role", "from", role_of)):
        texts = [message.get(one), message.get(other)]
        if len({of(t) for t in texts if isinstance(t, str) and t}) > 1:
            raise Unusable("two texts of a turn", f"{where}: {one} and {other} differ; keep one of them")


def _refuse_by_names(message: dict[str, Any], role: str, where: str) -> None:
    signs = signs_of_turn(tuple(message))
    if signs:
        refuse_sources(message, where)
    for key in signs:
        value = message[key]
        if key in ("tools", "functions") and filled(message, key):
            raise Unusable("tools of a turn", f"{where}: {key}: give them as the record's tools")
        if role == "assistant" and is_bad(key, value):
            raise Unusable("bad answer", f"{where}: {key} is {str(value).lower()}: not to be imitated; {_TAKE_OUT}")
        if role == "assistant" and says_thought(key) and isinstance(value, str | list | dict) and value:
            raise Unusable("thought in an unknown field", f"{where}: {key}; call it reasoning_content, or take it out")


def _joined(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """With thoughts and calls that are messages of their own put into the assistant's turn that they belong to.

    Raises:
        Unusable: a thought without an answer, or an item that nothing here reads.
    """
    held, thought = None, ""
    for number, message in enumerate(messages, 1):
        item = _item(message, f"turn {number}")
        if item is not message and (flag := present(message, *FLAGS)):
            why = "a thought or call that is a turn of its own counts as its reply does"
            raise Unusable("weights within a turn", f"turn {number}: {flag}: {why}")
        if isinstance(item, str):
            thought = "\n\n".join(filter(None, (thought, item)))
            continue
        if item is not message and not thought and held and item["role"] == speaker(held) == "assistant":
            held = held | {"tool_calls": [*(held.get("tool_calls") or ()), *item["tool_calls"]]}
            continue
        if held:
            yield held
        held = item
        if thought:
            if speaker(item) != "assistant" or filled(item, "reasoning_content"):
                raise Unusable("thought without its answer", f"turn {number - 1}: no reply follows it")
            held, thought = item | {"reasoning_content": thought}, ""
    if thought:
        raise Unusable("thought without its answer", f"turn {len(messages)}: no reply follows it")
    if held:
        yield held


def _item(message: dict[str, Any], where: str) -> dict[str, Any] | str:
    """A message; of one that is a thought alone its text."""
    role, kind = message.get("role") or message.get("from"), message.get("type")
    if role is None and kind == "reasoning":
        return _thought_of(message, key, where) if (key := filled(message, "content", "summary")) else ""
    if role is None and kind in ("function_call", "custom_tool_call"):
        given = message.get("arguments") if kind == "function_call" else {"input": message.get("input")}
        call = {"id": message.get("call_id"), "name": message.get("name"), "arguments": given}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if role is None and kind in ("function_call_output", "custom_tool_call_output"):
        return {"role": "tool", "content": message.get("output"), "tool_call_id": message.get("call_id")}
    if role is None and isinstance(kind, str):
        raise Unusable("unknown content type", f"{where}: an item of type {kind!r:.40}")
    if role in _THOUGHTS or message.get("channel") in _THOUGHTS:
        return _thought_of(message, present(message, "content", "value", "text") or "content", where)
    recipient = message.get("recipient")
    if role == "assistant" and "channel" in message and isinstance(recipient, str) and recipient != "all":
        name = recipient.removeprefix("functions.")
        return {"role": "assistant", "content": "", "tool_calls": [{"name": name, "arguments": message.get("content")}]}
    return message


def _thought_of(message: dict[str, Any], key: str, where: str) -> str:
    """
    Raises:
        Unusable: it is neither a text nor a list of parts with texts.
    """
    given = message.get(key)
    blocks = given if isinstance(given, list) else [given]
    texts = [text for b in blocks if isinstance(text := b.get("text") if isinstance(b, dict) else b, str)]
    if len(texts) < len(blocks):
        raise Unusable("wrong type", f"{where}: {key}: a thought that is no text")
    return "\n\n".join(texts)
