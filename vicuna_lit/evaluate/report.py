"""`report.html`: the table, the article's two figures, every answer and what was said of it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vicuna_lit.evaluate.answers import Answers
from vicuna_lit.evaluate.questions import Question
from vicuna_lit.evaluate.ratings import Judge, RatingRow
from vicuna_lit.evaluate.reviews import Review
from vicuna_lit.pages import render_page

SHOWN = 20_000
"""Characters of an answer that the page shows."""


@dataclass(frozen=True, repr=False)
class Evaluation:
    """All that an evaluation has found; `table` holds all questions first, then categories, then turns."""

    name: str
    models: list[str]
    questions: list[Question]
    answers: Answers
    reviews: list[Review]
    table: list[RatingRow]
    ratings: list[dict[str, Any]]
    judges: list[Judge]
    agreements: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        judges = ", ".join(judge.judge for judge in self.judges)
        return f"Evaluation({self.name}: {', '.join(self.models)}; {len(self.reviews)} reviews by {judges})"

    @property
    def pairs(self) -> list[RatingRow]:
        """A model against another, over all questions and turns."""
        return [row for row in self.totals if row.opponent is not None]

    @property
    def totals(self) -> list[RatingRow]:
        """The rows over all questions and turns."""
        return [row for row in self.table if row.category == "all" and row.turn is None]

    @property
    def categories(self) -> list[RatingRow]:
        """The rows by category."""
        return [row for row in self.table if row.category != "all"]

    @property
    def turns(self) -> list[RatingRow]:
        """The rows by turn."""
        return [row for row in self.table if row.turn is not None]

    @property
    def flagged_reviews(self) -> list[Review]:
        """Reviews without a verdict, or with one that their text does not bear out."""
        return [review for review in self.reviews if review.problem]


def render(evaluation: Evaluation) -> str:
    """The page as text."""
    pairs = evaluation.pairs
    by_pair: dict[tuple[str, str | None, str], list[RatingRow]] = defaultdict(list)
    for row in evaluation.categories:
        by_pair[row.model, row.opponent, row.judge].append(row)
    reviews: dict[tuple[str, int], list[Review]] = defaultdict(list)
    for review in evaluation.reviews:
        reviews[review.question_id, review.turn].append(review)
    ratings = [end for step in evaluation.ratings for end in (step["interval"] or (step["rating"],) * 2)]
    return render_page(
        "evaluate/report.html.jinja",
        {"share": share, "score": score, "between": between, "cut": _cut},
        it=evaluation,
        pairs=pairs,
        alone=[row for row in evaluation.totals if row.opponent is None],
        most=max((s for row in pairs for s in (row.score, row.opponent_score) if s), default=0),
        by_pair=by_pair,
        reviews=reviews,
        sections=_sections(evaluation),
        several_judges=len(evaluation.judges) > 1,
        span=(min(ratings, default=0.0), max(ratings, default=1.0)),
    )


def _sections(evaluation: Evaluation) -> dict[str, list[Question]]:
    """Questions by category, answered or judged; of those that are not known only the id can be told."""
    known = {question.id for question in evaluation.questions}
    judged = dict.fromkeys(review.question_id for review in evaluation.reviews)
    sections: dict[str, list[Question]] = defaultdict(list)
    for question in evaluation.questions:
        if question.id in judged or any(question.id in given for given in evaluation.answers.values()):
            sections[question.category].append(question)
    for id in judged:
        if id not in known:
            turns = max(review.turn for review in evaluation.reviews if review.question_id == id)
            sections["unknown"].append(Question(id, "unknown", ("(the question's text is not at hand)",) * turns))
    return sections


def share(value: float | None) -> str:
    """`92.1%`; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f}%"


def score(value: float | None) -> str:
    """`655.5`; a dash for None."""
    return "–" if value is None else f"{value:,.2f}".rstrip("0").rstrip(".")


def between(interval: Sequence[float] | None, percent: bool = True) -> str:
    """`90.1–94.2%`, or plain figures; nothing for None."""
    if interval is None:
        return ""
    low, high = interval
    return f"{100 * low:.1f}–{100 * high:.1f}%" if percent else f"{low:,.2f}–{high:,.2f}"


def _cut(text: str) -> str:
    return text or "(empty)" if len(text) <= SHOWN else f"{text[:SHOWN]}\n… {len(text) - SHOWN:,} more characters"
