"""A run is its folder: files that are whole or not there, and the same command finding its own results."""

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
    foreign = folder.exists() and (not folder.is_dir() or any(p.name[0] != "." for p in folder.iterdir()))
    if foreign and not (folder / "config.json").exists():
        raise RunError(f"{folder}: exists and is no run folder; choose another with run.dir=<folder>")
    return None


def write(path: Path, chunks: Iterable[Any], durable: bool = False) -> None:
    """Writes bytes under a temporary name first, so that the file is whole or not there.

    Args:
        durable: it has reached the disk, name and all, when this returns.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as stream:
            for chunk in chunks:
                stream.write(chunk)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        part.replace(path)
        if durable:
            sync_names(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync_names(folder: Path) -> None:
    """Brings the names in a folder to the disk; without this a power loss may take a new file's name away."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # mounted buckets cannot, and need not
            raise
    finally:
        os.close(handle)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, that takes its name only at the end: it is whole or not there."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_json(path: Path, values: Any, durable: bool = False) -> None:
    """Writes JSON to be read by people; whole or not there."""
    write(path, [json.dumps(values, indent=1, ensure_ascii=False).encode()], durable)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one with dotted keys, as W&B shows and filters them."""
    out = {}
    for key, value in values.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return out


def columns(values: dict[str, Any]) -> dict[str, Any]:
    """The same with one number or text each, for W&B's table of runs: it filters and groups by nothing else.

    Lists become JSON; those of dicts are counted through (`models.0.name`). What is empty is left out where it
    holds counts or settings by name.
    """
    out = {}
    for key, value in flatten(values).items():
        if isinstance(value, list | tuple) and value and all(isinstance(item, dict) for item in value):
            out |= columns({key: {str(i): item for i, item in enumerate(value)}})
        elif value != {}:
            out[key] = json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple) else value
    return out


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The fields in which two dumped configs differ, a line each."""
    a, b = flatten(old), flatten(new)
    return [f"{k}: {a.get(k)!r} → {b.get(k)!r}" for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]


def refuse_other_settings(
    folder: Path, saved: dict[str, Any], wanted: dict[str, Any], layout: tuple[str, ...] = (), way_out: str = ""
) -> list[str]:
    """A run is never overwritten by another one.

    Args:
        layout: keys that may differ, with all below them; their differences are returned, a line each.
        way_out: what else the user can do.

    Raises:
        RunError: with every other setting that differs.
    """
    changed = differences(saved, wanted)
    allowed = [line for line in changed if line.startswith(tuple(key + end for key in layout for end in ".:"))]
    if other := [line for line in changed if line not in allowed]:
        lines = "\n  ".join(other)
        choose = f"choose another with run.dir=<folder>{way_out}"
        raise RunError(f"{folder} holds a run with other settings; {choose}:\n  {lines}")
    return allowed


def check_disk(folder: Path, need: float, what: str) -> None:
    """Says before anything is written that it will not fit; `need` in bytes.

    Raises:
        RunError: less is free.
    """
    free = shutil.disk_usage(next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())).free
    if free < need:
        raise RunError(f"{folder}: {what} needs about {need / 1e9:.2f} GB of disk, {free / 1e9:.2f} GB are free")
