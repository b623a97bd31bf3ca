"""Codex CLI's rollouts (`~/.codex/sessions/**/rollout-*.jsonl`) → conversations, each as the model saw it.

The lines are `RolloutLine`s of github.com/openai/codex (codex-rs/protocol/src/protocol.rs and models.rs): of
`response_item`s, which the model reads and writes, and of `event_msg`s, which the screen shows. The schemas of tools
stand in no such file.
"""

from collections.abc import Iterator
from typing import Any

from vicuna_lit.records.exports import Unusable, typed
from vicuna_lit.records.fields import as_json, filled
from vicuna_lit.records.session_turns import SessionTurns, text_part

_SCAFFOLDS = ("<", "# AGENTS.md")
"""How messages of the user's role begin that the program wrote: they begin no turn of the user's."""
_CALLS = ("function_call", "custom_tool_call", "local_shell_call")
_RESULTS = ("function_call_output", "custom_tool_call_output")
_BESIDE = ("ghost_snapshot", "agent_message")
"""Items that are no part of what the model reads."""


def is_first(line: Any) -> bool:
    """Whether a record is the first line of a rollout, today's or that of the first versions."""
    if not isinstance(line, dict):
        return False
    return (line.get("type") == "session_meta" and isinstance(line.get("payload"), dict)) or (
        line.keys() >= {"id", "timestamp", "instructions"} and line.keys() <= {"id", "timestamp", "instructions", "git"}
    )


def is_line(line: Any) -> bool:
    """Whether a record is a line of such a file."""
    return isinstance(line, dict) and (
        is_first(line)
        or not {"payload", "record_type"}.isdisjoint(line)
        or (isinstance(line.get("type"), str) and "messages" not in line)
    )


def kept(line: dict[str, Any]) -> dict[str, Any] | None:
    """Of a line what the conversation needs; None: nothing (what the screen alone shows)."""
    kind, payload = line.get("type"), line.get("payload")
    if kind == "event_msg":
        shown = payload.get("type") if isinstance(payload, dict) else None
        return line if shown in ("turn_aborted", "thread_rolled_back") else None
    return None if kind in ("turn_context", "world_state") or "record_type" in line else line


def goes_on(lines: list[dict[str, Any]], names: set[str], line: dict[str, Any]) -> bool:
    """Whether a line belongs to the session of those before it; a fork holds its origin's first line too."""
    if not lines or not is_first(line):
        return True
    return lines[0].get("payload", {}).get("forked_from_id") is not None


def conversations(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any] | Unusable]:
    """What was said up to each compaction, and from each on. A talk that cannot be read is an `Unusable`."""
    first = lines[0].get("payload", lines[0])
    items: list[Any] = []
    number = 0
    for line in [*lines[1:], None]:
        if line is not None and line.get("type") != "compacted":
            _take(line, items)
            continue
        try:
            yield _talk(first, items, number)
        except Unusable as bad:
            yield bad
        number += 1
        items = _compacted(line.get("payload"), items) if line is not None else []


def _talk(first: dict[str, Any], items: list[Any], number: int) -> dict[str, Any]:
    said, notes, id = SessionTurns(), list[str](), str(first.get("id") or "")
    for place, item in enumerate(items, 1):
        _say(typed(item, dict, f"item {place}"), f"item {place}", said, notes)
    return said.conversation(f"{id}_{number}" if number else id, "\n\n".join((*_instructions(first, items), *notes)))


def _instructions(first: dict[str, Any], items: list[Any]) -> list[str]:
    """What a session's first line tells the model, but for what it is told in a message too."""
    base = first.get("base_instructions")
    given = (base.get("text") if isinstance(base, dict) else base, first.get("instructions"))
    told = [_text_of(item) for item in items if isinstance(item, dict)]
    return [one for one in given if isinstance(one, str) and one and not any(one in said for said in told)]


def _take(line: dict[str, Any], items: list[Any]) -> None:
    """Puts a line's item to those that the model has read by then."""
    kind, payload = line.get("type"), line.get("payload", line)
    if kind == "session_meta":
        return
    if kind == "event_msg" and payload["type"] == "thread_rolled_back":
        _roll_back(items, payload.get("num_turns"))
    else:
        items.append(payload)


def _roll_back(items: list[Any], turns: Any) -> None:
    """Takes out the last turns, from each user's message on."""
    begins = [place for place, item in enumerate(items) if _is_asked(item)]
    if isinstance(turns, int) and turns > 0 and begins:
        del items[begins[-min(turns, len(begins))] :]


def _is_asked(item: Any) -> bool:
    return isinstance(item, dict) and item.get("role") == "user" and not _text_of(item).startswith(_SCAFFOLDS)


def _text_of(item: dict[str, Any]) -> str:
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))


def _compacted(payload: Any, items: list[Any]) -> list[Any]:
    """What the model reads from a compaction on: a history of its own, or what the user said and a summary."""
    payload = payload if isinstance(payload, dict) else {}
    if isinstance(payload.get("replacement_history"), list):
        return list(payload["replacement_history"])
    asked = [item for item in items if isinstance(item, dict) and item.get("role") in ("user", "developer")]
    return [*asked, {"type": "message", "role": "user", "content": [text_part(str(payload.get("message") or ""))]}]


def _say(item: dict[str, Any], where: str, said: SessionTurns, notes: list[str]) -> None:
    """
    Raises:
        Unusable: an item is not what it should be, or its content is not in the file.
    """
    kind = item.get("type")
    if kind == "turn_aborted":
        said.stopped()
    elif kind == "message":
        _say_message(item, where, said, notes)
    elif kind == "reasoning":
        if thought := _thought(item):
            said.assistant({"type": "thinking", "thinking": thought})
    elif kind in _CALLS:
        said.assistant(_call(item, where))
    elif kind in _RESULTS:
        output = item.get("output")
        said.result(item.get("call_id"), output.get("content") if isinstance(output, dict) else output)
    elif kind == "web_search_call":
        raise Unusable("context beside the turns", f"{where}: web_search_call: what was found is in no line")
    elif kind in ("compaction", "compaction_summary", "context_compaction"):
        raise Unusable("context beside the turns", f"{where}: {kind}: what was said before is encrypted")
    elif kind not in _BESIDE:
        raise Unusable("unknown content type", f"{where}: an item of type {kind!r:.40}")


def _say_message(item: dict[str, Any], where: str, said: SessionTurns, notes: list[str]) -> None:
    role, content = item.get("role"), item.get("content")
    parts = [text_part(content)] if isinstance(content, str) else typed(content, list, f"{where}: content")
    parts = [typed(part, dict, f"{where}: a part") for part in parts]
    parts = [part | {"type": "text"} if part.get("type") in ("input_text", "output_text") else part for part in parts]
    if role == "assistant":
        said.assistant(*parts)
    elif role in ("developer", "system") and not said.messages:
        notes.append(_text_of({"content": parts}))
    elif role in ("user", "developer", "system"):  # said behind a talk's beginning, where no system turn may stand
        if _text_of({"content": parts}).startswith("<turn_aborted"):
            said.stopped()
        said.user(*parts)
    else:
        raise Unusable("unknown role", f"{where} has role {role!r:.40}")


def _thought(item: dict[str, Any]) -> str:
    """What was thought, or its summary; "" where the file has it encrypted alone."""
    parts = item.get(filled(item, "content", "summary") or "summary")
    texts = (part.get("text") for part in parts if isinstance(part, dict)) if isinstance(parts, list) else ()
    return "\n\n".join(text for text in texts if isinstance(text, str))


def _call(item: dict[str, Any], where: str) -> dict[str, Any]:
    call = {"type": "tool_call", "id": item.get("call_id") or item.get("id")}
    if item["type"] == "local_shell_call":
        action = typed(item.get("action"), dict, f"{where}: action")
        arguments = {name: value for name, value in action.items() if name != "type" and value is not None}
        return call | {"name": "local_shell", "arguments": as_json(arguments, where)}
    name = typed(item.get("name"), str, f"{where}: name")
    free = item["type"] == "custom_tool_call"  # of a tool that takes a text; as a function it takes it as its input
    return call | {"name": name, "arguments": {"input": item.get("input")} if free else item.get("arguments")}
