"""Claude's export and Open WebUI's: the branch the user ended on; what cannot be read is refused by name."""

import json
from typing import Any

import pytest

from vicuna_lit.records.conversation import Conversation, Rejection, ToolCall, Turn
from vicuna_lit.records.readers import parse, read

MEDIA = "images and other media"
ROOT = "00000000-0000-4000-8000-000000000000"


def claude(*messages: dict[str, Any], **record: Any) -> dict[str, Any]:
    return {"uuid": "c1", "name": "t", "account": {"uuid": "me"}, "chat_messages": list(messages)} | record


def message(sender: str, *parts: Any, **others: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": p, "citations": []} if isinstance(p, str) else p for p in parts]
    return {"uuid": "m", "sender": sender, "text": "", "content": content, "attachments": [], "files": []} | others


def webui(*messages: dict[str, Any], current: str | None = None, **chat: Any) -> dict[str, Any]:
    nodes = {m["id"]: m | {"childrenIds": [n["id"] for n in messages if n["parentId"] == m["id"]]} for m in messages}
    return {"id": "w1", "chat": {"history": {"messages": nodes, "currentId": current or messages[-1]["id"]}} | chat}


def said(id: str, parent: str | None, role: str, content: Any, **others: Any) -> dict[str, Any]:
    return {"id": id, "parentId": parent, "role": role, "content": content} | others


def turns(record: dict[str, Any]) -> tuple[Turn, ...]:
    found = parse(record, "f:0")
    assert isinstance(found, Conversation), found
    return found.turns


def refusal(record: dict[str, Any]) -> tuple[str, str]:
    found = parse(record, "f:0")
    assert isinstance(found, Rejection)
    return found.reason, found.detail


def test_claudes_export_is_read_with_its_ids(tmp_path):
    record = claude(message("human", "Hi"), message("assistant", "Hello", "."))
    (tmp_path / "conversations.json").write_text(json.dumps([record, record | {"uuid": "c2"}]))
    assert list(read(tmp_path)) == [Conversation.of("Hi", "Hello.", id="c1"), Conversation.of("Hi", "Hello.", id="c2")]


def test_what_claude_writes_around_its_tools_results_are_turns_in_their_order():
    reply = message(
        "assistant",
        {"type": "thinking", "thinking": "Look it up."},
        "Wait.",
        {"type": "tool_use", "id": "t1", "name": "search", "input": {"q": "rain"}},
        {"type": "token_budget", "remaining": 1},
        {"type": "tool_result", "tool_use_id": "t1", "name": "search",
         "content": [{"type": "knowledge", "title": "News", "text": "Rain."}]},
        "It rains.",
    )  # fmt: skip
    assert turns(claude(message("human", "Weather?"), reply)) == (
        Turn("user", "Weather?"),
        Turn("assistant", "Wait.", reasoning="Look it up.", tool_calls=(ToolCall("search", '{"q": "rain"}', "t1"),)),
        Turn("tool", "News\nRain.", name="search", call_id="t1"),
        Turn("assistant", "It rains."),
    )


def test_a_document_stands_in_the_turn_that_it_was_given_in():
    document = {"file_name": "a.txt", "file_size": 3, "extracted_content": "One."}
    given = message("human", "Sum it up.", attachments=[document], files=[{"file_name": "a.txt"}])
    assert turns(claude(given, message("assistant", "1.")))[0].content == "a.txt:\nOne.\n\nSum it up."
    pasted = message("human", attachments=[{"file_name": "", "extracted_content": "One."}])
    assert turns(claude(pasted, message("assistant", "1.")))[0].content.strip() == "One."


def test_of_claudes_branches_the_one_that_the_user_ended_on_is_read():
    messages = [
        message("human", "Hi", uuid="q", parent_message_uuid=ROOT),
        message("assistant", "first", uuid="a1", parent_message_uuid="q"),
        message("assistant", "second", uuid="a2", parent_message_uuid="q"),
    ]
    assert turns(claude(*messages)) == Conversation.of("Hi", "second").turns
    assert turns(claude(*messages, current_leaf_message_uuid="a1")) == Conversation.of("Hi", "first").turns


def test_an_older_export_of_claude_has_its_text_beside_the_parts():
    older = [{"sender": "human", "text": "Hi"}, {"sender": "assistant", "text": "Hello."}]
    assert turns(claude(*older)) == Conversation.of("Hi", "Hello.").turns


@pytest.mark.parametrize(
    ("given", "reason", "detail"),
    [
        (message("human", "Hi", files=[{"file_name": "a.png"}]), MEDIA, "message 1: file 'a.png' without"),
        (message("human", "Hi", attachments=[{"file_name": "b.pdf"}]), MEDIA, "attachment 'b.pdf' without"),
        (message("human", {"type": "hologram"}), MEDIA, "a part of type 'hologram'"),
        (message("robot", "Hi"), "unknown role", "message 1 has sender 'robot'"),
        (message("human", "Hi", truncated=True), "bad answer", "message 1 is truncated"),
        (7, "wrong type", "message 1 is a number, not an object"),
    ],
)  # fmt: skip
def test_what_claudes_export_does_not_show_is_refused_by_name(given, reason, detail):
    found = refusal(claude(given, message("assistant", "Hello.")))
    assert found[0] == reason
    assert detail in found[1]


def test_open_webuis_branch_is_read_with_its_system_prompt_and_reasoning():
    thought = '<details type="reasoning" done="true" duration="3">\n<summary>Thought for 3 seconds</summary>\n'
    record = webui(
        said("q", None, "user", "Hi"),
        said("a1", "q", "assistant", "first"),
        said("a2", "q", "assistant", thought + "&gt; A &lt;b&gt;.\n&gt; B.\n</details>\nsecond", done=True),
        params={"system": "Be brief."},
        messages=[],
    )
    assert turns(record) == (
        Turn("system", "Be brief."),
        Turn("user", "Hi"),
        Turn("assistant", "second", reasoning="A <b>.\nB."),
    )
    assert turns(record["chat"] | {"params": {}})[0] == Turn("user", "Hi")
    ended = webui(*record["chat"]["history"]["messages"].values(), current="a1")
    assert turns(ended) == Conversation.of("Hi", "first").turns


@pytest.mark.parametrize(
    ("given", "reason", "detail"),
    [
        ({"files": [{"type": "image"}]}, MEDIA, "files: what they hold is not in the export"),
        ({"sources": [{"document": ["x"]}]}, MEDIA, "sources: what they hold"),
        ({"error": {"content": "timeout"}}, "bad answer", "the reply failed"),
        ({"done": False}, "bad answer", "the reply was not finished"),
        ({"content": '<details type="tool_calls" name="x">\n</details>'}, "unknown content type", "type tool_calls"),
        ({"parentId": "gone"}, "broken tree", "node 'gone' is missing"),
    ],
)  # fmt: skip
def test_what_open_webuis_export_does_not_show_is_refused_by_name(given, reason, detail):
    found = refusal(webui(said("q", None, "user", "Hi"), said("a", "q", "assistant", "Hello.") | given))
    assert found[0] == reason
    assert detail in found[1]
