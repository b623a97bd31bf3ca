"""Estimates on the screen, as JSON, as a page, and as the table of a multirun."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vicuna_lit import notebook
from vicuna_lit.compare.runs import short_names
from vicuna_lit.config.estimate import MachineConfig
from vicuna_lit.estimate.advice import Change
from vicuna_lit.estimate.run import Estimate
from vicuna_lit.pages import counted, render_page
from vicuna_lit.whole_files import write

WHERE = (*MachineConfig.model_fields, "count")
"""Keys that say on which machine a run would be, and what that costs."""
console = notebook.console(soft_wrap=True, highlight=False)
console.width = max(120, console.width)


def show(estimate: Estimate, fitting: Sequence[Change], cheaper: Sequence[Change]) -> None:
    """Prints all of an estimate, and what to change."""
    table = Table.grid(padding=(0, 2))
    for name, text in lines(estimate).items():
        table.add_row(name, Text(text))
    console.print(table)
    if fitting:
        console.print("\nit fits with")
        _show_changes(estimate, fitting)
    elif not estimate.fits:
        console.print("\nnothing tried makes it fit: more or larger GPUs, or a smaller model")
    if cheaper:
        deadline = estimate.config.deadline_hours
        console.print("\ncheapest" + (f" within {deadline:g} h" if deadline else ""))
        _show_changes(estimate, cheaper)


def lines(e: Estimate) -> dict[str, str]:
    """Everything about an estimate, by name."""
    m, plan = e.memory, e.plan
    trained = f", {m.weights.trained / 1e9:.3g}B trained" if m.weights.trained < m.weights.all else ""
    verdict = "fits" if e.fits and m.high <= m.limit else "fits, barely" if e.fits else "does not fit"
    found = {
        "model": f"{m.weights.all / 1e9:.3g}B weights{trained}, {e.config.precision}",
        "data": e.data,
        "plan": f"{counted(plan.steps, 'steps')} of {e.config.conversations_per_step}, "
        f"{count_of(plan.step_tokens.sum())} tokens; {layout(e)} × {plan.accumulation} "
        f"row{'s' if plan.accumulation > 1 else ''}, the longest {m.row[0]:,} tokens",
        "memory": f"{gib(m.likely)} of {gib(m.limit)} ({gib(m.low)} to {gib(m.high)}): {verdict}; "
        f"gradient checkpointing: {e.config.gradient_checkpointing}",
        "": ", ".join(f"{part} {gib(size)}" for part, size in by_size(m.parts) if size >= m.likely / 200)
        + f" (highest in the {m.moment})",
    }
    if m.on_host:
        found["CPU memory"] = f"{gib(m.on_host)} a GPU besides"
    if e.time and e.seconds:
        low, likely, high = (hours(s) for s in e.seconds)
        t = e.time
        found["time"] = f"{likely} ({low} to {high}), bound by {t.bound}; {t.flops:.3g} useful FLOPs"
        found["speed"] = f"MFU {t.mfu.likely:.0%} ({t.mfu.low:.0%} to {t.mfu.high:.0%}): {t.mfu.source}"
    if e.usd and e.price:
        low, likely, high = e.usd
        where = f"{e.config.price} on {e.price.cloud}" if e.price.cloud else "your price"
        found["cost"] = f"{_usd(likely)} ({_usd(low)} to {_usd(high)}): {e.config.count} × ${e.price.usd:g}/h, {where}"
        found["prices"] = e.price.source
    if e.no_price:
        found["cost"] = f"not known; {e.no_price}"
    if e.spot:
        s = e.spot
        found["spot"] = (
            f"{s.interruptions:.1f} interruptions expected (one in {e.config.hours_between_interruptions:g} h), "
            f"{hours(s.lost)} lost to them; best saved every {s.best_interval / 60:.0f} min, in {s.save_seconds:.0f} s"
        )
    if e.no_time:
        found["time"] = e.no_time
    return found


def layout(e: Estimate) -> str:
    """`8 × a100-80gb, fsdp_offload`."""
    return f"{e.config.count} × {e.config.gpu}, {e.config.strategy.facts.name}"


def _show_changes(before: Estimate, changes: Sequence[Change]) -> None:
    table = Table.grid(padding=(0, 2))
    for change in changes:
        table.add_row(*map(Text, change_row(before, change)))
    console.print(table)


def change_row(before: Estimate, change: Change) -> tuple[str, ...]:
    """What to change, and what comes of it."""
    e = change.estimate
    row = [" ".join(change.overrides), gib(e.memory.likely)]
    if e.seconds:
        row += [hours(e.seconds[1]), *([_usd(e.usd[1])] if e.usd else [])]
        row.append(f"{e.seconds[1] / before.seconds[1]:.2f} of the time" if before.seconds else "")
    return (*row, "the same run" if change.same_run else "another run: other numbers")


def show_all(rows: Sequence[dict[str, str]], title: str) -> None:
    """Prints a table of many estimates."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        cells = (Text(row.get(column, ""), style="red" if row.get("fits") == "no" else "") for column in columns)
        table.add_row(*cells)
    console.print(table)


def row_of(e: Estimate) -> dict[str, str]:
    """A job of a multirun as a row of a table."""
    swept = e.config.run.swept
    row = dict(zip(short_names(swept).values(), swept.values(), strict=True))
    row |= {"fits": "yes" if e.fits else "no", "memory": gib(e.memory.likely), "of": gib(e.memory.limit)}
    if e.seconds:
        row |= {"time": hours(e.seconds[1])} | ({"cost": _usd(e.usd[1])} if e.usd else {})
    return row


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
        usd = None if _alternatives(found) else _sum(e.usd for e in found)
        said = {"jobs": jobs, "usd": usd, "total": total(found), "fits": all(e.fits for e in found)}
        print(json.dumps(said, indent=2))
        return
    show_all([row_of(e) for e in found], f"{counted(len(found), 'jobs')} in {folder}")
    say(total(found))
    if output == "html":
        say(f"page: {write_page(found, (), (), folder)}")


def total(found: Sequence[Estimate]) -> str:
    """All jobs one after another, in a sentence. The same runs on several machines are alternatives, and no sum."""
    if not (places := _alternatives(found)):
        return _in_all(found)
    return "alternatives: " + "; or ".join(f"{place}: {_in_all(jobs)}" for place, jobs in places.items())


def _in_all(found: Sequence[Estimate]) -> str:
    cannot = [e.config.run.name for e in found if not e.fits]
    fitting = [e for e in found if e.fits]
    parts = []
    if fitting and all(e.seconds and e.usd for e in fitting):
        seconds, usd = (sum(x[1] for e in fitting if (x := getattr(e, what))) for what in ("seconds", "usd"))
        low, high = (sum(e.usd[i] for e in fitting if e.usd) for i in (0, 2))
        parts.append(f"in all {hours(seconds)} and {_usd(usd)} ({_usd(low)} to {_usd(high)}), one after another")
    if cannot:
        parts.append(f"{len(cannot)} cannot fit: {', '.join(cannot)}")
    return "; ".join(parts) or "all fit"


def _alternatives(found: Sequence[Estimate]) -> dict[str, list[Estimate]]:
    """The jobs by the machine that they would run on, where one of the runs would on several; else none."""
    where = [{key: getattr(e.config, key) for key in WHERE} for e in found]
    # What `auto` stands for may be another thing on each machine, and is no other run.
    left_out = {**dict.fromkeys(WHERE, True), "run": True, "gradient_checkpointing": True, "trainer": {"devices"}}
    runs = [e.config.model_dump(mode="json", exclude=left_out) for e in found]
    if not any(runs[i] == runs[k] and where[i] != where[k] for i in range(len(found)) for k in range(i)):
        return {}
    varied = [key for key in WHERE if any(one[key] != where[0][key] for one in where)]
    out: dict[str, list[Estimate]] = {}
    for one, e in zip(where, found, strict=True):
        out.setdefault(" ".join(f"{key}={one[key]}" for key in varied), []).append(e)
    return out


def _sum(ranges: Any) -> float | None:
    known = [r[1] for r in ranges if r is not None]
    return sum(known) if known else None


def say(text: str) -> None:
    """Prints a line as it is."""
    console.print(escape(text))


def by_size(parts: dict[str, int]) -> list[tuple[str, int]]:
    """The largest first."""
    return sorted(parts.items(), key=lambda item: -item[1])


def gib(size: float) -> str:
    """`12.3 GiB`, `640 MiB`."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _usd(amount: float) -> str:
    return f"${amount:,.0f}" if amount >= 10 else f"${amount:,.2f}"


def hours(seconds: float) -> str:
    """`12.3 h`, `34 min`."""
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min"


def count_of(number: float) -> str:
    """`582M`, `1.2B`."""
    return f"{number / 1e9:.3g}B" if number >= 1e9 else f"{number / 1e6:.3g}M" if number >= 1e6 else f"{number:,}"
