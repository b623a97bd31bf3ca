"""A value of a file that nobody could use is passed over without being held, and its neighbours are read."""

import gzip
import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicuna_lit.records import json_stream
from vicuna_lit.records.conversation import Conversation, Rejection
from vicuna_lit.records.json_stream import json_lines, json_values
from vicuna_lit.records.readers import read

TEXTS = st.sampled_from(['a"]},{[\\', "x" * 20, "x" * 500, "\\" * 3, "\\" * 200, ",]" * 120, '"' * 99, ""])
VALUES = st.recursive(
    TEXTS | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


def deep(value: Any) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(map(deep, inner), default=0) if isinstance(inner, list) else 0


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, size in dict(MOST_BYTES=300, MOST_LEVELS=4, _CHUNK=7).items():
        monkeypatch.setattr(json_stream, name, size)


@settings(max_examples=200)
@given(st.lists(VALUES, max_size=4))
def test_what_is_small_enough_is_read_whatever_stands_beside_it(values: list[Any]):
    records = [{"a": value} for value in values]
    for found, expected in (
        (json_values(io.BytesIO(json.dumps(values).encode()), 1), values),
        (json_values(io.BytesIO("\n".join(json.dumps(r, indent=1) for r in records).encode()), 0), records),
        (json_lines(io.BytesIO("\n".join(map(json.dumps, values)).encode())), values),
    ):
        for text, value in zip(found, expected, strict=True):
            if text is None:
                assert len(json.dumps(value, indent=1)) >= 300 or deep(value) >= 4
            else:
                assert json.loads(text) == value and len(text) < 2 * 300


@pytest.mark.parametrize("form", ["lines", "array", "brackets"])
@pytest.mark.promise("A few kilobytes of gzip that are one line of gigabytes cost no memory, and are one rejection")
def test_a_huge_line_costs_no_memory_and_itself_alone(form: str, tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "MOST_BYTES", 1 << 17)
    monkeypatch.setattr(json_stream, "_CHUNK", 1 << 14)
    turns = '{"conversations": [{"from": "human", "value": "%s"}, {"from": "gpt", "value": "b"}]}'
    middle = ("[" if form == "brackets" else "x") * (2 << 20)
    middle = f"[{middle}{']' * (len(middle) + 1)}" if form == "brackets" else turns % middle
    records = [turns % "a", middle, turns % "c"]
    path = tmp_path / "a.json.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write("\n".join(records) if form == "lines" else f"[{','.join(records)}]")
    del middle, records
    tracemalloc.start()
    found = list(read(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert [type(one) for one in found] == [Conversation, Rejection, Conversation]
    assert isinstance(found[1], Rejection)
    assert found[1][:2] == ("a.json.gz:2", "record too large")
