"""The model's own chat template, made safe to train with."""

import re
from collections.abc import Sequence
from typing import Any

from vicuna_lit.conversation import Conversation, Turn
from vicuna_lit.template import Segment, TemplateError, quote


class TokenizerTemplate:
    """The model's own Jinja chat template, used only where its mask can be proven.

    The contents are rendered as marks; what stands around them is the template's text. A
    conversation is refused when putting the contents back does not give the same text as
    rendering it plainly, when the generation prompt is not a prefix, or when no stop token
    follows a reply. What stands between the generation prompt and the reply is the model's to
    say, so it is supervised. `stop_strings` end a reply besides the special tokens.
    """

    name = "tokenizer"

    def __init__(self, tokenizer: Any, system_prompt: str | None = None, stop_strings: Sequence[str] = ()):
        if not tokenizer.chat_template:
            raise TemplateError("template=tokenizer: this tokenizer has no chat template; choose one of conf/template")
        self.tokenizer, self.system_prompt = tokenizer, system_prompt
        added = tokenizer.added_tokens_decoder.values()
        self.special = tuple(sorted({t.content for t in added if t.special}, key=len, reverse=True))
        self._stop = re.compile(r"\s*(?:" + "|".join(map(re.escape, (*stop_strings, *self.special))) + ")")
        probe = self.render(Conversation.of("a", "b"))
        self.stop = next(s.text for s in reversed(probe) if s.supervised).strip()

    def _apply(self, turns: list[Turn], contents: list[str], generate: bool = False) -> str:
        messages = [{"role": t.role, "content": c} for t, c in zip(turns, contents, strict=True)]
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
        except Exception as error:  # a Jinja template may raise anything
            raise TemplateError(f"the tokenizer's chat template refuses it: {str(error)[:200]}") from error

    def _split(self, turns: list[Turn], generate: bool = False) -> list[str]:
        marks = [f"\U0010fffe{i}\U0010fffe" for i in range(len(turns))]
        marked = self._apply(turns, marks, generate)
        fixed = re.split("\U0010fffe(\\d+)\U0010fffe", marked)
        if fixed[1::2] != [str(i) for i in range(len(turns))]:
            raise TemplateError("the tokenizer's chat template drops, repeats or reorders a turn")
        contents = [t.content for t in turns]
        plain = fixed[0] + "".join(c + f for c, f in zip(contents, fixed[2::2], strict=True))
        if plain != self._apply(turns, contents, generate):
            raise TemplateError("the tokenizer's chat template changes a turn's text")
        return fixed[::2]

    def _with_system(self, conversation: Conversation) -> list[Turn]:
        turns = list(conversation.turns)
        given = self.system_prompt is None or (turns and turns[0].role == "system")
        return turns if given else [Turn("system", self.system_prompt or ""), *turns]

    def render(self, conversation: Conversation) -> list[Segment]:
        """All turns; raises TemplateError where the mask cannot be proven."""
        turns = self._with_system(conversation)
        first, *rest = self._split(turns)
        segments, text = [Segment(first)], first
        for i, (turn, after) in enumerate(zip(turns, rest, strict=True)):
            stop, supervised = 0, turn.role == "assistant" and turn.supervised
            if turn.role == "assistant":
                opening = "".join(s.text for s in self.prompt(Conversation("", tuple(turns[:i]))))
                lead, frame = len(text) - len(opening), segments.pop().text
                found = self._stop.match(after)
                if not text.startswith(opening) or lead > len(frame):
                    raise TemplateError("the tokenizer's chat template: its generation prompt is not a prefix")
                if not found:
                    raise TemplateError("the tokenizer's chat template puts no stop token behind a reply")
                cut, stop = len(frame) - lead, found.end()
                segments += [Segment(frame[:cut]), Segment(frame[cut:], supervised)]
            segments += [
                Segment(turn.content, supervised, literal=True),
                Segment(after[:stop], supervised),
                Segment(after[stop:]),
            ]
            text += turn.content + after
        return [s for s in segments if s.text]

    def prompt(self, conversation: Conversation) -> list[Segment]:
        """The turns so far and what opens the assistant's next turn."""
        turns = self._with_system(conversation)
        fixed = self._split(turns, generate=True)
        segments = [Segment(fixed[0])]
        for turn, after in zip(turns, fixed[1:], strict=True):
            segments += [Segment(turn.content, literal=True), Segment(after)]
        return [s for s in segments if s.text]

    def jinja(self) -> str:
        """The tokenizer's own, with the system prompt of the config in front where a conversation has none."""
        if self.system_prompt is None:
            return self.tokenizer.chat_template
        system = "[{'role': 'system', 'content': " + quote(self.system_prompt) + "}]"
        no_system = "{% if not messages or messages[0]['role'] != 'system' %}"
        return no_system + "{% set messages = " + system + " + messages %}{% endif %}" + self.tokenizer.chat_template
