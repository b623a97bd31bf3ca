"""What an evaluation has found: on one screen, and as `report.html` with every answer and what was said of it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vicuna_lit import notebook
from vicuna_lit.evaluate.answers import Answers
from vicuna_lit.evaluate.questions import Question
from vicuna_lit.evaluate.ratings import Judge, RatingRow
from vicuna_lit.evaluate.reviews import Review
from vicuna_lit.intervals import Interval
from vicuna_lit.pages import counted, render_page

SHOWN = 20_000
"""Characters of an answer that the page shows."""
MOST = 12
"""Rows of a table on the screen; the page has them all."""
EXAMPLES = 3
"""Reviews without a verdict that are shown."""
FILES = {
    "report.html": "the page: figures, every answer, what the judge said",
    "table.json": "and table.csv: each pair, each category; statistics.json: judges, ratings, doubts",
}
"""Of an evaluation's folder: what each is."""


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
    def alone(self) -> list[RatingRow]:
        """A model that was rated without an opponent, over all questions and turns."""
        return [row for row in self.totals if row.opponent is None]

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


def show(found: Evaluation, folder: str) -> None:
    """Prints who is better, how sure that is, and where everything lies."""
    console = notebook.console(highlight=False)
    _show_models(found, console)
    for judge in found.judges:
        console.print(*_of_judge(judge), markup=False, soft_wrap=True)
    _show_unread(found, console)
    for pair in found.agreements[:MOST]:
        kappa = "undefined (one verdict only)" if pair["kappa"] is None else f"{pair['kappa']:.3f}"
        console.print(f"{' and '.join(pair['judges'])}: kappa {kappa} on {pair['shared']}", markup=False)
    for note in found.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if doubts := sum(review.parsed for review in found.flagged_reviews):
        console.print(f"note: {doubts} reviews say another thing than what is stored of them; the stored one counts")
    for name, what in FILES.items():
        console.print(f"  {Path(folder) / name}  {what}", markup=False, soft_wrap=True)


def _show_models(found: Evaluation, console: Console) -> None:
    """Each pair, and each model that was rated alone."""
    for row in found.pairs[:MOST]:
        by = f", judged by {row.judge}" if len(found.judges) > 1 else ""
        console.print(f"[bold]{escape(row.model)}[/bold] against [bold]{escape(row.opponent or '')}[/bold]{escape(by)}")
        console.print("  " + " ".join(_of_pair(row)), markup=False, soft_wrap=True)
    for row in found.alone[:MOST]:
        interval = _brackets(row.mean_score_interval, percent=False)
        console.print(f"{row.model}: mean rating {score(row.mean_score)}{interval} of {row.judgments}", markup=False)
    if len(found.totals) > MOST:
        console.print(f"… {len(found.totals)} rows in all")


def _of_pair(row: RatingRow) -> Iterator[str]:
    if row.score is not None:
        yield f"score {score(row.score)} : {score(row.opponent_score)}"
    if row.ratio is not None:
        yield f"= {share(row.ratio)}{_brackets(row.ratio_interval)};"
    undecided = f" ({row.undecided} undecided)" if row.undecided else ""
    yield f"won {row.wins}, tied {row.ties}{undecided}, lost {row.losses}:"
    yield f"win rate {share(row.win_rate)}{_brackets(row.win_rate_interval)}"


def _of_judge(judge: Judge) -> Iterator[str]:
    yield f"judge {judge.judge}:"
    if judge.both_orders:
        yield f"same winner in both orders {share(judge.consistent)},"
        yield f"always the first {share(judge.prefers_first)}, the second {share(judge.prefers_second)};"
    if judge.decided:
        yield f"the longer answer won {share(judge.longer_won)} of {judge.decided};"
    yield f"{counted(judge.unparsed, 'reviews')} without a verdict"


def _show_unread(found: Evaluation, console: Console) -> None:
    """Some of the reviews without a verdict."""
    unread = [review for review in found.flagged_reviews if not review.parsed]
    for review in unread[:EXAMPLES]:
        said = " ".join(review.text.split())
        said = said if len(said) <= 200 else f"{said[:100]} … {said[-100:]}"
        about = f"question {review.question_id}, turn {review.turn}, {' against '.join(review.models)}"
        console.print(f"  {about}: {review.problem}; it says: {said!r}", markup=False, soft_wrap=True)
    if len(unread) > EXAMPLES:
        console.print(f"  … {len(unread) - EXAMPLES} more without a verdict, in statistics.json under doubts")


def _brackets(interval: Interval | None, percent: bool = True) -> str:
    return f" ({between(interval, percent)})" if interval else ""


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
        alone=evaluation.alone,
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
