"""A bar with rate and time left in a terminal, a line in a notebook; a line now and then in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vicuna_lit.notebook import Line

EVERY_SECONDS = 10
console = Console(emoji=False, stderr=True)


class Advance(Protocol):
    """Tells that so many more records (or bytes) are done."""

    def __call__(self, amount: int) -> None:
        """Moves the bar."""
        ...


@contextmanager
def progress(label: str, total: int, unit: str = "records", scale: float = 1.0) -> Iterator[Advance]:
    """Shows a stage's progress; `scale` divides what is counted into units (1e6 for MB)."""
    start = last = time.perf_counter()
    done, digits = 0, 1 if scale > 1 else 0
    bar = _bar(label, unit) if console.is_terminal else None
    say = Line().write if console.is_jupyter else _log
    if bar:
        bar.add_task(label, total=round(total / scale), rate="")
        bar.start()

    def advance(amount: int) -> None:
        nonlocal done, last
        done += amount
        now = time.perf_counter()
        rate = done / max(now - start, 1e-9)
        if bar:
            bar.update(bar.task_ids[0], completed=round(done / scale), rate=f"{rate / scale:,.0f} {unit}/s")
        elif now - last > (1 if console.is_jupyter else EVERY_SECONDS):
            last = now
            left = (total - done) / max(rate, 1e-9)
            figures = f"{done / scale:,.0f} of {total / scale:,.0f} {unit}, {rate / scale:,.0f}/s, {left:,.0f} s left"
            say(f"{label}: {figures}")

    try:
        yield advance
    finally:
        if bar:
            bar.stop()
    if not bar:
        seconds = time.perf_counter() - start
        rate = f"{done / scale / max(seconds, 1e-9):,.0f} {unit}/s"
        say(f"{label}: {done / scale:,.{digits}f} {unit} in {seconds:.1f} s ({rate})")


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _bar(label: str, unit: str) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TextColumn("{task.fields[rate]}"))
    return Progress(TextColumn(f"{label:>6}"), *columns, TimeRemainingColumn(), console=console)
