"""Moderation: prompts are judged before a model sees them, replies before anybody reads them.

Everything fails closed: without a verdict a prompt is refused and a reply is cut.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from vicuna_lit.config.chat import (
    AskedModeratorConfig,
    GuardConfig,
    Moderation,
    NoModerationConfig,
    OpenAIConfig,
    WordsConfig,
)
from vicuna_lit.inference.backend import BackendError, Stream
from vicuna_lit.records.conversation import Conversation
from vicuna_lit.records.phrases import phrases_of

GUARD_TOKENS = 32
"""A verdict of Llama Guard's kind is a word and a line of categories."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a moderator has decided on the last turn of a conversation."""

    passed: bool
    categories: tuple[str, ...] = ()
    """Why it was flagged."""
    failed: str = ""
    """Why there is no verdict; then nothing passes."""

    @property
    def message(self) -> str:
        """For the person whose text it was, or who was to read it."""
        if self.failed:
            return f"Refused, since it could not be checked: {self.failed}"
        return "Refused by the moderation" + (f": {', '.join(self.categories)}" if self.categories else "") + "."


PASSED = Decision(True)
Report = Callable[[Decision, str], None]
"""Takes every decision, and the text that it is about."""


@runtime_checkable
class Moderator(Protocol):
    """Judges the last turn of a conversation, a user's or an assistant's; the turns before it are known to pass."""

    every_characters: int
    """How much a reply must grow to be judged again."""

    def judge(self, conversation: Conversation) -> Decision:
        """Never raises: what goes wrong is a decision that has failed."""
        ...


class Flagged(Exception):
    """A reply is cut; `decision` says why."""

    def __init__(self, decision: Decision):
        super().__init__(decision.message)
        self.decision = decision


def make_moderator(config: Moderation) -> Moderator:
    """
    Raises:
        MissingPath, DataError: the list of phrases is not there, or empty.
    """
    match config:
        case NoModerationConfig():
            return Nobody()
        case WordsConfig():
            return Words(config)
        case OpenAIConfig():
            return OpenAI(config)
        case GuardConfig():
            return Guard(config)


def moderated(stream: Stream, asked: Conversation, moderator: Moderator, report: Report) -> Stream:
    """A reply as far as it has passed; what was not judged yet is held back.

    Args:
        asked: ends with the user's turn.
        report: takes the last decision.

    Raises:
        Flagged: from here on it does not pass.
    """
    text, shown, cut = "", 0, False

    def judge() -> None:
        decision = moderator.judge(asked.say("assistant", text))
        if not decision.passed:
            report(decision, text)
            raise Flagged(decision)

    try:
        while True:
            try:
                text += next(stream)
            except StopIteration as end:
                cut = end.value
                break
            if len(text) - shown >= moderator.every_characters:
                judge()
                yield text[shown:]
                shown = len(text)
            else:
                yield ""  # a sign of life, and the moment to stop for whoever reads
        if text.strip():  # a server would refuse to judge nothing
            judge()
            report(PASSED, text)
        if text[shown:]:
            yield text[shown:]
        return cut
    finally:
        stream.close()


class Nobody:
    """Lets everything pass."""

    every_characters = 1

    def judge(self, conversation: Conversation) -> Decision:
        """Passed."""
        return PASSED


class Words:
    """Whole phrases, in any case, width and spacing, and with invisible characters between the letters."""

    every_characters = 1

    def __init__(self, config: WordsConfig):
        self._phrases = phrases_of(config.phrases, "moderation=none switches moderation off")

    def judge(self, conversation: Conversation) -> Decision:
        """Flagged where a phrase of the list occurs."""
        found = self._phrases.find(conversation.turns[-1].content)
        return Decision(False, ("a phrase of the word list",)) if found else PASSED


class _Asked:
    """A moderator behind an endpoint."""

    def __init__(self, config: AskedModeratorConfig):
        from vicuna_lit.inference.openai_client import OpenAIClient

        self.every_characters = config.every_characters
        self._client = OpenAIClient(config, config.timeout_seconds, config.timeout_seconds)


class OpenAI(_Asked):
    """OpenAI's moderation endpoint, which judges one text."""

    def judge(self, conversation: Conversation) -> Decision:
        """Flagged as the endpoint says."""
        try:
            categories = self._client.moderate(conversation.turns[-1].content)
        except BackendError as error:
            return Decision(False, failed=str(error))
        return PASSED if categories is None else Decision(False, tuple(categories))


class Guard(_Asked):
    """A model of Llama Guard's kind, which judges the last turn of a conversation."""

    def judge(self, conversation: Conversation) -> Decision:
        """Passed where the first word is `safe`, flagged where it is `unsafe`, and without a verdict otherwise."""
        turns = [{"role": t.role, "content": t.content} for t in conversation.turns if t.role != "system"]
        try:
            said = self._client.ask(turns, GUARD_TOKENS).split()
        except BackendError as error:
            return Decision(False, failed=str(error))
        match said:
            case ["safe"]:
                return PASSED
            case ["unsafe", *categories]:
                return Decision(False, tuple(c for part in categories for c in part.split(",") if c))
            case _:
                return Decision(False, failed=f"the moderator answers neither safe nor unsafe: {' '.join(said)[:60]!r}")
