"""Run folder → results.csv → the table of the README and the figure.

    python -m experiments.005_peers.report [--runs <folder>] [--output <folder>]

Speed and memory are those of `experiments/benchmarks/train/results.json`, of each system's fastest setting in fp32.
"""

import json
import statistics
from pathlib import Path
from typing import Any

from experiments import tables
from experiments.benchmarks.train import report as benchmark

NAMES = {
    "ours": "vicuna_lit", "padded": "HF `Trainer`, padded as FastChat", "hf_flattening": "HF `Trainer`, flattened",
    "trl": "TRL `SFTTrainer`", "trl_padding_free": "TRL, padding-free", "trl_bfd": "TRL, packed (bfd)",
    "trl_bfd_split": "TRL, packed (bfd_split)",
}  # fmt: skip
COLUMNS = (
    "part", "system", "layout", "seed", "loss_deviation", "weight_deviation", "initial_loss_deviation", "same_steps",
    "computed_per_token", "supervised", "true", "conversations", "longer", "context", "extra", "said", "speed",
    "memory",
)  # fmt: skip


def collect(runs: Path) -> list[dict[str, Any]]:
    found = [json.loads(f.read_text()) for f in sorted(runs.glob("*-*-*.json"))]
    rows = [{"part": "run"} | one for one in found]
    masks = json.loads((runs / "masks.json").read_text())
    for system, counts in masks["systems"].items():
        about = {k: masks[k] for k in ("true", "conversations", "longer", "context")}
        rows.append({"part": "mask", "system": system, **about, **counts, "extra": sum(counts.get("extra", []))})
    return [{column: row.get(column, "") for column in COLUMNS} for row in rows + speeds(benchmark.load())]


def speeds(runs: list[benchmark.Run]) -> list[dict[str, Any]]:
    """Of each system that the benchmark measured, ours over its: medians."""
    rows = []
    for system in NAMES:
        if not any(run["system"] == system and run["precision"] == "fp32" for run in runs):
            continue
        fastest = benchmark.best(runs, (system,), "fp32")
        figures = {k: statistics.median(benchmark.ratios(runs, fastest, k)) for k in ("speed", "memory")}
        rows.append({"part": "speed", "system": system, "layout": fastest.micro or "", **figures})
    return rows


def of(rows: list[tables.Row], part: str, system: str) -> list[tables.Row]:
    return [row for row in rows if row["part"] == part and row["system"] == system]


def largest(rows: list[tables.Row], key: str) -> list[float]:
    """Over the layouts, of each seed."""
    return [max(float(r[key]) for r in rows if r["seed"] == seed) for seed in sorted({r["seed"] for r in rows})]


def table(rows: list[tables.Row]) -> str:
    columns = [
        "system", "supervised, % of the replies", "layouts", "loss at the start", "losses", "weights",
        "its steps hold the same conversations", "tokens computed per token", "speed, ours / it", "memory, ours / it",
    ]  # fmt: skip
    lines = []
    for system, name in NAMES.items():
        runs, masks, speeds = (of(rows, part, system) for part in ("run", "mask", "speed"))
        if not (runs or masks):
            continue
        line = [name, f"{100 * int(masks[0]['supervised']) / int(masks[0]['true']):.2f}" if masks else ""]
        if runs:
            line += [len({r["layout"] for r in runs})]
            keys = "initial_loss_deviation", "loss_deviation", "weight_deviation"
            line += [tables.plus_minus(largest(runs, k), ".0e") for k in keys]
            line += ["yes" if all(r["same_steps"] == "True" for r in runs) else "no"]
            line += [f"{statistics.fmean(float(r['computed_per_token']) for r in runs):.2f}"]
        else:
            line += [""] * 6
        line += [f"{statistics.median(float(s[k]) for s in speeds):.2f}" if speeds else "" for k in ("speed", "memory")]
        lines.append(line)
    return tables.markdown(columns, lines)


def figure(rows: list[tables.Row], file: Path) -> None:
    """The largest deviation of each layout and seed from the one padded batch."""
    from matplotlib import pyplot as plt

    systems = [s for s in NAMES if of(rows, "run", s)]
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.9), sharey=True)
    titles = {"loss_deviation": "losses, relative", "weight_deviation": "final weights, of the distance moved"}
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for height, system in enumerate(reversed(systems)):
            runs = of(rows, "run", system)
            values = [max(float(r[key]), 1e-9) for r in runs]
            colour = "#c44e52" if max(values) > 1e-3 else "#4c72b0"
            axis.scatter(values, [height] * len(values), s=16, color=colour, alpha=0.6, linewidths=0)
        axis.set_xscale("log")
        axis.set_xlim(1e-9, 2)
        axis.set_title(title, fontsize=9)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(systems)), [NAMES[s].replace("`", "") for s in reversed(systems)])
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    tables.main(Path(__file__).parent, collect, table, figure)
