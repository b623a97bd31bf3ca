"""The model's own chat template, made safe to train with."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from jinja2.exceptions import SecurityError

from vicuna_lit.data.bounded_jinja import bound_templates, reads
from vicuna_lit.data.chat_template import Segment, TemplateError, names_that_write
from vicuna_lit.data.template_date import dated
from vicuna_lit.data.template_jinja import in_front, quote
from vicuna_lit.data.template_messages import (
    Marked,
    StandIns,
    messages_of,
    missing_argument,
    put_marks,
    schemas_of,
    shown_again,
    thought_key,
    with_ids,
    with_short_ids,
)
from vicuna_lit.data.template_thoughts import NO_THOUGHT, InText, Opening, opening, unfit
from vicuna_lit.records.conversation import Conversation, ToolCall, Turn

_CHANGED = "the tokenizer's chat template changes a turn's text"
_NO_PREFIX = "the tokenizer's chat template: its generation prompt is not a prefix"
_NO_STOP = "the tokenizer's chat template puts no stop token behind a reply"
_NO_IDS = (
    "the tokenizer's chat template tells the results of calls made at once by their ids, and these have none; give "
    "each call an id, and its result the same"
)
_STOP_INSIDE = "the tokenizer's chat template ends a part of a reply as it ends the reply: generation would stop there"
_LOST = {
    "turn": "the tokenizer's chat template drops, repeats or reorders a turn",
    "reasoning": "the tokenizer's chat template drops the reasoning of a reply",
    "calls": "the tokenizer's chat template drops tool_calls",
    "tools": "the tokenizer's chat template drops the tools",
}
"""What is said of a text that is not found, by its kind."""
_FORM = {"reasoning": "reasoning", "calls": "tool_use", "tools": "tool_use"}
"""The key of our templates that says how it is written."""
_NINE = re.compile(r"id\s*\|\s*length\s*(!=|==)\s*9")
"""How Mistral's templates look at the ids of calls."""

_PROBE = (
    '[{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", '
    '"properties": {"x": {"type": "string", "description": "x"}}, "required": ["x"]}}}]'
)
"""A tool that any template can describe."""


@dataclass(frozen=True)
class Reply:
    """A reply as the template writes it behind its prompt. Places are characters from the prompt's beginning on."""

    turn: int
    """Its place in the conversation."""
    prompt: str
    written: str
    """Itself, its stop, and what the template writes behind it."""
    stop: int
    """Where its stop ends."""
    thoughts: tuple[tuple[int, int], ...]
    """Where its thoughts begin and end."""
    marked: Marked
    """What the template wrote for all turns up to it."""

    @property
    def text(self) -> str:
        """The prompt, the reply and what stands behind it."""
        return self.prompt + self.written

    @property
    def shown(self) -> str:
        """The prompt and the reply with its stop."""
        return self.text[: self.stop]


class TokenizerTemplate:
    """The model's own Jinja chat template, used only where its mask can be proven.

    A reply is what generation would emit behind the very prompt that inference sees: what the template writes for the
    turns up to the reply, less the prompt, up to the stop. So what stands between the prompt and the content (an empty
    think block, a channel) is supervised too.

    Where later turns change what was written before (thoughts of earlier turns are dropped, another stop stands in
    the history), a conversation becomes several examples, see `unfold`. A conversation is refused when the
    prompt is no prefix, when no stop follows a reply, or when a text is not found where it belongs, letter by letter,
    but for blanks around it: each is looked for with a mark in its middle. `stop_strings` end a reply besides the
    special tokens.

    Args:
        date: what a template that writes today's date writes, `2024-07-26`; None: today's, for as long as this lives.
    """

    name = "tokenizer"

    def __init__(
        self,
        tokenizer: Any,
        system_prompt: str | None = None,
        stop_strings: Sequence[str] = (),
        date: str | None = None,
    ):
        if not tokenizer.chat_template:
            raise TemplateError("template=tokenizer: this tokenizer has no chat template; choose one of conf/template")
        bound_templates()
        self.tokenizer, self.system_prompt = tokenizer, system_prompt
        self._date, self._date_with_tools = (dated(text, date) for text in _of_both(tokenizer))
        source = "\n".join(dict.fromkeys(_of_both(tokenizer)))
        self._thought_key = thought_key(source)
        self._in_text = InText.of(source, self._thought_key is not None)
        self._tools_key = "xml_tools" if reads(source, "xml_tools") and not reads(source, "tools") else "tools"
        self._short_ids = bool(_NINE.search(source))
        added = tokenizer.added_tokens_decoder.values()
        self.special = tuple(sorted({t.content for t in added if t.special}, key=len, reverse=True))
        self._stand_ins = StandIns(self.special)
        self._stops = re.compile("|".join(map(re.escape, (*stop_strings, *self.special))) or "(?!)")
        self.stop = self._probed_stop()
        self.call_stop = self._probed_call_stop()

    @property
    def identity(self) -> str:
        """All that decides what it writes, as text."""
        return repr(
            (self.tokenizer.chat_template, self.system_prompt, self._stops.pattern, self._date, self._date_with_tools)
        )

    def _probed_stop(self) -> str:
        """The text that ends a reply: the first stop string or special token behind its content, or the EOS token
        where that follows, in the history too.

        Raises:
            TemplateError: no reply can be proven, neither without thoughts nor with some.
        """
        try:
            return self._stop_of(Turn("assistant", "b"))
        except TemplateError as error:
            try:
                return self._stop_of(self._in_text.moved(Turn("assistant", "b", reasoning="c")))
            except TemplateError as other:
                raise (other if str(error) == NO_THOUGHT else error) from None

    def _probed_call_stop(self) -> str:
        """What ends a call where a reply ends otherwise (gpt-oss, Gemma 4); "" where no call can be proven."""
        call = ToolCall("f", '{"x": "y"}', "abcdefgh1")
        for thought in ("", "c"):
            with suppress(TemplateError):
                reply = Turn("assistant", "", reasoning=thought, tool_calls=(call,))
                turns, tools = self._hidden(Conversation("", (Turn("user", "a"), reply), _PROBE))
                last = len(turns) - 1
                found = self._reply(turns, tools, last, self._apply(turns[:last], tools, generate=True))
                end = [*self._stops.finditer(found.shown)][-1][0]
                return "" if end == self.stop else end
        return ""

    def _stop_of(self, reply: Turn) -> str:
        (*asked, user), _ = self._hidden(Conversation.of("a"))
        prompt = self._apply([*asked, user], [], generate=True)
        self._prove_prompt([*asked, user], [], prompt)
        marked = self._marked([*asked, user, reply], [])
        self._begin([*asked, user], reply, [], prompt, marked)
        piece, places = marked.pieces[-1], marked.places(len(marked.pieces) - 1)
        if not places or (span := piece.stands_at(marked.text, places[-1])) is None:
            raise TemplateError(_CHANGED)
        if not (found := self._stops.search(marked.text, span[1])):
            raise TemplateError(_NO_STOP)
        eos, history = self.tokenizer.eos_token, ""
        with suppress(TemplateError):  # of several turns, some write none
            later = self._marked([*asked, user, reply, user], [], generate=True)
            ends = [later.places(len(marked.pieces) - 1 + i)[-1:] for i in (0, 1)]
            history = later.text[ends[0][0] : ends[1][0]] if all(ends) else ""
        return eos if eos and eos in marked.text[span[1] :] and eos in history else found[0]

    def _apply(self, turns: list[Turn], tools: list[Any], generate: bool = False) -> str:
        """What the template writes; arguments of calls are objects, or JSON where it takes no objects."""
        text = ""
        for as_text in (False, True):
            try:
                text = self.tokenizer.apply_chat_template(
                    messages_of(turns, self._thought_key, as_text),
                    tokenize=False,
                    add_generation_prompt=generate,
                    **{self._tools_key: tools or None},
                    **(self._date_with_tools if tools else self._date),
                )
            except Exception as error:  # a Jinja template may raise anything
                if as_text or isinstance(error, SecurityError) or not any(turn.tool_calls for turn in turns):
                    message = f"the tokenizer's chat template refuses it: {str(error)[:200]}"
                    raise TemplateError(message) from error
            else:
                if not any(call.python and call.python in text for turn in turns for call in turn.tool_calls):
                    break
        return shown_again(text)

    def _hidden(self, conversation: Conversation) -> tuple[list[Turn], list[Any]]:
        turns, tools = conversation.turns, schemas_of(conversation)
        if self.system_prompt is not None and not (turns and turns[0].role == "system"):
            turns = (Turn("system", self.system_prompt), *turns)
        if named := next((c.name for turn in turns for c in turn.tool_calls if isinstance(c.values, str)), None):
            raise TemplateError(f"the arguments of a call of {named} are no JSON object")  # nobody would read it back
        turns = with_short_ids(list(turns)) if self._short_ids else turns
        return [self._in_text.moved(self._stand_ins.turn(turn)) for turn in turns], self._stand_ins.hide(tools)

    def _marked(self, turns: list[Turn], tools: list[Any], generate: bool = False) -> Marked:
        with_marks, tools_with_marks, pieces = put_marks(turns, tools)
        return Marked(self._apply(with_marks, tools_with_marks, generate), pieces)

    def unfold(self, conversation: Conversation) -> Iterator[list[Segment]]:
        """The examples that a conversation becomes, each reply supervised in one of them; made as they are taken.

        As long as the prompt of the next reply begins with all that was shown up to the reply before, both are in
        one example; else the next begins another one.

        Raises:
            TemplateError: the mask of one cannot be proven.
        """
        turns, tools = self._hidden(conversation)
        self._check_ids(turns, tools)
        replies: list[Reply] = []
        answered = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
        for i in answered:
            prompt = self._apply(turns[:i], tools, generate=True)
            if replies and not prompt.startswith(replies[-1].shown):
                yield self._segments(turns, tools, replies)
                replies = []
            replies.append(self._reply(turns, tools, i, prompt))
        yield self._segments(turns, tools, replies)

    def _check_ids(self, turns: list[Turn], tools: list[Any]) -> None:
        """
        Raises:
            TemplateError: calls made at once have no ids, which would say which result is whose.
        """
        by_ids, named = False, with_ids(turns)
        with suppress(TemplateError):  # what it refuses, it refuses with its own reason
            by_ids = named != turns and self._apply(named, tools) != self._apply(turns, tools)
        if by_ids:
            raise TemplateError(_NO_IDS)

    def _reply(self, turns: list[Turn], tools: list[Any], i: int, prompt: str) -> Reply:
        marked = self._marked(turns[: i + 1], tools)
        begin, thought = self._begin(turns[:i], turns[i], tools, prompt, marked)
        mine = [n for n, piece in enumerate(marked.pieces) if piece.turn == i]
        if thought.text:
            mine = [n for n in mine if marked.pieces[n].kind != "reasoning"]
        at, stop = marked.text.rfind(self.stop, begin), self.stop
        if at < 0 and turns[i].tool_calls:  # calls may have a stop of their own
            found = [*self._stops.finditer(marked.text, begin)]
            at, stop = (found[-1].start(), found[-1][0]) if found else (-1, "")
        if at < 0:
            raise TemplateError(_NO_STOP)
        thoughts = [(len(prompt), len(prompt) + len(thought.thought))] if thought.text else []
        shift, end = len(prompt) + len(thought.text) - begin, begin
        for n in mine:
            piece, places = marked.pieces[n], [place for place in marked.places(n) if begin <= place <= at]
            if not places or (len(places) > 1 and piece.kind != "calls"):
                raise self._lost(piece.kind)
            span = piece.stands_at(marked.text, places[0])
            if span is None or span[0] < begin or span[1] > at:
                raise TemplateError(_CHANGED)
            end = max(end, span[1])
            if piece.kind == "reasoning":
                thoughts.append((span[0] + shift, span[1] + shift))
        at = marked.text.find(stop, end, at + len(stop))  # Phi's writes the EOS token once more behind the last reply
        if missing := missing_argument(turns[i], marked.text[begin:at]):
            why = "drops an argument of a call, or does not escape it"
            raise TemplateError(f"the tokenizer's chat template {why}: {missing}")
        if stop in marked.text[begin:at]:
            raise TemplateError(_STOP_INSIDE)
        written = thought.text + marked.text[begin:]
        return Reply(i, prompt, written, at + len(stop) + shift, tuple(thoughts), marked)

    def _begin(
        self, before: list[Turn], reply: Turn, tools: list[Any], prompt: str, marked: Marked
    ) -> tuple[int, Opening]:
        """Where a reply begins in what is written for all turns up to it, and the thought that stands before that.

        A template may write the turns before it otherwise once it is there (gpt-oss drops what was thought before a
        call): then the reply is what stands behind that which opens it.

        Raises:
            TemplateError: it is no reply to that prompt.
        """
        why, plain = unfit(prompt, reply), marked.text.startswith(prompt)
        if why and not (plain and why == NO_THOUGHT):  # what a template writes for no thought is the encoder's to prove
            raise TemplateError(why)
        if plain:
            return len(prompt), Opening()
        if found := opening(prompt, marked.text, reply, self._in_text.newlines):
            return found
        so_far = self._apply(before, tools)
        opens = prompt.removeprefix(so_far)
        firsts = [p for n, piece in enumerate(marked.pieces) if piece.turn == len(before) for p in marked.places(n)]
        at = marked.text.rfind(opens, 0, min(firsts, default=0))
        if opens in ("", prompt) or at < 0:
            raise TemplateError(_NO_PREFIX)
        return at + len(opens), Opening()

    def _segments(self, turns: list[Turn], tools: list[Any], replies: list[Reply]) -> list[Segment]:
        """One example: the last of some replies with all before it, which its prompt holds."""
        if not replies:
            return self._stand_ins.segments(self._apply(turns, tools))
        last = replies[-1]
        upto = turns[: last.turn + 1]
        if self._apply(upto, tools) != last.marked.text:
            raise TemplateError(_CHANGED)
        if last.marked.text.startswith(last.prompt):
            self._check_others(upto, last.marked)
        else:
            self._prove_prompt(upto[:-1], tools, last.prompt)
        text = last.text
        unanswered = turns[len(upto) :] and not any(turn.role == "assistant" for turn in turns[len(upto) :])
        if unanswered and (whole := self._apply(turns, tools)).startswith(last.shown):
            text = whole  # as they stand
        spans = [(len(r.prompt), r.stop) for r in replies if turns[r.turn].supervised]
        thoughts = [span for r in replies for span in r.thoughts]
        cuts = sorted({0, len(text), *(place for span in (*spans, *thoughts) for place in span)})
        out: list[Segment] = []
        for a, b in pairwise(cuts):
            supervised, thought = (any(x <= a and b <= y for x, y in inside) for inside in (spans, thoughts))
            out += self._stand_ins.segments(text[a:b], supervised, thought)
        return out

    def _prove_prompt(self, turns: list[Turn], tools: list[Any], prompt: str) -> None:
        """
        Raises:
            TemplateError: a text is missing in it that no assistant wrote; what it keeps of those is the template's
                to say.
        """
        marked = self._marked(turns, tools, generate=True)
        if marked.text != prompt:
            raise TemplateError(_CHANGED)
        self._check_others(turns, marked)

    def _check_others(self, turns: list[Turn], marked: Marked) -> None:
        """
        Raises:
            TemplateError: a text that no assistant wrote is not there, or not letter by letter.
        """
        for n, piece in enumerate(marked.pieces):
            if piece.turn >= 0 and turns[piece.turn].role == "assistant":
                continue
            if not (places := marked.places(n)):
                raise self._lost(piece.kind)
            if piece.stands_at(marked.text, places[0]) is None:
                raise TemplateError(_CHANGED)

    def _lost(self, kind: str) -> TemplateError:
        """A text that is not there, and which templates would write it."""
        if kind not in _FORM:
            return TemplateError(_LOST[kind])
        known = frozenset(token.content for token in self.tokenizer.added_tokens_decoder.values())
        others = " or ".join(f"template={name}" for name in names_that_write(_FORM[kind], known))
        return TemplateError(f"{_LOST[kind]}; {others} writes {'it' if kind == 'reasoning' else 'them'}")

    def render(self, conversation: Conversation) -> list[Segment]:
        """All turns, as the template writes them together: the last of the examples.

        Raises:
            TemplateError: the mask of one cannot be proven.
        """
        return list(self.unfold(conversation))[-1]

    def prompt(self, conversation: Conversation) -> list[Segment]:
        """The turns so far and what opens the assistant's next turn."""
        turns, tools = self._hidden(conversation)
        text = self._apply(turns, tools, generate=True)
        self._prove_prompt(turns, tools, text)
        return self._stand_ins.segments(text)

    def jinja(self) -> Any:
        """The tokenizer's own, with the system prompt of the config in front where a conversation has none."""
        if self.system_prompt is None:
            return self.tokenizer.chat_template
        system = "[{'role': 'system', 'content': " + quote(self.system_prompt) + "}]"
        no_system = "{% if not messages or messages[0]['role'] != 'system' %}"
        front = no_system + "{% set messages = " + system + " + messages %}{% endif %}"
        return in_front(front, self.tokenizer.chat_template)


def _of_both(tokenizer: Any) -> tuple[str, str]:
    """The chat templates without tools and with some: a tokenizer may have several, by name.

    Raises:
        TemplateError: none is the default.
    """
    try:
        return tokenizer.get_chat_template(), tokenizer.get_chat_template(tools=[{}])
    except ValueError as error:
        raise TemplateError(f"template=tokenizer: {error}") from None
