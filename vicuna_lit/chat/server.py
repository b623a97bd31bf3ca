"""The page on a port: nothing but what the page needs is served, and nothing is fetched from elsewhere."""

import errno
import ipaddress
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio import queueing, routes
from gradio.themes import Default
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse

from vicuna_lit.chat.service import ChatService
from vicuna_lit.chat.web import CSS, Page
from vicuna_lit.pages import visible
from vicuna_lit.run_folder import RunError

POLICY = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; connect-src 'self'; frame-src 'none'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
SERVED = ("/assets/", "/static/", "/svelte/", "/theme.css", "/config", "/favicon.ico", "/manifest.json", "/health")
API = tuple(
    f"/gradio_api/{name}" for name in ("queue/", "run/", "heartbeat/", "startup-events", "info", "cancel", "reset")
)
"""What the page asks for; gradio's routes for files, uploads, proxies and the rest are closed."""
HERE = Path(__file__).parents[1]
MOST_BODY = 4 * 2**20
"""Bytes of a request: a prompt, or what was sent to a model, which the page sends back to have it hidden."""


def say_error() -> None:
    """One line about the error that is handled now; its traceback, where it comes out of code of ours."""
    error = sys.exception()
    where = [Path(frame.filename) for frame in traceback.extract_tb(error and error.__traceback__)]
    if any(HERE in file.parents and file != Path(__file__) for file in where):
        traceback.print_exc()
    else:
        text = " ".join(str(error).split())[:200]
        print(f"a request was refused: {type(error).__name__}: {visible(text)}", file=sys.stderr, flush=True)


def no_tracebacks() -> None:
    """gradio prints one for whatever is wrong with a request; it offers no other way to say it."""
    for module in (queueing, routes):
        vars(module)["traceback"] = SimpleNamespace(print_exc=say_error)


class SecurityMiddleware:
    """Lets through what the page needs, and tells the browser to load nothing from elsewhere."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"]
        if path != "/" and not path.startswith((*SERVED, *API)):
            return await PlainTextResponse("not served", 404)(scope, receive, send)

        left = MOST_BODY

        async def read() -> Any:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            return message if left >= 0 else {"type": "http.disconnect"}

        said = dict(scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or int(said) > MOST_BODY:
            return await PlainTextResponse("too long", 413)(scope, receive, send)

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), text.encode()) for name, text in POLICY.items()]
            await send(message)

        try:
            return await self.app(scope, read, answer)
        except Exception:  # a request that gradio does not expect; it was answered with 500
            say_error()


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def make_app(service: ChatService) -> Any:
    """The ASGI application."""
    limits, app = service.config.limits, FastAPI(openapi_url=None)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    blocks = Page(service).blocks.queue(max_size=limits.at_once + limits.waiting, api_open=False)
    blocks.max_threads = 2 * limits.at_once + 8
    blocks.state_session_capacity = limits.open_pages  # gradio forgets closed pages at no other time
    no_tracebacks()
    theme = Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    gr.mount_gradio_app(
        app, blocks, "/", blocked_paths=["/"], max_file_size=1, show_error=False, ssr_mode=False, footer_links=[],
        theme=theme, css=CSS, enable_monitoring=False,
    )  # fmt: skip
    fenced = SecurityMiddleware(app)
    host = service.config.host
    if is_loopback(host):  # else a web page could reach the chat under a name of its own
        return TrustedHostMiddleware(fenced, allowed_hosts=["127.0.0.1", "localhost", "[::1]", host])
    return fenced


def listen(host: str, port: int) -> socket.socket:
    """
    Raises:
        RunError: the port is taken, or the host is none of this machine.
    """
    try:
        socket.getaddrinfo(host, port)  # `create_server` would say the same as an error of the system
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=256)
    except (socket.gaierror, UnicodeError):
        raise RunError(f"host={host}: no such name or address; 127.0.0.1 is this machine alone") from None
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            said = "is no address of this machine; 0.0.0.0 is all that it has, 127.0.0.1 this machine alone"
            raise RunError(f"host={host}: {said}") from None
        raise RunError(f"{host}:{port}: {os.strerror(error.errno or 0)}; choose another with port=…") from None


def settings_of(app: Any) -> uvicorn.Config:
    """How the application is served; the proxies whose headers count are those of $FORWARDED_ALLOW_IPS alone."""
    named = bool(os.environ.get("FORWARDED_ALLOW_IPS"))  # else any client on loopback could name its own address
    return uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, lifespan="on", proxy_headers=named)


def serve(service: ChatService, place: socket.socket) -> None:
    """Serves the page until Ctrl-C or SIGTERM; both are how a server ends, and no failure."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises it once more at its end
    try:
        with suppress(KeyboardInterrupt):
            uvicorn.Server(settings_of(make_app(service))).run(sockets=[place])
    finally:
        signal.signal(signal.SIGTERM, before)
