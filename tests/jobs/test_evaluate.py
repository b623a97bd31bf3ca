"""The whole job: models answer, judges judge, a page says what came out; stopped and gone on with."""

import json
import shutil
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import commands
from tests.helpers.llm_server import KEY, Server, answers_and_judges
from tests.helpers.runs import COMMON, run_here
from vicuna_lit.config.compose import load
from vicuna_lit.evaluate import generate, judges, stages
from vicuna_lit.evaluate.questions import read_questions
from vicuna_lit.evaluate.run import evaluate_models
from vicuna_lit.inference.generate import Chat, likelihoods, replies, reply
from vicuna_lit.paths import ModelError, model_name
from vicuna_lit.records.conversation import Conversation, DataError
from vicuna_lit.run_folder import RunError
from vicuna_lit.tracking.wandb_file import history_rows

QUICK = ("wandb.mode=disabled", "answers.max_new_tokens=12", "max_questions=16", "bootstrap.samples=200")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Two small models, one trained for a step and one for 20."""
    folder = tmp_path_factory.mktemp("models")
    for name, steps in (("early", 1), ("late", 20)):
        run_here([*COMMON, f"trainer.max_steps={steps}", f"run.dir={folder / name}"])
    return folder


@pytest.fixture
def models(trained) -> str:
    return f"models=[{trained}/early/hf,{trained}/late/hf]"


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_from_models_to_the_page(tmp_path, models):
    folder = tmp_path / "run"
    found = evaluate_models(load("evaluate", models, f"run.dir={folder}", *QUICK))
    assert found.models == ["early", "late"]
    answers = {name: lines(folder / "answers" / f"{name}.jsonl") for name in found.models}
    questions = [q for q in read_questions() if q.id in {a["question_id"] for a in answers["late"]}]
    assert len(questions) == 16
    assert [len(a["turns"]) for a in answers["late"]] == [len(q.turns) for q in questions]
    rows = json.loads((folder / "table.json").read_text())
    assert (rows[0]["model"], rows[0]["opponent"], rows[0]["questions"]) == ("late", "early", 4)
    assert {row["category"] for row in rows} == {"all", "coding", "math"}
    assert "rules judge the 4 questions with a reference answer; 12 have none" in found.notes
    assert any("were cut off at 12 tokens" in note for note in found.notes)
    page = (folder / "report.html").read_text()
    assert questions[0].turns[0][:60] in page
    assert "no judge of quality" in page
    assert (folder / "table.csv").read_text().count("\n") == 1 + len(rows)


@pytest.mark.slow
@pytest.mark.promise("An evaluation that is stopped anywhere goes on to the same files")
def test_stopped_anywhere_and_gone_on_with(tmp_path, models, monkeypatch):
    """Answers and reviews that are there stand; the files and the table are those of the run left alone."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    settings = (models, "answers.batch_size=3", "answers.temperature=1.5", "judge.mode=single", *QUICK)
    evaluate_models(load("evaluate", *settings, f"run.dir={whole}"))
    append, left = stages.append, [0]

    def stopping(path: Path, items: Any) -> None:
        if left[0] == 0:
            with path.open("ab") as stream:
                stream.write(b'{"model": "half a li')
            raise KeyboardInterrupt
        left[0] -= 1
        append(path, items)

    monkeypatch.setattr(stages, "append", stopping)
    for left[0] in (0, 1, 4, 6, 3, 1000):
        try:
            evaluate_models(load("evaluate", *settings, f"run.dir={stopped}"))
        except KeyboardInterrupt:
            continue
    for name in ("answers/early.jsonl", "answers/late.jsonl", "reviews.jsonl", "table.json"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_local_judge_gives_a_verdict_on_every_case(tmp_path, models, trained):
    rows = {}
    for mode in ("pairwise", "single"):
        folder = tmp_path / mode
        judge = ("judge=local", f"judge.path={trained}/late/hf", f"judge.mode={mode}", "max_questions=8")
        found = evaluate_models(load("evaluate", models, f"run.dir={folder}", *QUICK, *judge))
        rows[mode] = found.totals
        assert all(review.parsed or "tokens, the model reads" in (review.problem or "") for review in found.reviews)
    pair = rows["pairwise"][0]
    assert pair.wins + pair.ties + pair.losses == pair.judgments
    written = (*QUICK, "judge=local", f"judge.path={trained}/late/hf", "judge.verdict=text", "max_questions=8")
    found = evaluate_models(load("evaluate", models, f"run.dir={tmp_path / 'text'}", *written, "judge.max_tokens=8"))
    problems = {review.problem or "" for review in found.reviews if not review.parsed}
    assert {problem for problem in problems if "tokens, the model reads 512" not in problem} == {
        "no verdict is found; expected was [[A]], [[B]] or [[C]]"
    }


def test_a_person_judges_without_seeing_the_names(tmp_path, models, monkeypatch, capsys):
    typed = iter(["x", "1", "2", "t", "q", None] + ["1"] * 100)
    asked = []

    def ask(question: str) -> str:
        asked.append(question)
        said = next(typed)
        if said is None:
            raise EOFError
        return said

    monkeypatch.setattr("builtins.input", ask)
    by_human = judges.by_human
    monkeypatch.setattr(judges, "by_human", lambda *a: by_human(*a, ask=ask))
    config = load("evaluate", models, "judge=human", "judge.name=human Ada", f"run.dir={tmp_path / 'run'}", *QUICK)
    with pytest.raises(KeyboardInterrupt):
        evaluate_models(config)
    assert len(lines(tmp_path / "run/reviews.jsonl")) == 3
    shown = capsys.readouterr().out
    assert "one of 1, 2, t, q" in shown
    assert "answer 2" in shown
    assert "early" not in shown.replace("early: 16", "")
    with pytest.raises(KeyboardInterrupt):  # the end of what is typed
        evaluate_models(config)
    found = evaluate_models(config)
    assert [r.winner for r in found.reviews][:3] == ["first", "second", "tie"]
    assert {r.models for r in found.reviews} == {("early", "late"), ("late", "early")}  # being first is drawn


class Tags(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.promise("Hostile answers are text on the page of an evaluation")
def test_hostile_text_is_text(tmp_path):
    """Answers, names, questions and reviews with markup: the page holds no script, no handler, no address."""
    evil = "</div><script>alert(1)</script><img src=x onerror=alert(2)><a href='javascript:alert(3)'>x</a>\x00"
    question = {"question_id": 1, "category": f"c{evil}", "turns": [evil], "reference": [evil]}
    (tmp_path / "q.jsonl").write_text(json.dumps(question))
    for name in ("a", "b"):
        record = {"question_id": 1, "text": evil, "model_id": f"{name}<script>"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record))
    models = f"models=[{tmp_path}/a.jsonl,{tmp_path}/b.jsonl]"
    evaluate_models(load("evaluate", models, f"questions={tmp_path}/q.jsonl", f"run.dir={tmp_path}/run", *QUICK))
    page = (tmp_path / "run/report.html").read_text()
    tags = Tags(page).found
    assert not {tag for tag, _ in tags} & {"script", "img", "iframe", "link", "object"}
    assert not [a for _, attributes in tags for a in attributes if a.startswith("on")]
    assert all(a.get("href", "#").startswith("#") for _, a in tags)  # pyright: ignore[reportOptionalMemberAccess]
    assert "http" not in page.replace("http-equiv", "")
    assert "alert(3)" in page


def test_wandb_holds_the_figures_and_the_tables(tmp_path, models):
    folder = tmp_path / "run"
    evaluate_models(load("evaluate", models, f"run.dir={folder}", *QUICK, "wandb.mode=offline"))
    file = next(folder.glob("wandb/offline-run-*/*.wandb"))
    tables = {"eval/table", "eval/answers", "eval/reviews", "eval/report"}
    eventually(lambda: tables <= {key.split(".")[0] for _, row in history_rows(file) for key in row})
    for key in (b"eval/win_rate", b"eval/win_rate_low", b"eval/score", b"max_new_tokens"):
        eventually(lambda key=key: key in file.read_bytes())


def eventually(holds: Callable[[], bool], seconds: float = 20) -> None:
    """W&B's own process may still be writing."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["models=[/nowhere,/nowhere2]"], "/nowhere: no such file or folder"),
        (["models=[{tmp}/empty,{early}]"], "no model (config.json) and no answers"),
        (["models=[{early},{early}]"], "two are called early"),
        (["models=[{early},{late}]", "baseline=gpt"], "baseline=gpt: no such model; they are early, late"),
        (["models=[{early},{tmp}/broken]"], "broken: "),
        (["models=[{early},{late}]", "questions={tmp}/q.jsonl"], "q.jsonl:1: the field category is missing"),
        (["models=[{tmp}/short.jsonl,{late}]"], "answers to 79 of 80 questions are missing or too short (question 2, "),
        (["models=[{tmp}/torn.jsonl,{late}]"], "torn.jsonl:1: no answer can be read"),
        (["models=[{early},{late}]", "judge=local", "judge.path={tmp}/broken"], "broken: "),
    ],
)
def test_bad_input_is_said_before_anything_is_done(overrides, message, tmp_path, trained):
    (tmp_path / "empty").mkdir()
    shutil.copytree(trained / "early/hf", tmp_path / "broken")
    (tmp_path / "broken/model.safetensors").unlink()
    (tmp_path / "q.jsonl").write_text('{"question_id": 1, "turns": ["x"]}')
    (tmp_path / "short.jsonl").write_text('{"question_id": 1, "turns": ["x", "y"]}')
    (tmp_path / "torn.jsonl").write_text('{"question_id": 1, "tur')
    named = {"tmp": tmp_path, "early": trained / "early/hf", "late": trained / "late/hf"}
    filled = [o.replace("{tmp}", str(tmp_path)).replace("{early}", str(named["early"])) for o in overrides]
    filled = [o.replace("{late}", str(named["late"])) for o in filled]
    with pytest.raises((DataError, RunError, ModelError, ValueError)) as error:
        evaluate_models(load("evaluate", *filled, f"run.dir={tmp_path}/run", "wandb.mode=disabled"))
    assert message in str(error.value)
    assert not list(tmp_path.glob("run/answers/*"))


def test_a_folder_of_a_prepared_or_other_run_is_not_overwritten(tmp_path, models):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/thesis.tex").touch()
    with pytest.raises(RunError, match="exists and is no run folder"):
        evaluate_models(load("evaluate", models, f"run.dir={tmp_path}/x", *QUICK))


def test_batched_replies_are_those_of_one_at_a_time(trained):
    chat = Chat.load(trained / "late/hf")
    talks = [Conversation.of(q) for q in ("Hi", "Who are you, and what can you do for me today?", "1+1?")]
    talks.append(Conversation.of("Hi", "Hello.", "Who made you?"))
    batch = replies(chat.model, chat.encoder, talks, 24)
    assert [r.text for r in batch] == [reply(chat.model, chat.encoder, talk, 24) for talk in talks]


def test_likelihoods_are_those_of_the_whole_text(trained):
    chat = Chat.load(trained / "late/hf")
    talk, choices = Conversation.of("Which one?"), ["A]]", "B]]", "10]]", "1]]"]
    found = likelihoods(chat.model, chat.encoder, talk, "[[", choices)
    for choice, ours in zip(choices, found, strict=True):
        prompt = chat.encoder.prompt_ids(talk)
        tail = chat.encoder.tokenizer("[[" + choice, add_special_tokens=False)["input_ids"]
        head = chat.encoder.tokenizer("[[", add_special_tokens=False)["input_ids"]
        same = next(i for i in range(len(head), -1, -1) if tail[:i] == head[:i])
        logits = chat.model(torch.tensor([prompt + tail])).logits.log_softmax(-1).detach()
        places = range(len(prompt) + same, len(prompt) + len(tail))
        theirs = sum(logits[0, p - 1, (prompt + tail)[p]] for p in places)
        assert ours == pytest.approx(float(theirs), abs=1e-3)


def test_answers_of_an_endpoint_and_of_a_folder_side_by_side(tmp_path, trained, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server(answers_and_judges) as server:
        models = f"models=[{{path: {trained}/late/hf, name: ours}},gpt@{server.url}]"
        cache = f"requests.cache={tmp_path}/replies.sqlite"
        found = evaluate_models(load("evaluate", models, cache, f"run.dir={tmp_path}/run", *QUICK))
        assert found.models == ["ours", "gpt"]
        assert all(turn.startswith("gpt says") for a in found.answers["gpt"].values() for turn in a.turns)


def test_the_command(tmp_path, models):
    done = commands.run("vicuna_lit.evaluate", models, f"run.dir={tmp_path}/run", *QUICK, "max_questions=8")
    assert done.returncode == 0, done.stderr
    assert "late against early" in done.stdout
    assert "report.html" in done.stdout
    assert done.stderr == ""
    assert model_name(Path("x/late/hf")) == "late"


def steps_with(table: str, folder: Path) -> list[int]:
    files = folder.glob("wandb/offline-run-*/*.wandb")
    return sorted(step for file in files for step, row in history_rows(file) if f"{table}.nrows" in row)


@pytest.mark.slow
def test_training_shows_how_answers_change_and_ends_with_the_evaluation(tmp_path, trained):
    """Every 4 steps, also across a stop; then base against trained, by a process of its own."""
    folder = tmp_path / "run"
    settings = [
        *COMMON, "model=local", f"model.path={trained}/late/hf", "trainer.max_steps=10", "wandb.mode=offline",
        "samples.questions=[[Who are you?, And who made you?]]", "samples.per_category=1", "samples.every=4",
        "samples.max_new_tokens=6", "checkpoint.every_steps=3", f"run.dir={folder}",
    ]  # fmt: skip
    settings = [s for s in settings if not s.startswith("model.architecture")]
    run_here(settings, stop_after=7)
    at_end = "evaluate_after={judge: rule, max_questions: 8, answers.max_new_tokens: 6}"
    wrong = commands.run("vicuna_lit.train", *settings, "evaluate_after={judge: rul}")
    assert wrong.returncode == 2
    assert "judge='rul': no such choice (did you mean rule?)" in wrong.stderr
    run_here(settings)
    eventually(lambda: steps_with("samples/changes", folder) == [4, 8])
    rows = json.loads((folder / "result.json").read_text())["replies"]
    assert len(rows) == 2 + 16
    again = [s for s in settings if "run.dir" not in s] + [f"run.dir={tmp_path}/ends", at_end]
    done = commands.run("vicuna_lit.train", *again, workers=True)
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "ends/evaluation/table.json").read_text())
    assert (table[0]["model"], table[0]["opponent"]) == ("trained", "base")


def test_two_names_never_share_a_file(tmp_path):
    names = ["a/b", "a b", "a_b", "..", "a" * 300, ".hidden", "a:b"]
    files = {generate.answers_file(tmp_path, name) for name in names}
    assert len(files) == len(names)
    assert all(file.parent == tmp_path / "answers" and len(file.name) < 200 for file in files)


def test_one_model_alone_is_refused_or_rated(tmp_path, trained):
    alone = (f"models=[{trained}/late/hf]", f"run.dir={tmp_path}/run", *QUICK)
    with pytest.raises(ValueError, match=r"judge\.mode=single rates one"):
        evaluate_models(load("evaluate", *alone))
    assert evaluate_models(load("evaluate", *alone, "judge.mode=single")).totals[0].opponent is None
