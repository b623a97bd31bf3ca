"""What a field says by its name is read, or refused by the name: it is never passed over."""

import json
from typing import Any

import pytest

from tests.helpers.records import A, Q, shown
from vicuna_lit.records.field_names import FLAGS, INVERSE

SCHEMA = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
TOOLS = json.dumps(SCHEMA)
TEXT = {"type": "text", "text": "A"}
B, R = A | {"content": "B"}, Q | {"content": "R"}
CALL = {"id": "c", "name": "f", "arguments": "{}"}


def talk(**fields: Any) -> dict[str, Any]:
    """A question and its answer, which has more fields."""
    return {"messages": [Q, A | fields]}


def beside(**fields: Any) -> dict[str, Any]:
    """A conversation with more fields beside its turns."""
    return {"messages": [Q, A], **fields}


def columns(**fields: Any) -> dict[str, Any]:
    """A question and its answer in two columns, and others."""
    return {"question": "Q", "answer": "A", **fields}


def parts(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [Q, {"role": "assistant", "parts": list(parts)}]}


def tool(id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "tool-f", "toolCallId": id, "state": "output-available", "input": {}, "output": id} | fields


def chatgpt(*messages: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    """An export of ChatGPT with one branch; of each message role, text and other fields."""
    nodes = {
        f"{number}": {
            "parent": f"{number - 1}" if number else None,
            "message": {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}} | fields,
        }
        for number, (role, text, fields) in enumerate(messages)
    }
    return {"mapping": nodes, "current_node": f"{len(messages) - 1}"}


def deepseek(id: str, parent: str, role: str, **fields: Any) -> dict[str, Any]:
    return {"id": id, "parent": parent, "children": [], "message": {"role": role, "files": [], **fields}}


def moss(question: str, answer: str, commands: str = "None") -> dict[str, str]:
    return {
        "Human": f"<|Human|>: {question}<eoh>\n",
        "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
        "Commands": f"<|Commands|>: {commands}<eoc>\n",
        "MOSS": f"<|MOSS|>: {answer}<eom>\n",
    }


GLAIVE = (
    'USER: Q\n\n\nASSISTANT: B <functioncall> {"name": "f", "arguments": \'{"a": "it\'s"}\'} <|endoftext|>'
    '\n\n\nFUNCTION RESPONSE: {"x": 1}\n\n\nASSISTANT: A <|endoftext|>\n\n\n'
)
READ: dict[str, tuple[Any, str]] = {
    "a step's mask": (
        {"messages": [Q, B | {"stepLossMask": 0}, R, A | {"stepLossMask": 1}]},
        "u Q | [a B] | u R | a A",
    ),
    "XTuner": ({"conversation": [{"input": "Q", "output": "A", "output_with_loss": False}]}, "u Q | [a A]"),
    "OLMo": (
        {
            "messages": [
                {"role": "system", "content": "S", "functions": TOOLS},
                Q | {"functions": None},
                {"role": "assistant", "content": None, "function_calls": 'f(a=1)\ng.h(b="x")'},
                {"role": "environment", "content": "1"},
                A,
            ]
        },
        f's S | u Q | a  f{{"a": 1}} g.h{{"b": "x"}} | t 1 | a A ; {TOOLS}',
    ),
    "GLM": ({"messages": [{"role": "system", "tools": SCHEMA}, Q, A]}, f"u Q | a A ; {TOOLS}"),
    "messages as JSON": ({"messages": json.dumps([{"role": "system", "tools": SCHEMA}, Q, A])}, f"u Q | a A ; {TOOLS}"),
    "prime-rl": ({"prompt": [Q], "completion": [A], "oai_tools": TOOLS}, f"u Q | a A ; {TOOLS}"),
    "When2Call": (beside(tools=[json.dumps(SCHEMA[0])]), f"u Q | a A ; {TOOLS}"),
    "SWE-smith": (talk(thought="A", action="ls"), "u Q | a A"),
    "SWE-agent": (talk(content="T\n```\nls\n```", thought="T", action="ls"), "u Q | a T\n```\nls\n```"),
    "a thought inline, and again": (
        talk(content="<think>\nT\n</think>A", reasoning="T"),
        "u Q | a <think>\nT\n</think>A",
    ),
    "a thought that begins alike": (talk(content="Aha", thought="A"), "u Q | a(A) Aha"),
    "OpenTelemetry": (
        [
            {"role": "user", "parts": [{"type": "text", "content": "Q"}]},
            {"role": "assistant", "parts": [{"type": "tool_call", **CALL}]},
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": {"x": 1}}]},
            {"role": "assistant", "parts": [{"type": "reasoning", "content": "T"}, {"type": "text", "content": "A"}]},
        ],
        'u Q | a  f{} | t {"x": 1} | a(T) A',
    ),
    "Vercel's parts of tools": (
        parts(
            {"type": "reasoning", "text": "T"},
            tool("1"),
            tool("2", state="output-error", output=None, errorText="no"),
            {"type": "step-start"},
            tool("3", type="dynamic-tool", toolName="g"),
            TEXT,
        ),
        "u Q | a(T)  f{} f{} | t 1 | t no | a  g{} | t 3 | a A",
    ),
    "Vercel's, before": (
        {
            "messages": [
                Q,
                {
                    "role": "assistant",
                    "content": "A",
                    "weight": 0,
                    "parts": [
                        {
                            "type": "tool-invocation",
                            "toolInvocation": {
                                "state": "result",
                                "toolCallId": "t",
                                "toolName": "f",
                                "args": {},
                                "result": 1,
                            },
                        },
                        TEXT,
                    ],
                },
                R,
                B,
            ]
        },
        "u Q | [a  f{}] | t 1 | [a A] | u R | a B",
    ),
    "LibreChat's tools": (
        {"messages": [Q, A | {"content": [{"type": "tool_call", "tool_call": {**CALL, "output": "1"}}, TEXT]}]},
        "u Q | a  f{} | t 1 | a A",
    ),
    "SillyTavern's thought": (
        [{"mes": "Q", "is_user": True}, {"mes": "A", "is_user": False, "extra": {"reasoning": "T"}}],
        "u Q | a(T) A",
    ),
    "Gemini CLI": (
        {"messages": [{"type": "user", "content": "Q"}, {"type": "gemini", "content": "A", "thoughts": []}]},
        "u Q | a A",
    ),
    "DeepSeek, until 2025": (
        {
            "mapping": {
                "r": {"id": "r", "parent": None, "children": ["1"], "message": None},
                "1": deepseek("1", "r", "USER", content="Q"),
                "2": deepseek("2", "1", "ASSISTANT", content="A", reasoning_content="T"),
            },
            "current_node": "2",
        },
        "u Q | a(T) A",
    ),
    "ChatGPT's cut-off reply": (
        chatgpt(
            ("user", "Q", {}),
            ("assistant", "B", {"metadata": {"finish_details": {"type": "max_tokens"}}}),
            ("user", "R", {}),
            ("assistant", "A", {"status": "finished_successfully", "weight": 0.0}),
        ),
        "u Q | [a B] | u R | a A",
    ),
    "ChatGPT's reply that goes on": (
        chatgpt(
            ("user", "Q", {}),
            ("assistant", "in the mid", {"metadata": {"finish_details": {"type": "max_tokens"}}}),
            ("assistant", "dle", {"metadata": {"finish_details": {"type": "stop"}}}),
        ),
        "u Q | a in the middle",
    ),
    "ChatGPT's call": (
        chatgpt(
            ("user", "Q", {}),
            ("assistant", "B", {}),
            ("assistant", '{"x": 1}', {"recipient": "canmore.create_textdoc"}),
            ("tool", "ok", {}),
            ("assistant", "A", {"recipient": "all"}),
        ),
        'u Q | a B canmore.create_textdoc{"x": 1} | t ok | a A',
    ),
    "Open-Assistant, rejected": (
        {
            "prompt": {
                "role": "prompter",
                "text": "Q",
                "replies": [
                    {"role": "assistant", "text": "B", "rank": 0, "review_result": False},
                    {"role": "assistant", "text": "A", "rank": 1, "review_result": True},
                ],
            }
        },
        "u Q | a A",
    ),
    "Glaive": (
        {"system": "SYSTEM: S\n", "chat": GLAIVE},
        's S | u Q | a B f{"a": "it\'s"} | t {"x": 1} | a A',
    ),
    "MOSS": (
        {"meta_instruction": "S", "chat": {"turn_2": moss("R", "A"), "turn_1": moss("Q", "B")}},
        "s S | u Q | a B | u R | a A",
    ),
    "MOSS, before": ({"prefix": "S", "plain_text": "[Human]: Q<eoh> [MOSS]: A<eoa>"}, "s S | u Q | a A"),
    "a context in a turn": (beside(context=["Q"], references=["R"]), "u Q | a A"),
    "its text, rendered": (columns(text="Q\nA", rationale="A", explanation="", reasoning="high"), "u Q | a A"),
    "places that do not fall": ({"messages": [Q | {"turn": 1}, A | {"turn": 1}]}, "u Q | a A"),
    "figures of a reply": (
        talk(
            thinking_time=3, reasoning_effort="high", stop_reason="<|im_end|>", status="sent", references=[], steps=[]
        ),
        "u Q | a A",
    ),
    "figures of a record": (
        beside(
            image_name="docker",
            has_image=True,
            response="A",
            loss=1.2,
            used_in_training="yes",
            label="math",
            resolved=True,
            attention_mask=[1],
            function="def f(): 0",
        ),
        "u Q | a A",
    ),
    "NeMo": (beside(mask="User"), "u Q | a A"),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "a mask that may say either": (talk(mask=True), "unknown flag of the loss: turn 2: mask"),
    "an unknown flag": (talk(assistantLossFactor=0), "unknown flag of the loss: turn 2: assistant_loss_factor"),
    "masks of tokens": (beside(assistant_masks=[0, 1]), "weights within a turn: assistant_masks is a list"),
    "weights of turns": (beside(weights=[0, 1]), "weights within a turn: weights is a list"),
    "a record's flag": (beside(loss=False), "record out of the loss: loss is false"),
    "a record's other weight": (beside(sample_weight=0.1), "record out of the loss: sample_weight: call it weight"),
    "a loss on questions": (beside(mask="Assistant"), "loss on another's turn: mask is 'Assistant'"),
    "a beginning": (talk(prefix=True), "bad answer: turn 2: prefix"),
    "Grok's part": (talk(partial=True), "bad answer: turn 2: partial"),
    "Claude Code's error": (talk(isApiErrorMessage=True), "bad answer: turn 2: is_api_error_message"),
    "no stop": (talk(need_eos_token=False), "bad answer: turn 2: need_eos_token is false"),
    "Jan's": (talk(status="stopped"), "bad answer: turn 2: status is stopped"),
    "Haystack's": (talk(meta={"finish_reason": "length"}), "bad answer: turn 2: finish_reason is length"),
    "Anthropic's": (talk(stop_reason="pause_turn"), "bad answer: turn 2: stop_reason is pause_turn"),
    "a full context": (talk(stop_reason="model_context_window_exceeded"), "bad answer: turn 2: stop_reason is model"),
    "a part that streams": (parts(TEXT | {"state": "streaming"}), "state is streaming"),
    "Claude's export": (
        {
            "chat_messages": [
                {"sender": "human", "text": "Q"},
                {"sender": "assistant", "text": "A", "stop_reason": "user_canceled"},
            ]
        },
        "bad answer: message 2: stop_reason is user_canceled",
    ),
    "a response cut off": (
        {"object": "response", "status": "incomplete", "input": [Q], "output": [A]},
        "bad answer: the record: status is incomplete",
    ),
    "a log beside": (
        beside(output={"choices": [{"message": A, "stop_reason": "max_tokens"}]}),
        "bad answer: output.choices: stop_reason is max_tokens",
    ),
    "turns of another record": (
        {"previous_response_id": "r", "input": [Q], "output": [A]},
        "context beside the turns: previous_response_id",
    ),
    "not solved": (beside(resolved=False), "bad answer: resolved is false"),
    "a flag as a text": (beside(is_correct="False"), "bad answer: is_correct is false"),
    "a flag of the loss as a text": (beside(train="false"), "record out of the loss: train is false"),
    "KTO's number": (
        {"prompt": "Q", "completion": "A", "label": 0},
        "bad answer: label is 0: an answer that is not to be imitated; to train on it take the field out, as where",
    ),
    "WildGuard": (
        {"prompt": "Q", "response": "A", "prompt_harm_label": "harmful", "response_harm_label": "harmful"},
        "bad answer: response_harm_label is harmful",
    ),
    "a turn's verdict": (talk(label=False), "bad answer: turn 2: label is false"),
    "Open-Assistant, halted": (
        {"tree_state": "halted_by_moderator", "prompt": {"role": "prompter", "text": "Q"}},
        "bad answer: tree_state is halted_by_moderator",
    ),
    "left out": (talk(ignore=True), "hidden turn: turn 2: ignore is true"),
    "tools under another name": (
        beside(tool_definitions=SCHEMA),
        "tool_definitions; data.columns='{messages: messages, tools: tool_definitions}' takes them",
    ),
    "tools in an object": (beside(metadata={"tools": SCHEMA}), "tools under another name: metadata.tools"),
    "tools of a question": ({"messages": [Q | {"tools": SCHEMA}, A]}, "tools of a turn: turn 1: tools"),
    "a call with its result": (
        talk(toolCalls=[{"id": "t", "name": "f", "args": {}, "result": 1}]),
        "unknown content type: turn 2: tool_calls: a call with its result inside",
    ),
    "a call without one": (parts(tool("1", state="input-available", output=None)), "a call without its result"),
    "ChatGPT's search": (
        chatgpt(("user", "Q", {}), ("assistant", "q", {"recipient": "web"}), ("tool", "", {}), ("assistant", "A", {})),
        "context beside the turns: web: the result of this call is not in the export",
    ),
    "ChatGPT's file": (
        chatgpt(("user", "Q", {"metadata": {"attachments": [{"name": "x"}]}}), ("assistant", "A", {})),
        "images and other media: node '0': attachments",
    ),
    "a thought's other name": (talk(agent_thinking_traces=["T"]), "thought in an unknown field: turn 2"),
    "a redacted thought": (
        talk(content=[{"type": "reasoning", "reasoning": "x", "redacted": True}, TEXT]),
        "thought that is not there: turn 2: content: reasoning: redacted is true",
    ),
    "a thought beside the turns": (beside(thinking="T"), "reasoning beside the turns: thinking"),
    "a rationale": (columns(rationale="T"), "reasoning: rationale, response: answer}' reads it"),
    "an explanation": (columns(explanation="E"), "reasoning beside the answer: explanation"),
    "a text that is no rendering": (columns(text="P"), "context beside the question: text"),
    "passages": (beside(retrieved_contexts=["P"]), "context beside the turns: retrieved_contexts"),
    "quotes": ({"messages": [Q | {"quotes": ["P"]}, A]}, "context beside the turns: turn 1: quotes"),
    "Gemini's search": (
        {"contents": [Q], "candidates": [{"content": A, "groundingMetadata": {"webSearchQueries": ["q"]}}]},
        "context beside the turns: candidates: groundingMetadata",
    ),
    "texts to choose from": ({"messages": [Q, A | {"content": ["A", "B"]}]}, "several answers: turn 2"),
    "places that fall": (
        {"messages": [R | {"index": 2}, A | {"index": 3}, Q | {"index": 0}, B | {"index": 1}]},
        "turns out of order: turn 3 is before turn 2 by index",
    ),
    "a system prompt in the request": (
        {"request": {"system": "S", "tools": SCHEMA, "messages": [Q]}, "response": {"choices": [{"message": A}]}},
        "{messages: request.messages, response: response, system: request.system, tools: request.tools}",
    ),
    "Langfuse": ({"input": {"messages": [Q]}, "output": A}, "'{messages: input.messages, response: output}' reads it"),
    "Glaive's odd call": (
        {"system": "S", "chat": "USER: Q\n\n\nASSISTANT: <functioncall> f(x) <|endoftext|>"},
        "turn 2: a call that cannot be read: 'f(x)'",
    ),
    "a path of a picture": (beside(image_path="x.png"), "images and other media: the record: image_path"),
    "a film of a turn": (talk(videoUrl="x"), "images and other media: turn 2: video_url"),
    "one more answer": (columns(answer_b="B"), "several answers: answer, answer_b"),
    "a worse answer": (columns(negativeAnswer="B"), "several answers: answer, negativeAnswer"),
    "a reply to a beginning": (beside(response="B"), "several answers: the last turn, and response"),
    "a note": ([{"mes": "Q", "is_user": True}, {"mes": "A", "is_system": True}], "turn 2 is system after user"),
    "MOSS with tools": ({"chat": {"turn_1": moss("Q", "A", "Search")}}, "turn_1: Commands: turns with tools"),
}


@pytest.mark.parametrize("flag", [name for name in FLAGS if name != "weight"] + list(INVERSE))
def test_every_flag_of_the_loss_takes_its_turn_out(flag):
    out, kept = (True, False) if flag in INVERSE else (0, 1)
    assert shown({"messages": [Q, B | {flag: out}, R, A | {flag: kept}]}) == "u Q | [a B] | u R | a A"


def test_what_a_name_says_is_read():
    found = {kind: shown(record) for kind, (record, _) in READ.items()}
    assert found == {kind: said for kind, (_, said) in READ.items()}


def test_what_cannot_be_read_is_refused_by_its_name():
    found = {kind: shown(record) for kind, (record, _) in REFUSED.items()}
    assert {k: v for k, v in found.items() if not v.startswith("refused: ") or REFUSED[k][1] not in v} == {}
