"""What chat programs, SDKs and logs write: read by one rule for each kind of difference, or refused with its name."""

import json
from typing import Any

from tests.helpers.records import A, Q, shown
from vicuna_lit.records.conversation import Conversation, Rejection
from vicuna_lit.records.readers import read

CALL = {"name": "f", "arguments": '{"a": 1}'}
NONE = "00000000-0000-0000-0000-000000000000"
HUMAN, AI = {"type": "human", "data": {"content": "Q"}}, {"type": "ai", "data": {"content": "A"}}
GROK = {
    "conversation": {"id": "c", "title": "t"},
    "responses": [
        {"response": {"_id": "1", "sender": "human", "message": "Q"}},
        {"response": {"_id": "2", "sender": "ASSISTANT", "message": "A", "thinking_trace": "T"}},
    ],
}


def node(role: str, content: str, id: str, parent: Any, **others: Any) -> dict[str, Any]:
    return {"role": role, "content": content, "id": id, "parentId": parent, **others}


def hugging(role: str, content: str, *ancestors: str, id: str) -> dict[str, Any]:
    return {"id": id, "from": role, "content": content, "ancestors": list(ancestors), "children": []}


def libre(id: str, text: str, parent: str, user: bool, **others: Any) -> dict[str, Any]:
    return {"messageId": id, "parentMessageId": parent, "sender": "Bo", "text": text, "isCreatedByUser": user, **others}


def studio(kind: str, role: str, *steps: dict[str, Any]) -> dict[str, Any]:
    shown = {"type": kind, "role": role, **({"steps": list(steps)} if kind == "multiStep" else steps[0])}
    return {"versions": [{"type": "singleStep", "role": role, "content": []}, shown], "currentlySelected": 1}


def block(*texts: str, **others: Any) -> dict[str, Any]:
    return {"type": "contentBlock", "content": [{"type": "text", "text": text} for text in texts], **others}


def test_a_tree_in_a_list_is_one_branch():
    edited = [
        hugging("system", "", id="0"),
        hugging("user", "P", "0", id="1"),
        hugging("assistant", "B", "0", "1", id="2"),
    ]
    edited += [hugging("user", "Q", "0", id="3"), hugging("assistant", "A", "0", "3", id="4")]
    tree = [node("user", "Q", "1", None), node("assistant", "B", "2", "1"), node("assistant", "A", "3", "1")]
    flat = [libre("1", "Q", NONE, True), libre("2", "B", "1", False), libre("3", "A", "1", False)]
    nested = libre("1", "Q", NONE, True, children=[flat[1] | {"children": []}, flat[2] | {"children": []}])
    found = {
        "HuggingChat": shown({"preprompt": "S", "messages": edited}),
        "the last written": shown({"messages": tree}),
        "the one that is named": shown({"messages": tree, "currentId": "2"}),
        "LibreChat": shown({"conversationId": "c", "messages": flat}),
        "LibreChat, nested": shown({"messages": [nested]}),
        "a part of a tree": shown({"messages": [node("user", "Q", "7", "gone"), node("assistant", "A", "8", "7")]}),
        "parents elsewhere": shown({"messages": [node("user", "Q", "1", "x"), node("assistant", "A", "2", "y")]}),
        "two beginnings": shown({"messages": [*tree, node("user", "R", "4", None)]}),
        "one name twice": shown({"messages": [*tree, tree[1]]}),
    }
    assert found == {
        "HuggingChat": "s S | u Q | a A",
        "the last written": "u Q | a A",
        "the one that is named": "u Q | a B",
        "LibreChat": "u Q | a A",
        "LibreChat, nested": "u Q | a A",
        "a part of a tree": "u Q | a A",
        "parents elsewhere": "u Q | a A",
        "two beginnings": "refused: broken tree: turns 1 and 4 have no parent; "
        "keep one branch, or take out the parents",
        "one name twice": "refused: broken tree: two messages are called '2'",
    }


READ: dict[str, tuple[Any, str]] = {
    "LangChain's dicts": ([HUMAN, AI], "u Q | a A"),
    "LangChain's dump": (
        {
            "messages": [
                {"lc": 1, "type": "constructor", "id": ["langchain", name], "kwargs": {"content": text}}
                for name, text in (("SystemMessage", "S"), ("HumanMessage", "Q"), ("AIMessageChunk", "A"))
            ]
        },
        "s S | u Q | a A",
    ),
    "LangChain's calls, twice in a message": (
        {
            "messages": [
                {"type": "human", "content": "Q"},
                {
                    "type": "ai",
                    "content": [
                        {"type": "text", "text": "B"},
                        {"type": "tool_use", "id": "t", "name": "f", "input": {}},
                    ],
                    "tool_calls": [{"name": "f", "args": {}, "id": "t", "type": "tool_call"}],
                    "additional_kwargs": {"reasoning_content": "T"},
                },
                {"type": "tool", "content": "1", "tool_call_id": "t"},
                {"type": "ai", "content": "A", "tool_calls": [], "response_metadata": {"finish_reason": "stop"}},
            ]
        },
        "u Q | a(T) B f{} | t 1 | a A",
    ),
    "Responses": (
        {
            "instructions": "S",
            "input": [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Q"}]},
                {"type": "reasoning", "summary": [{"text": "about T"}], "content": [{"type": "text", "text": "T"}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "x"},
                {"type": "function_call_output", "call_id": "c", "output": "1"},
                {"type": "custom_tool_call_output", "call_id": "d", "output": "2"},
            ],
            "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A"}]}],
            "tools": [{"type": "function", "name": "f", "parameters": {}}],
        },
        's S | u Q | a(T)  f{} g{"input": "x"} | t 1 | t 2 | a A'
        ' ; [{"type": "function", "function": {"name": "f", "parameters": {}}}]',
    ),
    "calls of tools that take a text, and JSON in JSON": (
        {
            "messages": [
                Q,
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "1", "type": "custom", "custom": {"name": "g", "input": "x"}},
                        {"id": "2", "function": {"name": "f", "arguments": json.dumps(CALL["arguments"])}},
                    ],
                },
            ]
        },
        'u Q | a  g{"input": "x"} f{"a": 1}',
    ),
    "harmony": (
        {
            "messages": [
                Q,
                {"role": "assistant", "channel": "analysis", "content": "T"},
                {"role": "assistant", "channel": "commentary", "recipient": "functions.f", "content": '{"a": 1}'},
                {"role": "tool", "name": "functions.f", "content": "1"},
                A | {"channel": "final"},
            ]
        },
        'u Q | a(T)  f{"a": 1} | t 1 | a A',
    ),
    "columns of turns": ({"messages": {"role": ["user", "assistant"], "content": ["Q", "A"]}}, "u Q | a A"),
    "a thought as a turn": ({"messages": [Q, {"role": "reasoning", "content": "T"}, A]}, "u Q | a(T) A"),
    "camelCase": (
        {
            "systemPrompt": "S",
            "messages": [
                Q,
                {
                    "role": "assistant",
                    "content": "",
                    "toolCalls": [{"id": "t", "function": CALL}],
                    "reasoningContent": "T",
                },
                {"role": "tool", "content": "1", "toolCallId": "t"},
                A,
            ],
        },
        's S | u Q | a(T)  f{"a": 1} | t 1 | a A',
    ),
    "Vercel": (
        {
            "messages": [
                Q,
                {
                    "role": "assistant",
                    "content": [{"type": "tool-call", "toolCallId": "t", "toolName": "f", "args": {}}],
                },
                {"role": "tool", "content": [{"type": "tool-result", "toolCallId": "t", "toolName": "f", "result": 1}]},
                A
                | {
                    "parts": [{"type": "step-start"}, {"type": "reasoning", "text": "T"}, {"type": "text", "text": "A"}]
                },
            ]
        },
        "u Q | a  f{} | t 1 | a(T) A",
    ),
    "Chatbox": (
        {
            "messages": [
                {"role": "user", "contentParts": [{"type": "text", "text": "Q"}]},
                {
                    "role": "assistant",
                    "contentParts": [{"type": "reasoning", "text": "T"}, {"type": "text", "text": "A"}],
                },
            ]
        },
        "u Q | a(T) A",
    ),
    "Assistants": (
        {"messages": [Q, A | {"content": [{"type": "text", "text": {"value": "A", "annotations": []}}]}]},
        "u Q | a A",
    ),
    "Claude Code": (
        [
            {"type": "user", "message": Q, "uuid": "1", "parentUuid": None, "isSidechain": False},
            {"type": "assistant", "message": A, "uuid": "2", "parentUuid": "1", "isSidechain": False},
        ],
        "u Q | a A",
    ),
    "Grok": (GROK, "u Q | a(T) A"),
    "LM Studio": (
        {
            "systemPrompt": "S",
            "messages": [
                studio("singleStep", "user", block("Q")),
                studio(
                    "multiStep",
                    "assistant",
                    block("T", style={"type": "thinking"}),
                    block("A"),
                    {"type": "debugInfoBlock"},
                ),
            ],
        },
        "s S | u Q | a(T) A",
    ),
    "speakers": (
        {"messages": [{"speaker": "Human", "text": "Q"}, {"author": {"role": "bot"}, "text": "A"}]},
        "u Q | a A",
    ),
    "Gemini's answer beside": (
        {
            "contents": [{"role": "user", "parts": [{"text": "Q"}]}],
            "candidates": [{"content": {"role": "model", "parts": [{"text": "A"}]}, "finishReason": "STOP"}],
        },
        "u Q | a A",
    ),
    "a log as JSON": (
        {"messages": json.dumps([Q]), "response": json.dumps({"choices": [{"message": A}]})},
        "u Q | a A",
    ),
    "a question as JSON": ({"prompt": json.dumps([Q]), "completion": "A"}, "u Q | a A"),
    "times that jitter": ({"messages": [Q | {"createdAt": 99}, A | {"createdAt": 50}]}, "u Q | a A"),
    "flags that are off": (
        {"messages": [Q | {"hidden": False}, A | {"error": None, "files": [], "status": "ok"}]},
        "u Q | a A",
    ),
    "a tool that failed": (
        {
            "messages": [
                Q,
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "content": "1", "error": "x"},
                A,
            ]
        },
        'u Q | a  f{"a": 1} | t 1 | a A',
    ),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "the newest first": (
        {"messages": [A | {"timestamp": 40}, Q | {"timestamp": 30}, A | {"timestamp": 20}, Q | {"timestamp": 10}]},
        "turns out of order: turn 2 is earlier than turn 1 by timestamp",
    ),
    "one out of order": (
        {
            "messages": [
                turn | {"created_at": f"2026-01-0{day}T00:00:00Z"} for turn, day in ((Q, 1), (A, 4), (Q, 3), (A, 5))
            ]
        },
        "turns out of order: turn 3 is earlier than turn 2 by created_at",
    ),
    "one of two calls without a result": (
        {
            "messages": [
                Q,
                {"role": "assistant", "tool_calls": [CALL | {"id": "1"}, CALL | {"id": "2"}]},
                {"role": "tool", "content": "1", "tool_call_id": "2"},
                A,
            ]
        },
        "call without its result: turn 2: f: its result is missing",
    ),
    "hidden": ({"messages": [Q | {"isHidden": True}, A]}, "hidden turn: turn 1: is_hidden is true"),
    "failed": ({"messages": [Q, A | {"isError": True}]}, "bad answer: turn 2: is_error"),
    "interrupted": ({"messages": [Q, A | {"interrupted": True}]}, "bad answer: turn 2: interrupted"),
    "not finished": ({"messages": [Q, A | {"done": False}]}, "bad answer: turn 2: done is false"),
    "cut off": ({"messages": [Q, A | {"stopReason": "MAX_TOKENS"}]}, "bad answer: turn 2: stop_reason is MAX_TOKENS"),
    "cut off, in a column": (
        {"prompt": "Q", "response": "A", "finish_reason": "length"},
        "bad answer: the record: finish",
    ),
    "Anthropic's, cut off": (
        {"messages": [Q], "response": {"role": "assistant", "content": "A", "stop_reason": "max_tokens"}},
        "stop_reason is max_tokens",
    ),
    "LM Studio's, stopped": (
        {"messages": [studio("multiStep", "assistant", block("A", genInfo={"stats": {"stopReason": "userStopped"}}))]},
        "bad answer: message 1: stopReason is userStopped",
    ),
    "a file": (
        {"messages": [Q | {"attachments": [{"name": "x"}]}, A]},
        "turn 1: attachments: what they hold is in no turn",
    ),
    "a search": ({"messages": [Q, A | {"citations": ["url"]}]}, "context beside the turns: turn 2: citations"),
    "a search in a part": (
        {
            "messages": [
                Q,
                A | {"content": [{"type": "output_text", "text": "A", "annotations": [{"type": "url_citation"}]}]},
            ]
        },
        "context beside the turns: turn 2: content: annotations",
    ),
    "a context of a turn": ({"messages": [Q | {"context": "C"}, A]}, "context beside the turns: turn 1: context"),
    "results beside": (
        {"messages": [Q, A | {"toolInvocations": [{}]}]},
        "unknown content type: turn 2: tool_invocations",
    ),
    "a tool inside a part": (
        {"messages": [Q, A | {"parts": [{"type": "tool-invocation"}, {"type": "text", "text": "A"}]}]},
        "a part of type 'tool-invocation'",
    ),
    "two texts": ({"messages": [Q | {"value": "R"}, A]}, "two texts of a turn: turn 1: content and value differ"),
    "two texts in parts": (
        {"messages": [Q | {"parts": [{"type": "text", "text": "R"}]}, A]},
        "content and parts differ",
    ),
    "two roles": ({"messages": [Q | {"from": "gpt"}, A]}, "two texts of a turn: turn 1: role and from differ"),
    "a thought's weight": (
        {"messages": [Q, {"role": "reasoning", "content": "T", "weight": 0}, A]},
        "weights within a turn: turn 2: weight",
    ),
    "a thought alone": (
        {"messages": [Q, {"role": "thought", "content": "T"}, Q, A]},
        "thought without its answer: turn 2",
    ),
    "alternatives": ({"messages": [Q, {"type": "multi", "messages": [A, A]}]}, "turn 2: an item of type 'multi'"),
    "parts as text": ({"messages": [Q, A | {"content": '[{"type": "text", "text": "A"}]'}]}, "parts as text: turn 2"),
    "parts as Python": ({"messages": [Q, A | {"content": "[{'type': 'text', 'text': 'A'}]"}]}, "parts as text: turn 2"),
    "HelpSteer2's turns": ({"prompt": "Q<extra_id_1>Assistant\nB", "response": "A"}, "several turns in one text"),
    "a rendered template": ({"prompt": "[INST] Q [/INST]", "completion": "A"}, "several turns in one text"),
    "settings": (
        {"messages": [Q, A], "options": {"promptPrefix": "S"}},
        "options.promptPrefix; data.columns='{messages: messages, system: options.promptPrefix}' takes it",
    ),
    "two system prompts": ({"system": "S", "systemPrompt": "T", "messages": [Q, A]}, "system and systemPrompt differ"),
    "LangSmith": (
        {"run_type": "llm", "inputs": {"messages": [[HUMAN]]}, "outputs": {"generations": [[{"message": A}]]}},
        "data.columns='{messages: inputs.messages.0, response: outputs.generations.0.0}' reads it",
    ),
    "HelpSteer3": (
        {"context": [Q], "response1": "A", "response2": "B"},
        "data.columns='{messages: context, response: response1}' reads it, or with response: response2",
    ),
}


def test_messages_of_other_tools_are_read_by_what_they_say():
    assert {kind: shown(record) for kind, (record, _) in READ.items()} == {
        kind: said for kind, (_, said) in READ.items()
    }


def test_what_must_not_be_imitated_is_refused_with_its_name():
    found = {kind: shown(record) for kind, (record, _) in REFUSED.items()}
    assert {k: v for k, v in found.items() if not v.startswith("refused: ") or REFUSED[k][1] not in v} == {}


def test_the_line_of_a_refusal_reads_the_record():
    logged = REFUSED["LangSmith"][0]
    assert shown(logged, {"messages": "inputs.messages.0", "response": "outputs.generations.0.0"}) == "u Q | a A"
    served = {"request": {"messages": [Q]}, "response": {"body": {"choices": [{"message": A}]}}}
    assert "'{messages: request.messages, response: response.body}' reads it" in shown(served)
    assert shown(served, {"messages": "request.messages", "response": "response.body"}) == "u Q | a A"


def test_files_of_every_shape(tmp_path):
    one = json.dumps({"messages": [Q, A]})
    pair = [json.loads(one)] * 2
    whole = {
        "data": json.dumps({"data": pair}),
        "indented": json.dumps({"version": 1, "data": {"chats": pair}}, indent=1),
        "from the second line": f'{{"data": [\n{one},\n{one}]}}',
        "by name": json.dumps({"1": pair[0], "2": pair[1]}),
        "Grok": json.dumps({"conversations": [GROK, GROK], "tasks": []}),
        "joined": one * 2,
        "carriage returns": f"{one}\r{one}\r",
        "commas": f"{one},\n{one},\n",
        "two marks": f"\ufeff{one}\n\ufeff{one}",
        "an array a line": f"[{one}]\n[{one}]",
        "turns a line": f"[{json.dumps({'id': 1} | Q)}, {json.dumps(A)}]\n" * 2,
        "LangChain's turns": f"{json.dumps([HUMAN, AI])}\n" * 2,
        "objects over lines": one.replace("[", "\n[") * 2,
    }
    for name, text in whole.items():
        (tmp_path / "x.json").write_text(text)
        found = [[turn.content for turn in c.turns] for c in read(tmp_path / "x.json") if isinstance(c, Conversation)]
        assert found == [["Q", "A"]] * 2, name
    (tmp_path / "x.json").write_bytes(one.encode("utf-16-le"))
    assert isinstance(next(read(tmp_path / "x.json")), Conversation)
    samples = json.dumps({"rejected": {"messages": [Q, A]}, "rollouts": [{"messages": [Q, A]}]})
    odd = {
        "a.zip": b"PK\x03\x04",
        "b.json": b"\x1f\x8b",
        "c.md": b"# Q",
        "d.arrow": b"ARROW1",
        "e.json": samples.encode(),
    }
    said = {
        "a.zip": "zip archive",
        "b.json": "gzip",
        "c.md": "begins with '# Q'",
        "d.arrow": "as Parquet",
        "e.json": "a preference",
    }
    for name, data in odd.items():
        (tmp_path / name).write_bytes(data)
        (refused,) = read(tmp_path / name)
        assert isinstance(refused, Rejection) and said[name] in refused.detail, name
    (tmp_path / "hidden" / ".checkpoints").mkdir(parents=True)
    for name in ("x.json", ".checkpoints/x.json", "._x.json"):
        (tmp_path / "hidden" / name).write_text(one)
    assert [c.id for c in read(tmp_path / "hidden")] == ["x.json:1", "._x.json", ".checkpoints/x.json"]
