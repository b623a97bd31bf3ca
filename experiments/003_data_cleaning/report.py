"""Run folders → results.csv → the table of the README and the figure.

python -m experiments.003_data_cleaning.report [--runs <folder>] [--output <folder>]
"""

import json
from pathlib import Path
from typing import Any

from experiments import ablation, tables

KEY, BASE = "data", "raw"
ORDER = ("raw", "cleaned", "deduplicated")


def collect(runs: Path) -> list[dict[str, Any]]:
    counts = json.loads((runs.parent / "data" / "counts.json").read_text())
    rows = []
    for row in ablation.collect(runs):
        level = row.pop("wandb.tags").strip("[]")
        unlike = counts["unlike raw"][level][int(row["seed"])]
        rows.append({"data": level, "usable": counts["usable"][level], "unlike_raw": unlike} | row)
    return rows


def table(rows: list[tables.Row]) -> str:
    """A row for each level of cleaning."""
    more = {
        "usable in the dump": lambda v: ablation.count(rows, KEY, v, "usable"),
        "conversations unlike raw": lambda v: ablation.count(rows, KEY, v, "unlike_raw"),
        "tokens": lambda v: ablation.count(rows, KEY, v, "tokens"),
    }
    return ablation.table(rows, KEY, BASE, more, ORDER)


def figure(rows: list[tables.Row], file: Path) -> None:
    ablation.differences(rows, KEY, BASE, file, ORDER)


if __name__ == "__main__":
    tables.main(Path(__file__).parent, collect, table, figure)
