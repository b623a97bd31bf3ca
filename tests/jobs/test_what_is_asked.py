"""What an evaluation asks, and what it shows of a judge that gives no verdict."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.llm_server import KEY, Server, answers_and_judges
from vicuna_lit.config.compose import load
from vicuna_lit.evaluate.questions import first_of_each, read_questions, spread_over_categories
from vicuna_lit.evaluate.report import show
from vicuna_lit.evaluate.run import evaluate_models
from vicuna_lit.run_folder import RunError


def test_max_questions_counts_questions_and_spreads_them_over_the_categories():
    questions = read_questions()
    for most in (1, 2, 8, 11, 80, 100):
        kept = spread_over_categories(questions, most)
        assert len(kept) == min(most, 80)
        counts = Counter(q.category for q in kept)
        assert max(counts.values()) - min(counts.values()) <= (len(counts) == 8 and most % 8 > 0)
        assert kept == [q for q in questions if q in kept]
    assert spread_over_categories(questions, None) == questions
    assert set(Counter(q.category for q in first_of_each(questions, 2)).values()) == {2}


@pytest.fixture
def files(tmp_path) -> list[str]:
    rows = [{"question_id": i, "category": "math", "turns": [f"{i} + 7?"]} for i in range(4)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in "ab":
        given = [{"question_id": i, "turns": [f"{name} says {i + 7}."]} for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    return [f"questions={tmp_path}/q.jsonl", f"run.dir={tmp_path}/run", "wandb.mode=disabled"]


def judge(url: str, folder: Path) -> list[str]:
    return ["judge=endpoint", f"judge.url={url}", "judge.model=judge", f"requests.cache={folder}/replies.sqlite"]


def test_reviews_without_a_verdict_are_shown_with_the_form_that_was_expected(tmp_path, files, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def undecided(request: dict[str, Any]) -> str:
        return "Hard to say. " * 40 + "Both have merits."

    with Server(undecided) as server:
        models = [f"models=[{tmp_path}/a.jsonl,{tmp_path}/b.jsonl]"]
        found = evaluate_models(load("evaluate", *models, *files, *judge(server.url, tmp_path)))
    show(found, str(tmp_path / "run"))
    said = capsys.readouterr().out
    assert "8 reviews without a verdict" in said
    assert said.count("no verdict is found; expected was two scores from 1 to 10 on the first line") == 3
    assert "question 0, turn 1, a against b: no verdict" in said
    assert "it says: 'Hard to say." in said and "Both have merits.'" in said
    assert "… 5 more without a verdict, in statistics.json under doubts" in said


def test_one_model_alone_is_refused_in_pairs_and_rated_alone(tmp_path, files, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    rated = lambda request: "Good. Rating: [[7]]" if request["model"] == "judge" else answers_and_judges(request)  # noqa: E731
    with Server(rated) as server:
        one = [f"models=[{tmp_path}/a.jsonl]", *files, *judge(server.url, tmp_path)]
        with pytest.raises(RunError, match=r"a is the only one; .*judge\.mode=single rates one"):
            evaluate_models(load("evaluate", *one))
        assert not server.attempts
        show(evaluate_models(load("evaluate", *one, "judge.mode=single")), str(tmp_path / "run"))
    assert "a: mean rating 7 (" in capsys.readouterr().out
