"""What each rule of prepare does to a conversation, hit by hit, as a person can judge it."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from vicuna_lit.config.prepare import PrepareConfig
from vicuna_lit.prepare.diff import common_prefix
from vicuna_lit.prepare.filters import offences, without_sentences
from vicuna_lit.prepare.personal_data import replacements
from vicuna_lit.prepare.replies import Reply, asked_before, find_in_reply
from vicuna_lit.prepare.steps import Step
from vicuna_lit.prepare.tidy import Tidy
from vicuna_lit.records.conversation import Conversation, Rejection

BESIDE, MOST = 160, 320
"""Characters shown on each side of what was found, and of it."""
HEAD, TAIL = 480, 160
"""Characters shown of a long text: its beginning and its end."""
TURN = re.compile(r"\bturn (\d+)")
"""In the detail of a rejection; counted from 1, as in all messages."""
Result = Conversation | Rejection


class Hit(NamedTuple):
    """One place where a rule did something, or would have."""

    rule: str
    turn: int
    """Its index, from 0."""
    text: str
    """What was found between ⟦ and ⟧ and what stands around it, or what it was and what it became."""
    found: str = ""
    detail: str = ""


def hits(conversation: Conversation, config: PrepareConfig, pipeline: dict[str, Step]) -> tuple[list[Hit], Result]:
    """All hits of the steps, each once for a conversation and what was found; and what the steps leave."""
    found: dict[tuple[str, str], Hit] = {}
    result: Result = conversation
    for name, step in pipeline.items():
        if isinstance(result, Rejection):
            break
        before, result = result, _taken(step, result)
        for hit in _FINDERS.get(name, _rejected)(before, result, config):
            rule = f"{name.replace('_', ' ')}: {hit.rule}"
            found.setdefault((rule, hit.found or str(hit.turn)), hit._replace(rule=rule))
    return list(found.values()), result


def _taken(step: Step, conversation: Conversation) -> Result:
    try:
        return step(conversation, Counter())
    except Exception as error:  # as in the job: it costs this conversation alone
        return Rejection(conversation.id, "step failed", f"{type(error).__name__}: {error}"[:300])


def _converted(before: Conversation, after: Result, config: PrepareConfig) -> Iterator[Hit]:
    turns = after.turns if isinstance(after, Conversation) else ()
    for i, (old, new) in enumerate(zip(before.turns, turns, strict=False)):
        if old.content != new.content:
            yield Hit("turns converted", i, f"{ends_of(old.content)}\n→\n{ends_of(new.content)}")
    yield from _rejected(before, after, config)


def _tidied(before: Conversation, after: Result, config: PrepareConfig) -> Iterator[Hit]:
    turns = after.turns if isinstance(after, Conversation) else ()
    rules = {name: {"rules": {name: rule}, "unescape": False} for name, rule in config.tidy.rules.items()}
    for i, (old, new) in enumerate(zip(before.turns, turns, strict=False)):
        for name, update in ({"markdown_escapes": {"rules": {}}} | rules).items() if old != new else ():
            alone = Tidy(config.tidy.model_copy(update=update))(Conversation("", (old,)), Counter()).turns[0].content
            if alone != old.content:
                yield Hit(name.replace("_", " "), i, difference(old.content, alone))
    yield from _rejected(before, after, config)


def _scrubbed(before: Conversation, after: Result, config: PrepareConfig) -> Iterator[Hit]:
    for i, turn in enumerate(before.turns):
        for text in (turn.content, turn.reasoning, *(call.arguments for call in turn.tool_calls)):
            for kind, whole, spans in replacements(text, config.personal_data.kinds):
                for span in spans:
                    yield Hit(kind, i, marked(whole, *span), whole[slice(*span)])
    yield from _rejected(before, after, config)


def _filtered(before: Conversation, after: Result, config: PrepareConfig) -> Iterator[Hit]:
    rules, said = config.filters.replies, set[str]()
    for i, turn in enumerate(before.turns):
        for name, rule in rules.items() if turn.role == "assistant" else ():
            reply = Reply(turn.content, rule.opening, asked_before(before.turns, i))
            if rule.scope == "sentence" and (span := find_in_reply(rule, reply)):
                yield Hit(name.replace("_", " "), i, marked(turn.content, *span))
    cut: int | None = None
    tidy = Tidy(config.tidy) if config.tidy.enabled else None
    rest = without_sentences(before, config.filters, Counter(), tidy)
    for turn, scope, reason, detail in offences(rest, config.filters):
        if cut is not None and (turn > cut or scope == "turn"):
            continue
        if scope != "off":
            said.add(reason)
            yield Hit(reason, turn, ends_of(rest.turns[turn].content), detail=detail)
        if scope == "conversation":
            break
        cut = turn if scope == "turn" else cut
    if isinstance(after, Rejection) and after.reason not in said:
        yield from _rejected(before, after, config)


def _rejected(before: Conversation, after: Result, _: PrepareConfig) -> Iterator[Hit]:
    """What any other step takes away: the conversation, or its end."""
    if isinstance(after, Rejection):
        named = TURN.search(after.detail)
        turn = int(named[1]) - 1 if named and int(named[1]) <= len(before.turns) else 0
        shown = before.turns[turn : turn + 1] if named else before.turns[:4]
        yield Hit(after.reason, turn, said_in(replace(before, turns=shown)), detail=after.detail)
    elif len(after.turns) < len(before.turns):
        gone = _gone(before, after)
        yield Hit("turns cut", gone[0], said_in(replace(before, turns=tuple(before.turns[i] for i in gone[:2]))))


def _gone(before: Conversation, after: Conversation) -> list[int]:
    """Places of the turns that a step took away, at the beginning too."""
    gone, kept = [], 0
    for i, turn in enumerate(before.turns):
        if kept < len(after.turns) and turn == after.turns[kept]:
            kept += 1
        else:
            gone.append(i)
    return gone


Finder = Callable[[Conversation, Result, PrepareConfig], Iterator[Hit]]
_FINDERS: dict[str, Finder] = {
    "html": _converted,
    "tidy": _tidied,
    "personal_data": _scrubbed,
    "filters": _filtered,
}


def marked(text: str, start: int, end: int) -> str:
    """A place of a text between ⟦ and ⟧, and what stands beside it."""
    before, found, after = text[max(0, start - BESIDE) : start], text[start:end], text[end : end + BESIDE]
    return f"{'…' if start > BESIDE else ''}{before}⟦{found[:MOST]}{'…' if len(found) > MOST else ''}⟧{after}"


def difference(old: str, new: str) -> str:
    """The first place in which two texts differ, in both."""
    same = common_prefix(old, new)
    tail = common_prefix(old[same:][::-1], new[same:][::-1])
    return f"{marked(old, same, len(old) - tail)}\n→\n{marked(new, same, len(new) - tail)}"


def ends_of(text: str) -> str:
    """The beginning and the end of a text."""
    if len(text) <= HEAD + TAIL:
        return text
    return f"{text[:HEAD]} … {len(text) - HEAD - TAIL:,} characters … {text[-TAIL:]}"


def said_in(conversation: Conversation) -> str:
    """Who says what, shortened."""
    return "\n".join(f"{turn.role}: {ends_of(turn.content)}" for turn in conversation.turns)
