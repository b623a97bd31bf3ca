"""One prompt and the replies to it: the streams of one model or two, read side by side, each in a thread of its own."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vicuna_lit.chat.moderation import Flagged
from vicuna_lit.inference.backend import BackendError, Stream
from vicuna_lit.records.conversation import Conversation

POLL_SECONDS = 0.1
FEWEST_SECONDS = 0.1
"""Between two states that are shown: pieces that come faster are shown together."""


@dataclass
class ModelPane:
    """One of the models in a conversation."""

    model: int
    """Its place among the backends."""
    conversation: Conversation
    """The finished exchanges."""
    reply: str = ""
    """Under way, or left over from an exchange that failed."""
    notice: str = ""
    """What went wrong with it, or that it was cut off."""
    running: bool = False
    failed: bool = False
    hidden: bool = False
    """Whether the model's name is hidden; then so are its errors, which would tell it."""

    def begin(self, hidden: bool) -> None:
        """A new reply is under way."""
        self.reply, self.notice, self.running, self.failed, self.hidden = "", "", True, False, hidden

    def end(self, notice: str, failed: bool = False) -> None:
        """The reply is over."""
        self.running, self.notice, self.failed = False, notice, failed

    def take(self, event: str | bool | Exception) -> None:
        """A piece of the reply, its end (and whether it was cut off there), or what went wrong."""
        if not self.running:
            return  # it was given up, and says something after all
        match event:
            case str():
                self.reply += event
            case bool() if not self.reply.strip():
                self.end("The model has said nothing.", failed=True)
            case bool():
                self.end("Cut off at the length that is set." if event else "")
            case Flagged():
                self.reply = ""
                self.end(str(event), failed=True)
            case _ if self.hidden:
                self.end("The model has failed; try again.", failed=True)
            case BackendError():
                self.end(str(event), failed=True)
            case _:
                self.end(f"{type(event).__name__}: {str(event)[:200]}", failed=True)


def stream_replies(
    sides: Sequence[ModelPane], streams: Sequence[Stream], stop: threading.Event, timeout_seconds: float
) -> Iterator[None]:
    """Reads the streams into the sides until all have ended or were given up; each item says that some have grown.

    Args:
        stop: ends them all; what was said until then stays.
        timeout_seconds: of silence, after which a side is given up.
    """
    events: queue.SimpleQueue[tuple[ModelPane, str | bool | Exception]] = queue.SimpleQueue()
    over = threading.Event()  # of these streams; `stop` belongs to later ones too
    heard = {id(side): time.monotonic() for side in sides}
    for side, stream in zip(sides, streams, strict=True):
        threading.Thread(target=_pump, args=(side, stream, events, over), daemon=True).start()
    shown = 0.0
    try:
        while any(side.running for side in sides):
            try:
                side, event = events.get(timeout=POLL_SECONDS)
                heard[id(side)] = time.monotonic()
                side.take(event)
            except queue.Empty:
                pass
            for side in (side for side in sides if side.running):
                if stop.is_set():
                    side.end("Stopped.", failed=not side.reply.strip())
                elif time.monotonic() - heard[id(side)] > timeout_seconds:
                    side.end(f"The model has said nothing for {timeout_seconds:g} s; try again.", failed=True)
            if time.monotonic() - shown >= FEWEST_SECONDS:
                yield
                shown = time.monotonic()
    finally:
        over.set()


def _pump(side: ModelPane, stream: Stream, events: queue.SimpleQueue, over: threading.Event) -> None:
    """Reads a stream into the queue; closes it once nobody listens."""
    try:
        while not over.is_set():
            try:
                events.put((side, next(stream)))
            except StopIteration as end:
                events.put((side, bool(end.value)))
                return
    except Exception as error:  # whatever it is, somebody waits for the queue
        events.put((side, error))
    finally:
        stream.close()
