"""Never lose or pay twice: a whole evaluation over a server that misbehaves, stopped, shared, and within a budget."""

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

import pytest

from tests.llm_server import FAULTS, KEY, Server, answers_and_judges
from vicuna_lit.compose import load
from vicuna_lit.evaluate.client import EndpointError
from vicuna_lit.evaluate.run import evaluate_models


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
        "requests.concurrency=48", "requests.timeout_seconds=2", "wandb.mode=disabled", "answers.max_new_tokens=64",
        "judge.max_tokens=64", *overrides,
    ]  # fmt: skip


def run(server: Server, folder: Path, *overrides: str, **options: Any) -> list[dict[str, Any]]:
    evaluate_models(load("evaluate", *arguments(server, folder, *overrides, **options)))
    return json.loads((folder / "table.json").read_text())


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> list[dict[str, Any]]:
    """The table without any fault."""
    os.environ["OPENAI_API_KEY"] = KEY
    with Server(answers_and_judges) as server:
        return run(server, tmp_path_factory.mktemp("calm") / "run")


def test_a_thousand_requests_through_faults(tmp_path, calm, capsys):
    with Server(answers_and_judges, faults=0.3) as server:
        table = run(server, tmp_path / "run")
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
        assert run(server, tmp_path / "run") == calm
        assert run(server, tmp_path / "another") == calm
        assert sum(server.attempts.values()) == before
    everything = capsys.readouterr().out.encode() + b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY.encode() not in everything


@pytest.mark.slow
def test_the_budget_is_not_exceeded_and_nothing_is_asked_again(tmp_path, calm):
    with Server(answers_and_judges, pace=0.01) as server:
        spent = 0.0
        for budget in (2.0, 10.0):
            with pytest.raises(EndpointError, match=f"budget of {budget:g} USD would be exceeded"):
                run(server, tmp_path / "run", f"budget_usd={budget}")
            spent = (server.input_tokens * 100 + server.output_tokens * 1000) / 1e6
            assert budget - 0.2 < spent <= budget  # one request costs 0.15 at most
        assert run(server, tmp_path / "run", "budget_usd=1000") == calm
        assert set(server.paid.values()) == {1}
        with pytest.raises(EndpointError, match="no price is known for nameless"):
            run(server, tmp_path / "new", "budget_usd=1", "judge.model=nameless", "judge.price=null")


def start(server: Server, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vicuna_lit.evaluate", *arguments(server, folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
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
        run(server, tmp_path / "run", "requests.per_minute=1800", "max_questions=1", models=2)
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
        command = [sys.executable, "-m", "vicuna_lit.evaluate", *arguments(server, tmp_path / "run", *overrides)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        said = {
            "down": "127.0.0.1:9/v1: nobody answers",
            "key": "$OPENAI_API_KEY is refused",
            "model": "/nowhere.jsonl",
        }
        assert said[wrong] in done.stderr
        assert "sk-another" not in done.stderr
        assert "Traceback" not in done.stderr
        assert not server.attempts
        assert not (tmp_path / "run/config.json").exists()  # else the corrected command would be another one


def test_a_judge_that_will_not_say(tmp_path, capsys):
    """Asked once more, then reported: not guessed, and not left out in silence."""

    def undecided(request: dict[str, Any]) -> str:
        return "Hard to say." if request["model"] == "judge" else answers_and_judges(request)

    with Server(undecided) as server:
        table = run(server, tmp_path / "run", "max_questions=1", models=2)
        total = table[0]
        assert (total["wins"], total["ties"], total["losses"], total["questions"]) == (0, 0, 0, 0)
        assert total["unparsed"] > 0
        most = float(re.findall(r"at most ([\d.]+) USD", capsys.readouterr().out)[0])
        found = json.loads((tmp_path / "run/statistics.json").read_text())
        paid = float(re.findall(r"paid: ([\d.]+) USD", str(found["notes"]))[0])
        assert 0 < paid <= most
        assert found["judges"][0]["unparsed"] == 2 * total["unparsed"]  # both orders
        run(server, tmp_path / "run", "max_questions=1", models=2)
        assert "at most" not in capsys.readouterr().out  # nothing is left to ask
        assert total["score"] is None
        reviews = [json.loads(line) for line in (tmp_path / "run" / "reviews.jsonl").read_text().splitlines()]
        assert {r["problem"] for r in reviews} == {"no verdict in the form that was asked for"}
        assert all(r["text"].count("Hard to say.") == 2 for r in reviews)
