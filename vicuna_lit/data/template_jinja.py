"""A template of ours as Jinja, for `tokenizer.apply_chat_template`; and what both forms share."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from vicuna_lit.config.base import Role
from vicuna_lit.config.template import ReasoningForm, TextTemplateConfig, ToolForm, Trim
from vicuna_lit.records.conversation import ALPACA_INPUT

SLOT = re.compile(r"\{(content|json|system|bos|eos|date|tools|with_tools|tool|name|arguments|reasoning|results)\}")
TRIMS: dict[Trim, Callable[[str], str]] = {
    "blanks": str.strip,
    "blanks_behind": str.rstrip,
    "newlines_before": lambda text: text.lstrip("\n"),
}
_JINJA_TRIMS: dict[Trim, str] = {
    "blanks": " | trim",
    "blanks_behind": ".rstrip()",
    "newlines_before": ".lstrip('\\n')",
}
_THOUGHT = "('<think>\\n' + message['reasoning_content'] + '\\n</think>\\n\\n') if message['reasoning_content'] else ''"
"""Reasoning in a reply's text, see `Turn.in_text`."""


def split_reasoning(content: str, tags: tuple[str, str]) -> tuple[str, str]:
    """Reasoning that stands in a reply's text, between tags, and the text behind it; as published templates do it."""
    opening, closing = tags
    if closing not in content:
        return "", content
    thought = content.split(closing, maxsplit=1)[0].rstrip("\n").split(opening)[-1].lstrip("\n")
    return thought, content.rsplit(closing, maxsplit=1)[-1].lstrip("\n")


def quote(text: str) -> str:
    """A Jinja string."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


def in_front(front: str, template: Any) -> Any:
    """A tokenizer's chat template, or each of several by name, behind some Jinja."""
    if isinstance(template, dict):
        return {name: front + text for name, text in template.items()}
    return front + template


def jinja_of(config: TextTemplateConfig) -> str:
    """The template, with `{% generation %}` marks around what is supervised."""
    c = config
    system, slots = _system(c), {"content": _content(c, "user")}
    if isinstance(c.tool_use, ToolForm):
        slots["tools"] = "{% if loop.first %}" + _schemas(c) + "{% endif %}"
    nested = "{system}" in c.user
    slots["system"] = "{% if loop.first %}" + system + "{% endif %}" if nested else ""
    return (
        _head(c)
        + _put(c.begin)
        + ("" if nested else system)
        + "{% for message in turns %}{% if message['role'] == 'user' %}"
        + _refusals(c, "user")
        + _put(c.user, slots)
        + _tool_turn(c)
        + "{% elif message['role'] == 'assistant' %}"
        + _assistant_turn(c)
        + "{% else %}{{ raise_exception('no ' + message['role'] + ' turn in this template') }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}" + _put(c.assistant) + "{% endif %}"
    )


def _put(text: str, slots: Mapping[str, str] | None = None) -> str:
    """A text of the config with Jinja in its slots; a slot that is not given is empty."""
    known = {"bos": "{{ bos_token }}", "eos": "{{ eos_token }}"} | dict(slots or {})
    parts = SLOT.split(text)
    out = [known.get(p, "") if i % 2 else ("{{ " + quote(p) + " }}" if p else "") for i, p in enumerate(parts)]
    return "".join(out)


def _date(c: TextTemplateConfig) -> dict[str, str]:
    return {"date": "{{ strftime_now(" + quote(c.date) + ") }}"} if c.date else {}


def _content(c: TextTemplateConfig, role: Role, text: str = "message['content']") -> str:
    trim = (c.trims or {}).get(role)
    return "{{ " + (f"({text}){_JINJA_TRIMS[trim]}" if trim else text) + " }}"


def _refusals(c: TextTemplateConfig, role: Role, text: str = "message['content']") -> str:
    switches = (c.refused or {}).get(role, ())
    return "".join(
        _refuse(f"{quote(switch)} in ({text} or '')", f"this template reads {switch} in a turn of {role} as a switch")
        for switch in switches
    )


def _refuse(condition: str, why: str) -> str:
    return "{% if " + condition + " %}{{ raise_exception(" + quote(why) + ") }}{% endif %}"


def _schemas(c: TextTemplateConfig) -> str:
    """All schemas, where there are tools."""
    form = c.tool_use
    assert isinstance(form, ToolForm)
    dumped = "tool | tojson" + (f"(indent={form.indent})" if form.indent is not None else "")
    each = "{% for tool in tools %}" + _put(form.each_schema, {"tool": "{{ " + dumped + " }}"}) + "{% endfor %}"
    return "{% if tools %}" + _put(form.schemas, {"tools": each}) + "{% endif %}"


def _head(c: TextTemplateConfig) -> str:
    """Sets `system` and `turns`."""
    default = quote(c.default_system) if c.default_system is not None else "none"
    if c.default_system_with_input is not None:
        with_input = f"{quote(ALPACA_INPUT)} in messages[0]['content']"
        default = f"({quote(c.default_system_with_input)} if {with_input} else {default})"
    blank = "{% if not system | trim %}{% set system = " + default + " %}{% endif %}" if c.blank_is_default else ""
    text = (
        "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
        + blank
        + "{% set turns = messages[1:] %}{% else %}{% set system = "
        + default
        + " %}{% set turns = messages %}{% endif %}"
    )
    if c.tool_use is None:
        text += (
            "{% if tools %}"
            "{% set system = (messages[0]['content'] + '\\n\\n' if messages[0]['role'] == 'system' else '')"
            " + tools | tojson %}{% endif %}"
        )
    elif c.tool_use == "refused":
        text += _refuse("tools", "no tools in this template")
    return text


def _system(c: TextTemplateConfig) -> str:
    if c.system is None:
        return ""
    form, slots, there = c.tool_use, {"content": _content(c, "system", "system")} | _date(c), "system is not none"
    if isinstance(form, ToolForm):
        slots["with_tools"] = "{% if tools %}" + _put(form.with_tools) + "{% endif %}"
        if "{tools}" in c.system:
            there += " or tools"
            behind = "{% if tools and system is not none %}" + _put(form.behind_system) + "{% endif %}"
            slots["tools"] = behind + _schemas(c)
            slots["content"] = _content(c, "system", "system if system is not none else ''")
    switches = _refusals(c, "system", "system")
    if switches and c.default_system is not None:
        switches = "{% if system != " + quote(c.default_system) + " %}" + switches + "{% endif %}"
    return "{% if " + there + " %}" + switches + _put(c.system, slots) + "{% endif %}"


def _tool_turn(c: TextTemplateConfig) -> str:
    if not c.tool:
        return ""
    slots = {"content": _content(c, "tool"), "json": "{{ message['content'] | tojson }}"}
    text = _refusals(c, "tool") + _put(c.tool, slots)
    if isinstance(c.tool_use, ToolForm):
        before, _, after = c.tool_use.results.partition("{results}")
        opens = "{% if loop.first or loop.previtem['role'] != 'tool' %}" + _put(before) + "{% endif %}"
        closes = "{% if loop.last or loop.nextitem['role'] != 'tool' %}" + _put(after) + "{% endif %}"
        text = (opens if before else "") + text + (closes if after else "")
    return "{% elif message['role'] == 'tool' %}" + text


def _assistant_turn(c: TextTemplateConfig) -> str:
    text, head, thought = "message['content'] or ''", "", ""
    match c.reasoning:
        case None:
            text = f"(({_THOUGHT}) + ({text}))"
        case "refused":
            head += _refuse("message['reasoning_content']", "no reasoning in this template")
        case ReasoningForm() as form:
            head += _set_reasoning(form)
            text = "content"
            shown = _put(form.text, {"reasoning": "{{ thought }}"})
            thought = "{% if thought %}" + shown + "{% else %}" + _put(form.absent) + "{% endif %}"
    head += _refusals(c, "assistant", text)
    calls = ""
    if isinstance(c.tool_use, ToolForm):
        calls = _calls(c.tool_use, text)
        head += _alone(c.tool_use, text)
    else:
        head += _refuse("message['tool_calls']", "a call stands in the content, as JSON")
    between = "{% if not loop.last %}" + _put(c.between) + "{% endif %}" if c.between else ""
    reply = _put(c.reply, {"content": thought + _content(c, "assistant", text) + calls})
    marked = "{% generation %}" + reply + "{% endgeneration %}"
    return _put(c.assistant) + head + marked + _put(c.end) + between


def _set_reasoning(form: ReasoningForm) -> str:
    """Sets `thought` and `content`, as `split_reasoning` does."""
    text = "{% set content = message['content'] or '' %}{% set thought = message['reasoning_content'] or '' %}"
    if form.tags:
        opening, closing = map(quote, form.tags)
        text += (
            "{% if not thought and " + closing + " in content %}"
            "{% set thought = content.split("
            + closing
            + ")[0].rstrip('\\n').split("
            + opening
            + ")[-1].lstrip('\\n') %}"
            "{% set content = content.split(" + closing + ")[-1].lstrip('\\n') %}{% endif %}"
        )
    return text + "{% set thought = thought.strip('\\n') %}"


def _alone(form: ToolForm, text: str) -> str:
    if not form.alone:
        return ""
    several = "message['tool_calls'] and ((" + text + ") | trim or message['tool_calls'] | length > 1)"
    return _refuse(several, "a reply is text or one call in this template")


def _calls(form: ToolForm, text: str) -> str:
    slots = {"name": "{{ function['name'] }}", "arguments": "{{ function['arguments'] | tojson }}"}
    newline = "not loop.first" if form.alone else f"not loop.first or ({text})"
    return (
        "{% if message['tool_calls'] %}{% for call in message['tool_calls'] %}"
        "{% set function = call['function'] or call %}{% if "
        + newline
        + " %}{{ '\\n' }}{% endif %}"
        + _put(form.call, slots)
        + "{% endfor %}{% endif %}"
    )
