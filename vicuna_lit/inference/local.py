"""A model on this machine: streamed, fair to several people, and reading each turn of a conversation only once."""

import queue
import threading
from collections import OrderedDict, deque
from itertools import takewhile
from typing import Any

import torch
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from vicuna_lit.data.chat_template import TemplateError
from vicuna_lit.inference.backend import BackendError, Sent, Settings, Stream
from vicuna_lit.inference.generate import Chat, arguments, keeps_keys_alone, own_sampling_put_aside, room_of, said
from vicuna_lit.records.conversation import Conversation


class LocalBackend:
    """Replies of a model in this process.

    One forward pass runs at a time; conversations take turns token by token, so a long reply holds nobody up. The keys
    and values of the last `kept` conversations stay, and a new turn reads no more than what is new. A model that
    keeps a state (`keeps_keys_alone`) reads each turn from the beginning.
    """

    def __init__(self, chat: Chat, name: str, kept: int):
        self.chat, self.name, self._kept = chat, name, kept
        self._baton, self._lock = FairLock(), threading.Lock()
        self._reuses = keeps_keys_alone(chat.model)
        self._caches: OrderedDict[str, tuple[list[int], DynamicCache]] = OrderedDict()

    def reply(self, conversation: Conversation, settings: Settings) -> Stream:
        """The model's next turn, in the pieces that are certain; together they are what `generate.reply` gives.

        Raises:
            BackendError: while the stream is read.
        """
        ids = self._prompt_ids(conversation)
        room = room_of(self.chat.model, len(ids))
        if room < 1:
            raise BackendError(
                f"the conversation has {len(ids)} tokens, more than {self.name} can read; begin a new one"
            )
        pieces: queue.SimpleQueue[list[int] | BaseException | None] = queue.SimpleQueue()
        stopped = threading.Event()
        most = min(settings.max_new_tokens, room)
        worker = (
            conversation.id,
            ids,
            arguments(self.chat.model, self.chat.encoder, most, settings.temperature),
            pieces,
            stopped,
        )
        thread = threading.Thread(target=self._work, args=worker, daemon=True)
        thread.start()
        new: list[int] = []
        shown = ""
        try:
            while isinstance(got := pieces.get(), list):
                new += got
                if len(text := _certain(said(self.chat.encoder, new)[0], self.chat.encoder.template.stop)) > len(shown):
                    yield text[len(shown) :]
                    shown = text
            if got is not None:
                raise BackendError(f"{self.name} failed: {' '.join(str(got).split())[:200]}") from got
            text, ended = said(self.chat.encoder, new)
            if rest := text.strip()[len(shown) :]:
                yield rest
            return not ended and len(new) >= most
        finally:
            stopped.set()
            thread.join()  # at most a token more; an interpreter that ends under a running model aborts

    def sent(self, conversation: Conversation) -> Sent:
        """The ids that generation starts from, and the text of each.

        Raises:
            BackendError: the template cannot render the conversation.
        """
        return Sent(tokens=tuple((id, self.chat.encoder.decode([id])) for id in self._prompt_ids(conversation)))

    def check(self) -> None:
        """A model that is loaded can answer."""

    def _prompt_ids(self, conversation: Conversation) -> list[int]:
        try:
            return self.chat.encoder.prompt_ids(conversation)
        except TemplateError as error:
            raise BackendError(f"{self.name}: {error}") from error

    def _work(self, id: str, ids: list[int], how: dict[str, Any], pieces: Any, stopped: threading.Event) -> None:
        """Generates; every token goes into the queue, then None or what went wrong."""
        self._baton.take()
        try:
            cache = self._cache_for(id, ids) if self._reuses else None
            prompt = torch.tensor([ids], device=self.chat.model.device)
            with own_sampling_put_aside(self.chat.model):
                output: Any = self.chat.model.generate(  # pyright: ignore[reportCallIssue]
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    streamer=_Tokens(pieces),
                    stopping_criteria=StoppingCriteriaList([_Pass(self._baton, stopped)]),
                    **({} if cache is None else {"past_key_values": cache}),
                    **how,
                )
            if cache is not None:
                self._keep(id, output[0].tolist()[: cache.get_seq_length()], cache)
            pieces.put(None)
        except Exception as error:  # a model may fail in any way, and somebody waits for the queue
            pieces.put(error)
        finally:
            self._baton.give()

    def _cache_for(self, id: str, ids: list[int]) -> DynamicCache:
        """What a conversation has of the prompt's keys and values; at least one token of it is left to read."""
        with self._lock:
            read, cache = self._caches.pop(id, ([], None))
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(read, ids[:-1], strict=False))))
        if cache is not None and same:
            try:
                if same < len(read):
                    cache.crop(same - len(read))
                return cache
            except RuntimeError:  # sliding windows forget what a shorter prompt would need
                pass
        return DynamicCache(config=self.chat.model.config)

    def _keep(self, id: str, read: list[int], cache: DynamicCache) -> None:
        with self._lock:
            self._caches[id] = (read, cache)
            while len(self._caches) > self._kept:
                self._caches.popitem(last=False)


class FairLock:
    """A lock that is given in the order of asking."""

    def __init__(self):
        self._lock, self._held = threading.Lock(), False
        self._waiting: deque[threading.Event] = deque()

    def take(self) -> None:
        """Waits for its turn."""
        with self._lock:
            if not self._held:
                self._held = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    def give(self) -> None:
        """Hands it to the thread that has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._held = False


class _Pass(StoppingCriteria):
    """Between two tokens: gives the other conversations their turn, and stops where nobody reads any more."""

    def __init__(self, baton: FairLock, stopped: threading.Event):
        self.baton, self.stopped = baton, stopped

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        self.baton.give()
        self.baton.take()
        return torch.full((len(input_ids),), self.stopped.is_set(), device=input_ids.device)


class _Tokens(BaseStreamer):
    """Passes on the new tokens; the first call brings the prompt."""

    def __init__(self, pieces: Any):
        self.pieces, self.prompt = pieces, True

    def put(self, value: torch.Tensor) -> None:
        if not self.prompt:
            self.pieces.put(value.reshape(-1).tolist())
        self.prompt = False

    def end(self) -> None:
        """The worker says when it is over."""


def _certain(text: str, stop: str) -> str:
    """What of a reply under way stays as it is: no half characters, no beginning of a stop string, no last blanks."""
    text = text.lstrip().rstrip("\ufffd")
    for width in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:width]):
            text = text[:-width]
            break
    return text.rstrip()
