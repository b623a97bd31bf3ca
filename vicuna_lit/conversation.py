"""Conversations: the one type that flows from raw data to training, with its readers and writer.

Readers stream: memory stays flat however large the file. A record that cannot be used becomes a
`Rejection` that says why; nothing is dropped silently.
"""

import gzip
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import ijson
import orjson

Role = Literal["system", "user", "assistant", "tool"]

ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
SHAREGPT_ROLES: dict[Role, str] = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}
ALPACA_INPUT = "\n\n### Input:\n"
"""What stands between an Alpaca record's instruction and its input (Stanford Alpaca, `train.py`)."""


class DataError(ValueError):
    """The data as a whole cannot be used; the message says which file and what to do."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A multi-turn conversation. `id` names its origin, e.g. a ShareGPT id or `file:record`."""

    id: str
    turns: tuple[Turn, ...]

    @classmethod
    def of(cls, *contents: str, id: str = "", system: str | None = None) -> "Conversation":
        """Builds one by hand: `Conversation.of("Hi!", "Hello.", "Who are you?")`, user first."""
        turns = [Turn("system", system)] if system is not None else []
        turns += [Turn("assistant" if i % 2 else "user", text) for i, text in enumerate(contents)]
        return cls(id, tuple(turns))

    def say(self, role: Role, content: str) -> "Conversation":
        """The conversation with one more turn."""
        return replace(self, turns=(*self.turns, Turn(role, content)))


class Rejection(NamedTuple):
    """Why a record (or a part of one) is not used. `reason` is one of a few fixed phrases."""

    id: str
    reason: str
    detail: str = ""


def parse(record: Any, default_id: str) -> Conversation | Rejection:
    """Reads one record of ShareGPT, OpenAI `messages` or Alpaca form, told apart by its keys.

    A record's `system` and `tools` texts become its system turn.
    """
    if not isinstance(record, dict):
        return Rejection(default_id, "not an object", f"the record is a {type(record).__name__}")
    id = str(record.get("id") or default_id)
    try:
        if "conversations" in record:
            turns = _parse_turns(record["conversations"], "from", "value")
        elif "messages" in record:
            turns = _parse_turns(record["messages"], "role", "content")
        elif "instruction" in record and "output" in record:
            turns = _parse_alpaca(record)
        else:
            keys = ", ".join(sorted(map(str, record))[:8])
            raise _Bad("unknown record format", f"keys {keys}; expected conversations, messages or instruction")
        system = "\n\n".join(_text(record[key], key) for key in ("system", "tools") if record.get(key))
    except _Bad as bad:
        return Rejection(id, bad.reason, bad.detail)
    if system and turns and turns[0].role != "system":
        turns.insert(0, Turn("system", system))
    return Conversation(id, tuple(turns))


class _Bad(Exception):
    def __init__(self, reason: str, detail: str):
        self.reason, self.detail = reason, detail


def _parse_turns(messages: Any, role_key: str, text_key: str) -> list[Turn]:
    if not isinstance(messages, list):
        raise _Bad("wrong type", f"the turns are a {type(messages).__name__}, not a list")
    turns: list[Turn] = []
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _Bad("wrong type", f"turn {i} is a {type(message).__name__}, not an object")
        role = message.get(role_key)
        if not isinstance(role, str) or role not in ROLES:
            raise _Bad("unknown role", f"turn {i} has {role_key} {role!r:.40}")
        content = message.get(text_key)
        if content is None and message.get("tool_calls"):
            content = orjson.dumps(message["tool_calls"]).decode()
        elif isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
            content = "".join(_text(part.get("text"), f"turn {i}: text") for part in content)
        turns.append(Turn(ROLES[role], _text(content, f"turn {i}: {text_key}")))
    return turns


def _parse_alpaca(record: dict[str, Any]) -> list[Turn]:
    instruction, output = _text(record["instruction"], "instruction"), _text(record["output"], "output")
    if record.get("input"):
        instruction += ALPACA_INPUT + _text(record["input"], "input")
    return [Turn("user", instruction), Turn("assistant", output)]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _Bad("wrong type", f"{where} is a {type(value).__name__}, not text")
    if "\0" in value:
        raise _Bad("NUL byte", f"{where} holds a NUL byte")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Bad("invalid Unicode", f"{where} holds half a surrogate pair") from None
    return value


def trim(conversation: Conversation) -> tuple[Conversation | Rejection, int]:
    """Checks the order of the turns: an optional system turn, then user (or tool) and assistant in turn.

    Assistant turns before the first user turn and user turns after the last answer teach nothing
    (there is no question, or no answer); they are cut off. Returns the conversation, or why it
    cannot be used, and how many turns were cut off.
    """
    turns = list(conversation.turns)
    system = [turns.pop(0)] if turns and turns[0].role == "system" else []
    before = len(turns)
    while turns and turns[0].role == "assistant":
        turns.pop(0)
    while turns and turns[-1].role in ("user", "tool"):
        turns.pop()
    cut = before - len(turns)
    if not turns:
        return Rejection(conversation.id, "no answered turn", f"{before} turns, none a question with its answer"), 0
    for i, turn in enumerate(turns):
        if (turn.role == "assistant") != (i % 2 == 1) or turn.role == "system":
            detail = f"turn {i + len(system)} is {turn.role} after {turns[i - 1].role if i else 'the start'}"
            return Rejection(conversation.id, "roles do not alternate", detail), 0
    return replace(conversation, turns=(*system, *turns)), cut


def read(path: str | Path) -> Iterator[Conversation | Rejection]:
    """Reads a file, or all `.json`, `.jsonl` and `.gz` files of a folder, in the order of their names.

    A file cut off mid-record yields every whole record and one `Rejection`.

    Raises:
        DataError: the path does not exist or a folder holds no such file.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in (".json", ".jsonl", ".gz"))
        if not files:
            raise DataError(f"{path}: the folder holds no .json, .jsonl or .gz file")
    elif path.exists():
        files = [path]
    else:
        raise DataError(f"{path}: no such file or folder")
    for file in files:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            for i, record in enumerate(_records(cast("BinaryIO", stream), file.name)):
                yield record if isinstance(record, Rejection) else parse(record, f"{file.name}:{i}")


def _records(stream: BinaryIO, name: str) -> Iterator[Any]:
    head = stream.read(64)
    stream.seek(0)
    if head.startswith(b"\xef\xbb\xbf"):
        stream.seek(3)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield from _array_records(stream, name)
        return
    line_number = 0
    try:
        for line_number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    yield orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    yield Rejection(f"{name}:{line_number}", "broken JSON", f"line {line_number}: {error}")
    except (EOFError, OSError) as error:
        yield Rejection(f"{name}:{line_number + 1}", "file cut off", f"after line {line_number}: {error}")


def _array_records(stream: BinaryIO, name: str) -> Iterator[Any]:
    count = 0
    try:
        for record in ijson.items(stream, "item", use_float=True):
            yield record
            count += 1
    except (ijson.JSONError, EOFError, OSError, UnicodeDecodeError) as error:
        message = str(error).split("\n")[0]
        yield Rejection(f"{name}:{count}", "file cut off", f"after {count} whole records: {message}")


def write_jsonl(conversations: Iterable[Conversation], path: str | Path) -> None:
    """Writes ShareGPT records, one a line: `{"id", "conversations": [{"from", "value"}]}`."""
    with Path(path).open("wb") as stream:
        for c in conversations:
            turns = [{"from": SHAREGPT_ROLES[t.role], "value": t.content} for t in c.turns]
            stream.write(orjson.dumps({"id": c.id, "conversations": turns}) + b"\n")


def is_heldout(id: str, fraction: float) -> bool:
    """Whether a conversation belongs to the held-out set, by the hash of its original id.

    ShareGPT's pieces are named `<original>_<start>`, the original being seven letters and digits; all
    pieces of one original fall on one side, and adding data never moves a conversation.
    """
    original = re.sub(r"^(\w{7})_\d+$", r"\1", id)
    return int.from_bytes(hashlib.sha256(original.encode()).digest()[:8]) < fraction * 2**64
