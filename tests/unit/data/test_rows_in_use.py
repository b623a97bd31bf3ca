"""Rows of public sets and exports in use: each is read rightly, or refused with the name of what cannot be read."""

import json
from typing import Any

import pytest

from vicuna_lit.data.conversation import Conversation, Rejection, trim
from vicuna_lit.data.readers import parse

Q, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
CALL = {"name": "f", "arguments": '{"a": 1}'}
LABELS = {"language": "English", "toxic": False, "redacted": False, "turn_identifier": 1}


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": role, "value": text} for role, text in turns]


def gemini(*turns: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"role": role, "parts": [part]} for role, part in turns]


def shown(record: Any) -> str:
    """A conversation in one line: `a(thought) text call{}`, out of the loss in brackets; or why it is refused."""
    found = parse(record, "x")
    found = trim(found)[0] if isinstance(found, Conversation) else found
    if isinstance(found, Rejection):
        return f"refused: {found.reason}: {found.detail}"
    turns = []
    for turn in found.turns:
        thought = f"({turn.reasoning})" if turn.reasoning else ""
        calls = "".join(f" {call.name}{call.arguments}" for call in turn.tool_calls)
        text = f"{turn.role[0]}{thought} {turn.content}{calls}"
        turns.append(text if turn.supervised or turn.role != "assistant" else f"[{text}]")
    return " | ".join(turns) + (f" ; {found.tools}" if found.tools else "")


TOOLS = '[{"type": "function", "function": {"name": "f", "parameters": {}}}]'
READ: dict[str, tuple[Any, str]] = {
    "WildChat": ({"model": "m", "conversation": [Q | LABELS, A | LABELS], "turn": 1, "toxic": False}, "u Q | a A"),
    "LMSYS": ({"conversation_id": "c", "conversation": [Q, A], "openai_moderation": [{}]}, "u Q | a A"),
    "UltraChat": ({"prompt": "Q", "prompt_id": "p", "messages": [Q, A]}, "u Q | a A"),
    "OpenHermes": (
        {
            "id": None,
            "system_prompt": None,
            "conversations": [t | {"weight": None} for t in said(("human", "Q"), ("gpt", "A"))],
        },
        "u Q | a A",
    ),
    "SlimOrca": (
        {
            "conversations": [
                t | {"weight": w} for t, w in zip(said(("human", "Q"), ("gpt", "A")), (0.0, 1.0), strict=True)
            ]
        },
        "u Q | a A",
    ),
    "ToolACE": (
        {
            "system": "S",
            "conversations": said(("user", "Q"), ("assistant", "[f()]"), ("tool", "1"), ("assistant", "A")),
        },
        "s S | u Q | a [f()] | t 1 | a A",
    ),
    "APIGen": (
        {
            "tools": TOOLS,
            "conversations": said(
                ("human", "Q"), ("function_call", json.dumps(CALL)), ("observation", "1"), ("gpt", "A")
            ),
        },
        f'u Q | a  f{{"a": 1}} | t 1 | a A ; {TOOLS}',
    ),
    "Hermes": (
        {"conversations": said(("system", "<tools>[]</tools>"), ("human", "Q"), ("gpt", "A")), "tools": TOOLS},
        "s <tools>[]</tools> | u Q | a A",
    ),
    "SmolTalk2": (
        {
            "messages": [Q, A],
            "chat_template_kwargs": {"custom_instructions": "S", "python_tools": [], "xml_tools": json.loads(TOOLS)},
        },
        f"s S | u Q | a A ; {TOOLS}",
    ),
    "SmolTalk2, tools of both kinds": (
        {"messages": [Q, A], "chat_template_kwargs": {"python_tools": [{"a": 1}], "xml_tools": [{"b": 2}]}},
        'u Q | a A ; [{"b": 2}, {"a": 1}]',
    ),
    "SmolTalk2, tools as text": (
        {"messages": [Q, A], "chat_template_kwargs": {"xml_tools": [json.dumps(json.loads(TOOLS)[0])]}},
        f"u Q | a A ; {TOOLS}",
    ),
    "Mistral": (
        {"messages": [Q, {"role": "assistant", "tool_calls": [{"id": "abcdefghi", "function": CALL}]}]},
        'u Q | a  f{"a": 1}',
    ),
    "Cohere": ({"messages": [{"role": "User", "message": "Q"}, {"role": "Chatbot", "message": "A"}]}, "u Q | a A"),
    "Cohere's plan": (
        {"messages": [Q, {"role": "assistant", "tool_plan": "T", "tool_calls": [{"function": CALL}]}]},
        'u Q | a(T)  f{"a": 1}',
    ),
    "Gemini": (
        {
            "systemInstruction": {"parts": [{"text": "S"}]},
            "contents": gemini(("user", {"text": "Q"}), ("model", {"text": "A"})),
        },
        "s S | u Q | a A",
    ),
    "Gemini's calls": (
        {
            "contents": gemini(
                ("user", {"text": "Q"}),
                ("model", {"functionCall": {"name": "f", "args": {"a": 1}}}),
                ("function", {"functionResponse": {"name": "f", "response": {"r": 1}}}),
                ("model", {"text": "A"}),
            )
        },
        'u Q | a  f{"a": 1} | t {"r": 1} | a A',
    ),
    "Gemini's thoughts": (
        {
            "contents": [
                {"role": "user", "parts": [{"text": "Q"}]},
                {"role": "model", "parts": [{"text": "T", "thought": True}, {"text": "A"}]},
            ]
        },
        "u Q | a(T) A",
    ),
    "Anthropic": (
        {
            "system": [{"type": "text", "text": "S"}],
            "tools": [{"name": "f", "input_schema": {}}],
            "messages": [
                Q,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "T", "signature": "x"},
                        {"type": "text", "text": "B"},
                        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
                    ],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "1"}]},
                A,
            ],
        },
        f's S | u Q | a(T) B f{{"a": 1}} | t 1 | a A ; {TOOLS}',
    ),
    "thoughts as blocks": (
        {"messages": [Q, A | {"thinking_blocks": [{"type": "thinking", "thinking": "T"}]}]},
        "u Q | a(T) A",
    ),
    "thoughts twice": (
        {"messages": [Q, A | {"reasoning": "T", "reasoning_details": [{"type": "reasoning.text", "text": "T"}]}]},
        "u Q | a(T) A",
    ),
    "an empty field of thoughts": ({"messages": [Q, A | {"reasoning_content": "", "reasoning": "T"}]}, "u Q | a(T) A"),
    "thoughts in a column": ({"prompt": "Q", "response": "A", "reasoning": "T"}, "u Q | a(T) A"),
    "a refusal": ({"messages": [Q, {"role": "assistant", "content": None, "refusal": "No."}]}, "u Q | a No."),
    "messages as JSON": ({"messages": json.dumps([Q, A])}, "u Q | a A"),
    "KTO": ({"prompt": [Q], "completion": [A], "label": True}, "u Q | a A"),
    "a number for an id": ({"id": 7, "messages": [Q, A]}, "u Q | a A"),
    "names": ({"messages": [Q | {"name": "Bo"}, A | {"name": "Amy"}]}, "u Q | a A"),
    "a weight that is no number": ({"messages": [Q, A | {"weight": False}]}, "u Q | [a A]"),
    "null columns of a struct": (
        {
            "messages": [
                Q | {"tool_calls": None},
                A | {"tool_calls": [{"id": None, "function": CALL | {"arguments": None}}]},
            ]
        },
        "u Q | a A f{}",
    ),
}
"""What each becomes."""
REFUSED: dict[str, tuple[Any, str]] = {
    "Dolly": (
        {"instruction": "Q", "context": "C", "response": "A"},
        "unknown record format: keys 'instruction', 'context'",
    ),
    "a context": ({"instruction": "Q", "context": "C", "output": "A"}, "context beside the question"),
    "documents": ({"messages": [Q, A], "documents": [{"text": "x"}]}, "documents: the answer is drawn from"),
    "xLAM": ({"query": "Q", "answers": "[]", "tools": "[]"}, "unknown record format: keys 'query', 'answers', 'tools'"),
    "Glaive": ({"system": "SYSTEM: S", "chat": "USER: Q ASSISTANT: A"}, "unknown record format: keys 'system', 'chat'"),
    "R1 distilled": ({"problem": "Q", "generations": ["A"]}, "unknown record format: keys 'problem', 'generations'"),
    "OASST2, flat": ({"message_id": "m", "parent_id": None, "text": "Q", "role": "prompter"}, "unknown record format"),
    "an arena": ({"conversation_a": [Q, A], "conversation_b": [Q, A]}, "unknown record format: keys 'conversation_a'"),
    "DPO": ({"prompt": "Q", "chosen": [Q, A], "rejected": [Q, A]}, "pair of answers: chosen and rejected"),
    "ms-swift's DPO": ({"messages": [Q, A], "rejected_response": "B"}, "pair of answers: rejected_response"),
    "OpenAI's DPO": (
        {"input": {"messages": [Q]}, "preferred_output": [A], "non_preferred_output": [A]},
        "pair of answers",
    ),
    "Responses": (
        {"instructions": "S", "input": [Q], "output": [{"type": "message"}]},
        "unknown record format: keys 'instructions'",
    ),
    "items of Responses": ({"messages": [Q, {"type": "function_call", "name": "f"}]}, "unknown role: turn 2"),
    "Copilot": ({"requests": [{"message": {"text": "Q"}}]}, "unknown record format: keys 'requests'"),
    "Gemini's picture": (
        {"contents": gemini(("user", {"inlineData": {}}), ("model", {"text": "A"}))},
        "a part with 'inlineData'",
    ),
    "a redacted thought": (
        {"messages": [Q, A | {"content": [{"type": "redacted_thinking", "data": "x"}]}]},
        "redacted_thinking",
    ),
    "an encrypted thought": (
        {"messages": [Q, A | {"reasoning_details": [{"type": "reasoning.encrypted"}]}]},
        "reasoning_details is null",
    ),
    "a sound": ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}, A]}, "input_audio"),
    "two system prompts": (
        {"system": "S", "messages": [{"role": "system", "content": "other"}, Q, A]},
        "two system prompts",
    ),
    "system turns": (
        {"messages": [{"role": "system", "content": c} for c in "ab"] + [Q, A]},
        "roles do not alternate: turn 2 is system",
    ),
    "a weight as text": ({"messages": [Q, A | {"weight": "0.5"}]}, "turn 2: weight is neither 0 nor"),
    "no content": ({"messages": [Q, A | {"content": None}]}, "turn 2: content is null"),
    "lists in lists": ({"messages": [[Q, A], [Q, A]]}, "turn 1 is a list"),
    "messages as Python": ({"messages": repr([Q, A])}, "the turns are a str"),
    "columns": ({"messages": {"role": ["user"], "content": ["Q"]}}, "the turns are a dict"),
    "text behind a call": (
        {"messages": [Q, A | {"content": [{"type": "tool_use", "name": "f"}, {"type": "text", "text": "B"}]}]},
        "parts out of order: turn 2: content: text behind a call",
    ),
    "a thought behind text": (
        {"messages": [Q, A | {"content": [{"type": "text", "text": "B"}, {"type": "thinking", "thinking": "T"}]}]},
        "parts out of order: turn 2: content: a thought",
    ),
    "text before a result": (
        {"messages": [Q, {"role": "user", "content": ["B", {"type": "tool_result", "content": "1"}]}, A]},
        "parts out of order: turn 2: content: a thought or a tool's result behind text",
    ),
    "tools in words": (
        {"messages": [Q, A], "chat_template_kwargs": {"xml_tools": ["f()"]}},
        "chat_template_kwargs.xml_tools",
    ),
}
"""What the refusal says."""


@pytest.mark.parametrize("kind", READ)
def test_a_row_in_use_is_read(kind):
    record, expected = READ[kind]
    assert shown(record) == expected


@pytest.mark.parametrize("kind", REFUSED)
def test_a_row_that_cannot_be_read_is_refused_by_name(kind):
    record, reason = REFUSED[kind]
    assert shown(record).startswith("refused: ")
    assert reason in shown(record)
