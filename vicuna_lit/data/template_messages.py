"""Turns as the messages that Jinja chat templates take, made so that each text is found again in what they write."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from vicuna_lit.data.chat_template import Segment, TemplateError
from vicuna_lit.records.conversation import INLINE_THOUGHT, Conversation, ToolCall, Turn

FIRST_STAND_IN = 0x105000
"""First code point of the private stand-ins for control tokens' texts that people wrote; no text holds one."""
_MARK = "\U0010fffe"
_MARKED = re.compile(f"{_MARK}(\\d+){_MARK}")
_ESCAPED = re.compile(r"\\U(0010[5-9a-f][0-9a-f]{3})")
_TAG = re.compile(r"</?[^<>\s]{1,40}>")
_THOUGHT_KEYS = ("reasoning_content", "thinking", "reasoning")


class StandIns:
    """Control tokens' texts inside messages, kept apart from the template's own: `</s>` in a user's turn is text.

    Args:
        control: the texts of the control tokens.
    """

    def __init__(self, control: Iterable[str]):
        ordered = sorted(set(control), key=len, reverse=True)
        self._hidden = {text: chr(FIRST_STAND_IN + i) for i, text in enumerate(ordered)}
        self._shown = {hidden: text for text, hidden in self._hidden.items()}
        self._texts = re.compile("|".join(map(re.escape, ordered)) or "(?!)")
        self._chars = re.compile(f"([{chr(FIRST_STAND_IN)}-{chr(FIRST_STAND_IN + len(ordered))}])")

    def hide(self, value: Any) -> Any:
        """A text, or all texts in lists and objects, with stand-ins.

        Raises:
            TemplateError: a text holds such a private-use character itself.
        """
        if isinstance(value, str):
            if not value.isascii() and max(value) >= chr(FIRST_STAND_IN):
                raise TemplateError(f"a turn holds a private-use character, U+{FIRST_STAND_IN:X} or above")
            return self._texts.sub(lambda found: self._hidden[found[0]], value)
        if isinstance(value, list):
            return [self.hide(one) for one in value]
        if isinstance(value, dict):
            return {self.hide(key): self.hide(one) for key, one in value.items()}
        return value

    def turn(self, turn: Turn) -> Turn:
        """A turn whose texts are hidden; what they hold stays as it is where they hold no control token."""
        calls = tuple(self._call(call) for call in turn.tool_calls)
        content, reasoning = self.hide(turn.content), self.hide(turn.reasoning)
        return replace(turn, content=content, reasoning=reasoning, tool_calls=calls, name=self.hide(turn.name))

    def _call(self, call: ToolCall) -> ToolCall:
        values = self.hide(call.values)
        hidden = ToolCall(self.hide(call.name), self.hide(call.arguments), call.id)
        # JSON may spell a control token's text with escapes, which only its values show.
        return hidden if hidden.values == values else hidden._replace(arguments=json.dumps(values, ensure_ascii=False))

    def segments(self, text: str, supervised: bool = False, thought: bool = False) -> list[Segment]:
        """A stretch of what the template wrote, with the texts back in place of their stand-ins."""
        pieces = self._chars.split(text)
        return [
            Segment(self._shown[piece] if i % 2 else piece, supervised, literal=bool(i % 2), thought=thought)
            for i, piece in enumerate(pieces)
            if piece
        ]


def shown_again(text: str) -> str:
    """What a template wrote, where it wrote an object as Python does (SmolLM3 its tools): that spells our characters
    with escapes."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text) if "\\U0010" in text else text


class Piece(NamedTuple):
    """A text of a conversation, cut in two by its mark."""

    turn: int
    """Its place in the conversation; −1: a tool's schema."""
    kind: Literal["turn", "reasoning", "calls", "tools"]
    left: str
    right: str

    def stands_at(self, text: str, place: int) -> tuple[int, int] | None:
        """Where it begins and ends, if it stands around a place: as it is, or as JSON writes it."""
        for left, right in ((self.left, self.right), (_json(self.left), _json(self.right))):
            if text.startswith(left, place - len(left)) and text.startswith(right, place) and place >= len(left):
                return place - len(left), place + len(right)
        return None


class Marked:
    """What a template wrote for turns with marks: the text without the marks, and where they stood.

    Args:
        written: with the marks.
    """

    def __init__(self, written: str, pieces: list[Piece]):
        parts = _MARKED.split(written)
        self.text = "".join(parts[::2])
        self.pieces = pieces
        self._places: dict[int, list[int]] = {}
        end = len(parts[0])
        for number, after in zip(parts[1::2], parts[2::2], strict=True):
            self._places.setdefault(int(number), []).append(end)
            end += len(after)

    def places(self, piece: int) -> list[int]:
        """Where the middle of a piece stands, by its number; several places where it was written again."""
        return self._places.get(piece, [])


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def put_marks(turns: list[Turn], tools: list[Any]) -> tuple[list[Turn], list[Any], list[Piece]]:
    """The same with a mark inside each text: in the middle and in no tag, where a template that trims or looks at how a
    text begins or which tags it holds does as it does without."""
    pieces: list[Piece] = []

    def mark(text: str, turn: int, kind: Any) -> str:
        core = text.strip()
        if not core:
            return text
        start = text.index(core)
        middle = start + len(core) // 2
        tags = (tag.span() for tag in _TAG.finditer(text, max(start, middle - 100), middle + 100))
        middle = next((end for begin, end in tags if begin < middle < end), middle)
        pieces.append(Piece(turn, kind, text[start:middle], text[middle : start + len(core)]))
        return f"{text[:middle]}{_MARK}{len(pieces) - 1}{_MARK}{text[middle:]}"

    def content(turn: Turn, i: int) -> str:
        inline = INLINE_THOUGHT.match(turn.content) if turn.role == "assistant" else None
        if inline is None:
            return mark(turn.content, i, "turn")
        return inline[1] + mark(inline[2], i, "reasoning") + inline[3] + mark(turn.content[inline.end() :], i, "turn")

    out = []
    for i, turn in enumerate(turns):
        reasoning = mark(turn.reasoning, i, "reasoning")
        said = content(turn, i)
        calls = tuple(call._replace(name=mark(call.name, i, "calls")) for call in turn.tool_calls)
        out.append(replace(turn, content=said, reasoning=reasoning, tool_calls=calls))
    return out, [_named(tool, lambda name: mark(name, -1, "tools")) for tool in tools], pieces


def _named(tool: Any, change: Any) -> Any:
    """A tool's schema with its name changed."""
    inner = tool.get("function") if isinstance(tool.get("function"), dict) else None
    if inner is not None and isinstance(inner.get("name"), str):
        return tool | {"function": inner | {"name": change(inner["name"])}}
    if not isinstance(tool.get("name"), str):
        raise TemplateError(f"the schema of a tool has no name: {str(tool)[:60]}")
    return tool | {"name": change(tool["name"])}


def thought_key(template: str) -> str | None:
    """The field of a message that a template takes for an assistant's thoughts; None: it knows of none."""
    reads = (r"\.{0}\b|\[\s*['\"]{0}['\"]|['\"]{0}['\"]\s+in\b", r"get\(\s*['\"]{0}['\"]")
    found = (key for form in reads for key in _THOUGHT_KEYS if re.search(form.format(key), template))
    return next(found, None)


def messages_of(turns: list[Turn], key: str | None, as_text: bool) -> list[dict[str, Any]]:
    """As `apply_chat_template` takes them; absent what a turn has not.

    Args:
        key: the field for thoughts, see `thought_key`.
        as_text: the arguments of calls as JSON, for templates that take no object.
    """
    return [_message(turn, key, as_text) for turn in turns]


def _message(turn: Turn, key: str | None, as_text: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.reasoning and key:
        message[key] = turn.reasoning
    if turn.tool_calls:
        message["tool_calls"] = [
            {
                "type": "function",
                **({"id": call.id} if call.id else {}),
                "function": {"name": call.name, "arguments": call.arguments if as_text else call.values},
            }
            for call in turn.tool_calls
        ]
    others = {"name": turn.name, "tool_call_id": turn.call_id}
    return message | {field: value for field, value in others.items() if value}


def missing_argument(turn: Turn, text: str) -> str | None:
    """A part of a call's arguments that a text does not hold, neither as it is nor as JSON, or holds so that nobody
    could read it back."""
    for call in turn.tool_calls:
        for value in _parts(call.values):
            forms = (value, _json(value)) if isinstance(value, str) else (json.dumps(value), str(value))
            if not any(form.strip() in text for form in forms) or _ends_its_quotation(value, text):
                return f"{call.name}: {value!r:.60}"
    return None


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from _parts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _parts(one)
    else:
        yield value


def _ends_its_quotation(value: Any, text: str) -> bool:
    """Whether a text stands in quotation marks as it is, with the same mark or a line break in it, and nowhere as JSON:
    LFM2.5 writes calls as Python does, and escapes nothing."""
    if not isinstance(value, str) or (_json(value) in text and _json(value) != value):
        return False
    marks = [mark for mark in "'\"" if f"{mark}{value}{mark}" in text]
    return any(mark in value or "\n" in value for mark in marks)


def schemas_of(conversation: Conversation) -> list[Any]:
    """The tools of a conversation as a template takes them.

    Raises:
        TemplateError: they are no JSON of a list of objects.
    """
    try:
        tools = json.loads(conversation.tools or "[]")
    except ValueError as error:
        raise TemplateError(f"the tools are no JSON: {error}") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise TemplateError("the tools are no list of schemas")
    return tools


def with_ids(turns: list[Turn]) -> list[Turn]:
    """Turns in which several calls at once that have no ids, and their results, are named by their places."""
    out: list[Turn] = []
    waiting: list[str] = []
    for n, turn in enumerate(turns):
        if len(turn.tool_calls) > 1 and not any(call.id for call in turn.tool_calls):
            waiting = [f"call_{n}_{k}" for k in range(len(turn.tool_calls))]
            named = [call._replace(id=id) for call, id in zip(turn.tool_calls, waiting, strict=True)]
            out.append(replace(turn, tool_calls=tuple(named)))
        elif turn.role == "tool" and waiting and not turn.call_id:
            out.append(replace(turn, call_id=waiting.pop(0)))
        else:
            out.append(turn)
    return out


def with_short_ids(turns: list[Turn]) -> list[Turn]:
    """Turns whose calls and results have ids of nine letters and digits, as Mistral's templates demand.

    Such ids stay; others, and those that are missing, become a hash of the id or of the call's place. A result
    without an id answers the first call that waits.
    """
    out: list[Turn] = []
    short: dict[str, str] = {}
    waiting: list[str] = []
    for n, turn in enumerate(turns):
        if turn.tool_calls:
            calls = [c._replace(id=_nine(c.id or f"{n}.{k}")) for k, c in enumerate(turn.tool_calls)]
            short |= {old.id: new.id for old, new in zip(turn.tool_calls, calls, strict=True)}
            waiting = [call.id for call in calls]
            out.append(replace(turn, tool_calls=tuple(calls)))
        elif turn.role == "tool":
            id = short.get(turn.call_id, "") if turn.call_id else next(iter(waiting), "")
            id = id or _nine(turn.call_id or str(n))
            waiting = [other for other in waiting if other != id]
            out.append(replace(turn, call_id=id))
        else:
            out.append(turn)
    return out


def _nine(id: str) -> str:
    return id if re.fullmatch("[A-Za-z0-9]{9}", id) else hashlib.sha256(id.encode()).hexdigest()[:9]
