"""Shards: a few hundred conversations in a file, the unit of work, of memory and of resumption.

A shard's files in a stage's folder are `NNNNN.jsonl` and the like; `NNNNN.json` is written last and
says that they are whole. What a stage writes depends on its input alone, never on who ran it or when.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from vicuna_lit.config.base import Role
from vicuna_lit.records.conversation import Conversation, Rejection, ToolCall, Turn
from vicuna_lit.whole_files import write

MOST_RECORDS, MOST_CHARACTERS = 256, 2_000_000
"""Of a shard: many enough to be worth a process's while, few enough to stay small in memory."""
SOURCES = "sources.json"
"""Beside the raw shards where sources have names: that of each shard's."""


class Item(NamedTuple):
    """One raw record: where it came from, the conversation or why there is none, whether it used plugins."""

    source: str
    conversation: Conversation | Rejection
    plugins: bool = False


class Dropped(NamedTuple):
    """A line of `rejected.jsonl`, with the record's place in its shard."""

    row: int
    source: str
    step: str
    rejection: Rejection

    def line(self) -> bytes:
        """JSON with a newline."""
        id, reason, detail = self.rejection
        return dumps({"record": self.source, "id": id, "step": self.step, "reason": reason, "detail": detail})


def dumps(value: Any) -> bytes:
    """One line of JSONL."""
    return orjson.dumps(value) + b"\n"


def to_json(c: Conversation) -> list[Any]:
    """A compact form for files between stages."""
    others = [c.tools, c.said, c.source]
    while others and not others[-1]:
        others.pop()
    return [c.id, [_turn(turn) for turn in c.turns], *others]


def _turn(t: Turn) -> list[Any]:
    others = [t.reasoning, [list(call) for call in t.tool_calls], t.name, t.call_id]  # orjson writes no named tuples
    counts = t.weight if t.supervised and t.weight != 1 else t.supervised
    if any(others):
        return [t.role, t.content, counts, *others]
    return [t.role, t.content] if counts is True else [t.role, t.content, counts]


def from_json(value: list[Any]) -> Conversation:
    """The conversation that `to_json` wrote."""
    turns = (Turn(*turn) if len(turn) == 2 else _read_turn(*turn) for turn in value[1])
    tools, said, source = [*value[2:], "", "", ""][:3]
    return Conversation(value[0], tuple(turns), tools, said=said, source=source)


def _read_turn(role: Role, content: str, counts: bool | float = True, *others: Any) -> Turn:
    weight = 1.0 if isinstance(counts, bool) else counts
    reasoning, calls, name, call_id = others or ("", (), "", "")
    calls = tuple(ToolCall(*call) for call in calls)
    return Turn(role, content, counts is not False, reasoning, calls, name, call_id, weight)


def write_items(path: Path, items: Iterable[Item]) -> None:
    """A raw shard."""
    lines = []
    for source, c, plugins in items:
        rejected = isinstance(c, Rejection)
        lines.append(dumps([source, list(c) if rejected else to_json(c), rejected, plugins]))
    write(path, lines)


def read_items(path: Path) -> Iterator[Item]:
    """A raw shard, as written."""
    with path.open("rb") as lines:
        for line in lines:
            source, value, rejected, plugins = orjson.loads(line)
            yield Item(source, Rejection(*value) if rejected else from_json(value), plugins)


def name(shard: int, suffix: str = "json") -> str:
    """`00012.json`."""
    return f"{shard:05d}.{suffix}"


def sources(folder: Path) -> list[str]:
    """The name of the source of each raw shard; empty where sources have none."""
    file = folder / SOURCES
    return orjson.loads(file.read_bytes()) if file.exists() else []


def concatenate(parts: Sequence[Path], target: Path) -> dict[str, Any]:
    """Joins files into one; its bytes, lines and sha256."""
    digest, size, lines = sha256(), 0, 0

    def chunks() -> Iterator[bytes]:
        nonlocal size, lines
        for part in parts:
            with part.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
                    size, lines = size + len(chunk), lines + chunk.count(b"\n")
                    yield chunk

    write(target, chunks())
    return {"bytes": size, "lines": lines, "sha256": digest.hexdigest()}
