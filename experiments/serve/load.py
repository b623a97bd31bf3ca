"""Many people on one page at once: every stream is checked, first words and speed are measured, memory is watched.

python -m experiments.serve.load                                   # 50 people and a server that streams quickly
python -m experiments.serve.load --folder runs/quickstart/hf       # 4 people and a real model in the page's process
python -m experiments.serve.load --conversations 2000              # memory, over so many conversations

All on loopback, with the requests that a browser sends.
"""

import argparse
import asyncio
import html
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from gradio_client.utils import apply_diff
from rich.console import Console
from rich.table import Table

from experiments.serve.fake import FakeServer

PIECES, PAUSE = 40, 0.02
"""Of a reply of the fake server: pieces, and seconds between them."""


@dataclass
class Spoken:
    """One reply as a person has seen it."""

    text: str
    """In the end."""
    seen: list[str]
    """Each time that it grew."""
    first_seconds: float
    seconds: float


class Person:
    """A page's requests without a browser; one conversation."""

    def __init__(self, client: httpx.AsyncClient, url: str, ask: int):
        self.client, self.url, self.ask, self.session = client, url, ask, uuid.uuid4().hex[:12]

    async def say(self, text: str, temperature: float = 0.0, longest: int = 64) -> Spoken:
        """Sends a prompt and reads the stream to its end."""
        start = time.perf_counter()
        body = {"data": [None, text, temperature, longest], "fn_index": self.ask, "session_hash": self.session}
        joined = await self.client.post(f"{self.url}/gradio_api/queue/join", json=body)
        joined.raise_for_status()
        seen, shown, first = [], [], 0.0
        stream = f"{self.url}/gradio_api/queue/data?session_hash={self.session}"
        async with self.client.stream("GET", stream) as events:
            async for line in events.aiter_lines():
                event = json.loads(line[6:]) if line.startswith("data: ") else {}
                if event.get("msg") in ("process_generating", "process_completed"):
                    data = event["output"]["data"]
                    shown = _grown(shown, data, event["msg"])
                    if (now := last_assistant_message(shown)) and (not seen or now != seen[-1]):
                        first = first or time.perf_counter() - start
                        seen.append(now)
                if event.get("msg") == "process_completed":
                    assert event["success"], event
                    return Spoken(last_assistant_message(shown), seen, first, time.perf_counter() - start)
        raise AssertionError("the stream has ended before the reply")


def _grown(shown: list[Any], data: list[Any], kind: str) -> list[Any]:
    """The outputs of an event: the first brings all of them, the others what has changed."""
    if kind == "process_completed" or not shown:
        return data if data else shown
    return [apply_diff(old, changes) for old, changes in zip(shown, data, strict=True)]


def last_assistant_message(outputs: list[Any]) -> str:
    """The text of the last bubble on the left, without the cursor and the notice."""
    chat = outputs[1]["value"] if outputs and isinstance(outputs[1], dict) else []
    if not chat or chat[-1]["role"] != "assistant":
        return ""
    content = chat[-1]["content"]
    markup = content if isinstance(content, str) else "".join(part["text"] for part in content)
    said = re.search(r'<div class="said">(.*?)</div>', markup)
    return html.unescape(re.sub(r"<[^>]+>", "", said[1])).replace("▍", "").strip() if said else ""


async def people(url: str, prompts: list[list[str]], at_once: int) -> list[list[Spoken]]:
    """Everybody's prompts, one after another; `at_once` people at a time."""
    gate = asyncio.Semaphore(at_once)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False) as client:
        config = (await client.get(f"{url}/config")).json()
        ask = next(d["id"] for d in config["dependencies"] if d["api_name"] == "ask")

        async def one(texts: list[str]) -> list[Spoken]:
            async with gate:
                person = Person(client, url, ask)
                return [await person.say(text) for text in texts]

        return await asyncio.gather(*map(one, prompts))


def expected(text: str) -> str:
    """The fake server's reply to a prompt: numbered pieces that hold the prompt."""
    return "".join(_pieces(text)).strip()


def _pieces(text: str) -> list[str]:
    return [f"{text}:{i} " for i in range(PIECES)]


def fake(pause: float = PAUSE) -> FakeServer:
    """A server whose replies tell whose they are, piece by piece."""

    def answer(body: dict[str, Any]) -> Iterator[str | float]:
        for piece in _pieces(body["messages"][-1]["content"]):
            yield piece
            if pause:
                yield pause

    return FakeServer(answer)


def faults(replies: list[list[Spoken]], wanted: list[list[str]], plain: bool = True) -> list[str]:
    """Streams that were lost, mixed up or doubled.

    Args:
        plain: no markdown, which looks otherwise before it is whole.
    """
    found = []
    for person, (given, right) in enumerate(zip(replies, wanted, strict=True)):
        for turn, (spoken, text) in enumerate(zip(given, right, strict=True)):
            if spoken.text != text:
                found.append(f"person {person}, turn {turn}: {spoken.text[:60]!r} for {text[:60]!r}")
            elif plain and not all(text.startswith(seen) for seen in spoken.seen):
                found.append(f"person {person}, turn {turn}: showed what it did not say in the end")
    return found


@contextmanager
def page(folder: Path, *overrides: str) -> Iterator[tuple[str, int]]:
    """`vicuna-chat` in a process of its own: its address and process id."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "vicuna_lit.chat", f"port={port}", f"run.dir={folder}", *overrides]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if process.poll() is not None:
                sys.exit(f"vicuna-chat has ended with {process.returncode}")
            time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(20)


def resident_mib(pid: int) -> float:
    """A process's memory."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS"))) / 1024


OPEN = ("limits.prompts_per_minute=1000000", "limits.waiting=200", "settings.temperature=0")


def against_fake(count: int, turns: int, folder: Path) -> dict[str, Any]:
    """So many people at once, and a server that streams 40 pieces in 0.8 s."""
    prompts = [[f"p{person}t{turn}" for turn in range(turns)] for person in range(count)]
    with fake() as server, page(folder, f"model=m@{server.url}", f"limits.at_once={count}", *OPEN) as (url, _):
        start = time.perf_counter()
        replies = asyncio.run(people(url, prompts, count))
        seconds = time.perf_counter() - start
        asked = len(server.requests)
    wrong = faults(replies, [[expected(text) for text in texts] for texts in prompts])
    return _row(f"{count} people, fake server", replies, seconds, count * turns * PIECES, wrong, asked - count * turns)


def against_model(model: Path, count: int, turns: int, folder: Path) -> dict[str, Any]:
    """So many people at once, and a model in the page's process; each reply is compared with the model's own."""
    from vicuna_lit.inference.generate import Chat

    questions = ["My name is Nadia.", "What is my name?", "Who are you?", "What is two and two?"]
    prompts = [[questions[(person + turn) % 4] for turn in range(turns)] for person in range(count)]
    loaded, wanted, tokens = Chat.load(model), [], 0
    for texts in prompts:
        chat = Chat(loaded.model, loaded.encoder)
        wanted.append([chat.say(text, 64) for text in texts])
        tokens += sum(len(chat.encoder.tokenizer(reply)["input_ids"]) for reply in wanted[-1])
    with page(folder, f"model={model}", f"limits.at_once={count}", *OPEN) as (url, _):
        start = time.perf_counter()
        replies = asyncio.run(people(url, prompts, count))
        seconds = time.perf_counter() - start
    shown = [[_shown(text) for text in texts] for texts in wanted]
    return _row(
        f"{count} people, {model.parent.name}", replies, seconds, tokens, faults(replies, shown, plain=False), 0
    )


def _shown(text: str) -> str:
    from vicuna_lit.chat.markup import markdown

    return html.unescape(re.sub(r"<[^>]+>", "", markdown(text))).strip()


def _row(name: str, replies: list[list[Spoken]], seconds: float, tokens: int, wrong: list[str], more: int) -> Any:
    first = sorted(spoken.first_seconds for given in replies for spoken in given)
    return {
        "who": name,
        "replies": len(first),
        "first word, median s": statistics.median(first),
        "first word, slowest s": first[-1],
        "pieces/s": tokens / seconds,
        "seconds": seconds,
        "wrong streams": len(wrong) + abs(more),
        "faults": wrong,
    }


def memory(count: int, folder: Path) -> list[tuple[int, float]]:
    """MiB of the page's process after so many conversations, ten times; ten people at a time."""
    found, step = [], max(1, count // 10)
    with fake(0.0) as server, page(folder, f"model=m@{server.url}", "limits.at_once=10", *OPEN) as (url, pid):
        for done in range(0, count, step):
            prompts = [[f"c{done + i}"] for i in range(min(step, count - done))]
            replies = asyncio.run(people(url, prompts, 10))
            wrong = faults(replies, [[expected(text) for text in texts] for texts in prompts])
            assert not wrong, wrong
            server.requests.clear()
            found.append((done + len(prompts), resident_mib(pid)))
            print(f"{found[-1][0]:>6} conversations  {found[-1][1]:.0f} MiB", flush=True)
    return found


def show(rows: list[dict[str, Any]]) -> None:
    """A table."""
    table = Table(box=None, pad_edge=False)
    for heading in list(rows[0])[:-1]:
        table.add_column(heading, justify="left" if heading == "who" else "right")
    for row in rows:
        table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in list(row.values())[:-1]))
    Console(width=120).print(table)
    for row in rows:
        print("\n".join(row["faults"]))


def main() -> int:
    """The command; 1 where a stream was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, help="50, or 4 with --folder")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="of a model")
    parser.add_argument("--conversations", type=int, help="watches the memory instead")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        if given.conversations:
            memory(given.conversations, folder)
            return 0
        if given.folder:
            row = against_model(given.folder, given.people or 4, given.turns, folder)
        else:
            row = against_fake(given.people or 50, given.turns, folder)
    show([row])
    return int(row["wrong streams"] > 0)


if __name__ == "__main__":
    sys.exit(main())
