"""One person's conversation with one model or two: limits, moderation, the streams side by side, and the vote."""

import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

from vicuna_lit.chat.exchange import ModelPane, stream_replies
from vicuna_lit.chat.log import ChatLog, now
from vicuna_lit.chat.moderation import Decision, Moderator, moderated
from vicuna_lit.config.chat import ChatConfig
from vicuna_lit.evaluate.reviews import Choice, Vote
from vicuna_lit.inference.backend import Backend, Sent, Settings, Stream
from vicuna_lit.inference.bodies import whole_characters
from vicuna_lit.records.conversation import Conversation, Turn


class Refused(Exception):
    """A prompt that is not answered; the message says why, and nothing has changed."""


@dataclass
class ChatSession:
    """One person's conversation. Nothing of it is shared."""

    id: str
    sides: tuple[ModelPane, ...]
    asked: str = ""
    """The prompt under way, or that of an exchange that failed; it is no part of the conversation."""
    branch: int = 0
    """Grows when something is asked again: to a judge that is another question."""
    can_vote: bool = False
    hidden: bool = False
    """Whether the models' names are hidden."""
    successor: "ChatSession | None" = None
    """The conversation that has replaced this one, of which nothing more is shown."""
    settings: Settings | None = None
    """Of the last exchange."""
    stop: threading.Event = field(default_factory=threading.Event)
    busy: threading.Lock = field(default_factory=threading.Lock)

    @property
    def turns(self) -> int:
        """Finished exchanges."""
        return sum(turn.role == "user" for turn in self.sides[0].conversation.turns)


class RateLimiter:
    """Limits each client's prompts in a minute."""

    def __init__(self, per_minute: int):
        self._most, self._lock = per_minute, threading.Lock()
        self._times: dict[str, deque[float]] = {}

    def wait(self, client: str) -> float:
        """Seconds until the client may ask; 0: now, and it is counted."""
        moment = time.monotonic()
        with self._lock:
            for name in [n for n, times in self._times.items() if times[-1] < moment - 60]:
                del self._times[name]
            times = self._times.setdefault(client, deque(maxlen=self._most))
            if len(times) == self._most and times[0] > moment - 60:
                return times[0] + 60 - moment
            times.append(moment)
            return 0.0


class ChatService:
    """The models, the moderator, the limits and the files: what all conversations share. Safe to use from threads."""

    def __init__(self, config: ChatConfig, backends: tuple[Backend, ...], moderator: Moderator, journal: ChatLog):
        self.config, self.backends, self._moderator, self._journal = config, backends, moderator, journal
        self._voting = threading.Lock()
        self._pace = RateLimiter(config.limits.prompts_per_minute)

    @property
    def kept(self) -> str:
        """That something of the conversations is written down, for those who have them; empty: nothing is."""
        return self._journal.kept

    @property
    def files(self) -> list[str]:
        """The names of the files in `run.dir` that grow while people talk."""
        return self._journal.files

    def begin(self) -> ChatSession:
        """A new conversation; with `blind` the sides are drawn."""
        order = list(range(len(self.backends)))
        if self.config.blind:
            random.SystemRandom().shuffle(order)
        id = uuid.uuid4().hex
        sides = tuple(ModelPane(i, Conversation.of(id=id, system=self.config.system_prompt)) for i in order)
        return ChatSession(id, sides, hidden=self.config.blind)

    def names(self, talk: ChatSession) -> list[str]:
        """What the sides are called; with the models' names, unless they are hidden."""
        names = [self.backends[side.model].name for side in talk.sides]
        if len(names) == 1:
            return names
        return [place if talk.hidden else f"{place}: {n}" for place, n in zip(("Left", "Right"), names, strict=True)]

    def answer(self, talk: ChatSession, text: str, settings: Settings, client: str) -> Iterator[None]:
        """Answers a prompt; the talk changes, and each item says that it has.

        Args:
            client: whose limits count.

        Raises:
            Refused: before the first item.
        """
        with _busy(talk):
            try:
                text = whole_characters(text).strip()
                talk.stop.clear()
                self._admit(talk, text, settings, client)
                talk.asked, talk.can_vote, talk.settings = text, False, settings
                streams = [self._stream(talk, side, settings) for side in talk.sides]
                for side in talk.sides:
                    side.begin(talk.hidden)
                yield from stream_replies(talk.sides, streams, talk.stop, self.config.limits.timeout_seconds)
                self._finish(talk)
                yield
            finally:
                talk.stop.set()
                for side in talk.sides:
                    side.running = False

    def take_back(self, talk: ChatSession) -> str:
        """Removes the last exchange, and returns its prompt to be asked again or changed.

        Raises:
            Refused: there is none, or it is being answered.
        """
        with _busy(talk):
            text, talk.asked = talk.asked, ""
            if not text and not talk.turns:
                raise Refused("There is nothing to take back yet.")
            for side in talk.sides:
                side.reply = side.notice = ""
            if not text:
                text = talk.sides[0].conversation.turns[-2].content
                for side in talk.sides:
                    side.conversation = replace(side.conversation, turns=side.conversation.turns[:-2])
            talk.branch, talk.can_vote = talk.branch + 1, False
            return text

    def vote(self, talk: ChatSession, choice: Choice) -> None:
        """Keeps a vote on the last exchange, and shows the names.

        Raises:
            Refused: there is nothing to vote on.
        """
        with self._voting:  # two clicks at once are one vote
            if not talk.can_vote or not talk.settings:
                raise Refused("There are no two whole replies to vote on.")
            talk.can_vote = False
        said = [[t.content for t in s.conversation.turns if t.role == "assistant"] for s in talk.sides]
        asked = tuple(t.content for t in talk.sides[0].conversation.turns if t.role == "user")
        names = [self.backends[side.model].name for side in talk.sides]
        how = asdict(talk.settings)
        sides = (tuple(said[0]), tuple(said[1]))
        id = f"{talk.id}-{talk.branch}"
        self._journal.vote(Vote(id, choice, (names[0], names[1]), asked, sides, talk.hidden, how, now()))
        talk.hidden = False

    def sent(self, talk: ChatSession) -> list[Sent]:
        """Exactly what each model was sent for the last exchange.

        Raises:
            Refused: there is none.
            BackendError: a conversation has no prompt.
        """
        if not talk.asked and not talk.turns:
            raise Refused("Nothing was sent yet.")
        if talk.hidden:
            raise Refused("The prompt would give the models away; vote first.")
        found = []
        for side in talk.sides:
            done = side.conversation
            asked = done.say("user", talk.asked) if talk.asked else replace(done, turns=done.turns[:-1])
            found.append(self.backends[side.model].sent(asked))
        return found

    def _admit(self, talk: ChatSession, text: str, settings: Settings, client: str) -> None:
        limits = self.config.limits
        if not text:
            raise Refused("Write something first.")
        if len(text) > limits.prompt_characters:
            raise Refused(f"That is {len(text):,} characters; at most {limits.prompt_characters:,} are read.")
        if talk.turns >= limits.turns:
            raise Refused(f"This conversation has its {limits.turns} turns; clear it to begin a new one.")
        if not 1 <= settings.max_new_tokens <= limits.new_tokens or not 0 <= settings.temperature <= limits.temperature:
            raise Refused(
                f"A reply has 1 to {limits.new_tokens} tokens, at a temperature from 0 to {limits.temperature:g}."
            )
        if wait := self._pace.wait(client):
            raise Refused(f"That is more than {limits.prompts_per_minute} prompts a minute; wait {wait:.0f} s.")
        decision = self._moderator.judge(talk.sides[0].conversation.say("user", text))
        self._journal.moderation(decision, talk.id, "prompt", text)
        if not decision.passed:
            raise Refused(decision.message)

    def _stream(self, talk: ChatSession, side: ModelPane, settings: Settings) -> Stream:
        backend, asked = self.backends[side.model], side.conversation.say("user", talk.asked)

        def report(decision: Decision, text: str) -> None:
            self._journal.moderation(decision, talk.id, backend.name, text)

        return moderated(backend.reply(asked, settings), asked, self._moderator, report)

    def _finish(self, talk: ChatSession) -> None:
        """Keeps an exchange that every model has answered; another is shown until the next prompt."""
        if any(side.failed for side in talk.sides):
            return
        stopped = talk.stop.is_set()
        for side in talk.sides:
            newest = (Turn("user", talk.asked), Turn("assistant", side.reply.strip(), supervised=not stopped))
            done = replace(side.conversation, turns=(*side.conversation.turns, *newest))
            side.conversation, side.reply = done, ""
            if not stopped:
                kept = replace(done, id=f"{talk.id}-{talk.branch}-{side.model}")
                self._journal.conversation(kept, self.backends[side.model].name)
        talk.asked, talk.can_vote = "", len(talk.sides) == 2 and not stopped


@contextmanager
def _busy(talk: ChatSession) -> Iterator[None]:
    """One thing at a time is done with a conversation.

    Raises:
        Refused: a prompt is being answered.
    """
    if not talk.busy.acquire(blocking=False):
        raise Refused("The last prompt is still being answered; stop it first.")
    try:
        yield
    finally:
        talk.busy.release()
