"""Runs that differ by their seed alone, as one row: means with their standard errors."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vicuna_lit.compare.runs import Run, Sweep

METRICS = ("val_loss", "supervised_tokens_per_second", "peak_memory_bytes", "seconds")
REPEATS = ("seed",)
"""Keys whose values are repetitions of one setting."""
SCALES = {"peak_memory_bytes": (2**30, "peak memory, GiB"), "model_bytes": (2**30, "model, GiB")}
NAMES = {
    "val_loss": "validation loss",
    "val_loss_before": "validation loss before",
    "supervised_tokens_per_second": "supervised tokens/s",
    "seconds": "seconds",
    "steps": "steps",
    "tokens": "tokens",
    "supervised_tokens": "supervised tokens",
    "mfu": "MFU",
}


@dataclass(frozen=True)
class Mean:
    """A mean over repetitions and its standard error: s / √n, None for a single run."""

    mean: float
    error: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean | None":
        """None where there is no value."""
        if not values:
            return None
        n, mean = len(values), math.fsum(values) / len(values)
        error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n) if n > 1 else None
        return cls(mean, error, n)

    def __str__(self) -> str:
        """`1.4320 ± 0.0012`: as many digits as the error justifies, four without one."""
        if self.error:
            digits = max(0, 1 - math.floor(math.log10(self.error)))
            return f"{self.mean:,.{digits}f} ± {self.error:,.{digits}f}"
        return f"{self.mean:,.{max(0, 4 - len(str(int(abs(self.mean)))) + 1) if self.mean else 0}f}"


@dataclass(frozen=True)
class Setting:
    """One combination of choices, over all its repetitions."""

    choices: dict[str, str]
    """The keys that differ, repetitions left out."""
    runs: tuple[Run, ...]
    metrics: dict[str, Mean | None]
    pairs: tuple[tuple[Run, Run], ...]
    """Each run with that of the first setting in the same repetition; empty for the first itself."""

    @property
    def difference(self) -> Mean | None:
        """Validation loss minus that of the first setting, within each repetition: what a seed does to both cancels."""
        losses = [(a.metric("val_loss"), b.metric("val_loss")) for a, b in self.pairs]
        return Mean.of([a - b for a, b in losses if a is not None and b is not None])

    @property
    def name(self) -> str:
        """`512`, or `512, fsdp` where several keys differ."""
        return ", ".join(self.choices.values()) or "all runs"


def settings(sweep: Sweep, metrics: Sequence[str] = METRICS, repeats: Sequence[str] = REPEATS) -> tuple[Setting, ...]:
    """The finished runs of a sweep by setting, in order; the first is what the others are compared with.

    Args:
        metrics: figures of `result.json`.
        repeats: keys whose values are repetitions.
    """
    keys = [key for key in sweep.keys if key not in repeats]
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in sweep.finished:
        groups[tuple(sweep.choice(run, key) for key in keys)].append(run)
    first = next(iter(groups.values()), [])
    out = []
    for choices, runs in groups.items():
        figures = {m: Mean.of([v for run in runs if (v := run.metric(m)) is not None]) for m in metrics}
        pairs = () if runs is first else _pairs(sweep, runs, first, repeats)
        out.append(Setting(dict(zip(keys, choices, strict=True)), tuple(runs), figures, pairs))
    return tuple(out)


def _pairs(
    sweep: Sweep, runs: Sequence[Run], others: Sequence[Run], repeats: Sequence[str]
) -> tuple[tuple[Run, Run], ...]:
    a, b = ({tuple(sweep.choice(run, key) for key in repeats): run for run in of} for of in (runs, others))
    return tuple((run, b[repetition]) for repetition, run in a.items() if repetition in b)


class Table(list[dict[str, str]]):
    """Rows of text by column; draws itself in a notebook."""

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(column)}</th>" for column in (self[0] if self else ()))
        body = "".join("<tr>" + "".join(f"<td>{escape(v)}</td>" for v in row.values()) + "</tr>" for row in self)
        return f"<table><tr>{head}</tr>{body}</table>"


def table(found: Sequence[Setting], metrics: Sequence[str] = METRICS) -> Table:
    """A row for each setting, columns by their names."""
    out = Table()
    for setting in found:
        row = {key.split(".")[-1]: value for key, value in setting.choices.items()}
        row["runs"] = str(len(setting.runs))
        for metric in metrics:
            scale, name = SCALES.get(metric, (1, NAMES.get(metric, metric)))
            row[name] = _scaled(setting.metrics[metric], scale)
            if metric == "val_loss" and len(found) > 1:
                row["difference, paired"] = str(setting.difference) if setting.difference else "–"
        out.append(row)
    return out


def _scaled(mean: Mean | None, scale: float) -> str:
    if mean is None:
        return "–"
    return str(Mean(mean.mean / scale, mean.error and mean.error / scale, mean.count))
