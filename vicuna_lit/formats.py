"""Files of conversations, in the forms that people have them in → `Conversation`.

Readers stream: memory stays flat however large the file. A record that cannot be used becomes a
`Rejection` that says why; nothing is dropped silently.
"""

import glob
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import orjson

from vicuna_lit.conversation import ALPACA_INPUT, Conversation, DataError, Rejection, Role, Turn
from vicuna_lit.json_values import json_values
from vicuna_lit.paths import locate
from vicuna_lit.trees import Unusable, chatgpt_messages, oasst_messages

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
SUFFIXES = (".json", ".jsonl", ".gz")
_BOM = b"\xef\xbb\xbf"
_LIST_OF_TURNS = re.compile(rb'\[\s*\{\s*"(from|value|role|content)"')

Paths = str | Path | Sequence[str | Path]


def read(path: Paths) -> Iterator[Conversation | Rejection]:
    """Reads files, see `records`; each record becomes a conversation or says why not, see `parse`.

    Raises:
        DataError, MissingPath: there is no such file.
    """
    for id, record in records(path):
        yield record if isinstance(record, Rejection) else parse(record, id)


def records(path: Paths) -> Iterator[tuple[str, Any | Rejection]]:
    """Every record as it stands in the file, named by file and index: `("file.json:12", …)`.

    `path` is a file, a folder (all its `.json`, `.jsonl` and `.gz` files), a pattern such as
    `data/**/*.jsonl`, or several of these; files come in the order of their names. A file may be a JSON
    array, JSON lines, or indented JSON objects. A broken record is one `Rejection`; so is the rest of a
    file cut off.

    Raises:
        DataError: the path does not exist or cannot be read, or a folder or pattern holds no file.
    """
    paths = [path] if isinstance(path, str | Path) else path
    for file, name in [found for one in paths for found in find_files(one)]:
        try:
            stream = gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # noqa: SIM115
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from None
        with stream:
            for i, record in enumerate(_values(cast("BufferedReader", stream))):
                id = f"{name}:{i}"
                yield id, Rejection(id, record.reason, record.detail) if isinstance(record, Unusable) else record


def find_files(path: str | Path) -> list[tuple[Path, str]]:
    """Files with their names: relative to the folder, or to where a pattern begins.

    `package://name/file` lies inside an installed package.
    """
    path = locate(path) if isinstance(path, str) and path.startswith("package://") else Path(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        if not files:
            raise DataError(f"{path}: the folder holds no .json, .jsonl or .gz file; name another folder or a file")
        return [(file, file.relative_to(path).as_posix()) for file in files]
    if path.exists():
        return [(path, path.name)]
    if not glob.has_magic(str(path)):
        raise DataError(f"{path}: no such file or folder")
    matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 (Path.glob gives no files for a last `**`)
    files = sorted(p for p in map(Path, matches) if p.is_file())
    if not files:
        raise DataError(f"{path}: no file matches this pattern; `**` stands for any folders, `*` for part of a name")
    fixed = Path(*path.parts[: [glob.has_magic(part) for part in path.parts].index(True)])
    return [(file, file.relative_to(fixed).as_posix()) for file in files]


def _values(stream: BufferedReader) -> Iterator[Any]:
    count = 0
    try:
        for value in _top_level(stream):
            yield value
            count += 1
    except (EOFError, OSError, ValueError, zlib.error) as error:
        detail = f"after {count} records, the rest of the file is lost: {error}"
        yield Unusable("broken JSON" if isinstance(error, ValueError) else "file cut off", detail)


def _top_level(stream: BufferedReader) -> Iterator[Any]:
    """The records of a file, by how it begins: an array of them, indented objects, or one a line."""
    head = stream.read(256)
    stream.seek(len(_BOM) if head.startswith(_BOM) else 0)
    head = head.removeprefix(_BOM).lstrip()
    if head.startswith(b"[") and not _LIST_OF_TURNS.match(head):
        yield from (_loaded(value, "") for value in json_values(stream, level=1))
    elif head.split(b"\n")[0].strip() in (b"{", b"["):
        yield from (_loaded(value, "") for value in json_values(stream, level=0))
    else:
        yield from (_loaded(line, f"line {n}: ") for n, line in enumerate(stream, 1) if line.strip())


def _loaded(value: bytes, where: str) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        return Unusable("broken JSON", f"{where}{error}")


def parse(record: Any, default_id: str) -> Conversation | Rejection:
    """Reads one record, its form told by its keys.

    ShareGPT (`conversations` or `items`), OpenAI's `messages`, a bare list of turns, Alpaca, a ChatGPT
    export (`mapping`: the branch the user ended on) or an Open-Assistant tree (`prompt`: the best-ranked
    path). A record's `system` and `tools` texts become its system turn; a turn's `weight` 0, as in
    OpenAI's fine-tuning form, takes it out of the loss. Raises nothing.
    """
    if isinstance(record, list) and record and isinstance(record[0], dict) and {"from", "role"} & record[0].keys():
        record = {"messages": record}
    if not isinstance(record, dict):
        return Rejection(default_id, "not an object", f"the record is a {type(record).__name__}")
    ids = (record.get(key) for key in ("id", "conversation_id", "message_tree_id"))
    id = next(
        (str(id).encode(errors="replace").decode() for id in ids if id and isinstance(id, str | int | float)),
        default_id,
    )
    try:
        turns = _turns_of(record)
        system = "\n\n".join(_text(record[key], key) for key in ("system", "tools") if record.get(key))
    except Unusable as bad:
        return Rejection(id, bad.reason, bad.detail)
    if system and turns and turns[0].role != "system":
        turns.insert(0, Turn("system", system))
    return Conversation(id, tuple(turns))


def _turns_of(record: dict[str, Any]) -> list[Turn]:
    for key in ("conversations", "messages", "items"):
        if key in record:
            return _parse_turns(record[key])
    if "mapping" in record:
        return _parse_turns(chatgpt_messages(record))
    if isinstance(record.get("prompt"), dict):
        return _parse_turns(oasst_messages(record))
    if "instruction" in record and "output" in record:
        return _parse_alpaca(record)
    keys = ", ".join(f"{key!r:.40}" for key in list(record)[:8])
    known = "conversations, messages, items, instruction, mapping or prompt with replies"
    raise Unusable("unknown record format", f"keys {keys}; expected {known}")


def _parse_turns(messages: Any) -> list[Turn]:
    if not isinstance(messages, list):
        raise Unusable("wrong type", f"the turns are a {type(messages).__name__}, not a list")
    turns: list[Turn] = []
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise Unusable("wrong type", f"turn {i} is a {type(message).__name__}, not an object")
        role_key, text_key = ("from", "value") if "from" in message else ("role", "content")
        role = message.get(role_key)
        if not isinstance(role, str) or role not in ROLES:
            name = repr(role)[:40] if isinstance(role, str) else f"of type {type(role).__name__}"
            raise Unusable("unknown role", f"turn {i} has {role_key} {name}")
        weight = 1 if message.get("weight") is None else message["weight"]
        if isinstance(weight, bool) or weight not in (0, 1):
            raise Unusable("wrong type", f"turn {i}: weight is neither 0 nor 1")
        text = _content(message, f"turn {i}: {text_key}", text_key)
        turns.append(Turn(ROLES[role], text, weight == 1))
    return turns


def _content(message: dict[str, Any], where: str, text_key: str) -> str:
    content = message.get(text_key)
    if content is None and message.get("tool_calls"):
        try:
            content = orjson.dumps(message["tool_calls"]).decode()
        except orjson.JSONEncodeError as error:
            raise Unusable("wrong type", f"{where}: tool_calls: {error}") from None
    elif isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        content = "".join(_text(part.get("text"), where) for part in content)
    return _text(content, where)


def _parse_alpaca(record: dict[str, Any]) -> list[Turn]:
    instruction, output = _text(record["instruction"], "instruction"), _text(record["output"], "output")
    if record.get("input"):
        instruction += ALPACA_INPUT + _text(record["input"], "input")
    return [Turn("user", instruction), Turn("assistant", output)]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise Unusable("wrong type", f"{where} is a {type(value).__name__}, not text")
    if "\0" in value:
        raise Unusable("NUL byte", f"{where} holds a NUL byte")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unusable("invalid Unicode", f"{where} holds half a surrogate pair") from None
    return value
