"""`report.html` of a run: what was run, its curves, its replies, and where its time went. One file that loads and runs
nothing."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vicuna_lit.config.base import is_below
from vicuna_lit.config.texts import typed
from vicuna_lit.pages import render_page
from vicuna_lit.run_folder import flatten
from vicuna_lit.train.result import Result
from vicuna_lit.train.starts import Start
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


LOW = 120
"""Height of the smaller curves."""
MOST_TICKS = 6
NO_CHOICE = ("run", "claim", "dry_run", "resume")
"""Keys that say where a run lies and how it was started, and nothing of what it is."""
COUNTS = ("records_in", "records_kept", "exchanges_kept", "examples", "tokens", "supervised_tokens", "turns_cut")
LONGEST = 300
"""Characters of a value on the page; config.json has all of it."""


@dataclass(frozen=True)
class About:
    """What was run."""

    command: str = ""
    """As it was typed; empty of a script."""
    described: Mapping[str, str] = field(default_factory=dict)
    """The first lines on the screen, by name: model, data, steps, …"""
    differing: Sequence[tuple[str, str, str]] = ()
    """Key, value and what `vicuna-train` alone would take, where they are not the same."""
    others: Sequence[tuple[str, str]] = ()
    """Key and value of all other settings."""
    starts: Sequence[Start] = ()


@dataclass(frozen=True)
class Chart:
    """A curve by step as an SVG path, in a box of `WIDTH` × its height."""

    name: str
    path: str
    marks: list[tuple[float, float, int, float]]
    """x, y, step, loss"""
    levels: list[tuple[float, str]]
    """y and its label"""
    steps: list[tuple[float, str]]
    """x and its label"""
    height: int


def render(result: Result, rows: list[dict[str, Any]], lost: LostTime | None, about: About | None = None) -> str:
    """The page as text.

    Args:
        rows: of `metrics.csv`.
    """
    columns = {key: [float(row[key]) for row in rows if key in row] for key in ("loss", "lr", "grad_norm")}
    smaller = {"learning rate": columns["lr"], "gradient norm, before clipping": columns["grad_norm"]}
    return render_page(
        "train/report.html.jinja",
        {"duration": duration},
        result=result,
        name=Path(result.run_dir).name,
        about=about or About(),
        loss=chart("loss", columns["loss"], result.val_by_step),
        charts=[chart(name, values, {}, LOW) for name, values in smaller.items() if values],
        sources=[
            (name, source, result.validation.get(f"{BY_SOURCE}{name}"))
            for name, source in result.data.get("train", {}).get("sources", {}).items()
        ],
        accounts=list(_accounts(result.data)),
        splits=list(_splits(result.validation)),
        lost=lost,
        spans=spans(lost),
        width=WIDTH,
    )


def about(
    folder: Path, described: Mapping[str, str], config: dict[str, Any], usual: dict[str, Any], starts: Sequence[Start]
) -> About:
    """What was run, from its folder and its settings.

    Args:
        config, usual: as JSON values: the run's, and those of the command without any override.
    """
    hydra = folder / ".hydra" / "overrides.yaml"
    given = yaml.safe_load(hydra.read_bytes()) if hydra.is_file() else None
    command = f"vicuna-train {typed([str(one) for one in given])}" if isinstance(given, list) else ""
    chosen, usually = (one["run"].get("choices") or {} for one in (config, usual))
    groups = [(group, name, usually.get(group, "–")) for group, name in chosen.items() if name != usually.get(group)]
    here, there = ({k: v for k, v in flatten(one).items() if not is_below(k, NO_CHOICE)} for one in (config, usual))
    apart = [key for key, value in here.items() if there.get(key) != value]
    differing = [(key, _text(here[key]), _text(there[key]) if key in there else "–") for key in apart]
    others = [(key, _text(value)) for key, value in here.items() if key not in apart]
    return About(command, described, [*groups, *differing], others, starts)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _accounts(data: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """A row for each count of the data, of the training set and of the validation set."""
    sets = [data.get(name, {}) for name in ("train", "validation")]
    for count in COUNTS if sets[0] else ():
        yield count.replace("_", " "), [f"{one.get(count, 0):,}" for one in sets]
    for what, name in {"rejected_by_reason": "rejected", "exchanges_rejected_by_reason": "exchanges rejected"}.items():
        for reason in dict.fromkeys(reason for one in sets for reason in one.get(what, {})):
            yield f"{name}: {reason}", [f"{one.get(what, {}).get(reason, 0):,}" for one in sets]


def _splits(validation: Mapping[str, float]) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """The validation losses by reply and by position."""
    for name, what in {"reply of its conversation": "turn", "position, tokens": "position"}.items():
        start = f"val/loss_by_{what}/"
        if found := [(key.removeprefix(start), loss) for key, loss in validation.items() if key.startswith(start)]:
            yield name, found


def chart(name: str, values: list[float], marked: Mapping[int, float], height: int = HEIGHT) -> Chart:
    """Scales a figure of each step, and marked ones of some, into the box."""
    size = max(1, math.ceil(len(values) / POINTS))
    means = [(i + 1, sum(part) / len(part)) for i in range(0, len(values), size) if (part := values[i : i + size])]
    known = [v for _, v in means] + list(marked.values())
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    spread = (high - low) or 1.0

    def place(step: float, value: float) -> tuple[float, float]:
        return WIDTH * step / max(1, len(values)), height * (1 - (value - low) / spread)

    points = [place(step, value) for step, value in means]
    path = "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in points) if points else ""
    levels = [(place(0, level)[1], f"{level:g}") for level in ticks(low, high)]
    steps = [(place(step, 0)[0], f"{step:,.0f}") for step in ticks(0, len(values)) if step == int(step)]
    marks = [(*place(step, loss), step, loss) for step, loss in sorted(marked.items())]
    return Chart(name, path, marks, levels, steps, height)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers in a range, 1, 2 or 5 times a power of ten apart, at most `MOST_TICKS` of them."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / MOST_TICKS))
    step = next(power * m for m in (1, 2, 5, 10, 20) if (high - low) / (power * m) <= MOST_TICKS - 1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


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
