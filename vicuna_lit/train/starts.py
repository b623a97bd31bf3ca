"""The starts of a run, `starts.jsonl`: when, where, on which layout, and why each of them ended."""

import json
import platform
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vicuna_lit.whole_files import add_line

FILE = "starts.jsonl"
LOST = "nothing says why: killed, or its machine was lost"


@dataclass(frozen=True)
class Start:
    """One start of a run."""

    began: str
    """ISO 8601, UTC."""
    where: str
    layout: str
    step: int
    """That it went on from; 0: from the beginning."""
    ended: str = ""
    until: int | None = None
    """The last step that was done; None: it is not known."""
    why: str = LOST


def begin(folder: Path, layout: str, step: int) -> None:
    """Writes down that the run starts here, before its next step."""
    add_line(folder / FILE, {"began": _now(), "where": platform.node(), "layout": layout, "step": step})


def end(folder: Path, why: str, step: int | None) -> None:
    """Writes down why the newest start ends; said twice, the last counts. A full disk does not hide what went wrong."""
    with suppress(OSError):
        add_line(folder / FILE, {"ended": _now(), "until": step, "why": why})


def forget(folder: Path) -> None:
    """Before another run begins in the folder."""
    (folder / FILE).unlink(missing_ok=True)


def starts_of(folder: Path) -> list[Start]:
    """In order; empty of a run of an earlier version. Lines that were torn by a kill are left out."""
    found: list[Start] = []
    for line in (
        (folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines() if (folder / FILE).exists() else ()
    ):
        try:
            entry = json.loads(line)
            if "began" in entry:
                found.append(Start(**entry))
            else:
                found[-1] = Start(**(vars(found[-1]) | entry))
        except (ValueError, TypeError, IndexError):
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
