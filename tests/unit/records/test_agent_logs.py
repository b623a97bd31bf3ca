"""Files whose records are lines of a log, or single messages: each talk as the model saw it, or why it is not read.

The lines are made by hand after the tools' own sources; the expected turns were written down before they were read.
"""

import json
from typing import Any

import pytest

from vicuna_lit.records.conversation import Conversation, Rejection, Turn, is_validation
from vicuna_lit.records.readers import read

SESSION = "0f1e2d3c-0000-4000-8000-000000000001"


def shown(found: Conversation | Rejection) -> str:
    """A talk in one line: `a*(thought) text [call arguments id]`, `*` out of the loss; or why it is not read."""
    if isinstance(found, Rejection):
        return f"{found.reason}: {found.detail}"
    return " | ".join(map(_turn, found.turns))


def _turn(turn: Turn) -> str:
    who = f"t:{turn.name}:{turn.call_id}" if turn.role == "tool" else turn.role[0]
    calls = ", ".join(f"{call.name} {call.arguments} {call.id}" for call in turn.tool_calls)
    thought = f"({turn.reasoning})" if turn.reasoning else ""
    said = " ".join(filter(None, (turn.content, f"[{calls}]" if calls else "")))
    return f"{who}{'' if turn.supervised else '*'}{thought} {said}"


def line(kind: str, id: str, parent: str | None, content: Any, **others: Any) -> dict[str, Any]:
    """A line of Claude Code's; fields that begin with `m_` stand in its message."""
    inner = {key[2:]: value for key, value in others.items() if key.startswith("m_")}
    others = {key: value for key, value in others.items() if not key.startswith("m_")}
    message = {"role": kind, "content": content, **({"id": f"msg_{id}"} if kind == "assistant" else {}), **inner}
    common = {"isSidechain": False, "userType": "external", "cwd": "/w", "sessionId": SESSION, "version": "2.1.0"}
    return {"parentUuid": parent, **common, "type": kind, "message": message, "uuid": id, **others}


def use(id: str, name: str = "Read", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": arguments}


def back(id: str, content: Any, **others: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **others}


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def attached(id: str, parent: str, **attachment: Any) -> dict[str, Any]:
    return {"type": "attachment", "uuid": id, "parentUuid": parent, "sessionId": SESSION, "attachment": attachment}


SNAPSHOT = {
    "type": "file-history-snapshot",
    "messageId": "1",
    "snapshot": {"messageId": "1"},
    "isSnapshotUpdate": False,
}
BOUNDARY = {"type": "system", "subtype": "compact_boundary", "content": "Conversation compacted", "sessionId": SESSION}

CLAUDE: dict[str, tuple[list[Any], list[str]]] = {
    "a plain talk": (
        [
            {"type": "summary", "summary": "t", "leafUuid": "2"},
            SNAPSHOT,
            line("user", "1", None, "Q"),
            line("assistant", "2", "1", [words("A")], m_stop_reason="end_turn"),
            {"type": "ai-title", "aiTitle": "t", "sessionId": SESSION},
        ],
        ["u Q | a A"],
    ),
    "calls made at once, each line with its own result": (
        [
            line("user", "1", None, "Q"),
            line("assistant", "2", "1", [{"type": "thinking", "thinking": "T", "signature": "s"}], m_id="m"),
            line("assistant", "3", "2", [words("B")], m_id="m"),
            line("assistant", "4", "3", [use("c1", p=1)], m_id="m"),
            line("user", "5", "4", [back("c1", "R1")], toolUseResult={"file": "x"}),
            line("assistant", "6", "4", [use("c2", p=2)], m_id="m"),
            line("user", "7", "6", [back("c2", [words("R2")], is_error=True)]),
            line("assistant", "8", "7", [words("A")]),
        ],
        ['u Q | a(T) B [Read {"p": 1} c1, Read {"p": 2} c2] | t:Read:c1 R1 | t:Read:c2 R2 | a A'],
    ),
    "a question that was asked anew": (
        [
            line("user", "1", None, "Q"),
            line("assistant", "2", "1", [words("A")]),
            line("user", "3", "2", "wrong"),
            line("assistant", "4", "3", [words("no")]),
            line("user", "5", "2", "P"),
            line("assistant", "6", "5", [words("B")]),
        ],
        ["u Q | a A | u P | a B"],
    ),
    "what a compaction left": (
        [
            line("user", "1", None, "Q"),
            line("assistant", "2", "1", [words("A")]),
            BOUNDARY | {"uuid": "3", "parentUuid": None, "logicalParentUuid": "2"},
            line("user", "4", "3", "S", isCompactSummary=True, isVisibleInTranscriptOnly=True),
            line("assistant", "5", "4", [words("B")]),
        ],
        ["u Q | a A", "u S | a B"],
    ),
    "a subagent's talk is one of its own": (
        [
            line("user", "1", None, "Q"),
            line("assistant", "2", "1", [use("c1", "Task", prompt="P")]),
            line("user", "s1", None, "P", isSidechain=True),
            line("assistant", "s2", "s1", [words("B")], isSidechain=True),
            line("user", "3", "2", [back("c1", [words("B")])]),
            line("assistant", "4", "3", [words("A")]),
        ],
        ['u Q | a [Task {"prompt": "P"} c1] | t:Task:c1 B | a A', "u P | a B"],
    ),
    "a reply that was stopped": (
        [
            line("user", "1", None, "Q"),
            line("assistant", "2", "1", [use("c1")]),
            line("user", "3", "2", [back("c1", "no", is_error=True), words("[Request interrupted by user]")]),
            line("user", "4", "3", "P"),
            line("assistant", "5", "4", [words("A")]),
        ],
        ["u Q | a* [Read {} c1] | t:Read:c1 no | u [Request interrupted by user]\n\nP | a A"],
    ),
    "what was added to what the user said": (
        [
            line("user", "1", None, "<local-command-stdout>x</>", isMeta=True),
            attached("2", "1", type="skill_listing", names=["x"]),
            attached("3", "2", type="file", filename="a.py", content={"type": "text", "file": {"content": "x = 1"}}),
            line("user", "4", "3", [words("Q")]),
            line("assistant", "5", "4", [use("c1")]),
            line("user", "6", "5", [back("c1", "R")]),
            attached("7", "6", type="queued_command", prompt="also P"),
            line("assistant", "8", "7", [words("A")]),
        ],
        ["u <local-command-stdout>x</>\n\na.py:\nx = 1\n\nQ | a [Read {} c1] | t:Read:c1 R | u also P | a A"],
    ),
    "what the program wrote itself": (
        [
            line("user", "1", None, "Q"),
            line("assistant", "2", "1", [words("API Error: 529")], isApiErrorMessage=True, m_model="<synthetic>"),
            line("user", "3", "2", "again"),
            line("assistant", "4", "3", [{"type": "thinking", "thinking": "", "signature": "s"}], m_id="m"),
            line("assistant", "5", "4", [words("A")], m_id="m"),
            line("user", "6", "5", "/x"),
            line("assistant", "7", "6", [words("No response requested.")], m_model="<synthetic>"),
        ],
        ["u Q\n\nagain | a A | u /x | a* No response requested."],
    ),
    "two sessions in one file": (
        [
            line("user", "1", None, "Q"),
            line("assistant", "2", "1", [words("A")]),
            line("user", "8", None, "P", sessionId="other"),
            line("assistant", "9", "8", [words("B")], sessionId="other"),
        ],
        ["u Q | a A", "u P | a B"],
    ),
    "a picture": (
        [line("user", "1", None, [{"type": "image", "source": {}}]), line("assistant", "2", "1", [words("A")])],
        ["images and other media: turn 1: content: a part of type 'image' is no text"],
    ),
    "a line that is missing": (
        [line("user", "1", "0", "Q"), line("assistant", "2", "1", [words("A")])],
        ["broken tree: line '0', which another answers, is not before it"],
    ),
    "lines that name no parent": (
        [line("user", "1", None, "Q"), line("assistant", "2", None, [words("A")])],
        ["broken tree: line '2': a reply that names no line as the one it answers"],
    ),
    "a call without a result": (
        [
            line("user", "1", None, "Q"),
            line("assistant", "2", "1", [use("c1")]),
            line("user", "3", "2", "P"),
            line("assistant", "4", "3", [words("A")]),
        ],
        ["call without its result: turn 2: Read: the talk goes on without one"],
    ),
    "an attachment that is not known": (
        [
            line("user", "1", None, "Q"),
            attached("2", "1", type="mystery", weight=3),
            line("assistant", "3", "2", [words("A")]),
        ],
        ["unknown content type: line '2': an attachment of type 'mystery'; take such sessions out"],
    ),
    "titles alone": (
        [{"type": "summary", "summary": "t", "leafUuid": "2"}],
        ["no answered turn: the file is a session of Claude Code, and holds no message"],
    ),
    "a line of another kind": (
        [line("user", "1", None, "Q"), {"messages": []}, line("assistant", "2", "1", [words("A")])],
        ["", "u Q | a A"],
    ),
}  # fmt: skip


def item(kind: str, payload_type: str, **fields: Any) -> dict[str, Any]:
    return {"timestamp": "2026-01-01T00:00:00Z", "type": kind, "payload": {"type": payload_type, **fields}}


def spoken(role: str, text: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return item("response_item", "message", role=role, content=[{"type": kind, "text": text}])


def meta(id: str = SESSION, **others: Any) -> dict[str, Any]:
    return {"timestamp": "t", "type": "session_meta", "payload": {"id": id, "cwd": "/w", **others}}


def called(id: str, arguments: str = '{"cmd": "ls"}') -> dict[str, Any]:
    return item("response_item", "function_call", name="shell", arguments=arguments, call_id=id)


def output(id: str, text: Any) -> dict[str, Any]:
    return item("response_item", "function_call_output", call_id=id, output=text)


SHELL = 'shell {"cmd": "ls"}'
CODEX: dict[str, tuple[list[Any], list[str]]] = {
    "a talk": (
        [
            meta(base_instructions={"text": "S"}, instructions=None),
            spoken("developer", "<permissions>"),
            spoken("user", "<environment_context>"),
            spoken("user", "Q"),
            item("event_msg", "user_message", message="Q"),
            {"timestamp": "t", "type": "turn_context", "payload": {"cwd": "/w"}},
            item("event_msg", "agent_reasoning", text="T"),
            item("response_item", "reasoning", summary=[{"type": "summary_text", "text": "T"}], encrypted_content="x"),
            spoken("assistant", "B"),
            called("c1"),
            called("c2"),
            output("c1", "R1"),
            output("c2", {"content": "R2", "success": False}),
            item("event_msg", "token_count", info=None),
            item("response_item", "reasoning", summary=[], encrypted_content="x"),
            spoken("assistant", "A"),
        ],
        [
            f"s S\n\n<permissions> | u <environment_context>\n\nQ | a(T) B [{SHELL} c1, {SHELL} c2]"
            " | t:shell:c1 R1 | t:shell:c2 R2 | a A"
        ],
    ),
    "tools that take a text": (
        [
            meta(),
            spoken("user", "Q"),
            item("response_item", "custom_tool_call", name="apply_patch", input="*** Begin", call_id="c1"),
            item("response_item", "custom_tool_call_output", call_id="c1", output="done"),
            item("response_item", "local_shell_call", call_id="c2", action={"type": "exec", "command": ["ls"]}),
            output("c2", "R"),
            spoken("assistant", "A"),
        ],
        [
            'u Q | a [apply_patch {"input": "*** Begin"} c1] | t:apply_patch:c1 done'
            ' | a [local_shell {"command": ["ls"]} c2] | t:local_shell:c2 R | a A'
        ],
    ),
    "turns that were taken back": (
        [
            meta(),
            spoken("user", "Q"),
            spoken("assistant", "A"),
            spoken("user", "wrong"),
            spoken("assistant", "no"),
            item("event_msg", "thread_rolled_back", num_turns=1),
            spoken("user", "P"),
            spoken("assistant", "B"),
        ],
        ["u Q | a A | u P | a B"],
    ),
    "a reply that was stopped": (
        [
            meta(),
            spoken("user", "Q"),
            spoken("assistant", "B"),
            spoken("user", "<turn_aborted>"),
            item("event_msg", "turn_aborted", reason="interrupted"),
            spoken("user", "P"),
            spoken("assistant", "A"),
        ],
        ["u Q | a* B | u <turn_aborted>\n\nP | a A"],
    ),
    "what a compaction left": (
        [
            meta(),
            spoken("user", "Q"),
            spoken("assistant", "A"),
            {"type": "compacted", "payload": {"message": "S"}},
            spoken("user", "P"),
            spoken("assistant", "B"),
            {"type": "compacted", "payload": {"message": "", "replacement_history": [spoken("user", "H")["payload"]]}},
            spoken("assistant", "C"),
        ],
        ["u Q | a A", "u Q\n\nS\n\nP | a B", "u H | a C"],
    ),
    "the first versions": (
        [
            {"id": SESSION, "timestamp": "t", "instructions": None, "git": {}},
            {"record_type": "state"},
            spoken("user", "Q")["payload"],
            spoken("assistant", "A")["payload"],
        ],
        ["u Q | a A"],
    ),
    "a fork, and another session behind it": (
        [
            meta("f", forked_from_id="o"),
            meta("o"),
            spoken("user", "Q"),
            spoken("assistant", "A"),
        ],
        ["u Q | a A"],
    ),
    "a search": (
        [meta(), spoken("user", "Q"), item("response_item", "web_search_call", action={}), spoken("assistant", "A")],
        ["context beside the turns: item 2: web_search_call: what was found is in no line"],
    ),
    "an encrypted compaction": (
        [
            meta(),
            {"type": "compacted", "payload": {"replacement_history": [{"type": "compaction"}]}},
            spoken("assistant", "A"),
        ],
        ["", "context beside the turns: item 1: compaction: what was said before is encrypted"],
    ),
    "a result without its call": (
        [meta(), spoken("user", "Q"), output("c9", "R"), spoken("assistant", "A")],
        ["result without its call: a result names the call 'c9', which no reply holds"],
    ),
}  # fmt: skip


def gem(id: str, kind: str, content: Any, **others: Any) -> dict[str, Any]:
    return {"id": id, "timestamp": "t", "type": kind, "content": content, **others}


HEAD = {"sessionId": SESSION, "projectHash": "h", "startTime": "t", "lastUpdated": "t"}
CALLED = {
    "id": "c1", "name": "ls", "args": {"p": 1}, "status": "success", "timestamp": "t",
    "result": [{"functionResponse": {"id": "c1", "name": "ls", "response": {"output": "R"}}}],
}  # fmt: skip
ROW = {"object": "thread.message", "status": "ready"}


def oasst(id: str, parent: str | None, role: str, text: str, tree: str = "t1", **others: Any) -> dict[str, Any]:
    return {"message_id": id, "parent_id": parent, "text": text, "role": role, "message_tree_id": tree, **others}


def span(attributes: dict[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]


OTHERS: dict[str, tuple[list[Any], list[str]]] = {
    "Gemini CLI": (
        [
            HEAD
            | {
                "messages": [
                    gem("1", "user", "Q"),
                    gem("2", "info", "Update available"),
                    gem(
                        "3", "gemini", "B", toolCalls=[CALLED], thoughts=[{"subject": "Plan", "description": "T"}]
                    ),
                    gem("4", "gemini", [{"text": "A"}], toolCalls=[]),
                ]
            }
        ],
        ['u Q | a(**Plan**\n\nT) B [ls {"p": 1} c1] | t:ls:c1 R | a A'],
    ),
    "Gemini CLI, line by line": (
        [
            HEAD,
            gem("1", "user", [{"text": "Q"}]),
            gem("2", "gemini", "B"),
            gem("2", "gemini", "A"),
            gem("3", "user", "wrong"),
            {"$rewindTo": "3"},
            {"$set": {"lastUpdated": "u"}},
            gem("4", "user", "P"),
            gem("5", "gemini", "C"),
        ],
        ["u Q | a A | u P | a C"],
    ),
    "Jan": (
        [
            ROW | {"id": "1", "thread_id": "a", "role": "user", "content": [{"type": "text", "text": {"value": "Q"}}]},
            ROW | {"id": "2", "thread_id": "a", "role": "assistant", "content": [words("A")]},
            ROW | {"id": "3", "thread_id": "b", "role": "user", "content": "P"},
            ROW | {"id": "4", "thread_id": "b", "role": "assistant", "content": "B"},
        ],
        ["u Q | a A", "u P | a B"],
    ),
    "Jan's calls": (
        [{"thread_id": "a", "role": "assistant", "content": "A", "metadata": {"tool_calls": [{"tool": {}}]}}],
        ["unknown content type: turn 1: metadata.tool_calls: Jan's calls are no turns"],
    ),
    "rows in no order": (
        [
            {"conversationId": 1, "role": "user", "content": "Q"},
            {"conversationId": 2, "role": "user", "content": "P"},
            {"conversationId": 1, "role": "assistant", "content": "A"},
        ],
        ["u Q", "u P", "conversation in pieces: rows of '1' stand behind others; sort them by it"],
    ),
    "rows that fall": (
        [
            {"chat_id": "1", "role": "assistant", "content": "A", "created_at": 9000},
            {"chat_id": "1", "role": "user", "content": "Q", "created_at": 1000},
        ],
        ["turns out of order: turn 2 is earlier than turn 1 by created_at; sort them by it"],
    ),
    "Open-Assistant's messages": (
        [
            oasst("1", None, "prompter", "Q"),
            oasst("2", "1", "assistant", "B", rank=1.0),
            oasst("3", "1", "assistant", "A", rank=0.0),
            oasst("4", None, "prompter", "P", "t2"),
            oasst("5", "7", "assistant", "B", "t2"),
        ],
        ["u Q | a A", "broken tree: message '7', which another answers, is missing"],
    ),
    "spans as OTLP's JSON": (
        [{"resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": span(
            {"llm.input_messages.0.message.role": "user", "llm.input_messages.0.message.content": "Q",
             "llm.output_messages.0.message.role": "assistant",
             "llm.output_messages.0.message.tool_calls.0.tool_call.id": "c1",
             "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "f",
             "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": "{}"})},
            {"attributes": []}]}]}]}],
        ["u Q | a [f {} c1]", ""],
    ),
    "spans of OpenLLMetry": (
        [{"attributes": {
            **{f"gen_ai.prompt.{n}.role": "user" if n % 2 == 0 else "assistant" for n in range(11)},
            **{f"gen_ai.prompt.{n}.content": f"m{n}" for n in range(11)},
            "gen_ai.completion.0.content": "A", "gen_ai.completion.0.finish_reason": "stop"}}],
        ["u m0 | a m1 | u m2 | a m3 | u m4 | a m5 | u m6 | a m7 | u m8 | a m9 | u m10 | a A"],
    ),
    "a span's cut-off answer, and two of them": (
        [{"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": "Q", "gen_ai.completion.0.content": "A",
          "gen_ai.completion.0.finish_reason": "length"},
         {"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": "Q", "gen_ai.completion.0.content": "A",
          "gen_ai.completion.1.content": "B"}],
        ["bad answer: turn 2: finish_reason is length: the answer was cut off; take the record out, or the field",
         "several answers: the span holds 2; keep one of them"],
    ),
    "spans by the conventions": (
        [{"attributes": {
            "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "S"}]),
            "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Q"}]}]),
            "gen_ai.output.messages": [{"role": "assistant", "parts": [{"type": "text", "content": "A"}]}]}}],
        ["s S | u Q | a A"],
    ),
    "VS Code": (
        [{"responderUsername": "GitHub Copilot", "requests": [
            {"message": {"text": "Q"}, "variableData": {"variables": []}, "response": [
                {"kind": "thinking", "value": "T"}, {"value": "see "}, {"kind": "progressMessage", "content": {}},
                {"kind": "inlineReference", "inlineReference": {"path": "/w/a.py"}}]},
            {"message": {"text": "P"}, "response": [{"value": "B"}], "isCanceled": True}]},
         {"responderUsername": "GitHub Copilot", "requests": [
            {"message": {"text": "Q"}, "variableData": {"variables": [{"kind": "file"}]}}]},
         {"responderUsername": "GitHub Copilot", "requests": [
            {"message": {"text": "Q"}, "response": [{"kind": "toolInvocationSerialized"}]}]}],
        ["u Q | a(T) see a.py | u P | a* B",
         "context beside the turns: request 1: variableData: what the files hold is not in the export",
         "unknown content type: request 1: a part of kind 'toolInvocationSerialized': what tools did is no text"],
    ),
    "My Activity": (
        [{"header": "Gemini Apps", "title": "Prompted Q", "products": ["Gemini Apps"], "safeHtmlItem": []}],
        ["unknown record format: keys 'header', 'title', 'products', 'safeHtmlItem'; an exchange of My Activity, out of"
         " a conversation that it does not name: what was said before is in no record"],
    ),
    "SillyTavern": (
        [
            {"user_name": "Bo", "character_name": "Al", "chat_metadata": {}},
            {"name": "Bo", "is_user": True, "mes": "Q", "extra": {}},
            {"name": "Al", "is_user": False, "mes": "A", "extra": {"reasoning": "T"}},
        ],
        ["u Q | a(T) A"],
    ),
}  # fmt: skip
FILES = {
    f"{tool}: {name}": case
    for tool, cases in (("Claude Code", CLAUDE), ("Codex", CODEX), ("others", OTHERS))
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", FILES)
def test_a_log_is_read_as_the_model_saw_it(tmp_path, name):
    lines, expected = FILES[name]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = [shown(one) for one in read(tmp_path / "log.jsonl")]
    assert [one if want else "" for one, want in zip(found, expected, strict=True)] == expected


def test_what_stands_behind_a_broken_line_is_lost_and_said(tmp_path):
    good = [json.dumps(one) for one in CLAUDE["a question that was asked anew"][0]]
    other = [json.dumps(one | {"sessionId": "b", "uuid": f"b{i}", "parentUuid": f"b{i - 1}" if i else None})
             for i, one in enumerate(CLAUDE["a plain talk"][0][2:4])]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join([*good[:2], '{"type": "us', *good[2:], *other]))
    found = [shown(one) for one in read(tmp_path / "log.jsonl")]
    assert [one.split(":")[0] for one in found] == ["broken JSON", "u Q | a A", "broken JSON", "u Q | a A"]
    assert found[2] == "broken JSON: 4 lines of a session of Claude Code stand behind one that cannot be read"


def test_the_talks_of_one_session_lie_on_one_side(tmp_path):
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, CODEX["what a compaction left"][0])))
    ids = [one.id for one in read(tmp_path / "log.jsonl")]
    assert ids == [SESSION, f"{SESSION}_1", f"{SESSION}_2"]
    task = [line("user", "s1", None, "P", isSidechain=True), line("assistant", "s2", "s1", "B", isSidechain=True)]
    (tmp_path / "agent.jsonl").write_text("\n".join(map(json.dumps, task)))
    (tmp_path / "both.jsonl").write_text("\n".join(map(json.dumps, [*CLAUDE["a plain talk"][0][2:4], *task])))
    (alone,), both = (([one.id for one in read(tmp_path / name)]) for name in ("agent.jsonl", "both.jsonl"))
    assert both == [SESSION, alone] and alone.startswith(f"{SESSION}_")
    ids += [alone]
    assert all(len({is_validation(id, share / 50) for id in ids}) == 1 for share in range(50))
