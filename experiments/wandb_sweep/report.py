"""A sweep as its W&B workspace shows it, drawn from the records that W&B keeps of its runs.

vicuna-train -m context_length=64,96,128,256 strategy=ddp,fsdp trainer.devices=2 seed=0,1,2 trainer.max_steps=150 \\
    validation.every_steps=auto validation.context_length=256 run.name=workspace        # 24 runs
python -m experiments.wandb_sweep.report [--runs runs/sweeps/workspace]                 # results.csv, figure.svg
"""

import argparse
import re
from pathlib import Path
from typing import Any

from experiments import tables
from vicuna_lit.tracking.wandb_file import history_rows, state

HERE = Path(__file__).parent
KEYS = ("context_length", "strategy", "seed")
VALIDATED = ("val/loss", "val/loss_by_turn/")


def collect(sweep: Path) -> list[dict[str, Any]]:
    """A row for each validation, and for each turn at the last one: what was swept, setting, step, figure and value."""
    found = []
    for record in sorted(sweep.glob("*/wandb/*run-*/run-*.wandb")):
        config, _ = state(record.parents[2], record.stem.removeprefix("run-"))
        about = {key: config["swept"][key] for key in KEYS} | {"setting": config["setting"]}
        validations = [(step, row) for step, row in history_rows(record) if VALIDATED[0] in row]
        for step, row in validations:
            is_last = step == validations[-1][0]
            names = [n for n in sorted(row) if n == VALIDATED[0] or (is_last and n.startswith(VALIDATED[1]))]
            found += [about | {"step": step, "figure": name, "value": float(row[name])} for name in names]
    return found


def draw(rows: list[tables.Row], file: Path) -> None:
    """Four panels of the workspace: curves and bars by setting, the last validation by turn, parallel coordinates."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    from vicuna_lit.compare.figures import COLOURS, STYLE

    last = max(int(row["step"]) for row in rows)
    settings = sorted({row["setting"] for row in rows}, key=lambda s: (s.split("strategy=")[1], int(number(s))))
    colours: dict[str, str] = dict(zip(settings, COLOURS, strict=False))
    with mpl.rc_context(STYLE | {"font.size": 8, "svg.hashsalt": "wandb_sweep"}):
        figure, ((curves, bars), (turns, parallel)) = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained")
        for setting in settings:
            chosen = [row for row in rows if row["setting"] == setting]
            band(curves, [r for r in chosen if r["figure"] == "val/loss"], "step", colours[setting], setting)
            ends = [row for row in chosen if int(row["step"]) == last and row["figure"] != "val/loss"]
            by_turn = [row | {"turn": number(row["figure"])} for row in ends]
            band(turns, by_turn, "turn", colours[setting], setting)
        ends = [row for row in rows if int(row["step"]) == last and row["figure"] == "val/loss"]
        draw_bars(bars, ends, settings, colours)
        draw_parallel(parallel, ends, colours)
        curves.set(title="validation loss: mean, lowest and highest seed", xlabel="optimizer step", yscale="log")
        curves.legend(fontsize=6.5)
        turns.set(title="validation loss over turns, at the end", xlabel="reply of the conversation")
        figure.savefig(file, metadata={"Date": None})
        plt.close(figure)


def number(text: str) -> str:
    """The first in a text."""
    return re.findall(r"\d+", text)[0]


def band(axes: Any, rows: list[tables.Row], key: str, colour: str, label: str) -> None:
    """A mean over the seeds, and what lies between the lowest and the highest."""
    places = sorted({int(row[key]) for row in rows})
    each = [[float(row["value"]) for row in rows if int(row[key]) == place] for place in places]
    axes.plot(places, [sum(values) / len(values) for values in each], color=colour, label=label, linewidth=1.3)
    axes.fill_between(places, list(map(min, each)), list(map(max, each)), color=colour, alpha=0.15, linewidth=0)


def draw_bars(axes: Any, ends: list[tables.Row], settings: list[str], colours: dict[str, str]) -> None:
    for place, setting in enumerate(settings):
        values = [float(row["value"]) for row in ends if row["setting"] == setting]
        mean = sum(values) / len(values)
        axes.barh(place, mean, color=colours[setting])
        axes.errorbar(mean, place, xerr=[[mean - min(values)], [max(values) - mean]], color="#7a828c", capsize=3)
    axes.set_yticks(range(len(settings)), settings, fontsize=7)
    axes.invert_yaxis()
    axes.set(title="validation loss by setting: mean, lowest and highest seed")


def draw_parallel(axes: Any, ends: list[tables.Row], colours: dict[str, str]) -> None:
    """Each run a line from what was chosen to what came of it."""
    losses = [float(row["value"]) for row in ends]
    low, high = min(losses), max(losses)
    choices = {key: sorted({row[key] for row in ends}, key=lambda v: (len(v), v)) for key in KEYS}

    def height(row: tables.Row, key: str) -> float:
        return choices[key].index(row[key]) / max(1, len(choices[key]) - 1)

    for row in ends:
        line = [*(height(row, key) for key in KEYS), (float(row["value"]) - low) / (high - low)]
        axes.plot(range(4), line, color=colours[row["setting"]], linewidth=0.9, alpha=0.8)
    for place, key in enumerate(KEYS):
        for value in choices[key]:
            axes.text(place, height({key: value}, key), f" {value}", fontsize=7, color="black")
    for value, at in ((low, 0), (high, 1)):
        axes.text(3, at, f" {value:.3f}", fontsize=7, color="black")
    axes.set_xticks(range(4), [*KEYS, "val_loss"])
    axes.set_yticks([])
    axes.grid(axis="y", visible=False)
    axes.set(title="from the settings to the validation loss", xlim=(-0.1, 3.35))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, help="the sweep's folder; without: the results.csv that is there")
    options = parser.parse_args()
    if options.runs:
        tables.write(HERE / "results.csv", collect(options.runs))
    draw(tables.read(HERE / "results.csv"), HERE / "figure.svg")


if __name__ == "__main__":
    main()
