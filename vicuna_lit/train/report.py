"""`report.html` of a run: its curves, its replies, and where its time went. One file that loads and runs nothing."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna_lit.pages import render_page
from vicuna_lit.train.run_folder import Result
from vicuna_lit.train.times import LostTime
from vicuna_lit.train.validation_loss import BY_SOURCE

WIDTH, HEIGHT = 900, 260
POINTS = 900
"""Most points of a curve; the mean of neighbours where there are more steps."""
PARTS = {
    "useful": ("blue", "training that counts"),
    "replayed": ("red", "steps taken again"),
    "saving": ("gold", "waiting for checkpoints"),
    "data": ("violet", "waiting for data"),
    "starting": ("grey", "starting"),
    "validation": ("green", "validation losses, replies, export"),
    "interrupted": ("pale", "interrupted"),
}
"""The colour and the name of each part of a run's time."""


@dataclass(frozen=True)
class Curve:
    """Losses by step as an SVG path, in a box of WIDTH × HEIGHT."""

    path: str
    validation: list[tuple[float, float, int, float]]
    """x, y, step, loss"""
    ticks: list[tuple[float, float]]
    """y, loss"""
    steps: int


def render(result: Result, rows: list[dict[str, Any]], lost: LostTime | None) -> str:
    """The page as text.

    Args:
        rows: of `metrics.csv`.
    """
    return render_page(
        "train/report.html.jinja",
        {"duration": duration},
        result=result,
        name=Path(result.run_dir).name,
        curve=curve([float(row["loss"]) for row in rows], result.val_by_step),
        sources=[
            (name, source, result.validation.get(f"{BY_SOURCE}{name}"))
            for name, source in result.data.get("train", {}).get("sources", {}).items()
        ],
        lost=lost,
        spans=spans(lost),
        width=WIDTH,
        height=HEIGHT,
    )


def curve(losses: list[float], validation: dict[int, float]) -> Curve:
    """Scales a run's losses into the box."""
    size = max(1, math.ceil(len(losses) / POINTS))
    means = [(i + 1, sum(part) / len(part)) for i in range(0, len(losses), size) if (part := losses[i : i + size])]
    values = [v for _, v in means] + list(validation.values())
    low, high = min(values), max(values)
    spread = (high - low) or 1.0

    def place(step: float, loss: float) -> tuple[float, float]:
        return WIDTH * step / max(1, len(losses)), HEIGHT * (1 - (loss - low) / spread)

    points = [place(step, loss) for step, loss in means]
    path = "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    levels = [low + spread * i / 4 for i in range(5)]
    marks = [(*place(step, loss), step, loss) for step, loss in sorted(validation.items())]
    return Curve(path, marks, [(place(0, level)[1], level) for level in levels], len(losses))


def spans(lost: LostTime | None) -> list[tuple[str, str, float, float, float]]:
    """(colour, name, seconds, share, share before it) of each part of a run's time that is not nothing."""
    if lost is None or not lost.total:
        return []
    out, before = [], 0.0
    for key, seconds in lost.parts().items():
        share = seconds / lost.total
        if seconds > 0:
            out.append((*PARTS[key], seconds, share, before))
        before += share
    return out


def duration(seconds: float) -> str:
    """`2 h 05 min`, `3 min 07 s`, `4.2 s`."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{seconds:.1f} s"
