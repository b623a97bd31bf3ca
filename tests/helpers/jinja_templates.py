"""Small Jinja chat templates, each with one habit of the templates that models ship with, and a check of what is
trained on with any of them."""

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.runs import SHARED
from tests.helpers.tokenizers import llama3_like
from vicuna_lit.data.encoder import Encoder, Example
from vicuna_lit.data.jinja_template import TokenizerTemplate
from vicuna_lit.data.template_thoughts import OPENED
from vicuna_lit.records.conversation import Conversation, Rejection, Turn

OTHERS = Path(os.environ.get("STOCK_TOKENIZERS", SHARED / "stock_tokenizers"))
"""Tokenizers in folders and templates in `*.jinja` that others made; never committed, see CONTRIBUTING.md."""
DATE = "2024-07-26"

_TOOLS = "{% if tools %}<|b|>tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|e|>\n{% endif %}"
CALLS = (
    "{% for c in m.tool_calls or [] %}<call>{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}"
    "</call>{% endfor %}"
)
"""Of a turn, in all of them."""
_PROMPT = "{% if add_generation_prompt %}<|b|>assistant\n{% endif %}"
_LAST_QUESTION = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
)
_TURN = "<|b|>{{ m.role }}\n{{ m.content }}" + CALLS + "<|e|>\n"


def _loop(turn: str) -> str:
    return _TOOLS + "{% for m in messages %}" + turn + "{% endfor %}" + _PROMPT


TEMPLATES = {
    "changes nothing": _loop(_TURN),
    "trims": _loop(_TURN.replace("m.content", "m.content | trim")),
    "writes the date": "Today: {{ strftime_now('%d %B %Y') }}\n" + _loop(_TURN),
    "strips thoughts, adds an empty think block": _LAST_QUESTION
    + _loop(
        "{% if m.role == 'assistant' %}<|b|>assistant\n{% set content = m.content %}{% set thought = '' %}"
        "{% if m.reasoning_content is string %}{% set thought = m.reasoning_content %}"
        "{% elif '</think>' in content %}{% set thought = content.split('</think>')[0].split('<think>')[-1] %}"
        "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{% if loop.index0 > ns.last %}<think>\n{{ thought.strip('\n') }}\n</think>\n\n{% endif %}"
        "{{ content }}" + CALLS + "<|e|>\n{% else %}" + _TURN + "{% endif %}"
    ),
    "opens the thought in the prompt": _LAST_QUESTION
    + _loop(
        "{% if m.role == 'assistant' %}<|b|>assistant\n"
        "{% if loop.index0 > ns.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
        "{{ m.content }}" + CALLS + "<|e|>\n{% else %}" + _TURN + "{% endif %}"
    ).replace("<|b|>assistant\n{% endif %}", "<|b|>assistant\n<think>\n{% endif %}"),
    "drops thoughts, opens one in the prompt": _loop(
        "{% if m.role == 'assistant' %}<|b|>assistant\n{{ m.content.split('</think>')[-1] }}"
        + CALLS
        + "<|e|>\n{% else %}"
        + _TURN
        + "{% endif %}"
    ).replace("<|b|>assistant\n{% endif %}", "<|b|>assistant\n<think>\n{% endif %}"),
    "adds an empty thought to the prompt alone": _loop(_TURN).replace(
        "<|b|>assistant\n{% endif %}",
        "<|b|>assistant\n{{ '<think>\n' if think is defined and think else '<think>\n\n</think>\n\n' }}{% endif %}",
    ),
    "describes calls, and writes none": "{% if xml_tools %}<|b|>tools\n{% for t in xml_tools %}{{ t | string }}\n"
    '{% endfor %}Write calls so:\n{{ \'<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}'
    "\n</tool_call>' }}<|e|>\n{% endif %}{% for m in messages %}"
    + _TURN.replace(CALLS, "")
    + "{% endfor %}"
    + _PROMPT.replace("{% endif %}", "{{ '<think>\n\n</think>\n' if mode == 'quick' else '' }}{% endif %}"),
    "merges results of tools": _loop(
        "{% if m.role == 'tool' %}{% if messages[loop.index0 - 1].role != 'tool' %}<|b|>user{% endif %}"
        "\n<result>\n{{ m.content }}\n</result>"
        "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|e|>\n{% endif %}{% else %}"
        + _TURN
        + "{% endif %}"
    ),
    "results as JSON": _loop(
        "{% if m.role == 'tool' %}<|b|>tool\n{{ m.content | tojson }}<|e|>\n{% else %}" + _TURN + "{% endif %}"
    ),
    "another stop in the history, and thoughts only before calls": _TOOLS
    + "{% for m in messages %}{% if m.role != 'assistant' %}"
    + _TURN
    + "{% elif m.tool_calls %}"
    "{% set after = messages[loop.index:] | rejectattr('tool_calls') %}"
    "{% set later = after | selectattr('role', 'equalto', 'assistant') | list %}"
    "{% if m.thinking and not later %}<|b|>assistant:thinks\n{{ m.thinking }}<|e|>\n{% endif %}"
    "<|b|>assistant:calls\n{{ m.content }}" + CALLS + "<|call|>{% else %}"
    "{% if loop.last and m.thinking %}<|b|>assistant:thinks\n{{ m.thinking }}<|e|>\n{% endif %}"
    "<|b|>assistant:says\n{{ m.content }}{{ '<|return|>' if loop.last and not add_generation_prompt else '<|e|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|b|>assistant{% endif %}",
}
"""By their habit."""


def special_of(template: str) -> list[str]:
    """The texts in a template that its tokenizer has as special tokens, by their form."""
    forms = r"<[|｜][^<>\s{}'\"]*[|｜]>|<(?:start|end)_of_turn>|<turn\|>|<\|turn>|<\|?tool_response\|?>|\[/?[A-Z_]+\]"
    return sorted({text for text in re.findall(forms, template) if text != "<tool_response>"})


def encoder_with(template: str, tokenizer: Any = None) -> Encoder:
    """An encoder with a Jinja template, of a small byte-level tokenizer that has the template's special tokens."""
    if tokenizer is None:
        tokenizer = llama3_like()
        tokenizer.add_special_tokens({"additional_special_tokens": special_of(template)})
        tokenizer.chat_template = template
        with suppress(Exception):  # templates that take no such conversation have no end of one
            turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            written = tokenizer.apply_chat_template(turns, tokenize=False)
            ends = [t for t in special_of(template) if t == "<|END_OF_TURN_TOKEN|>"]  # Cohere's open a turn behind it
            tokenizer.eos_token = max(ends or special_of(template), key=written.rfind)
    return Encoder(tokenizer, TokenizerTemplate(tokenizer, date=DATE))


def messages_of(turns: tuple[Turn, ...], as_text: bool = False) -> list[dict[str, Any]]:
    """As a user would write them for `apply_chat_template`."""
    messages = []
    for turn in turns:
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if turn.reasoning:
            message |= {"reasoning_content": turn.reasoning, "thinking": turn.reasoning, "reasoning": turn.reasoning}
        if turn.tool_calls:
            message["tool_calls"] = [
                {
                    "type": "function",
                    "id": c.id,
                    "function": {"name": c.name, "arguments": c.arguments if as_text else json.loads(c.arguments)},
                }
                for c in turn.tool_calls
            ]
        named = {"name": turn.name, "tool_call_id": turn.call_id}
        messages.append(message | {key: value for key, value in named.items() if value})
    return messages


def spans(example: Example) -> list[tuple[int, int]]:
    """Where its supervised tokens begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], example.supervised.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def check(encoder: Encoder, conversation: Conversation) -> list[Example] | Rejection:
    """Each reply is supervised once, as generated behind the ids that `apply_chat_template` gives for inference."""
    found = encoder.unfold([conversation])[0]
    if isinstance(found, Rejection):
        assert found.reason
        return found
    tokenizer, tools = encoder.tokenizer, json.loads(conversation.tools) if conversation.tools else None
    own: Any = encoder.template
    moved = [own._in_text.moved(turn) for turn in conversation.turns]
    normal = tokenizer.backend_tokenizer.normalizer

    def seen(text: str) -> str:
        return normal.normalize_str(text) if normal else text

    def reference(turns: tuple[Turn, ...], generate: bool, tokenize: bool) -> Any:
        how = {own._tools_key: tools, "add_generation_prompt": generate, "tokenize": tokenize, "return_dict": False}
        try:
            return tokenizer.apply_chat_template(messages_of(turns), **how, **own._date)
        except TypeError:  # a template that takes the arguments of calls as JSON
            return tokenizer.apply_chat_template(messages_of(turns, as_text=True), **how, **own._date)

    turns = tuple(moved)
    replies = iter([i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.supervised])
    for example in found:
        last = 0
        for start, stop in spans(example):
            last = i = next(replies)
            assert example.input_ids[:start].tolist() == reference(turns[:i], True, True)
            assert example.input_ids[:start].tolist() == encoder.prompt_ids(
                Conversation("", turns[:i], conversation.tools)
            )
            prompt, whole = reference(turns[:i], True, False), reference(turns[: i + 1], False, False)
            said = seen(encoder.decode(example.input_ids[start:stop]))
            after = seen(whole.removeprefix(prompt)) if whole.startswith(prompt) else seen(whole)
            whole_reply = said
            if OPENED.search(prompt) and not whole.startswith(prompt):  # what the template itself leaves out
                said = said.split("</think>")[-1].lstrip("\n")
            assert after.startswith(said) if whole.startswith(prompt) else said in after
            rest = after.rpartition(said)[2].strip()
            always_opens = prompt == reference(turns[:i], False, False) and prompt.endswith(rest)
            assert rest in ("", "<|endoftext|>", tokenizer.eos_token) or always_opens
            assert encoder.template.stop not in said.removesuffix(encoder.template.stop)
            given = conversation.turns[i]
            for text in (given.content, given.reasoning, *(c.name for c in given.tool_calls)):
                assert seen(re.split(r"</?think>", text.strip())[-1].strip()) in whole_reply
        if reference(turns[: last + 1], False, False).startswith(reference(turns[:last], True, False)):
            assert example.input_ids.tolist() == reference(turns[: last + 1], False, True)
    assert next(replies, None) is None
    return found
