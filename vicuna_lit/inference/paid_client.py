"""Requests to OpenAI-compatible endpoints that are never lost and never paid for twice, within a budget."""

import asyncio
import hashlib
import json
import random
import sys
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from aiolimiter import AsyncLimiter
from anyio.from_thread import start_blocking_portal
from genai_prices import Usage, calc_price

from vicuna_lit.config.evaluate import EndpointConfig, RequestsConfig
from vicuna_lit.inference import bodies
from vicuna_lit.inference.openai_client import Messages, OpenAIClient, ServerError
from vicuna_lit.inference.reply_cache import Bill, Cache
from vicuna_lit.run_folder import RunError
from vicuna_lit.signals import SAME, held

_POLL = 0.2
LAST_REPLIES = 20.0
"""Seconds that the requests under way have once the command is told to stop."""
GOES_ON = "what was answered is kept, and the same command goes on"


async def together(requests: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Waits for all, so that no reply under way is lost; then raises the first error."""
    done = await asyncio.gather(*requests, return_exceptions=True)
    if errors := [error for error in done if isinstance(error, BaseException)]:
        raise errors[0]


def run_to_end(work: Callable[[], Coroutine[Any, Any, None]], stop: Callable[[], None]) -> None:
    """Runs a coroutine to its end, also where an event loop runs already, as in a notebook.

    Ctrl-C or SIGTERM ends it when the replies under way are there, which will be billed; `LAST_REPLIES` later, or told
    once more, it waits for them no longer.

    Args:
        stop: lets the coroutine ask for nothing more.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        with start_blocking_portal() as portal:  # a thread with a loop of its own
            portal.call(work)
        return
    with asyncio.Runner() as runner:
        loop, first = runner.get_loop(), []

        def leave() -> None:
            for task in asyncio.all_tasks(loop):
                task.cancel()

        def told() -> None:
            if not first:
                first.append(loop.time())
                loop.call_later(LAST_REPLIES, leave)
                said = f"stopping: nothing more is asked, and replies under way have {LAST_REPLIES:g} s"
                print(said, file=sys.stderr, flush=True)
                stop()
            elif loop.time() - first[0] > SAME:
                leave()

        with held(lambda: loop.call_soon_threadsafe(told)):
            runner.run(work())


def price_of(endpoint: EndpointConfig) -> Callable[[int, int], float] | None:
    """USD of so many input and output tokens: by the config, else by genai-prices' table; None: neither knows."""
    price = endpoint.price
    if price is not None:
        return lambda inputs, outputs: (inputs * price.input + outputs * price.output) / 1e6

    def of_table(inputs: int, outputs: int) -> float:
        usage = Usage(input_tokens=inputs, output_tokens=outputs)
        return float(calc_price(usage, model_ref=endpoint.model).total_price)

    try:
        of_table(1, 1)
    except LookupError:
        return None
    return of_table


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
    After 429, 5xx, time-outs and lost connections it asks again with growing pauses. The most that a request can cost
    is reserved in the cache before it is sent. A body is kept and billed before it is read; an empty or odd one is
    asked for again, `requests.attempts` times over all starts, and then is a reply without text.

    Args:
        run: names the payer in the cache's books.
        budget_usd: of the run, over all its starts; None: no limit.
    """

    def __init__(
        self, endpoint: EndpointConfig, requests: RequestsConfig, cache: Cache, run: str, budget_usd: float | None
    ):
        self.endpoint, self.requests, self.cache, self.run, self.budget = endpoint, requests, cache, run, budget_usd
        self.most_usd: float | None = None
        """The announced maximum of this start, with all that was spent before; kept like a budget."""
        self._stop: EndpointError | None = None
        self._slots = asyncio.Semaphore(requests.concurrency)
        self._price = price_of(endpoint)
        if budget_usd is not None and self._price is None:
            raise EndpointError(
                f"budget_usd is set, but no price is known for {endpoint.model}; give it in USD per million tokens, "
                "judge.price={input: …, output: …}, or price: {…} in the model's entry (0 for a server of your own)"
            )
        self._pace = AsyncLimiter(1, 60 / requests.per_minute) if requests.per_minute else None
        self.server = OpenAIClient(endpoint, requests.timeout_seconds, requests.timeout_seconds)

    @property
    def priced(self) -> bool:
        """Whether a price is known."""
        return self._price is not None

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.aclose()

    async def ask(self, messages: Messages, limit: int, temperature: float | None, **parameters: Any) -> Reply:
        """The reply to a chat, of at most `limit` tokens; one without text where the server does not take this request.

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
                    except ServerError as error:  # not kept: another server of the same name may read more
                        return Reply("", error.said)
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
        """The reply to a request, kept; bodies of an earlier start are not paid for again."""
        said = [bodies.read(json.loads(body)) for body in self.cache.bodies(key)]
        while not (done := [one for one in said if not one.problem]) and len(said) < self.requests.attempts:
            said.append(bodies.read(await self._send(key, request)))
        last = done[0] if done else said[-1]
        reply = {"text": last.text, "finish": last.problem or last.finish}  # who reads it reports a problem
        self.cache.keep(key, reply, request)
        return reply

    async def _send(self, key: str, request: dict[str, Any]) -> Any:
        """The body of the next completion, kept and billed."""
        arguments = {"model": request["model"], "messages": request["messages"], **request["parameters"]}
        said = ""
        for attempt in range(self.requests.retries + 1):
            if self._pace:
                await self._pace.acquire()
            reservation, pause = await self._reserve(request), min(8.0, 0.5 * 2**attempt) * random.uniform(0.75, 1)
            is_lost, is_booked = True, False
            try:
                body = await self.server.complete(arguments)
                if bodies.is_completion(body):
                    self._book(key, request, reservation, body)
                    is_booked = True
                    return body
                said = f"an error: {json.dumps(body)[:300]}"
            except ServerError as error:
                is_lost, said = error.billed, error.said
                pause = pause if error.pause is None else error.pause
                if error.of_the_request:
                    raise
                if not error.again:
                    raise self._stopped(f"{said}; {GOES_ON}") from None
            finally:
                if not is_booked:
                    (self.cache.lose if is_lost else self.cache.free)(reservation)
            if attempt < self.requests.retries:
                await asyncio.sleep(pause)
        tried = f"no answer of {self.endpoint.model} in {self.requests.retries + 1} attempts, the last: {said}"
        raise self._stopped(f"{self.endpoint.url}: {tried}; {GOES_ON}")

    def stop(self) -> None:
        """No more requests are sent; those under way are kept when their reply comes."""
        self._stopped(f"stopped; {GOES_ON}")

    def _stopped(self, message: str) -> "EndpointError":
        self._stop = self._stop or EndpointError(message)
        return self._stop

    async def _reserve(self, request: dict[str, Any]) -> str:
        most = self.most(request["messages"], request["parameters"][self.endpoint.limit])
        limits = [limit for limit in (self.budget, self.most_usd) if limit is not None]
        limit = min(limits) if limits and self.priced else None
        while True:
            if self._stop:
                raise self._stop
            what, reservation = self.cache.reserve(self.run, most, limit)
            if what == "reserved":
                return reservation
            if what == "over":
                break
            await asyncio.sleep(_POLL / 10)
        lost = self.cache.reserved(self.run)
        spent = f"{self.cache.spent(self.run).usd:.4f} are spent" + (f", {lost:.4f} set aside" if lost else "")
        if limit == self.budget:
            raise self._stopped(
                f"the budget of {limit:g} USD would be exceeded: {spent}; "
                "what was answered is kept; raise budget_usd to go on"
            )
        raise self._stopped(f"more would be paid than the most that was said: {spent}; {GOES_ON}, with a new figure")

    def _book(self, key: str, request: dict[str, Any], reservation: str, body: Any) -> None:
        most_in = bodies.most_input_tokens(request["messages"])
        counted = bodies.tokens(body, most_in, request["parameters"][self.endpoint.limit])
        bill = Bill(self.usd(*counted), *counted) if counted else None
        self.cache.receive(self.run, key, reservation, bill, json.dumps(body))

    def most(self, messages: Messages, limit: int) -> float:
        """The most that a request can cost, in USD; it holds for every script."""
        return self.usd(bodies.most_input_tokens(messages), limit)

    def usd(self, inputs: int, outputs: int) -> float:
        """The price of so many tokens; 0 where none is known."""
        return self._price(inputs, outputs) if self._price else 0.0
