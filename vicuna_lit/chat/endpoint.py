"""Models behind OpenAI-compatible servers: vLLM, `transformers serve`, OpenAI, …; streamed, with a limit to silence."""

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import openai

from vicuna_lit.chat.backends import BackendError, Sent, Settings, Stream
from vicuna_lit.conversation import Conversation
from vicuna_lit.evaluate.config import EndpointConfig

PROBE_SECONDS = 10.0
for _name in ("openai", "httpx2"):  # else Hydra shows a line for each request
    logging.getLogger(_name).setLevel(logging.WARNING)


class EndpointBackend:
    """A model behind a server."""

    def __init__(self, endpoint: EndpointConfig, name: str, timeout_seconds: float):
        self.name = name
        self._server = Server(endpoint, timeout_seconds)

    def reply(self, conversation: Conversation, settings: Settings) -> Stream:
        """The model's next turn; closing the stream ends the request.

        Raises:
            BackendError: while the stream is read.
        """
        return self._server.stream(messages(conversation), settings)

    def sent(self, conversation: Conversation) -> Sent:
        """The messages; the server puts them into the model's template."""
        return Sent(messages=tuple(messages(conversation)))

    def check(self) -> None:
        """
        Raises:
            BackendError: nobody answers at the address, or the server says that it is not well.
        """
        self._server.check()


def messages(conversation: Conversation) -> list[dict[str, str]]:
    """A conversation as such servers read it."""
    return [{"role": turn.role, "content": turn.content} for turn in conversation.turns]


class Server:
    """One server and one of its models. Safe to use from several threads."""

    def __init__(self, endpoint: EndpointConfig, timeout_seconds: float):
        self.endpoint, self._seconds = endpoint, timeout_seconds
        self._key = os.environ.get(endpoint.key_variable, "")
        self._openai = openai.OpenAI(
            base_url=endpoint.url, api_key=self._key or "none", timeout=timeout_seconds, max_retries=1
        )

    def stream(self, asked: list[dict[str, str]], settings: Settings) -> Stream:
        """A reply, piece by piece, and in the end whether it was cut off.

        Raises:
            BackendError: the server is silent, refuses or breaks off.
        """
        how: dict[str, Any] = {self.endpoint.limit: settings.max_new_tokens, "temperature": settings.temperature}
        with self._errors():
            chunks = self._create(asked, stream=True, **how)
            finish = None
            with chunks:
                for chunk in chunks:
                    choice = chunk.choices[0] if chunk.choices else None
                    if choice and choice.delta and choice.delta.content:
                        yield choice.delta.content
                    finish = (choice and choice.finish_reason) or finish
            if finish is None:  # a server that dies closes the stream as if all were said
                raise BackendError(f"{self.endpoint.url} broke off in the middle of its reply; try again")
        return finish == "length"

    def ask(self, asked: list[dict[str, str]], max_tokens: int) -> str:
        """A short reply as a whole, the most likely one.

        Raises:
            BackendError: there is none.
        """
        how: dict[str, Any] = {self.endpoint.limit: max_tokens, "temperature": 0.0}
        with self._errors():
            body = self._create(asked, **how)
            return body.choices[0].message.content or ""

    def moderate(self, text: str) -> list[str] | None:
        """The categories in which OpenAI's moderation flags a text; None: it does not.

        Raises:
            BackendError: there is no answer.
        """
        with self._errors():
            found: Any = self._openai.moderations.create(model=self.endpoint.model, input=text).results[0]
            categories = found.categories.model_dump(by_alias=True)
            return [name for name, is_flagged in categories.items() if is_flagged] if found.flagged else None

    def check(self) -> None:
        """
        Raises:
            BackendError: nobody answers at the address, or the server says that it is not well.
        """
        address = self.endpoint.url.removesuffix("/v1") + "/health"
        try:
            urllib.request.urlopen(address, timeout=min(PROBE_SECONDS, self._seconds)).close()
        except urllib.error.HTTPError as error:
            if error.code >= 500:  # others have no such page, or want a key for it
                raise BackendError(f"{address} answers {error.code}: the server is not ready; try again") from None
        except OSError as error:
            why = getattr(error, "reason", error)
            raise BackendError(f"{self.endpoint.url}: nobody answers: {why}; is the server running?") from None

    def _create(self, asked: list[dict[str, str]], **how: Any) -> Any:
        create: Any = self._openai.chat.completions.create
        return create(model=self.endpoint.model, messages=asked, **how)

    @contextmanager
    def _errors(self) -> Generator[None]:
        """What the library raises, as a message for whoever waits."""
        url = self.endpoint.url
        try:
            yield
        except BackendError:
            raise
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise BackendError(f"{url} refuses the key in ${self.endpoint.key_variable}: {self._said(error)}") from None
        except openai.APITimeoutError:
            raise BackendError(f"{url} has said nothing for {self._seconds:g} s; try again") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            if "Connect" in type(cause).__name__:
                raise BackendError(f"{url}: nobody answers: {self._said(cause)}; is the server running?") from None
            raise BackendError(f"{url} broke off: {self._said(cause)}; try again") from None
        except openai.APIStatusError as error:
            raise BackendError(f"{url} answers {error.status_code}: {self._said(error)}") from None
        except Exception as error:  # a body may hold anything
            raise BackendError(f"{url} sends no chat completion: {self._said(error)}") from None

    def _said(self, error: BaseException) -> str:
        """An error's words, without the key that some servers repeat."""
        words = " ".join(str(error).split())[:300] or type(error).__name__
        return words.replace(self._key, "***") if self._key else words
