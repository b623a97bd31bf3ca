"""Conversations that a data set keeps as one text, or as numbered turns with marks: Glaive's and MOSS's → messages."""

import re
from typing import Any

from vicuna_lit.records.exports import Unusable, typed

_GLAIVE = re.compile(r"(?:\A|\n\n)\s*(USER|ASSISTANT|FUNCTION RESPONSE): ?")
_GLAIVE_ROLES = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
_GLAIVE_CALL = re.compile(r"""\{\s*"name":\s*"([^"]+)"(?:,\s*"arguments":\s*(?:'(.*)'|(\{.*\})))?\s*\}""", re.DOTALL)
_MOSS = re.compile(r"\[(Human|MOSS)\]: (.*?)\s*(?:<eoh>|<eoa>)", re.DOTALL)
_MOSS_ROLES = {"Human": "user", "MOSS": "assistant"}
_MOSS_MARKS = re.compile(r"\A\s*<\|[^|]+\|>:\s*|\s*<eo\w>\s*\Z")


def with_transcript(record: dict[str, Any]) -> dict[str, Any]:
    """A record of Glaive's or MOSS's sets with its messages and system prompt; another as it is.

    Raises:
        Unusable: a part of the text belongs to no turn, or a turn has what its marks do not say in words.
    """
    chat, plain = record.get("chat"), record.get("plain_text")
    if isinstance(chat, str) and _GLAIVE.match(chat) and "\nASSISTANT:" in chat:
        system = typed(record.get("system") or "", str, "system").strip().removeprefix("SYSTEM:").strip()
        return record | {"chat": None, "system": system, "messages": _glaive(chat)}
    if isinstance(chat, dict) and chat and all(str(key).startswith("turn_") for key in chat):
        return record | {
            "chat": None,
            "messages": [m for key in sorted(chat, key=_number) for m in _moss(chat[key], key)],
        }
    if isinstance(plain, str) and "[Human]:" in plain and "<eoa>" in plain:
        if rest := _MOSS.sub("", plain).strip():
            raise Unusable("wrong type", f"plain_text: {rest!r:.60} stands between its turns")
        turns = [{"role": _MOSS_ROLES[who], "content": said} for who, said in _MOSS.findall(plain)]
        return record | {"plain_text": None, "system": record.get("prefix"), "prefix": None, "messages": turns}
    return record


def _glaive(chat: str) -> list[dict[str, Any]]:
    pieces = _GLAIVE.split(chat.strip())[1:]
    messages: list[dict[str, Any]] = []
    for number, (who, said) in enumerate(zip(pieces[::2], pieces[1::2], strict=True), 1):
        content, called, call = said.strip().removesuffix("<|endoftext|>").strip().partition("<functioncall>")
        message: dict[str, Any] = {"role": _GLAIVE_ROLES[who], "content": content.strip()}
        if called and who == "ASSISTANT":
            found = _GLAIVE_CALL.fullmatch(call.strip())
            if found is None:
                raise Unusable(
                    "unknown content type", f"turn {number}: a call that cannot be read: {call.strip()!r:.60}"
                )
            message["tool_calls"] = [{"name": found[1], "arguments": found[2] or found[3] or "{}"}]
        elif called:
            message["content"] = said.strip()
        messages.append(message)
    return messages


def _number(key: str) -> int:
    digits = key.removeprefix("turn_")
    return int(digits) if digits.isdecimal() else 0


def _moss(turn: Any, where: str) -> list[dict[str, Any]]:
    said = {name: _MOSS_MARKS.sub("", typed(text, str, where)) for name, text in typed(turn, dict, where).items()}
    for name in ("Inner Thoughts", "Commands", "Tool Responses"):
        if said.get(name, "None").strip() not in ("None", ""):
            raise Unusable("unknown content type", f"{where}: {name}: turns with tools are not read")
    if not said.keys() >= {"Human", "MOSS"}:
        raise Unusable("wrong type", f"{where} has no Human and MOSS")
    return [{"role": "user", "content": said["Human"]}, {"role": "assistant", "content": said["MOSS"]}]
