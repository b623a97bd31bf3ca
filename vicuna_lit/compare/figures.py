"""The figures that suit what was swept, as SVG: they go into the page, a README or an article as they are."""

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from vicuna_lit.compare.runs import as_number, numeric, short_names
from vicuna_lit.compare.table import NAMES, SCALES, Mean, Setting

GREY = "#7a828c"
"""Of text and axes: readable on a light page and on a dark one."""
COLOURS = ("#3f6f9f", "#c0603a", "#6b9a77", "#d9a441", "#8a7bb0", "#7a8a99", "#b0567a", "#4a9a9a")
STYLE: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "text.color": GREY, "axes.labelcolor": GREY,
    "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "lines.linewidth": 1.8, "lines.markersize": 5,
    "axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.6, "savefig.transparent": True,
}  # fmt: skip
MOST_LINES = 10
"""Settings that one figure can show."""
POINTS = 150
"""Of a training curve; means of neighbours where there are more steps."""


class SvgPlot(str):
    """SVG text that draws itself in a notebook."""

    def _repr_svg_(self) -> str:
        return str(self)


def figures(found: Sequence[Setting]) -> dict[str, SvgPlot]:
    """SVGs by their titles; what has no figures in the results is left out.

    Args:
        found: settings of a sweep; error bars and bands are one standard error.
    """
    shown = found[:MOST_LINES]
    with matplotlib.rc_context(STYLE):
        drawn = {
            "Validation loss": _draw("loss", lambda axes: _over_choices(axes, found, "val_loss")),
            "Validation loss by reply": _draw(
                "turn", lambda axes: _by(axes, shown, "turn", "reply of the conversation")
            ),
            "Validation loss by position": _draw("position", lambda axes: _by(axes, shown, "position", "token")),
            "Difference by reply": _draw("turns apart", lambda axes: _apart(axes, shown, "turn", "reply")),
            "Difference by position": _draw("positions apart", lambda axes: _apart(axes, shown, "position", "token")),
            "Training": _draw("training", lambda axes: _training(axes, shown)),
            "Speed": _draw("speed", lambda axes: _over_choices(axes, found, "supervised_tokens_per_second")),
            "Memory": _draw("memory", lambda axes: _over_choices(axes, found, "peak_memory_bytes")),
        }
    return {title: SvgPlot(svg) for title, svg in drawn.items() if svg}


def _draw(salt: str, draw: Callable[[Axes], bool]) -> str | None:
    """One figure as SVG text, or None where `draw` finds nothing to show."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    if not draw(figure.add_subplot()):
        return None
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):  # ids that are the same every time, and of this figure alone
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _over_choices(axes: Axes, found: Sequence[Setting], metric: str) -> bool:
    """A metric over the swept key: curves where it is a number, one line for each choice of the others; else dots."""
    scale, name = SCALES.get(metric, (1, NAMES.get(metric, metric)))
    known = [(setting, mean) for setting in found if (mean := setting.metrics.get(metric)) is not None]
    if not known:
        return False
    along = next((k for k in found[0].choices if len(_values(found, k)) > 1 and numeric(_values(found, k))), None)
    if along is None:
        _dots(axes, [(setting.name, mean) for setting, mean in known], scale, name)
        return True
    lines: dict[str, list[tuple[float, Mean]]] = {}
    for setting, mean in known:
        others = ", ".join(value for key, value in setting.choices.items() if key != along)
        lines.setdefault(others, []).append((as_number(setting.choices[along]) or 0.0, mean))
    for colour, (label, points) in zip(_colours(len(lines)), lines.items(), strict=False):
        _curve(axes, points, colour, label, scale)
    values = sorted({as_number(v) or 0.0 for v in _values(found, along)})
    if values[0] > 0 and values[-1] / values[0] >= 4:
        axes.set_xscale("log", base=2)
    if len(values) <= MOST_LINES:
        _at(axes, values)
    axes.set(xlabel=along, ylabel=name)
    if len(lines) > 1:
        axes.legend(title=_title(key for key in found[0].choices if key != along))
    return True


def _by(axes: Axes, found: Sequence[Setting], what: str, label: str) -> bool:
    """The validation loss by reply or by position, one line a setting."""
    names = list(dict.fromkeys(name for s in found for run in s.runs for name in run.val_by(what)))
    if len(names) < 2:
        return False
    for colour, setting in zip(_colours(len(found)), found, strict=True):
        each = [run.val_by(what) for run in setting.runs]
        means = [(i, Mean.of([one[name] for one in each if name in one])) for i, name in enumerate(names)]
        _curve(axes, [(float(i), mean) for i, mean in means if mean], colour, setting.name, 1)
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel=label, ylabel="validation loss")
    axes.legend(title=_title(found[0].choices))
    return True


def _apart(axes: Axes, found: Sequence[Setting], what: str, label: str) -> bool:
    """How the validation loss differs from the first setting's within each repetition, by reply or by position."""
    others = [setting for setting in found if setting.pairs]
    base = next((setting.name for setting in found if setting.baseline), "")
    names = list(dict.fromkeys(name for s in others for run, _ in s.pairs for name in run.val_by(what)))
    if len(names) < 2:
        return False
    for colour, setting in zip(_colours(len(found))[1:], others, strict=False):
        both = [(run.val_by(what), first.val_by(what)) for run, first in setting.pairs]
        means = [(i, Mean.of([a[n] - b[n] for a, b in both if n in a and n in b])) for i, n in enumerate(names)]
        _curve(axes, [(float(i), mean) for i, mean in means if mean], colour, setting.name, 1)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel=label, ylabel=f"validation loss, against {base}")
    axes.legend(title=_title(found[0].choices))
    return True


def _training(axes: Axes, found: Sequence[Setting]) -> bool:
    """Training losses by the share of the run that is done: mean over repetitions."""
    drawn = False
    for colour, setting in zip(_colours(len(found)), found, strict=True):
        losses = [run.metrics["loss"] for run in setting.runs if "loss" in run.metrics and len(run.metrics["loss"])]
        if not losses:
            continue
        shortest = min(map(len, losses))
        parts = np.array_split(np.mean([one[:shortest] for one in losses], axis=0), min(POINTS, shortest))
        ends = np.cumsum([len(part) for part in parts])
        axes.plot(ends, [part.mean() for part in parts], color=colour, label=setting.name)
        drawn = True
    if drawn:
        axes.set(xlabel="optimizer step", ylabel="training loss")
        axes.legend(title=_title(found[0].choices))
    return drawn


def _curve(axes: Axes, points: Sequence[tuple[float, Mean]], colour: str, label: str, scale: float) -> None:
    x = [place for place, _ in points]
    y = [mean.mean / scale for _, mean in points]
    errors = [(mean.error or 0.0) / scale for _, mean in points]
    axes.errorbar(x, y, yerr=errors, color=colour, marker="o", capsize=3, elinewidth=1, label=label)


def _dots(axes: Axes, points: Sequence[tuple[str, Mean]], scale: float, name: str) -> None:
    places = range(len(points))
    means, errors = [m.mean / scale for _, m in points], [(m.error or 0.0) / scale for _, m in points]
    axes.errorbar(means, places, xerr=errors, fmt="o", color=COLOURS[0], capsize=3, elinewidth=1)
    axes.set_yticks(places, [label for label, _ in points])
    axes.set_ylim(len(points) - 0.5, -0.5)
    axes.set(xlabel=name)


def _at(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xticks(values)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _title(keys: Iterable[str]) -> str:
    return ", ".join(short_names(keys).values())


def _values(found: Sequence[Setting], key: str) -> list[str]:
    return list(dict.fromkeys(setting.choices[key] for setting in found))


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
