"""The real command in a process of its own, and a real browser that looks at its page."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as place:
        return place.getsockname()[1]


def status(url: str, **headers: str) -> int:
    """Of a GET; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@contextmanager
def process(command: list[str], log: Path, ready: str, seconds: float = 60) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from when it answers at a URL until the end of the block, when it must stop at SIGTERM."""
    with log.open("wb") as out:
        started = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        try:
            deadline = time.monotonic() + seconds
            while status(ready) != 200:
                assert started.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield started
        finally:
            started.terminate()
            try:
                started.wait(15)
            except subprocess.TimeoutExpired:
                started.kill()
                raise


@contextmanager
def chat_page(folder: Path, *overrides: str) -> Iterator[str]:
    """`vicuna-chat` with its files in a folder; the address of its page."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "vicuna_lit.chat", *overrides, f"port={port}", f"run.dir={folder}"]
    with process(command, folder.with_suffix(".log"), f"{url}/health"):
        yield url


class Tab:
    """A page in the browser, and everything it asked the network for."""

    def __init__(self, browser: Any, url: str, phone: bool = False):
        size: dict[str, Any] = {"viewport": {"width": 1200, "height": 820}}
        if phone:
            size = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
        self.context = browser.new_context(**size)
        self.page, self.url = self.context.new_page(), url
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self.errors: list[str] = []
        self.page.set_default_timeout(15_000)
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.goto(url)
        self.page.wait_for_selector("#ask textarea")

    def __enter__(self) -> "Tab":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def write(self, text: str) -> None:
        """Sends a prompt."""
        self.page.fill("#ask textarea", text)
        self.page.click("#send")

    def click(self, text: str) -> None:
        self.page.get_by_role("button", name=text, exact=True).click()

    def said(self, side: int = 0) -> list[str]:
        """The texts of all bubbles, without their notices."""
        return [t.strip() for t in self.page.locator(f"#chat{side} .said, #chat{side} .asked").all_inner_texts()]

    def wait(self, text: str, where: str = "body") -> None:
        """Until a text is shown."""
        self.page.locator(where).get_by_text(text).first.wait_for()

    def idle(self) -> None:
        """Until nothing is being answered."""
        self.page.locator("#send").wait_for(state="visible")
        self.until(lambda: "▍" not in self.page.inner_text("body"))

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits; playwright's own waiting evaluates text as code, which the page forbids."""
        deadline = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < deadline, self.page.inner_text("body")
            self.page.wait_for_timeout(50)

    def ask(self, text: str) -> str:
        """Sends a prompt, and waits for the end of the last reply."""
        self.write(text)
        self.until(lambda: self.said()[-2:-1] == [text])
        self.idle()
        return self.said()[-1]

    def strangers(self) -> list[str]:
        """What was asked of anybody but the page's own server."""
        return [r for r in self.requests if not r.startswith((f"{self.url}/", "data:", f"blob:{self.url}/"))]
