"""One access to a model behind an OpenAI-compatible server: vLLM, `transformers serve`, OpenAI, …

Chat, moderation and evaluation share it: the address, the key, limits to the time and length of a reply, no redirects,
the health check, and the error messages.
"""

import asyncio
import math
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import httpx2
import openai

from vicuna_lit.config.evaluate import EndpointConfig
from vicuna_lit.inference import bodies
from vicuna_lit.inference.backend import BackendError, Sent, Settings, Stream
from vicuna_lit.inference.server_access import PLAIN, Key, bound
from vicuna_lit.records.conversation import Conversation

PROBE_SECONDS = 20.0
_LONGEST_PAUSE = 60.0
_TIMES_SILENCE = 10
"""Times the limit to silence: how long a reply of a chat may take as a whole."""

_OF_THE_REQUEST = re.compile(
    r"context[ _](?:length|size|window)|(?:prompt|input|request)\b[^.]{0,40}\btoo (?:long|large)|too large for model|"
    r"input token count|exceed\w* the (?:maximum|available)|inputs` tokens|content[ _](?:filter|management|policy)",
    re.I,
)
"""How servers say that a prompt is longer than a model reads, or holds what they do not answer: OpenAI, Azure, vLLM,
llama.cpp, TGI, Anthropic, Mistral, Gemini. That `max_tokens` is too large is said of all requests."""

Messages = Sequence[dict[str, str]]


class ServerError(BackendError):
    """A server has given no reply.

    Args:
        said: what has happened; never holds the key.
        advice: what to do.
        again: whether the same request may be answered the next time.
        billed: whether the request may have been billed.
        pause: seconds that the server asks its clients to wait.
    """

    of_the_request = False
    """Whether it is what this request holds that the server does not take, so that others may be answered."""

    def __init__(
        self, said: str, advice: str = "", again: bool = True, billed: bool = True, pause: float | None = None
    ):
        super().__init__(f"{said}; {advice}" if advice else said)
        self.said, self.again, self.billed, self.pause = said, again, billed, pause


class OpenAIClient:
    """One model of one server. Safe to use from several threads.

    Args:
        silence_seconds: between two pieces of a reply, at most.
        reply_seconds: for a reply as a whole, at most.

    Raises:
        RunError: the environment's key cannot be one.
    """

    def __init__(self, endpoint: EndpointConfig, silence_seconds: float, reply_seconds: float):
        self.endpoint, self.key = endpoint, Key(endpoint.key_variable)
        self._silence, self._most = silence_seconds, reply_seconds
        self._how: dict[str, Any] = {
            "base_url": endpoint.url,
            "api_key": self.key.text or "none",
            "timeout": silence_seconds,
            "default_headers": PLAIN,
        }

    @cached_property
    def _sync(self) -> openai.OpenAI:
        limits: Any = {"response": [lambda response: bound(response, self._most)]}
        http = openai.DefaultHttpxClient(event_hooks=limits, follow_redirects=False)
        return openai.OpenAI(**self._how, max_retries=1, http_client=http)

    @cached_property
    def _async(self) -> openai.AsyncOpenAI:
        async def limit(response: Any) -> None:
            bound(response, self._most)

        http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [limit]}, follow_redirects=False)
        return openai.AsyncOpenAI(**self._how, max_retries=0, http_client=http)

    def __del__(self) -> None:
        if client := self.__dict__.get("_sync"):
            client.close()  # the library closes no client that it was given

    async def aclose(self) -> None:
        """Frees the connections of `complete`."""
        if client := self.__dict__.get("_async"):
            await client.close()

    def check(self) -> None:
        """Costs nothing.

        Raises:
            ServerError: nobody answers at the address, the server is not well, or it refuses the key.
        """
        client = self._sync.with_options(timeout=min(PROBE_SECONDS, self._silence))
        address = self.endpoint.url.removesuffix("/v1") + "/health"
        try:
            client.with_options(max_retries=0).get(address, cast_to=httpx2.Response)
        except openai.APIStatusError as error:
            if error.status_code >= 500:  # others have no such page, or want a key for it
                raise ServerError(
                    f"{address} answers {error.status_code}: the server is not ready", "try again"
                ) from None
        except openai.APIConnectionError as error:
            raise self._described(error) from None
        try:
            client.models.list()
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.APIConnectionError) as error:
            raise self._described(error) from None
        except Exception:  # many servers have no list of models
            pass

    async def complete(self, request: dict[str, Any]) -> Any:
        """The body of a chat completion as data, whatever its form; tried once.

        Raises:
            ServerError: there is none.
        """
        with self._errors():
            async with asyncio.timeout(self._most):
                raw = await self._async.chat.completions.with_raw_response.create(**request)
            return self._data(raw)

    def ask(self, messages: Messages, max_tokens: int) -> str:
        """A short reply as a whole, the most likely one; empty where there is no text.

        Raises:
            ServerError: there is none.
        """
        how: dict[str, Any] = self._request(messages, max_tokens, 0.0)
        with self._errors():
            return bodies.read(self._data(self._sync.chat.completions.with_raw_response.create(**how))).text

    def moderate(self, text: str) -> list[str] | None:
        """The categories in which OpenAI's moderation flags a text; None: it does not.

        Raises:
            ServerError: there is no answer.
        """
        with self._errors():
            raw = self._sync.moderations.with_raw_response.create(model=self.endpoint.model, input=text)
            found = self._data(raw)["results"][0]
            if not isinstance(found["flagged"], bool):
                raise ValueError("flagged is neither true nor false")
            return (
                [name for name, is_flagged in found["categories"].items() if is_flagged] if found["flagged"] else None
            )

    def stream(self, messages: Messages, max_tokens: int, temperature: float) -> Stream:
        """A reply, piece by piece, and in the end whether it was cut off; closing it ends the request.

        Raises:
            ServerError: while it is read: the server is silent, refuses or breaks off.
        """
        how: dict[str, Any] = self._request(messages, max_tokens, temperature)
        finish = text = refusal = ""
        spoke = thought = False
        with self._errors(), self._sync.chat.completions.create(**how, stream=True) as chunks:
            for chunk in chunks:
                piece = bodies.piece(chunk.model_dump(warnings=False))
                finish, refusal, thought = piece.finish or finish, refusal + piece.refusal, thought or piece.thinks
                text += piece.text
                half = len(text) - bool(text and "\ud800" <= text[-1] <= "\udbff")  # the next piece has the other
                if half:
                    yield self.key.hide(bodies.whole_characters(text[:half]))
                    text, spoke = text[half:], True
        if text:
            yield bodies.whole_characters(text)
        if refusal or finish == bodies.FILTERED:
            said = self.key.hide(bodies.whole_characters(refusal))[:200] or "content filter"
            raise ServerError(f"{self.endpoint.model} refuses: {said}", again=False)
        if not finish:  # a server that dies closes the stream as if all were said
            raise ServerError(f"{self.endpoint.url} broke off in the middle of its reply", "try again")
        if thought and not spoke:
            raise ServerError(f"{self.endpoint.model}: {bodies.THOUGHT_ALONE}", again=False)
        return bodies.is_cut(finish)

    def _request(self, messages: Messages, max_tokens: int, temperature: float) -> dict[str, Any]:
        endpoint = self.endpoint
        return {
            "model": endpoint.model, "messages": messages, endpoint.limit: max_tokens, "temperature": temperature
        }  # fmt: skip

    def _data(self, raw: Any) -> Any:
        return self.key.hide_all(bodies.parse(raw.http_response.content))

    @contextmanager
    def _errors(self) -> Generator[None]:
        """Turns what the library raises into a `ServerError`."""
        try:
            yield
        except Exception as error:  # a body may hold anything
            raise self._described(error) from None

    def _described(self, error: Exception) -> ServerError:
        url, said = self.endpoint.url, self.key.said(error)
        if isinstance(error, openai.APIStatusError):
            return self._refused(error, said)
        cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
        kind = type(cause).__name__
        if isinstance(error, TimeoutError):
            return ServerError(f"{url} has given no whole reply within {self._most:g} s", "try again")
        if "Connect" in kind and isinstance(cause, httpx2.HTTPError):
            key = "" if self.key.text else f" (${self.key.variable} is not set either)"
            said = f"{url}: nobody answers: {self.key.said(cause)}{key}"
            return ServerError(said, "is the server running?", billed=False)
        if isinstance(error, openai.APITimeoutError) or "Timeout" in kind:
            return ServerError(f"{url} has said nothing for {self._silence:g} s", "try again")
        if isinstance(cause, httpx2.HTTPError) or isinstance(error, openai.APIConnectionError):
            return ServerError(f"{url} broke off: {self.key.said(cause or error)}", "try again")
        # An error of the library's that is none of its kinds came in the middle of a stream, whose status was good.
        what = "breaks off" if isinstance(error, openai.APIError) else "sends no JSON of the form that was asked for"
        return ServerError(f"{url} {what}: {said}")

    def _refused(self, error: openai.APIStatusError, said: str) -> ServerError:
        code, url = error.status_code, self.endpoint.url
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            key = "" if self.key.text else ", which is not set"
            said = f"{url} refuses the key in ${self.key.variable}{key}: {said}"
            return ServerError(said, again=False, billed=False)
        again = code in (408, 409, 429) or code >= 500
        hint = "" if again else _wanted_parameters(self.endpoint, said)
        billed = code in (408, 502, 504)  # the model may have answered
        found = ServerError(
            f"{url} answers {code}: {said}{hint}", "", again, billed, _asked_pause(error.response.headers)
        )
        found.of_the_request = code in (400, 413, 422) and bool(_OF_THE_REQUEST.search(said))
        return found


class EndpointBackend:
    """A model behind a server, for the chat: its replies are streamed.

    Args:
        timeout_seconds: of silence, after which the model is given up.
    """

    def __init__(self, endpoint: EndpointConfig, name: str, timeout_seconds: float):
        self.name, self._client = name, OpenAIClient(endpoint, timeout_seconds, _TIMES_SILENCE * timeout_seconds)

    def reply(self, conversation: Conversation, settings: Settings) -> Stream:
        """The model's next turn; closing the stream ends the request.

        Raises:
            BackendError: while the stream is read.
        """
        return self._client.stream(messages(conversation), settings.max_new_tokens, settings.temperature)

    def sent(self, conversation: Conversation) -> Sent:
        """The messages; the server puts them into the model's template."""
        return Sent(messages=tuple(messages(conversation)))

    def check(self) -> None:
        """
        Raises:
            BackendError: nobody answers at the address, the server is not well, or it refuses the key.
        """
        self._client.check()


def messages(conversation: Conversation) -> list[dict[str, str]]:
    """A conversation as such servers read it."""
    return [{"role": turn.role, "content": turn.content} for turn in conversation.turns]


def _wanted_parameters(endpoint: EndpointConfig, said: str) -> str:
    """What to set for a model that refuses a parameter, as OpenAI's reasoning models do; nothing for other errors."""
    wanted = {"limit=max_completion_tokens": endpoint.limit == "max_tokens" and "max_completion_tokens" in said}
    wanted |= {"temperature=null": "temperature" in said}
    judge = " ".join(f"judge.{key}" for key, is_wanted in wanted.items() if is_wanted)
    model = "{model: …, limit: max_completion_tokens} and answers.temperature=null, in a chat settings.temperature=1"
    return f" (a judge: {judge}; a model: {model})" if judge else ""


def _asked_pause(headers: Any) -> float | None:
    """Seconds that a server asks its clients to wait; what it may not ask for is left out."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return min(seconds, _LONGEST_PAUSE)
    return None
