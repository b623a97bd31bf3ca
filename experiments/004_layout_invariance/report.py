"""Run folders → results.csv → the table of the README and the figure.

python -m experiments.004_layout_invariance.report [--runs <folder>] [--output <folder>]
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from experiments import tables
from vicuna_lit.compare.conclusions import conclude_tests
from vicuna_lit.compare.run import Run
from vicuna_lit.compare.runs import read_sweep
from vicuna_lit.intervals import paired_test

REFERENCE = "single, 1 process, rows of 4,096"
MEANS = "mean of means"
MEANS_512 = f"{MEANS}, 1 process, rows of 512"


def layout(run: Run) -> str:
    """What the run lies on, in words."""
    c = run.config
    devices, stage = c["trainer"]["devices"], c["strategy"].get("stage", "")
    processes = f"{devices} process{'es' if devices > 1 else ''}"
    rows = f"rows of {c['tokens_per_device']:,}" if c["packing"] else "a conversation a row"
    kind = MEANS if run.folder.name.startswith("means") else f"{c['strategy']['kind']}{stage}"
    return f"{kind}, {processes}, {rows}"


def collect(runs: Path) -> list[dict[str, Any]]:
    """For each run its greatest relative difference, over steps and over weights, from the reference of its seed; and
    the differences of its losses, step by step."""
    found = read_sweep(runs / "sweep", runs / "means").finished
    references = {run.config["seed"]: run for run in found if layout(run) == REFERENCE}
    out, seen = [], set()
    for run in found:
        name, seed = layout(run), run.config["seed"]
        if run is references[seed] or (name, seed) in seen:  # without packing the length of a row has no meaning
            continue
        seen.add((name, seed))
        ours, theirs = run.metrics, references[seed].metrics
        assert (ours["conversations_hash"] == theirs["conversations_hash"]).all()
        away = np.abs(ours["loss"] / theirs["loss"] - 1)
        out.append(
            {
                "layout": name,
                "seed": seed,
                "steps": len(away),
                "loss": away.max(),
                "weights": weights_apart(run, references[seed]),
                "val_loss": run.result["val_loss"],
                "reference_val_loss": references[seed].result["val_loss"],
                "losses": " ".join(f"{value:.2e}" for value in away),
            }
        )
    return sorted(out, key=lambda row: row["layout"].startswith(MEANS))


def weights_apart(run: Run, reference: Run) -> float:
    a, b = (load_file(r.folder / "hf" / "model.safetensors") for r in (run, reference))
    return max(float(np.linalg.norm(a[name] - b[name]) / np.linalg.norm(b[name])) for name in b)


def table(rows: list[tables.Row]) -> str:
    """A row for each layout: the worst over its seeds."""
    lines = []
    for name in dict.fromkeys(row["layout"] for row in rows):
        chosen = [row for row in rows if row["layout"] == name]
        worst = [f"{max(float(row[key]) for row in chosen):.1e}" for key in ("loss", "weights")]
        validation = [_validation_apart(row) for row in chosen]
        lines.append([name, len(chosen), *worst, f"{max(map(abs, validation)):.1e}"])
    columns = ["layout", "seeds", "loss of a step, apart by", "final weights, apart by", "validation loss, apart by"]
    apart = [(MEANS_512, paired_test([_validation_apart(row) for row in rows if row["layout"] == MEANS_512]))]
    said = "\n".join(f"- {conclusion}" for conclusion in conclude_tests(apart, "rows of 4,096"))
    return f"{tables.markdown(columns, lines)}\n\nOver the seeds:\n\n{said}"


def _validation_apart(row: tables.Row) -> float:
    return float(row["val_loss"]) - float(row["reference_val_loss"])


def figure(rows: list[tables.Row], file: Path) -> None:
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    first = min(row["seed"] for row in rows)
    for row in (row for row in rows if row["seed"] == first):
        away = np.array([float(value) for value in row["losses"].split()])
        means = row["layout"].startswith(MEANS)
        if not away.any():
            continue  # one row a step: nothing to draw on a logarithmic axis
        style: Any = {"linewidth": 2, "color": "tab:orange"} if means else {"linewidth": 1, "color": "tab:blue"}
        label = row["layout"] if means else "vicuna_lit, every layout" if row is rows[0] else None
        axes.plot(range(1, len(away) + 1), np.maximum(away, 1e-9), label=label, **style)
    axes.axhline(1e-5, color="grey", linestyle="--", linewidth=0.8)
    axes.set(yscale="log", xlabel="optimizer step", ylabel="loss, relative difference\nfrom one process")
    axes.legend(frameon=False)
    drawn.savefig(file, metadata={"Date": None})
    plt.close(drawn)


if __name__ == "__main__":
    tables.main(Path(__file__).parent, collect, table, figure)
