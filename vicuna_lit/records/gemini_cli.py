"""Gemini CLI's session files (`~/.gemini/tmp/*/chats/session-*.json`, `.jsonl`) → the conversation that they hold.

After `ConversationRecord` of github.com/google-gemini/gemini-cli (packages/core/src/services/chatRecordingTypes.ts and
chatRecordingService.ts). Its thoughts are the summaries that the server gives. The schemas of tools, and the system
prompt, stand in no such file.
"""

from collections.abc import Iterator
from typing import Any

from vicuna_lit.records.exports import Unusable, typed
from vicuna_lit.records.fields import as_json
from vicuna_lit.records.session_turns import SessionTurns, text_part

_SHOWN = ("info", "error", "warning")
"""Types of what the screen alone shows."""


def is_first(line: Any) -> bool:
    """Whether a record is such a session, or the first line of one."""
    return (
        isinstance(line, dict) and isinstance(line.get("sessionId"), str) and isinstance(line.get("projectHash"), str)
    )


def is_line(line: Any) -> bool:
    """Whether a record is a line of such a file."""
    return isinstance(line, dict) and (
        is_first(line) or not {"$set", "$rewindTo"}.isdisjoint(line) or ("id" in line and "type" in line)
    )


def kept(line: dict[str, Any]) -> dict[str, Any]:
    """A line as it stands."""
    return line


def goes_on(lines: list[dict[str, Any]], names: set[str], line: dict[str, Any]) -> bool:
    """Whether a line belongs to the session of those before it."""
    return not lines or not is_first(line) or line["sessionId"] == lines[0]["sessionId"]


def conversations(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any] | Unusable]:
    """The one conversation of a session, or an `Unusable`."""
    messages: dict[str, dict[str, Any]] = {}
    for line in lines:
        _replay(line, messages)
    said = SessionTurns()
    try:
        for message in messages.values():
            _say(message, f"message {message.get('id')!r:.40}", said)
        yield said.conversation(lines[0]["sessionId"])
    except Unusable as bad:
        yield bad


def _replay(line: dict[str, Any], messages: dict[str, dict[str, Any]]) -> None:
    """What a line does to the messages so far: it adds or changes one, takes back the last ones, or says all anew."""
    if "$rewindTo" in line:
        names = list(messages)
        begin = names.index(str(line["$rewindTo"])) if str(line["$rewindTo"]) in messages else 0
        for name in names[begin:]:
            del messages[name]
        return
    told = line.get("$set") if isinstance(line.get("$set"), dict) else line
    if isinstance(told, dict) and isinstance(told.get("messages"), list):
        messages.clear()
        messages |= {str(one["id"]): one for one in told["messages"] if isinstance(one, dict) and "id" in one}
    elif "id" in line and not is_first(line):
        messages[str(line["id"])] = line


def _say(message: dict[str, Any], where: str, said: SessionTurns) -> None:
    """
    Raises:
        Unusable: a message is not what it should be.
    """
    kind = message.get("type")
    parts = _parts(message.get("content"), where)
    if kind == "user":
        said.user(*parts)
    elif kind == "gemini":
        thoughts = "\n\n".join(_thought(one, where) for one in _list(message, "thoughts", where))
        calls = [typed(call, dict, f"{where}: toolCalls") for call in _list(message, "toolCalls", where)]
        said.assistant(
            *([{"type": "thinking", "thinking": thoughts}] if thoughts else []),
            *parts,
            *(
                {"type": "tool_call", "id": c.get("id"), "name": c.get("name"), "arguments": c.get("args")}
                for c in calls
            ),
        )
        for call in calls:
            if call.get("result") is not None:
                said.result(call.get("id"), _result(call["result"], where))
    elif kind not in _SHOWN:
        raise Unusable("unknown role", f"{where} has type {kind!r:.40}")


def _list(message: dict[str, Any], key: str, where: str) -> list[Any]:
    return typed(message.get(key) or [], list, f"{where}: {key}")


def _parts(content: Any, where: str) -> list[Any]:
    """The parts of Gemini's content: a text, a part, or a list of them; an empty text is none."""
    given = content if isinstance(content, list) else [content]
    parts = [text_part(part) if isinstance(part, str) else part for part in given if part not in (None, "")]
    return [typed(part, dict, f"{where}: a part") for part in parts if part != {"text": ""}]


def _thought(thought: Any, where: str) -> str:
    """A thought as the server wrote it: what it is about, and what it is."""
    thought = typed(thought, dict, f"{where}: thoughts")
    subject, rest = (str(thought.get(key) or "") for key in ("subject", "description"))
    return "\n\n".join(filter(None, (f"**{subject}**" if subject else "", rest)))


def _result(result: Any, where: str) -> Any:
    """The text of a tool's result; parts that are none stay, and are refused."""
    parts = _parts(result, where)
    return [text_part(_said(part["functionResponse"], where)) if "functionResponse" in part else part for part in parts]


def _said(response: Any, where: str) -> str:
    given = typed(response, dict, f"{where}: functionResponse").get("response")
    if isinstance(given, dict) and len(given) == 1 and isinstance(only := next(iter(given.values())), str):
        return only  # {"output": …} or {"error": …}
    return as_json(given, where)
