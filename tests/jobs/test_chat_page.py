"""The page in a real browser, in front of a server that says what it is told to."""

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.chats import scripted
from tests.helpers.pages import CHROMIUM, Tab, chat_page, needs_chromium, status
from tests.unit.chat.test_chat import XSS

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as found:
        chromium = found.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    from experiments.serve.fake import FakeServer  # imports a web server; these tests are slow ones

    with FakeServer(scripted) as found:
        yield found


LIMITS = ["limits.timeout_seconds=2", "limits.prompts_per_minute=1000", "settings.temperature=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("chat")


@pytest.fixture(scope="module")
def url(server: Any, folder: Path) -> Iterator[str]:
    with chat_page(folder / "one", f"model=m@{server.url}", *LIMITS) as found:
        yield found


@pytest.fixture(scope="module")
def blind(server: Any, folder: Path) -> Iterator[str]:
    models = [f"model=ours@{server.url}", f"against=theirs@{server.url}", "blind=true"]
    with chat_page(folder / "two", *models, *LIMITS) as found:
        yield found


def test_a_conversation(browser: Any, url: str, server: Any):
    """Streaming, stop, retry, edit, clear, settings and the prompt that was sent; nothing is asked of strangers."""
    with Tab(browser, url) as tab:
        assert tab.ask("Hello") == "m turn 1: Hello"
        assert tab.ask("And **again**") == "m turn 2: And again"
        assert tab.said()[2] == "And **again**", "what people write stays as it is"
        tab.click("Prompt")
        tab.wait("3 messages", "#sent")
        tab.click("Prompt")
        tab.page.locator("#sent .sent").wait_for(state="detached")
        asked = len(server.requests)
        tab.click("Retry")
        tab.until(lambda: len(server.requests) > asked)
        tab.page.wait_for_timeout(500)
        tab.idle()
        assert tab.said()[-1] == "m turn 2: And again"
        tab.click("Edit")
        tab.until(lambda: tab.page.input_value("#ask textarea") == "And **again**")
        assert len(tab.said()) == 2
        assert tab.ask("Something else") == "m turn 2: Something else"
        tab.page.get_by_text("Settings", exact=True).click()
        tab.page.wait_for_timeout(300)  # a value that is typed while the panel opens may be set back by it
        tab.page.get_by_label("number input for Temperature").fill("1.5")
        tab.page.get_by_label("number input for Longest reply, tokens").fill("77")
        tab.page.keyboard.press("Tab")
        tab.ask("Warmer")
        assert (server.requests[-1]["temperature"], server.requests[-1]["max_tokens"]) == (1.5, 77)
        tab.click("Clear")
        tab.until(lambda: tab.page.locator("#chat0 .said").count() == 0)
        assert tab.ask("New") == "m turn 1: New"
        assert not tab.strangers() and not tab.dialogs and not tab.errors


def test_streaming_and_stop(browser: Any, url: str, server: Any):
    with Tab(browser, url) as tab:
        gone = server.abandoned
        tab.write("slowly 100")
        tab.wait("0 1 2 3", "#chat0")
        assert "9 10" not in tab.said()[-1]
        tab.page.click("#stop")
        tab.wait("Stopped.", "#chat0")
        tab.idle()
        assert re.match(r"0 1 2 3", tab.said()[-1])
        eventually(lambda: server.abandoned > gone)
        assert tab.ask("Go on") == "m turn 2: Go on"


def test_clearing_while_it_speaks(browser: Any, url: str, server: Any):
    with Tab(browser, url) as tab:
        gone = server.abandoned
        tab.write("slowly 100")
        tab.wait("0 1 2 3", "#chat0")
        tab.click("Clear")
        eventually(lambda: server.abandoned > gone)
        tab.page.wait_for_timeout(500)
        assert tab.said() == [] and not tab.page.locator("#stop").is_visible()
        assert tab.ask("New") == "m turn 1: New"


def eventually(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.promise("A closed tab stops the model")
def test_a_closed_tab_stops_the_model(browser: Any, url: str, server: Any):
    gone = server.abandoned
    with Tab(browser, url) as tab:
        tab.write("slowly 200")
        tab.wait("0 1 2 3", "#chat0")
    eventually(lambda: server.abandoned > gone)


def test_a_failing_model_and_the_next_prompt(browser: Any, url: str):
    with Tab(browser, url) as tab:
        for text, notice in (
            ("die", "broke off"),
            ("hang", "has said nothing for 2 s"),
            ("fail", "answers 500: Error code: 500"),
        ):
            tab.write(text)
            tab.wait(notice, "#chat0 .notice")
            tab.idle()
            assert tab.ask("Still there?").endswith("Still there?")
        assert len(tab.said()) == 6, "an exchange that failed is no part of the conversation"


def test_moderation(browser: Any, url: str, server: Any, folder: Path):
    with Tab(browser, url) as tab:
        tab.ask("Hello")
        asked = len(server.requests)
        tab.write("How do I build a bomb?")
        tab.wait("Refused by the moderation", "#status")
        assert len(server.requests) == asked
        assert tab.page.input_value("#ask textarea") == "How do I build a bomb?", "to be changed"
        assert tab.ask("Fine") == "m turn 2: Fine"


def test_a_reply_is_cut(browser: Any, url: str):
    with Tab(browser, url) as tab:
        tab.write("story")
        tab.wait("Refused by the moderation", "#chat0 .notice")
        assert tab.said() == ["story"]


@pytest.mark.promise("Attacks in markup do nothing in Chromium, which asks nobody but the page's own server")
def test_what_models_and_people_write_does_nothing(browser: Any, url: str):
    """Scripts, event handlers, `javascript:` links, pictures of strangers: shown, and dead."""
    hits: list[str] = []

    class Canary(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            hits.append(self.path)
            self.send_error(404)

    canary = ThreadingHTTPServer(("127.0.0.1", 0), Canary)
    threading.Thread(target=canary.serve_forever, args=(0.05,), daemon=True).start()
    evil = f"127.0.0.1:{canary.server_port}"
    with Tab(browser, url) as tab:
        for i, text in enumerate(XSS, 1):
            tab.write("say " + text.replace("evil.example", evil))
            tab.until(lambda i=i: tab.page.locator("#chat0 .said").count() == i)
            tab.idle()
            tab.page.wait_for_timeout(100)
        tab.page.evaluate("document.querySelectorAll('#chat0 a').forEach(a => a.removeAttribute('target'))")
        tab.page.evaluate("document.querySelectorAll('#chat0 a').forEach(a => a.dispatchEvent(new Event('mouseover')))")
        assert tab.page.locator("#chat0 .said").count() == len(XSS)
        inside = "#chat0 .said, #chat0 .asked"
        for tag in ("script", "img", "iframe", "svg", "style", "form", "input"):
            assert tab.page.locator(inside).locator(tag).count() == 0, tag
        links = tab.page.locator(inside).locator("a").evaluate_all("all => all.map(a => a.href)")
        assert all(link.startswith("http") for link in links)
        assert not tab.dialogs and not hits and not tab.strangers()
        assert "<script>alert(1)</script>" in tab.page.inner_text("#chat0")
        blocked = tab.page.evaluate(
            f"new Promise(done => {{ const i = new Image(); i.onload = i.onerror = e => done(e.type);"
            f" i.src = 'http://{evil}/a.png' }})"
        )
        assert blocked == "error" and not hits, "even a picture that slipped through would not be fetched"
    canary.shutdown()
    canary.server_close()


def test_two_people_share_nothing(browser: Any, url: str):
    with Tab(browser, url) as one, Tab(browser, url) as two:
        one.ask("I am one")
        assert two.ask("I am two") == "m turn 1: I am two"
        one.write("slowly 8")
        assert two.ask("Me again") == "m turn 2: Me again"
        one.wait("7", "#chat0")
        one.idle()
        assert one.said() == ["I am one", "m turn 1: I am one", "slowly 8", "0 1 2 3 4 5 6 7"]
        assert two.said()[0] == "I am two"
        two.page.reload()
        two.page.wait_for_selector("#ask textarea")
        assert two.said() == []


def test_side_by_side(browser: Any, blind: str, folder: Path):
    """Hidden names, one vote, and then the names; the votes are what `evaluate` reads."""
    with Tab(browser, blind) as tab:
        assert "ours" not in tab.page.inner_text("body") and "theirs" not in tab.page.content()
        tab.ask("Who is better?")
        tab.until(lambda: tab.page.locator("#chat1 .said").count() == 1)
        left, right = (tab.said(side)[-1].split()[0] for side in (0, 1))
        assert {left, right} == {"ours", "theirs"}
        tab.click("Prompt")
        tab.wait("vote first", "#status")
        tab.click("Right →")
        tab.wait(f"Thank you: right. Left: {left}, Right: {right}.", "#status")
        assert tab.page.get_by_role("button", name="Tie", exact=True).is_disabled()
        assert f"Right: {right}" in tab.page.inner_text("#chat1")
        tab.write("die")
        tab.wait("broke off", "#chat0 .notice")
        tab.idle()
        assert tab.page.get_by_role("button", name="Tie", exact=True).is_disabled()
        tab.click("Edit")
        tab.until(lambda: tab.page.input_value("#ask textarea") == "die")
        tab.ask("And now?")
        tab.click("Both bad")
        tab.wait("Thank you: both bad", "#status")
        assert not tab.strangers() and not tab.errors
    first, second = (json.loads(line) for line in (folder / "two/votes.jsonl").read_text().splitlines())
    assert (first["vote"], first["models"], first["blind"]) == ("right", [left, right], True)
    assert (second["vote"], second["blind"]) == ("both bad", False)
    assert second["asked"] == ["Who is better?", "And now?"]
    assert [side[1] for side in second["replies"]] == [f"{name} turn 2: And now?" for name in (left, right)]


def test_on_a_phone(browser: Any, url: str, blind: str):
    for address in (url, blind):
        with Tab(browser, address, phone=True) as tab:
            tab.ask("word " * 60 + "x" * 200)
            wide = tab.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, "nothing to scroll sideways"
            box = tab.page.locator("#send").bounding_box()
            assert box["y"] + box["height"] <= 844, "the prompt can be written without scrolling"


def test_what_is_not_served(url: str, tmp_path: Path, folder: Path):
    """Files, uploads, proxies, the API's description; and names that are not this machine's."""
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    votes = folder / "one/conversations.jsonl"
    for path in (
        f"/gradio_api/file={secret}", f"/gradio_api/file={votes}", f"/file={secret}", f"/gradio_api/file/{secret}",
        f"/gradio_api/queue/../file={secret}", f"/gradio_api/queue/%2e%2e/file={secret}", "/gradio_api/openapi.json",
        f"/static/../../../../../../../..{secret}", f"/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e{secret}",
        "/gradio_api/proxy=http://127.0.0.1:1/x", "/monitoring", "/docs", "/openapi.json", "/gradio_api/upload",
        "/gradio_api/deep_link", "/custom_component/x/client/component/y",
    ):  # fmt: skip
        assert status(url + path) in (403, 404, 405), path
    form = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nx\r\n--b--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(urllib.request.Request(f"{url}/gradio_api/upload", form, kind), timeout=5)
    assert status(url, Host="evil.example") == 400
    assert status(f"{url}/health") == 200
