"""Run folders → results.csv → the table of the README and the figure.

python -m experiments.001_context_length.report [--runs <folder>] [--output <folder>]
"""

from pathlib import Path

from experiments import ablation, tables

KEY = "context_length"


def table(rows: list[tables.Row]) -> str:
    """A row for each context length."""
    more = {
        "exchanges that fit": lambda v: ablation.count(rows, KEY, v, "data.train.exchanges_kept"),
        "tokens": lambda v: ablation.count(rows, KEY, v, "tokens"),
        "ms a token": lambda v: f"{milliseconds(rows, v):.2f}",
        "peak memory, GiB": lambda v: f"{max(float(r['peak_memory_bytes']) for r in rows if r[KEY] == v) / 2**30:.2f}",
    }
    return ablation.table(rows, KEY, shortest(rows), more)


def milliseconds(rows: list[tables.Row], value: str) -> float:
    """The least over the seeds: whatever else ran on the machine only adds."""
    chosen = [row for row in rows if row[KEY] == value]
    return min(1000 * float(row["lost_time.useful"]) / float(row["tokens"]) for row in chosen)


def shortest(rows: list[tables.Row]) -> str:
    return ablation.values(rows, KEY)[0]


def figure(rows: list[tables.Row], file: Path) -> None:
    ablation.differences(rows, KEY, shortest(rows), file)


if __name__ == "__main__":
    tables.main(Path(__file__).parent, ablation.collect, table, figure)
