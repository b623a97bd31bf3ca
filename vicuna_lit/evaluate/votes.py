"""People's votes on two replies side by side, as `vicuna-chat` appends them: each line holds all that it is about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vicuna_lit.data.conversation import DataError
from vicuna_lit.evaluate.answers import Answer, Answers
from vicuna_lit.evaluate.questions import Question, field, texts
from vicuna_lit.evaluate.reviews import Review
from vicuna_lit.evaluate.verdicts import Winner

Choice = Literal["left", "right", "tie", "both bad"]
WINNERS: dict[Choice, Winner] = {"left": "first", "right": "second", "tie": "tie", "both bad": "tie"}
"""Who is better; that both are bad is a tie, and the review's text says so."""
CATEGORY = "chat"
JUDGE = "human"


@dataclass(frozen=True, slots=True)
class Vote:
    """A vote on the last of some turns."""

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
