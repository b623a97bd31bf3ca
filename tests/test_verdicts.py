"""What a judge wrote is read in every published form, and never guessed."""

import pytest

from vicuna_lit.evaluate.verdicts import letter, number, pair_scores, rating


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("9 8.5\nBoth are good.", (9, 8.5)),
        ("**9 8**\n", (9, 8)),
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
def test_two_scores(text, scores):
    assert pair_scores(text) == scores


def test_letters_ratings_and_numbers():
    assert [letter(t) for t in ("so [[A]]", "[[B]].", "[[C]]", "[[A]] … [[A]]")] == ["first", "second", "tie", "first"]
    assert [letter(t) for t in ("A", "[A]", "[[A]] or [[B]]", "[[D]]", "")] == [None] * 5
    assert [rating(t) for t in ("Rating: [[7]]", "[[8.5]]", "[6]", "[1] says so: [[9]]")] == [7, 8.5, 6, 9]
    assert [rating(t) for t in ("7", "[[0]]", "[[11]]", "[[5]] no [[6]]", "[1] and [2]")] == [None] * 5
    assert [number(t) for t in ("…\n1", "x\n**2**", "3", "…\n\n 3.")] == ["first", "second", "tie", "tie"]
    assert [number(t) for t in ("1\nbetter", "4", "Assistant 1", "")] == [None] * 4
