"""Files of conversations, in the forms that people have them in → `Conversation`.

Readers stream: memory stays flat however large the file. A record that cannot be used becomes a
`Rejection` that says why; nothing is dropped silently.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vicuna_lit.data.app_exports import app_messages, is_claude
from vicuna_lit.data.conversation import ALPACA_INPUT, SOURCE, Conversation, DataError, Rejection, Turn, said_by_user
from vicuna_lit.data.exports import Unusable, chatgpt_messages, oasst_messages, without_marks
from vicuna_lit.data.files import find_files, skipped_files, values
from vicuna_lit.data.messages import (
    REASONING,
    filled,
    is_absent,
    present,
    refuse_media,
    schemas,
    system_of,
    text,
    turns_of,
    weight_of,
)
from vicuna_lit.hub import fetched_path

SYSTEM = ("system", "system_prompt", "systemInstruction", "system_instruction")
"""Keys of a record that may hold its system prompt."""
Paths = str | Path | Sequence[str | Path]


def read(
    path: Paths, score_field: str | None = None, from_source: str | None = None
) -> Iterator[Conversation | Rejection]:
    """Reads files, see `records`; each record becomes a conversation or says why not, see `parse`.

    The files of a folder or pattern that are not read come last, each as a `Rejection`.

    Args:
        path: files, folders, patterns, or names on the Hub.
        score_field: key of a number that becomes the conversation's score; None: there is none.
        from_source: of records that are objects, those alone that `vicuna-prepare` wrote of this source; None: all.

    Raises:
        DataError, MissingPath: there is no such file, or a conversation has no such number.
    """
    path = [fetched_path(one, "dataset") for one in _several(path)]
    for id, record in records(path):
        if from_source is not None and isinstance(record, dict) and record.get(SOURCE) != from_source:
            continue
        found = record if isinstance(record, Rejection) else parse(record, id)
        if score_field is not None and isinstance(found, Conversation):
            found = replace(found, score=_score(record, score_field, id))
        yield found
    yield from skipped(path)


def _score(record: Any, key: str, id: str) -> float:
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    said = f"{value!r:.60} is no number" if value is not None else "is missing"
    raise DataError(f"record {id}: {key} {said}; data.score_field={key} names a number that each record has")


def skipped(path: Paths) -> list[Rejection]:
    """The files of folders and patterns that are not read, each with the reason."""
    return [rejection for one in _several(path) for rejection in skipped_files(one)]


def records(path: Paths) -> Iterator[tuple[str, Any | Rejection]]:
    """Every record as it stands in the file, named by file and number, from 1: `("file.json:12", …)` is the twelfth.

    In a file of JSON lines without empty ones that is its line.

    `path` is a file, a folder (all its files of data: JSON, JSON lines, Parquet, compressed or not), a pattern
    such as `data/**/*.jsonl`, or several of these; files come in the order of their names. A file may be a JSON
    array, JSON lines, or indented JSON objects. A broken record is one `Rejection`; so is the rest of a
    file cut off.

    Raises:
        DataError: the path does not exist or cannot be read, or a folder or pattern holds no file.
    """
    for file, name in [found for one in _several(path) for found in find_files(one)]:
        for number, record in enumerate(values(file), 1):
            id = f"{name}:{number}"
            yield id, Rejection(id, record.reason, record.detail) if isinstance(record, Unusable) else record


def _several(path: Paths) -> Sequence[str | Path]:
    return [path] if isinstance(path, str | Path) else path


def parse(record: Any, default_id: str) -> Conversation | Rejection:
    """Reads one record, its form told by its keys; null keys are absent.

    ShareGPT (`conversations`, `conversation` or `items`), OpenAI's `messages`, a bare list of turns, Alpaca
    with its `history`, prompt and completion, the exports of ChatGPT (`mapping`), Claude (`chat_messages`) and
    Open WebUI (`chat.history`), of which the branch that the user ended on is read, or an
    Open-Assistant tree (`prompt`: the best-ranked path). A record's `system` becomes its system turn, `tools` and
    `functions` its schemas; flags such as a turn's `weight` say how much it counts in the loss. Raises nothing.
    """
    if isinstance(record, list) and record and isinstance(record[0], dict) and {"from", "role"} & record[0].keys():
        record = {"messages": record}
    if not isinstance(record, dict):
        return Rejection(default_id, "not an object", f"the record is a {type(record).__name__}")
    names = ("uuid",) if is_claude(record) else ("id", "conversation_id", "message_tree_id")
    ids = (record.get(key) for key in names)
    wanted = (id for id in ids if isinstance(id, str | int | float) and not is_absent(id) and id != "")
    id = next((str(id).encode(errors="replace").decode() for id in wanted), None)
    try:
        conversation = _conversation(record, id or default_id)
        return conversation if id else replace(conversation, said=said_by_user(conversation))
    except Unusable as bad:
        return Rejection(id or default_id, bad.reason, bad.detail)


def _conversation(record: dict[str, Any], id: str) -> Conversation:
    refuse_media(record, "the record")
    _refuse_preferences(record)
    record = _with_template_arguments(record)
    turns, marks = _turns_of(record), 0
    if present(record, "mapping"):
        turns, marks = _unmarked(turns)
    weight = weight_of({"weight": record.get("weight")}, "the record")
    if weight == 0:
        turns = [replace(turn, supervised=False) for turn in turns]
    elif weight != 1:
        trained = [turn.role == "assistant" and turn.supervised for turn in turns]
        turns = [replace(t, weight=t.weight * weight) if on else t for t, on in zip(turns, trained, strict=True)]
    tools, described = schemas(record)
    key = filled(record, *SYSTEM)
    said = system_of(record[key], key) if key else ""
    if said and turns and turns[0].role == "system" and said.strip() not in turns[0].content:
        raise Unusable("two system prompts", f"{key}, and another one in the first turn")
    system = "\n\n".join(filter(None, (said, described)))
    if system and (not turns or turns[0].role != "system"):
        turns.insert(0, Turn("system", system))
    elif described and described not in turns[0].content:
        turns[0] = replace(turns[0], content=f"{turns[0].content}\n\n{described}")
    if tools and turns and turns[0].role == "system" and "<tools>" in turns[0].content:
        tools = ""  # the system prompt has them already, as in Hermes' sets
    return Conversation(id, tuple(turns), tools, marks)


def _unmarked(turns: list[Turn]) -> tuple[list[Turn], int]:
    cleaned = [without_marks(turn.content) if turn.role == "assistant" else (turn.content, 0) for turn in turns]
    pairs = zip(turns, cleaned, strict=True)
    return [replace(turn, content=content) for turn, (content, _) in pairs], sum(n for _, n in cleaned)


def _with_template_arguments(record: dict[str, Any]) -> dict[str, Any]:
    """SmolTalk2's: what a template would be called with beside the messages, as the record's own system and tools."""
    given = record.get("chat_template_kwargs")
    if not isinstance(given, dict):
        return record
    own = {key: value for key, value in record.items() if not is_absent(value)}
    for tools in ("tools", "xml_tools", "python_tools") if filled(record, "tools") is None else ():
        if filled(given, tools) is None:
            continue
        values = given[tools] if isinstance(given[tools], list) else [given[tools]]
        try:
            read = [json.loads(tool) if isinstance(tool, str) else tool for tool in values]
        except (ValueError, RecursionError):
            raise Unusable("wrong type", f"chat_template_kwargs.{tools}: a tool that is no JSON") from None
        own["tools"] = [*(own.get("tools") or ()), *read]
    if (instructions := filled(given, "custom_instructions")) and filled(record, *SYSTEM) is None:
        own["system"] = given[instructions]
    return own


def _refuse_preferences(record: dict[str, Any]) -> None:
    if present(record, "chosen") and present(record, "rejected"):
        raise Unusable("pair of answers", "chosen and rejected: a preference, not a conversation to imitate")
    if key := filled(record, "rejected_response", "rejected_messages", "non_preferred_output"):
        raise Unusable("pair of answers", f"{key}: a preference, not a conversation to imitate")
    if filled(record, "documents"):
        raise Unusable("documents beside the turns", "documents: the answer is drawn from what is in no turn")
    for key in ("label", "kto_tag"):
        if record.get(key) is False:
            raise Unusable("bad answer", f"{key} is false: an answer that is not to be imitated")


def _turns_of(record: dict[str, Any]) -> list[Turn]:
    if (messages := app_messages(record)) is not None:
        return turns_of(messages)
    if key := present(record, "conversations", "messages", "items", "conversation", "contents"):
        return turns_of(record[key])
    if present(record, "mapping"):
        return turns_of(chatgpt_messages(record))
    if isinstance(record.get("prompt"), dict):
        return turns_of(oasst_messages(record))
    if present(record, "instruction") and present(record, "output"):
        return _history(record) + _answered(record, _parse_alpaca(record))
    answer = present(record, "completion", "response")
    if present(record, "prompt") and answer:
        return _answered(record, [*_side(record, "prompt", "user"), *_side(record, answer, "assistant")])
    keys = ", ".join(f"{key!r:.40}" for key in list(record)[:8])
    known = "conversations, messages, items, instruction, prompt with completion, mapping or prompt with replies"
    raise Unusable("unknown record format", f"keys {keys}; expected {known}")


def _answered(record: dict[str, Any], turns: list[Turn]) -> list[Turn]:
    """A question and its answer, with the reasoning that a column of its own holds.

    Raises:
        Unusable: a column holds what the question is about.
    """
    if isinstance(record.get("context"), str) and record["context"].strip():
        raise Unusable("context beside the question", "context: put it into the question, or into input")
    if turns and (key := filled(record, *REASONING)):
        turns[-1] = replace(turns[-1], reasoning=text(record[key], key))
    return turns


def _side(record: dict[str, Any], key: str, role: str) -> list[Turn]:
    value = record[key]
    return turns_of(value) if isinstance(value, list) else turns_of([{"role": role, "content": text(value, key)}])


def _history(record: dict[str, Any]) -> list[Turn]:
    """LLaMA-Factory's: pairs of a question and its answer, in front of the instruction."""
    history = record.get("history")
    if is_absent(history) or history == "":
        return []
    if not isinstance(history, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
        raise Unusable("wrong type", "history is no list of pairs, each a question and its answer")
    turns: list[Turn] = []
    for number, (question, answer) in enumerate(history, 1):
        where = f"history {number}"
        turns += [Turn("user", text(question, where)), Turn("assistant", text(answer, where))]
    return turns


def _parse_alpaca(record: dict[str, Any]) -> list[Turn]:
    instruction, output = text(record["instruction"], "instruction"), text(record["output"], "output")
    if record.get("input"):
        instruction += ALPACA_INPUT + text(record["input"], "input")
    return [Turn("user", instruction), Turn("assistant", output)]
