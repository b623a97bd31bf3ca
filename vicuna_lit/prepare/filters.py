"""Roles and filters: what is cut off or dropped, by which rule. Pure functions over one conversation.

Every function takes the conversation and a tally, in which it counts what it changes; it returns the
conversation or a `Rejection`. Rules after FastChat (`fastchat/data/clean_sharegpt.py`), made choices.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from vicuna_lit.config.prepare import (
    EndsConfig,
    FiltersConfig,
    ModerationConfig,
    RepetitionConfig,
    RolesConfig,
    Scope,
    TextRule,
)
from vicuna_lit.pages import counted
from vicuna_lit.prepare.replies import ReplyRules, asked_before, cut_sentences
from vicuna_lit.prepare.tidy import Tidy
from vicuna_lit.records.conversation import PLACEHOLDER, Conversation, Rejection, Turn, follows, trim
from vicuna_lit.records.phrases import Phrases, phrases_of

Tally = Counter[str]
Scorer = Callable[[Iterable[str]], Iterable[float]]
"""The score of each text."""
LEADING_PUNCTUATION = re.compile(r"[\W_]+")
WITHOUT_STOP = re.compile(r"^\s*(?:[-*+•#|>]|\d{1,3}[.)] |[^\n]{1,40}:)|^[^\n]{0,60}$|\S+://\S+$|\b(?i:the end)$")
"""Lines that end without a full stop: items, rows, headings, short lines (a signature, a verse), links, the end."""
SHORT_OPENING = 64
"""Characters in which a rule with `match: begins` finds its text; the end of a shorter one counts as a line's end."""
SHORTEST_REPETITION = 512
"""Characters; shorter replies compress too unevenly to tell."""
BEGINNING, OVERHEAD = 5, 64
"""The share of a text that is compressed first (a fifth), and the bytes that its own code tables may add."""


class RuleViolation(NamedTuple):
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
    unchanged = len(turns) == len(conversation.turns)
    trimmed, cut = trim(conversation if unchanged else replace(conversation, turns=turns))
    if isinstance(trimmed, Rejection):
        # Where nothing is left because of the disorder, that is the reason.
        return trim(conversation)[0] if config.disorder == "trim" and not unchanged else trimmed
    tally["turns cut: no question or no answer"] += cut
    if config.disorder == "trim":
        tally["turns cut: roles do not alternate"] += len(conversation.turns) - len(turns)
    return trimmed


def _merged(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    out: list[Turn] = []
    for turn in turns:
        before = out[-1] if out else None
        alike = before and (before.role, before.supervised, before.weight) == (turn.role, turn.supervised, turn.weight)
        if before and alike and not follows(turn, before):
            out[-1] = replace(
                turn,
                content=f"{before.content}\n\n{turn.content}",
                reasoning="\n\n".join(filter(None, (before.reasoning, turn.reasoning))),
                tool_calls=before.tool_calls + turn.tool_calls,
            )
        else:
            out.append(turn)
    return tuple(out)


def _ordered(turns: tuple[Turn, ...]) -> int:
    """How many turns precede the first that is out of order (assistant turns in front do not count)."""
    start = 1 if turns and turns[0].role == "system" else 0
    while start < len(turns) and turns[start].role == "assistant":
        start += 1
    for i in range(start, len(turns)):
        if not follows(turns[i], turns[i - 1] if i > start else None):
            return i
    return len(turns)


def filter_turns(
    conversation: Conversation, config: FiltersConfig, tally: Tally, tidy: Tidy | None = None
) -> Conversation | Rejection:
    """Applies every rule; an offence with scope `turn` costs that turn and all that follow it.

    Args:
        tidy: the step before, for what a sentence that is cut leaves behind.
    """
    conversation = without_sentences(conversation, config, tally, tidy)
    result = _apply_violations(conversation, offences(conversation, config), tally)
    if isinstance(result, Rejection):
        return result
    spoken = [t for t in result.turns if t.role != "system"]
    characters = sum(len(t.content) for t in spoken)
    if len(spoken) < config.min_turns or characters < config.min_characters:
        return Rejection(conversation.id, "too short", f"{counted(len(spoken), 'turns')}, {characters} characters")
    return result


def without_sentences(
    conversation: Conversation, config: FiltersConfig, tally: Tally, tidy: Tidy | None
) -> Conversation:
    """Cuts the sentences of rules with scope `sentence`, and a page's label that stands at a line's start then."""
    cut = cut_sentences(conversation, config.replies, tally)
    while tidy is not None and cut != conversation:
        conversation = tidy(cut, tally)
        cut = cut_sentences(conversation, config.replies, tally)
    return cut


def moderate(
    conversation: Conversation, config: ModerationConfig, scorer: Scorer, tally: Tally
) -> Conversation | Rejection:
    """Drops or shortens a conversation with a turn that scores above `config.max_score`."""

    def scored() -> Iterator[RuleViolation]:
        for i, score in enumerate(scorer(turn.content for turn in conversation.turns)):
            if not score <= config.max_score:
                yield RuleViolation(i, config.scope, "moderation", f"turn {i + 1} scores {score:.4g}")

    return _apply_violations(conversation, scored(), tally)


def _apply_violations(
    conversation: Conversation, offences: Iterator[RuleViolation], tally: Tally
) -> Conversation | Rejection:
    """Rejects, or keeps the turns before the first that offends, up to the last answer among them.

    The offences come in the order of their turns; behind a turn that is cut off nothing counts.
    """
    first: RuleViolation | None = None
    for offence in offences:
        if offence.scope == "off":
            continue
        if first is not None and offence.turn > first.turn:
            break
        if offence.scope == "count":
            tally[f"turns counted: {offence.reason}"] += 1
            continue
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


def offences(conversation: Conversation, config: FiltersConfig) -> Iterator[RuleViolation]:
    """What breaks a rule, in the order of the turns."""
    rules = [(name.replace("_", " "), rule) for name, rule in config.texts.items() if rule.scope != "off"]
    replies = ReplyRules(config.replies)
    yield from _continues(conversation, config.ends)
    for i, turn in enumerate(conversation.turns):
        content = turn.content
        if config.empty != "off" and turn.is_empty:
            yield RuleViolation(i, config.empty, "empty turn", f"turn {i + 1}, {turn.role}")
            continue
        lowered: str | None = None
        for reason, rule in rules:
            if turn.role not in rule.roles:
                continue
            if lowered is None and rule.match == "contains":
                lowered = _small(content)
            if found := _find(rule, content, lowered or ""):
                yield RuleViolation(i, rule.scope, reason, f"turn {i + 1}: {found!r:.60}")
        if turn.role == "assistant":
            for reason, rule, found in replies.broken_by(content, asked_before(conversation.turns, i)):
                scope = "turn" if rule.scope == "sentence" else rule.scope
                yield RuleViolation(i, scope, reason, f"turn {i + 1}: {found!r:.60}")
            yield from _spoiled(i, content, config)
    yield from _unfinished(conversation, config.ends)


def _spoiled(i: int, content: str, config: FiltersConfig) -> Iterator[RuleViolation]:
    if ratio := _repeats(content, config.repetition):
        yield RuleViolation(i, config.repetition.scope, "repetition", f"turn {i + 1} compresses {ratio:.1f} times")
    if (share := _placeholders(content)) > config.placeholders.max_share:
        detail = f"turn {i + 1}: {share:.0%} of it stand for personal data"
        yield RuleViolation(i, config.placeholders.scope, "placeholders", detail)


def _placeholders(content: str) -> float:
    marks = sum(map(len, PLACEHOLDER.findall(content))) if "[" in content else 0
    return marks / len("".join(content.split())) if marks else 0.0


def _continues(conversation: Conversation, config: EndsConfig) -> Iterator[RuleViolation]:
    first = next((i for i, turn in enumerate(conversation.turns) if turn.role == "user"), None)
    if config.continued != "off" and first is not None and len(conversation.turns[first].content) < 64:
        said = conversation.turns[first].content.strip(" \n\t.!…。'\"").lower()
        if said in config.words:
            yield RuleViolation(first, config.continued, "opening goes on with what is not there", f"{said!r}")


def _unfinished(conversation: Conversation, config: EndsConfig) -> Iterator[RuleViolation]:
    last = len(conversation.turns) - 1
    if config.unfinished == "off" or last < 0 or conversation.turns[last].role != "assistant":
        return
    content = conversation.turns[last].content.rstrip()
    if len(content) >= config.min_characters and breaks_off(content):
        yield RuleViolation(last, config.unfinished, "reply breaks off", f"turn {last + 1} ends {content[-30:]!r}")


def breaks_off(content: str) -> bool:
    """Whether a text ends within a sentence or a code fence; lines of lists, tables and links need no full stop."""
    if content.count("```") % 2:
        return True
    line = content[content.rfind("\n") + 1 :]
    return (content[-1:].isalnum() or content[-1:] in ",(") and not WITHOUT_STOP.search(line)


def _find(rule: TextRule, content: str, lowered: str) -> str | None:
    match rule.match:
        case "contains":
            for text in _lowered(rule.texts):
                if text in lowered:
                    return text
            return None
        case "begins":
            texts, longest = _openings(rule.texts)
            opening = _small(content[:longest])  # a tenth of what the whole takes
            if not opening[:1].isalnum():
                opening = LEADING_PUNCTUATION.sub("", opening[:SHORT_OPENING], count=1)
            if len(opening) < SHORT_OPENING:
                opening += "\n"
            return next(filter(opening.startswith, texts), None) if opening.startswith(texts) else None
        case "regex":
            return next((found[0] for p in rule.texts if (found := _compiled(p).search(content))), None)
        case "phrases":
            return next((found for place in rule.texts if (found := _phrases(place).find(content))), None)


def _small(content: str) -> str:
    return content.lower().replace("’", "'")


@cache
def _lowered(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text.lower() for text in texts)


@cache
def _openings(texts: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """In small letters; and of how many characters a text's opening is looked at."""
    return _lowered(texts), max((SHORT_OPENING, *map(len, _lowered(texts))))


@cache
def _phrases(place: str) -> Phrases:
    return phrases_of(place, "scope: off switches the rule off")


def phrase_lists(config: FiltersConfig) -> list[str]:
    """The paths of the lists of phrases that rules look for; each once."""
    rules = (rule for rule in config.texts.values() if rule.match == "phrases" and rule.scope != "off")
    return list(dict.fromkeys(place for rule in rules for place in rule.texts)) if config.enabled else []


def read_phrases(config: FiltersConfig) -> None:
    """Reads the lists of phrases of all rules, so that one that is missing is said before the work begins.

    Raises:
        MissingPath, DataError: a list is not there, or empty.
    """
    _phrases.cache_clear()  # an earlier job of this process may have read others there
    for place in phrase_lists(config):
        _phrases(place)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _repeats(content: str, config: RepetitionConfig) -> float | None:
    if config.scope == "off" or len(content) < SHORTEST_REPETITION:
        return None
    raw = content.encode()
    # A text takes no fewer bytes than its beginning alone: that decides for nearly all, in half the time.
    beginning = zlib.compress(raw[: len(raw) // BEGINNING + 3 * OVERHEAD], 1)
    if (len(beginning) - OVERHEAD) * config.max_compression > len(raw):
        return None
    ratio = len(raw) / len(zlib.compress(raw, 1))
    return ratio if ratio > config.max_compression else None
