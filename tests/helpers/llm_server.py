"""An OpenAI-compatible server on loopback that misbehaves in every way a real one does, and keeps its own books."""

import hashlib
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.helpers.loopback import Loopback, QuietHandler

FAULTS = ("slow", "hang", "429", "500", "503", "cut", "broken", "not json", "empty", "refusal", "no choices")
KEY = "sk-not-a-real-key-0123456789"


class Server(Loopback):
    """Answers by a function of the request; `faults` is the share of attempts that fail, at most twice in a row.

    `paid` counts the useful replies delivered for each request; `input_tokens` and `output_tokens` all that was billed.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], str], faults: float = 0.0, seed: int = 0, pace: float = 0.0):
        self.answer, self.faults, self.pace = answer, faults, pace
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.paid: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        self.input_tokens = self.output_tokens = 0
        self.body: bytes | None = None
        self.most_at_once = self.at_once = 0
        self.times: list[float] = []
        owner = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                wrong = self.headers["Authorization"] != f"Bearer {KEY}"
                self.reply(401 if wrong else 200, {"error": {"message": f"bad {KEY}"}} if wrong else {"data": []})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with owner.lock:
                    owner.at_once += 1
                    owner.most_at_once = max(owner.most_at_once, owner.at_once)
                    owner.times.append(time.monotonic())
                try:
                    owner.serve(self, body)
                finally:
                    with owner.lock:
                        owner.at_once -= 1

        super().__init__(Handler)
        self.url = f"{self.address}/v1"

    def serve(self, handler: Any, body: bytes) -> None:
        key = hashlib.sha256(body).hexdigest()
        with self.lock:
            self.attempts[key] += 1
            fails = self.attempts[key] <= 2 and self.random.random() < self.faults
            fault = self.random.choice(FAULTS) if fails else "none"
            self.happened[fault] += 1
        time.sleep(self.pace)
        if self.body is not None:
            return handler.reply(200, self.body)
        request = json.loads(body)
        match fault:
            case "429":
                return handler.reply(429, {"error": {"message": "too many"}}, retry_after_ms="20")
            case "500" | "503":
                return handler.reply(int(fault), {"error": {"message": "oops"}}, retry_after_ms="20")
            case "hang":
                return time.sleep(6.5)
            case "cut":
                handler.send_response(200)
                handler.send_header("Content-Length", "5000")
                handler.end_headers()
                handler.wfile.write(b'{"choices": [{"mess')
                handler.wfile.flush()
                return handler.connection.shutdown(socket.SHUT_RDWR)
            case "broken":
                return handler.reply(200, b'{"choices": [{"message": {"content": "9 8')
            case "not json":
                return handler.reply(200, b"<html>gateway</html>", Content_Type="text/html")
            case "no choices":
                return handler.reply(200, {"id": "x", "object": "chat.completion"})
            case "slow":
                time.sleep(0.3)
            case _:
                pass
        message: dict[str, Any] = {"role": "assistant", "content": self.answer(request)}
        if fault == "empty":
            message["content"] = ""
        if fault == "refusal":
            message |= {"content": None, "refusal": "I would rather not."}
        usage = {"prompt_tokens": len(body) // 4, "completion_tokens": len(str(message["content"])) // 4}
        with self.lock:
            self.input_tokens += usage["prompt_tokens"]
            self.output_tokens += usage["completion_tokens"]
            self.paid[key] += fault not in ("empty", "refusal")
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage["total_tokens"] = sum(usage.values())
        return handler.reply(200, {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})


def answers_and_judges(request: dict[str, Any]) -> str:
    """An answer that its question and model decide; a verdict that the request decides, at times in no form."""
    text = json.dumps(request["messages"])
    draw = hashlib.sha256((request["model"] + text).encode()).digest()
    if request["model"] != "judge":
        return f"{request['model']} says {draw.hex() * (1 + draw[0] % 3)}"
    if draw[0] < 16 and "on one line and nothing else" not in text:
        return "Both answers have their merits, and I cannot decide."
    return f"{1 + draw[1] % 10} {1 + draw[2] % 10}\nBecause."
