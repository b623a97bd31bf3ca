"""The data card: one page that shows what became of every record and what the sets hold.

Everything shown may be hostile (raw records are pages from the web): the template escapes all of it,
and the page forbids itself to load or run anything. No date and nothing random: the same manifest
gives the same bytes.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vicuna_lit.config.prepare import PersonalData
from vicuna_lit.pages import counted, render_page
from vicuna_lit.prepare.diff import compare
from vicuna_lit.records.conversation import Turn
from vicuna_lit.run_folder import flatten

STREAM = 800
"""Width of all records in the funnel, of 1000; the rest is for what leaves to the right."""
THICKNESS = 160
"""Height in pixels at which all records would leave the funnel."""
BINS = 32
PLOT_HEIGHT = 160
LANGUAGES = 20


@dataclass(frozen=True)
class Sample:
    """A record as it was read and as it was written; `after` is empty if it was rejected."""

    id: str
    before: tuple[Turn, ...]
    after: tuple[Turn, ...]


def render_card(manifest: dict[str, Any], samples: Sequence[Sample]) -> str:
    """The page as text. Parts the manifest lacks are left out or shown as empty."""
    histograms = manifest.get("histograms") or {}
    measure = "tokens" if histograms.get("tokens") else "characters"
    sets = {name: held or {} for name, held in (manifest.get("sets") or {}).items()}
    files = manifest.get("files") or {}
    steps = [_step(step) for step in manifest.get("steps") or ()]
    looked_for, not_looked_for = _looked_for(manifest, {step.name for step in steps})
    return render_page(
        "prepare/card.html.jinja",
        {"number": _number, "counted": counted, "share": _share, "size": _size, "shorten": _shorten},
        manifest=manifest,
        steps=steps,
        looked_for=looked_for,
        not_looked_for=not_looked_for,
        whole=manifest.get("records_in") or 0,
        sets=sets,
        train=sets.get("train", {}).get("conversations") or 0,
        validation=sets.get("validation", {}).get("conversations") or 0,
        sources=[
            (name, [_step(step) for step in of["steps"]], of) for name, of in (manifest.get("sources") or {}).items()
        ],
        levels=_funnel(manifest, steps),
        turns=_histogram(histograms.get("turns"), exact=True),
        measure=measure,
        lengths=_histogram(histograms.get(measure), exact=False),
        languages=_languages(histograms.get("languages")),
        examples=[(sample, compare(sample.before, sample.after)) for sample in samples],
        inputs=[*(manifest.get("inputs") or ()), *({"path": k, "sha256": v} for k, v in files.items())],
        outputs=[{"path": name, **file} for name, file in (manifest.get("outputs") or {}).items()],
        config=[(key, _json(value)) for key, value in flatten(manifest.get("config") or {}).items()],
        plot_height=PLOT_HEIGHT,
    )


REVIEW, REVIEW_END = "<!-- review -->", "<!-- /review -->"
"""Between them stands what persons say of the rules. No text of the data can look like them: all of it is escaped."""


def with_review(page: str, figures: Sequence[Any]) -> str:
    """The page with the precision of each rule, as a review found it."""
    before, _, rest = page.partition(REVIEW)
    after = rest.partition(REVIEW_END)[2]
    table = render_page("prepare/review.html.jinja", {"number": _number, "percent": _percent}, figures=figures)
    return f"{before}{REVIEW}\n{table}\n{REVIEW_END}{after}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else "–" if value is None else str(value)


def _share(count: int, whole: int) -> str:
    percent = 100 * count / whole if whole else 0
    if 0 < percent < 0.01:
        return "< 0.01%"
    return f"{percent:.2f}%" if 0 < percent < 1 or 99 < percent < 100 else f"{percent:.3g}%"


def _size(count: int | None) -> str:
    if count is None:
        return "–"
    power = min(len(str(count)) - 1, 12) // 3
    return f"{count / 1000**power:.4g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} … {len(text) - most:,} more characters"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _ranked(counts: dict[str, int] | None) -> list[tuple[str, int]]:
    return sorted((counts or {}).items(), key=lambda item: (-item[1], item[0]))


@dataclass(frozen=True)
class Step:
    """One step's part of the manifest."""

    name: str
    entered: int
    kept: int
    rejected: list[tuple[str, int]]
    changes: list[tuple[str, int]]


def _step(step: dict[str, Any]) -> Step:
    name = str(step.get("step", "")).replace("_", " ")
    rejected, changes = _ranked(step.get("rejected")), _ranked(step.get("changes"))
    return Step(name, step.get("in") or 0, step.get("kept") or 0, rejected, changes)


KINDS: dict[PersonalData, str] = {
    "email": "e-mail addresses", "phone": "telephone numbers", "key": "secret keys", "card": "numbers of payment cards",
    "iban": "bank accounts", "ssn": "US social security numbers", "ip": "IP addresses",
}  # fmt: skip
NEVER = ["names of persons", "addresses of streets", "dates of birth", "numbers of passports"]


def _looked_for(manifest: dict[str, Any], steps: set[str]) -> tuple[list[str], list[str]]:
    """What was looked for, and what a reader might think was, and no step that ran looks for."""
    config = manifest.get("config") or {}
    kinds = (config.get("personal_data") or {}).get("kinds") or [] if "personal data" in steps else []
    moderation = config.get("moderation") or {}
    scorer, labels = moderation.get("scorer"), moderation.get("labels")
    found = [name for kind, name in KINDS.items() if kind in kinds]
    missed = [*(name for kind, name in KINDS.items() if kind not in kinds), *NEVER]
    rules = (config.get("filters") or {}).get("texts") or {} if "filters" in steps else {}
    if any(rule.get("match") == "phrases" and rule.get("scope") != "off" for rule in rules.values()):
        found.append("phrases of a list, in prompts")
    if "moderation" in steps:
        for_labels = f" for {', '.join(labels)}" if labels else ""
        found.append(f"unsuitable content, by the scores of {scorer}{for_labels}")
    else:
        missed.append("unsuitable content (sexual, violent, hateful, dangerous): there was no moderation.scorer")
    return found, missed


@dataclass(frozen=True)
class Drop:
    """What leaves the funnel for one reason: its ribbon, and where its label stands."""

    reason: str
    count: int
    y: float
    path: str


@dataclass(frozen=True)
class Level:
    """One step of the funnel, from `y` to `bottom`; `stream` is what flows on to the next."""

    step: Step
    y: float
    bottom: float
    width: float
    dropped: float
    stream: str
    drops: list[Drop]


def _funnel(manifest: dict[str, Any], steps: list[Step]) -> list[Level]:
    whole = max([manifest.get("records_in") or 0, *(step.entered for step in steps)])
    unit, y, levels = STREAM / max(whole, 1), 30.0, []
    following = [step.entered for step in steps[1:]] + [manifest.get("records_kept") or 0]
    for step, next_entered in zip(steps if whole else (), following, strict=False):
        width, dropped = step.kept * unit, unit * sum(count for _, count in step.rejected)
        drops, label = [], y + 6
        right = width + dropped
        for reason, count in step.rejected:
            thickness = max(1.5, THICKNESS * count / whole)
            room = max(20, thickness + 6)
            drops.append(Drop(reason, count, label + room / 2, _ribbon(right, count * unit, y, label, room, thickness)))
            right, label = right - count * unit, label + room
        bottom = max(y + 30, label + 8)
        stream = f"M0,{y:g}H{width:.2f}L{next_entered * unit:.2f},{bottom:g}H0Z"
        levels.append(Level(step, y, bottom, width, dropped, stream, drops))
        y = bottom
    return levels


def _ribbon(right: float, width: float, y: float, label: float, room: float, thickness: float) -> str:
    left, top = right - width, label + (room - thickness) / 2
    low = top + thickness
    outer = f"M{right:.2f},{y:g}C{right:.2f},{top:.2f} {(right + 1000) / 2:.2f},{top:.2f} 1000,{top:.2f}"
    return f"{outer}V{low:.2f}C{(left + 1000) / 2:.2f},{low:.2f} {left:.2f},{low:.2f} {left:.2f},{y:g}Z"


@dataclass(frozen=True)
class Histogram:
    """Bars (label, lower edge, count, height in pixels) and ticks (value, height) of a plot.

    `open_from` is the edge of the last bar if that holds everything above.
    """

    bars: list[tuple[str, int, int, float]]
    ticks: list[tuple[int, float]]
    open_from: int | None = None


def _histogram(counts: dict[str, int] | None, exact: bool) -> Histogram:
    """Keys are values if `exact`, or else lower edges of bins, all of one width or each twice the one before."""
    found = sorted((int(value), count) for value, count in (counts or {}).items() if count)
    if not found:
        return Histogram([], [])
    edges, unit = _edges(found, exact)
    bins = [0] * len(edges)
    for value, count in found:
        bins[bisect_right(edges, value) - 1] += count
    most = max(bins)
    power = 10 ** (len(str(most)) - 1)
    step = next(s for s in (power // 5, power // 2, power, 2 * power, 5 * power) if s and most / s <= 5)
    ticks = [(value, PLOT_HEIGHT * value / most) for value in range(0, most + 1, step)]
    open_from = edges[-1] if len(edges) == BINS and found[-1][0] > edges[-1] else None
    bars = []
    for low, following, count in zip(edges, [*edges[1:], None], bins, strict=True):
        last = following - unit if following is not None else found[-1][0] if exact and not open_from else None
        label = f"from {low:,}" if last is None else f"{low:,}" if last == low else f"{low:,}–{last:,}"
        bars.append((label, low, count, PLOT_HEIGHT * count / most))
    return Histogram(bars, ticks, open_from)


def _edges(found: list[tuple[int, int]], exact: bool) -> tuple[list[int], int]:
    """The lower edges of the bars, of which the last may take the longest hundredth, and the unit between values."""
    first, longest, below = found[0][0], found[-1][0], 0
    if not exact and all(value & (value - 1) == 0 for value, _ in found):
        smallest = next((value for value, _ in found if value), 0)
        doubling = [smallest << i for i in range(longest.bit_length() - smallest.bit_length() + 1)]
        return sorted({first, *doubling}), 1
    unit = math.gcd(*(value - first for value, _ in found)) or 1
    total = sum(count for _, count in found)
    reach = next(value for value, count in found if (below := below + count) >= 0.99 * total)
    width = unit * math.ceil(((reach - first) // unit + 1) / (BINS - 1))
    bars = min(BINS, (longest - first) // width + 1)
    return [first + i * width for i in range(bars)], unit if exact else 1


def _languages(counts: dict[str, int] | None) -> list[tuple[str, int, float]]:
    ranked = _ranked(counts)
    if rest := ranked[LANGUAGES:]:
        ranked = [*ranked[:LANGUAGES], (f"other ({len(rest)})", sum(count for _, count in rest))]
    most = max((count for _, count in ranked), default=0) or 1
    return [(name, count, 100 * count / most) for name, count in ranked]
