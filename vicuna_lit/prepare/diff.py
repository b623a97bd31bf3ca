"""A record before and after preparation, turn by turn, short enough to be looked at."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Literal

from vicuna_lit.records.conversation import Turn

TURNS_SHOWN = 8
HEAD, SHOWN = 500, 2000
"""Characters of a turn shown at once, and after a click; the rest is only counted."""
WORD = re.compile(r"<[^<>]*>|\w+|\s+|.", re.DOTALL)
TAG = re.compile(r"<[^<>]*>")

Kind = Literal["unchanged", "changed", "removed", "added"]
Pair = tuple[Turn | None, Turn | None]
Marked = list[tuple[str, bool]]
"""Pieces of a text, and whether the other side lacks them."""


@dataclass(frozen=True)
class Cell:
    """One turn on one side. `skipped` and `hidden` count the characters left out before and after."""

    role: str
    skipped: int
    head: Marked
    tail: Marked
    hidden: int

    @property
    def tail_length(self) -> int:
        """Characters shown after a click."""
        return sum(len(text) for text, _ in self.tail)


@dataclass(frozen=True)
class ComparisonRow:
    """A turn before and after."""

    kind: Kind
    before: Cell | None
    after: Cell | None


@dataclass(frozen=True)
class Comparison:
    """The most telling rows in a row, how many turns stand before and after them, and the kinds of all."""

    earlier: int
    rows: list[ComparisonRow]
    later: int
    kinds: list[tuple[Kind, int]]


def compare(before: Sequence[Turn], after: Sequence[Turn]) -> Comparison:
    """Finds which turn became which, and shows the stretch in which the most happens."""
    pairs = list(_pairs(before, after))
    kinds: list[Kind] = [_kind(*pair) for pair in pairs]
    starts = range(max(1, len(pairs) - TURNS_SHOWN + 1))
    start = max(starts, key=lambda i: _variety(kinds[i : i + TURNS_SHOWN]))
    shown = slice(start, start + TURNS_SHOWN)
    rows = [_row(kind, *pair) for kind, pair in zip(kinds[shown], pairs[shown], strict=True)]
    return Comparison(start, rows, max(0, len(pairs) - start - TURNS_SHOWN), Counter(kinds).most_common())


def _variety(kinds: Sequence[Kind]) -> float:
    """Grows with the number of kinds, and with how evenly they occur."""
    return sum(math.sqrt(count) for count in Counter(kinds).values())


def _pairs(before: Sequence[Turn], after: Sequence[Turn]) -> Iterator[Pair]:
    matcher = SequenceMatcher(None, [_key(turn) for turn in before], [_key(turn) for turn in after], autojunk=False)
    for _, i1, i2, j1, j2 in matcher.get_opcodes():
        for old, new in zip_longest(before[i1:i2], after[j1:j2]):
            if old and new and old.role != new.role:
                yield from ((old, None), (None, new))
            else:
                yield old, new


def _key(turn: Turn) -> tuple[str, str]:
    """What survives a conversion from HTML: the role and the first letters."""
    letters = filter(str.isalnum, TAG.sub("", turn.content[: 2 * SHOWN]))
    return turn.role, "".join(letters)[:40] or turn.content[:40]


def _kind(old: Turn | None, new: Turn | None) -> Kind:
    if old is None:
        return "added"
    if new is None:
        return "removed"
    return "unchanged" if old.content == new.content else "changed"


def _row(kind: Kind, old: Turn | None, new: Turn | None) -> ComparisonRow:
    if kind != "changed" or old is None or new is None:
        return ComparisonRow(kind, old and _plain(old), new and _plain(new))
    same = common_prefix(old.content, new.content)
    start = same - HEAD // 4 if same > HEAD // 2 else 0
    shown = slice(start, start + SHOWN)
    cut = max(len(old.content), len(new.content)) > start + SHOWN
    marked = _marked(old.content[shown], new.content[shown], cut)
    return ComparisonRow(kind, _cell(old, start, marked[0]), _cell(new, start, marked[1]))


def common_prefix(a: str, b: str) -> int:
    """Characters with which both texts begin."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def _marked(a: str, b: str, cut: bool) -> tuple[Marked, Marked]:
    words_a, words_b = WORD.findall(a), WORD.findall(b)
    left, right = [], []
    opcodes = SequenceMatcher(None, words_a, words_b, autojunk=False).get_opcodes()
    for n, (tag, i1, i2, j1, j2) in enumerate(opcodes):
        # Where the texts are cut off for display, what is left over may well have its partner beyond.
        over = cut and 0 < n == len(opcodes) - 1
        different = tag != "equal" and not over
        left.append(("".join(words_a[i1:i2]), different))
        right.append(("".join(words_b[j1:j2]), different))
    return left, right


def _plain(turn: Turn) -> Cell:
    return _cell(turn, 0, [(turn.content[:SHOWN], False)])


def _cell(turn: Turn, skipped: int, marked: Marked) -> Cell:
    shown = sum(len(text) for text, _ in marked)
    head, tail, room = [], [], shown if shown < 1.5 * HEAD else HEAD
    for text, different in marked:
        head.append((text[:room], different))
        tail.append((text[room:], different))
        room = max(0, room - len(text))
    hidden = len(turn.content) - skipped - shown
    return Cell(turn.role, skipped, [p for p in head if p[0]], [p for p in tail if p[0]], hidden)
