"""An assistant's message that holds its tools' results between its parts → the messages that a server was sent.

Of Vercel's AI SDK (`tool-invocation`, `tool-<name>`) and LibreChat: what was said, its calls, their results, and
what was said of them, in this order.
"""

from collections.abc import Iterator
from typing import Any

from vicuna_lit.records.exports import Unusable
from vicuna_lit.records.fields import as_json, filled, is_absent

_WHOLE = ("result", "output-available", "output-error")


def split(message: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """
    Raises:
        Unusable: a call has no result yet.
    """
    parts = message.get("content")
    if not isinstance(parts, list) or not holds_tools(parts):
        yield message
        return
    said: list[Any] = []
    results: list[dict[str, Any]] = []
    for part in parts:
        tool = _tool(part)
        if results and tool is None:
            yield from (message | {"content": said}, *results)
            said, results = [], []
        if tool is None:
            said.append(part)
            continue
        call, result = _called(tool, f"{where}: {part['type']}")
        said.append({"type": "tool_call", **call})
        results.append({"role": "tool", "content": result, "tool_call_id": call["id"], "name": call["name"]})
    if results or said:
        yield from (message | {"content": said}, *results)


def holds_tools(parts: list[Any]) -> bool:
    """Whether results of tools stand between the parts of one message."""
    return any(_tool(part) is not None for part in parts)


def _tool(part: Any) -> dict[str, Any] | None:
    """What a part says of a call and its result; None: it is something else."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "tool-invocation" and isinstance(part.get("toolInvocation"), dict):
        return part["toolInvocation"]
    if kind == "tool_call" and isinstance(part.get("tool_call"), dict):
        return {"state": "result"} | part["tool_call"]
    if isinstance(kind, str) and (kind.startswith("tool-") or kind == "dynamic-tool") and "state" in part:
        return {"toolName": kind.removeprefix("tool-")} | part
    return None


def _called(tool: dict[str, Any], where: str) -> tuple[dict[str, Any], str]:
    """
    Raises:
        Unusable: the call has no name or no result.
    """
    name = tool.get(filled(tool, "toolName", "name") or "name")
    result = next((tool[key] for key in ("result", "output", "errorText") if not is_absent(tool.get(key))), None)
    if not isinstance(name, str) or tool.get("state") not in _WHOLE or result is None:
        raise Unusable("bad answer", f"{where}: a call without its result; take the record out")
    arguments = tool.get(filled(tool, "args", "input", "arguments") or "args")
    id = str(tool.get(filled(tool, "toolCallId", "id") or "id") or "")
    said = result if isinstance(result, str) else as_json(result, where)
    return {"name": name, "arguments": arguments or {}, "id": id}, said
