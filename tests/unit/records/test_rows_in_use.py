"""Rows of public sets and exports in use: each is read rightly, or refused with the name of what cannot be read."""

import json
import re
from typing import Any

import pytest
import yaml

from tests.helpers.records import A, Q, shown

CALL = {"name": "f", "arguments": '{"a": 1}'}
LABELS = {"language": "English", "toxic": False, "redacted": False, "turn_identifier": 1}


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": role, "value": text} for role, text in turns]


def two(question: str, answer: str, /, **others: Any) -> dict[str, Any]:
    return {question: "Q", answer: "A", **others}


def parts(*turns: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"role": role, "content": [part]} for role, part in turns]


def gemini(*turns: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"role": role, "parts": [part]} for role, part in turns]


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
    "OpenOrca": (two("question", "response", id="niv.1", system_prompt="S"), "s S | u Q | a A"),
    "Dolly": (two("instruction", "response", context="C"), "u Q\n\n### Input:\nC | a A"),
    "Dolly, no context": (two("instruction", "response", context="", category="open_qa"), "u Q | a A"),
    "GPTeacher": (two("instruction", "response", input="I"), "u Q\n\n### Input:\nI | a A"),
    "Airoboros": (two("instruction", "response", system="S"), "s S | u Q | a A"),
    "MetaMathQA": (two("query", "response", original_question="O", type="t"), "u Q | a A"),
    "ms-swift": (two("query", "response", history=[["P", "B"]], system="S"), "s S | u P | a B | u Q | a A"),
    "GSM8K": (two("question", "answer"), "u Q | a A"),
    "Magicoder": (two("problem", "solution", lang="python"), "u Q | a A"),
    "OpenMathInstruct": (two("problem", "generated_solution", expected_answer="1"), "u Q | a A"),
    "Aya": (two("inputs", "targets", language="English"), "u Q | a A"),
    "Natural Instructions": (two("definition", "targets", inputs="I"), "u Q\n\n### Input:\nI | a A"),
    "P3": (two("inputs_pretokenized", "targets_pretokenized", inputs=[1], targets=[2]), "u Q | a A"),
    "Firefly": (two("input", "target", kind="k"), "u Q | a A"),
    "Camel": (two("message_1", "message_2", role_1="r"), "u Q | a A"),
    "PaLM": (two("input_text", "output_text"), "u Q | a A"),
    "medical-o1": (two("Question", "Response", Complex_CoT="T"), "u Q | a(T) A"),
    "Nemotron": (
        {"input": [Q], "output": "A", "reasoning": "on", "system_prompt": "S", "generator": "g"},
        "s S | u Q | a A",
    ),
    "Langfuse": ({"input": [Q], "output": A}, "u Q | a A"),
    "xLAM": ({"query": "Q", "answers": json.dumps([CALL]), "tools": TOOLS}, f'u Q | a  f{{"a": 1}} ; {TOOLS}'),
    "stored completions": (
        {"messages": [Q, A, Q], "choices": [{"message": A, "finish_reason": "stop"}]},
        "u Q | a A | u Q | a A",
    ),
    "a server's log": ({"messages": [Q], "response": {"choices": [{"message": A}]}}, "u Q | a A"),
    "UltraChat, raw": ({"id": "0", "data": ["Q", "A", "Q", "A"]}, "u Q | a A | u Q | a A"),
    "LIMA": ({"conversations": ["Q", "A"], "source": "s"}, "u Q | a A"),
    "Capybara": ({"conversation": [two("input", "output")]}, "u Q | a A"),
    "XTuner": (
        {"conversation": [two("input", "output", system="S"), two("input", "output")]},
        "s S | u Q | a A | u Q | a A",
    ),
    "Firefly's chats": ({"conversation": [two("human", "assistant", weight=0)]}, "u Q | [a A]"),
    "text-generation-webui": ({"internal": [["Q", "A"]], "visible": [["Q", "<p>A</p>"]]}, "u Q | a A"),
    "Bedrock": (
        {
            "schemaVersion": "bedrock-conversation-2024",
            "system": [{"text": "S"}],
            "toolConfig": {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {}}}}]},
            "messages": parts(
                ("user", {"text": "Q"}),
                ("assistant", {"toolUse": {"toolUseId": "t", "name": "f", "input": {"a": 1}}}),
                ("user", {"toolResult": {"toolUseId": "t", "content": [{"json": {"r": 1}}]}}),
                ("assistant", {"text": "A"}),
            ),
        },
        f's S | u Q | a  f{{"a": 1}} | t {{"r": 1}} | a A ; {TOOLS}',
    ),
    "Gemini's tools": (
        {
            "tools": [{"functionDeclarations": [{"name": "f", "parameters": {}}]}],
            "contents": gemini(("user", {"text": "Q"}), ("model", {"text": "A"})),
        },
        f"u Q | a A ; {TOOLS}",
    ),
    "AI Studio": (
        {
            "systemInstruction": {"text": "S"},
            "chunkedPrompt": {
                "chunks": [
                    {"role": "user", "text": "Q"},
                    {"role": "model", "text": "T", "isThought": True},
                    {"role": "model", "text": "A"},
                ]
            },
        },
        "s S | u Q | a(T) A",
    ),
    "DeepSeek": (
        {
            "mapping": {
                "root": {"parent": None, "children": ["1"], "message": None},
                "1": {
                    "parent": "root",
                    "children": ["2"],
                    "message": {"fragments": [{"type": "REQUEST", "content": "Q"}], "files": []},
                },
                "2": {
                    "parent": "1",
                    "children": [],
                    "message": {"fragments": [{"type": "THINK", "content": "T"}, {"type": "RESPONSE", "content": "A"}]},
                },
            }
        },
        "u Q | a(T) A",
    ),
    "ChatGLM": (two("prompt", "response", history=[["P", "B"]]), "u P | a B | u Q | a A"),
    "a history of messages": (two("prompt", "completion", history=[Q, A]), "u Q | a A | u Q | a A"),
    "a template of the question": (two("instruction", "output", prompt="### Q ###"), "u Q | a A"),
    "a context in the question": (two("question", "answer", context="Q"), "u Q | a A"),
    "empty columns of a merged set": (
        two("question", "answer") | dict.fromkeys(("prompt", "completion", "instruction", "output"), ""),
        "u Q | a A",
    ),
    "an empty list of a merged set": ({"conversations": [], "messages": [Q, A]}, "u Q | a A"),
    "an empty instruction": (two("input", "output", instruction=""), "u Q | a A"),
    "data beside them": (two("instruction", "output", data=["x", "y"]), "u Q | a A"),
    "a lacking input": (two("instruction", "output", input=float("nan")), "u Q | a A"),
    "two lists alike": ({"conversations": said(("human", "Q"), ("gpt", "A")), "messages": [Q, A]}, "u Q | a A"),
    "a list of something else": ({"conversations": said(("human", "Q"), ("gpt", "A")), "messages": [3]}, "u Q | a A"),
    "a context that is in a turn": ({"context": "Q", "messages": [Q, A]}, "u Q | a A"),
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
    "a context": ({"instruction": "Q", "context": "C", "output": "A"}, "context beside the question: context"),
    "documents": (
        {"messages": [Q, A], "documents": [{"text": "x"}]},
        "documents are in no turn: put them into a turn; data.columns",
    ),
    "Glaive": ({"system": "SYSTEM: S", "chat": "USER: Q ASSISTANT: A"}, "unknown record format: keys 'system', 'chat'"),
    "two columns of one's own": (
        {"id": "7", "model_reply": "A", "user_question": "Q"},
        "data.columns='{prompt: user_question, response: model_reply}' reads it, if these are",
    ),
    "R1 distilled": ({"problem": "Q", "generations": ["A"]}, "unknown record format: keys 'problem', 'generations'"),
    "OASST2, flat": ({"message_id": "m", "parent_id": None, "text": "Q", "role": "prompter"}, "unknown record format"),
    "an arena": ({"conversation_a": [Q, A], "conversation_b": [Q, A]}, "unknown record format: keys 'conversation_a'"),
    "DPO": ({"prompt": "Q", "chosen": [Q, A], "rejected": [Q, A]}, "pair of answers: chosen and rejected"),
    "ms-swift's DPO": ({"messages": [Q, A], "rejected_response": "B"}, "pair of answers: rejected_response"),
    "OpenAI's DPO": (
        {"input": {"messages": [Q]}, "preferred_output": [A], "non_preferred_output": [A]},
        "pair of answers",
    ),
    "an item of Responses": (
        {"input": [Q], "output": [{"type": "web_search_call"}, A]},
        "unknown content type: turn 2: an item of type 'web_search_call'",
    ),
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
    "messages as Python": ({"messages": repr([Q, A])}, "the turns are text"),
    "columns of two lengths": (
        {"messages": {"role": ["user"], "content": []}},
        "'role' and 'content' are not of one length",
    ),
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
    "a question's context": (
        two("question", "answer", context="C"),
        "context beside the question: context; data.columns='{prompt: question, context: context, response: answer}'",
    ),
    "choices": (
        two("question", "answer", options=["A", "B"]),
        "options: put it into the question; data.columns='{prompt: question, response: answer}' leaves it out",
    ),
    "choices in columns (C-Eval)": (
        two("question", "answer", A="x", B="y"),
        "A, B: put it into the question; data.columns='{prompt: question, response: answer}' leaves it out",
    ),
    "Alpaca's passage": (
        two("instruction", "output", passage="C"),
        "data.columns='{prompt: instruction, context: passage, response: output}' reads it, without context it is left",
    ),
    "a passage beside Alpaca's input": (
        two("instruction", "output", input="I", passage="C"),
        "question; data.columns='{prompt: instruction, context: input, response: output}' leaves it out",
    ),
    "a passage, a system prompt and tools": (
        two("question", "answer", passage="C", systemPrompt="S", tools=[{"name": "f"}]),
        "'{prompt: question, context: passage, response: answer, system: systemPrompt, tools: tools}' reads it",
    ),
    "an instruction beside a question": (
        two("question", "answer", instruction="I"),
        "several questions: question, instruction; "
        "data.columns='{prompt: instruction, response: answer, context: question}' reads both",
    ),
    "three parts of a question": (
        two("instruction", "output", input="I", question="P"),
        "data.columns='{prompt: instruction, context: input, response: output, system: question}' reads both",
    ),
    "a passage that holds the question": (
        two("question", "answer", passage="P Q R"),
        "data.columns='{prompt: question, context: passage, response: answer}' reads it",
    ),
    "a passage without a question": ({"question": "", "answer": "A", "passage": "P"}, "question: passage;"),
    "Alpaca's second answer": (two("instruction", "output", response="B"), "several answers: output, response"),
    "a result beside a response": (two("prompt", "response", answer="B"), "several answers: response, answer"),
    "a history beside messages": ({"messages": [Q, A], "history": [["P", "B"]]}, "context beside the turns: history"),
    "half a history": (two("prompt", "response", history=[["P"]]), "history is no list of pairs"),
    "the rest of the code": (two("prompt", "completion", suffix="S"), "context beside the question: suffix"),
    "a context of turns": (
        {"context": "C", "system": "S", "messages": [Q, A]},
        "or into system; data.columns='{messages: messages, system: system}' leaves it out",
    ),
    "NuminaMath 1.5": (
        two("problem", "solution", answer="1"),
        "data.columns='{prompt: problem, response: solution}' reads it, or with response: answer",
    ),
    "two completions": (two("prompt", "completion", response="B"), "several answers: completion, response;"),
    "a list of answers": ({"prompt": "Q", "response": ["A", "B"]}, "several answers: response is a list of 2"),
    "two choices": (
        {"messages": [Q], "choices": [{"message": A}, {"message": A}]},
        "several answers: choices: 2 choices; keep one",
    ),
    "an answer cut off": (
        {"messages": [Q], "choices": [{"message": A, "finish_reason": "length"}]},
        "bad answer: choices: finish_reason is length",
    ),
    "dolphin-r1": (
        {"messages": [Q, A, Q], "reasoning": "T", "answer": "A"},
        "answer beside the turns: answer; data.columns='{messages: messages, response: answer}'",
    ),
    "two lists": (
        {"conversations": said(("human", "Q"), ("gpt", "B")), "messages": [Q, A]},
        "two lists of turns: conversations and messages differ",
    ),
    "UltraFeedback": (
        {"prompt": "Q", "messages": [Q, A], "chosen": [Q, A], "rejected": [Q, A]},
        "data.columns='{messages: chosen}' trains on the chosen one",
    ),
    "a rejected answer": (two("instruction", "output", rejected="B"), "pair of answers: rejected"),
    "a corrected answer": (two("instruction", "output", corrected="B"), "pair of answers: corrected"),
    "a wrong solution": (two("question", "generated_solution", is_correct=False), "bad answer: is_correct is false"),
    "BELLE's turns": (
        {"instruction": "Human: Q\nAssistant: A\nHuman: Q\nAssistant:", "output": "A"},
        "several turns in one text",
    ),
    "SHP": (
        {"history": "Q", "human_ref_A": "A", "human_ref_B": "B", "labels": 1},
        "unknown record format: keys 'history', 'human_ref_A'",
    ),
    "SillyTavern": ({"name": "Bo", "is_user": True, "mes": "Q"}, "each record is one message"),
    "Claude Code": ({"type": "user", "message": Q, "uuid": "u", "parentUuid": None}, "each record is one message"),
    "one text": ({"text": "### Human: Q### Assistant: A"}, "one text without turns"),
    "LibreChat's names alone": ({"messages": [{"sender": "Bo", "text": "Q"}]}, "turn 1 has role 'Bo'"),
    "a search of DeepSeek": (
        {"mapping": {"1": {"parent": None, "message": {"fragments": [{"type": "SEARCH"}]}}}},
        "unknown content type: node '1': a fragment of type 'SEARCH'",
    ),
    "a file of Drive": (
        {"chunkedPrompt": {"chunks": [{"role": "user", "driveImage": {"id": "1"}}]}},
        "images and other media: chunk 1: no text, but 'role', 'driveImage'",
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


@pytest.mark.promise("A question of many short lines takes no longer to read than another of its length")
def test_many_lines_are_read_in_the_time_of_their_length():
    for question in ("\n" * 1_000_000, "User: a\n" * 100_000):
        assert shown({"prompt": question, "response": "A"}).endswith(" | a A")
    assert "several turns in one text" in shown({"prompt": "User: a\n" * 100_000 + "Assistant:", "response": "A"})


def test_what_a_refusal_says_to_give_reads_the_row():
    for kind, (record, _) in REFUSED.items():
        for line in re.findall(r"data\.columns='(\{[^…}]+\})'", shown(record)):
            assert not shown(record, yaml.safe_load(line)).startswith("refused"), (kind, line)


BY_COLUMNS: dict[str, tuple[dict[str, str], Any, str]] = {
    "texts": ({"prompt": "question", "response": "solution"}, two("question", "solution", answer="1"), "u Q | a A"),
    "all of them": (
        {"prompt": "p", "context": "c", "system": "s", "reasoning": "t", "response": "r"},
        {"p": "Q", "c": "C", "s": "S", "t": "T", "r": "A"},
        "s S | u Q\n\n### Input:\nC | a(T) A",
    ),
    "calls": (
        {"prompt": "q", "calls": "c", "tools": "t"},
        {"q": "Q", "c": CALL, "t": json.loads(TOOLS)},
        f'u Q | a  f{{"a": 1}} ; {TOOLS}',
    ),
    "the chosen one": ({"messages": "chosen"}, {"chosen": [Q, A], "rejected": [Q, Q]}, "u Q | a A"),
    "inside": (
        {"messages": "request.messages", "response": "response.choices"},
        {"request": {"messages": [Q]}, "response": {"choices": [{"message": A}]}, "messages": [A]},
        "u Q | a A",
    ),
    "one of a list": ({"prompt": "p", "response": "all.1"}, {"p": "Q", "all": ["B", "A"]}, "u Q | a A"),
    "a weight": ({"prompt": "p", "response": "r"}, {"p": "Q", "r": "A", "weight": 0}, "u Q | [a A]"),
    "an empty context": (
        {"prompt": "p", "context": "c", "response": "r"},
        {"p": "Q", "c": None, "r": "A"},
        "u Q | a A",
    ),
    "a typing error": (
        {"prompt": "asked", "response": "r"},
        two("prompt", "r"),
        "refused: missing column: asked, which columns name for prompt; the record has 'prompt', 'r'",
    ),
    "no answer": ({"prompt": "p", "response": "r"}, {"p": "Q", "r": None}, "refused: wrong type: r is null, not text"),
    "a reply after a reply": (
        {"messages": "m", "response": "r"},
        {"m": [Q, A], "r": "B"},
        "refused: roles do not alternate: turn 3 is assistant after assistant",
    ),
    "a picture": (
        {"prompt": "p", "response": "r"},
        {"p": "Q", "r": "A", "image": "x"},
        "refused: images and other media: the record: image",
    ),
}
"""What `data.columns` makes of a record."""


@pytest.mark.parametrize("kind", BY_COLUMNS)
def test_columns_say_what_is_what(kind):
    columns, record, expected = BY_COLUMNS[kind]
    assert shown(record, columns) == expected
