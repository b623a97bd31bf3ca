"""The figures that suit what was swept, as SVG: they go into the page, a README or an article as they are."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from vicuna_lit.compare.runs import as_number, numeric
from vicuna_lit.compare.table import NAMES, SCALES, Mean, Setting, named

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
MOST_RUNS = 40
"""That are drawn one by one beside the mean of their setting."""


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
            "Validation loss by step": _draw("steps", lambda axes: _over_steps(axes, shown)),
            "Training": _draw("training", lambda axes: _training(axes, shown)),
            "Validation loss by reply": _draw(
                "turn", lambda axes: _by(axes, shown, "turn", "reply of the conversation")
            ),
            "Validation loss by position": _draw("position", lambda axes: _by(axes, shown, "position", "token")),
            "Validation loss by source": _draw("source", lambda axes: _by(axes, shown, "source", "source")),
            "Difference by reply": _draw("turns apart", lambda axes: _apart(axes, shown, "turn", "reply")),
            "Difference by position": _draw("positions apart", lambda axes: _apart(axes, shown, "position", "token")),
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
        _dots(axes, [(f"{setting.label} (n = {mean.count})", mean) for setting, mean in known], scale, name)
        return True
    lines: dict[str, list[tuple[float, Mean]]] = {}
    for setting, mean in known:
        others = named({key: value for key, value in setting.choices.items() if key != along})
        lines.setdefault(others, []).append((as_number(setting.choices[along]) or 0.0, mean))
    for colour, (label, points) in zip(_colours(len(lines)), lines.items(), strict=False):
        _curve(axes, points, colour, label, scale)
    values = sorted({as_number(v) or 0.0 for v in _values(found, along)})
    if values[0] > 0 and values[-1] / values[0] >= 4:
        axes.set_xscale("log", base=2)
    if len(values) <= MOST_LINES:
        _at(axes, values)
    axes.set(xlabel=along, ylabel=name)
    axes.set_title(_runs([mean.count for _, mean in known]), loc="right", fontsize=8)
    if len(lines) > 1:
        axes.legend()
    return True


def _by(axes: Axes, found: Sequence[Setting], what: str, label: str) -> bool:
    """The validation loss by reply or by position, one line a setting."""
    names = list(dict.fromkeys(name for s in found for run in s.runs for name in run.val_by(what)))
    if len(names) < 2:
        return False
    joined = what != "source"
    for place, (colour, setting) in enumerate(zip(_colours(len(found)), found, strict=True)):
        each = [run.val_by(what) for run in setting.runs]
        means = [(i, Mean.of([one[name] for one in each if name in one])) for i, name in enumerate(names)]
        apart = 0.0 if joined else 0.06 * (place - (len(found) - 1) / 2)  # side by side, not one upon the other
        points = [(i + apart, mean) for i, mean in means if mean]
        _curve(axes, points, colour, _counted(setting), 1, joined)
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel=label, ylabel="validation loss")
    axes.legend()
    return True


def _apart(axes: Axes, found: Sequence[Setting], what: str, label: str) -> bool:
    """How the validation loss differs from the first setting's within each repetition, by reply or by position."""
    others = [setting for setting in found if setting.pairs and not setting.incomparable]
    base = next((setting.label for setting in found if setting.baseline), "")
    names = list(dict.fromkeys(name for s in others for run, _ in s.pairs for name in run.val_by(what)))
    if len(names) < 2:
        return False
    for colour, setting in zip(_colours(len(found))[1:], others, strict=False):
        both = [(run.val_by(what), first.val_by(what)) for run, first in setting.pairs]
        means = [(i, Mean.of([a[n] - b[n] for a, b in both if n in a and n in b])) for i, n in enumerate(names)]
        label_of = f"{setting.label} (n = {len(both)} pairs)"
        _curve(axes, [(float(i), mean) for i, mean in means if mean], colour, label_of, 1)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel=label, ylabel=f"validation loss,\nagainst {base}")
    axes.legend()
    return True


def _training(axes: Axes, found: Sequence[Setting]) -> bool:
    """Training losses by optimizer step: each run, and the mean of its setting over the steps that all have taken."""
    curves = [
        (setting, [run.metrics["loss"] for run in setting.runs if len(run.metrics.get("loss", ()))])
        for setting in found
    ]
    for colour, (setting, losses) in zip(_colours(len(found)), curves, strict=True):
        if not losses:
            continue
        shortest = min(map(len, losses))
        if sum(len(of_setting) for _, of_setting in curves) <= MOST_RUNS:
            for one in losses if len(losses) > 1 else ():
                axes.plot(*_thinned(one), color=colour, alpha=0.3, linewidth=0.8)
        mean = np.mean([one[:shortest] for one in losses], axis=0)
        axes.plot(*_thinned(mean), color=colour, label=f"{setting.label} (n = {len(losses)})")
    if drawn := any(losses for _, losses in curves):
        axes.set(xlabel="optimizer step", ylabel="training loss")
        axes.legend()
    return drawn


def _thinned(losses: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Steps and means of neighbours, `POINTS` of them at most."""
    parts = np.array_split(losses, min(POINTS, len(losses)))
    return np.cumsum([len(part) for part in parts]), [float(part.mean()) for part in parts]


def _over_steps(axes: Axes, found: Sequence[Setting]) -> bool:
    """The validation losses of each run over its steps; runs that took one before and one after alone draw nothing."""
    runs = [(i, run.val_by_step) for i, setting in enumerate(found) for run in setting.runs]
    if not any(len(by_step) > 2 for _, by_step in runs):
        return False
    colours, named_already = _colours(len(found)), set[int]()
    for i, by_step in runs[:MOST_RUNS]:
        label = None if i in named_already else _counted(found[i])
        axes.plot(
            *zip(*sorted(by_step.items()), strict=True),
            color=colours[i],
            marker="o",
            markersize=3,
            linewidth=1,
            label=label,
        )
        named_already.add(i)
    axes.set(xlabel="optimizer step", ylabel="validation loss")
    axes.legend()
    return True


def _curve(
    axes: Axes, points: Sequence[tuple[float, Mean]], colour: str, label: str, scale: float, joined: bool = True
) -> None:
    x = [place for place, _ in points]
    y = [mean.mean / scale for _, mean in points]
    errors = [(mean.error or 0.0) / scale for _, mean in points]
    style = "-" if joined else "none"
    axes.errorbar(x, y, yerr=errors, color=colour, marker="o", linestyle=style, capsize=3, elinewidth=1, label=label)


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


def _counted(setting: Setting) -> str:
    return f"{setting.label} (n = {len(setting.runs)})"


def _runs(counts: Sequence[int]) -> str:
    """`n = 3 runs a setting`."""
    least, most = min(counts), max(counts)
    said = f"{most}" if least == most else f"{least} to {most}"
    return f"n = {said} run{'s' * (most != 1)} a setting"


def _values(found: Sequence[Setting], key: str) -> list[str]:
    return list(dict.fromkeys(setting.choices[key] for setting in found))


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
