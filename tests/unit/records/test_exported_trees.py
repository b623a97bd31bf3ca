"""Trees: which branch of an export, and which path of Open-Assistant's answers."""

import pytest

from vicuna_lit.records.conversation import Conversation, Rejection, Turn
from vicuna_lit.records.readers import parse, read, records


def node(id: str, parent: str | None, role: str, text: str, **content) -> dict:
    """A node of a ChatGPT export; `export` fills in the children."""
    content = {"content_type": "text", "parts": [text], "text": text} | content
    message = {"author": {"role": role}, "content": content, "metadata": {}, "weight": 0.0}
    return {"id": id, "parent": parent, "children": [], "message": message}


def export(*nodes: dict, **record) -> dict:
    mapping = {n["id"]: n | {"children": [m["id"] for m in nodes if m["parent"] == n["id"]]} for n in nodes}
    return {"title": "t", "mapping": mapping} | record


ROOT = {"id": "root", "parent": None, "message": None}


def test_a_chatgpt_export_gives_the_branch_the_user_ended_on():
    nodes = [
        ROOT,
        node("s", "root", "system", ""),
        node("q", "s", "user", "hi"),
        node("a1", "q", "assistant", "first"),
        node("a2", "q", "assistant", "second"),
        node("q2", "a1", "user", "why?"),
        node("a3", "q2", "assistant", "so"),
    ]
    ended = parse(export(*nodes, current_node="a3", conversation_id="c"), "x")
    assert ended == Conversation.of("hi", "first", "why?", "so", id="c")
    assert parse(export(*nodes, id="i", conversation_id="c"), "x") == Conversation.of("hi", "second", id="i")


def test_a_chatgpt_export_with_tools_and_hidden_messages():
    nodes = [
        ROOT,
        node("s", "root", "system", "Be kind."),
        node("e", "s", "user", "I am Ada.", content_type="user_editable_context"),
        node("h", "e", "system", "hidden"),
        node("q", "h", "user", "", content_type="multimodal_text", parts=["6*7?", "quick"]),
        node("a1", "q", "assistant", "Let me see."),
        node("a2", "a1", "assistant", "6*7 # ```", content_type="code", language="python"),
        node("t", "a2", "tool", "42", content_type="execution_output"),
        node("a3", "t", "assistant", ""),
        node("a4", "a3", "assistant", "It is 42."),
    ]
    nodes[3]["message"]["metadata"]["is_visually_hidden_from_conversation"] = True
    parsed = parse(export(*nodes, current_node="a4"), "x")
    assert isinstance(parsed, Conversation)
    assert parsed.turns == (
        Turn("system", "Be kind."),
        Turn("user", "6*7?\nquick"),
        Turn("assistant", "Let me see.\n\n````python\n6*7 # ```\n````"),
        Turn("tool", "42"),
        Turn("assistant", "It is 42."),
    )


IMAGE = {"content_type": "multimodal_text", "parts": [{"content_type": "image_asset_pointer"}, "What is it?"]}
CYCLE = (node("a", "b", "user", "x"), node("b", "a", "user", "x"))


@pytest.mark.parametrize(
    ("record", "reason", "detail"),
    [
        (export(*CYCLE, current_node="a"), "broken tree", "node 'a' is its own ancestor"),
        (export(*CYCLE), "broken tree", "no node without a parent"),
        ({"mapping": {"a": {"children": ["a"]}}}, "broken tree", "node 'a' is its own ancestor"),
        (export(node("a", None, "user", "x"), current_node="z"), "broken tree", "node 'z' is missing"),
        (export(node("a", "gone", "user", "x"), current_node="a"), "broken tree", "node 'gone' is missing"),
        ({"mapping": {"a": {"parent": ["b"]}}, "current_node": "a"}, "broken tree", "node (a list) is missing"),
        ({"mapping": {"a": {"children": "b"}}}, "wrong type", "children is text"),
        ({"mapping": []}, "wrong type", "mapping is a list"),
        ({"mapping": {"a": 1}, "current_node": "a"}, "wrong type", "node 'a' is a number"),
        ({"mapping": {"a": {"message": "hi"}}}, "wrong type", "message is text"),
        (export(node("a", None, "user", "", **IMAGE)), "wrong type", "image_asset_pointer"),
        (export(node("a", None, "user", "", parts=[1])), "wrong type", "a part is a number"),
        (export(node("a", None, "user", "", content_type="tether_quote")), "unknown content type", "tether_quote"),
        (export(node("a", None, "critic", "x")), "unknown role", "critic"),
        (export(node("a", None, "user", "x\0")), "NUL byte", "turn 1"),
    ],
)
def test_broken_exports_say_why(record, reason, detail):
    rejection = parse(record, "x")
    assert isinstance(rejection, Rejection)
    assert rejection.reason == reason
    assert detail in rejection.detail


def tree(text: str, *replies: dict, role: str = "prompter", **fields) -> dict:
    return {"text": text, "role": role, "replies": list(replies)} | fields


def test_an_open_assistant_tree_gives_its_best_ranked_path():
    answers = [
        tree("unranked", role="assistant"),
        tree("worse", role="assistant", rank=1),
        tree("best", tree("and?", tree("a", role="assistant"), tree("b", role="assistant")), role="assistant", rank=0),
        tree("gone", role="assistant", rank=0, deleted=True),
    ]
    for order in (answers, answers[::-1]):
        record = {"message_tree_id": "m", "prompt": tree("q", *order)}
        assert parse(record, "x") == Conversation.of("q", "best", "and?", "a", id="m")


def test_deep_trees_do_not_recurse():
    deep, mapping = tree("q"), {"0": node("0", None, "user", "q")}
    for i in range(1, 8_000):  # Python stops at 1,000
        mapping[str(i)] = node(str(i), str(i - 1), "assistant" if i % 2 else "user", "t")
        deep = tree("t", deep, role="prompter" if i % 2 else "assistant")
    for record in ({"prompt": deep}, {"mapping": mapping, "current_node": "7999"}):
        parsed = parse(record, "x")
        assert isinstance(parsed, Conversation)
        assert len(parsed.turns) == 8_000


def test_real_trees(shared):
    exported = list(read(shared / "conversations/chatgpt_export_ab.json"))
    assert len(exported) == 31
    assert all(isinstance(c, Conversation) and c.turns[0].role == "user" for c in exported)
    path = shared / "conversations/oasst_en_tree_ab.jsonl"
    for (_, record), conversation in zip(records(path), read(path), strict=True):
        assert isinstance(record, dict)
        assert isinstance(conversation, Conversation)
        assert conversation.id == record["message_tree_id"]
        assert conversation.turns[0] == Turn("user", record["prompt"]["text"])
        best = [r["text"] for r in record["prompt"]["replies"] if r.get("rank") == 0]
        assert [conversation.turns[1].content] == best or not best
