"""Lists of messages, in the forms that are in use → turns.

A field that changes what is trained is read, or the record is refused with the field's name: calls of tools,
reasoning, flags that take a turn out of the loss, pictures and other media.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from vicuna_lit.config.base import Role
from vicuna_lit.records.conversation import INLINE_THOUGHT, ToolCall, Turn
from vicuna_lit.records.exports import Unusable, kind_of
from vicuna_lit.records.field_names import FLAGS, REASONING, loss_sign, media_in, refuse_cited
from vicuna_lit.records.fields import as_json, filled, is_absent, loaded, present, text
from vicuna_lit.records.message_forms import as_said, refuse_cut_off
from vicuna_lit.records.roles import ROLES
from vicuna_lit.records.tool_calls import call_of, calls_of, refuse_unanswered

CALL_ROLES = ("function_call", "tool_call", "function_calls", "tool_calls")
"""Of messages that are an assistant's call as JSON."""
LIGHTEST, HEAVIEST = 1e-9, 1e9
"""Weights of turns, but for 0; far from where sums of them in fp32 lose digits."""
_RESULTS = ("functionResponse", "function_response")
"""Gemini's parts that are results of tools."""
_PARTS_AS_TEXT = re.compile(
    r"""\[\{ ?["']type["']: ?["'](?:text|thinking|tool_use|tool_result|input_text|output_text)["'], ?["']\w+["']: ?"""
)
_ORDER = ("a thought or a tool's result", "text", "a call")
"""How a turn is written; parts in another order would be trained on in one that they never had."""
_PLACEHOLDER = re.compile(
    r"<image>(?![^`]*</image>)|(?:^|\n)\s*<(?:video|audio)>\s*(?:\n|$)"
    r"|<\|(?:image|image_pad|vision_start|video_pad|audio|audio_bos|image_1|begin_of_image)\|>|<start_of_image>"
)
"""Where a picture, a film or a sound was: alone, for many write about the tags of HTML."""


def system_of(value: Any, where: str) -> str:
    """A system prompt: a text, parts, or an object of one of them."""
    if isinstance(value, dict):
        value = value.get(present(value, "parts", "content", "text") or "text")
    return _content(value, where, "system")[0] or ""


def turns_of(messages: Any, leaf: Any = None) -> list[Turn]:
    """The turns of a list of messages, OpenAI's, ShareGPT's, Anthropic's or Gemini's, also mixed; see `as_said`.

    A message that is a call alone belongs to the assistant's turn before it.

    Raises:
        Unusable: a message is not what it should be, or holds what nothing here can train on.
    """
    if isinstance(messages, str):
        messages = loaded(messages, list) or messages
    if not isinstance(messages, list):
        raise Unusable("wrong type", f"the turns are {kind_of(messages)}, not a list")
    turns: list[Turn] = []
    for number, message in enumerate(as_said(messages, leaf), 1):
        if not isinstance(message, dict):
            raise Unusable("wrong type", f"turn {number} is {kind_of(message)}, not an object")
        if len(message) == 2 and (plain := _plain(message, f"turn {number}")):
            turns.append(plain)
            continue
        for turn, joins in _turns(message, f"turn {number}"):
            if joins and turns and turns[-1].role == "assistant" and _counts_alike(turns[-1], turn):
                turns[-1] = replace(turns[-1], tool_calls=turns[-1].tool_calls + turn.tool_calls)
            else:
                turns.append(turn)
    refuse_unanswered(turns)
    return turns


def _counts_alike(a: Turn, b: Turn) -> bool:
    return (a.supervised, a.weight) == (b.supervised, b.weight)


def _turns(message: dict[str, Any], where: str) -> Iterator[tuple[Turn, bool]]:
    """The turns of one message (results of tools may stand in a user's), and whether it goes on with the one before."""
    if sum(value is not None for value in message.values()) == 2 and (plain := _plain(message, where)):
        yield plain, False
        return
    role_key = present(message, "from", "role") or ("from" if "from" in message else "role")
    if is_absent(message.get(role_key)):
        raise Unusable("unknown role", f"{where} has no role; its keys are {', '.join(map(repr, message)):.120}")
    role, is_call = _role(message.get(role_key), f"{where} has {role_key}")
    refuse_media(message, where)
    weight = _weight(message, role, where)
    supervised, weight = weight > 0, weight or 1.0
    names = ("value", "content") if role_key == "from" else ("content", "value")
    text_key = present(message, *names, "text", "parts", "message", "refusal") or names[0]
    content, parts = _content(message.get(text_key), f"{where}: {text_key}", role)
    ids = {call.id for call in parts.calls if call.id}
    calls = parts.calls + tuple(c for c in calls_of(message, where) if c not in parts.calls and c.id not in ids)
    reasoning = "\n\n".join(filter(None, (_reasoning(message, where), parts.reasoning)))
    if (calls or reasoning) and role != "assistant":
        raise Unusable("wrong type", f"{where}: {'a call of a tool' if calls else 'reasoning'} in a turn of {role}")
    called = loaded(content or "", (list, dict)) if is_call else None
    if called is not None:
        content, calls = (
            "",
            calls + tuple(call_of(c, where) for c in (called if isinstance(called, list) else [called])),
        )
    if content is None and calls:
        content = ""
    for result in parts.results:
        yield replace(result, supervised=supervised), False
    if parts.results and not content:
        return
    if content is None:
        raise Unusable("wrong type", f"{where}: {text_key} is {kind_of(message.get(text_key))}, not text")
    name, call_id = (_named(message, role, key, where) for key in ("name", "tool_call_id"))
    yield Turn(role, content, supervised, reasoning, calls, name, call_id, weight), is_call and bool(calls)


def _plain(message: dict[str, Any], where: str) -> Turn | None:
    """The turn of a message that only says who says what, as most do; the general way would find the same."""
    role_key, text_key = ("from", "value") if "from" in message else ("role", "content")
    name, content = message.get(role_key), message.get(text_key)
    if not isinstance(name, str) or not isinstance(content, str) or name in CALL_ROLES or name not in ROLES:
        return None
    return Turn(ROLES[name], _said(content, f"{where}: {text_key}", ROLES[name]))


def _role(role: Any, where: str) -> tuple[Role, bool]:
    """The role, and whether the message is a call as JSON."""
    name = role.strip().lower() if isinstance(role, str) else None
    if name in CALL_ROLES:
        return "assistant", True
    if name is None or name not in ROLES:
        shown = repr(role)[:40] if isinstance(role, str) else f"({kind_of(role)})"
        raise Unusable("unknown role", f"{where} {shown}")
    return ROLES[name], False


def _named(message: dict[str, Any], role: Role, key: str, where: str) -> str:
    value = message.get(key)
    return text(value, f"{where}: {key}") if role == "tool" and not is_absent(value) else ""


def refuse_media(record: dict[str, Any], where: str) -> None:
    """
    Raises:
        Unusable: there is a picture, a film or a sound: text about what nobody shows the model teaches it to invent.
    """
    for key in media_in(tuple(record)):
        if filled(record, key) and not isinstance(record[key], bool) and record[key] != 0:
            raise Unusable("images and other media", f"{where}: {key}")


def weight_of(record: dict[str, Any], where: str) -> float:
    """How much a message or record counts in the loss, by all its flags together; 0 leaves it out.

    Raises:
        Unusable: a flag is no number that a weight can be, or weighs parts of the turn.
    """
    weight = 1.0
    for key, value in record.items():
        sign = loss_sign(key)
        if sign is None or is_absent(value) or (sign in ("partly", "unknown") and value in ([], {}, "")):
            continue
        if sign == "unknown":
            raise Unusable(
                "unknown flag of the loss", f"{where}: {key}; say it as weight: 0 or 1, or take the field out"
            )
        if sign == "inverse":
            if not isinstance(value, bool):
                raise Unusable("wrong type", f"{where}: {key} is neither true nor false")
            weight *= not value
            continue
        if sign == "partly" and not isinstance(value, int | float):
            raise Unusable("weights within a turn", f"{where}: {key}: a turn has one weight")
        any_number = sign != "flag"
        allowed = f"a number from {LIGHTEST:g} to {HEAVIEST:g}" if any_number else "1"
        if not isinstance(value, int | float) or not (
            value in (0, 1) or (any_number and LIGHTEST <= value <= HEAVIEST)
        ):
            raise Unusable("wrong type", f"{where}: {key} is neither 0 nor {allowed}")
        weight *= value
    return weight


def _weight(message: dict[str, Any], role: Role, where: str) -> float:
    weight = weight_of(message, where)
    if role == "assistant":
        return weight
    wanted = next((key for key in FLAGS if message.get(key) is True), None)
    if wanted or weight not in (0, 1):
        said = f"{wanted} is true" if wanted else f"a weight of {weight:g}"
        raise Unusable("loss on another's turn", f"{where}: {said} on a turn of {role}; assistants' are trained")
    return 1.0 if weight else 0.0


def _reasoning(message: dict[str, Any], where: str) -> str:
    key = filled(message, *REASONING)
    if key is None or _is_said_again(message[key], message):
        return ""
    blocks = message[key] if isinstance(message[key], list) else [message[key]]
    return "\n\n".join(_thought(block, f"{where}: {key}") for block in blocks)


def _is_said_again(thought: Any, message: dict[str, Any]) -> bool:
    """Whether a thought is the text itself, or stands in it: SWE-agent's with its action, and inline thoughts."""
    content = message.get(present(message, "content", "value") or "content")
    if not isinstance(thought, str) or not isinstance(content, str):
        return False
    inline = INLINE_THOUGHT.match(content)
    begins = "action" in message and content.strip().startswith(thought.strip())
    return begins or thought.strip() in (content.strip(), inline[2].strip() if inline else None)


def _thought(block: Any, where: str) -> str:
    """Of a text, or of a block that holds one; what is encrypted or redacted holds none."""
    if isinstance(block, dict):
        key = present(block, "thinking", "text", "summary", "description")
        block = block[key] if key else None
    return text(block, where)


class _Parts:
    """What stands beside the text in a content of several parts."""

    def __init__(self) -> None:
        self.reasoning = ""
        self.calls: tuple[ToolCall, ...] = ()
        self.results: tuple[Turn, ...] = ()


def _said(content: Any, where: str, role: Role) -> str:
    content = text(content, where)
    if role == "user" and "<" in content and (sign := _PLACEHOLDER.search(content)):
        raise Unusable("images and other media", f"{where}: {sign[0].strip()} stands where one was")
    if content.startswith("[{") and _PARTS_AS_TEXT.match(content):
        raise Unusable("parts as text", f"{where}: a list of parts was written as one text; load it")
    return content


def _content(content: Any, where: str, role: Role) -> tuple[str | None, _Parts]:
    """The text (None: there is none), and what else the parts of a content hold."""
    found = _Parts()
    if is_absent(content):
        return None, found
    if role == "tool" and isinstance(content, dict):
        return text(as_json(content, where), where), found
    if not isinstance(content, list):
        return _said(content, where, role), found
    gemini = all(isinstance(p, dict) and present(p, *_RESULTS) for p in content)
    if role == "tool" and not gemini and not all(isinstance(p, dict) and "type" in p for p in content):
        return text(as_json(content, where), where), found
    if sum(isinstance(part, str) for part in content) > 1:
        raise Unusable("several answers", f"{where}: a list of {len(content)} texts; make it one")
    texts, last = [], 0
    for part in content:
        before = found.reasoning, found.results, found.calls
        said = _part(part, where, found)
        texts += [] if said is None else [said]
        there = (before[:2] != (found.reasoning, found.results), bool((said or "").strip()), before[2] != found.calls)
        place = there.index(True) if any(there) else last
        if place < last:
            raise Unusable("parts out of order", f"{where}: {_ORDER[place]} behind {_ORDER[last]}, which stands last")
        last = place
    return ("".join(texts) if texts or not (found.calls or found.results) else None), found


def _part(part: Any, where: str, found: _Parts) -> str | None:
    """The text of a part, if it is text; calls, results and reasoning are put into `found`."""
    if isinstance(part, str):
        return text(part, where)
    if not isinstance(part, dict):
        raise Unusable("wrong type", f"{where}: a part is {kind_of(part)}, not text")
    kind = part.get("type")
    match kind:
        case "text" | "input_text" | "output_text":
            said = part.get(present(part, "text", "content") or "text")
            refuse_cited(part, where)
            refuse_cut_off(part, where, "state")
            return text(said.get("value") if isinstance(said, dict) else said, where)
        case "step-start":
            pass
        case "think":
            found.reasoning += text(part.get("think"), f"{where}: think")
        case "tool-call":
            found.calls += (call_of(part, f"{where}: tool-call"),)
        case "tool-result":
            found.results += (_vercel_result(part, where),)
        case None if "cachePoint" in part:
            pass
        case None if part.get("thought") is True and isinstance(part.get("text"), str):
            found.reasoning += text(part["text"], where)
        case None if isinstance(part.get("text"), str):
            return text(part["text"], where)
        case None if key := present(part, "functionCall", "function_call", "toolUse"):
            found.calls += (call_of(part[key], f"{where}: {key}"),)
        case None if (key := present(part, *_RESULTS)) and isinstance(part[key], dict):
            said, name = as_json(part[key].get("response"), where), part[key].get("name")
            found.results += (Turn("tool", said, name=name if isinstance(name, str) else ""),)
        case None if isinstance(part.get("toolResult"), dict):
            found.results += (_bedrock_result(part["toolResult"], where),)
        case None if isinstance(part.get("reasoningContent"), dict):
            thought = part["reasoningContent"].get("reasoningText")
            found.reasoning += _thought(thought, f"{where}: reasoningContent")
        case "refusal":
            return text(part.get("refusal"), where)
        case "thinking" | "reasoning":
            found.reasoning += _thinking(part, f"{where}: {kind}")
        case "tool_use" | "tool_call":
            found.calls += (call_of(part, f"{where}: {kind}"),)
        case "tool_result":
            result, _ = _content(part.get("content"), f"{where}: tool_result", "tool")
            found.results += (Turn("tool", result or "", call_id=str(part.get("tool_use_id") or "")),)
        case "tool_call_response":  # OpenTelemetry's
            found.results += (_result_of(part, where),)
        case _:
            said = f"of type {str(kind)!r:.40}" if kind else f"with {', '.join(map(repr, part)):.60}"
            raise Unusable("images and other media", f"{where}: a part {said} is no text")
    return None


def _thinking(part: dict[str, Any], where: str) -> str:
    """
    Raises:
        Unusable: it is no text, or not the thought itself.
    """
    if key := next((key for key in ("redacted", "cut_off") if part.get(key) is True), None):
        raise Unusable("thought that is not there", f"{where}: {key} is true; take the thought out")
    key = present(part, "thinking", "reasoning", "text", "content") or "text"
    thought = part.get(key)
    if isinstance(thought, list):
        thought = "".join(_part(p, where, _Parts()) or "" for p in thought)
    return text(thought, where)


def _result_of(part: dict[str, Any], where: str) -> Turn:
    said = part.get(present(part, "response", "result") or "response")
    return Turn(
        "tool", text(said if isinstance(said, str) else as_json(said, where), where), call_id=str(part.get("id") or "")
    )


def _vercel_result(part: dict[str, Any], where: str) -> Turn:
    given = part.get(present(part, "output", "result") or "result")
    if isinstance(given, dict) and given.keys() == {"type", "value"}:
        given = given["value"]
    said = given if isinstance(given, str) else as_json(given, where)
    return Turn("tool", said, name=str(part.get("toolName") or ""), call_id=str(part.get("toolCallId") or ""))


def _bedrock_result(result: dict[str, Any], where: str) -> Turn:
    given = result.get("content")
    parts: list[Any] = given if isinstance(given, list) else [given]
    said = [_part({"text": as_json(p["json"], where)} if _has_json(p) else p, where, _Parts()) for p in parts]
    return Turn("tool", "".join(filter(None, said)), call_id=str(result.get("toolUseId") or ""))


def _has_json(part: Any) -> bool:
    return isinstance(part, dict) and "json" in part
