"""Reading: every kind of file, and every kind of broken record."""

import gzip
import json

import pytest

from vicuna_lit.conversation import (
    ALPACA_INPUT,
    Conversation,
    DataError,
    Rejection,
    Turn,
    is_heldout,
    parse,
    read,
    trim,
    write_jsonl,
)

SHAREGPT = {"id": "a", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
OPENAI = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}


def test_the_three_forms():
    assert parse(SHAREGPT, "x") == Conversation.of("hi", "hello", id="a")
    assert parse(OPENAI, "x") == Conversation.of("hi", "hello", id="x")
    assert parse(ALPACA, "x") == Conversation.of(f"Add.{ALPACA_INPUT}1 2", "3", id="x")


def test_system_tools_and_parts():
    record = {"system": "Be kind.", "tools": "[]", **SHAREGPT}
    assert parse(record, "x") == Conversation.of("hi", "hello", id="a", system="Be kind.\n\n[]")
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    parsed = parse({"messages": [parts, call, {"role": "tool", "content": "42"}]}, "x")
    assert parsed == Conversation("x", (Turn("user", "ab"), Turn("assistant", '[{"name":"f"}]'), Turn("tool", "42")))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([1], "not an object"),
        ({"text": "hi"}, "unknown record format"),
        ({"conversations": "hi"}, "wrong type"),
        ({"conversations": ["hi"]}, "wrong type"),
        ({"conversations": [{"from": "human", "value": 3}]}, "wrong type"),
        ({"conversations": [{"from": "human"}]}, "wrong type"),
        ({"conversations": [{"from": "alien", "value": "hi"}]}, "unknown role"),
        ({"conversations": [{"from": ["human"], "value": "hi"}]}, "unknown role"),
        ({"conversations": [{"from": "human", "value": "a\0b"}]}, "NUL byte"),
        ({"conversations": [{"from": "human", "value": "\ud83d"}]}, "invalid Unicode"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "wrong type"),
        ({"instruction": 1, "output": "x"}, "wrong type"),
    ],
)
def test_broken_records_say_why(record, reason):
    rejection = parse(record, "x")
    assert isinstance(rejection, Rejection)
    assert rejection.reason == reason
    assert rejection.detail


def turns(*roles: str) -> Conversation:
    return Conversation("x", tuple(Turn(role, "t") for role in roles))  # pyright: ignore[reportArgumentType]


def test_trim():
    trimmed, cut = trim(turns("system", "assistant", "user", "assistant", "tool", "assistant", "user"))
    assert isinstance(trimmed, Conversation)
    assert [t.role for t in trimmed.turns] == ["system", "user", "assistant", "tool", "assistant"]
    assert cut == 2
    for bad, reason in (
        (turns(), "no answered turn"),
        (turns("system", "user"), "no answered turn"),
        (turns("user", "user", "assistant"), "roles do not alternate"),
        (turns("user", "assistant", "system", "assistant"), "roles do not alternate"),
    ):
        rejection, cut = trim(bad)
        assert isinstance(rejection, Rejection)
        assert rejection.reason == reason


def test_files_of_every_kind(tmp_path):
    records = [SHAREGPT, OPENAI, ALPACA]
    (tmp_path / "a.json").write_text(json.dumps(records, indent=1))
    (tmp_path / "b.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, records)))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    (tmp_path / "notes.txt").write_text("not data")
    found = list(read(tmp_path))
    assert len(found) == 9
    assert all(isinstance(c, Conversation) for c in found)


def test_cut_off_files_give_every_whole_record_and_one_loss(tmp_path):
    whole = json.dumps([SHAREGPT, OPENAI, ALPACA])
    for name, data in {
        "a.json": whole[:-30].encode(),
        "b.json.gz": gzip.compress(whole.encode())[:-20],
        "c.jsonl": (json.dumps(SHAREGPT) + "\n" + json.dumps(OPENAI)[:-5]).encode(),
    }.items():
        path = tmp_path / name
        path.write_bytes(data)
        found = list(read(path))
        losses = [c for c in found if isinstance(c, Rejection)]
        assert len(losses) == 1
        assert losses[0].reason in ("file cut off", "broken JSON")
        assert losses[0].id.startswith(name)
    assert len(list(read(tmp_path / "a.json"))) == 3


def test_missing_and_empty(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(read(tmp_path / "nothing.json"))
    with pytest.raises(DataError, match=r"holds no \.json"):
        list(read(tmp_path))
    (tmp_path / "empty.json").write_text("")
    assert list(read(tmp_path / "empty.json")) == []


def test_written_conversations_read_back(tmp_path):
    conversations = [turns("system", "user", "assistant", "tool", "assistant"), Conversation.of("ä\n", " 🙂 ", id="b")]
    write_jsonl(conversations, tmp_path / "x.jsonl")
    assert list(read(tmp_path / "x.jsonl")) == conversations


def test_pieces_of_one_conversation_stay_on_one_side():
    ids = [f"sg{i:05d}" for i in range(2000)]
    sides = [is_heldout(i, 0.1) for i in ids]
    assert 150 < sum(sides) < 250
    assert all(is_heldout(f"{i}_{n}", 0.1) == side for i, side in zip(ids, sides, strict=True) for n in (0, 12))
    assert not any(is_heldout(i, 0.0) for i in ids)
    assert len({is_heldout(f"identity_{i}", 0.5) for i in range(50)}) == 2
