"""The body of a chat completion as data: whatever a server has sent is read without an error, and billed."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_OVERHEAD = 64
"""Tokens that an endpoint's own chat template may add, and as many for each message."""


CUT = "length"
"""Why a reply ended that has reached the most tokens, as OpenAI says it."""
FILTERED = "content_filter"
"""Why a reply ended that the server does not give."""
THOUGHT_ALONE = "reasoning without an answer (more tokens may help)"
_CUT = (CUT, "max_tokens", "model_length")
"""As Gemini, Anthropic and Mistral do."""


class Read(NamedTuple):
    """What a body says."""

    text: str
    finish: str
    """`CUT` where the reply was cut off, whatever the server calls it."""
    problem: str
    """Why there is no text; empty where there is one."""


def most_input_tokens(messages: Sequence[Mapping[str, str]]) -> int:
    """A bound on the tokens of a request that holds for every script: no tokenizer makes more of them than bytes."""
    return sum(len(message["content"].encode(errors="replace")) + _OVERHEAD for message in messages) + _OVERHEAD


def parse(raw: bytes) -> Any:
    """
    Raises:
        ValueError: the body is not JSON, or not whole.
    """
    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("nested too deep") from None


def is_completion(body: Any) -> bool:
    """Whether a body is one of a chat completion, odd as it may be, and not an error with status 200."""
    return not (isinstance(body, dict) and body.get("error") and "choices" not in body)


def tokens(body: Any, most_in: int, most_out: int) -> tuple[int, int] | None:
    """Input and output tokens of the bill, never more than can have been sent and asked for.

    What is not said, or cannot be true, counts as the most. None: there is neither a bill nor a reply.
    """
    if not isinstance(body, dict) or not (body.get("usage") or body.get("choices")):
        return None
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return _count(usage.get("prompt_tokens"), most_in), _count(usage.get("completion_tokens"), most_out)


def _count(said: Any, most: int) -> int:
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said) or said < 0:
        return most
    return min(math.ceil(said), most)


def read(body: Any) -> Read:
    """The text of the first choice: a text, a list of parts, or the form of plain completions."""
    return Read(*map(whole_characters, _read(body)))


def _read(body: Any) -> Read:
    choices = body.get("choices") if isinstance(body, dict) else None
    choice: Any = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, str):
        choice = {"text": choice}
    if not isinstance(choice, dict):
        return Read("", "", "no choices in the reply")
    message: dict[str, Any] = (
        choice["message"] if isinstance(choice.get("message"), dict) else {"content": choice.get("text")}
    )
    said = choice.get("finish_reason")
    finish = CUT if is_cut(said) else said if isinstance(said, str) else ""
    text, refusal = _text(message.get("content")), message.get("refusal")
    if refusal or finish == FILTERED:
        return Read("", finish, f"refused: {str(refusal or 'content filter')[:80]}")
    if text is None:
        return Read("", finish, f"content of an unknown form: {str(message.get('content'))[:60]}")
    if not text.strip():
        return Read("", finish, THOUGHT_ALONE if _has_thought(message) else "empty content")
    return Read(text.strip(), finish, "")


class Piece(NamedTuple):
    """What a chunk of a streamed reply says."""

    text: str
    finish: str
    """Why the reply ends here; empty where it goes on."""
    refusal: str
    thinks: bool
    """Whether it holds what is thought before the reply, which is not shown."""


def piece(chunk: Any) -> Piece:
    """A chunk of a stream, as it came: its first choice, whose content may be a text or a list of parts."""
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    choice: Any = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return Piece("", "", "", False)
    delta: dict[str, Any] = (
        choice["delta"] if isinstance(choice.get("delta"), dict) else {"content": choice.get("text")}
    )
    text, said, refusal = _text(delta.get("content")), choice.get("finish_reason"), delta.get("refusal")
    return Piece(text or "", str(said or ""), str(refusal or ""), _has_thought(delta))


def whole_characters(text: str) -> str:
    """A text in which two halves of a character that came apart are one, and a half without its other is U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def is_cut(finish: Any) -> bool:
    """Whether a `finish_reason` says that the reply was cut off."""
    return isinstance(finish, str) and finish.lower() in _CUT


def _text(content: Any) -> str | None:
    """Content as text; of a list the parts that are text, without those that are thinking."""
    match content:
        case None:
            return ""
        case str():
            return content
        case list():
            parts = [part.get("text") if isinstance(part, dict) else part for part in content if not _thinks(part)]
            return "".join(_text(part) or "" for part in parts if isinstance(part, str))
        case bool() | dict():
            return None
        case _:
            return str(content)


def _has_thought(message: dict[str, Any]) -> bool:
    content = message.get("content")
    return any(_text(message.get(name)) for name in ("reasoning_content", "reasoning")) or (
        isinstance(content, list) and any(map(_thinks, content))
    )


def _thinks(part: Any) -> bool:
    return isinstance(part, dict) and str(part.get("type")) in ("thinking", "reasoning", "redacted_thinking")
