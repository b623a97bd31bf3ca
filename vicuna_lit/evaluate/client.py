"""Requests to OpenAI-compatible endpoints that are never lost and never paid for twice, within a budget."""

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import openai
from aiolimiter import AsyncLimiter

from vicuna_lit.evaluate.cache import Bill, Cache
from vicuna_lit.evaluate.config import EndpointConfig, RequestsConfig
from vicuna_lit.evaluate.prices import price_of
from vicuna_lit.folder import RunError

CHARACTERS_PER_TOKEN = 3.0
"""To guess a prompt's tokens before they are counted; English has about 4, so the guess is high."""
_OVERHEAD = 64
"""Tokens that an endpoint's own chat template may add."""
_POLL = 0.2
BROKEN = "not the JSON of a chat completion"

Messages = Sequence[dict[str, str]]
for _name in ("openai", "httpx2"):  # else Hydra's log holds a line for each request
    logging.getLogger(_name).setLevel(logging.WARNING)


async def together(requests: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Lets all come to their end, so that no reply under way is lost; then raises the first error."""
    done = await asyncio.gather(*requests, return_exceptions=True)
    if errors := [error for error in done if isinstance(error, BaseException)]:
        raise errors[0]


class EndpointError(RunError):
    """An endpoint cannot be used or the budget is spent; the message says what to do."""


@dataclass(frozen=True)
class Reply:
    """What an endpoint said."""

    text: str
    finish: str


class Client:
    """Asks one endpoint.

    Every request is looked up in the cache by the hash of all that decides its answer; several may wait for one.
    429, 5xx, time-outs and lost connections are asked again by the openai library, with its back-off; a broken or
    empty body is paid for, booked as useless, and asked again here.

    Args:
        run: names who pays, in the cache's books.
        budget_usd: of the run, over all its starts; None: no limit.
    """

    def __init__(
        self, endpoint: EndpointConfig, requests: RequestsConfig, cache: Cache, run: str, budget_usd: float | None
    ):
        self.endpoint, self.requests, self.cache, self.run, self.budget = endpoint, requests, cache, run, budget_usd
        self._reserved, self._under_way, self._stop = 0.0, 0, None
        self._slots = asyncio.Semaphore(requests.concurrency)
        self._price = price_of(endpoint)
        if budget_usd is not None and self._price is None:
            raise EndpointError(
                f"budget_usd is set, but no price is known for {endpoint.model}; give it in USD per million tokens, "
                "judge.price={input: …, output: …}, or price: {…} in the model's entry (0 for a server of your own)"
            )
        self._key = os.environ.get(endpoint.key_variable, "")
        pace = AsyncLimiter(requests.per_minute / 60, 1) if requests.per_minute else None

        async def keep_pace(_: Any) -> None:
            if pace:
                await pace.acquire()

        self._openai = openai.AsyncOpenAI(
            base_url=endpoint.url,
            api_key=self._key or "none",
            timeout=requests.timeout_seconds,
            max_retries=requests.retries,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"request": [keep_pace]}),
        )

    @property
    def priced(self) -> bool:
        """Whether a price is known."""
        return self._price is not None

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._openai.close()

    async def check(self) -> None:
        """
        Raises:
            EndpointError: nobody answers at the address, or the key is refused. Costs nothing.
        """
        try:
            await self._openai.with_options(max_retries=1, timeout=20).models.list()
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise EndpointError(
                f"{self.endpoint.url}: the key in ${self.endpoint.key_variable} is refused: {self._said(error)}"
            ) from None
        except openai.APIConnectionError as error:
            key = "" if self._key else f" (${self.endpoint.key_variable} is not set either)"
            said = self._said(error.__cause__ or error)
            raise EndpointError(f"{self.endpoint.url}: nobody answers: {said}{key}") from None
        except (openai.APIError, ValueError):
            pass  # many servers have no list of models

    async def ask(self, messages: Messages, limit: int, temperature: float | None, **parameters: Any) -> Reply:
        """The reply to a chat, of at most `limit` tokens.

        Raises:
            EndpointError: the budget would be exceeded, or no attempt was answered.
        """
        request, key = self._request(messages, limit, temperature, parameters)
        lease = (self.requests.retries + 1) * (self.requests.timeout_seconds + 10) * self.requests.attempts
        while (known := self.cache.get(key)) is None:
            async with self._slots:
                if self._stop:
                    raise self._stop
                if self.cache.claim(key, lease):
                    try:
                        return Reply(**await self._pay(key, request))
                    finally:
                        self.cache.release(key)
            await asyncio.sleep(_POLL)
        return Reply(**known)

    def cached(self, messages: Messages, limit: int, temperature: float | None, **parameters: Any) -> bool:
        """Whether the reply to a request is there already."""
        return self.cache.get(self._request(messages, limit, temperature, parameters)[1]) is not None

    def _request(
        self, messages: Messages, limit: int, temperature: float | None, parameters: dict[str, Any]
    ) -> tuple[dict[str, Any], str]:
        """A request and its hash: all that decides the answer."""
        sampling = {} if temperature is None else {"temperature": temperature}
        request = {
            "url": self.endpoint.url,
            "model": self.endpoint.model,
            "version": self.endpoint.version,
            "messages": list(messages),
            "parameters": parameters | {self.endpoint.limit: limit} | sampling,
        }
        return request, hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()

    async def _pay(self, key: str, request: dict[str, Any]) -> dict[str, Any]:
        for attempt in range(self.requests.attempts):
            body = await self._send(request)
            reply, bill, problem = self._read(body, request)
            if problem == BROKEN:  # perhaps it was paid for: the budget allows for it
                self._reserved += self._most_of(request)
            last = attempt + 1 == self.requests.attempts
            if last and reply is None and problem != BROKEN:
                reply = {"text": "", "finish": problem}  # it will not say more: kept, and reported by who reads it
            self.cache.bill(self.run, key, bill, reply, request)
            if reply:
                return reply
        self._stop = EndpointError(
            f"{self.endpoint.url}: {self.requests.attempts} replies of {self.endpoint.model} in a row were {BROKEN}; "
            "what was answered is kept, and the same command goes on"
        )
        raise self._stop

    async def _send(self, request: dict[str, Any]) -> Any:
        """The body as it came: an object of the library, or whatever else the endpoint has sent."""
        most = self._most_of(request)
        while self.budget is not None and self.cache.spent(self.run).usd + self._reserved + most > self.budget:
            if self._under_way and not self._stop:  # those may cost less than the most
                await asyncio.sleep(_POLL / 10)
                continue
            self._stop = self._stop or EndpointError(
                f"the budget of {self.budget:g} USD would be exceeded: {self.cache.spent(self.run).usd:.4f} are spent; "
                "what was answered is kept; raise budget_usd to go on"
            )
            raise self._stop
        self._reserved, self._under_way = self._reserved + most, self._under_way + 1
        try:
            arguments = {"model": request["model"], "messages": request["messages"], **request["parameters"]}
            return await self._openai.chat.completions.create(**arguments)
        except ValueError:  # broken JSON
            return None
        except openai.APIStatusError as error:
            status = f"{self.endpoint.url} answers {error.status_code}: {self._said(error)}"
            self._stop = EndpointError(f"{status}; what was answered is kept, and the same command goes on")
        except openai.APIError as error:
            lost = f"{self.endpoint.url}: no answer after {self.requests.retries + 1} attempts: {self._said(error)}"
            self._stop = EndpointError(f"{lost}; what was answered is kept, and the same command goes on")
        finally:
            self._reserved, self._under_way = self._reserved - most, self._under_way - 1
        raise self._stop

    def most(self, messages: Messages, limit: int) -> float:
        """The most that a request can cost, in USD, as far as can be told before it is sent."""
        characters = sum(len(message["content"]) for message in messages)
        return self.usd(int(characters / CHARACTERS_PER_TOKEN) + _OVERHEAD, limit)

    def _most_of(self, request: dict[str, Any]) -> float:
        return self.most(request["messages"], request["parameters"][self.endpoint.limit])

    def usd(self, inputs: int, outputs: int) -> float:
        """The price of so many tokens; 0 where none is known."""
        return self._price(inputs, outputs) if self._price else 0.0

    def _read(self, body: Any, request: dict[str, Any]) -> tuple[dict[str, Any] | None, Bill, str]:
        """The reply in a body (None where it has none), what it has cost, and what is wrong with it."""
        choices, usage = getattr(body, "choices", None), getattr(body, "usage", None)
        if not choices or choices[0].message is None:
            return None, Bill(0.0, 0, 0), BROKEN
        message, finish = choices[0].message, choices[0].finish_reason or ""
        text = (message.content or "").strip()
        if usage:
            inputs, outputs = usage.prompt_tokens, usage.completion_tokens
        else:  # some servers do not count
            sent = sum(len(message["content"]) for message in request["messages"])
            inputs, outputs = (int(n / CHARACTERS_PER_TOKEN) for n in (sent, len(text)))
        bill = Bill(self.usd(inputs, outputs), inputs, outputs)
        if getattr(message, "refusal", None) or finish == "content_filter":
            return None, bill, f"refused: {(message.refusal or 'content filter')[:80]}"
        return ({"text": text, "finish": finish}, bill, "") if text else (None, bill, "empty content")

    def _said(self, error: BaseException) -> str:
        """An error's words, without the key that some servers repeat."""
        words = " ".join(str(error).split())[:300]
        return words.replace(self._key, "***") if self._key else words
