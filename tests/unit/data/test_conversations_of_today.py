"""Conversations as people bring them today: calls, flags, merged sets, exports with voice and search, folders."""

import bz2
import json
from pathlib import Path

import pytest

from tests.helpers.encoders import encoder_of
from vicuna_lit.data.dataset import build_dataset
from vicuna_lit.data.template_messages import with_short_ids
from vicuna_lit.prepare.dedup import signatures
from vicuna_lit.prepare.html import is_html
from vicuna_lit.records.conversation import Conversation, Rejection, ToolCall, Turn, trim, write_jsonl
from vicuna_lit.records.exports import without_marks
from vicuna_lit.records.readers import parse, read

QUESTION, ANSWER = {"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "Rain."}
CALL = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"city":"Oslo"}'}}


def parsed(record) -> Conversation:
    found = parse(record, "x")
    assert isinstance(found, Conversation), found
    return found


@pytest.mark.parametrize("content", ["", None, "Let me check."])
@pytest.mark.parametrize("call", [{"tool_calls": [CALL]}, {"function_call": CALL["function"]}])
def test_a_call_beside_content_is_part_of_the_turn_and_of_the_loss(content, call):
    record = {
        "messages": [QUESTION, {"role": "assistant", "content": content} | call, {"role": "tool", "content": "7"}]
    }
    turn = parsed(record).turns[1]
    assert turn.content == (content or "")
    assert [(c.name, c.values) for c in turn.tool_calls] == [("get", {"city": "Oslo"})]
    record["messages"].append(ANSWER)
    encoder = encoder_of("byte_level", "chatml")
    examples, _ = build_dataset([parsed(record)], encoder, 512)
    said = encoder.decode(examples[0].input_ids[examples[0].supervised])
    before = f"{content}\n" if content else ""
    assert said == before + '{"name": "get", "arguments": {"city": "Oslo"}}<|im_end|>Rain.<|im_end|>'


def test_a_call_in_every_form_is_the_same_turn():
    inner = {"name": "get", "arguments": {"city": "Oslo"}}
    forms = [
        [QUESTION, {"role": "assistant", "tool_calls": [{"function": inner}]}],
        [QUESTION, {"role": "assistant", "content": None, "tool_calls": json.dumps([inner])}],
        [QUESTION, {"from": "function_call", "value": json.dumps(inner)}],
        [QUESTION, {"role": "assistant", "content": [{"type": "tool_use", "name": "get", "input": {"city": "Oslo"}}]}],
    ]
    turns = {parsed({"messages": form}).turns for form in forms}
    assert turns == {
        (Turn("user", "Weather?"), Turn("assistant", "", tool_calls=(ToolCall("get", '{"city": "Oslo"}'),)))
    }
    joined = [QUESTION, ANSWER, {"from": "function_call", "value": json.dumps(inner)}]
    assert parsed({"messages": joined}).turns[1].content == "Rain."
    assert parsed({"messages": joined}).turns[1].tool_calls


def test_results_of_several_tools_follow_one_another():
    turns = [Turn("user", "q"), Turn("assistant", "", tool_calls=(ToolCall("a"), ToolCall("b")))]
    turns += [Turn("tool", "1"), Turn("tool", "2"), Turn("assistant", "x")]
    assert isinstance(trim(Conversation("x", tuple(turns)))[0], Conversation)
    assert isinstance(trim(Conversation("x", (*turns[:1], *turns[2:])))[0], Rejection)


def test_history_stands_in_front():
    record = {"instruction": "And?", "output": "Snow.", "system": "Brief.", "history": [["a", "b"], ["c", "d"]]}
    assert parsed(record) == Conversation.of("a", "b", "c", "d", "And?", "Snow.", id="x", system="Brief.")
    assert isinstance(parse(record | {"history": [["a"]]}, "x"), Rejection)


@pytest.mark.parametrize("flag", ["train", "loss", "loss_mask", "trainable", "weight", "training"])
def test_flags_take_a_turn_out_of_the_loss(flag):
    for off, value in ((0, 0), (False, False), (None, True), (1, True), (True, True), (1.0, True)):
        assert parsed([QUESTION, ANSWER | {flag: off}]).turns[1].supervised is bool(value)
    for odd in ("no", [0], -1, *(() if flag == "weight" else (0.5, 2))):
        refused = parse([QUESTION, ANSWER | {flag: odd}], "x")
        assert isinstance(refused, Rejection)
        assert flag in refused.detail
    assert isinstance(parse([QUESTION | {"train": True}, ANSWER], "x"), Rejection)


def test_tools_and_functions_are_read():
    schema = {"name": "get", "parameters": {}}
    wrapped = [{"type": "function", "function": schema}]
    messages = {"messages": [QUESTION, ANSWER]}
    for form in ({"tools": wrapped}, {"functions": [schema]}, {"tools": json.dumps(wrapped)}, {"tools": [schema]}):
        assert json.loads(parsed(messages | form).tools) == wrapped
    assert parsed(messages | {"tools": "[]"}).tools == ""
    refused = parse(messages | {"tools": 3}, "x")
    assert isinstance(refused, Rejection)
    assert "tools" in refused.detail


def test_null_and_nan_columns_of_merged_sets_are_absent():
    turns = [t | {"from": None, "value": None} for t in (QUESTION, ANSWER)]
    for empty in (None, float("nan")):
        record = {"conversations": empty, "instruction": empty, "system": empty, "tools": empty, "images": empty}
        assert parsed(record | {"messages": turns}) == Conversation.of("Weather?", "Rain.", id="x")


def test_the_transcript_of_a_voice_is_its_text():
    def said(id: str, role: str, text: str, above: str | None, below: list[str]) -> dict:
        sound = {"content_type": "audio_asset_pointer", "asset_pointer": "sediment://file"}
        parts = [{"content_type": "audio_transcription", "text": text, "direction": "in"}, sound]
        content = {"content_type": "multimodal_text", "parts": parts}
        message = {"author": {"role": role}, "content": content, "recipient": "all"}
        return {"id": id, "parent": above, "children": below, "message": message}

    nodes = {"a": said("a", "user", "Tallest tree?", None, ["b"]), "b": said("b", "assistant", "A redwood.", "a", [])}
    record = {"mapping": nodes, "current_node": "b", "conversation_id": "c1"}
    assert parsed(record) == Conversation.of("Tallest tree?", "A redwood.", id="c1")


def test_marks_of_search_are_taken_out_and_a_name_stays():
    marked = (
        'Redwood.\ue200cite\ue202turn0search0\ue201 In \ue200entity\ue202["place","Muir","park"]\ue201【12†source】.'
    )
    assert without_marks(marked) == ("Redwood. In Muir.", 3)
    assert without_marks("an entity and a 【note】") == ("an entity and a 【note】", 0)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [QUESTION, ANSWER], "images": ["a.png"]},
        {"messages": [QUESTION | {"content": "<image>\nWhat?"}, ANSWER]},
        {"messages": [QUESTION | {"content": [{"type": "image_url", "image_url": "x"}]}, ANSWER]},
    ],
)
def test_media_are_refused_by_name(record):
    refused = parse(record, "x")
    assert isinstance(refused, Rejection)
    assert refused.reason == "images and other media"
    assert "image" in refused.detail


def test_every_file_of_a_folder_is_read_or_named(tmp_path: Path):
    line = json.dumps({"messages": [QUESTION, ANSWER], "score": float("nan")}).encode()
    files = {"A.JSONL": line, "b.ndjson": line, "c.jsonl.bz2": bz2.compress(line), "d.txt": b"x", "e.tar.gz": b"x"}
    files["f.json"] = line.decode().encode("utf-16")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = list(read(tmp_path))
    assert [r.id for r in found if isinstance(r, Conversation)] == [
        "A.JSONL:1",
        "b.ndjson:1",
        "c.jsonl.bz2:1",
        "f.json:1",
    ]
    assert [r[:2] for r in found if isinstance(r, Rejection)] == [
        ("d.txt", "file skipped"),
        ("e.tar.gz", "file skipped"),
    ]


def test_parquet_and_zstandard_are_read(tmp_path: Path):
    arrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    rows = [{"messages": [QUESTION, ANSWER]}] * 3
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    with arrow.output_stream(str(tmp_path / "b.jsonl.zst"), compression="zstd") as out:
        out.write("\n".join(map(json.dumps, rows)).encode())
    found = list(read(tmp_path))
    assert found == [
        Conversation.of("Weather?", "Rain.", id=f"{f}:{i}") for f in ("a.parquet", "b.jsonl.zst") for i in (1, 2, 3)
    ]


def test_an_id_is_a_files_and_may_be_0():
    from vicuna_lit.config.compose import load

    assert parsed({"id": 0, "messages": [QUESTION, ANSWER]}).id == "0"
    config = load("prepare", "raw=x").dedup
    ids = signatures([Conversation.of("a", "b", id="0"), Conversation.of("c", "d", id="0")], config, ["a", "b"])["id"]
    assert ids[0] != ids[1]


def test_html_that_was_asked_for_stays():
    typed = Conversation.of("Write a sale e-mail in HTML", "<h1>Sale</h1>\n<p>Dear you,</p>\n<p>20% off</p>")
    assert not any(is_html(typed))
    assert is_html(Conversation.of("Hi", "<p>Hello</p>\n<p>there</p>")) == (False, True)


def test_calls_reasoning_and_tools_are_written_and_read_back(tmp_path: Path):
    call = Turn("assistant", "Hm.", reasoning="think", tool_calls=(ToolCall("f", '{"a": 1}', "c1"),))
    turns = (Turn("user", "q"), call, Turn("tool", "1", name="f", call_id="c1"), Turn("assistant", "a"))
    conversation = Conversation("x", turns, '[{"type": "function"}]')
    write_jsonl([conversation], tmp_path / "x.jsonl")
    assert list(read(tmp_path / "x.jsonl")) == [conversation]


def test_ids_of_calls_become_as_short_as_mistrals_templates_demand():
    calls = (ToolCall("a", id="call_1"), ToolCall("b"), ToolCall("c", id="abcdef123"))
    turns = [Turn("user", "q"), Turn("assistant", "", tool_calls=calls)]
    turns += [Turn("tool", "1", call_id="call_1"), Turn("tool", "2"), Turn("tool", "3", call_id="abcdef123")]
    short = with_short_ids(turns)
    ids = [call.id for call in short[1].tool_calls]
    assert all(id.isalnum() and len(id) == 9 for id in ids) and len(set(ids)) == 3
    assert ids[2] == "abcdef123"
    assert [turn.call_id for turn in short[2:]] == ids
    assert with_short_ids(short) == short
