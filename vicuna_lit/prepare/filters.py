"""Roles and filters: what is cut off or dropped, by which rule. Pure functions over one conversation.

Every function takes the conversation and a tally, in which it counts what it changes; it returns the
conversation or a `Rejection`. Rules after FastChat (`fastchat/data/clean_sharegpt.py`), made choices.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from vicuna_lit.conversation import Conversation, Rejection, Turn, trim
from vicuna_lit.prepare.config import FiltersConfig, ModerationConfig, RepetitionConfig, RolesConfig, Scope, TextRule

Tally = Counter[str]
INVISIBLE = re.compile(r"[\s\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u2064\ufeff\x00-\x1f\x7f-\x9f]*+")
LEADING_PUNCTUATION = re.compile(r"[\W_]+")
SHORTEST_REPETITION = 512
"""Bytes; shorter replies compress too unevenly to tell."""


class Offence(NamedTuple):
    """A turn that breaks a rule, and what that costs."""

    turn: int
    scope: Scope
    reason: str
    detail: str


def alternate(conversation: Conversation, config: RolesConfig, tally: Tally) -> Conversation | Rejection:
    """User and assistant in turn, from a question to an answer.

    Assistant turns before the first question and user turns after the last answer are cut off. Where
    two turns of one role follow each other, `config.disorder` decides.
    """
    turns = conversation.turns
    if config.disorder == "merge":
        turns = _merged(turns)
        tally["turns merged with the one before"] += len(conversation.turns) - len(turns)
    elif config.disorder == "trim":
        turns = turns[: _ordered(turns)]
    trimmed, cut = trim(replace(conversation, turns=turns))
    if isinstance(trimmed, Rejection):
        # Where nothing is left because of the disorder, that is the reason.
        return trim(conversation)[0] if config.disorder == "trim" and turns != conversation.turns else trimmed
    tally["turns cut: no question or no answer"] += cut
    if config.disorder == "trim":
        tally["turns cut: roles do not alternate"] += len(conversation.turns) - len(turns)
    return trimmed


def _merged(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    out: list[Turn] = []
    for turn in turns:
        if out and out[-1].role == turn.role:
            out[-1] = replace(turn, content=f"{out[-1].content}\n\n{turn.content}")
        else:
            out.append(turn)
    return tuple(out)


def _ordered(turns: tuple[Turn, ...]) -> int:
    """How many turns precede the first that is out of order (assistant turns in front do not count)."""
    start = 1 if turns and turns[0].role == "system" else 0
    while start < len(turns) and turns[start].role == "assistant":
        start += 1
    for i in range(start, len(turns)):
        if (turns[i].role == "assistant") != ((i - start) % 2 == 1) or turns[i].role == "system":
            return i
    return len(turns)


def filter_turns(conversation: Conversation, config: FiltersConfig, tally: Tally) -> Conversation | Rejection:
    """Applies every rule; an offence with scope `turn` costs that turn and all that follow it."""
    result = _punish(conversation, _offences(conversation, config), tally)
    if isinstance(result, Rejection):
        return result
    spoken = [t for t in result.turns if t.role != "system"]
    characters = sum(len(t.content) for t in spoken)
    if len(spoken) < config.min_turns or characters < config.min_characters:
        return Rejection(conversation.id, "too short", f"{len(spoken)} turns, {characters} characters")
    return result


def moderate(
    conversation: Conversation, config: ModerationConfig, scorer: Callable[[str], float], tally: Tally
) -> Conversation | Rejection:
    """Drops or shortens a conversation with a turn that scores above `config.max_score`."""

    def offences() -> Iterator[Offence]:
        for i, turn in enumerate(conversation.turns):
            score = float(scorer(turn.content))
            if not score <= config.max_score:
                yield Offence(i, config.scope, "moderation", f"turn {i} scores {score:.4g}")

    return _punish(conversation, offences(), tally)


def _punish(conversation: Conversation, offences: Iterator[Offence], tally: Tally) -> Conversation | Rejection:
    """Rejects, or keeps the turns before the first that offends, up to the last answer among them.

    The offences come in the order of their turns; behind a turn that is cut off nothing counts.
    """
    first: Offence | None = None
    for offence in offences:
        if offence.scope == "off":
            continue
        if first is not None and offence.turn > first.turn:
            break
        if offence.scope == "conversation":
            return Rejection(conversation.id, offence.reason, offence.detail)
        first = first or offence
    if first is None:
        return conversation
    kept = list(conversation.turns[: first.turn])
    while kept and kept[-1].role != "assistant":
        kept.pop()
    if not kept:
        return Rejection(conversation.id, first.reason, first.detail)
    tally[f"turns cut: {first.reason}"] += len(conversation.turns) - len(kept)
    return replace(conversation, turns=tuple(kept))


def _offences(conversation: Conversation, config: FiltersConfig) -> Iterator[Offence]:
    rules = [(name.replace("_", " "), rule) for name, rule in config.texts.items() if rule.scope != "off"]
    for i, turn in enumerate(conversation.turns):
        content = turn.content
        if config.empty != "off" and not content[:1].isalnum() and INVISIBLE.fullmatch(content):
            yield Offence(i, config.empty, "empty turn", f"turn {i}, {turn.role}")
            continue
        lowered = content.lower().replace("’", "'")
        for reason, rule in rules:
            if turn.role in rule.roles and (found := _find(rule, content, lowered)):
                yield Offence(i, rule.scope, reason, f"turn {i}: {found!r:.60}")
        if turn.role == "assistant" and (ratio := _repeats(content, config.repetition)):
            yield Offence(i, config.repetition.scope, "repetition", f"turn {i} compresses {ratio:.1f} times")


def _find(rule: TextRule, content: str, lowered: str) -> str | None:
    match rule.match:
        case "contains":
            for text in _lowered(rule.texts):
                if text in lowered:
                    return text
            return None
        case "begins":
            opening = LEADING_PUNCTUATION.sub("", lowered[:64], count=1) if not lowered[:1].isalnum() else lowered
            texts = _lowered(rule.texts)
            return next(filter(opening.startswith, texts), None) if opening.startswith(texts) else None
        case "regex":
            return next((found[0] for p in rule.texts if (found := _compiled(p).search(content))), None)


@cache
def _lowered(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text.lower() for text in texts)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _repeats(content: str, config: RepetitionConfig) -> float | None:
    if config.scope == "off" or len(content) < SHORTEST_REPETITION:
        return None
    raw = content.encode()
    ratio = len(raw) / len(zlib.compress(raw, 1))
    return ratio if ratio > config.max_compression else None
