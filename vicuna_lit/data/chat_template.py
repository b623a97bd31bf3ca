"""Chat templates: a conversation becomes segments of text, and the segments are the mask.

A template never looks at token ids. It says which text is literal (written by a person or a model:
special-token text in it stays plain text) and which is supervised (the loss is taken on it). What
opens an assistant's turn is never supervised; the reply and the stop string behind it are, unless the turn says no.
"""

import datetime
import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import NamedTuple, Protocol, runtime_checkable

from pydantic import TypeAdapter

from vicuna_lit.config.base import CONF_DIR
from vicuna_lit.config.template import ReasoningForm, TemplateConfig, TextTemplateConfig, ToolForm
from vicuna_lit.data.template_jinja import SLOT, TRIMS, jinja_of, split_reasoning
from vicuna_lit.records.conversation import ALPACA_INPUT, INLINE_THOUGHT, Conversation, ToolCall, Turn

TEMPLATE_REFUSES = "template refuses it"
"""Why a conversation is rejected of which a template says so."""


class TemplateError(ValueError):
    """A template cannot render a conversation, or does not fit the tokenizer."""


class Segment(NamedTuple):
    """A stretch of text: `supervised` if the loss is taken on it, `literal` if special tokens in it are plain text,
    `thought` if it is what an assistant thought before it answered."""

    text: str
    supervised: bool = False
    literal: bool = False
    thought: bool = False


@runtime_checkable
class Template(Protocol):
    """What the tokenisation, the chat and the export need of a template."""

    @property
    def name(self) -> str:
        """As in the config."""
        ...

    @property
    def stop(self) -> str:
        """What ends a reply."""
        ...

    @property
    def call_stop(self) -> str:
        """What ends a reply that is a call, where that is another token; "" where it is the same."""
        ...

    @property
    def special(self) -> tuple[str, ...]:
        """Texts that must each be one token of the tokenizer."""
        ...

    def render(self, conversation: Conversation) -> list[Segment]:
        """All turns; raises TemplateError where it cannot."""
        ...

    def unfold(self, conversation: Conversation) -> Iterator[list[Segment]]:
        """The texts that are trained on, each reply supervised in one of them: a single one, but where the template
        changes what stands before a reply when more turns follow; raises TemplateError where it cannot."""
        ...

    def prompt(self, conversation: Conversation) -> list[Segment]:
        """The turns so far and what opens the assistant's next turn."""
        ...

    def jinja(self) -> str:
        """The same template for `tokenizer.apply_chat_template`, with `{% generation %}` marks."""
        ...

    @property
    def identity(self) -> str:
        """All that decides what it writes, as text."""
        ...


@dataclass(frozen=True)
class TextTemplate:
    """A template written in `conf/template/*.yaml`, bound to a tokenizer's BOS and EOS texts, and to a date."""

    config: TextTemplateConfig
    bos: str
    eos: str
    date: str = field(default_factory=lambda: datetime.datetime.now().date().isoformat())

    @property
    def name(self) -> str:
        """As in the config."""
        return self.config.name

    @property
    def special(self) -> tuple[str, ...]:
        """Texts that must each be one token of the tokenizer."""
        c = self.config
        whole = "".join(t for t in (c.begin, c.system, c.user, c.tool, c.assistant, c.reply, c.end, c.between) if t)
        used = [value for slot, value in (("{bos}", self.bos), ("{eos}", self.eos)) if value and slot in whole]
        return (*self.config.special, *used)

    @property
    def identity(self) -> str:
        """All that decides what it writes, as text."""
        date = self.date if self.config.date else None
        return repr((self.config.model_dump(mode="json"), self.bos, self.eos, date))

    @property
    def call_stop(self) -> str:
        """In each of these a call ends as any reply does."""
        return ""

    @property
    def stop(self) -> str:
        """What ends a reply: the text that a template puts behind it."""
        return "".join(s.text for s in self._filled(self.config.reply.partition("{content}")[2])).strip()

    def render(self, conversation: Conversation) -> list[Segment]:
        """All turns; raises TemplateError where the template has no such turn."""
        return [s for s in self._turns(conversation) if s.text]

    def unfold(self, conversation: Conversation) -> Iterator[list[Segment]]:
        """A single text: nothing that follows changes what stands before."""
        yield self.render(conversation)

    def prompt(self, conversation: Conversation) -> list[Segment]:
        """The turns so far and what opens the assistant's next turn."""
        return [s for s in (*self._turns(conversation), *self._filled(self.config.assistant)) if s.text]

    def jinja(self) -> str:
        """The same template for `tokenizer.apply_chat_template`, with `{% generation %}` marks."""
        return jinja_of(self.config)

    def _filled(
        self, text: str, slots: Mapping[str, list[Segment]] | None = None, supervised: bool = False
    ) -> list[Segment]:
        """A text of the config with its slots filled; a slot that is not given is empty."""
        segments: list[Segment] = []
        for part in _split(text, self.bos, self.eos, self._day, supervised):
            if isinstance(part, Segment):
                segments.append(part)
            elif slots:
                segments += slots.get(part, ())
        return segments

    @cached_property
    def _day(self) -> str:
        """The date in the template's form."""
        return datetime.date.fromisoformat(self.date).strftime(self.config.date) if self.config.date else ""

    def _turns(self, conversation: Conversation) -> list[Segment]:
        c = self.config
        conversation = self._readable(conversation)
        tools = self._tools(conversation)
        system, turns = self._system(conversation, tools)
        segments = self._filled(c.begin)
        segments += [] if "{system}" in c.user else system
        for i, turn in enumerate(turns):
            match turn.role:
                case "user":
                    slots = {"content": [self._text(turn)]}
                    if i == 0:
                        slots |= {"system": system, **tools}
                    segments += self._filled(c.user, slots)
                case "tool" if c.tool is not None:
                    group = c.tool_use.results if isinstance(c.tool_use, ToolForm) else "{results}"
                    before, _, after = group.partition("{results}")
                    segments += self._filled(before) if i == 0 or turns[i - 1].role != "tool" else []
                    quoted = Segment(json.dumps(turn.content, ensure_ascii=False), literal=True)
                    segments += self._filled(c.tool, {"content": [self._text(turn)], "json": [quoted]})
                    segments += self._filled(after) if i + 1 == len(turns) or turns[i + 1].role != "tool" else []
                case "assistant":
                    segments += self._filled(c.assistant)
                    segments += self._filled(c.reply, {"content": self._reply(turn)}, turn.supervised)
                    segments += self._filled(c.end + (c.between or "" if i + 1 < len(turns) else ""))
                case _:
                    raise TemplateError(f"template {self.name} has no {turn.role} turn")
        return segments

    def _text(self, turn: Turn) -> Segment:
        """What stands for a turn's text.

        Raises:
            TemplateError: it holds what the published template reads as a switch.
        """
        c, text = self.config, turn.content
        if c.refused is None and c.trims is None:
            return Segment(text, turn.role == "assistant" and turn.supervised, True)
        for switch in (c.refused or {}).get(turn.role, ()):
            if switch in text and text != c.default_system:
                raise TemplateError(f"template {self.name} reads {switch} in a turn of {turn.role} as a switch")
        trim = (c.trims or {}).get(turn.role)
        return Segment(TRIMS[trim](text) if trim else text, turn.role == "assistant" and turn.supervised, literal=True)

    def _system(
        self, conversation: Conversation, tools: Mapping[str, list[Segment]]
    ) -> tuple[list[Segment], tuple[Turn, ...]]:
        c, turns = self.config, conversation.turns
        given = turns[0] if turns and turns[0].role == "system" else None
        if given:
            turns = turns[1:]
            if c.system is None:
                raise TemplateError(f"template {self.name} has no system turn")
            if c.blank_is_default and not given.content.strip():
                given = None
        if given is None:
            default = c.default_system
            if c.default_system_with_input is not None and turns and ALPACA_INPUT in turns[0].content:
                default = c.default_system_with_input
            given = None if default is None else Turn("system", default)
        if c.system is None or (given is None and not (tools and "{tools}" in c.system)):
            return [], turns
        slots = {"content": [self._text(given)] if given else [], **tools}
        if given and tools and isinstance(c.tool_use, ToolForm):
            slots["tools"] = [Segment(c.tool_use.behind_system), *tools["tools"]]
        return self._filled(c.system, slots), turns

    def _tools(self, conversation: Conversation) -> dict[str, list[Segment]]:
        """The slots that are filled where a conversation has tools."""
        form = self.config.tool_use
        if not conversation.tools or not isinstance(form, ToolForm):
            return {}
        written = [json.dumps(t, ensure_ascii=False, indent=form.indent) for t in json.loads(conversation.tools)]
        each = [s for text in written for s in self._filled(form.each_schema, {"tool": [Segment(text, literal=True)]})]
        return {"tools": self._filled(form.schemas, {"tools": each}), "with_tools": self._filled(form.with_tools)}

    def _reply(self, turn: Turn) -> list[Segment]:
        """Reasoning, text and calls, in the family's form."""
        form, supervised = self.config.reasoning, turn.supervised
        segments: list[Segment] = []
        if form is None and not turn.tool_calls:
            return _thought_marked(self._text(turn))
        if isinstance(form, ReasoningForm):
            thought, content = turn.reasoning, turn.content
            if form.tags and not thought:
                thought, content = split_reasoning(content, form.tags)
            turn, thought = replace(turn, content=content), thought.strip("\n")
            slots = {"reasoning": [Segment(thought, supervised, literal=True, thought=True)]}
            segments += self._filled(form.text if thought else form.absent, slots, supervised)
        return [*segments, *_thought_marked(self._text(turn)), *self._calls(turn)]

    def _calls(self, turn: Turn) -> list[Segment]:
        form = self.config.tool_use
        segments: list[Segment] = []
        if not turn.tool_calls or not isinstance(form, ToolForm):
            return segments
        beside = bool(turn.content.strip())
        if form.alone and (beside or len(turn.tool_calls) > 1):
            what = "text beside a call" if beside else f"{len(turn.tool_calls)} calls in one reply"
            raise TemplateError(f"template {self.name} has no place for {what}: a reply is text or one call")
        for i, call in enumerate(turn.tool_calls):
            slots = {
                "name": [Segment(call.name, turn.supervised, literal=True)],
                "arguments": [Segment(self._arguments(call), turn.supervised, literal=True)],
            }
            segments.append(Segment("\n" if i or (turn.content and not form.alone) else "", turn.supervised))
            segments += self._filled(form.call, slots, turn.supervised)
        return segments

    def _arguments(self, call: ToolCall) -> str:
        if isinstance(call.values, str):
            raise TemplateError(f"template {self.name}: the arguments of a call of {call.name} are no JSON object")
        return json.dumps(call.values, ensure_ascii=False)

    def _readable(self, conversation: Conversation) -> Conversation:
        """The conversation, with what the template has no form for in the text of the turns.

        Raises:
            TemplateError: the family's form of it cannot be written here.
        """
        c, turns = self.config, conversation.turns
        reasons, calls = any(t.reasoning for t in turns), any(t.tool_calls for t in turns)
        if not (reasons or calls or conversation.tools):
            return conversation
        for there, form, what in (
            (reasons, c.reasoning, "reasoning"),
            (calls or conversation.tools, c.tool_use, "tools in the form that the family publishes"),
        ):
            if there and form == "refused":
                raise TemplateError(
                    f"template {self.name} cannot write {what}; the model's own may: template=tokenizer"
                )
        return in_text(conversation, reasoning=c.reasoning is None, tools=c.tool_use is None)


def _thought_marked(reply: Segment) -> list[Segment]:
    """A reply's text, with a thought in it that stands between tags as a segment of its own."""
    inline = INLINE_THOUGHT.match(reply.text)
    if inline is None or not (thought := inline[2].strip()):
        return [reply]
    start = inline.start(2) + inline[2].index(thought)
    tag, rest = reply.text[:start], reply.text[start + len(thought) :]
    return [reply._replace(text=tag), reply._replace(text=thought, thought=True), reply._replace(text=rest)]


@cache
def _split(text: str, bos: str, eos: str, day: str, supervised: bool) -> tuple[Segment | str, ...]:
    """Texts, and the names of the slots between them; made once, for they are many times those of a conversation."""
    known = {"bos": bos, "eos": eos, "date": day}
    parts = [""]
    for i, part in enumerate(SLOT.split(text)):
        if i % 2 and part not in known:
            parts += [part, ""]
        else:
            parts[-1] += known[part] if i % 2 else part
    named = (part if i % 2 else Segment(part, supervised) for i, part in enumerate(parts))
    return tuple(part for part in named if isinstance(part, str) or part.text)


def in_text(conversation: Conversation, reasoning: bool = True, tools: bool = True) -> Conversation:
    """For templates that have no form of their own for them: calls and reasoning stand in their turn's text, the
    schemas of tools behind the system prompt, all as JSON.

    Args:
        reasoning: whether it is moved; else it stays where it is.
        tools: the same of calls and schemas.
    """
    turns = []
    for turn in conversation.turns:
        moved = replace(turn, reasoning=turn.reasoning * reasoning, tool_calls=turn.tool_calls if tools else ())
        left = {"reasoning": "" if reasoning else turn.reasoning, "tool_calls": () if tools else turn.tool_calls}
        turns.append(replace(turn, content=moved.in_text, **left))
    if not tools or not conversation.tools:
        return replace(conversation, turns=tuple(turns))
    if turns and turns[0].role == "system":
        turns[0] = replace(turns[0], content=f"{turns[0].content}\n\n{conversation.tools}")
    else:
        turns.insert(0, Turn("system", conversation.tools))
    return replace(conversation, turns=tuple(turns), tools="")


def render(
    conversation: Conversation, template: str | TemplateConfig | Template = "vicuna_v1", generation_prompt: bool = False
) -> str:
    """The text of a conversation as the model sees it, special tokens spelled out.

    Args:
        template: a name of `conf/template`, a config, or one that is bound to a tokenizer, `make_encoder(…).template`.
            Names and configs get LLaMA's `<s>` and `</s>`.
        generation_prompt: ends with what opens the assistant's next turn.

    Raises:
        TemplateError: there is no such template, or it cannot render the conversation.
    """
    if isinstance(template, str):
        template = template_named(template)
    if not isinstance(template, Template):
        if template.kind != "text":
            raise TemplateError(f"{template.kind} needs the tokenizer: make_encoder(<its folder>).template")
        template = TextTemplate(template, "<s>", "</s>")
    segments = template.prompt(conversation) if generation_prompt else template.render(conversation)
    return "".join(segment.text for segment in segments)


def template_named(name: str) -> TemplateConfig:
    """A template of `conf/template`.

    Raises:
        TemplateError: there is none of this name.
    """
    from omegaconf import OmegaConf

    names = sorted(file.stem for file in (CONF_DIR / "template").glob("*.yaml"))
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise TemplateError(f"template {name}: no such choice{hint}; choices: {', '.join(names)}")
    values = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "template" / f"{name}.yaml"))
    return TypeAdapter(TemplateConfig).validate_python(values)


@cache
def names_that_write(what: str, tokens: frozenset[str]) -> tuple[str, ...]:
    """Templates of `conf/template` that write tools and calls (`tool_use`) or thoughts (`reasoning`), at most two.

    Those with a form of their own for them come first, then those that write them into the text; without special
    tokens that they need there is Vicuna's.

    Args:
        tokens: the special tokens that the tokenizer has.
    """
    found: dict[bool, list[str]] = {True: [], False: []}
    for file in sorted((CONF_DIR / "template").glob("*.yaml")):
        template = template_named(file.stem)
        if template.kind != "text" or not template.special or not set(template.special) <= tokens:
            continue
        form = getattr(template, what)
        if form != "refused":
            found[form is not None].append(file.stem)
    return tuple([*found[True], *found[False], "vicuna_v1"][:2])
