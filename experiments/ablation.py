"""A sweep of train runs as an experiment's rows, its table and its figure: one key, repeated over seeds."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import tables
from vicuna_lit.compare.conclusions import conclude_tests
from vicuna_lit.compare.runs import in_order, read_sweep
from vicuna_lit.compare.table import Mean
from vicuna_lit.intervals import paired_test

METRICS = (
    "val_loss_before", "val_loss", "steps", "tokens", "supervised_tokens", "peak_memory_bytes",
    "lost_time.useful", "data.train.exchanges_kept",
)  # fmt: skip
Rows = Sequence[tables.Row]
SHOWN = "What the losses show (95% intervals by Student's t, p adjusted by Holm):"


def collect(runs: Path) -> list[dict[str, Any]]:
    """A row for each finished run below a folder: what was swept, its figures, losses by reply and by position."""
    sweep = read_sweep(runs)
    out = []
    for run in sweep.finished:
        row: dict[str, Any] = {key: sweep.choice(run, key) for key in sweep.keys} | {"seed": run.config["seed"]}
        row |= {metric: run.metric(metric) for metric in METRICS}
        out.append(row | {f"{what}/{k}": v for what in ("turn", "position") for k, v in run.val_by(what).items()})
    columns = dict.fromkeys(key for row in out for key in row)
    return [{column: row.get(column, "") for column in columns} for row in out]


def values(rows: Rows, key: str) -> list[str]:
    """The choices of a key: numbers by size, words as they were given."""
    found = list(dict.fromkeys(row[key] for row in rows))
    return sorted(found, key=in_order) if all(in_order(v)[0] == 0 for v in found) else found


def mean(rows: Rows, key: str, value: str, column: str) -> Mean | None:
    """Of a column, over the seeds of one choice."""
    return Mean.of([float(row[column]) for row in rows if row[key] == value and row[column]])


def paired(rows: Rows, key: str, value: str, base: str, column: str) -> Mean | None:
    """The difference between two choices, taken within each seed."""
    a, b = ({r["seed"]: float(r[column]) for r in rows if r[key] == one and r[column]} for one in (value, base))
    return Mean.of([a[seed] - b[seed] for seed in a.keys() & b.keys()])


def conclusions(
    rows: Rows,
    key: str,
    base: str,
    order: Sequence[str] = (),
    margin: float | None = None,
    column: str = "val_loss",
) -> str:
    """What the losses of the choices show, a bullet each, by the rules of `vicuna-compare`."""
    found = []
    for value in [v for v in order or values(rows, key) if v != base]:
        a, b = ({r["seed"]: float(r[column]) for r in rows if r[key] == one} for one in (value, base))
        found.append((value, paired_test([a[seed] - b[seed] for seed in a.keys() & b.keys()])))
    return "\n".join(f"- {conclusion}" for conclusion in conclude_tests(found, base, margin))


def signed(difference: Mean | None) -> str:
    """`+0.0012 ± 0.0003`."""
    if difference is None:
        return "–"
    text = str(difference)
    return text if text.startswith("-") else f"+{text}"


def count(rows: Rows, key: str, value: str, column: str) -> str:
    """A mean without decimals."""
    found = mean(rows, key, value, column)
    return "–" if found is None else f"{found.mean:,.0f}"


def table(
    rows: Rows,
    key: str,
    base: str,
    more: dict[str, Callable[[str], str]],
    order: Sequence[str] = (),
    margin: float | None = None,
) -> str:
    """A row for each choice: the validation loss, its paired difference from a base, and more columns; then what the
    losses show.

    Args:
        margin: nats that make no difference, see `vicuna_lit.compare.conclusions.conclude`.
    """
    columns = [key, "runs", "validation loss", f"against {base}, paired", *more]
    lines = []
    for value in order or values(rows, key):
        line = [value, sum(row[key] == value for row in rows), mean(rows, key, value, "val_loss")]
        line.append("–" if value == base else signed(paired(rows, key, value, base, "val_loss")))
        lines.append([*line, *(column(value) for column in more.values())])
    said = conclusions(rows, key, base, order, margin)
    return "\n\n".join([tables.markdown(columns, lines), SHOWN, said])


def differences(rows: Rows, key: str, base: str, file: Path, order: Sequence[str] = ()) -> None:
    """Two panels: how the validation loss of each choice differs from the base's, by position and by reply."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
    labels = {"position": "token of the conversation", "turn": "reply of the conversation"}
    for axes, (what, label) in zip(panels, labels.items(), strict=True):
        buckets = [column for column in rows[0] if column.startswith(f"{what}/")]
        for value in [v for v in order or values(rows, key) if v != base]:
            found = [paired(rows, key, value, base, bucket) for bucket in buckets]
            y = [math.nan if one is None else one.mean for one in found]
            errors = [0.0 if one is None else one.error or 0.0 for one in found]
            axes.errorbar(range(len(buckets)), y, yerr=errors, marker="o", capsize=3, elinewidth=1, label=value)
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set_xticks(range(len(buckets)), [bucket.partition("/")[2] for bucket in buckets], rotation=30)
        axes.set_xlabel(label)
    panels[0].set_ylabel(f"validation loss,\ndifference from {base}")
    panels[1].legend(title=key, frameon=False)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
