"""Estimates as JSON, as a page, and as the table of a multirun."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vicuna_lit.estimate.advice import Change
from vicuna_lit.estimate.run import Estimate
from vicuna_lit.estimate.terminal import by_size, change_row, gib, hours, lines, row_of, say, show_all
from vicuna_lit.pages import render_page
from vicuna_lit.run_folder import write


def to_json(found: Estimate, fitting: Sequence[Change], cheaper: Sequence[Change]) -> dict[str, Any]:
    """An estimate, and what to change, as plain values."""

    def of(change: Change) -> dict[str, Any]:
        e = change.estimate
        return {
            "overrides": list(change.overrides),
            "same_run": change.same_run,
            "peak_memory_bytes": e.memory.likely,
            "seconds": e.seconds and e.seconds[1],
            "usd": e.usd and e.usd[1],
        }

    return found.to_dict() | {"fits_with": [of(c) for c in fitting], "cheapest": [of(c) for c in cheaper]}


def write_page(found: Sequence[Estimate], fitting: Sequence[Change], cheaper: Sequence[Change], folder: Path) -> Path:
    """Writes `estimate.html` into a folder; returns its path."""
    first = found[0]
    text = render_page(
        "estimate/report.html.jinja",
        {"gib": gib},
        name=first.config.run.name,
        lines=lines(first) if len(found) == 1 else {},
        parts=[(k, v) for k, v in by_size(first.memory.parts) if v >= first.memory.likely / 200],
        memory=first.memory,
        rows=[row_of(e) for e in found] if len(found) > 1 else [],
        total=total(found),
        fitting=[change_row(first, c) for c in fitting],
        cheaper=[change_row(first, c) for c in cheaper],
    )
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "estimate.html", [text.encode()])
    return folder / "estimate.html"


def show_sweep(found: Sequence[Estimate], folder: Path) -> None:
    """Prints the jobs of a multirun and their total, or writes them as the first one's `output` says."""
    output = found[0].config.output
    if output == "json":
        jobs = [e.to_dict() for e in found]
        print(
            json.dumps({"jobs": jobs, "usd": _sum(e.usd for e in found), "fits": all(e.fits for e in found)}, indent=2)
        )
        return
    show_all([row_of(e) for e in found], f"{len(found)} jobs in {folder}")
    say(total(found))
    if output == "html":
        say(f"page: {write_page(found, (), (), folder)}")


def total(found: Sequence[Estimate]) -> str:
    """All jobs one after another, in a sentence."""
    cannot = [e.config.run.name for e in found if not e.fits]
    fitting = [e for e in found if e.fits]
    parts = []
    if fitting and all(e.seconds and e.usd for e in fitting):
        seconds, usd = (sum(x[1] for e in fitting if (x := getattr(e, what))) for what in ("seconds", "usd"))
        low, high = (sum(e.usd[i] for e in fitting if e.usd) for i in (0, 2))
        parts.append(f"in all {hours(seconds)} and ${usd:,.0f} (${low:,.0f} to ${high:,.0f}), one after another")
    if cannot:
        parts.append(f"{len(cannot)} cannot fit: {', '.join(cannot)}")
    return "; ".join(parts) or "all fit"


def _sum(ranges: Any) -> float | None:
    known = [r[1] for r in ranges if r is not None]
    return sum(known) if known else None
