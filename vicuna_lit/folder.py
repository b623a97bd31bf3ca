"""A run is its folder: files that are whole or not there, and the same command finding its own results."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any


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


def write(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes under a temporary name first, so that the file is whole or not there."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as stream:
            stream.writelines(chunks)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Writes JSON to be read by people; whole or not there."""
    write(path, [json.dumps(values, indent=1, ensure_ascii=False).encode()])


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one with dotted keys, as W&B shows and filters them."""
    out = {}
    for key, value in values.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return out


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The fields in which two dumped configs differ, a line each."""
    a, b = flatten(old), flatten(new)
    return [f"{k}: {a.get(k)!r} → {b.get(k)!r}" for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]


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
