"""Files of conversations, in the forms that people have them in → `Conversation`.

Readers stream: memory stays flat however large the file. A record that cannot be used becomes a
`Rejection` that says why; nothing is dropped silently.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vicuna_lit.hub import fetched_path
from vicuna_lit.records.agent_logs import sessions_in
from vicuna_lit.records.app_exports import app_messages, conversations_in, is_claude
from vicuna_lit.records.column_values import answer_messages, as_messages, refuse_served_cut_off, refuse_transcript
from vicuna_lit.records.columns import (
    NO_FORM,
    PROMPTS,
    SYSTEM,
    Columns,
    by_columns,
    columns_line,
    form_of,
    systems_in,
    unknown,
)
from vicuna_lit.records.conversation import SOURCE, Conversation, DataError, Rejection, Turn, said_by_user
from vicuna_lit.records.exports import Unusable, chatgpt_messages, kind_of, oasst_messages, without_marks
from vicuna_lit.records.field_names import REASONING, contexts_in, refuse_by_flags, snake
from vicuna_lit.records.fields import filled, is_absent, loaded, present, text
from vicuna_lit.records.files import find_files, name_said, skipped_files, values
from vicuna_lit.records.message_forms import refuse_cut_off
from vicuna_lit.records.messages import refuse_media, system_of, turns_of, weight_of
from vicuna_lit.records.record_tools import refuse_other_tools, with_tools
from vicuna_lit.records.span_attributes import with_span
from vicuna_lit.records.tool_schemas import schemas
from vicuna_lit.records.transcripts import with_transcript

TURNS = ("conversations", "messages", "items", "conversation", "messagesTree")
"""Keys of a record that may hold its turns as a list."""
LEAVES = ("currentId", "current_node", "currentNode", "current_leaf_message_uuid", "leafId", "currentMessageId")
"""Keys of a record that may name the message that the user ended on."""
Paths = str | Path | Sequence[str | Path]
_SWITCHES = frozenset((
    "on", "off", "true", "false", "yes", "no", "enabled", "disabled", "auto", "adaptive", "default",
    "none", "minimal", "low", "medium", "high", "xhigh", "max",
))  # fmt: skip
"""Settings of a server for how much is thought."""
_BESIDE = frozenset((*REASONING, "output", "response", "choices", "completion", "candidates"))
"""Columns beside the turns that may say something of the last reply."""


def read(
    path: Paths, score_field: str | None = None, from_source: str | None = None, columns: Columns = None
) -> Iterator[Conversation | Rejection]:
    """Reads files, see `records`; each record becomes a conversation or says why not, see `parse`.

    The files of a folder or pattern that are not read come last, each as a `Rejection`.

    Args:
        path: files, folders, patterns, or names on the Hub.
        score_field: key of a number that becomes the conversation's score; None: there is none.
        from_source: of records that are objects, those alone that `vicuna-prepare` wrote of this source; None: all.
        columns: which column of a record is what, as `data.columns`; None: its keys say it.

    Raises:
        DataError, MissingPath: there is no such file, or a conversation has no such number.
    """
    path = [fetched_path(one, "dataset") for one in _several(path)]
    for id, record in records(path):
        if from_source is not None and isinstance(record, dict) and record.get(SOURCE) != from_source:
            continue
        found = record if isinstance(record, Rejection) else parse(record, id, columns)
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
    array, JSON lines, or indented JSON objects, or an object that holds them (`conversations_in`). A broken record is
    one `Rejection`; so is the rest of a file cut off.

    Raises:
        DataError: the path does not exist or cannot be read, or a folder or pattern holds no file.
    """
    for file, name in [found for one in _several(path) for found in find_files(one)]:
        for number, record in enumerate(
            (one for value in sessions_in(values(file)) for one in conversations_in(value)), 1
        ):
            id = f"{name_said(file, name)}:{number}"
            yield id, Rejection(id, record.reason, record.detail) if isinstance(record, Unusable) else record


def _several(path: Paths) -> Sequence[str | Path]:
    return [path] if isinstance(path, str | Path) else path


def parse(record: Any, default_id: str, columns: Columns = None) -> Conversation | Rejection:
    """Reads one record, its form told by its keys; null keys are absent.

    ShareGPT (`conversations`, `conversation` or `items`), OpenAI's `messages`, a bare list of turns, the columns of
    `FORMS` (Alpaca's among them) behind their `history`, the exports of applications (ChatGPT, Claude, Open WebUI, …),
    of which the branch that the user ended on is read, or an Open-Assistant tree (`prompt`: the best-ranked path). A
    record's `system` becomes its system turn, `tools` and `functions` its schemas; flags such as a turn's `weight` say
    how much it counts in the loss. Raises nothing.

    Args:
        columns: which column is what; None: the keys say it.
    """
    if isinstance(record, list) and record and all(isinstance(message, dict) for message in record):
        record = {"messages": record}
    if not isinstance(record, dict):
        return Rejection(default_id, "not an object", f"the record is {kind_of(record)}")
    names = ("uuid",) if is_claude(record) else ("id", "conversation_id", "message_tree_id")
    ids = (record.get(key) for key in (*names, "conversationId"))
    named = (id for id in ids if isinstance(id, str | int | float) and not isinstance(id, bool))
    wanted = (id for id in named if not is_absent(id) and id != "")
    id = next((str(id).encode(errors="replace").decode() for id in wanted), None)
    try:
        conversation = _conversation(by_columns(record, columns) if columns else record, id or default_id)
        return conversation if id else replace(conversation, said=said_by_user(conversation))
    except Unusable as bad:
        return Rejection(id or default_id, bad.reason, bad.detail)


def _conversation(record: dict[str, Any], id: str) -> Conversation:
    record = with_span(record)
    refuse_media(record, "the record")
    _refuse_preferences(record)
    refuse_cut_off(record, "the record", *(("status",) if record.get("object") == "response" else ()))
    record = with_transcript(record) if "chat" in record or "plain_text" in record else record
    record = with_tools(record, present(record, *TURNS))
    if isinstance(record.get("output"), list) and isinstance(record.get("instructions"), str):  # the Responses API's
        record = record | {"system": record.get("system") or record["instructions"], "instructions": None}
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
    if not (tools or described):
        refuse_other_tools(record, present(record, *TURNS))
    said = _system_of(record, turns)
    system = "\n\n".join(filter(None, (said, described)))
    if system and (not turns or turns[0].role != "system"):
        turns.insert(0, Turn("system", system))
    elif described and described not in turns[0].content:
        turns[0] = replace(turns[0], content=f"{turns[0].content}\n\n{described}")
    if tools and turns and turns[0].role == "system" and "<tools>" in turns[0].content:
        tools = ""  # the system prompt has them already, as in Hermes' sets
    return Conversation(id, tuple(turns), tools, marks)


def _system_of(record: dict[str, Any], turns: list[Turn]) -> str:
    """The system prompt that stands beside the turns; an empty one among them makes way for it.

    Raises:
        Unusable: there are two, or it is in an object of settings, where it may be another chat's.
    """
    found = {key: system_of(record[key], key) for key in systems_in(tuple(record)) if filled(record, key)}
    own = turns[0].content if turns and turns[0].role == "system" else ""
    keys = list(found)
    if len({said.strip() for said in found.values()}) > 1:
        raise Unusable("two system prompts", f"{keys[0]} and {keys[1]} differ; keep one of them")
    said = found[keys[0]] if keys else ""
    if own and said and said.strip() not in own:
        raise Unusable("two system prompts", f"{keys[0]}, and another one in the first turn")
    if said and not own and turns and turns[0].role == "system":
        turns.pop(0)
    key = present(record, *TURNS)
    for name, settings in record.items() if key and isinstance(record[key], list) and not said else ():
        for inner, value in settings.items() if isinstance(settings, dict) else ():
            if snake(inner) in SYSTEM and isinstance(value, str) and value.strip() and value.strip() not in own:
                line = columns_line(record, {"messages": f"{key}", "system": f"{name}.{inner}"})
                raise Unusable(
                    "system prompt beside the turns", f"{name}.{inner}; {line} takes it, without system it is left out"
                )
    return said


def _unmarked(turns: list[Turn]) -> tuple[list[Turn], int]:
    cleaned = [without_marks(turn.content) if turn.role == "assistant" else (turn.content, 0) for turn in turns]
    pairs = zip(turns, cleaned, strict=True)
    return [replace(turn, content=content) for turn, (content, _) in pairs], sum(n for _, n in cleaned)


def _refuse_preferences(record: dict[str, Any]) -> None:
    kinds = (str, list, dict)
    if pair := [
        key for key in ("chosen", "rejected", "corrected") if record.get(key) and isinstance(record[key], kinds)
    ]:
        why = "a preference, not a conversation to imitate"
        raise Unusable("pair of answers", f"{' and '.join(pair)}: {why}{_chosen_line(record)}")
    if key := filled(record, "rejected_response", "rejected_messages", "non_preferred_output"):
        raise Unusable("pair of answers", f"{key}: a preference, not a conversation to imitate")
    if filled(record, "documents"):
        way = "put them into a turn; data.columns, which names the turns, leaves them out"
        raise Unusable("documents beside the turns", f"documents are in no turn: {way}")
    refuse_by_flags(record)


def _chosen_line(record: dict[str, Any]) -> str:
    """How the better one of two answers is trained on, where the record says which that is."""
    if not present(record, "chosen"):
        return ""
    prompt = present(record, *PROMPTS)
    if isinstance(record["chosen"], list) and len(record["chosen"]) > 1:
        roles = {"messages": "chosen"}
    elif key := present(record, *TURNS):
        roles = {"messages": key, "response": "chosen"}
    elif prompt:
        roles = {"prompt": prompt, "response": "chosen"}
    else:
        return ""
    return f"; {columns_line(record, roles)} trains on the chosen one"


def _turns_of(record: dict[str, Any]) -> list[Turn]:
    if (messages := _exported(record)) is not None:
        return turns_of(messages)
    if key := filled(record, *TURNS, "contents"):
        return _listed(record, key)
    # Columns of a merged set may be empty, and not null, where a record has others.
    said = {key: value for key, value in record.items() if filled(record, key)}
    for told in (said, record) if len(said) < len(record) else (record,):
        if (turns := _of_columns(told)) is not None:
            return turns
    if key := present(record, *TURNS, "contents"):
        return _listed(record, key)
    raise unknown(record, "conversations, messages, instruction, prompt with completion, or an export of docs/data.md")


def _of_columns(record: dict[str, Any]) -> list[Turn] | None:
    """The turns of a record whose columns say its form; None: they say none."""
    if form := form_of(record):
        return _history(record) + _answered(record, turns_of(by_columns(record, form)["messages"]), form)
    lists = (as_messages(record.get(key)) for key in ("data", "internal"))  # UltraChat's, text-generation-webui's
    messages = next((found for found in lists if isinstance(found, list) and found), None)
    return None if messages is None else turns_of(messages)


def _exported(record: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The messages of a tree or of an application's export; None: it is none."""
    if (messages := app_messages(record)) is not None or present(record, *TURNS):
        return messages
    if present(record, "mapping"):
        return chatgpt_messages(record)
    if isinstance(record.get("prompt"), dict):
        return oasst_messages(record)
    return None


def _listed(record: dict[str, Any], key: str) -> list[Turn]:
    """The turns of a list, with the last reply where it stands beside them.

    Raises:
        Unusable: two lists differ, there is more beside them than a reply, or several things may be it.
    """
    leaf = filled(record, *LEAVES)
    turns = turns_of(as_messages(loaded(record[key], list) or record[key]), record[leaf] if leaf else None)
    others = (other for other in TURNS if other not in (key, "items") and isinstance(record.get(other), list))
    if other := next((other for other in others if _is_another(record[other], turns)), None):
        why = f"{columns_line(record, {'messages': other})} takes one of them"
        raise Unusable("two lists of turns", f"{key} and {other} differ; {why}")
    for beside in contexts_in(tuple(record)):
        held = record[beside] if isinstance(record[beside], list) else [record[beside]]
        texts = [
            one.strip() if isinstance(one, str) else None for one in held if one and isinstance(one, str | list | dict)
        ]
        if not all(one is not None and any(one in turn.content for turn in turns) for one in texts):
            line = columns_line(record, {"messages": key})
            raise Unusable(
                "context beside the turns", f"{beside}: put it into a turn, or into system; {line} leaves it out"
            )
    if isinstance(record.get("history"), list) and record["history"]:
        raise Unusable("context beside the turns", f"history: put its turns into {key}, or take it out")
    if not turns or turns[-1].role not in ("user", "tool"):
        if not _BESIDE.isdisjoint(record):
            _refuse_beside(record, key, turns)
        return turns
    if reply := filled(record, "choices", "response", "completion", "candidates"):
        return _answered(record, turns + turns_of(answer_messages(record[reply], reply)))
    if reply := filled(record, "answer", "output", "solution", "target", "reply"):
        line = columns_line(record, {"messages": key, "response": reply})
        raise Unusable("answer beside the turns", f"{reply}; {line} takes it for the last reply")
    return turns


def _refuse_beside(record: dict[str, Any], turns_key: str, turns: list[Turn]) -> None:
    """
    Raises:
        Unusable: a column holds another reply, or a thought that no reply has, or says that the last one was cut off.
    """
    for beside in ("output", "response"):
        refuse_served_cut_off(record.get(beside), beside)
    if (reply := filled(record, "choices", "response", "completion", "candidates")) and _is_other(record, reply, turns):
        line = columns_line(record, {"messages": turns_key})
        raise Unusable("several answers", f"the last turn, and {reply}; {line} leaves {reply} out")
    key = filled(record, *REASONING)
    if key is None or not isinstance(record[key], str | list) or _is_switch(record[key]):
        return
    if not any(str(record[key]).strip() in said for turn in turns for said in (turn.reasoning, turn.content)):
        line = columns_line(record, {"messages": turns_key})
        raise Unusable("reasoning beside the turns", f"{key}: put it into its turn; {line} leaves it out")


def _is_other(record: dict[str, Any], reply: str, turns: list[Turn]) -> bool:
    """Whether a column holds one reply, and another one than the last turn."""
    try:
        said = turns_of(answer_messages(record[reply], reply))[-1].content.strip()
    except Unusable:
        return False
    last = turns[-1].content.strip()
    return said not in last and last not in said


def _is_another(messages: list[Any], turns: list[Turn]) -> bool:
    """Whether a list holds turns too, and others."""
    try:
        others = turns_of(as_messages(messages))
    except Unusable:
        return False
    return bool(others) and [(t.role, t.content) for t in others] != [(t.role, t.content) for t in turns]


def _answered(record: dict[str, Any], turns: list[Turn], form: Mapping[str, str] = NO_FORM) -> list[Turn]:
    """A question and its answer, with the reasoning that a column of its own holds."""
    for turn in turns:
        if turn.role == "user":
            refuse_transcript(turn.content)
    key = filled(record, *REASONING)
    if turns and key and "reasoning" not in form and not _is_switch(record[key]):
        turns[-1] = replace(turns[-1], reasoning=text(record[key], key))
    return turns


def _is_switch(value: Any) -> bool:
    """Whether a column says that there is reasoning, as Nemotron's do, and not what was thought."""
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in _SWITCHES)


def _history(record: dict[str, Any]) -> list[Turn]:
    """ChatGLM's and LLaMA-Factory's: pairs of a question and its answer, or messages, in front of the question."""
    if not filled(record, "history"):
        return []
    try:
        return turns_of(as_messages(record["history"]))
    except Unusable as bad:
        raise Unusable(
            bad.reason, f"history is no list of pairs, each a question and its answer: {bad.detail}"
        ) from None
