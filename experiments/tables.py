"""What the reports of all experiments share: results.csv, the table in the README, mean ± standard error.

A `report.py` has `collect(runs)` (run folders → rows), `table(rows)` (rows → markdown) and `figure(rows, file)`, and
ends with `tables.main(Path(__file__).parent, collect, table, figure)`. Without `--runs` it renders again what the
committed results.csv holds.
"""

import argparse
import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vicuna_lit.compare.table import Mean

BEGIN, END = "<!-- table -->", "<!-- /table -->"
Row = dict[str, str]


def write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of the same keys as CSV; numbers with 9 digits."""
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.9g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def read(file: Path) -> list[Row]:
    """The rows of a CSV, as text."""
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; the first column is text, the others are figures."""
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def mean_error(values: Iterable[float]) -> tuple[float, float]:
    """The mean and its standard error, which is NaN for a single value."""
    found = Mean.of(list(values))
    assert found, "no values"
    return found.mean, math.nan if found.error is None else found.error


def plus_minus(values: Iterable[float], form: str = ".2f") -> str:
    """`0.31 ± 0.02`: the mean and its standard error."""
    mean, error = mean_error(values)
    return f"{mean:{form}}" if math.isnan(error) else f"{mean:{form}} ± {error:{form}}"


def of_readme(text: str) -> str:
    """What stands between the markers.

    Raises:
        ValueError: there are none.
    """
    before, begin, rest = text.partition(BEGIN)
    table, end, _ = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md: no {BEGIN} … {END} in {before[:60]!r}")
    return table.strip()


def into_readme(text: str, table: str) -> str:
    """The text with another table between the markers."""
    of_readme(text)
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"


def main(
    here: Path,
    collect: Callable[[Path], list[dict[str, Any]]],
    table: Callable[[list[Row]], str],
    figure: Callable[[list[Row], Path], None],
) -> None:
    """The command line of a report: `[--runs <folder>] [--output <folder>]`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, help="run folders; without: the results.csv that is there")
    parser.add_argument("--output", type=Path, default=here, help="where results.csv, README.md and figure.svg go")
    options = parser.parse_args()
    if options.runs:
        write(options.output / "results.csv", collect(options.runs))
    rows = read(options.output / "results.csv")
    readme = (here / "README.md").read_text()
    (options.output / "README.md").write_text(into_readme(readme, table(rows)))
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": here.name, "font.size": 9})
    figure(rows, options.output / "figure.svg")
    print(table(rows))
