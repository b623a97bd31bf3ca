"""The schemas of a record's tools, in the forms that servers take them in → OpenAI's; calls in Python's form."""

import ast
from typing import Any

from vicuna_lit.records.exports import Unusable
from vicuna_lit.records.fields import as_json, is_absent, loaded, present, text

TOOLS = ("tools", "functions", "toolConfig", "oai_tools")
"""Keys of a record that hold its tools."""


def schemas(record: dict[str, Any], where: str = "") -> tuple[str, str]:
    """The tools of a record as JSON of a list, or the text of a field that holds no JSON.

    Raises:
        Unusable: the tools are neither a list nor text.
    """
    for key in TOOLS:
        tools = record.get(key)
        if key == "toolConfig" and isinstance(tools, dict):
            tools = tools.get("tools")
        if is_absent(tools) or tools in ("", [], {}):
            continue
        if isinstance(tools, str):
            as_list = loaded(tools, (list, dict))
            if as_list is None:
                return "", text(tools, f"{where}{key}")
            tools = as_list
        tools = [tools] if isinstance(tools, dict) else tools
        if isinstance(tools, list):  # When2Call's are each a text
            tools = [loaded(tool, dict) or tool for tool in tools]
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise Unusable("wrong type", f"{where}{key} is no list of schemas")
        tools = [tool for given in tools for tool in _declared(given)]
        tools = [{"parameters" if key == "input_schema" else key: t[key] for key in t} for t in tools]  # Anthropic's
        wrapped = [_wrapped(tool) for tool in tools]
        return (text(as_json(wrapped, key), f"{where}{key}") if wrapped else ""), ""
    return "", ""


def _wrapped(tool: dict[str, Any]) -> dict[str, Any]:
    """A schema as OpenAI's Chat Completions have it; the Responses API writes the function's keys beside the type."""
    if "name" not in tool or "function" in tool or tool.get("type", "function") != "function":
        return tool
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _declared(tool: dict[str, Any]) -> list[dict[str, Any]]:
    """The functions in Gemini's `functionDeclarations` and Bedrock's `toolSpec`; another tool as it is."""
    key = present(tool, "functionDeclarations", "function_declarations")
    if key and isinstance(tool[key], list) and all(isinstance(one, dict) for one in tool[key]):
        return tool[key]
    if isinstance(spec := tool.get("toolSpec"), dict):
        schema = spec.get("inputSchema")
        schema = schema.get("json") if isinstance(schema, dict) else schema
        return [{name: spec[name] for name in ("name", "description") if name in spec} | {"parameters": schema or {}}]
    return [tool]


def python_calls(code: str) -> list[dict[str, Any]] | None:
    """Calls as Python writes them, OLMo's: `f(a=1)`, one a line; None: it is something else."""
    try:
        said = [statement.value for statement in ast.parse(code.strip()).body if isinstance(statement, ast.Expr)]
        calls = [one for value in said for one in (value.elts if isinstance(value, ast.List) else [value])]
        if not calls or not all(
            isinstance(c, ast.Call) and not c.args and all(k.arg for k in c.keywords) for c in calls
        ):
            return None
        return [
            {"name": ast.unparse(c.func), "arguments": {str(k.arg): ast.literal_eval(k.value) for k in c.keywords}}
            for c in calls
            if isinstance(c, ast.Call)
        ]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
