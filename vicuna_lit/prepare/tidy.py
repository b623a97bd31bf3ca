"""Tidy: what a page, a browser extension or a converter added to a text is taken out again, before anything is judged.

Nothing inside a code fence, inline code or a formula is touched. The rules are in YAML; every change is counted.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from vicuna_lit.config.prepare import TidyConfig, TidyRule
from vicuna_lit.data.conversation import Conversation, Turn

CODE = r"(?P<fence>`{3,}|^[ \t>]{0,12}~{3,})(?s:.*?)(?:(?P=fence)`*|\Z)|(?P<tick>``?)(?!`)[^`\n]{1,1000}(?P=tick)"
FORMULA = (
    r"|\$\$(?s:.{1,4000}?)\$\$|\\\[(?s:.{1,4000}?)\\\]|\\\([^\n]{1,1000}?\\\)"
    r"|(?<![\w$\\])\$(?=[^\s$])[^$\n]{1,300}(?<=[^\s\\])\$(?![\w$])"
)
CODE_SPAN = re.compile(CODE, re.M)
FORMULA_SPAN = re.compile(FORMULA.removeprefix("|"), re.M)
PROTECTED = re.compile(CODE + FORMULA, re.M)
END = 400
"""Characters at the end of a text in which a rule with `where: end` looks."""
ESCAPES = re.compile(r"(?<![\\:])((?:\\[_*])+)")
ESCAPED_LINE = re.compile(r"^[^\\\n]*+(?:\\(?![_*])[^\\\n]*+)*+\\[^\n]*+", re.M)
LATEX = re.compile(r"\\[a-zA-Z]{2,20}\{")
"""A command of LaTeX: on such a line a backslash is the author's own."""


def protected(text: str, formulas: bool = True) -> re.Pattern[str] | None:
    """The pattern of what no rule may touch in a text; None: no sign of code or a formula is in it."""
    code = "`" in text or "~~~" in text
    if formulas and ("$" in text or "\\(" in text or "\\[" in text):
        return PROTECTED if code else FORMULA_SPAN
    return CODE_SPAN if code else None


def change_outside(text: str, pattern: re.Pattern[str] | None, change: Callable[[str], str]) -> str:
    """The text with `change` made to each stretch in which the pattern finds nothing."""
    if pattern is None:
        return change(text)
    parts, start = [], 0
    for found in pattern.finditer(text):
        parts += [change(text[start : found.start()]), found[0]]
        start = found.end()
    return "".join([*parts, change(text[start:])])


def tidy(conversation: Conversation, config: TidyConfig, tally: Counter[str]) -> Conversation:
    """All turns without furniture and escapes; the tally counts the turns that each rule changed."""
    turns = tuple(_tidied(turn, config, tally) for turn in conversation.turns)
    return replace(conversation, turns=turns) if turns != conversation.turns else conversation


def _tidied(turn: Turn, config: TidyConfig, tally: Counter[str]) -> Turn:
    text, applied = turn.content, dict[str, None]()
    for _ in range(2 + len(config.rules)):  # one label may stand behind another
        before, end = text, text[-END:]
        if config.unescape and "\\" in text and ("\\_" in text or "\\*" in text):
            text = change_outside(text, protected(text), _unescape_as(turn.role))
            if text != before:
                applied["markdown_escapes"], end = None, text[-END:]
        for name, rule in config.rules.items():
            if rule.hint not in (end if rule.where == "end" else text) or turn.role not in rule.roles:
                continue
            if (changed := _apply(rule, text)) != text:
                text, applied[name], end = changed, None, changed[-END:]
        if text == before:
            break
    if not applied:
        return turn
    tally.update(f"turns tidied: {name.replace('_', ' ')}" for name in applied)
    return replace(turn, content=text)


def _apply(rule: TidyRule, text: str) -> str:
    pattern = _compiled(rule.pattern, rule.where)
    if rule.where == "anywhere":
        return change_outside(text, protected(text, formulas=False), lambda part: pattern.sub(rule.replacement, part))
    found = pattern.search(text, max(0, len(text) - END) if rule.where == "end" else 0)
    if found is None:
        return text
    inside = any(c.start() <= found.start() < c.end() for c in CODE_SPAN.finditer(text))
    return text if inside else text[: found.start()] + found.expand(rule.replacement)


@cache
def _compiled(pattern: str, where: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{pattern})\s*\Z" if where != "anywhere" else pattern, re.M)


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

    def line(found: re.Match[str]) -> str:
        return found[0] if LATEX.search(found[0]) else ESCAPES.sub(put, found[0])

    return lambda text: ESCAPED_LINE.sub(line, text) if "\\" in text else text
