"""Spans of OpenTelemetry that hold what a model was sent and what it answered → a record with its turns.

Three forms are in use: the conventions' own (`gen_ai.input.messages`, opentelemetry.io/docs/specs/semconv/gen-ai),
those of OpenLLMetry (`gen_ai.prompt.0.content`, github.com/traceloop/openllmetry) and of OpenInference
(`llm.input_messages.0.message.content`, github.com/Arize-ai/openinference, spec/semantic_conventions.md).
"""

import re
from typing import Any

from vicuna_lit.records.exports import Unusable
from vicuna_lit.records.fields import is_absent, loaded

_PREFIXES = ("gen_ai.", "llm.")
_PLACE = re.compile(r"(?:(gen_ai\.(?:prompt|completion))|(llm\.(?:input|output)_messages))\.(\d+)\.(?:message\.)?(.+)")
_TOOL = re.compile(r"(?:llm\.request\.functions|llm\.tools)\.(\d+)\.(?:tool\.)?(.+)")
_ASKED = ("gen_ai.prompt", "llm.input_messages")
_INNER = ("tool_call", "function", "message_content")
"""Steps in OpenInference's names that say nothing more."""


def spans_in(record: dict[str, Any]) -> list[Any] | None:
    """The spans of an export in OTLP's JSON; None: it is none."""
    if not isinstance(record.get("resourceSpans"), list):
        return None
    scopes = [scope for resource in record["resourceSpans"] for scope in _dicts(resource, "scopeSpans")]
    return [span for scope in scopes for span in _dicts(scope, "spans")]


def _dicts(holder: Any, key: str) -> list[dict[str, Any]]:
    held = holder.get(key) if isinstance(holder, dict) else None
    return [one for one in held if isinstance(one, dict)] if isinstance(held, list) else []


def with_span(record: dict[str, Any]) -> dict[str, Any]:
    """A span as a record with messages; another record as it is.

    Raises:
        Unusable: it has several answers.
    """
    held = record.get("attributes")
    if held is None and not any(isinstance(key, str) and key.startswith(_PREFIXES) for key in record):
        return record
    given = record if held is None else held
    if isinstance(given, list):
        given = {str(one.get("key")): _value(one.get("value")) for one in given if isinstance(one, dict)}
    if not isinstance(given, dict):
        return record
    found = _of_conventions(given) or _of_numbers(given)
    return {key: record[key] for key in ("id",) if key in record} | found if found else record


def _value(value: Any) -> Any:
    """OTLP's `{"stringValue": …}`."""
    return next(iter(value.values()), None) if isinstance(value, dict) else value


def _of_conventions(given: dict[str, Any]) -> dict[str, Any] | None:
    names = {
        "messages": "input.messages",
        "answer": "output.messages",
        "system": "system_instructions",
        "tools": "tool.definitions",
    }
    read = {name: _json(given.get(f"gen_ai.{key}")) for name, key in names.items()}
    asked, answers = read["messages"], read["answer"]
    if not isinstance(asked, list) or not isinstance(answers, list):
        return None
    if len(answers) > 1:
        raise Unusable("several answers", f"gen_ai.output.messages holds {len(answers)}; keep one of them")
    system, tools = read["system"], read["tools"]
    if isinstance(system, list):
        system = "\n\n".join(
            str(part.get("content")) for part in system if isinstance(part, dict) and "content" in part
        )
    return {"messages": [*asked, *answers]} | {k: v for k, v in (("system", system), ("tools", tools)) if v}


def _json(value: Any) -> Any:
    return loaded(value, (list, dict)) or value


def _of_numbers(given: dict[str, Any]) -> dict[str, Any] | None:
    asked, answers, tools = dict[int, Any](), dict[int, Any](), dict[int, Any]()
    for key, value in given.items():
        if is_absent(value):
            continue
        if found := _PLACE.fullmatch(key):
            side = asked if (found[1] or found[2]) in _ASKED else answers
            _put(side.setdefault(int(found[3]), {}), found[4], value)
        elif found := _TOOL.fullmatch(key):
            _put(tools.setdefault(int(found[1]), {}), found[2], value)
    if not asked or not answers:
        return None
    if len(answers) > 1:
        raise Unusable("several answers", f"the span holds {len(answers)}; keep one of them")
    messages = [_message(held, "user") for _, held in sorted(asked.items())]
    messages += [_message(held, "assistant") for held in answers.values()]
    return {"messages": messages} | ({"tools": [_schema(tool) for _, tool in sorted(tools.items())]} if tools else {})


def _put(held: dict[str, Any], path: str, value: Any) -> None:
    """Puts a value where a name of several steps says: `tool_calls.0.name`."""
    *steps, last = [step for step in path.split(".") if step not in _INNER]
    for step in steps:
        inner = held.setdefault(step, {})
        if not isinstance(inner, dict):
            return
        held = inner
    held[last] = value


def _message(held: dict[str, Any], role: str) -> dict[str, Any]:
    message = {"role": role, "content": None} | held
    if isinstance(parts := message.pop("contents", None), dict):
        message["content"] = _in_order(parts)
    as_parts = loaded(message["content"], list)
    if as_parts and all(isinstance(part, dict) and "type" in part for part in as_parts):
        message["content"] = as_parts
    if isinstance(calls := message.get("tool_calls"), dict):
        message["tool_calls"] = _in_order(calls)
    return message


def _in_order(numbered: dict[str, Any]) -> list[Any]:
    return [numbered[key] for key in sorted(numbered, key=lambda key: int(key) if key.isdecimal() else 0)]


def _schema(tool: dict[str, Any]) -> Any:
    """A tool's schema, with its parameters as an object."""
    if isinstance(whole := loaded(tool.get("json_schema"), dict), dict):
        return whole
    return {key: _json(value) for key, value in tool.items()}
