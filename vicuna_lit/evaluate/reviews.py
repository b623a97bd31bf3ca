"""One judgment by one judge: of two answers in one order, or of one answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
