"""What the files that a job reads hold: a result is found again only where they are the same to the byte."""

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from vicuna_lit.paths import locate_model
from vicuna_lit.run_folder import RunError

SMALL = 2**20
"""Bytes that are read again each time; the hashes of larger files are remembered."""
SETTLED = 2.0
"""Seconds for which a file must have stood still: a second change within a tick of the clock would not be seen."""
_OF_A_MODEL = {".safetensors", ".json", ".jinja", ".model", ".tiktoken"}
_NAMED = {"vocab.txt", "merges.txt"}
_MORE_TEMPLATES = "additional_chat_templates"
"""Where transformers keeps a tokenizer's other chat templates, such as `tool_use.jinja`."""
Hashes = dict[str, str]
"""sha256 by the name of a file: its path as the config has it, so that a moved environment changes nothing."""


def cache_folder() -> Path:
    """Of this user: what can be had again by asking again; `VICUNA_LIT_CACHE` names another."""
    if named := os.environ.get("VICUNA_LIT_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vicuna_lit"


def sha256_of(file: Path) -> str:
    """Of the content. A large file is not read again while its place, size, inode and times of change are the same."""
    with file.open("rb") as stream:
        stat = os.fstat(stream.fileno())
        if stat.st_size < SMALL:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        # The time of the last change of the inode cannot be set by hand: `cp -p` over the file is seen too.
        known_by = (str(file.resolve()), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)
        kept = cache_folder() / "sha256" / hashlib.sha256(repr(known_by).encode()).hexdigest()[:32]
        with suppress(OSError):
            if len(known := kept.read_text(encoding="utf-8")) == 64:
                return known
        found = hashlib.file_digest(stream, "sha256").hexdigest()
        after = os.fstat(stream.fileno())
    if after.st_ctime_ns == stat.st_ctime_ns and time.time() - stat.st_ctime > SETTLED:
        with suppress(OSError):  # a home that cannot be written: it is read again next time
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_name(f"{kept.name}.{os.getpid()}")
            part.write_text(found, encoding="utf-8")
            part.replace(kept)
    return found


@cache
def code_hash(*rooms: str) -> str:
    """Of the Python files of some rooms of this package, which its users change."""
    code = hashlib.sha256()
    for file in sorted(file for room in rooms for file in (Path(__file__).parent / room).rglob("*.py")):
        code.update(str(file.relative_to(Path(__file__).parent)).encode() + b"\0" + file.read_bytes() + b"\0")
    return code.hexdigest()


def model_files(path: str) -> dict[str, Path]:
    """Weights, configuration, tokenizer and template in a model's folder, or its one file, by the path as given.

    Raises:
        MissingPath: nothing is there.
    """
    place = locate_model(path)
    if place.is_file():
        return {path: place}
    files = sorted(p for p in place.iterdir() if p.is_file() and not p.name.startswith("."))
    pickled = set() if any(p.suffix == ".safetensors" for p in files) else {".bin"}
    chosen = [p for p in files if p.suffix in _OF_A_MODEL | pickled or p.name in _NAMED]
    chosen += sorted((place / _MORE_TEMPLATES).glob("*.jinja"))
    return {f"{path}/{p.relative_to(place)}": p for p in chosen}


def hashes_of(files: Mapping[str, Path]) -> Hashes:
    """The sha256 of each file; one that is gone by now has none."""
    out: Hashes = {}
    for name, file in files.items():
        with suppress(FileNotFoundError):
            out[name] = sha256_of(file)
    return out


def refuse_other_files(folder: Path, saved: Mapping[str, str] | None, now: Mapping[str, str], way_out: str) -> None:
    """A result stands for the files that it was computed from, and for no others.

    Args:
        saved: None: the folder was written by a version that kept no hashes.
        way_out: what the user can do.

    Raises:
        RunError: a file holds something else, has gone or has come since; each is named.
    """
    if saved is None:
        return
    said = [f"{name} is not the same file any more" for name in saved if name in now and now[name] != saved[name]]
    said += [f"{name} has gone" for name in saved if name not in now]
    said += [f"{name} is new" for name in now if name not in saved]
    if said:
        raise RunError(f"{folder}: its files have changed since it began; {way_out}:\n  " + "\n  ".join(said))
