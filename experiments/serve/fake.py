"""An OpenAI-compatible server on loopback: streams what a function says, breaks where it is told to, and keeps books.

It stands in for vLLM in load tests and in tests of the page.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Fault(Enum):
    """What a stream may do instead of going on."""

    DIES = "the connection breaks off"
    HANGS = "nothing more comes, for as long as the client waits"
    FAILS = "status 500 (as the first piece)"


Answer = Callable[[dict[str, Any]], Iterable[str | float | Fault]]
"""A request → the pieces of its reply; a number is a pause in seconds."""


class FakeServer:
    """Streams replies; `requests` holds all bodies, `abandoned` counts the clients that went away in the middle.

    Args:
        judge: the answer of `/moderations`: the categories in which a text is flagged, or a Fault.
    """

    def __init__(self, answer: Answer, judge: Callable[[str], list[str] | Fault] = lambda text: []):
        self.answer, self.judge = answer, judge
        self.requests: list[dict[str, Any]] = []
        self.abandoned = 0
        self.healthy = True
        self._lock, self._closing = threading.Lock(), threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.whole({"status": "ok" if owner.healthy else "loading"}, 200 if owner.healthy else 503)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if owner._closing.is_set():  # a connection that was kept alive
                    self.close_connection = True
                    return
                with owner._lock:
                    owner.requests.append(body)
                try:
                    owner._serve(self, body)
                except (BrokenPipeError, ConnectionResetError):
                    with owner._lock:
                        owner.abandoned += 1
                    self.close_connection = True

            def whole(self, body: Any, status: int = 200) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def event(self, data: str) -> None:
                text = f"data: {data}\n\n".encode()
                self.wfile.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that is gone, which `abandoned` has counted."""

        self._http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "FakeServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    def _serve(self, handler: Any, body: dict[str, Any]) -> None:
        if "input" in body:
            found = self.judge(body["input"])
            if isinstance(found, Fault):
                return handler.whole({"error": {"message": "the moderator is down"}}, 500)
            result = {"flagged": bool(found), "categories": dict.fromkeys(found, True), "category_scores": {}}
            return handler.whole({"id": "m", "model": body["model"], "results": [result]})
        pieces = iter(self.answer(body))
        if not body.get("stream"):
            message = {"role": "assistant", "content": "".join(p for p in pieces if isinstance(p, str))}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return handler.whole({"id": "c", "object": "chat.completion", "choices": [choice]})
        return self._stream(handler, body, pieces)

    def _stream(self, handler: Any, body: dict[str, Any], pieces: Any) -> None:
        started = False
        for piece in pieces:
            if piece is Fault.FAILS:
                return handler.whole({"error": {"message": "out of memory"}}, 500)
            if not started:
                handler.send_response(200)
                handler.send_header("Content-Type", "text/event-stream")
                handler.send_header("Transfer-Encoding", "chunked")
                handler.end_headers()
                started = True
            if piece is Fault.DIES:
                handler.close_connection = True
                return handler.connection.close()
            if piece is Fault.HANGS:
                while not self._closing.wait(0.1):
                    handler.wfile.write(b"")
                return None
            if isinstance(piece, float):
                time.sleep(piece)
            else:
                handler.event(json.dumps(_chunk(body, {"content": piece}, None)))
        handler.event(json.dumps(_chunk(body, {}, "stop")))
        handler.event("[DONE]")
        handler.wfile.write(b"0\r\n\r\n")
        return None


def _chunk(body: dict[str, Any], delta: dict[str, str], finish: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": body["model"], "created": 0, "choices": [choice]}
