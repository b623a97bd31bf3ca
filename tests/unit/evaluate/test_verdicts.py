"""What a judge wrote is read in every published form, and never guessed."""

from dataclasses import replace
from typing import Any

import pytest

from vicuna_lit.config.compose import load
from vicuna_lit.evaluate.answers import Answer
from vicuna_lit.evaluate.cases import JudgeTask, read
from vicuna_lit.evaluate.judges import by_rule
from vicuna_lit.evaluate.questions import Question
from vicuna_lit.evaluate.reviews import Review
from vicuna_lit.evaluate.verdicts import letter, number, pair_scores, rating
from vicuna_lit.inference import bodies
from vicuna_lit.inference.bodies import CUT


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("9 8.5\nBoth are good.", (9, 8.5)),
        ("**9 8**\n", (9, 8)),
        ("9 8.\nBoth are good.", (9, 8)),
        ("9/10, 8/10", (9, 8)),
        ("\n7, 9\nAssistant 1: 2 steps are missing", (7, 9)),
        ("0 9\nThe first says nothing.", (0, 9)),
        ("f(2) = 40.\n\nOutput: (1, 7)", (1, 7)),
        ("The length between (2, -2) and (5, 10) is 12.4.\nThe scores are (8, 3).", (8, 3)),
        ("Between (1, 2) and (3, 4).\n\nScores:\nAssistant 1: 10\nAssistant 2: 4\n\nAssistant 1 is better.", (10, 4)),
        ("Assistant 1: 1/10\nAssistant 2: 2/10 (first step)", (1, 2)),
        ("I give Assistant 1 a score of 9 and Assistant 2 a score of 10.\n\nOutput: (9, 10)", (9, 10)),
        ("Assistant 1 gets a score of 9 and Assistant 2 a score of 10.\n\nOutput: (9, 8)", None),
        ("Assistant 1: 7\nAssistant 2: 8\nAfter all:\nAssistant 1: 8\nAssistant 2: 8", None),
        ("Assistant 1:\n1. Set goals.\nAssistant 2:\n2. Plan.", None),
        ("Assistant 1: 7", None),
        ("The answer is 9 8 7.", None),
        ("11 8\n", None),
        ("-1 -1\n", None),
        ("The distance from (3, 4) is 5.", None),
        ("12:30 is the time; both are fine", None),
        ("", None),
    ],
)
@pytest.mark.promise("A judge's verdict is read in every published form, or reported as none")
def test_two_scores(text, scores):
    assert pair_scores(text) == scores


@pytest.mark.promise("A judge's verdict is read in every published form, or reported as none")
def test_letters_ratings_and_numbers():
    assert [letter(t) for t in ("so [[A]]", "[[B]].", "[[C]]", "[[A]] … [[A]]")] == ["first", "second", "tie", "first"]
    assert [letter(t) for t in ("A", "[A]", "[[A]] or [[B]]", "[[D]]", "")] == [None] * 5
    assert [rating(t) for t in ("Rating: [[7]]", "[[8.5]]", "[6]", "[1] says so: [[9]]")] == [7, 8.5, 6, 9]
    assert [rating(t) for t in ("7", "[[0]]", "[[11]]", "[[5]] no [[6]]", "[1] and [2]")] == [None] * 5
    assert [number(t) for t in ("…\n1", "x\n**2**", "3", "…\n\n 3.")] == ["first", "second", "tie", "tie"]
    assert [number(t) for t in ("1\nbetter", "4", "Assistant 1", "")] == [None] * 4


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("The first answer cites [1] and is good. Rating: 9", 9),
        ("It cites [[1]].\nRating: 9", 9),
        ("It cites [[1]] and is good.", None),
        ("It cites [1].", None),
        ("Sources:\n[[1]] Smith 2020", None),
        ("Accuracy score: 9\nOverall rating: [[8]]", 8),
        ("Accuracy score: 9", None),
        ("I would give it a [[7]], because it is short.", 7),
        ('{"explanation": "good", "rating": 9}', 9),
        ("<rating>9</rating>", 9),
        ("**Rating: [[7]]**", 7),
        ("Rating: \\[\\[6\\]\\]", 6),
        ("【【7】】", 7),
        ("[[8/10]]", 8),
        ("Rating: 4/5", None),
        ("Rating: 85/100", None),
        ("See [5](http://x).", None),
    ],
)
def test_a_citation_is_no_rating(text, score):
    assert rating(text) == score


def test_a_number_that_is_cut_out_or_on_another_scale_is_no_verdict():
    """Half of a decimal comma, the low end of a range, eight of a hundred, what is counted, what is only supposed."""
    for text in (
        "7,5", "7-8", "7 to 8", "8 out of 100", "8 points of 20", "8 / 100", "1,000", "70%", "10 is the maximum",
        "8 if it were shorter", "10 would need sources",
    ):  # fmt: skip
        assert rating(f"Rating: {text}") is None, text
    for behind in ("/5", "0", " out of 5", "%", " stars", " or maybe [[4]]", " to [[5]]", "-[[5]]", "/[[5]]"):
        assert rating(f"Rating: [[3]]{behind}") is None, behind
    assert rating("Rating: [[3]]/[[10]]") == 3 and rating("A rating of 1 would be unfair") is None
    assert pair_scores("Scores: (8, 7)\nWith depth the scores are (6, 7)") is None
    assert [rating(t) for t in ("Rating: 8 out of 10", "A score of 7 would be fair", "Rating: [[5]] for style")] == [
        8,
        7,
        5,
    ]
    for one, other in (("8/100", "9/100"), ("8,5", "8,2"), ("8-9", "9"), ("3 errors", "0 errors"), ("80%", "9%")):
        assert pair_scores(f"Assistant 1: {one}\nAssistant 2: {other}") is None, one
    for behind in (" points", " out of 10", ".", " (good)", " because it is short", ", short"):
        assert pair_scores(f"Assistant 1: 8{behind}\nAssistant 2: 9{behind}") == (8, 9), behind


MARKS = [
    "<think>{}</think>\n", "<thinking>{}</thinking>", "{}</think>", "<Think time='3'>{}</Think>", "[THINK]{}[/THINK]",
    "◁think▷{}◁/think▷", "<|START_THINKING|>{}<|END_THINKING|>", "<|begin_of_thought|>{}<|end_of_thought|>",
    "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
    "<think>a <think> b {}</think>", "<think>{}</think><think>and {}</think>", "<reasoning>\n{}\n</reasoning>\n",
]  # fmt: skip


@pytest.mark.parametrize("marks", MARKS)
def test_thinking_before_the_verdict_is_passed_over(marks):
    assert letter(marks.replace("{}", "Perhaps [[A]]? Or [[C]]") + "So [[B]].") == "second"
    assert letter(marks.replace("{}", "Perhaps [[A]]?")) is None
    assert pair_scores(marks.replace("{}", "7 8\n") + "9 8\nBecause.") == (9, 8)
    assert rating(marks.replace("{}", "Rating: [[3]]") + "Rating: [[9]]") == 9
    assert number(marks.replace("{}", "3") + "\n2") == "second"


def test_a_thinking_that_was_cut_off_holds_no_verdict():
    assert [letter("<think>Perhaps [[A]]"), rating("<think>Rating: [[3]]"), pair_scores("<think>\n9 8")] == [None] * 3


def test_marks_around_a_verdict():
    assert [letter(t) for t in ("[[ A ]]", "[[**B**]]", "<answer>[[C]]</answer>", "［［Ａ］］", "\\[\\[B\\]\\]")] == [
        "first", "second", "tie", "first", "second",
    ]  # fmt: skip
    for text in ("```\n9 8\n```", "**Scores:** 9 8", "<answer>9 8</answer>", "Long words.\n\nScores: 9, 8"):
        assert pair_scores(text) == (9, 8), text
    assert pair_scores("The sequence goes on:\n5 8") is None
    assert number("so\n-1") is None


def test_what_is_denied_or_said_otherwise_at_the_end_is_no_verdict():
    for text in ("Do not choose [[A]].", "It isn't **[[B]]**", "I would never say [[C]]", "[[A]] or [[B]]"):
        assert letter(text) is None, text
    assert letter("My verdict is [[B]], not [[A]].") == letter("A is worse than [[A]]? No: [[B]]") == "second"
    for text in ("This is not close: [[A]]", "A is better than Assistant B\n\n[[A]]", "B did not answer\n**[[A]]**",
                 "So A is better than B [[A]]"):  # fmt: skip
        assert letter(text) == "first", text
    assert pair_scores("8 7\nFinal scores: 3 9") is None
    assert pair_scores("8 7\nFinal scores: 8, 7") == (8, 7)


def test_what_cannot_be_judged_has_no_verdict():
    """A number at the end of a reply that was cut off may be the begin of "10"; a reference without a word to look for
    would give every answer the same score."""
    judge: Any = load("evaluate", "models=[a]", "judge=endpoint", "judge.model=m", "judge.mode=single").judge
    prompt = judge.prompts.single
    case = JudgeTask(Question("1", "c", ("?",), ("Yes.",)), 1, (Answer("a", "1", ("Yes.",)),), reference=True)
    whole, cut = (read(case, prompt, "j", "Good. Rating: 1", finish) for finish in ("stop", CUT))
    assert whole.scores == (1,) and (cut.scores, cut.text) == (None, "Good. Rating: 1") and cut.problem
    assert read(case, prompt, "j", "Rating: [[10]]\nIt is", CUT).scores == (10,)
    said = [
        {"choices": [{"message": {"content": "8 1"}, "finish_reason": why}]} for why in ("MAX_TOKENS", "stop", None)
    ]
    assert [bodies.read(body).finish for body in said] == [CUT, "stop", ""]
    kept: list[Review] = []
    by_rule([case], kept.append)
    by_rule([replace(case, question=replace(case.question, references=("Certainly",)))], kept.append)
    assert [review.scores for review in kept] == [None, (1.0,)] and "no number" in str(kept[0].problem)
