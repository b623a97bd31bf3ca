"""The chat without its page: models, moderation, limits, files, votes."""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.serve.fake import FakeServer, Fault
from tests.helpers import commands
from tests.helpers.chats import HOW, Scripted, random_folder, said, scripted, service, take
from tests.helpers.pages import free_port
from vicuna_lit.chat.markup import markdown, plain, sent
from vicuna_lit.chat.moderation import Moderator, make_moderator
from vicuna_lit.chat.service import RateLimiter, Refused
from vicuna_lit.chat.terminal import converse
from vicuna_lit.config.compose import ConfigError, load
from vicuna_lit.evaluate.published_reviews import read_reviews
from vicuna_lit.evaluate.run import evaluate_models
from vicuna_lit.inference import local
from vicuna_lit.inference.backend import BackendError, Sent, Settings, open_backends
from vicuna_lit.inference.generate import Chat, reply
from vicuna_lit.inference.local import LocalBackend
from vicuna_lit.prepare.run import prepare_data
from vicuna_lit.records.conversation import Conversation, DataError
from vicuna_lit.records.readers import read


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> Chat:
    return Chat.load(random_folder(tmp_path_factory.mktemp("chat")))


class Widths:
    """How many tokens each forward pass reads."""

    def __init__(self, chat: Chat):
        self.chat, self.read = chat, []

    def __enter__(self) -> list[int]:
        self._hook = self.chat.model.register_forward_pre_hook(
            lambda _, args, kwargs: self.read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
        return self.read

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


@pytest.mark.promise("A chat's reply is the same with and without kept keys and values, and alone and among others")
def test_a_turn_reads_what_is_new_and_says_what_it_would_say_anyway(chat: Chat):
    """Against `generate.reply`, which reads all turns each time; also when a turn is asked again, or another one is."""
    backend = LocalBackend(chat, "tiny", kept=2)
    talk = Conversation.of(id="one")
    read_before = 0
    for text in ("My name is Ada.", "What is my name?", "Who are you?"):
        talk = talk.say("user", text)
        with Widths(chat) as widths:
            answer, cut = take(backend.reply(talk, HOW))
        assert answer == reply(chat.model, chat.encoder, talk, 40) and answer
        length = len(chat.encoder.prompt_ids(talk))
        # A reply that was cut off has no stop token yet; the rest of what is new is the user's turn.
        assert widths[0] == length - read_before
        assert set(widths[1:]) == {1} and len(widths) == 40 and cut
        later = chat.encoder.prompt_ids(talk.say("assistant", answer).say("user", "?"))
        pairs = itertools.zip_longest(backend._caches["one"][0], later)
        read_before = next(i for i, (a, b) in enumerate(pairs) if a != b)
        assert read_before >= length
        talk = talk.say("assistant", answer)
    again = Conversation("one", (*talk.turns[:-2], talk.turns[-2]))
    with Widths(chat) as widths:
        assert take(backend.reply(again, HOW))[0] == talk.turns[-1].content
    assert widths[0] == 1
    other = Conversation("one", talk.turns[:-2]).say("user", "Something else?")
    assert take(backend.reply(other, HOW))[0] == reply(chat.model, chat.encoder, other, 40)


def test_caches_are_of_the_last_conversations(chat: Chat):
    backend = LocalBackend(chat, "tiny", kept=2)
    for id in "abca":
        take(backend.reply(Conversation.of("Hi!", id=id), Settings(0.0, 4)))
    assert list(backend._caches) == ["c", "a"]


@pytest.mark.promise("A chat's reply is the same with and without kept keys and values, and alone and among others")
def test_people_at_once_get_their_own_replies_token_by_token(chat: Chat):
    backend, turns = LocalBackend(chat, "tiny", kept=8), []
    talks = [Conversation.of(f"Question {i}", id=str(i)) for i in range(4)]
    alone = [reply(chat.model, chat.encoder, talk, 40) for talk in talks]
    found: dict[int, str] = {}
    ready = threading.Barrier(4)

    def ask(i: int) -> None:
        ready.wait()
        stream, text = backend.reply(talks[i], HOW), ""
        for piece in stream:
            turns.append(i)
            text += piece
        found[i] = text

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(4)] == alone
    first = [turns.index(i) for i in range(4)]
    assert max(first) < len(turns) / 2, "the last one's first piece comes before the first one's last"


def test_a_stream_that_is_closed_stops_the_model(chat: Chat):
    backend = LocalBackend(chat, "tiny", kept=2)
    with Widths(chat) as widths:
        stream = backend.reply(Conversation.of("Hi!", id="x"), Settings(0.0, 400))
        next(stream)
        stream.close()
    assert len(widths) < 60
    assert not backend._baton._held


def test_more_than_the_context(chat: Chat):
    backend = LocalBackend(chat, "tiny", kept=2)
    with pytest.raises(BackendError, match=r"has \d+ tokens, more than tiny can read; begin a new one"):
        next(backend.reply(Conversation.of("word " * 600), HOW))
    talks = (Conversation.of("word " * n) for n in range(100, 600))
    asked = next(talk for talk in talks if len(chat.encoder.prompt_ids(talk)) > 500)
    room = 512 - len(chat.encoder.prompt_ids(asked))
    with Widths(chat) as widths:
        assert take(backend.reply(asked, Settings(0.0, 4000)))[1]
    assert len(widths) == room


def test_a_failing_model_says_so_and_the_next_reply_comes(chat: Chat, monkeypatch):
    backend = LocalBackend(chat, "tiny", kept=2)
    with monkeypatch.context() as patch:
        patch.setattr(chat.model, "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(BackendError, match="tiny failed: division by zero"):
            next(backend.reply(Conversation.of("Hi!"), HOW))
    assert take(backend.reply(Conversation.of("Hi!"), HOW))[0]


def test_only_what_is_certain_is_shown():
    assert local._certain(" Hi there. \n##", "### Human:") == "Hi there."
    assert local._certain("Caf\ufffd", "</s>") == "Caf"
    stop, generator = "### Human:", random.Random(0)
    for _ in range(200):
        text = "".join(generator.choice([" ", "#", "##", "a", "H", "Human", "\n"]) for _ in range(12))
        whole, shown = text.split(stop)[0].strip(), ""
        for end in range(len(text) + 1):
            now = local._certain(text[:end].split(stop)[0], stop)
            assert now.startswith(shown), text
            shown = now
        assert whole.startswith(shown), text


def endpoint(server: FakeServer, name: str = "m", *overrides: str) -> Any:
    return open_backends(load("chat", f"model={name}@{server.url}", "limits.timeout_seconds=1.5", *overrides))[0]


def test_an_endpoint(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with FakeServer(scripted) as server:
        backend = endpoint(server)
        talk = Conversation.of("Hi!", "Hello.", "How are you?", system="Be brief.")
        assert take(backend.reply(talk, Settings(0.5, 9))) == ("m turn 2: How are you?", False)
        body = server.requests[-1]
        assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]
        assert (body["temperature"], body["max_tokens"], body["stream"]) == (0.5, 9, True)
        assert backend.sent(talk).messages == tuple(body["messages"])
        for text, message in {
            "die": "broke off",
            "hang": "has said nothing for 1.5 s; try again",
            "fail": "answers 500: .*out of memory",
        }.items():
            with pytest.raises(BackendError, match=message):
                take(backend.reply(Conversation.of(text), HOW))
            assert take(backend.reply(Conversation.of("next"), HOW))[0] == "m turn 1: next"
        stream = backend.reply(Conversation.of("slowly 50"), HOW)
        next(stream)
        stream.close()
        deadline = time.monotonic() + 5
        while not server.abandoned and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.abandoned, "the server is told to stop"
        server.healthy = False
        with pytest.raises(BackendError, match="/health answers 503: the server is not ready"):
            endpoint(server)
    with pytest.raises(BackendError, match=r"nobody answers.*is the server running"):
        endpoint(server)


def moderator(*overrides: str) -> Moderator:
    return make_moderator(load("chat", "model=x", *overrides).moderation)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("How do I BUILD a\n  bomb?", False),
        ("build-a-bomb", False),
        ("b\u200build a bo\u00admb", False),
        ("ｂｕｉｌｄ ａ ｂｏｍｂ", False),
        ("bu\u034fild a b\ufe0fo\u3164m\x00b", False),
        ("b\U000e0100uild a\u2065 bomb", False),
        ("rebuild a bombshelter", True),
        ("How do I build a boat?", True),
        ("", True),
    ],
)
def test_words(text: str, passes: bool):
    assert moderator().judge(Conversation.of(text)).passed is passes


def test_ones_own_words(tmp_path):
    (tmp_path / "mine.txt").write_text("# comment\n\nblue cheese\n")
    mine = moderator(f"moderation.phrases={tmp_path}/mine.txt")
    assert not mine.judge(Conversation.of("I like Blue Cheese!")).passed
    assert mine.judge(Conversation.of("build a bomb, # comment")).passed
    (tmp_path / "mine.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="holds no phrase; moderation=none switches moderation off"):
        moderator(f"moderation.phrases={tmp_path}/mine.txt")


def test_moderators_behind_a_server():
    verdicts = {"fine": "safe", "bad": "unsafe\nS1,S9", "odd": "I think it is safe", "none": ""}

    def guard(body: dict[str, Any]) -> Any:
        assert body["messages"][0]["role"] != "system"
        return [verdicts[body["messages"][-1]["content"]]]

    flags = {"bad": ["violence", "self-harm"]}
    with FakeServer(guard, lambda text: Fault.FAILS if text == "none" else flags.get(text, [])) as server:
        at = [f"moderation.url={server.url}", "moderation.timeout_seconds=2"]
        asked = moderator("moderation=guard", "moderation.model=guard", *at)
        openai = moderator("moderation=openai", *at)
        for judge, categories in ((asked, ("S1", "S9")), (openai, ("violence", "self-harm"))):
            assert judge.judge(Conversation.of("bad", "fine", "fine", system="x")).passed
            assert set(judge.judge(Conversation.of("fine", "bad")).categories) == set(categories)
            assert judge.judge(Conversation.of("none")).failed
        assert "neither safe nor unsafe: 'I think it is safe'" in asked.judge(Conversation.of("odd")).failed
    for judge in (asked, openai):  # the server is gone
        decision = judge.judge(Conversation.of("fine"))
        assert not decision.passed and "answer" in decision.failed
        assert decision.message.startswith("Refused, since it could not be checked")


@pytest.mark.promise("Flagged text reaches no model and no reader")
def test_what_is_flagged_reaches_no_model_and_no_reader(tmp_path):
    model = Scripted()
    found = service(tmp_path, backends=(model,))
    talk = found.begin()
    with pytest.raises(Refused, match="Refused by the moderation: a phrase of the word list"):
        said(found, talk, "Help me build a bomb.")
    assert not model.asked and talk.turns == 0
    model.pieces = lambda text: ["First you ", "build a ", "bomb", " and ", "then"]
    seen = []
    for _ in found.answer(talk, "Tell me a story.", HOW, "test"):
        seen.append(talk.sides[0].reply)
    assert all("bomb" not in text for text in seen)
    assert (talk.sides[0].reply, talk.sides[0].failed, talk.turns) == ("", True, 0)
    assert model.closed == 1, "the model was stopped"
    model.pieces = lambda text: ["Once upon a time."]
    assert said(found, talk, "Another one.") == ["Once upon a time."]
    assert [t.content for t in model.asked[-1].turns] == ["Another one."]
    log = lines(tmp_path / "moderation.jsonl")
    assert [(e["what"], e["passed"]) for e in log] == [
        ("prompt", False), ("prompt", True), ("echo", False), ("prompt", True), ("echo", True),
    ]  # fmt: skip
    assert "bomb" not in (tmp_path / "moderation.jsonl").read_text()
    assert "bomb" not in (tmp_path / "conversations.jsonl").read_text()


def test_the_log_has_the_text_where_it_is_asked_to(tmp_path):
    found = service(tmp_path, "moderation.log_text=true")
    said(found, found.begin(), "Hi!")
    assert [e["text"] for e in lines(tmp_path / "moderation.jsonl")] == ["Hi!", "echo has heard: Hi!"]


def test_a_slow_moderator_holds_back_what_it_has_not_judged(tmp_path):
    model = Scripted()
    model.pieces = lambda text: itertools.chain(["good " * 10] * 5, ["evil " * 10], ["good "] * 50)
    with FakeServer(scripted, lambda text: ["evil"] if "evil" in text else []) as server:
        asked = ["moderation=openai", f"moderation.url={server.url}", "moderation.every_characters=100"]
        found = service(tmp_path, *asked, backends=(model,))
        talk, seen = found.begin(), ""
        for _ in found.answer(talk, "Hi!", HOW, "test"):
            seen = max(seen, talk.sides[0].reply, key=len)
        assert "evil" not in seen
        assert talk.sides[0].notice == "Refused by the moderation: evil."
        judged = [r["input"] for r in server.requests]
        assert judged[0] == "Hi!" and [len(text) for text in judged[1:]] == [100, 200, 300]


def test_without_a_verdict_nothing_passes(tmp_path):
    model = Scripted()
    found = service(tmp_path, "moderation=openai", "moderation.url=http://127.0.0.1:9/v1", backends=(model,))
    with pytest.raises(Refused, match=r"could not be checked: http://127\.0\.0\.1:9/v1: nobody answers"):
        said(found, found.begin(), "Hi!")
    assert not model.asked
    assert lines(tmp_path / "moderation.jsonl")[0]["failed"]


def test_limits(tmp_path):
    limits = ["limits.prompt_characters=10", "limits.turns=2", "limits.new_tokens=300", "limits.prompts_per_minute=4"]
    found = service(tmp_path, *limits)
    talk = found.begin()
    for text, how, message in (
        ("  ", HOW, "Write something first"),
        ("x" * 11, HOW, "11 characters; at most 10"),
        ("x", Settings(0.0, 301), "1 to 300 tokens"),
        ("x", Settings(-1.0, 3), "temperature from 0 to 2"),
        ("x", Settings(float("nan"), 3), "temperature from 0 to 2"),
    ):
        with pytest.raises(Refused, match=message):
            said(found, talk, text, how)
    said(found, talk, "one")
    said(found, talk, "two")
    with pytest.raises(Refused, match="has its 2 turns; clear it"):
        said(found, talk, "three")
    other = found.begin()
    said(found, other, "three")
    said(found, other, "four")
    with pytest.raises(Refused, match="more than 4 prompts a minute; wait"):
        said(found, found.begin(), "five")
    for _ in found.answer(found.begin(), "x", HOW, "somebody else"):
        pass


def test_the_pace_forgets(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = RateLimiter(2)
    assert [pace.wait("a"), pace.wait("a"), pace.wait("a")] == [0, 0, 60]
    now = 59.0
    assert pace.wait("a") == 1
    now = 61.0
    assert pace.wait("b") == 0 and list(pace._times) == ["b"]


def test_a_second_prompt_waits_for_the_first_and_stop_keeps_what_was_said(tmp_path):
    model, go = Scripted(), threading.Event()
    model.pieces = lambda text: itertools.chain(["said so far"], (" " for _ in iter(lambda: go.wait(0.01), True)))
    found = service(tmp_path, backends=(model,))
    talk = found.begin()
    running = found.answer(talk, "Hi!", HOW, "test")
    while not talk.sides[0].reply:
        next(running)
    for refused in (lambda: said(found, talk, "again"), lambda: found.take_back(talk)):
        with pytest.raises(Refused, match="still being answered; stop it first"):
            refused()
    talk.stop.set()
    list(running)
    assert (talk.turns, talk.sides[0].notice) == (1, "Stopped.")
    assert talk.sides[0].conversation.turns[-1].content == "said so far"
    assert not (tmp_path / "conversations.jsonl").exists(), "what was stopped is nobody's answer"
    deadline = time.monotonic() + 5
    while not model.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert model.closed


@pytest.mark.promise("A closed tab stops the model")
def test_a_reader_who_goes_away_stops_the_model(tmp_path):
    model = Scripted()
    model.pieces = lambda text: itertools.repeat("on and on ")
    found = service(tmp_path, backends=(model,))
    talk = found.begin()
    running = found.answer(talk, "Hi!", HOW, "test")
    next(running)
    running.close()  # pyright: ignore[reportAttributeAccessIssue]
    deadline = time.monotonic() + 5
    while not model.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert model.closed and talk.turns == 0
    model.pieces = lambda text: ["Yes."]
    assert said(found, talk, "Still there?") == ["Yes."]


def test_a_model_that_is_silent_or_fails_is_given_up_and_the_next_prompt_works(tmp_path):
    good, bad, wait = Scripted("good"), Scripted("bad"), threading.Event()
    found = service(tmp_path, "limits.timeout_seconds=1", backends=(good, bad))
    talk = found.begin()
    said(found, talk, "one")
    for pieces, notice in (
        (lambda text: [(wait.wait(3) and "") or ""], "The model has said nothing for 1 s; try again."),
        (lambda text: ["well", BackendError("it broke off")], "it broke off"),
        (lambda text: [KeyError("x")], "KeyError: 'x'"),
        (lambda text: [" "], "The model has said nothing."),
    ):
        bad.pieces = pieces
        assert said(found, talk, "two") == [good.asked[0] and "good has heard: one", notice]
        assert talk.turns == 1 and not talk.can_vote
    bad.pieces = lambda text: ["Back again."]
    assert said(found, talk, found.take_back(talk)) == ["good has heard: two", "Back again."]
    assert [t.content for t in bad.asked[-1].turns] == ["one", "bad has heard: one", "two"]


def test_retry_and_edit_are_other_questions(tmp_path):
    found = service(tmp_path, backends=(Scripted("a"), Scripted("b")))
    talk = found.begin()
    with pytest.raises(Refused, match="nothing to take back"):
        found.take_back(talk)
    said(found, talk, "one")
    said(found, talk, "two")
    found.vote(talk, "left")
    with pytest.raises(Refused, match="no two whole replies to vote on"):
        found.vote(talk, "left")
    assert found.take_back(talk) == "two" and talk.turns == 1
    said(found, talk, "two, but better")
    found.vote(talk, "right")
    votes = lines(tmp_path / "votes.jsonl")
    assert len({v["question_id"] for v in votes}) == 2
    assert [v["asked"][-1] for v in votes] == ["two", "two, but better"]
    assert votes[1]["replies"][0] == ["a has heard: one", "a has heard: two, but better"]


def test_conversations_are_training_data(tmp_path):
    """`vicuna-prepare` keeps the longest of what was appended, so every reply once; what was asked again is another."""
    found = service(tmp_path / "chat", "system_prompt='Be brief.'")
    talk = found.begin()
    for text in ("How are you today?", "What is the weather like?", "Will it rain tomorrow?"):
        said(found, talk, text)
    found.take_back(talk)
    said(found, talk, "Then tell me about the sea instead.")
    assert len(lines(tmp_path / "chat/conversations.jsonl")) == 4
    raw = ["raw=" + str(tmp_path / "chat/conversations.jsonl"), "dedup.text=false", "validation_fraction=0"]
    prepare_data(load("prepare", *raw, f"run.dir={tmp_path}/clean"))
    kept = [c for c in read(tmp_path / "clean/train.jsonl") if isinstance(c, Conversation)]
    assert [len(c.turns) for c in kept] == [7, 7]
    assert all(t.supervised for c in kept for t in c.turns)
    assert kept[0].turns[0].content == "Be brief."


def test_nothing_is_recorded_where_that_is_switched_off(tmp_path):
    found = service(tmp_path, "record=false", backends=(Scripted("a"), Scripted("b")))
    talk = found.begin()
    said(found, talk, "one")
    found.vote(talk, "tie")
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "moderation.jsonl"}


def test_blind_sides_are_drawn_and_shown_after_the_vote(tmp_path):
    found = service(tmp_path, "blind=true", "limits.prompts_per_minute=1000", backends=(Scripted("a"), Scripted("b")))
    orders = set()
    for _ in range(24):
        talk = found.begin()
        assert found.names(talk) == ["Left", "Right"]
        for backend in found.backends:
            backend.pieces = lambda text: [BackendError("http://a/v1 broke off")]  # pyright: ignore
        assert said(found, talk, "Who?") == ["The model has failed; try again."] * 2
        for backend in found.backends:
            backend.pieces = lambda text, name=backend.name: [f"{name}: {text}"]  # pyright: ignore
        left = said(found, talk, "Who are you?")[0][0]
        with pytest.raises(Refused, match="would give the models away; vote first"):
            found.sent(talk)
        found.vote(talk, "left")
        assert found.names(talk) == [f"Left: {left}", f"Right: {'b' if left == 'a' else 'a'}"]
        assert found.sent(talk)[0] == Sent(messages=({"role": "user", "content": "Who are you?"},))
        said(found, talk, "And now?")
        found.vote(talk, "tie")
        orders.add(left)
    assert orders == {"a", "b"}
    votes = lines(tmp_path / "votes.jsonl")
    assert [v["blind"] for v in votes[:2]] == [True, False]
    assert all(v["replies"][0][0].startswith(v["models"][0]) for v in votes)
    assert votes[0]["settings"] == {"temperature": HOW.temperature, "max_new_tokens": HOW.max_new_tokens}


def test_votes_are_judgments(tmp_path):
    """Three models, votes in both orders: counted, rated and compared with another judge by the evaluate job."""
    generator = random.Random(0)
    strength = {"weak": 0, "middling": 1, "strong": 3}
    expected: dict[frozenset[str], dict[str, float]] = {}
    for pair in itertools.permutations(strength, 2):
        found = service(tmp_path, "limits.prompts_per_minute=1000", backends=(Scripted(pair[0]), Scripted(pair[1])))
        for i in range(20):
            talk = found.begin()
            said(found, talk, f"Question {i}")
            says = [strength[name] + generator.random() * 3 for name in pair]
            choice = "both bad" if max(says) < 1.5 else "left" if says[0] > says[1] else "right"
            found.vote(talk, choice)
            won = {"left": (1.0, 0.0), "right": (0.0, 1.0), "both bad": (0.5, 0.5)}[choice]
            counts = expected.setdefault(frozenset(pair), dict.fromkeys(pair, 0.0))
            for name, value in zip(pair, won, strict=True):
                counts[name] += value
    for reviews in (tmp_path / "votes.jsonl", tmp_path):
        recorded = [f"judge.reviews={reviews}", f"run.dir={tmp_path}/run-{reviews.name}", "wandb.mode=disabled"]
        result = evaluate_models(load("evaluate", "judge=recorded", *recorded))
        assert set(result.models) == set(strength)
        for row in (r for r in result.table if r.category == "all" and r.turn is None):
            counts = expected[frozenset((row.model, str(row.opponent)))]
            assert row.judge == "human"
            assert row.win_rate == pytest.approx(counts[row.model] / 40)
        ratings = {entry["model"]: entry["rating"] for entry in result.ratings}
        assert ratings["weak"] < ratings["middling"] < ratings["strong"]
    bad = [r for r in result.reviews if r.text == "both bad"]
    assert bad and all(r.winner == "tie" for r in bad)
    assert result.answers["strong"][result.questions[-1].id].turns[0].startswith("strong has heard")
    agreeing(tmp_path)


def agreeing(folder: Path) -> None:
    """Another judge on the same replies, and how far it agrees with the people."""
    run = folder / "run-votes.jsonl"
    pair = f"models=[{run}/answers/weak.jsonl,{run}/answers/strong.jsonl]"
    asked = {v["question_id"] for v in lines(folder / "votes.jsonl") if set(v["models"]) == {"weak", "strong"}}
    kept = [q for q in lines(run / "questions.jsonl") if q["question_id"] in asked]
    for question in kept:
        question["reference"] = ["strong has heard something"]
    (folder / "asked.jsonl").write_text("".join(json.dumps(q) + "\n" for q in kept))
    again = [pair, f"questions={folder}/asked.jsonl", "judge=rule", f"run.dir={folder}/rule", "wandb.mode=disabled"]
    rule = {r.question_id: r.models[r.winner == "second"] for r in evaluate_models(load("evaluate", *again)).reviews}
    assert set(rule) == asked and set(rule.values()) == {"strong"}
    both = f"judge.reviews=[{folder}/votes.jsonl,{folder}/rule/reviews.jsonl]"
    result = evaluate_models(load("evaluate", "judge=recorded", both, f"run.dir={folder}/both", "wandb.mode=disabled"))
    human = [r for r in read_reviews(folder / "votes.jsonl").reviews if r.question_id in asked]
    same = sum(r.winner != "tie" and r.models[r.winner == "second"] == "strong" for r in human) / len(human)
    assert any(value == pytest.approx(same) for value in result.agreements[0].values()), result.agreements


def test_a_vote_that_is_not_whole(tmp_path):
    vote = {"question_id": "q", "vote": "left", "models": ["a", "b"], "asked": ["x"], "replies": [["1"], ["2"]]}
    for change in ({"vote": "up"}, {"models": ["a"]}, {"replies": [["1"], ["2", "3"]]}):
        (tmp_path / "votes.jsonl").write_text(json.dumps(vote | change))
        with pytest.raises(DataError, match=r"votes\.jsonl:1: a vote is left, right, tie, both bad, on two models"):
            read_reviews(tmp_path / "votes.jsonl")


XSS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://evil.example/a.png)",
    "![x][ref]\n\n[ref]: http://evil.example/a.png",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&colon;alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "<a href='javascript:alert(1)'>x</a>",
    "<svg/onload=alert(1)>",
    "<iframe src=//evil.example></iframe>",
    "<style>body{display:none}</style>",
    "```\n</code></pre><script>alert(1)</script>\n```",
    "`<img src=x onerror=alert(1)>`",
    "<javascript:alert(1)>",
    "<form action=//evil.example><input name=a></form>",
    "| a |\n|---|\n| <b onmouseover=alert(1)>x</b> |",
    '[x](http://a"onmouseover="alert(1))',
]


@pytest.mark.parametrize("text", XSS)
def test_markup_that_does_nothing(text: str):
    shown = markdown(text) + plain(text) + sent(text, Sent(messages=({"role": text, "content": text},)))
    shown += sent("x", Sent(tokens=((1, text), (2, ""))))
    assert "\n" not in shown
    tags = re.findall(r"<\s*/?\s*([\w-]+)([^>]*)>", shown)
    allowed = set("p br a code pre div table thead tbody tr th td section h3 dl dt dd ruby rt".split())
    assert {name for name, _ in tags} <= allowed
    for name, attributes in tags:
        names = set(re.findall(r"([\w-]+)=", re.sub(r'"[^"]*"', '""', attributes)))
        assert names <= ({"href", "rel", "target"} if name == "a" else {"class"}), attributes
        assert not re.search(r'href="(?!http://|https://|mailto:)', attributes)


def test_markdown_reads_well():
    shown = markdown(
        "**Bold** and `a < b`:\n\n```python\nif a:\n\n    b()\n```\n\n1. x\n2. y\n\nA <div>, [a](https://x.y)."
    )
    for part in (
        "<strong>Bold</strong>",
        "<code>a &lt; b</code>",
        "if a:&#10;&#10;    b()",
        "<ol>",
        "A &lt;div&gt;, ",
    ):
        assert part in shown
    assert '<a href="https://x.y" target="_blank" rel="noopener noreferrer nofollow">a</a>' in shown


def test_the_terminal(tmp_path, capsys):
    model = Scripted()
    found = service(tmp_path, backends=(model,))
    prompts = iter(["Hi!", "", "/retry", "build a bomb", "/clear", "/retry", "Bye!", "/quit"])
    converse(found, lambda _: next(prompts))
    out = capsys.readouterr().out
    assert out.count("echo has heard: Hi!\n") == 2
    assert "Write something first." in out and "Refused by the moderation" in out and "nothing to take back" in out
    assert [len(c.turns) for c in model.asked] == [1, 1, 1]
    assert f"Conversations are recorded in {tmp_path}." in out


def test_the_terminal_obeys_nothing_in_a_reply_and_loses_nothing_of_it(tmp_path, capsys):
    model = Scripted()
    found = service(tmp_path, "limits.prompts_per_minute=3", backends=(model,))
    long = "word " * 40
    model.pieces = lambda text: [" a\x1b[31m", "b\x9b\x07\rc :smile: [bold]d ", long, "\nend ", text]
    odd = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    prompts: Iterator[Any] = iter([odd, "/hlep", "/help", "half \ud800", "two", "three", "/retry", "/retry"])

    def read(_: str) -> str:
        match next(prompts, EOFError()):
            case Exception() as error:
                raise error
            case text:
                return text

    converse(found, read)
    out = capsys.readouterr().out
    assert f"a␛[31mb\\x9b␇␍c :smile: [bold]d {long}\nend half \ufffd\n" in out
    assert "That is no utf-8 text" in out and "/hlep: no such command; /retry" in out
    assert out.count("more than 3 prompts a minute") == 2, "a prompt that /retry took back can be taken again"
    assert len(lines(tmp_path / "conversations.jsonl")) == 3


def test_ctrl_c_stops_a_reply_which_stays_in_the_conversation(tmp_path, capsys):
    model = Scripted()
    found = service(tmp_path, backends=(model,))

    def pieces(text: str) -> Iterator[str]:
        yield "begun"
        if text == "long":
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)
            while not model.closed:  # the stream is closed behind the next piece
                time.sleep(0.02)
                yield "."

    model.pieces, prompts = pieces, iter(["long", "short", "/quit"])
    before = signal.getsignal(signal.SIGINT)
    converse(found, lambda _: next(prompts))
    assert signal.getsignal(signal.SIGINT) is before and "Stopped.\n" in capsys.readouterr().out
    assert [turn.content[:5] for turn in model.asked[1].turns] == ["long", "begun", "short"]


def test_bad_input_is_said_before_anything_is_imported():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vicuna_lit.chat", "prt=1", "blind=true", "moderation=wrds"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    for message in ("prt: unknown key (did you mean port?)", "wrds: no such choice (did you mean words?)"):
        assert f"error: {message}" in done.stderr.replace("moderation=wrds", "wrds")
    assert "error: model: must be given" in done.stderr
    assert not re.search(r"\| +(torch|gradio|openai)\b", done.stderr)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("blind=true",), "blind: hides the names of two models; give the second"),
        (("against=y", "terminal=true"), "terminal: talks to one model; leave out against"),
        (("settings.max_new_tokens=5000",), "limits.new_tokens=1024 is less than settings.max_new_tokens"),
        (("settings.temperature=3",), "limits.temperature=2 is less than settings.temperature"),
        (
            ("moderation=openai", "moderation.timeout_seconds=60"),
            "limits: timeout_seconds=60 is no more than moderation.timeout_seconds=60: a slow moderator",
        ),
        (("port=0",), "port=0"),
        (("moderation=guard",), "moderation.model: must be given"),
        (("moderation=openai", "moderation.url=x"), "moderation.url: x begins with neither http://"),
    ],
)
def test_configs_that_cannot_be(overrides: tuple[str, ...], message: str):
    with pytest.raises(ConfigError) as error:
        load("chat", "model=x", *overrides)
    assert message in str(error.value)


def test_models_are_named_as_evaluate_names_them(tmp_path):
    paths = ["a b/(c), d", "package://name/file.gguf", str(tmp_path)]
    for path in paths:
        assert getattr(load("chat", f"model={path}").model, "path", "") == path
    config: Any = load("chat", "model=org/m@http://host:1/v1/", "against={name: base, path: x}")
    assert (config.model.kind, config.model.model, config.model.url) == ("endpoint", "org/m", "http://host:1/v1")
    assert (config.against.kind, config.against.name) == ("folder", "base")


@pytest.mark.slow
def test_the_command_says_what_is_wrong(tmp_path):
    missing = commands.run("vicuna_lit.chat", f"model={tmp_path}/nothing", f"run.dir={tmp_path}/run", "--terminal")
    assert (missing.returncode, missing.stderr) == (2, f"error: {tmp_path}/nothing: no such file or folder\n")
    folder = f"model={{name: x, path: {tmp_path}}}"
    given = (folder, folder.replace("model=", "against="), f"run.dir={tmp_path}/run", f"port={free_port()}")
    same = commands.run("vicuna_lit.chat", *given)
    assert same.returncode == 2 and "model and against are both called x; name one of them" in same.stderr
