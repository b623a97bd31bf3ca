"""Run folders → results.csv → the table of the README and the figure.

python -m experiments.008_mixture.report [--runs <folder>] [--output <folder>]
"""

from pathlib import Path
from typing import Any

from experiments import ablation, tables
from vicuna_lit.compare.runs import read_sweep

KEY = "code"
SOURCES = ("code", "general")


def collect(runs: Path) -> list[dict[str, Any]]:
    """A row for each run; `code`: the share of code in the supervised tokens, rounded to percents."""
    rows = []
    for run in read_sweep(runs).finished:
        drawn = {name: run.result["data"]["train"]["sources"][name]["drawn"] for name in SOURCES}
        row: dict[str, Any] = {KEY: f"{drawn['code']['examples'] / sum(d['examples'] for d in drawn.values()):.0%}"}
        row |= {"seed": run.config["seed"], "share": drawn["code"]["share_of_supervised_tokens"]}
        row |= {metric: run.metric(metric) for metric in ablation.METRICS}
        for name in SOURCES:
            row |= {f"source/{name}": run.val_by("source")[name]}
        rows.append(row)
    return sorted(rows, key=lambda row: (int(row[KEY].rstrip("%")), row["seed"]))


def table(rows: list[tables.Row]) -> str:
    """A row for each share of code; differences are paired within each seed."""
    values = list(dict.fromkeys(row[KEY] for row in rows))
    lines = []
    for value in values:
        line: list[Any] = [value, sum(row[KEY] == value for row in rows)]
        for name in SOURCES:
            column = f"source/{name}"
            line.append(ablation.mean(rows, KEY, value, column))
            line.append(
                "–" if value == values[0] else ablation.signed(ablation.paired(rows, KEY, value, values[0], column))
            )
        lines.append([*line, ablation.count(rows, KEY, value, "supervised_tokens")])
    columns = ["code", "runs"]
    for name in SOURCES:
        columns += [f"validation loss, {name}", f"{name}, against {values[0]} code, paired"]
    out = [tables.markdown([*columns, "supervised tokens"], lines), ablation.SHOWN]
    for name in SOURCES:
        said = ablation.conclusions(rows, KEY, values[0], values, column=f"source/{name}")
        out.append(f"On {name}:\n\n{said}")
    return "\n\n".join(out)


def figure(rows: list[tables.Row], file: Path) -> None:
    """The losses of both sources against the share of code, a thin line for each seed."""
    import matplotlib.pyplot as plt

    values = list(dict.fromkeys(row[KEY] for row in rows))
    drawing, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for name, colour in zip(SOURCES, ("C0", "C1"), strict=True):
        column = f"source/{name}"
        for seed in dict.fromkeys(row["seed"] for row in rows):
            base = {row[KEY]: float(row[column]) for row in rows if row["seed"] == seed}
            axes.plot(values, [base[v] - base[values[0]] for v in values], color=colour, alpha=0.35, linewidth=0.9)
        found = [ablation.paired(rows, KEY, value, values[0], column) for value in values]
        y = [0.0 if one is None else one.mean for one in found]
        errors = [0.0 if one is None else one.error or 0.0 for one in found]
        axes.errorbar(values, y, yerr=errors, color=colour, marker="o", capsize=3, label=f"{name}, held out")
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("code in the training data")
    axes.set_ylabel(f"validation loss, difference from {values[0]}")
    axes.legend(frameon=False)
    drawing.savefig(file, metadata={"Date": None})
    plt.close(drawing)


if __name__ == "__main__":
    tables.main(Path(__file__).parent, collect, table, figure)
