"""Judgments of two answers in one order, or of one answer; and people's votes, as `vicuna-chat` appends them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from vicuna_lit.evaluate.answers import Answer, Answers
from vicuna_lit.evaluate.questions import Question, field, named, texts
from vicuna_lit.evaluate.verdicts import HIGHEST, Winner
from vicuna_lit.records.conversation import DataError


@dataclass(frozen=True, slots=True)
class Review:
    """A judgment as it was given.

    A pairwise review has two `models` in the order they were shown in, a single one has one. `scores` are 1 to 10, one
    for each model; `winner` is set in pairwise reviews. Both are None where nothing could be read out of `text`: then
    `problem` says why.
    """

    question_id: str
    turn: int
    """From 1."""
    models: tuple[str, ...]
    judge: str
    text: str
    scores: tuple[float, ...] | None = None
    winner: Winner | None = None
    problem: str | None = None
    """Why there is no verdict, or why there is doubt about it."""

    @property
    def parsed(self) -> bool:
        """Whether there is a verdict."""
        return self.scores is not None or self.winner is not None

    @property
    def key(self) -> tuple[Any, ...]:
        """There is one review for each."""
        return self.judge, self.question_id, self.turn, self.models


def from_record(record: dict[str, Any]) -> Review:
    """The inverse of `dataclasses.asdict`, behind JSON.

    Raises:
        KeyError, TypeError, ValueError: it is not; the message says how.
    """
    models, scores = record["models"], record["scores"]
    if not isinstance(models, list) or not isinstance(scores, list | None):
        raise ValueError("models and scores are lists")
    return checked(Review(**record | {"models": tuple(models), "scores": None if scores is None else tuple(scores)}))


def checked(review: Review) -> Review:
    """The review; one whose scores are on another scale has no verdict, and says so.

    Raises:
        ValueError: it is none that a judge can give.
    """
    models, scores, turn = review.models, review.scores, review.turn
    texts = (*models, review.question_id, review.judge, review.text)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("models, question_id, judge and text are texts")
    if len(models) not in (1, 2) or len(set(models)) < len(models):
        raise ValueError(f"a review is of one model or of two different ones, not of {' and '.join(models) or 'none'}")
    if not isinstance(turn, int) or turn < 1:
        raise ValueError(f"turn is {turn!r:.60}; turns are counted from 1")
    winners = (None, "first", "second", "tie") if len(models) == 2 else (None,)
    if not any(review.winner is known or review.winner == known for known in winners):
        raise ValueError(f"winner is {review.winner!r:.60}; it is first, second or tie of two models, null of one")
    if scores is None:
        return review
    if len(scores) != len(models) or not all(isinstance(score, int | float) for score in scores):
        raise ValueError(f"scores are {list(scores)!r:.60}; they are a number for each of {len(models)} models")
    if not all(0 <= score <= HIGHEST for score in scores):
        said = f"stored as {' '.join(f'{score:g}' for score in scores)}; scores are from 0 to {HIGHEST:g}"
        return replace(review, scores=None, winner=None, problem=said)
    return review


def without_repeats(reviews: Sequence[Review]) -> list[Review]:
    """The first review for each key."""
    first = {review.key: review for review in reversed(reviews)}
    return [review for review in reviews if first[review.key] is review]


Choice = Literal["left", "right", "tie", "both bad"]
WINNERS: dict[Choice, Winner] = {"left": "first", "right": "second", "tie": "tie", "both bad": "tie"}
"""Who is better; that both are bad is a tie, and the review's text says so."""
CATEGORY = "chat"
JUDGE = "human"


@dataclass(frozen=True, slots=True)
class Vote:
    """A person's vote on two replies side by side, to the last of some turns; it holds all that it is about."""

    question_id: str
    """The same for all turns of a conversation; another one where a turn was asked again."""
    vote: Choice
    models: tuple[str, str]
    """Left and right."""
    asked: tuple[str, ...]
    """The user's turns."""
    replies: tuple[tuple[str, ...], tuple[str, ...]]
    """To each of them, left and right."""
    blind: bool
    """Whether the names were hidden when the vote was given."""
    settings: dict[str, float]
    time: str
    judge: str = JUDGE


def read_votes(rows: Sequence[tuple[str, dict[str, Any]]]) -> tuple[list[Review], list[Question], Answers]:
    """Votes as reviews, with the questions and answers that they are about.

    Raises:
        DataError: a vote is not whole.
    """
    reviews: list[Review] = []
    questions: dict[str, Question] = {}
    answers: Answers = {}
    for where, record in rows:
        id, choice = named(where, record, "question_id"), field(where, record, "vote")
        models, asked = (texts(where, field(where, record, name)) for name in ("models", "asked"))
        sides = field(where, record, "replies")
        replies = [texts(where, side) for side in (sides if isinstance(sides, list) else [sides])]
        two = len(models) == len(set(models)) == 2 and [len(side) for side in replies] == [len(asked)] * 2
        if choice not in list(WINNERS) or not two:
            raise DataError(
                f"{where}: a vote is {', '.join(WINNERS)}, on two models with a reply of each to every turn; "
                f"here {choice!r}, on {len(models)} models, with {' and '.join(str(len(s)) for s in replies)} replies "
                f"to {len(asked)} turns"
            )
        said = "both bad" if choice == "both bad" else ""
        judge = str(record.get("judge") or JUDGE)
        reviews.append(Review(id, len(asked), tuple(models), judge, said, winner=WINNERS[choice]))
        if id not in questions or len(questions[id].turns) <= len(asked):
            questions[id] = Question(id, CATEGORY, asked)
            for model, side in zip(models, replies, strict=True):
                answers.setdefault(model, {})[id] = Answer(model, id, side)
    return reviews, list(questions.values()), answers
