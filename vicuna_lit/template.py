"""Chat templates: a conversation becomes segments of text, and the segments are the mask.

A template never looks at token ids. It says which text is literal (written by a person or a model:
special-token text in it stays plain text) and which is supervised (the loss is taken on it). What
opens an assistant's turn is never supervised; the reply and the stop string behind it are, unless the turn says no.
"""

import difflib
import re
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from pydantic import TypeAdapter

from vicuna_lit.config import CONF_DIR, TemplateConfig, TextTemplateConfig
from vicuna_lit.conversation import ALPACA_INPUT, Conversation, Turn

SLOT = re.compile(r"\{(content|system|bos|eos)\}")


class TemplateError(ValueError):
    """A template cannot render a conversation, or does not fit the tokenizer."""


class Segment(NamedTuple):
    """A stretch of text: `supervised` if the loss is taken on it, `literal` if special tokens in it are plain text."""

    text: str
    supervised: bool = False
    literal: bool = False


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
    def special(self) -> tuple[str, ...]:
        """Texts that must each be one token of the tokenizer."""
        ...

    def render(self, conversation: Conversation) -> list[Segment]:
        """All turns; raises TemplateError where it cannot."""
        ...

    def prompt(self, conversation: Conversation) -> list[Segment]:
        """The turns so far and what opens the assistant's next turn."""
        ...

    def jinja(self) -> str:
        """The same template for `tokenizer.apply_chat_template`, with `{% generation %}` marks."""
        ...


@dataclass(frozen=True)
class TextTemplate:
    """A template written in `conf/template/*.yaml`, bound to a tokenizer's BOS and EOS texts."""

    config: TextTemplateConfig
    bos: str
    eos: str

    @property
    def name(self) -> str:
        """As in the config."""
        return self.config.name

    @property
    def special(self) -> tuple[str, ...]:
        """Texts that must each be one token of the tokenizer."""
        c = self.config
        whole = "".join(t for t in (c.begin, c.system, c.user, c.tool, c.assistant, c.reply, c.end) if t)
        used = [value for slot, value in (("{bos}", self.bos), ("{eos}", self.eos)) if value and slot in whole]
        return (*self.config.special, *used)

    @property
    def stop(self) -> str:
        """What ends a reply: the text that a template puts behind it."""
        return self._fill(self.config.reply.partition("{content}")[2]).strip()

    def render(self, conversation: Conversation) -> list[Segment]:
        """All turns; raises TemplateError where the template has no such turn."""
        segments = self._turns(conversation)
        return [s for s in segments if s.text]

    def prompt(self, conversation: Conversation) -> list[Segment]:
        """The turns so far and what opens the assistant's next turn."""
        segments = [*self._turns(conversation), Segment(self._fill(self.config.assistant))]
        return [s for s in segments if s.text]

    def _fill(self, text: str) -> str:
        return text.replace("{bos}", self.bos).replace("{eos}", self.eos)

    def _pieces(self, text: str, content: str, supervised: bool = False) -> list[Segment]:
        before, _, after = text.partition("{content}")
        literal = Segment(content, supervised, literal=True)
        return [Segment(self._fill(before), supervised), literal, Segment(self._fill(after), supervised)]

    def _turns(self, conversation: Conversation) -> list[Segment]:
        c = self.config
        system, turns = self._system(conversation)
        nested = "{system}" in c.user
        segments = [Segment(self._fill(c.begin))]
        segments += [] if nested else system
        for i, turn in enumerate(turns):
            match turn.role:
                case "user":
                    before, slot, after = c.user.partition("{system}")
                    if slot:
                        segments += [Segment(self._fill(before)), *(system if i == 0 else [])]
                    segments += self._pieces(after if slot else before, turn.content)
                case "tool" if c.tool is not None:
                    segments += self._pieces(c.tool, turn.content)
                case "assistant":
                    segments.append(Segment(self._fill(c.assistant)))
                    segments += self._pieces(c.reply, turn.content, turn.supervised)
                    segments.append(Segment(self._fill(c.end)))
                case _:
                    raise TemplateError(f"template {self.name} has no {turn.role} turn")
        return segments

    def _system(self, conversation: Conversation) -> tuple[list[Segment], tuple[Turn, ...]]:
        c, turns = self.config, conversation.turns
        if turns and turns[0].role == "system":
            if c.system is None:
                raise TemplateError(f"template {self.name} has no system turn")
            return self._pieces(c.system, turns[0].content), turns[1:]
        default = c.default_system
        if c.default_system_with_input is not None and turns and ALPACA_INPUT in turns[0].content:
            default = c.default_system_with_input
        if default is None or c.system is None:
            return [], turns
        return self._pieces(c.system, default), turns

    def jinja(self) -> str:
        """The same template for `tokenizer.apply_chat_template`, with `{% generation %}` marks."""
        c = self.config

        def put(text: str, content: str = "message['content']") -> str:
            parts = SLOT.split(text)
            slots = {"content": content, "bos": "bos_token", "eos": "eos_token", "system": None}
            out = []
            for i, part in enumerate(parts):
                value = slots[part] if i % 2 else (quote(part) if part else None)
                out.append("{{ " + value + " }}" if value else "")
            return "".join(out)

        default = quote(c.default_system) if c.default_system is not None else "none"
        if c.default_system_with_input is not None:
            with_input = f"{quote(ALPACA_INPUT)} in messages[0]['content']"
            default = f"({quote(c.default_system_with_input)} if {with_input} else {default})"
        system = "{% if system is not none %}" + put(c.system, "system") + "{% endif %}" if c.system else ""
        before, nested, after = c.user.partition("{system}")
        user = put(c.user)
        if nested:
            user = put(before) + "{% if loop.first %}" + system + "{% endif %}" + put(after)
        tool = "{% elif message['role'] == 'tool' %}" + put(c.tool) if c.tool else ""
        return (
            "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
            "{% set turns = messages[1:] %}{% else %}{% set system = " + default + " %}"
            "{% set turns = messages %}{% endif %}"
            + put(c.begin)
            + ("" if nested else system)
            + "{% for message in turns %}{% if message['role'] == 'user' %}"
            + user
            + tool
            + "{% elif message['role'] == 'assistant' %}"
            + put(c.assistant)
            + "{% generation %}"
            + put(c.reply)
            + "{% endgeneration %}"
            + put(c.end)
            + "{% else %}{{ raise_exception('no ' + message['role'] + ' turn in this template') }}{% endif %}"
            "{% endfor %}{% if add_generation_prompt %}" + put(c.assistant) + "{% endif %}"
        )


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
        if template.kind == "tokenizer":
            raise TemplateError("a tokenizer's own template needs the tokenizer: make_encoder(<its folder>).template")
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


def quote(text: str) -> str:
    """A Jinja string."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
