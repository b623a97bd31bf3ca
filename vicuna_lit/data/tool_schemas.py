"""The schemas of a record's tools, in the forms that servers take them in → OpenAI's."""

from typing import Any

from vicuna_lit.data.exports import Unusable
from vicuna_lit.data.fields import as_json, is_absent, loaded, present, text


def schemas(record: dict[str, Any], where: str = "") -> tuple[str, str]:
    """The tools of a record as JSON of a list, or the text of a field that holds no JSON.

    Raises:
        Unusable: the tools are neither a list nor text.
    """
    for key in ("tools", "functions", "toolConfig"):
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
