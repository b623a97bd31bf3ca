"""Files and folders that are whole or not there, rows that are added to them, and errors that name the file."""

import csv
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

LONGEST_CELL = 1024
"""Characters of a text in a CSV file; readers refuse long ones, Python's above 131,072."""
_NOT_IN_A_CELL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def cell(text: str) -> str:
    """A text from outside as a cell of a CSV file, for every reader: control characters as escapes, so it is one line,
    and of a long one the beginning and a mark of its own."""
    if len(text) > LONGEST_CELL:
        mark = sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
        text = f"{text[:LONGEST_CELL]}… {mark}"
    return _NOT_IN_A_CELL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def write(path: Path, chunks: Iterable[Any], durable: bool = False) -> None:
    """Writes bytes under a temporary name first, so that the file is whole or not there.

    Args:
        durable: it has reached the disk, name and all, when this returns.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
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


_OF_RUST = re.compile(r"\(os error (\d+)\)")
"""How tokenizers and safetensors end the message of the system's error, in exceptions of their own."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Around what writes a file or folder: the system's error becomes an `OSError` that names it. Of itself a full disk
    says "No space left on device" alone.

    Raises:
        OSError: with the file that the error has named itself, or else this one.
    """
    try:
        yield
    except Exception as error:
        found = None if isinstance(error, ValueError) else _OF_RUST.search(str(error))  # ours are ValueErrors
        number = int(found[1]) if found else error.errno if isinstance(error, OSError) else None
        if number is None or (isinstance(error, OSError) and error.filename is not None):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def add_rows(path: Path, *rows: Sequence[Any]) -> None:
    """Appends rows to a CSV file."""
    with naming(path), path.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def add_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Appends a JSON object, on a line of its own whatever the last line has come to."""
    with naming(path), path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + json.dumps(entry).encode() + b"\n")


def sync_names(folder: Path) -> None:
    """Brings the names in a folder to the disk, or the bytes of a file; without this a power loss may take a new file's
    name away. A full disk of a network says so only here.
    """
    with naming(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # mounted buckets cannot, and need not
                raise
        finally:
            os.close(handle)


def sync(folder: Path, names: Iterable[str]) -> None:
    """Brings files and folders of a folder to the disk, with all that is in them; one that is not there is left out."""
    for name in names:
        place = (folder / name).resolve()
        if place.is_dir():
            sync(place, (child.name for child in place.iterdir()))
        if place.exists():
            sync_names(place)
    sync_names(folder)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, that takes its name only at the end: it is whole or not there.

    Where the name is a link, as to another disk, it stays one: the folder that it leads to is replaced.
    """
    folder = folder.resolve()
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with naming(folder):
            yield part
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_json(path: Path, values: Any, durable: bool = False) -> None:
    """Writes JSON to be read by people; whole or not there. JSON has no NaN and no infinity: they become null."""
    text = json.dumps(_with_nulls(values), indent=1, ensure_ascii=False, allow_nan=False)
    write(path, [text.encode()], durable)


def _with_nulls(values: Any) -> Any:
    match values:
        case dict():
            return {key: _with_nulls(value) for key, value in values.items()}
        case list() | tuple():
            return [_with_nulls(value) for value in values]
        case float() if not math.isfinite(values):
            return None
        case _:
            return values
