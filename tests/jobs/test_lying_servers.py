"""Servers that are odd, late or lie: nothing is lost, nothing paid twice, no budget exceeded, and no traceback."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.llm_server import KEY, Server, answers_and_judges
from vicuna_lit.config.evaluate import EndpointConfig, PriceConfig, RequestsConfig
from vicuna_lit.inference.paid_client import Client, EndpointError, Reply, run_to_end
from vicuna_lit.inference.reply_cache import Cache

LIMIT, LATE = 16, 0.6
PRICE = PriceConfig(input=100, output=1000)


@pytest.fixture(scope="module", autouse=True)
def no_pauses():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vicuna_lit.inference.paid_client.random.uniform", lambda *_: 0.01)
        yield


class OddServer(Server):
    """Answers each text by its plan, an item an attempt, and honestly once the plan is over.

    An item is a status (int), "late" or "cut", or anything else, which is sent as the body. `bill` is what the server
    asks for its honest replies.
    """

    def __init__(self, plans: dict[str, list[Any]], pace: float = 0.0):
        super().__init__(answers_and_judges, pace=pace)
        self.plans, self.bill = {text: list(plan) for text, plan in plans.items()}, 0.0
        self.asked: list[str] = []

    def serve(self, handler: Any, body: bytes) -> None:
        request = json.loads(body)
        text = request["messages"][-1]["content"]
        with self.lock:
            self.asked.append(text)
            plan = self.plans.get(text, [])
            said = plan.pop(0) if plan else "honest"
        time.sleep(self.pace)
        if isinstance(said, tuple):
            return handler.reply(200, json.dumps(said[0]).encode())
        if said in (429, 500, 502, 504):
            return handler.reply(said, {"error": {"message": "no"}}, retry_after_ms="1")
        if said == "cut":
            return handler.reply(200, b'{"choices": [{"mess')
        usage = {"prompt_tokens": len(text), "completion_tokens": LIMIT}
        with self.lock:
            self.bill += (usage["prompt_tokens"] * PRICE.input + usage["completion_tokens"] * PRICE.output) / 1e6
        if said == "late":
            time.sleep(LATE)
        message = {"role": "assistant", "content": f"to {text}"}
        with suppress(OSError):  # the client has gone
            handler.reply(200, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})


def client(url: str, cache: Path, budget: float) -> Client:
    endpoint = EndpointConfig(url=url, model="m", price=PRICE)
    how = RequestsConfig(
        concurrency=8, per_minute=None, timeout_seconds=LATE / 2, retries=2, attempts=2, cache=str(cache)
    )
    return Client(endpoint, how, Cache(cache), "a run", budget)


def ask(client: Client, texts: list[str]) -> dict[str, Reply | str]:
    """Each text's reply, or why there is none."""
    found: dict[str, Reply | str] = {}

    async def one(text: str) -> None:
        try:
            found[text] = await client.ask([{"role": "user", "content": text}], LIMIT, 0.0)
        except EndpointError as error:
            found[text] = str(error)

    async def work() -> None:
        async with client:
            for text in texts:
                await one(text)

    run_to_end(work, client.stop)
    return found


NUMBER = st.sampled_from([-1, -1e30, 0, 3, 10**30, float("nan"), float("inf"), "many", "7", True, None, [], {}])
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CHOICE = JSON | st.fixed_dictionaries({"message": JSON | st.fixed_dictionaries({"content": JSON})})
BODY = JSON | st.fixed_dictionaries(
    {"choices": JSON | st.lists(CHOICE, max_size=2)},
    optional={
        "usage": JSON | st.fixed_dictionaries({"prompt_tokens": NUMBER, "completion_tokens": NUMBER}),
        "error": JSON,
    },
)
ITEM = st.tuples(BODY) | st.sampled_from([429, 500, 502, 504, "cut"])
PLANS = st.dictionaries(st.sampled_from(["Hi?", "你好吗？", "x" * 90]), st.lists(ITEM, max_size=3), min_size=1)


def check_books(plans: dict[str, list[Any]], budget: float, folder: Path) -> None:
    os.environ["OPENAI_API_KEY"] = KEY
    with OddServer(plans) as server:
        known: dict[str, Reply | str] = {}
        for _ in range(3):
            one, before = client(server.url, folder / "replies.sqlite", budget), len(server.asked)
            found = ask(one, list(plans))
            spent, reserved = one.cache.spent("a run"), one.cache.reserved("a run")
            assert spent.usd >= 0 and reserved >= 0
            assert spent.usd + reserved <= budget + 1e-12
            assert server.bill <= spent.usd + reserved + 1e-12
            whole = {text: reply for text, reply in known.items() if isinstance(reply, Reply)}
            assert not whole.keys() & set(server.asked[before:])
            assert all(found[text] == reply for text, reply in whole.items())
            known = found
            one.cache.close()


@settings(max_examples=25, deadline=None)
@given(plans=PLANS, budget=st.sampled_from([0.0, 0.02, 0.05, 10.0]))
def test_whatever_a_server_sends_the_books_hold(tmp_path_factory, plans, budget):
    check_books(plans, budget, tmp_path_factory.mktemp("books"))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    plans=st.dictionaries(
        st.sampled_from(["Hi?", "你好吗？", "x" * 90]), st.lists(ITEM | st.just("late"), max_size=4), min_size=1
    ),
    budget=st.sampled_from([0.0, 0.02, 0.05, 10.0]),
)
def test_whatever_a_server_sends_and_however_late_the_books_hold(tmp_path_factory, plans, budget):
    check_books(plans, budget, tmp_path_factory.mktemp("books"))


def test_a_reply_that_comes_late_is_set_aside_and_never_goes_over_the_budget(tmp_path):
    check_books({"Hi?": ["late", "late"], "你好吗？": ["late"]}, 0.06, tmp_path)


ASK = """
import json, sys
from pathlib import Path
from tests.jobs.test_lying_servers import ask, client
one = client(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
found = ask(one, [f"question {i}" for i in range(int(sys.argv[4]))])
print(json.dumps({text: reply if isinstance(reply, str) else reply.text for text, reply in found.items()}))
""".replace("tests.jobs.test_lying_servers", __name__)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [0.15, 10.0])
def test_three_processes_at_once_pay_for_each_request_once_and_keep_one_budget(tmp_path, budget, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    odd: list[Any] = [
        [],
        [429],
        [({"choices": [{"message": {"content": [{"text": "a"}]}}], "usage": {"a": -1}},)],
        [500],
    ]
    plans = {f"question {i}": odd[i % len(odd)] for i in range(30)}
    with OddServer(plans, pace=0.01) as server:
        command = [sys.executable, "-c", ASK, server.url, str(tmp_path / "replies.sqlite"), str(budget), "30"]
        processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "abc"
        ]
        said = [process.communicate(timeout=300) for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], said
        assert not any("Traceback" in errors for _, errors in said)
        cache = Cache(tmp_path / "replies.sqlite")
        spent, reserved = cache.spent("a run").usd, cache.reserved("a run")
        assert server.bill - 1e-12 <= spent + reserved <= budget + 1e-12
        replies = [json.loads(out) for out, _ in said]
        whole = {text: reply for text, reply in replies[0].items() if reply.startswith(("to ", "a"))}
        if budget == 10.0 and not reserved:  # no request was lost on a machine that is busy
            assert replies[0] == replies[1] == replies[2] and len(whole) == 30
            assert all(server.asked.count(text) == 1 + (plans[text] in ([429], [500])) for text in plans)
