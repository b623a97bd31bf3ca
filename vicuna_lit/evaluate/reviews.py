"""Judgments of two answers in one order, or of one answer; and people's votes, as `vicuna-chat` appends them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vicuna_lit.data.conversation import DataError
from vicuna_lit.evaluate.answers import Answer, Answers
from vicuna_lit.evaluate.questions import Question, field, texts
from vicuna_lit.evaluate.verdicts import Winner


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
    """The inverse of `dataclasses.asdict`, behind JSON."""
    scores = record["scores"]
    return Review(**record | {"models": tuple(record["models"]), "scores": None if scores is None else tuple(scores)})


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
        id, choice, models = (field(where, record, name) for name in ("question_id", "vote", "models"))
        asked = texts(where, field(where, record, "asked"))
        replies = [texts(where, side) for side in field(where, record, "replies")]
        if choice not in WINNERS or len(models) != 2 or [len(side) for side in replies] != [len(asked)] * 2:
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
