"""Tools that stand elsewhere than in a record's own `tools`: put there, or refused by the name of their place."""

import json
from typing import Any

from vicuna_lit.records.columns import SYSTEM, columns_line
from vicuna_lit.records.exports import Unusable
from vicuna_lit.records.field_names import other_tools
from vicuna_lit.records.fields import filled, is_absent, loaded
from vicuna_lit.records.tool_schemas import TOOLS


def with_tools(record: dict[str, Any], turns_key: str | None) -> dict[str, Any]:
    """The record with its tools, and the system prompt that a template would be called with, in their places.

    Args:
        turns_key: of the record's turns; None: they are in no list.

    Raises:
        Unusable: there are two lists of tools, or one is no JSON.
    """
    record = _of_template(record) if "chat_template_kwargs" in record else record
    return _of_turn(record, turns_key) if turns_key else record


def refuse_other_tools(record: dict[str, Any], turns_key: str | None) -> None:
    """
    Raises:
        Unusable: schemas of tools stand under a key that is not read.
    """
    key = other_tools(record, TOOLS)
    if key is None and isinstance(held := record.get("metadata"), dict):
        inner = other_tools(held, ())
        key = f"metadata.{inner}" if inner else None
    if key:
        line = columns_line(record, {"messages": turns_key or "messages", "tools": key})
        raise Unusable("tools under another name", f"{key}; {line} takes them, without tools they are left out")


def _of_template(record: dict[str, Any]) -> dict[str, Any]:
    """SmolTalk2's: what a template would be called with beside the messages, as the record's own system and tools."""
    given = record.get("chat_template_kwargs")
    if not isinstance(given, dict):
        return record
    own = {key: value for key, value in record.items() if not is_absent(value)}
    for tools in ("tools", "xml_tools", "python_tools") if filled(record, "tools") is None else ():
        if filled(given, tools) is None:
            continue
        values = given[tools] if isinstance(given[tools], list) else [given[tools]]
        try:
            read = [json.loads(tool) if isinstance(tool, str) else tool for tool in values]
        except (ValueError, RecursionError):
            raise Unusable("wrong type", f"chat_template_kwargs.{tools}: a tool that is no JSON") from None
        own["tools"] = [*(own.get("tools") or ()), *read]
    if (instructions := filled(given, "custom_instructions")) and filled(record, *SYSTEM) is None:
        own["system"] = given[instructions]
    return own


def _of_turn(record: dict[str, Any], turns_key: str) -> dict[str, Any]:
    """OLMo's and GLM's, which stand in the system turn."""
    given = record[turns_key]
    messages = loaded(given, list) if isinstance(given, str) else given
    first = messages[0] if isinstance(messages, list) and messages else None
    name = filled(first, "tools", "functions") if isinstance(first, dict) and first.get("role") == "system" else None
    if name is None or not isinstance(first, dict) or not isinstance(messages, list):
        return record
    if filled(record, *TOOLS) and first[name] != "[]":
        raise Unusable("two lists of tools", f"{name} of turn 1, and the record's; keep one of them")
    said = {key: value for key, value in first.items() if key != name}
    rest = [*([said] if filled(said, "content") else ()), *messages[1:]]
    return record | {turns_key: rest} | ({} if filled(record, *TOOLS) else {"tools": first[name]})
