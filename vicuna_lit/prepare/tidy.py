"""Tidy: what a page, a browser extension or a converter added to a text is taken out again, before anything is judged.

Nothing inside a code fence, inline code or a formula is touched. The rules are in YAML; every change is counted.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from vicuna_lit.config.prepare import TidyConfig, TidyRule
from vicuna_lit.records.conversation import Conversation, Turn

# Each alternative begins with its sign, and looks back from there: Python then searches for signs, ten times as fast.
CODE = r"`(?P<fence>``+)(?s:.*?)(?:`(?P=fence)`*|\Z)|`(?P<tick>`?)(?!`)[^`\n]{1,1000}`(?P=tick)"
FORMULA = (
    r"\$\$(?s:.{1,4000}?)\$\$|\\\[(?s:.{1,4000}?)\\\]|\\\([^\n]{1,1000}?\\\)"
    r"|\$(?<![\w$\\].)(?=[^\s$])[^$\n]{1,300}(?<=[^\s\\])\$(?![\w$])"
)
TILDES = r"^[ \t>]{0,12}(?P<tildes>~{3,})(?s:.*?)(?:(?P=tildes)~*|\Z)"
CODE_SPAN, FORMULA_SPAN, PROTECTED = (re.compile(p, re.M) for p in (CODE, FORMULA, f"{CODE}|{FORMULA}"))
WITH_TILDES, ALL_WITH_TILDES = (re.compile(f"{CODE}|{TILDES}{more}", re.M) for more in ("", f"|{FORMULA}"))
END = 400
"""Characters at the end of a text in which a rule with `where: end` looks."""
ESCAPES = re.compile(r"\\(?<![\\:].)[_*](?:\\[_*])*")
LATEX = re.compile(r"\\[a-zA-Z]{2,20}\{")
"""A command of LaTeX: on such a line a backslash is the author's own."""


def protected(text: str, formulas: bool = True) -> re.Pattern[str] | None:
    """The pattern of what no rule may touch in a text; None: no sign of code or a formula is in it."""
    formulas = formulas and ("$" in text or "\\(" in text or "\\[" in text)
    if "~~~" in text:
        return ALL_WITH_TILDES if formulas else WITH_TILDES
    if "`" in text:
        return PROTECTED if formulas else CODE_SPAN
    return FORMULA_SPAN if formulas else None


def change_outside(text: str, pattern: re.Pattern[str] | None, change: Callable[[str], str]) -> str:
    """The text with `change` made to each stretch in which the pattern finds nothing."""
    if pattern is None:
        return change(text)
    parts, start = [], 0
    for found in pattern.finditer(text):
        parts += [change(text[start : found.start()]), found[0]]
        start = found.end()
    return "".join([*parts, change(text[start:])])


class _Rule(NamedTuple):
    """A rule as it is applied, without the cost of asking a config for it in each turn."""

    name: str
    hint: str
    at_end: bool
    rule: TidyRule


class Tidy:
    """The step: all turns without furniture and escapes; the tally counts the turns that each rule changed."""

    def __init__(self, config: TidyConfig):
        self._unescape = config.unescape
        self._most = 2 + len(config.rules)
        rules = [_Rule(name, rule.hint, rule.where == "end", rule) for name, rule in config.rules.items()]
        roles = dict.fromkeys(role for one in rules for role in one.rule.roles)
        self._rules, self._first = (
            {
                role: tuple(one for one in rules if role in one.rule.roles and (one.rule.where == "start") is first)
                for role in roles
            }
            for first in (False, True)
        )
        self._beginnings = {role: tuple(one.hint for one in first) for role, first in self._first.items()}
        """With which a text begins that a rule with `where: start` may change: asked for all at once."""
        self._hints = {
            role: tuple(_shortest(one.hint for one in of if one.at_end == at_end) for at_end in (True, False))
            for role, of in self._rules.items()
        }

    def __call__(self, conversation: Conversation, tally: Counter[str]) -> Conversation:
        """The conversation itself where nothing is changed."""
        turns = conversation.turns
        tidied = tuple([self._tidied(turn, tally) for turn in turns])
        return conversation if tidied == turns else replace(conversation, turns=tidied)

    def _may_change(self, text: str, role: str) -> bool:
        """Whether a sign of any rule is there: in one turn of ten."""
        if "\r" in text or (self._unescape and _is_escaped(text)) or self._may_begin(text, role):
            return True
        at_end, anywhere = self._hints.get(role, ((), ()))
        return (bool(at_end) and any(map(text[-END:].__contains__, at_end))) or any(map(text.__contains__, anywhere))

    def _may_begin(self, text: str, role: str) -> bool:
        beginnings = self._beginnings.get(role)
        return bool(beginnings) and (text[:1].isspace() or text.startswith(beginnings))

    def _tidied(self, turn: Turn, tally: Counter[str]) -> Turn:
        text = turn.content
        if not self._may_change(text, turn.role):
            return turn
        if "\r" in text:
            text = text.replace("\r\n", "\n")  # the rules know one end of a line
        applied: dict[str, None] = {}
        rules = self._rules.get(turn.role, ())
        for _ in range(self._most):  # one label may stand behind another
            before = text
            if self._unescape and _is_escaped(text):
                text = change_outside(text, protected(text), _unescape_as(turn.role))
                if text != before:
                    applied["markdown_escapes"] = None
            if self._may_begin(text, turn.role):
                begun = text.lstrip()
                for name, hint, _, rule in self._first.get(turn.role, ()):
                    if begun.startswith(hint) and (changed := _apply(rule, text)) != text:
                        text, applied[name], begun = changed, None, changed.lstrip()
            end = text[-END:]
            for name, hint, at_end, rule in rules:
                if hint in (end if at_end else text) and (changed := _apply(rule, text)) != text:
                    text, applied[name], end = changed, None, changed[-END:]
            if text == before:
                break
        if not applied:
            return turn
        tally.update(f"turns tidied: {name.replace('_', ' ')}" for name in applied)
        # Ends of lines stay what they were, where all were alike.
        ends, windows = turn.content.count("\n"), turn.content.count("\r\n")
        return replace(turn, content=text.replace("\n", "\r\n") if windows == ends > 0 else text)


def _shortest(hints: Iterable[str]) -> tuple[str, ...]:
    """Each hint once; none that holds another: a text with `Copy code` has `Copy`."""
    found = set(hints)
    return tuple(sorted(one for one in found if not any(other in one for other in found - {one})))


def _is_escaped(text: str) -> bool:
    return "\\" in text and ("\\_" in text or "\\*" in text)


def _apply(rule: TidyRule, text: str) -> str:
    pattern, code = _compiled(rule.pattern, rule.where), protected(text, formulas=False)
    if rule.where == "anywhere":
        return change_outside(text, code, lambda part: pattern.sub(rule.replacement, part))
    if rule.where == "start":
        return pattern.sub(rule.replacement, text, count=1)
    found = pattern.search(text, max(0, len(text) - END) if rule.where == "end" else 0)
    if found is None:
        return text
    inside = code is not None and any(c.start() <= found.start() < c.end() for c in code.finditer(text))
    return text if inside else text[: found.start()] + found.expand(rule.replacement)


@cache
def _compiled(pattern: str, where: str) -> re.Pattern[str]:
    around = {"anywhere": pattern, "start": rf"\A\s*(?:{pattern})"}
    return re.compile(around.get(where, rf"(?:{pattern})\s*\Z"), re.M)


@cache
def _unescape_as(role: str) -> Callable[[str], str]:
    """A user's text is no markdown: every escape came from the converter. In a reply `\\*a\\*` must not be emphasis."""

    def put(found: re.Match[str]) -> str:
        text, (start, end) = found.string, found.span()
        before, after = text[start - 1 : start] or " ", text[end : end + 1] or " "
        if "*" in found[0]:
            if role != "user" and before.isspace() != after.isspace():
                return found[0]
        elif not (before.isalnum() or before == "_" or after.isalnum() or after == "_"):
            return found[0]
        return found[0].replace("\\", "")

    def line(text: str) -> str:
        return ESCAPES.sub(put, text) if _is_escaped(text) and not LATEX.search(text) else text

    def unescape(text: str) -> str:
        if not LATEX.search(text):
            return line(text)  # then its lines are alike
        return "\n".join(map(line, text.split("\n"))) if _is_escaped(text) else text

    return unescape
