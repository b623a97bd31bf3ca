"""Records that keep question and answer in columns of their own, and other lists of turns than messages → messages.

Sets in use are told by the names of their columns (`FORMS`); of others the user says them (`data.columns`). Which of
several answers is trained on is never guessed.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from vicuna_lit.records.column_values import answer_messages, as_messages, is_message, refuse_transcript, served_key
from vicuna_lit.records.conversation import ALPACA_INPUT
from vicuna_lit.records.exports import Unusable, typed
from vicuna_lit.records.field_names import BAD, REASONING, answers_in, media_in, snake, thoughts_in
from vicuna_lit.records.fields import filled, is_absent, loaded, present, text
from vicuna_lit.records.tool_schemas import TOOLS

Columns = Mapping[Any, str] | None
"""As `data.columns`; None: the record's keys say what it is."""
NO_FORM: Mapping[str, str] = {}
FORMS: tuple[dict[str, str], ...] = (
    {"prompt": "instruction", "context": "input", "response": "output"},
    {"prompt": "instruction", "response": "output"},
    {"prompt": "prompt", "response": "completion"},
    {"prompt": "prompt", "response": "response"},
    {"prompt": "instruction", "context": "context", "response": "response"},
    {"prompt": "instruction", "context": "input", "response": "response"},
    {"prompt": "instruction", "response": "response"},
    {"prompt": "question", "response": "response"},
    {"prompt": "query", "response": "response"},
    {"prompt": "query", "calls": "answers", "tools": "tools"},
    {"prompt": "question", "response": "generated_solution"},
    {"prompt": "question", "response": "answer"},
    {"prompt": "problem", "response": "generated_solution"},
    {"prompt": "problem", "response": "solution"},
    {"prompt": "Question", "reasoning": "Complex_CoT", "response": "Response"},
    {"prompt": "inputs_pretokenized", "response": "targets_pretokenized"},
    {"prompt": "definition", "context": "inputs", "response": "targets"},
    {"prompt": "inputs", "response": "targets"},
    {"prompt": "input", "response": "output"},
    {"prompt": "input", "response": "target"},
    {"prompt": "input_text", "response": "output_text"},
    {"prompt": "message_1", "response": "message_2"},
)
"""The columns of sets in use; the first whose columns a record has all is its form."""
PROMPTS = ("prompt", "question", "query", "problem", "instruction", "inputs", "input")
ANSWERS = (
    "response", "answer", "output", "completion", "solution", "target", "targets", "generated_solution", "answers",
    "responses", "outputs", "completions", "generations", "attempt", "chosen", "rejected", "corrected",
)  # fmt: skip
"""A record with two of them has two answers, and a form that names one of them says too little."""
_REPLIES = re.compile("answer|reply|response|output|completion|target|solution|assistant|bot", re.IGNORECASE)
_NO_TEXT = ("id", "source", "lang", "language", "model", "category", "split", "date", "system", "role", "text", "chat")
BESIDE = (
    "context", "contexts", "passage", "article", "paragraph", "paragraphs", "story", "premise", "knowledge",
    "background", "evidence", "document", "documents", "table", "schema", "starter_code", "choices", "options",
    "definition", "suffix", "hint", "instructions", "text",
)  # fmt: skip
"""What a question is about, where it is no part of the form."""
_CHOICE = re.compile(r"(?:option|choice|opt|op)?[ _]?[a-e]|(?:option|choice|opt)[ _]?\d", re.IGNORECASE)
"""Columns of which each holds one of the answers to choose from."""
ONE_MESSAGE = (
    {"role", "content"}, {"from", "value"}, {"is_user", "mes"}, {"message_id", "parent_id", "text"},
    {"uuid", "parentUuid"}, {"type", "payload"}, {"type", "data"}, {"sender", "text"}, {"sender", "message"},
    {"message_id", "text"}, {"messageId", "text"}, {"type", "content"},
)  # fmt: skip
"""Keys of files that hold one message in each record."""
_NAMED = (
    ({"header", "title", "products"},
     "an exchange of My Activity, out of a conversation that it does not name: what was said before is in no record"),
    ({"sessionId", "messageId", "message"}, "questions without their answers; read Gemini CLI's chats/session-*.json"),
    ({"type", "session_id"}, "an event of a run without its prompt; read Claude Code's ~/.claude/projects/*/*.jsonl"),
    ({"type", "item"}, "an event of a run without its prompt; read Codex's ~/.codex/sessions/**/*.jsonl"),
)  # fmt: skip
"""Keys of records that are known, cannot be read, and what to do."""
SYSTEM = (
    "system", "system_prompt", "system_message", "system_instruction", "system_instructions", "meta_instruction",
    "preprompt", "pre_prompt", "preamble", "prompt_prefix", "sys_prompt", "sysprompt", "custom_instructions",
    "developer_prompt", "developer_message", "developer_instructions",
)  # fmt: skip
"""Keys of a record that may hold its system prompt, also in camelCase."""
KEPT = ("id", "conversation_id", "message_tree_id", "weight", *BAD)


@lru_cache(maxsize=1024)
def systems_in(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Those keys of a record that its system prompt may stand in."""
    return tuple(key for key in keys if snake(key) in SYSTEM)


def form_of(record: dict[str, Any]) -> dict[str, str] | None:
    """The columns of a set in use; None: it is of none.

    Raises:
        Unusable: the record has a second question or answer, or what its question is about in a column besides.
    """
    form = next((form for form in FORMS if present_all(record, form)), None)
    if form is not None and isinstance(record[form["prompt"]], dict):
        return None  # a trace, whose messages lie deeper
    if form is not None:
        _refuse_more(record, form)
    return form


def _refuse_more(record: dict[str, Any], form: dict[str, str]) -> None:
    """What a form has no place for is not left out without a word."""
    own = set(form.values())
    said = record[form["response"]] if "response" in form else None
    keys = tuple(record)
    besides = answers_in(keys)
    if more := [
        key
        for key in ((*ANSWERS, *besides) if besides else ANSWERS)
        if key not in own and _is_said(record.get(key)) and record[key] != said
    ]:
        raise Unusable("several answers", f"{', '.join((*own & set(ANSWERS), *more))}; {ready_line(record, form)}")
    asked = record[form["prompt"]]
    more = [key for key in PROMPTS if key not in own and _is_said(record.get(key)) and _adds(record, key, asked)]
    if more:
        raise Unusable("several questions", f"{form['prompt']}, {', '.join(more)}; {_joining(record, form, more[0])}")
    besides_it = (k for k in BESIDE if k not in own and filled(record, k) and record[k] != said)
    if beside := next((k for k in besides_it if _adds(record, k, asked)), None):
        if "context" not in form and isinstance(asked, str) and isinstance(record[beside], str):
            line = columns_line(record, {"prompt": form["prompt"], "context": beside} | form)
            raise Unusable("context beside the question", f"{beside}; {line} reads it, without context it is left out")
        raise Unusable("context beside the question", f"{beside}: {_in_or_out(record, form)}")
    for key in thoughts_in(keys):
        thought = record[key]
        is_more = isinstance(thought, str | list) and thought and not (isinstance(said, str) and str(thought) in said)
        if key not in own and key not in REASONING and is_more:
            line = columns_line(record, {"prompt": form["prompt"], "reasoning": key} | form)
            why = f"{line} reads it, without reasoning it is left out"
            raise Unusable("reasoning beside the answer", f"{key}; {why}")
    choices = [key for key in record if _CHOICE.fullmatch(str(key)) and filled(record, key)]
    if len(choices) > 1:
        raise Unusable("context beside the question", f"{', '.join(choices)}: {_in_or_out(record, form)}")


def _in_or_out(record: dict[str, Any], form: Mapping[str, str]) -> str:
    return f"put it into the question; {columns_line(record, form)} leaves it out"


def _adds(record: dict[str, Any], key: str, asked: Any) -> bool:
    """Whether a column says more than the question does; `prompt` may be the question in its template (Alpaca's)."""
    value = record[key]
    if not isinstance(value, str) or not isinstance(asked, str):
        return True
    templated = key in ("prompt", "text") and asked.strip() != "" and asked.strip() in value
    return bool(value.strip()) and value.strip() not in asked and not templated


def _joining(record: dict[str, Any], form: dict[str, str], other: str) -> str:
    """How two columns become one question; what an instruction is about stands behind it."""
    first, second = sorted((form["prompt"], other), key=lambda name: name != "instruction")
    roles = form | ({"system": other} if "context" in form else {"prompt": first, "context": second})
    return f"{columns_line(record, roles)} reads both"


def columns_line(record: dict[str, Any], roles: Mapping[str, str]) -> str:
    """`data.columns` with these roles, and with the record's system prompt and tools, which would be left out else."""
    own, besides = {"system": SYSTEM, "tools": TOOLS}, {}
    held, path, steps = record, "", roles.get("messages", "").split(".")
    for step in steps:  # also of the request that the messages stand in
        for role, names in own.items():
            besides.update((role, f"{path}{key}") for key in held if snake(key) in names and filled(held, key))
        held, path = held.get(step), f"{path}{step}."
        if not isinstance(held, dict):
            break
    named = {**roles, **besides, **roles}  # in the order of the roles
    return f"data.columns='{{{', '.join(f'{role}: {name}' for role, name in named.items())}}}'"


def present_all(record: dict[str, Any], form: Mapping[str, str]) -> bool:
    """Whether the record has all columns of a form, with something in them."""
    return all(present(record, name) for name in form.values())


def _is_said(value: Any) -> bool:
    """Whether a column may be an answer: no number, no flag, no ids of tokens."""
    return bool(value) and (
        isinstance(value, str | dict) or (isinstance(value, list) and not isinstance(value[0], int))
    )


def ready_line(record: dict[str, Any], form: Mapping[str, str] = NO_FORM) -> str:
    """What the user may give, by the names in the record; first by those of its form."""
    by_small = {
        str(key).lower(): str(key)
        for key, value in record.items()
        if not is_absent(value) and not isinstance(value, dict)
    }
    prompt = form.get("prompt") or next((by_small[name] for name in PROMPTS if name in by_small), None)
    answers = [by_small[name] for name in ANSWERS if name in by_small]
    answers.sort(key=lambda name: name != form.get("response"))
    if prompt is None or not answers:
        return _line_of_messages(record) or _line_of_two(record)
    texts = (by_small[name] for name in BESIDE if name in by_small and isinstance(record[by_small[name]], str))
    about = form.get("context") or next(texts, None)
    first, *others = [f"{name}.0" if _are_texts(record[name]) else name for name in answers]
    roles = {"prompt": prompt, **({"context": about} if about else {}), "response": first}
    return f"{columns_line(record, roles)} reads it{_or_with(others)}"


def _are_texts(answer: Any) -> bool:
    return isinstance(answer, list) and bool(answer) and isinstance(answer[0], str)


def _or_with(others: list[str]) -> str:
    return f", or with response: {' or '.join(others)}" if others else ""


def _line_of_two(record: dict[str, Any]) -> str:
    """What the user may give where no name is known; with the names where two columns alone hold texts."""
    texts = [str(k) for k, v in record.items() if isinstance(v, str) and v.strip() and str(k).lower() not in _NO_TEXT]
    if len(texts) != 2 or not all(re.fullmatch(r"\w+", name) for name in texts):
        return "data.columns='{prompt: …, response: …}' names the columns"
    texts.sort(key=lambda name: bool(_REPLIES.search(name)))
    line = f"data.columns='{{prompt: {texts[0]}, response: {texts[1]}}}'"
    return f"{line} reads it, if these are the question and its answer"


def _line_of_messages(record: dict[str, Any]) -> str | None:
    """What the user may give where the messages, and perhaps a reply to them, lie deeper in the record."""
    asked = next((p for key, value in record.items() if (p := _path(value, _are_messages, key))), None)
    if asked is None:
        return None
    keys = [key for key in record if re.match("response|output|answer|completion|reply", key) and record[key]]
    replies = [p for key in keys if not asked.startswith(key) and (p := _path(record[key], _is_reply, key))]
    roles = {"messages": asked, **({"response": replies[0]} if replies else {})}
    return f"{columns_line(record, roles)} reads it{_or_with(replies[1:])}"


def _path(value: Any, wanted: Callable[[Any], bool], path: str) -> str | None:
    """Where in a value, at most four levels down, something is (`a.0.b`)."""
    if wanted(value):
        return path
    if path.count(".") > 3 or not isinstance(value, dict | list) or (isinstance(value, list) and len(value) > 1):
        return None
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return next((p for key, one in inner if (p := _path(one, wanted, f"{path}.{key}"))), None)


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(is_message(m) or _is_typed(m) for m in value)


def _is_typed(value: Any) -> bool:
    return isinstance(value, dict) and "type" in value and (present(value, "data", "content") is not None)


def _is_reply(value: Any) -> bool:
    return (isinstance(value, str) and bool(value)) or served_key(value) is not None or is_message(value)


def unknown(record: dict[str, Any], known: str) -> Unusable:
    """Of a record whose form no one knows: its keys, and what to do."""
    keys = ", ".join(f"{key!r:.40}" for key in list(record)[:8])
    if any(one <= record.keys() for one in ONE_MESSAGE):
        advice = (
            "each record is one message; put those of a conversation into one, {'messages': [{'role', 'content'}, …]}"
        )
    elif named := next((why for keys, why in _NAMED if keys <= record.keys()), None):
        advice = named
    elif "input_ids" in record:
        advice = "tokens are not read, texts are"
    elif not record:
        return Unusable("unknown record format", "the object is empty")
    elif set(record) <= {"text", "id", "meta", "source"}:
        advice = "one text without turns; there is nothing to say what is the answer"
    else:
        advice = f"expected {known}; {ready_line(record)}"
    if empty := [f"{key!r:.40}" for key in list(record)[:8] if is_absent(record[key])]:
        advice = f"nothing stands in {', '.join(empty)}; {advice}"
    return Unusable("unknown record format", f"keys {keys}; {advice}")


def by_columns(record: dict[str, Any], columns: Mapping[Any, str]) -> dict[str, Any]:
    """The record as one with `messages`, by the columns that the user names; others are left out.

    Raises:
        Unusable: it has no such column, or no such text in it.
    """
    found = {role: _at(record, name, role) for role, name in columns.items()}
    out = {key: record[key] for key in KEPT if key in record}
    out |= {key: record[key] for key in media_in(tuple(record))}
    out |= {key: found[key] for key in ("system", "tools") if key in found}
    name = columns.get("messages") or columns["prompt"]
    if "messages" in columns:
        messages = as_messages(found["messages"])
        messages = messages if isinstance(messages, list) else typed(messages, list, name)
    else:
        messages = _asked(found["prompt"], name, found.get("context"), columns.get("context", ""))
    if "response" in columns or "calls" in columns:
        messages = [*messages, *_reply(found, columns)]
    return out | {"messages": messages}


def _at(record: Any, name: str, role: str) -> Any:
    """The value of a column; `a.b.0` looks inside where no column is called so."""
    value = record
    for step in (name,) if name in record else name.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            keys = ", ".join(f"{key!r:.40}" for key in list(record)[:8])
            raise Unusable("missing column", f"{name}, which columns name for {role}; the record has {keys}")
    return value


def _asked(prompt: Any, name: str, context: Any, context_name: str) -> list[Any]:
    messages = loaded(prompt, list)
    if messages and all(is_message(message) for message in messages):
        prompt = messages
    if isinstance(prompt, list) and is_absent(context):
        return prompt
    said = text(prompt, name)
    refuse_transcript(said)
    if not is_absent(context) and context != "":
        said += ALPACA_INPUT + text(context, context_name)
    return [{"role": "user", "content": said}]


def _reply(found: Mapping[str, Any], columns: Mapping[Any, str]) -> list[dict[str, Any]]:
    calls, thought = found.get("calls"), found.get("reasoning")
    answer = found.get("response")
    if is_absent(answer) and "calls" in columns:
        answer = None if is_absent(calls) or calls in ("", "[]", []) else ""
    messages = answer_messages(answer, columns.get("response") or columns["calls"])
    if not is_absent(calls):
        messages[-1] = messages[-1] | {"tool_calls": [calls] if isinstance(calls, dict) else calls}
    if not is_absent(thought) and thought != "":
        messages[-1] = messages[-1] | {"reasoning_content": text(thought, columns["reasoning"])}
    return messages
