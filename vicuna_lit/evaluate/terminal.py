"""The evaluation on one screen."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from vicuna_lit.evaluate.report import Evaluation, between, score, share
from vicuna_lit.intervals import Interval

MOST = 12
"""Rows of a table; the page has them all."""
EXAMPLES = 3
"""Reviews without a verdict that are shown."""


def show(found: Evaluation, folder: str) -> None:
    """Prints who is better, how sure that is, and where everything lies."""
    console = Console(highlight=False)
    pairs, alone = ([row for row in found.totals if (row.opponent is None) == single] for single in (False, True))
    for row in pairs[:MOST]:
        by = f", judged by {row.judge}" if len(found.judges) > 1 else ""
        console.print(f"[bold]{escape(row.model)}[/bold] against [bold]{escape(row.opponent or '')}[/bold]{escape(by)}")
        parts = [] if row.score is None else [f"score {score(row.score)} : {score(row.opponent_score)}"]
        parts += [f"= {share(row.ratio)}{_brackets(row.ratio_interval)};"] if row.ratio is not None else []
        parts += [f"won {row.wins}, tied {row.ties}, lost {row.losses}:"]
        parts += [f"win rate {share(row.win_rate)}{_brackets(row.win_rate_interval)}"]
        console.print("  " + " ".join(parts), markup=False, soft_wrap=True)
    for row in alone[:MOST]:
        interval = _brackets(row.mean_score_interval, percent=False)
        console.print(f"{row.model}: mean rating {score(row.mean_score)}{interval} of {row.judgments}", markup=False)
    if len(found.totals) > MOST:
        console.print(f"… {len(found.totals)} rows in all")
    for judge in found.judges:
        parts = [f"judge {judge.judge}:"]
        if judge.both_orders:
            parts.append(f"same winner in both orders {share(judge.consistent)},")
            parts.append(f"always the first {share(judge.prefers_first)}, the second {share(judge.prefers_second)};")
        if judge.decided:
            parts.append(f"the longer answer won {share(judge.longer_won)} of {judge.decided};")
        console.print(*parts, f"{judge.unparsed} reviews without a verdict", markup=False, soft_wrap=True)
    unread = [review for review in found.flagged_reviews if not review.parsed]
    for review in unread[:EXAMPLES]:
        said = " ".join(review.text.split())
        said = said if len(said) <= 200 else f"{said[:100]} … {said[-100:]}"
        about = f"question {review.question_id}, turn {review.turn}, {' against '.join(review.models)}"
        console.print(f"  {about}: {review.problem}; it says: {said!r}", markup=False, soft_wrap=True)
    if len(unread) > EXAMPLES:
        console.print(f"  … {len(unread) - EXAMPLES} more without a verdict, in statistics.json under doubts")
    for pair in found.agreements[:MOST]:
        console.print(f"{' and '.join(pair['judges'])}: kappa {pair['kappa']:.3f} on {pair['shared']}", markup=False)
    for note in found.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if doubts := sum(review.parsed for review in found.flagged_reviews):
        console.print(f"note: {doubts} reviews say another thing than what is stored of them; the stored one counts")
    for name, what in {
        "report.html": "the page: figures, every answer, what the judge said",
        "table.json": "and table.csv: each pair, each category; statistics.json: judges, ratings, doubts",
    }.items():
        console.print(f"  {Path(folder) / name}  {what}", markup=False, soft_wrap=True)


def _brackets(interval: Interval | None, percent: bool = True) -> str:
    return f" ({between(interval, percent)})" if interval else ""
