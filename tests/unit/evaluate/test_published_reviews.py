"""Published evaluations, read and counted again: real files, traps and all."""

import json
from pathlib import Path
from typing import Any

import pytest

from vicuna_lit.config.compose import load
from vicuna_lit.evaluate.published_reviews import read_reviews
from vicuna_lit.evaluate.run import evaluate_models
from vicuna_lit.records.conversation import DataError


def table(folder: Path, reviews: Path, *overrides: str) -> list[dict[str, Any]]:
    recorded = ["judge=recorded", f"judge.reviews={reviews}", f"run.dir={folder}", "wandb.mode=disabled"]
    evaluate_models(load("evaluate", *recorded, *overrides))
    return json.loads((folder / "table.json").read_text())


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def statistics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "statistics.json").read_text())


@pytest.mark.promise("The article's published totals (513 : 694, 664 : 655.5) come out of its recorded reviews")
def test_the_articles_totals(tmp_path, shared):
    """Opponent : Vicuna 513 : 694 and 664 : 655.5; the stored score is the published one, and both are reported."""
    old = shared / "fastchat_eval"
    rows = table(tmp_path / "run", old / "review" / "vicuna-13b_20230322-clean-lang", f"questions={old}/question.jsonl")
    total = {row["opponent"]: row for row in rows if row["category"] == "all"}
    llama, bard = total["llama-13b:v1"], total["bard:20230327"]
    assert {row["model"] for row in rows} == {"vicuna-13b:20230322-clean-lang"}
    assert (llama["opponent_score"], llama["score"]) == (513, 694)
    assert (bard["opponent_score"], bard["score"]) == (664, 655.5)
    assert (llama["wins"], llama["ties"], llama["losses"], llama["questions"]) == (77, 0, 3, 80)
    assert (bard["wins"], bard["ties"], bard["losses"], bard["questions"]) == (40, 10, 30, 80)
    low, high = bard["ratio_interval"]
    assert low < bard["ratio"] == 655.5 / 664 < high
    by = [row for row in rows if row["category"] != "all" and row["opponent"] == "bard:20230327"]
    assert {row["category"]: row["questions"] for row in by} == {
        "generic": 10, "knowledge": 10, "roleplay": 10, "common-sense": 10, "fermi": 10, "counterfactual": 10,
        "coding": 7, "math": 3, "writing": 10,
    }  # fmt: skip
    assert sum(row["score"] for row in by) == 655.5
    math = next(row for row in by if row["category"] == "math")
    assert (math["score"], math["opponent_score"]) == (7, 30)
    doubts = {(d["question_id"], d["problem"]) for d in statistics(tmp_path / "run")["doubts"]}
    assert doubts == {("70", "stored as 10 2; the text says 10 4")}


def test_the_order_is_told_by_the_ids_and_not_by_the_names(tmp_path, shared):
    """QLoRA's files in both orders; rows without a score count nowhere, and are said."""
    folder = shared / "judgments/qlora/relative-gpt-3.5"
    answers = shared / "fastchat_eval/answer"
    models = f"models=[{answers}/answer_bard.jsonl,{answers}/answer_gpt35.jsonl]"
    rows = table(tmp_path / "run", folder, models, "baseline=gpt-3.5-turbo:20230327")
    total = {row["model"]: row for row in rows if row["category"] == "all"}
    expected: dict[str, list[tuple[float, float]]] = {}
    for file in folder.glob("*.jsonl"):
        for record in lines(file):
            known = lines(answers / "answer_gpt35.jsonl")[record["question_id"] - 1]
            scores = record["score"] if record["answer2_id"] == known["answer_id"] else record["score"][::-1]
            name = next(n for n in ("13b-alpaca", "30b-huggingchat", "7b-guanaco", "bard") if n in file.name)
            expected.setdefault(name, []).append(tuple(scores))
    for name, scores in expected.items():
        row = next(row for model, row in total.items() if model.startswith(name))
        unscored = sum(s[0] < 0 for s in scores)
        assert row["unparsed"] == unscored == (3 if name in ("13b-alpaca", "30b-huggingchat") else 0)
        assert row["questions"] == 80 - unscored
        if not unscored:
            assert (row["score"], row["opponent_score"]) == tuple(sum(s[i] for s in scores) / 2 for i in (0, 1))
    judge = statistics(tmp_path / "run")["judges"][0]
    assert judge["both_orders"] == 314
    assert judge["prefers_first"] > 3 * judge["prefers_second"]  # GPT-4's bias, which QLoRA's authors report too


@pytest.mark.promise("The counts of QLoRA, MT-bench and PandaLM come out of their recorded reviews, traps and all")
def test_three_classes_and_chains_that_do_not_meet(tmp_path, shared):
    folder = shared / "judgments/qlora/pairwise"
    answers = shared / "fastchat_eval/answer"
    rows = table(tmp_path / "run", folder, f"models=[{answers}/answer_bard.jsonl,{answers}/answer_gpt35.jsonl]")
    row = next(row for row in rows if row["model"].startswith("gpt-3.5"))
    first, second = (
        [row["score"] for row in lines(folder / f"answer-{a}-vs-answer-{b}-gpt-4-reviewer-threeclass.jsonl")]
        for a, b in (("bard", "gpt35"), ("gpt35", "bard"))
    )
    wins = sum(a == 2 and b == 1 for a, b in zip(first, second, strict=True))
    losses = sum(a == 1 and b == 2 for a, b in zip(first, second, strict=True))
    assert (row["wins"], row["losses"], row["ties"]) == (wins, losses, 80 - wins - losses)
    assert row["score"] is None
    found = statistics(tmp_path / "run")
    assert len(found["bradley_terry"]) == 3  # bard, gpt-3.5 and gpt-4 met; the two guanacos met only each other
    assert any("(answer 1)" in note for note in found["notes"])


@pytest.mark.promise("The counts of QLoRA, MT-bench and PandaLM come out of their recorded reviews, traps and all")
def test_mt_bench(tmp_path, shared):
    folder, questions = shared / "judgments/mt_bench", shared / "fastchat_head/llm_judge/mt_bench"
    rows = table(tmp_path / "single", folder / "gpt-4_single_ultrachat_baseline.jsonl", f"questions={questions}")
    records = lines(folder / "gpt-4_single_ultrachat_baseline.jsonl")
    assert rows[0]["mean_score"] == pytest.approx(sum(r["score"] for r in records) / 160)
    turns = {row["turn"]: row["mean_score"] for row in rows if row["turn"]}
    assert turns == {1: 6.7625, 2: 6.025}
    rows = table(tmp_path / "pair", folder / "gpt-4_pair_phi-3_phi-3-dpo.jsonl", f"questions={questions}")
    assert (rows[0]["wins"], rows[0]["ties"], rows[0]["losses"], rows[0]["unparsed"]) == (20, 35, 18, 2)
    assert rows[0]["win_rate"] == (20 + 35 / 2) / 73


@pytest.mark.promise("The counts of QLoRA, MT-bench and PandaLM come out of their recorded reviews, traps and all")
def test_people_and_a_model_judge_the_same(tmp_path, shared):
    """PandaLM: Cohen's kappa as its own labels give it; 22 verdicts of the model are garbage, and counted."""
    table(tmp_path / "run", shared / "judgments/pandalm")
    found = statistics(tmp_path / "run")
    people = json.loads((shared / "judgments/pandalm/testset-v1_ab.json").read_text())
    labels = [[row[f"annotator{i}"] for row in people] for i in (1, 2)]
    same = sum(a == b for a, b in zip(*labels, strict=True)) / 666
    chance = sum(labels[0].count(c) * labels[1].count(c) for c in (0, 1, 2)) / 666**2
    pair = next(p for p in found["agreements"] if p["judges"] == ["human 1", "human 2"])
    assert pair["shared"] == 666
    assert pair["agreement"] == pytest.approx(same)
    assert pair["kappa"] == pytest.approx((same - chance) / (1 - chance))
    model = next(p for p in found["agreements"] if p["judges"] == ["gpt-3.5-turbo", "human majority"])
    assert model["shared"] == 644
    assert 0.4 < model["kappa"] < 0.55
    assert next(j for j in found["judges"] if j["judge"] == "gpt-3.5-turbo")["unparsed"] == 22
    assert len(found["bradley_terry"]) == 4 * 5


def test_our_own_evaluations_are_read_back_and_judges_compared(tmp_path, shared):
    """Two judges of the same answers, read from the folders of their evaluations, and their agreement."""
    answers = shared / "fastchat_eval/answer"
    models = f"models=[{answers}/answer_bard.jsonl,{answers}/answer_vicuna-13b.jsonl]"
    for mode in ("pairwise", "single"):
        rule = [models, f"questions={shared}/fastchat_head/llm_judge/vicuna_bench", "judge=rule", f"judge.mode={mode}"]
        evaluate_models(load("evaluate", *rule, f"run.dir={tmp_path / mode}", "wandb.mode=disabled"))
    first = json.loads((tmp_path / "pairwise/table.json").read_text())
    again = table(tmp_path / "again", tmp_path / "pairwise", f"models=[{answers}]")
    assert [row["score"] for row in again] == [row["score"] for row in first]
    assert [row["category"] for row in again] == ["all", "coding", "math"]
    other = tmp_path / "single/reviews.jsonl"
    other.write_text(other.read_text().replace("rule (no judge of quality)", "another"))
    both = [f"judge.reviews=[{tmp_path}/pairwise,{tmp_path}/single]", f"run.dir={tmp_path}/both", "judge=recorded"]
    evaluate_models(load("evaluate", *both, "wandb.mode=disabled"))
    pair = statistics(tmp_path / "both")["agreements"][0]
    assert (pair["judges"], pair["agreement"], pair["shared"]) == (
        ["rule (no judge of quality)", "another"],
        1,
        10,
    )


def test_the_same_settings_or_another_folder(tmp_path, shared):
    reviews = shared / "judgments/ja_vicuna_bench/pairwise_gpt-4"
    table(tmp_path / "run", reviews)
    table(tmp_path / "run", reviews, "bootstrap.samples=50")
    with pytest.raises(ValueError, match=r"judge\.name: None → 'x'"):
        table(tmp_path / "run", reviews, "judge.name=x")


def test_files_that_are_no_reviews(tmp_path):
    file = tmp_path / "x.jsonl"
    for text, message in {
        '{"a": 1}': r"no known form of a review \(.*\); it has the fields a",
        '{"g1_winner": "tie", "g2_winner": "tie"}': "the field model_1 is missing",
        '{"answer1_id": "a", "answer2_id": "b", "score": [1, 2]}': "the field text is missing",
        '{"answer1_id": ': "no review can be read: line 1: unexpected end",
        "[3]": "no review can be read: not an object: 3",
        '{"answer1_id": "a", "answer2_id": "b", "question_id": 1, "text": "", "score": [1]}': "score is two numbers",
        '{"judgment": "", "model": "a", "question_id": 1, "score": "seven"}': "is no whole review: could not convert",
        '{"judgment": "", "model": "a", "question_id": 1, "score": 7, "turn": 0}': "turn is 0; turns are counted from",
        '{"g1_winner": "tie", "g2_winner": "tie", "model_1": "a", "model_2": "a", "question_id": 1, '
        '"g1_judgment": "", "g2_judgment": ""}': "of one model or of two different ones, not of a and a",
        '{"models": ["a", "b"], "judge": "j"}': "is no whole review: the field scores is missing",
        '{"models": "ab", "judge": "j", "scores": null}': "models and scores are lists",
        OURS.replace('"first"', '"left"'): "winner is 'left'; it is first, second or tie",
        OURS.replace("null", "[7]"): r"scores are \[7\]; they are a number for each of 2 models",
        '{"question_id": "1", "vote": [], "models": ["a", "b"], "asked": ["q"], "replies": 3}': "a text or a list",
        '{"question_id": "1", "vote": [], "models": ["a", "b"], "asked": ["q"], "replies": ["x", "y"]}': "a vote is",
    }.items():
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            read_reviews(file)


OURS = (
    '{"question_id": "1", "turn": 1, "models": ["a", "b"], "judge": "j", "text": "", "winner": "first", "scores": null}'
)


def test_scores_of_another_scale_are_no_verdict_and_an_absent_vote_is_no_tie(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"judgment": "[[85]]", "model": "a", "question_id": 1.0, "score": 85}\n')
    (review,) = read_reviews(file).reviews
    assert not review.parsed and review.problem == "stored as 85; scores are from 0 to 10" and review.question_id == "1"
    row = {"idx": 1, "cmp_key": "a_b", "instruction": "q", "response1": "x", "response2": "y", "annotator1": 0}
    file.write_text(json.dumps(row | {"annotator2": None, "annotator3": "2"}))
    assert [review.winner for review in read_reviews(file).reviews] == ["tie", None, "second"]


def test_an_unknown_answer_on_a_side_of_several_models_is_nobodys(tmp_path):
    (tmp_path / "answers").mkdir()
    for model, ids in {"a": "pq", "b": "rs"}.items():
        rows = [{"question_id": n, "text": "x", "answer_id": id} for n, id in enumerate(ids)]
        (tmp_path / f"answers/{model}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = ["pr", "sq", "xr"]
    rows = [{"answer1_id": i, "answer2_id": j, "question_id": 1, "text": "", "score": [8, 7]} for i, j in pairs]
    (tmp_path / "review.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="no file of answers has the id x, which may be of a or b; give that file"):
        read_reviews(tmp_path / "review.jsonl")
