"""Beyond one machine: real servers of exported folders, the balancer, many people at once, and SkyPilot's file."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from experiments.serve import load as load_test
from experiments.serve.fake import FakeServer, Fault
from experiments.serve.up import Balancer, serve_in_thread
from tests.helpers.chats import HOW, random_folder, scripted, take
from tests.helpers.pages import free_port, process
from vicuna_lit.config.compose import load
from vicuna_lit.inference.backend import BackendError, Settings, open_backends
from vicuna_lit.inference.generate import Chat, reply
from vicuna_lit.records.conversation import Conversation

SERVE = Path(__file__).parents[2] / "experiments" / "serve"


def that_stops(folder: Path, talk: Conversation) -> Chat:
    """Rewrites a folder's model: in the middle of a reply it says its stop token instead of another one."""
    import torch

    chat = Chat.load(folder)
    prompt = torch.tensor([chat.encoder.prompt_ids(talk)])
    ids = chat.model.generate(prompt, max_new_tokens=40, do_sample=False)[0, prompt.shape[1] :].tolist()  # pyright: ignore
    place = next(i for i, id in enumerate(ids) if i > 3 and id not in ids[:i])
    with torch.no_grad():
        weight: Any = chat.model.lm_head.weight
        weight[chat.encoder.tokenizer.eos_token_id] = 1.01 * weight[ids[place]]
    chat.model.save_pretrained(folder)
    return Chat.load(folder)


@pytest.mark.slow
@pytest.mark.promise("An exported folder says in `transformers serve` what it says here")
def test_an_exported_folder_in_transformers_serve(tmp_path):
    """Without conversion: the same replies as here, token by token, its stop token, and the most tokens."""
    folder, talk = random_folder(tmp_path), Conversation.of("My name is Ada.", id="x")
    chat = that_stops(folder, talk)
    port = free_port()
    program = str(Path(sys.executable).with_name("transformers"))
    command = [program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    with process(command, tmp_path / "serve.log", f"http://127.0.0.1:{port}/health", 120):
        backend = open_backends(load("chat", f"model={folder}@http://127.0.0.1:{port}/v1"))[0]
        said, cut = take(backend.reply(talk, HOW))
        assert said.strip() == reply(chat.model, chat.encoder, talk, 40) != ""
        assert not cut, "it has come to its stop token"
        talk = talk.say("assistant", said.strip()).say("user", "What is my name?")
        said, cut = take(backend.reply(talk, Settings(0.0, 2)))
        assert cut and said.strip() == reply(chat.model, chat.encoder, talk, 2)
        stream = backend.reply(talk.say("user", "Go on."), Settings(1.0, 400))
        next(stream)
        stream.close()
        assert take(backend.reply(Conversation.of("Hi!"), Settings(0.0, 5)))[1], "the next request works"


def test_the_balancer(tmp_path):
    """The server with the least to do gets the next request; one that is gone is left out, also in a request."""
    with FakeServer(scripted) as one, FakeServer(scripted) as two, FakeServer(scripted) as third:
        balancer = Balancer([one.url, two.url, third.url], every_seconds=0.1)
        server, url = serve_in_thread(balancer)
        try:
            ready(url, 3)
            backend = open_backends(load("chat", f"model=m@{url}", "limits.timeout_seconds=3"))[0]
            slow = [backend.reply(Conversation.of("slowly 30"), HOW) for _ in range(3)]
            for stream in slow:
                next(stream)
            assert [len(s.requests) for s in (one, two, third)] == [1, 1, 1]
            assert [s.under_way for s in balancer.servers] == [1, 1, 1]
            for stream in slow:
                stream.close()
            third.healthy = False
            ready(url, 2)
            for i in range(4):
                assert take(backend.reply(Conversation.of(f"hi {i}"), HOW))[0] == f"m turn 1: hi {i}"
            assert len(third.requests) == 1
            with pytest.raises(BackendError, match="broke off"):
                take(backend.reply(Conversation.of("die"), HOW))
            one.__exit__()
            for i in range(4):
                assert take(backend.reply(Conversation.of(f"on {i}"), HOW))[0] == f"m turn 1: on {i}"
            two.healthy = False
            ready(url, 0)
            with pytest.raises(BackendError, match=r"503: .*no server of this model answers; try again"):
                take(backend.reply(Conversation.of("hi"), HOW))
        finally:
            server.should_exit = True


def ready(url: str, count: int) -> None:
    """Waits until so many servers are known to be well."""
    deadline, states = time.monotonic() + 10, []
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=5) as answer:
                states = json.load(answer)
        except urllib.error.HTTPError as error:
            states = json.load(error)
        except OSError:
            states = []
        if states and sum(state["healthy"] for state in states) == count:
            return
        time.sleep(0.05)
    raise AssertionError(states)


@pytest.mark.slow
def test_many_people_on_a_page_in_front_of_two_servers(tmp_path):
    """`up.py` and the page: every stream is whole, both servers work, and closed pages leave no memory."""
    prompts = [[f"p{person}t{turn}" for turn in range(2)] for person in range(12)]
    with load_test.fake() as one, load_test.fake() as two:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "experiments.serve.up", "--model", "m", "--servers", one.url, two.url, "--"]
        command += [f"port={port}", f"run.dir={tmp_path}/run", "limits.at_once=12", "limits.open_pages=20"]
        with process([*command, *load_test.OPEN], tmp_path / "up.log", f"{url}/health") as up:
            replies = asyncio.run(load_test.people(url, prompts, 12))
            wanted = [[load_test.expected(text) for text in texts] for texts in prompts]
            assert not load_test.faults(replies, wanted)
            assert len(one.requests) + len(two.requests) == 24 and min(len(one.requests), len(two.requests)) > 6
            # a page that is behind joins the pieces of a stream, so on a busy machine few replies are seen in pieces
            assert any(len(spoken.seen) > 1 for given in replies for spoken in given), "streamed"
            page = int(Path(f"/proc/{up.pid}/task/{up.pid}/children").read_text().split()[0])
            sizes = []
            for i in range(3):
                short = [[f"round {i} {person}"] for person in range(30)]
                asyncio.run(load_test.people(url, short, 6))
                sizes.append(load_test.resident_mib(page))
            assert sizes[2] - sizes[1] < 4, sizes


@pytest.mark.slow
def test_four_people_and_a_real_model(tmp_path):
    row = load_test.against_model(random_folder(tmp_path), 4, 2, tmp_path / "run")
    assert row["replies"] == 8 and not row["faults"]


def test_the_load_test_can_fail():
    """It sees a stream that is lost, mixed up or doubled."""
    good = load_test.Spoken("a b", ["a", "a b"], 0.1, 0.2)
    assert not load_test.faults([[good]], [["a b"]])
    assert load_test.faults([[good]], [["a"]])
    assert load_test.faults([[load_test.Spoken("a b", ["a a", "a b"], 0.1, 0.2)]], [["a b"]])


@pytest.mark.slow
def test_skypilot_reads_the_service(tmp_path):
    python = os.environ.get("SKY_PYTHON")
    if not python:
        pytest.skip("SKY_PYTHON names no Python with SkyPilot; see experiments/serve/check.py")
    done = subprocess.run([python, str(SERVE / "check.py")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "vllm.yaml: ok\n"), done.stdout + done.stderr
    (tmp_path / "check.py").write_text((SERVE / "check.py").read_text())
    file = (SERVE / "vllm.yaml").read_text()
    (tmp_path / "spot.yaml").write_text(
        file.replace("dynamic_ondemand_fallback: true", "spot_placer: dynamic_fallback")
    )
    (tmp_path / "alone.yaml").write_text(file.replace("min_replicas: 2", "min_replicas: 1"))
    done = subprocess.run([python, str(tmp_path / "check.py")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "spot.yaml: no on-demand machine steps in" in done.stdout, done.stdout + done.stderr
    assert "alone.yaml: one machine that is taken away" in done.stdout


def test_what_a_server_answers_is_passed_on():
    """Also that it has failed: another one would fail on the same request."""
    with FakeServer(lambda body: [Fault.FAILS]) as failing:
        balancer = Balancer([failing.url], every_seconds=0.1)
        server, url = serve_in_thread(balancer)
        try:
            ready(url, 1)
            backend = open_backends(load("chat", f"model=m@{url}"))[0]
            with pytest.raises(BackendError, match="answers 500"):
                take(backend.reply(Conversation.of("hi"), HOW))
        finally:
            server.should_exit = True
