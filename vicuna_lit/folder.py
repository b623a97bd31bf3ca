"""A run is its folder: files that are whole or not there, and the same command finding its own results."""

import json
import shutil
from pathlib import Path
from typing import Any

from vicuna_lit.compose import differences


class RunError(ValueError):
    """The run folder cannot be used; the message says what to do."""


def read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """A JSON file of a run folder; None where there is no such run yet.

    Raises:
        RunError: the folder holds something else.
    """
    if (folder / name).exists():
        return json.loads((folder / name).read_text())
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not (folder / "config.json").exists():
        raise RunError(f"{folder}: exists and is no run folder; choose another with run.dir=<folder>")
    return None


def write_json(path: Path, values: Any) -> None:
    """Writes to a temporary name first, so that the file is whole or not there."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(values, indent=1, ensure_ascii=False))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def refuse_other_settings(folder: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """A finished run is never overwritten.

    Raises:
        RunError: with every setting that differs.
    """
    if changed := differences(saved, wanted):
        lines = "\n  ".join(changed)
        raise RunError(f"{folder} holds a run with other settings; choose another with run.dir=<folder>:\n  {lines}")


def check_disk(folder: Path, need: float, what: str) -> None:
    """Says before anything is written that it will not fit; `need` in bytes.

    Raises:
        RunError: less is free.
    """
    free = shutil.disk_usage(next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())).free
    if free < need:
        raise RunError(f"{folder}: {what} needs about {need / 1e9:.2f} GB of disk, {free / 1e9:.2f} GB are free")
