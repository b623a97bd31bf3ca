"""Files whose records are the lines of a log, or single messages → records that are conversations.

What such a file is, its first record says. One conversation is held at a time, so memory stays flat.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from vicuna_lit.records import claude_code, codex_rollouts, gemini_cli, message_rows
from vicuna_lit.records.exports import Unusable

Line = dict[str, Any]


class Kind(NamedTuple):
    """How the records of one kind of file are put together."""

    name: str
    begins: Callable[[Any], bool]
    """Whether a file that begins with a record is of this kind."""
    holds: Callable[[Any], bool]
    """Whether a later record is one of its lines."""
    kept: Callable[[Line], Line | None]
    """Of a line what is needed; None: nothing."""
    goes_on: Callable[[list[Line], set[str], Line], bool]
    """Whether a line belongs to those before it (their `uuid`s as a set), or begins something else."""
    conversations: Callable[[list[Line]], Iterator[Line | Unusable]]
    """The conversations in the lines that belong together."""
    named: Callable[[Line], str] = lambda line: ""
    """The conversation that a line names, where each must stand in one piece."""


KINDS = (
    Kind(
        "a session of Claude Code",
        claude_code.is_line,
        claude_code.is_line,
        claude_code.kept,
        claude_code.goes_on,
        claude_code.conversations,
    ),
    Kind(
        "a rollout of Codex",
        codex_rollouts.is_first,
        codex_rollouts.is_line,
        codex_rollouts.kept,
        codex_rollouts.goes_on,
        codex_rollouts.conversations,
    ),
    Kind(
        "a session of Gemini CLI",
        gemini_cli.is_first,
        gemini_cli.is_line,
        gemini_cli.kept,
        gemini_cli.goes_on,
        gemini_cli.conversations,
    ),
    Kind(
        "a chat of SillyTavern",
        message_rows.begins_chat,
        message_rows.is_said,
        message_rows.said_only,
        message_rows.in_chat,
        message_rows.chats,
    ),
    Kind(
        "a table of messages",
        message_rows.is_row,
        message_rows.is_row,
        message_rows.kept,
        message_rows.goes_on,
        message_rows.conversations,
        message_rows.name_of,
    ),
)
"""In this order: Gemini's first line is none of Claude Code's, for it has no type."""


def sessions_in(values: Iterator[Any]) -> Iterator[Any]:
    """The records of a file as they stand, or, where its records are lines of a log, its conversations.

    A line that cannot be read ends its session: those behind it would have a gap that nobody left in it. How many they
    are is said.
    """
    first = next(values, _END)
    if first is _END:
        return
    kind = next((kind for kind in KINDS if kind.begins(first)), None)
    if kind is None:
        yield first
        yield from values
        return
    group, count = _Group(kind), 0
    for value in chain((first,), values, (_END,)):
        for found in group.take(value):
            count += 1
            yield found
    if not count:
        yield Unusable("no answered turn", f"the file is {kind.name}, and holds no message")


_END = object()


class _Group:
    """The lines of one session so far.

    Args:
        kind: of the file.
    """

    def __init__(self, kind: Kind):
        self.kind = kind
        self.lines: list[Line] = []
        self.names: set[str] = set()
        self.lost: int | None = None
        """Lines behind one that could not be read; None: there was no such line."""
        self.seen: set[str] = set()

    def take(self, value: Any) -> Iterator[Any]:
        """Takes one more record; what is whole by then is given: all of it behind the last (`_END`)."""
        if value is _END:
            yield from self._whole()
        elif isinstance(value, Unusable):
            yield value
            lines = self.lines
            yield from self._whole()
            self.lines, self.lost = lines[-1:], 0
        elif not self.kind.holds(value):
            yield value
        else:
            if not self.kind.goes_on(self.lines, self.names, value):
                yield from self._whole()
            if self.lost is not None:
                self.lost += 1
            elif line := self.kind.kept(value):
                self.lines.append(line)
                self.names.add(str(line.get("uuid")))

    def _whole(self) -> Iterator[Any]:
        lines, lost = self.lines, self.lost
        self.lines, self.lost, self.names = [], None, set()
        if lost:
            yield Unusable("broken JSON", f"{lost} lines of {self.kind.name} stand behind one that cannot be read")
        if not lines or lost is not None:
            return
        if name := self.kind.named(lines[0]):
            if name in self.seen:
                yield Unusable("conversation in pieces", f"rows of {name!r:.60} stand behind others; sort them by it")
                return
            self.seen.add(name)
        yield from self.kind.conversations(lines)
