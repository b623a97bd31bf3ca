"""Conversations kept as trees, ChatGPT's export and Open-Assistant: the branch that is the conversation.

Both walks are loops, not recursion: a tree may be as deep as its writer liked.
"""

import math
import re
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any, NamedTuple

LEFT_OUT = ("user_editable_context", "model_editable_context", "thoughts", "reasoning_recap")
"""ChatGPT's content types that stand beside the conversation: settings, memory and reasoning, which no one was told."""


_MARKS = re.compile(
    "[ \t]?\ue200cite\ue202[^\ue200\ue201]*\ue201"
    "|\ue200(?:entity|url|link_title)\ue202?(\\[[^\ue200\ue201]*\\]|[^\ue200\ue201]*)\ue201"
    "|[ \t]?\ue200(?!entity|url|link_title)[^\ue200\ue201]*\ue201"
    "|[ \t]?【\\d+[^【】\n]{0,80}】"
    '|(?<![\\w])entity(\\["[^\n\\]]*"\\])'
    "|[ \t]?(?<![\\w])cite(?:turn\\d+\\w+\\d+)+"
)
"""ChatGPT's marks of search and of names, which its page draws as links."""
_NAME = re.compile(r'"(?:[^"\\]|\\.)*"')


_CUT_OFF = re.compile(
    "length|max|limit|exceed|trunc|exhaust|cancel|abort|interrupt|fail|error|incomplete|partial|in_progress|streaming"
    "|pending|paus|filter|safety|block|guardrail|recitation|prohibited|spii|refus|timeout|timed_out|stopped|malformed|unload"
    "|^other$|^language$"
)


def is_cut_off(ended: str) -> bool:
    """Whether the reason why an answer ended, or its status, says that it is no whole answer."""
    return _CUT_OFF.search(ended.lower()) is not None


def without_marks(text: str) -> tuple[str, int]:
    """An answer without the marks of its search results, and how many there were; of a named thing its name stays."""

    def name(found: re.Match[str]) -> str:
        named = _NAME.findall(found[1] or found[2] or "")
        return named[min(1, len(named) - 1)][1:-1] if named else ""

    return _MARKS.subn(name, text)


class Unusable(Exception):
    """A record cannot be used: `reason` and `detail` as in `Rejection`."""

    def __init__(self, reason: str, detail: str):
        self.reason, self.detail = reason, detail


class _Shown(NamedTuple):
    """A message of ChatGPT's export: who says what, the tool that it calls, whether it is but a part of a reply."""

    role: Any
    text: str
    tool: str
    is_part: bool


def chatgpt_messages(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The branch of an official export (`conversations.json`) that the user ended on, as role and content.

    What the assistant writes before, between and after tool calls are messages of their own; where no
    other role stands between them they are one reply, as the user saw it. Results of several tools likewise. What it
    writes to a tool, and not to the user, is a call. A reply that was cut off for good is out of the loss.

    Raises:
        Unusable: the tree is broken, or a message is not text. An image is not left out: its question
            and answer without it would teach the model to answer about what it cannot see.
    """
    mapping = typed(record["mapping"], dict, "mapping")
    shown = [_shown(node["message"], id) for id, node in branch(mapping, record.get("current_node")).items()]
    messages: list[dict[str, Any]] = []
    for role, group in groupby(filter(None, shown), key=attrgetter("role")):
        said = list(group)
        if role not in ("assistant", "tool"):
            messages += [{"role": role, "content": one.text} for one in said]
            continue
        calls = [{"name": one.tool, "arguments": one.text} for one in said if one.tool]
        texts = [one for one in said if one.text and not one.tool]
        asked = messages[-1].get("tool_calls") if role == "tool" and messages and not any(texts) else None
        unanswered = (
            calls if any(before.tool and after.text and not after.tool for before, after in pairwise(said)) else asked
        )
        if unanswered:
            name = unanswered[-1]["name"]
            raise Unusable("context beside the turns", f"{name}: the result of this call is not in the export")
        message = {"role": role, "content": _joined(texts)} | ({"tool_calls": calls} if calls else {})
        messages.append(message | ({"weight": 0} if said[-1].is_part and said[-1].text else {}))
    return messages


def _joined(said: list[_Shown]) -> str:
    """The texts of one reply; what follows a part that was cut off goes on in the middle of its sentence."""
    parts = [part for one in said for part in (one.text, "" if one.is_part else "\n\n")]
    return "".join(parts[:-1])


def branch(mapping: dict[str, Any], current: Any) -> dict[str, dict[str, Any]]:
    """The nodes with a message, root first: from `current` upwards, or from the root by last children.

    Args:
        mapping: nodes of `message`, `parent` and (needed without `current`) `children`, by name.

    Raises:
        Unusable: a node is missing, or its own ancestor.
    """
    upwards, path = current is not None, {}
    if not upwards and mapping:
        roots = [id for id, node in mapping.items() if isinstance(node, dict) and node.get("parent") is None]
        if not roots:
            raise Unusable("broken tree", "there is no node without a parent")
        current = roots[0]
    while current is not None:
        name = repr(current)[:40] if isinstance(current, str) else f"({kind_of(current)})"
        if not isinstance(current, str) or current not in mapping:
            raise Unusable("broken tree", f"node {name} is missing")
        if current in path:
            raise Unusable("broken tree", f"node {name} is its own ancestor")
        path[current] = node = typed(mapping[current], dict, f"node {name}")
        children = None if upwards else typed(node.get("children") or [], list, f"node {name}: children")
        current = node.get("parent") if upwards else (children[-1] if children else None)
    order = reversed(path.items()) if upwards else path.items()
    return {id: node for id, node in order if node.get("message") is not None}


def _shown(message: Any, id: str) -> _Shown | None:
    """What a message says; None if it is no part of the conversation."""
    where = f"node {id!r:.40}"
    message = typed(message, dict, f"{where}: message")
    role = typed(message.get("author"), dict, f"{where}: author").get("role")
    metadata = typed(message.get("metadata") or {}, dict, f"{where}: metadata")
    content = typed(message.get("content"), dict, f"{where}: content")
    kind = content.get("content_type")
    if metadata.get("is_visually_hidden_from_conversation") or kind in LEFT_OUT:
        return None
    recipient = message.get("recipient")
    is_call = role == "assistant" and isinstance(recipient, str) and recipient not in ("all", "python")
    called = recipient if is_call else ""
    if role in ("user", "assistant") and metadata.get("attachments"):
        raise Unusable("images and other media", f"{where}: attachments: what they hold is not in the export")
    if kind in ("text", "multimodal_text"):
        parts = typed(content.get("parts"), list, f"{where}: parts")
        spoken = any(_part_type(part) == "audio_transcription" for part in parts)
        texts = (_part_text(part, spoken, f"{where}: {_kind(part)}") for part in parts)
        text = "\n".join(text for text in texts if text is not None)
    elif kind in ("code", "execution_output"):
        text = typed(content.get("text"), str, f"{where}: text")
        text = _fenced(text, content.get("language")) if kind == "code" and not called else text
    else:
        name = repr(kind)[:40] if isinstance(kind, str) else f"({kind_of(kind)})"
        raise Unusable("unknown content type", f"{where}: content_type {name}")
    if role == "system" and not text.strip():
        return None
    return _Shown(role, text, called, role == "assistant" and _is_part(message, metadata))


def _is_part(message: dict[str, Any], metadata: dict[str, Any]) -> bool:
    """Whether a reply was cut off. Its `weight` says something else: what the model was shown later on."""
    details = metadata.get("finish_details")
    reasons = (message.get("status"), details.get("type") if isinstance(details, dict) else None)
    return any(isinstance(why, str) and is_cut_off(why) for why in reasons)


def _part_type(part: Any) -> Any:
    return part.get("content_type") if isinstance(part, dict) else None


def _part_text(part: Any, spoken: bool, where: str) -> str | None:
    """The text of a part, of a voice its transcript; None for the sound that the transcript stands for."""
    match _part_type(part):
        case "audio_transcription":
            return typed(part.get("text"), str, f"{where}: text")
        case "audio_asset_pointer" | "real_time_user_audio_video_asset_pointer" if spoken:
            return None
        case _:
            return typed(part, str, where)


def _kind(part: Any) -> str:
    """What a part says it is, e.g. image_asset_pointer."""
    kind = part.get("content_type") if isinstance(part, dict) else None
    return f"part {kind!r:.40}" if isinstance(kind, str) else "a part"


def _fenced(code: str, language: Any) -> str:
    fence = "```"
    while fence in code:
        fence += "`"
    name = language if isinstance(language, str) and language != "unknown" else ""
    return f"{fence}{name}\n{code}\n{fence}"


def oasst_messages(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The best-ranked path of an Open-Assistant tree; rank 0 is the best, unranked replies come last.

    Raises:
        Unusable: a message is not what it should be, or the question itself was deleted.
    """
    message, messages = record["prompt"], []
    if _is_out(message):
        raise Unusable("no answered turn", "the prompt was deleted or rejected by its reviewers")
    if str(record.get("tree_state")).startswith(("aborted", "halted")):
        raise Unusable("bad answer", f"tree_state is {record['tree_state']}")
    while message is not None:
        messages.append({"role": message.get("role"), "content": message.get("text")})
        replies = typed(message.get("replies") or [], list, f"replies of turn {len(messages)}")
        where = f"a reply to turn {len(messages)}"
        left = [reply for reply in replies if not _is_out(typed(reply, dict, where))]
        message = min(left, key=lambda reply: _rank(reply, where), default=None)
    return messages


def _is_out(message: dict[str, Any]) -> bool:
    """Whether a message was deleted, or rejected by its reviewers."""
    return bool(message.get("deleted")) or message.get("review_result") is False


def _rank(reply: dict[str, Any], where: str) -> tuple[bool, float]:
    rank = reply.get("rank")
    return (True, 0.0) if rank is None else (False, typed(rank, (int, float), f"{where}: rank"))


def typed(value: Any, kind: Any, where: str) -> Any:
    """The value.

    Raises:
        Unusable: it is of another kind.
    """
    if not isinstance(value, kind):
        names = {dict: "an object", list: "a list", str: "text"}
        raise Unusable("wrong type", f"{where} is {kind_of(value)}, not {names.get(kind, 'a number')}")
    return value


def kind_of(value: Any) -> str:
    """What a value is, in JSON's words: the reader of the message has a file, and need not know Python."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    names = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number"}
    return names.get(type(value), f"a {type(value).__name__}")
