"""Never lose or pay twice: a whole evaluation over a server that misbehaves, stopped, shared, and within a budget."""

import asyncio
import itertools
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import commands
from tests.helpers.examples import examples
from tests.helpers.llm_server import FAULTS, KEY, Server, answers_and_judges
from vicuna_lit.config.compose import load
from vicuna_lit.evaluate.run import evaluate_models
from vicuna_lit.inference import bodies
from vicuna_lit.inference.paid_client import Client, EndpointError, Reply, run_to_end
from vicuna_lit.inference.reply_cache import Cache
from vicuna_lit.inference.server_access import Key
from vicuna_lit.run_folder import RunError


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def arguments(server: Server, folder: Path, *overrides: str, models: int = 3) -> list[str]:
    sources = ",".join(
        f"{{model: m{i}, url: '{server.url}', price: {{input: 100, output: 1000}}}}" for i in range(models)
    )
    return [
        f"models=[{sources}]", "judge=endpoint", "judge.model=judge", f"judge.url={server.url}",
        "judge.price={input: 100, output: 1000}", f"run.dir={folder}", f"requests.cache={folder.parent}/replies.sqlite",
        "requests.concurrency=48", "requests.timeout_seconds=60", "wandb.mode=disabled", "answers.max_new_tokens=64",
        "judge.max_tokens=64", *overrides,
    ]  # fmt: skip


def run(server: Server, folder: Path, *overrides: str, **options: Any) -> list[dict[str, Any]]:
    evaluate_models(load("evaluate", *arguments(server, folder, *overrides, **options)))
    return json.loads((folder / "table.json").read_text())


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> list[dict[str, Any]]:
    """The table without any fault."""
    return without_faults(tmp_path_factory.mktemp("calm"))


def without_faults(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    os.environ["OPENAI_API_KEY"] = KEY
    with Server(answers_and_judges) as server:
        return run(server, folder / "run", *overrides)


@pytest.mark.promise(
    "Over 1,000 requests to a server that is slow, hangs, breaks off, answers errors, broken JSON, nothing or a "
    "refusal give the table of a server without faults: nothing is lost, nothing paid twice"
)
@pytest.mark.slow
def test_a_thousand_requests_through_faults(tmp_path, tmp_path_factory, capsys):
    asked = "max_questions=80"
    calm = without_faults(tmp_path_factory.mktemp("calm"), asked)
    with Server(answers_and_judges, faults=0.3) as server:
        table = run(server, tmp_path / "run", asked, "requests.timeout_seconds=6")
        assert table == calm
        assert len(server.paid) >= 1000
        assert set(server.paid.values()) == {1}
        assert all(server.happened[fault] >= 5 for fault in FAULTS)
        assert server.most_at_once <= 48
        books = sqlite3.connect(tmp_path / "replies.sqlite")
        paid = books.execute("SELECT sum(input_tokens), sum(output_tokens), sum(usd) FROM bills").fetchone()
        assert paid[:2] == (server.input_tokens, server.output_tokens)
        assert paid[2] == pytest.approx((server.input_tokens * 100 + server.output_tokens * 1000) / 1e6)
        assert f"paid: {paid[2]:.4f} USD" in (tmp_path / "run" / "statistics.json").read_text()
        before = sum(server.attempts.values())
        assert run(server, tmp_path / "run", asked) == calm
        assert run(server, tmp_path / "another", asked) == calm
        assert sum(server.attempts.values()) == before
    everything = capsys.readouterr().out.encode() + b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY.encode() not in everything


def books(cache: Path) -> tuple[float, float]:
    """USD that were billed, and that are set aside for requests that were lost: the server may have been paid."""
    with sqlite3.connect(cache) as database:
        billed, reserved = (
            database.execute(f"SELECT sum(usd) FROM {name}").fetchone()[0] or 0.0 for name in ("bills", "reservations")
        )
    return billed, reserved


@pytest.mark.slow
@pytest.mark.promise("A budget is kept, and what is known is not asked again")
def test_the_budget_is_not_exceeded_and_nothing_is_asked_again(tmp_path, calm):
    with Server(answers_and_judges, pace=0.01) as server:
        for budget in (2.0, 10.0):
            with pytest.raises(EndpointError, match=f"budget of {budget:g} USD would be exceeded"):
                run(server, tmp_path / "run", f"budget_usd={budget}")
            paid = (server.input_tokens * 100 + server.output_tokens * 1000) / 1e6
            spent, set_aside = books(tmp_path / "replies.sqlite")
            assert spent - 1e-9 <= paid <= budget
            assert budget - 0.6 < spent + set_aside <= budget  # one request costs 0.5 at most
        assert run(server, tmp_path / "run", "budget_usd=1000") == calm
        assert set(server.paid.values()) == {1}
        with pytest.raises(EndpointError, match="no price is known for nameless"):
            run(server, tmp_path / "new", "budget_usd=1", "judge.model=nameless", "judge.price=null")


def start(server: Server, folder: Path) -> commands.Command:
    return commands.start("vicuna_lit.evaluate", *arguments(server, folder))


@pytest.mark.slow
@pytest.mark.promise("Two processes share one cache of replies, also when one of them is killed")
def test_two_processes_share_the_cache_and_a_killed_one_is_taken_over(tmp_path, calm):
    with Server(answers_and_judges, pace=0.02) as server:
        first, second = start(server, tmp_path / "first"), start(server, tmp_path / "second")
        while sum(server.paid.values()) < 300:
            time.sleep(0.02)
            assert first.poll() is None
        first.send_signal(signal.SIGKILL)
        first.communicate()
        out, errors = second.communicate(timeout=120)
        assert second.returncode == 0, errors
        assert "m1 against m0" in out
        assert errors == ""
        assert "HTTP" not in out  # no line of log for each request
        assert json.loads((tmp_path / "second" / "table.json").read_text()) == calm
        twice = sum(n > 1 for n in server.paid.values())
        assert twice <= 48  # those that were under way when the process was killed
        asked = sum(server.attempts.values())
        assert run(server, tmp_path / "first") == calm
        assert sum(server.attempts.values()) == asked


@pytest.mark.slow
@pytest.mark.promise("Two processes share one cache of replies, also when one of them is killed")
def test_two_processes_ask_each_question_once(tmp_path, calm):
    with Server(answers_and_judges, pace=0.01) as server:
        both = [start(server, tmp_path / name) for name in ("first", "second")]
        for process in both:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
        assert set(server.paid.values()) == {1}
        assert all(json.loads((tmp_path / n / "table.json").read_text()) == calm for n in ("first", "second"))


def test_the_rate_is_kept(tmp_path):
    with Server(answers_and_judges) as server:
        run(server, tmp_path / "run", "requests.per_minute=1800", "max_questions=8", models=2)
        gaps = sorted(server.times)
        assert len(gaps) >= 30
        assert gaps[-1] - gaps[0] >= (len(gaps) - 32) / 30


@pytest.mark.parametrize("wrong", ["down", "key", "model"])
def test_an_endpoint_that_cannot_be_used(wrong, tmp_path, monkeypatch):
    """Said before anything is paid, and without the key."""
    with Server(answers_and_judges) as server:
        if wrong == "key":
            monkeypatch.setenv("OPENAI_API_KEY", "sk-another-key")
        overrides = ["judge.url=http://127.0.0.1:9/v1"] if wrong == "down" else []
        overrides += ["questions=/nowhere.jsonl"] if wrong == "model" else []
        done = commands.run("vicuna_lit.evaluate", *arguments(server, tmp_path / "run", *overrides))
        assert done.returncode == 2
        said = {
            "down": "127.0.0.1:9/v1: nobody answers",
            "key": "refuses the key in $OPENAI_API_KEY",
            "model": "/nowhere.jsonl",
        }
        assert said[wrong] in done.stderr
        assert "sk-another" not in done.stderr
        assert "Traceback" not in done.stderr
        assert not server.attempts
        assert not (tmp_path / "run/config.json").exists()  # else the corrected command would be another one


@pytest.mark.slow
def test_a_judge_that_will_not_say(tmp_path, capsys):
    """Asked once more, then reported: not guessed, and not left out in silence."""

    def undecided(request: dict[str, Any]) -> str:
        return "Hard to say." if request["model"] == "judge" else answers_and_judges(request)

    with Server(undecided) as server:
        table = run(server, tmp_path / "run", "max_questions=8", models=2)
        total = table[0]
        assert (total["wins"], total["ties"], total["losses"], total["questions"]) == (0, 0, 0, 0)
        assert total["unparsed"] > 0
        most = float(re.findall(r"at most ([\d.]+) USD", capsys.readouterr().out)[0])
        found = json.loads((tmp_path / "run/statistics.json").read_text())
        paid = float(re.findall(r"paid: ([\d.]+) USD", str(found["notes"]))[0])
        assert 0 < paid <= most
        assert found["judges"][0]["unparsed"] == 2 * total["unparsed"]  # both orders
        run(server, tmp_path / "run", "max_questions=8", models=2)
        assert "at most" not in capsys.readouterr().out  # nothing is left to ask
        assert total["score"] is None
        reviews = [json.loads(line) for line in (tmp_path / "run" / "reviews.jsonl").read_text().splitlines()]
        assert {r["problem"] for r in reviews} == {
            'no verdict is found; expected was two scores from 1 to 10 on the first line, as "8 7"'
        }
        assert all(r["text"].count("Hard to say.") == 2 for r in reviews)


@pytest.mark.slow
def test_a_notebook_whose_event_loop_runs(tmp_path):
    async def cell(server: Server) -> list[dict[str, Any]]:
        return run(server, tmp_path / "run", "max_questions=8", models=2)

    with Server(answers_and_judges) as server:
        assert asyncio.run(cell(server))[0]["questions"] > 0


def test_no_spelling_of_the_key_gets_through(monkeypatch):
    monkeypatch.setenv("A_KEY", f"{KEY}+/=\n")  # as `echo` writes it
    key = Key("A_KEY")
    assert key.text == KEY + "+/="
    for spelling in (key.text, repr(key.text), quote(key.text, safe=""), key.text.upper(), key.text[:-6], key.text[4:]):
        shown = key.hide(f"before {spelling} behind")
        assert shown.startswith("before ") and shown.endswith(" behind") and "***" in shown
        assert not any(KEY[i : i + 8].casefold() in shown.casefold() for i in range(len(KEY) - 7))
    assert KEY[3:9] not in key.said(ValueError("x" * 290 + key.text))
    monkeypatch.setenv("A_KEY", f"{KEY}\nsecond")
    with pytest.raises(RunError) as error:
        Key("A_KEY")
    assert KEY not in str(error.value)


@pytest.mark.parametrize("url", ["http://user:password@host/v1", "http://host/v1?key=password"])
def test_an_address_holds_no_secret(url):
    with pytest.raises(ValueError, match="holds a user, a password or parameters") as error:
        load("evaluate", "models=[a,b]", "judge=endpoint", f"judge.url='{url}'")
    assert "password@" not in str(error.value) and "=password" not in str(error.value)


COMPOSED: dict[str, Any] = {}
"""Configs by the address of their server: to compose one takes most of a short test."""


def client(server: Server, folder: Path, budget: float | None = 1.0, **requests: Any) -> Client:
    config = COMPOSED.get(server.url) or COMPOSED.setdefault(
        server.url, load("evaluate", *arguments(server, folder, models=2))
    )
    source: Any = config.models[0]
    how = config.requests.model_copy(update={"retries": 1, "timeout_seconds": 0.5, "attempts": 2} | requests)
    return Client(source, how, Cache(folder.parent / "replies.sqlite"), "a run", budget)


def ask(client: Client, text: str = "Hi?") -> Reply | str:
    async def once() -> None:
        async with client:
            try:
                found.append(await client.ask([{"role": "user", "content": text}], 16, 0.0))
            except EndpointError as error:
                found.append(str(error))

    found: list[Reply | str] = []
    run_to_end(once, client.stop)
    return found[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ODD = JSON | st.fixed_dictionaries(
    {"choices": JSON | st.lists(st.fixed_dictionaries({"message": st.fixed_dictionaries({"content": JSON})}))},
    optional={"usage": JSON | st.fixed_dictionaries({"prompt_tokens": JSON, "completion_tokens": JSON})},
)


def test_any_json_as_a_reply_is_kept_billed_and_not_asked_for_again(tmp_path):
    os.environ["OPENAI_API_KEY"] = KEY
    folders = (tmp_path / str(i) / "run" for i in itertools.count())

    @settings(max_examples=examples(60), deadline=None)
    @given(body=ODD)
    def holds(body: Any) -> None:
        server.body, folder, before = json.dumps(body).encode(), next(folders), sum(server.attempts.values())
        folder.parent.mkdir()
        one = client(server, folder, retries=0, timeout_seconds=30)
        first, sent = ask(one), sum(server.attempts.values())
        assert 0 <= one.cache.spent("a run").usd + one.cache.reserved("a run") <= 1.0
        is_error = isinstance(body, dict) and body.get("error") and "choices" not in body
        assert isinstance(first, str) == bool(is_error)
        if not is_error:
            key = sqlite3.connect(one.cache.path).execute("SELECT key FROM replies").fetchone()[0]
            assert len(one.cache.bodies(key)) == sent - before
            assert ask(client(server, folder, retries=0, timeout_seconds=30)) == first
            assert sum(server.attempts.values()) == sent

    with Server(answers_and_judges) as server:
        holds()


TOO_LONG = [
    "This model's maximum context length is 2048 tokens. However, you requested 4000.",
    "the request exceeds the available context size, try increasing it",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 4000",
    "The input token count (70000) exceeds the maximum number of tokens allowed (32768).",
    "The response was filtered due to the prompt triggering Azure's content management policy.",
]


def test_a_request_that_a_server_does_not_take_stops_no_other(tmp_path):
    """A prompt that is too long for a judge is one review without a verdict, and is asked for again later."""
    with Server(answers_and_judges) as server:
        usual = server.serve

        def serve(handler: Any, body: bytes) -> None:
            said = json.loads(body)["messages"][-1]["content"]
            return usual(handler, body) if said == "Hi?" else handler.reply(400, {"error": {"message": said}})

        server.serve = serve
        for said in TOO_LONG:
            refused = ask(client(server, tmp_path / "run", retries=0), said)
            assert isinstance(refused, Reply) and refused.text == "" and said[:30] in refused.finish
        one = client(server, tmp_path / "run")
        assert (one.cache.reserved("a run"), one.cache.spent("a run").usd) == (0, 0)
        assert isinstance(ask(one), Reply)
        again = [{"role": "user", "content": TOO_LONG[0]}]
        assert not one.cached(again, 16, 0.0)
        for said in ("max_tokens is too large: 5000", "no such model"):
            assert said in str(ask(client(server, tmp_path / "run", retries=0), said)), "this is of all requests"


def test_who_has_answered_is_known(tmp_path):
    with Server(answers_and_judges) as server:
        server.body = json.dumps({"model": "m0-2026-01", "choices": [{"text": "\ud83d\ude00 \ud800"}]}).encode()
        one = client(server, tmp_path / "run", timeout_seconds=30)
        assert ask(one) == Reply("😀 \ufffd", "")
        assert one.cache.models("a run") == [("m0", "m0-2026-01", 1)]


def test_shapes_that_have_a_meaning_are_read():
    parts = [{"type": "thinking", "text": "[[A]]"}, {"type": "text", "text": "Yes"}, {"type": "text", "text": "."}]
    for message, text in (
        ({"content": parts}, "Yes."),
        ({"content": 9}, "9"),
        ({"content": "a", "reasoning": "b"}, "a"),
    ):
        assert bodies.read({"choices": [{"message": message}]}).text == text
    assert bodies.read({"choices": [{"text": "plain"}]}).text == "plain"
    assert "reasoning" in bodies.read({"choices": [{"message": {"content": None, "reasoning_content": "b"}}]}).problem


@pytest.mark.parametrize("said", [-5, float("nan"), 1e30, "many", None, True])
def test_a_bill_is_within_what_was_sent_and_asked_for(said):
    body = {"choices": [1], "usage": {"prompt_tokens": said, "completion_tokens": said}}
    assert bodies.tokens(body, 100, 16) == (100, 16)


def test_a_late_reply_stays_reserved(tmp_path):
    with Server(answers_and_judges, pace=0.8) as server:
        one = client(server, tmp_path / "run")
        assert "no answer of m0 in 2 attempts" in str(ask(one))
        most = one.most([{"role": "user", "content": "Hi?"}], 16)
        assert one.cache.reserved("a run") == pytest.approx(2 * most)


def test_a_damaged_cache_is_said_in_one_line(tmp_path):
    (tmp_path / "replies.sqlite").write_bytes(b"no database " * 1000)
    with pytest.raises(RunError, match="the cache of paid replies cannot be used: file is not a database"):
        Cache(tmp_path / "replies.sqlite")


SPEND = """
import sys
from vicuna_lit.inference.reply_cache import Bill, Cache
from pathlib import Path
cache = Cache(Path(sys.argv[1]))
for i in range(100):
    while (found := cache.reserve("r", 0.01, 1.0))[0] == "wait":
        pass
    if found[0] == "over":
        break
    cache.receive("r", sys.argv[2] + str(i), found[1], Bill(0.008, 1, 1), "{}")
"""


@pytest.mark.promise("A budget is kept, and what is known is not asked again")
def test_three_processes_share_one_budget(tmp_path):
    command = [sys.executable, "-c", SPEND, str(tmp_path / "replies.sqlite")]
    started = [subprocess.Popen([*command, name]) for name in "abc"]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    assert 0.98 <= Cache(tmp_path / "replies.sqlite").spent("r").usd <= 1.0
