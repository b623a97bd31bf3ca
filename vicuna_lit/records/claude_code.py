"""Claude Code's session files (`~/.claude/projects/*/*.jsonl`) → conversations, each as the model saw it.

The lines are the Messages API's, in a tree (`uuid`, `parentUuid`). What is read of it follows the descriptions at
code.claude.com/docs/en/sessions and github.com/skillsynchq/txcript (docs/formats/claude-code.md), which were made from
real files; the format has no published schema. System prompt and schemas of tools stand in no such file.
"""

import re
from collections.abc import Iterator
from typing import Any
from zlib import crc32

from vicuna_lit.records.exports import Unusable, typed
from vicuna_lit.records.session_turns import SessionTurns, text_part

INTERRUPTED = "[Request interrupted by user"
"""How the user's message begins that stands where a reply was stopped."""
_UNSAID = ("(no content)", "")
_SYNTHETIC = "<synthetic>"
"""The model of replies that the program wrote itself."""
_BOOKS = re.compile(r"summary|tag|mode|[a-z]+(?:-[a-z]+)+")
_OF_BOOKS = frozenset(("sessionId", "leafUuid", "messageId"))
"""By which lines are known that are no messages: snapshots of files, titles, the queue."""
_REMINDERS = re.compile(
    r"\w*_(?:reminder|delta|listing|usage|status|mode|mode_\w+|permissions|style|effort|change|keyword_request)"
    r"|hook_(?!additional_context|blocking_error)\w+|(?:opened_file_in_ide|budget_usd|date_change|dynamic_skill|skill_\w+"
    r"|structured_output|agent_mention|team_context|context_efficiency|companion_intro|prompt_snapshot|max_turns_reached)"
)
"""Attachments with which the program reminds the model of its tools, modes and limits; they say nothing of the task."""

_HEARD = ("SessionStart", "UserPromptSubmit")
"""Of hooks those whose output the model reads."""


def is_line(line: Any) -> bool:
    """Whether a record is a line of such a file; those that begin one hold no message."""
    if not isinstance(line, dict) or not isinstance(line.get("type"), str) or "payload" in line:
        return False
    if "uuid" in line and "parentUuid" in line:
        return True
    return _BOOKS.fullmatch(line["type"]) is not None and not _OF_BOOKS.isdisjoint(line)


def kept(line: dict[str, Any]) -> dict[str, Any] | None:
    """Of a line what the conversation needs; None: nothing (snapshots of files, titles, the queue)."""
    if not isinstance(line.get("uuid"), str):
        return None
    return {name: value for name, value in line.items() if name not in ("toolUseResult", "data", "snapshot")}


def goes_on(lines: list[dict[str, Any]], names: set[str], line: dict[str, Any]) -> bool:
    """Whether a line belongs to the session of those before it."""
    if "uuid" not in line:
        return True
    return not lines or line.get("sessionId") == lines[-1].get("sessionId") or str(line.get("parentUuid")) in names


def conversations(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any] | Unusable]:
    """The branch that was written last, cut where the program put a summary in the place of what was said; and each
    subagent's talk. A talk that cannot be read is an `Unusable`."""
    nodes: dict[str, dict[str, Any]] = {}
    for place, line in enumerate(lines):
        nodes.setdefault(line["uuid"], line | {"place": place})
    if lost := next((n for n in nodes.values() if n.get("type") == "assistant" and n.get("parentUuid") is None), None):
        yield Unusable("broken tree", f"line {lost['uuid']!r:.40}: a reply that names no line as the one it answers")
        return
    main = [line for line in nodes.values() if not line.get("isSidechain")]
    ends = _ends(main)
    helpers: dict[str, list[dict[str, Any]]] = {}
    for line in nodes.values():
        if line.get("isSidechain"):
            helpers.setdefault(str(line.get("agentId") or _root(line, nodes)), []).append(line)
    session = next((str(line["sessionId"]) for line in lines if line.get("sessionId")), "")
    talks = [(end, main, number) for number, end in enumerate(end for end in ends if end)]
    # A subagent's talk may stand in the session's file or in one of its own: its name is the same in both.
    talks += [(_last(talk), talk, 10**6 + crc32(name.encode())) for name, talk in helpers.items()]
    for end, talk, number in talks:
        if end is None:
            continue
        try:
            said = SessionTurns()
            for line in _with_parallel(_branch(end, nodes), talk):
                _say(line, said)
            yield said.conversation(f"{session}_{number}" if number else session)
        except Unusable as bad:
            yield bad


def _last(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The line that a talk ended on."""
    return next((line for line in reversed(lines) if line.get("type") in ("user", "assistant")), None)


def _ends(lines: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """The last line of each stretch between two summaries of what was said before, and of the whole."""
    ends, begin = [], 0
    for place, line in enumerate(lines):
        if line.get("subtype") == "compact_boundary" or _is_summary(line):
            ends.append(_last(lines[begin:place]))
            begin = place
    return [*ends, _last(lines[begin:])]


def _is_summary(line: dict[str, Any]) -> bool:
    return line.get("isCompactSummary") is True


def _root(line: dict[str, Any], nodes: dict[str, dict[str, Any]]) -> str:
    """The first line of a subagent's talk."""
    seen = set[str]()
    while line["uuid"] not in seen:
        seen.add(line["uuid"])
        above = nodes.get(str(line.get("parentUuid")))
        if above is None or not above.get("isSidechain"):
            break
        line = above
    return line["uuid"]


def _branch(end: dict[str, Any], nodes: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """From the first line, or the summary that stands for what was before it, to the last one.

    Raises:
        Unusable: a line is missing, or stands before the one that it answers.
    """
    branch, line = [end], end
    while not _is_summary(line) and line.get("parentUuid") is not None:
        above = nodes.get(str(line["parentUuid"]))
        if above is None or above["place"] >= line["place"]:
            raise Unusable("broken tree", f"line {line['parentUuid']!r:.40}, which another answers, is not before it")
        if bool(above.get("isSidechain")) != bool(line.get("isSidechain")):
            break
        branch.append(above)
        line = above
    return branch[::-1]


def _with_parallel(branch: list[dict[str, Any]], talk: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With what stands beside a branch but belongs to it: calls made at once, each with its result, are lines whose
    results answer one of them each."""
    inside = {line["uuid"] for line in branch}
    replies = {id for line in branch if (id := _reply_id(line))}
    more = [line for line in talk if line["uuid"] not in inside and _reply_id(line) in replies]
    calls = {str(p.get("id")) for line in [*branch, *more] for p in _parts(line) if p.get("type") == "tool_use"}
    results = [
        line
        for line in talk
        if line["uuid"] not in inside and any(str(p.get("tool_use_id")) in calls for p in _parts(line))
    ]
    return sorted([*branch, *more, *results], key=lambda line: line["place"]) if more or results else branch


def _reply_id(line: dict[str, Any]) -> str | None:
    message = line.get("message")
    id = message.get("id") if line.get("type") == "assistant" and isinstance(message, dict) else None
    return id if isinstance(id, str) else None


def _parts(line: dict[str, Any]) -> list[dict[str, Any]]:
    message = line.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _say(line: dict[str, Any], said: SessionTurns) -> None:
    """
    Raises:
        Unusable: a line is not what it should be, or shows what is not in the file.
    """
    kind, where = line.get("type"), f"line {line['uuid']!r:.40}"
    if kind == "attachment":
        if shown := _attached(typed(line.get("attachment"), dict, f"{where}: attachment"), where):
            said.user(*shown)
    elif kind == "system" and line.get("subtype") == "local_command" and isinstance(line.get("content"), str):
        said.user(text_part(line["content"]))
    elif kind in ("user", "assistant") and (_is_summary(line) or not line.get("isVisibleInTranscriptOnly")):
        message = typed(line.get("message"), dict, f"{where}: message")
        content = message.get("content")
        parts = [text_part(content)] if isinstance(content, str) else typed(content, list, f"{where}: content")
        parts = [typed(part, dict, f"{where}: a part") for part in parts]
        (_say_user if kind == "user" else _say_reply)(parts, line, message, said)


def _say_user(parts: list[dict[str, Any]], line: dict[str, Any], message: dict[str, Any], said: SessionTurns) -> None:
    for part in parts:
        if part.get("type") == "tool_result":
            content = part.get("content")
            content = [_result(one) for one in content] if isinstance(content, list) else content
            said.result(part.get("tool_use_id"), content)
        else:
            if str(part.get("text")).startswith(INTERRUPTED):
                said.stopped()
            said.user(part)


def _result(part: Any) -> Any:
    """A part of a result; a tool that was searched for is its name."""
    if isinstance(part, dict) and part.get("type") == "tool_reference":
        return text_part(f"{part.get('tool_name')}\n")
    return part


def _say_reply(parts: list[dict[str, Any]], line: dict[str, Any], message: dict[str, Any], said: SessionTurns) -> None:
    if line.get("isApiErrorMessage"):  # the program's; the model never read it
        return
    parts = [part for part in parts if not _is_unsaid(part)]
    if not parts:
        return
    said.assistant(*parts, key=message.get("id"))
    if message.get("model") == _SYNTHETIC or message.get("stop_reason") in ("max_tokens", "refusal"):
        said.stopped()


def _is_unsaid(part: dict[str, Any]) -> bool:
    """Whether a part holds no word: a thought of which the file has only its signature, or the mark of no text."""
    match part.get("type"):
        case "redacted_thinking":
            return True
        case "thinking":
            return not part.get("thinking")
        case "text":
            return part.get("text") in _UNSAID
        case _:
            return False


def _attached(attachment: dict[str, Any], where: str) -> list[Any]:
    """What an attachment told the model.

    Raises:
        Unusable: it is of a kind that is not known, or has no text.
    """
    kind = str(attachment.get("type"))
    if kind == "queued_command":  # said by the user while the model worked
        prompt = attachment.get("prompt")
        said = [text_part(prompt)] if isinstance(prompt, str) else typed(prompt, list, f"{where}: prompt")
        return [typed(part, dict, f"{where}: a part") for part in said]
    heard = kind == "hook_success" and attachment.get("hookEvent") in _HEARD and attachment.get("content")
    if _REMINDERS.fullmatch(kind) and not heard:
        return []
    name = next((attachment[k] for k in ("filename", "path", "hookName") if isinstance(attachment.get(k), str)), "")
    text = _text_in(attachment.get("snippet") or attachment.get("content"))
    if not text:
        raise Unusable("unknown content type", f"{where}: an attachment of type {kind!r:.40}; take such sessions out")
    return [text_part(f"{name}:\n{text}" if name else text)]


def _text_in(content: Any) -> str:
    """Of a file, a folder or a note: the text, however deep it lies."""
    if isinstance(content, list) and all(isinstance(one, str) for one in content):
        return "\n".join(content)
    if isinstance(content, dict):
        return _text_in(content.get("file") or content.get("content") or content.get("text"))
    return content if isinstance(content, str) else ""
