"""An assistant's calls of tools, in the forms that servers write them in, and whether each has its result."""

import json
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from vicuna_lit.records.conversation import ToolCall, Turn
from vicuna_lit.records.exports import Unusable, kind_of
from vicuna_lit.records.fields import as_json, filled, is_absent, loaded, present, text
from vicuna_lit.records.tool_schemas import python_calls


def calls_of(message: dict[str, Any], where: str) -> Iterator[ToolCall]:
    """The calls of a message in OpenAI's fields, today's and the earlier one.

    Raises:
        Unusable: one is not what it should be.
    """
    for key in ("tool_calls", "function_calls"):
        calls = message.get(key)
        if is_absent(calls) or calls in ("", [], {}):
            continue
        if isinstance(calls, str):
            calls = loaded(calls, list) or python_calls(calls)
        if not isinstance(calls, list):
            raise Unusable("wrong type", f"{where}: {key} is not a list")
        yield from (call_of(call, f"{where}: {key}") for call in calls)
    legacy = message.get("function_call")
    if not is_absent(legacy) and legacy not in ("", {}):
        yield call_of(loaded(legacy, dict) if isinstance(legacy, str) else legacy, f"{where}: function_call")


def call_of(call: Any, where: str) -> ToolCall:
    """OpenAI's `{"id", "function": {"name", "arguments"}}`, the inner object alone, or Anthropic's `tool_use`.

    Raises:
        Unusable: it has no name, or its result stands in it.
    """
    if not isinstance(call, dict):
        raise Unusable("wrong type", f"{where}: a call is {kind_of(call)}, not an object")
    inner = call if is_absent(call.get("function")) else call["function"]
    if isinstance(custom := call.get("custom"), dict):  # OpenAI's of a tool that takes a text
        inner = {"name": custom.get("name"), "arguments": {"input": custom.get("input")}}
    inner = {"name": inner} | call if isinstance(inner, str) else inner
    if isinstance(inner, dict) and isinstance(inner.get("toolName"), str):
        inner = {"name": inner["toolName"]} | inner
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise Unusable("wrong type", f"{where}: a call without the name of its function")
    if result := filled(call, "result", "results", "output", "response"):
        raise Unusable(
            "unknown content type", f"{where}: a call with its {result} inside; give results as turns of tool"
        )
    key = present(inner, "arguments", "parameters", "input", "args")
    arguments = inner[key] if key else {}
    if not isinstance(arguments, str):
        arguments = as_json(arguments, f"{where}: {key}")
    elif arguments[:1] == '"' and loaded(once := _text_in(arguments), dict) is not None:  # written as JSON twice
        arguments = once
    id = call.get(present(call, "id", "toolUseId", "toolCallId", "call_id") or "id")
    return ToolCall(
        text(inner["name"], f"{where}: name"),
        text(arguments.strip() or "{}", f"{where}: arguments"),
        text(id, f"{where}: id") if isinstance(id, str) else "",
    )


def _text_in(written: str) -> str:
    """A text that JSON holds; "" where it holds none."""
    try:
        value = json.loads(written)
    except (ValueError, RecursionError):
        return ""
    return value if isinstance(value, str) else ""


def refuse_unanswered(turns: list[Turn]) -> None:
    """
    Raises:
        Unusable: of several calls at once one has no result, and a reply follows all the same.
    """
    for number, turn in enumerate(turns, 1):
        if len(turn.tool_calls) < 2 or not all(call.id for call in turn.tool_calls):
            continue
        results = {later.call_id for later in takewhile(lambda later: later.role == "tool", turns[number:])}
        missing = [call for call in turn.tool_calls if call.id not in results]
        goes_on = turns[-1].role != "tool" and turns[-1] is not turn
        if goes_on and "" not in results and 0 < len(missing) < len(turn.tool_calls):
            why = f"turn {number}: {missing[0].name}: its result is missing, and the talk goes on without it"
            raise Unusable("call without its result", why)
