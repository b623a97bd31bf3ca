"""The page's doors: bodies have an end, and no header of a client says who it is."""

import asyncio
import math
import signal
import socket
from typing import Any

import pytest

from vicuna_lit.chat.markup import plain
from vicuna_lit.chat.service import ChatService
from vicuna_lit.run_folder import RunError


@pytest.fixture(scope="module")
def server() -> Any:
    """Imported where it is needed: gradio takes seconds, of every process that collects tests."""
    from vicuna_lit.chat import server

    return server


def served(server: Any, chunks: list[bytes], **headers: str) -> tuple[list[int], int]:
    """The statuses that were sent, and the bytes that the application has read."""
    read, statuses, left = 0, [], list(chunks)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal read
        while True:
            message = await receive()
            read += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http", "method": "POST", "path": "/gradio_api/queue/join",
        "headers": [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()],
    }  # fmt: skip
    asyncio.run(server.SecurityMiddleware(app)(scope, receive, send))
    return statuses, read


def test_a_body_that_is_too_long_is_not_read(server):
    assert served(server, [b"{}"], content_length="2") == ([200], 2)
    for said in (str(server.MOST_BODY + 1), "many", "-1"):
        assert served(server, [b"x"], content_length=said) == ([413], 0)
    _, read = served(server, [b"x" * 2**20] * 64)  # in chunks, without a length
    assert read <= server.MOST_BODY


@pytest.mark.parametrize(("variable", "trusts"), [(None, False), ("10.0.0.1", True)])
def test_addresses_that_a_header_names_are_taken_from_named_proxies_alone(variable, trusts, server, monkeypatch):
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    if variable:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", variable)
    assert server.settings_of(None).proxy_headers is trusts


def test_a_host_is_this_machine_alone_or_it_is_said(server):
    is_loopback, listen = server.is_loopback, server.listen
    hosts = ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST", "0.0.0.0", "::", "192.168.0.1", "host.example"]
    assert [is_loopback(host) for host in hosts] == [True] * 5 + [False] * 4
    for host, said in {"no.such.invalid": "no such name", "192.0.2.1": "no address of this machine"}.items():
        with pytest.raises(RunError, match=f"host={host}: (is )?{said}"):
            listen(host, 7860)
    with listen("127.0.0.1", 0) as taken, pytest.raises(RunError, match="choose another with port"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_a_request_that_gradio_does_not_expect_is_one_line(server, capsys):
    from gradio import queueing, routes

    class Broken:
        def __init__(self, error: Any):
            self.error = error

        async def __call__(self, *_: Any) -> None:
            self.error()

    class Odd(str):
        def replace(self, *_: Any) -> Any:
            raise ZeroDivisionError

    def asked(error: Any) -> str:
        scope = {"type": "http", "method": "POST", "path": "/gradio_api/queue/join", "headers": []}
        asyncio.run(server.SecurityMiddleware(Broken(error))(scope, None, None))
        return capsys.readouterr().err

    assert asked(lambda: {}[9999]) == "a request was refused: KeyError: 9999\n"
    assert asked(lambda: int("a\nb\x1b")).count("\n") == 1
    assert "Traceback" in asked(lambda: plain(Odd())), "a mistake of ours"
    server.no_tracebacks()
    try:
        raise TypeError("no number")
    except TypeError:
        vars(queueing)["traceback"].print_exc()
        vars(routes)["traceback"].print_exc()
    assert capsys.readouterr().err == "a request was refused: TypeError: no number\n" * 2
    from vicuna_lit.chat.web import _settings

    assert [_settings(0.5, length).max_new_tokens for length in (7.9, math.nan, math.inf)] == [7, 0, 0]


def test_sigterm_ends_the_page_as_ctrl_c_does(server, monkeypatch):
    """Uvicorn raises the signal once more when it has ended, which would kill the command."""
    before, service = signal.getsignal(signal.SIGTERM), object.__new__(ChatService)
    for one in (signal.SIGTERM, signal.SIGINT):
        monkeypatch.setattr(server.uvicorn.Server, "run", lambda _, sockets, one=one: signal.raise_signal(one))
        monkeypatch.setattr(server, "make_app", lambda service: service)
        with socket.socket() as place:
            server.serve(service, place)
    assert signal.getsignal(signal.SIGTERM) is before
