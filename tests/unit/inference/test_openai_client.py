"""One access to a server: what it may send and for how long, what is said where it does not, and never the key."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.helpers.llm_server import KEY
from vicuna_lit.config.evaluate import EndpointConfig
from vicuna_lit.inference import server_access
from vicuna_lit.inference.openai_client import OpenAIClient, ServerError

ASKED = [{"role": "user", "content": "Hi?"}]
WHOLE = {"choices": [{"message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}]}
Serve = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    with suppress(OSError):
        handler.wfile.write(body)


def drips(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, for ever: never silent for long."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()
    chunk = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
    with suppress(OSError):
        for _ in range(200):
            handler.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            time.sleep(0.05)


@contextmanager
def serving(post: Serve, get: Serve = lambda handler: send(handler, 200, b"{}")) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            get(self)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            post(self)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        http.server_close()


def client(url: str, silence: float = 20.0, reply: float = 20.0) -> OpenAIClient:
    return OpenAIClient(EndpointConfig(url=url, model="m"), silence, reply)


def complete(one: OpenAIClient) -> Any:
    async def work() -> Any:
        try:
            return await one.complete({"model": "m", "messages": ASKED, "max_tokens": 9})
        finally:
            await one.aclose()

    return asyncio.run(work())


def every_way(one: OpenAIClient) -> dict[str, str]:
    """What each way to ask says: `complete` of evaluation, `stream` of the chat, `ask` and `moderate` of moderators."""
    ways: dict[str, Callable[[], Any]] = {
        "complete": lambda: complete(one),
        "stream": lambda: list(one.stream(ASKED, 9, 0.0)),
        "ask": lambda: one.ask(ASKED, 9),
        "moderate": lambda: one.moderate("Hi?"),
    }
    said = {}
    for name, way in ways.items():
        with pytest.raises(ServerError) as error:
            way()
        said[name] = str(error.value)
    return said


@pytest.mark.parametrize(
    ("status", "body", "headers", "message"),
    [
        (401, {"error": {"message": f"bad key {KEY}"}}, {}, "refuses the key in $OPENAI_API_KEY"),
        (302, {}, {"Location": "http://127.0.0.1:9/v1"}, "answers 302"),
        (200, WHOLE, {"Content-Encoding": "gzip"}, "broke off: the reply is compressed"),
        (400, {"error": {"message": "use max_completion_tokens"}}, {}, "judge.limit=max_completion_tokens"),
        (400, {"error": {"message": "temperature: only 1"}}, {}, "in a chat settings.temperature=1"),
    ],
)
def test_each_way_to_ask_says_the_same_of_what_a_server_must_not_do(status, body, headers, message):
    with serving(lambda handler: send(handler, status, json.dumps(body).encode(), **headers)) as url:
        for way, said in every_way(client(url)).items():
            assert message in said, way
            assert KEY not in said


def test_a_reply_without_an_end_is_ended(monkeypatch):
    with serving(drips) as url:
        clock = time.monotonic()
        with pytest.raises(ServerError, match="takes too long as a whole"):
            list(client(url, reply=0.5).stream(ASKED, 9, 0.0))
        with pytest.raises(ServerError, match=r"no whole reply within 0\.5 s|takes too long as a whole"):
            complete(client(url, reply=0.5))
        assert time.monotonic() - clock < 8
    monkeypatch.setattr(server_access, "MOST_BYTES", 1000)
    long = json.dumps(WHOLE | {"x": "x" * 2000}).encode()
    with serving(lambda handler: send(handler, 200, long)) as url:
        for way, said in every_way(client(url)).items():
            assert "more than 1,000 bytes" in said, way


@pytest.mark.parametrize(
    "body",
    [
        b"[]", b"{}", b"not JSON", b'{"results": []}', b'{"results": [{}]}', b'{"results": [{"flagged": null}]}',
        b'{"results": [{"flagged": "no", "categories": {}}]}', b'{"results": [{"flagged": true, "categories": 3}]}',
    ],
)  # fmt: skip
def test_a_moderation_of_another_form_is_no_verdict(body):
    with serving(lambda handler: send(handler, 200, body)) as url, pytest.raises(ServerError, match="sends no JSON of"):
        client(url).moderate("Hi?")


def test_a_look_at_the_server_finds_a_key_that_is_refused_and_costs_nothing():
    asked = []

    def refuse(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        send(handler, 401, json.dumps({"error": {"message": f"bad key {KEY}"}}).encode())

    with serving(lambda handler: asked.append("paid"), refuse) as url:
        with pytest.raises(ServerError, match=r"refuses the key in \$OPENAI_API_KEY: .*\*\*\*"):
            client(url).check()
        assert asked == ["/health", "/v1/models"]
    with serving(lambda handler: None, lambda handler: send(handler, 404, b"no such page")) as url:
        client(url).check()


def streamed(*deltas: Any, finish: Any = "stop") -> Serve:
    """A stream of these deltas; a text is sent as it stands."""
    chunks = [d if isinstance(d, str) else json.dumps({"choices": [{"index": 0, "delta": d}]}) for d in deltas]
    end = [json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}), '{"choices": []}', "[DONE]"]
    body = "".join(f"data: {chunk}\n\n" for chunk in [*chunks, *end]).encode()
    return lambda handler: send(handler, 200, body, Content_Type="text/event-stream")


PARTS = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Yes"}, {"type": "image_url"}, ".", 7]


@pytest.mark.parametrize(
    ("serve", "expected"),
    [
        (streamed({"content": "a \ud83d"}, {"content": "\ude00 b"}, {"content": "\ud800"}), "a 😀 b\ufffd"),
        (streamed({"role": "assistant", "content": None}, {"content": PARTS}), "Yes."),
        (streamed('{"choices": [{"index": 0, "text": "plain"}]}', '{"choices": null}', '{"usage": {}}'), "plain"),
        (streamed({"content": "No"}, {"refusal": "not "}, {"refusal": "that"}), "m refuses: not that"),
        (streamed({"content": "No"}, finish="content_filter"), "m refuses: content filter"),
        (streamed({"reasoning_content": "long"}, finish="length"), "m: reasoning without an answer"),
        (streamed({"content": "No"}, '{"error": {"message": "too long a context"}}'), "breaks off: too long a context"),
        (streamed({"content": "No"}, finish=None), "broke off in the middle"),
        (streamed({"content": "No"}, "{not JSON"), "sends no JSON"),
    ],
)
def test_a_stream_is_read_in_whole_characters_and_says_why_it_ends(serve, expected):
    with serving(serve) as url:
        try:
            assert "".join(client(url).stream(ASKED, 9, 0.0)) == expected
        except ServerError as error:
            assert expected in str(error)
