"""The page in front of several servers of one model: what FastChat's controller does, in one process.

python -m experiments.serve.up --model vicuna --servers http://10.0.0.1:8000 http://10.0.0.2:8000 -- port=7860 …
python -m experiments.serve.up --model m --start 2 runs/quickstart/hf -- port=7860      # starts two of its own

Each server's /health is asked every few seconds. A request goes to the healthy server with the fewest under way; one
that does not answer is left out, and the request goes to the next. What follows `--` is for `vicuna-chat`.
"""

import argparse
import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


@dataclass
class Server:
    """One of the servers, and what is known of it."""

    url: str
    healthy: bool = False
    under_way: int = 0
    served: int = 0


class Balancer:
    """Passes requests on; `app` is an ASGI application with `/v1/…` and `/health`."""

    def __init__(self, urls: list[str], every_seconds: float = 2.0, timeout_seconds: float = 300.0):
        self.servers = [Server(url.rstrip("/").removesuffix("/v1")) for url in urls]
        self._every, self._timeout = every_seconds, timeout_seconds
        routes = [Route("/health", self._health), Route("/v1/{path:path}", self._pass, methods=["GET", "POST"])]
        self.app = Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[None]:
        timeout = httpx.Timeout(self._timeout, connect=5)
        async with httpx.AsyncClient(timeout=timeout, limits=httpx.Limits(), trust_env=False) as self._client:
            watches = [asyncio.create_task(self._watch(server)) for server in self.servers]
            yield
            for watch in watches:
                watch.cancel()

    async def _watch(self, server: Server) -> None:
        while True:
            try:
                healthy = (await self._client.get(f"{server.url}/health", timeout=5)).status_code == 200
            except httpx.HTTPError:
                healthy = False
            if healthy != server.healthy:
                print(f"{server.url} {'answers' if healthy else 'does not answer'}", flush=True)
            server.healthy = healthy
            await asyncio.sleep(self._every)

    async def _health(self, request: Request) -> Response:
        states = [{"url": s.url, "healthy": s.healthy, "under_way": s.under_way} for s in self.servers]
        return JSONResponse(states, 200 if any(s.healthy for s in self.servers) else 503)

    async def _pass(self, request: Request) -> Response:
        body, tried = await request.body(), set[str]()
        while left := [s for s in self.servers if s.healthy and s.url not in tried]:
            server = min(left, key=lambda s: (s.under_way, s.served))
            tried.add(server.url)
            server.under_way, server.served = server.under_way + 1, server.served + 1
            try:
                sent = self._client.build_request(
                    request.method, server.url + request.url.path, content=body, headers=_passed(request)
                )
                answer = await self._client.send(sent, stream=True)
            except httpx.TransportError:  # nothing has come yet, so another may answer
                server.healthy, server.under_way = False, server.under_way - 1
                continue
            kind = answer.headers.get("content-type", "application/json")
            return StreamingResponse(self._rest(server, answer), answer.status_code, media_type=kind)
        return JSONResponse({"error": {"message": "no server of this model answers; try again"}}, 503)

    async def _rest(self, server: Server, answer: httpx.Response) -> AsyncIterator[bytes]:
        """The body as it comes; a server that dies in the middle breaks it off, and the client hears of it."""
        try:
            async for piece in answer.aiter_raw():
                yield piece
        finally:
            server.under_way -= 1
            await answer.aclose()


def _passed(request: Request) -> dict[str, str]:
    return {name: request.headers[name] for name in ("authorization", "content-type") if name in request.headers}


def serve_in_thread(balancer: Balancer, port: int = 0) -> tuple[uvicorn.Server, str]:
    """Serves on loopback; the server, and the URL up to `/v1`."""
    place = socket.create_server(("127.0.0.1", port), backlog=256)
    server = uvicorn.Server(uvicorn.Config(balancer.app, log_level="warning", timeout_graceful_shutdown=1))
    threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True).start()
    return server, f"http://127.0.0.1:{place.getsockname()[1]}/v1"


def started(count: int, folder: Path) -> tuple[list[subprocess.Popen[bytes]], list[str]]:
    """`transformers serve` so many times, and where."""
    ports = []
    for _ in range(count):
        with socket.create_server(("127.0.0.1", 0)) as place:
            ports.append(place.getsockname()[1])
    program = Path(sys.executable).with_name("transformers")
    command = [program, "serve", str(folder.resolve()), "--host", "127.0.0.1", "--port"]
    return [subprocess.Popen([*command, str(p)]) for p in ports], [f"http://127.0.0.1:{p}" for p in ports]


def main() -> int:
    """The command; returns the page's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="as the servers call it; with --start the folder")
    parser.add_argument("--servers", nargs="*", default=[], help="URLs")
    parser.add_argument("--start", nargs=2, metavar=("COUNT", "FOLDER"), help="starts servers here")
    parser.add_argument("chat", nargs="*", help="for vicuna-chat, behind --")
    given = parser.parse_args()
    workers: list[subprocess.Popen[bytes]] = []
    urls, model = given.servers, given.model
    if given.start:
        workers, own = started(int(given.start[0]), Path(given.start[1]))
        urls, model = [*urls, *own], str(Path(given.start[1]).resolve())
    if not urls or not model:
        parser.error("give --model and --servers, or --start")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    server, url = serve_in_thread(Balancer(urls))
    source = f"model={{name: {Path(model).parent.name if given.start else model}, model: '{model}', url: '{url}'}}"
    try:
        _wait(url)
        return subprocess.call([sys.executable, "-m", "vicuna_lit.chat", source, *given.chat])
    except KeyboardInterrupt:
        return 130
    finally:
        server.should_exit = True
        for worker in workers:
            worker.terminate()


def _wait(url: str, seconds: int = 600) -> None:
    for _ in range(seconds):
        try:
            if httpx.get(url.removesuffix("/v1") + "/health", trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        threading.Event().wait(1)
    sys.exit(f"no server has answered within {seconds} s")


if __name__ == "__main__":
    sys.exit(main())
