"""A sweep on the screen."""

from collections import Counter
from pathlib import Path

from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vicuna_lit import notebook
from vicuna_lit.compare.claims import claim_in_words, claimed
from vicuna_lit.compare.conclusions import in_words
from vicuna_lit.compare.runs import DAMAGED, Sweep, failures_in, read_sweep
from vicuna_lit.compare.table import settings, table
from vicuna_lit.config.texts import folder_name
from vicuna_lit.pages import visible
from vicuna_lit.run_folder import RunError

console = notebook.console(soft_wrap=True, highlight=False)
MOST_JOBS = 8
"""That are named of those that failed by one error."""


def show_table(rows: list[dict[str, str]]) -> None:
    """Prints rows; numbers to the right. Where the screen is too narrow headings are broken, and no cell is: a name
    that is cut would be nobody's."""
    grid, width = Table(box=None, padding=(0, 2, 0, 0)), max(120, console.width)
    cells = {column: max(cell_len(row[column]) for row in rows) for column in rows[0]}
    whole = sum(max(cell_len(column), longest) + 2 for column, longest in cells.items()) <= width
    least = {column: max(longest, *map(cell_len, column.split())) for column, longest in cells.items()}
    for column in rows[0]:
        grid.add_column(column, justify="right", width=None if whole else least[column])
    for row in rows:
        grid.add_row(*map(Text, row.values()))
    notebook.console(width=max(width, sum(least.values()) + 2 * len(least)), highlight=False).print(grid)
    if any("±" in cell for row in rows for cell in row.values()):
        show_lines(["±: for a mean one standard error over its runs, for a difference half its 95% interval"])


def show_lines(lines: list[str]) -> None:
    """Prints sentences, a line each."""
    for line in lines:
        console.print(line, markup=False)


def show_sweep(folder: Path, before: int) -> int:
    """What became of the jobs of a sweep; the command's exit code: 1 where one failed.

    Args:
        before: failures that stood in the folder when the sweep began; they are history.

    Raises:
        RunError: the claim of the sweep cannot be read.
    """
    try:
        sweep = read_sweep(folder, whole=False)
    except RunError:  # nothing is there: each job has a folder elsewhere
        return 0
    print()
    margin, baseline = claimed(sweep, None, None)
    if found := settings(sweep, baseline=baseline):
        show_table(table(found))
    show_lines([*in_words(sweep, found, margin, baseline=baseline), *claim_in_words(sweep)])
    failed = [*failures_in(folder)[before:], *(f for f in sweep.failures if f.get("cause") == DAMAGED)]
    show_unfinished(sweep, failed)
    if found:
        console.print(f"all of it, with figures: vicuna-compare {folder}")
    return 1 if failed else 0


def show_unfinished(sweep: Sweep, failed: list[dict]) -> None:
    """How many runs there are, and why some have no result."""
    counts = Counter(run.status for run in sweep.runs)
    said = ", ".join(f"{n} {status}" for status, n in counts.items())
    console.print(f"runs: {said}" if said else "no run has begun")
    alike: dict[tuple[str, str], list[str]] = {}
    for failure in {f["job"]: f for f in failed}.values():
        what, job = "not read" if failure.get("cause") == DAMAGED else "failed", failure["job"]
        alike.setdefault((what, failure["error"].replace(f"/{folder_name(job)}", "/<job>")), []).append(job)
    for (what, error), jobs in alike.items():
        said = error if len(jobs) > 1 else error.replace("/<job>", f"/{folder_name(jobs[0])}")
        named = "; ".join(jobs[:MOST_JOBS]) + (f" and {len(jobs) - MOST_JOBS} more" if len(jobs) > MOST_JOBS else "")
        console.print(f"[red]{what}[/] {escape(visible(f'{named}: {said}'))}")
