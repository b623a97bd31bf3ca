"""Tokenised conversations that are kept and shared: by the processes of a run, the jobs of a sweep, and later runs.

An entry's name is a hash of all that its content depends on: the files, the tokenizer, the template, the context, the
masks, and the code that makes them. So an entry is never out of date, and what is not found is made. Entries are
mapped into memory, not read: a process holds the pages that it uses, and processes of a machine share them.

    python -m vicuna_lit.data.token_cache            what is kept
    python -m vicuna_lit.data.token_cache --clear    removes it
"""

import hashlib
import importlib.metadata
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vicuna_lit.data.dataset import DataReport, Examples, Ids, NumberedExample
from vicuna_lit.data.encoder import Example
from vicuna_lit.file_hashes import cache_folder, code_hash, sha256_of
from vicuna_lit.run_folder import locked
from vicuna_lit.whole_files import whole_folder, write_json

ABOUT = "about.json"
ARRAYS: dict[str, type] = {
    "input_ids": np.int32, "supervised_mask": np.bool_, "offsets": np.int64, "records": np.int64,
    "replies_before": np.int64, "scores": np.float64, "weights": np.float32, "id_text": np.uint8, "id_ends": np.int64,
    "refused": np.int64, "refused_scores": np.float64,
}  # fmt: skip
"""The files of an entry and what they hold, in the order of the machine's bytes."""
VALIDATIONS = "validations"
"""Beside the entries: validation losses of models that have not been trained yet, see `train/loss_before.py`."""
A_DAY = 86400.0
PACKAGES = ("tokenizers", "transformers", "jinja2")
Build = Callable[[DataReport], Iterable[NumberedExample]]
"""Makes the examples and counts what becomes of the records."""


@dataclass(frozen=True)
class TokenCache:
    """The entries of this user on this machine.

    Args:
        folder: None: `tokens` in the user's cache folder.
        most_bytes: that are kept; what was used last stays. 0: nothing is kept or looked for.
    """

    most_bytes: float
    folder: Path | None = None

    @property
    def place(self) -> Path:
        """Where the entries lie."""
        return self.folder or cache_folder() / "tokens"

    def examples(self, about: Mapping[str, Any], build: Build) -> tuple[Examples, DataReport]:
        """What `build` makes; it is only called where no entry of this description is found.

        Who comes while another process makes the entry waits for it. Where the folder cannot be written, or the disk
        is full, one line says so, and the examples are held in memory.

        Args:
            about: all that the examples depend on, as JSON values, but for this package's code.
        """
        if self.most_bytes:
            try:
                return self._kept({**about, "made_by": made_by()}, build)
            except OSError as error:
                why = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
                print(f"tokens    not kept ({why}): held in memory", file=sys.stderr, flush=True)
        account = DataReport()
        return Examples.of(build(account)), account

    def _kept(self, about: Mapping[str, Any], build: Build) -> tuple[Examples, DataReport]:
        entry = self.place / hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
        if (found := _read(entry)) is None:
            lock = entry.with_name(f".{entry.name}")
            lock.mkdir(parents=True, exist_ok=True)  # `locked` would speak of a run's folder where it cannot be made
            with locked(lock, patience=math.inf, waiting=""):
                found = _read(entry) or self._made(entry, about, build)
        return found

    def _made(self, entry: Path, about: Mapping[str, Any], build: Build) -> tuple[Examples, DataReport]:
        account = DataReport()
        with whole_folder(entry) as part:
            _write(part, build(account))
            sizes = {name: (part / name).stat().st_size for name in ARRAYS}
            hashes = {name: sha256_of(part / name) for name in ARRAYS}
            said = {"about": about, "bytes": sizes, "sha256": hashes, "account": account.to_json()}
            write_json(part / ABOUT, said)
        found = _read(entry)
        if found is None:
            raise OSError(f"{entry} cannot be read back")
        self._forget_the_oldest()
        return found

    def _forget_the_oldest(self) -> None:
        """Down to the bytes that may be kept. Who has an entry mapped keeps it until he ends."""
        for left in self.place.glob(".*.part"):  # by processes that were killed
            if time.time() - left.stat().st_mtime > A_DAY:
                shutil.rmtree(left, ignore_errors=True)
        entries = sorted(self.entries(), key=lambda entry: entry.used, reverse=True)
        held = 0
        for entry in entries:
            held += entry.bytes
            if held > self.most_bytes:
                shutil.rmtree(entry.folder, ignore_errors=True)

    def entries(self) -> list["Entry"]:
        """What is kept, but for entries that cannot be read."""
        found = []
        for folder in self.place.glob("[!.]*") if self.place.is_dir() else ():
            with suppress(OSError, ValueError, KeyError, TypeError):
                said, used = json.loads((folder / ABOUT).read_bytes()), (folder / ABOUT).stat().st_mtime
                used = 0.0 if used > time.time() + A_DAY else used  # of a clock that went wrong: it would stay for ever
                found.append(Entry(folder, sum(said["bytes"].values()), used, said["about"], said["account"]))
        return found

    def clear(self) -> None:
        """Removes all entries, those that cannot be read too, and the validation losses."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.rmtree(self.place.with_name(VALIDATIONS), ignore_errors=True)


@dataclass(frozen=True)
class Entry:
    """One set of examples."""

    folder: Path
    bytes: int
    used: float
    """Seconds since 1970 when it was asked for last."""
    about: dict[str, Any]
    account: dict[str, Any]


@cache
def made_by() -> dict[str, str]:
    """The code that tokenises: versions of packages, and a hash of this package's own, which its users change."""
    return {name: importlib.metadata.version(name) for name in PACKAGES} | {"vicuna_lit.data": code_hash("data")}


def _write(folder: Path, examples: Iterable[NumberedExample]) -> None:
    """One behind the other, as they come."""
    tokens = id_bytes = 0
    weighted = False
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in ARRAYS}

        def put(name: str, values: Any) -> None:
            files[name].write(np.asarray(values, ARRAYS[name]).tobytes())

        put("offsets", [0])
        for number, example in examples:
            if not isinstance(example, Example):
                put("refused", [number])
                put("refused_scores", [example])
                continue
            if example.weights is not None and not weighted:  # the first: those before it count once
                weighted = True
                put("weights", np.ones(tokens, np.float32))
            if weighted:
                put("weights", example.counted)
            text = example.id.encode("utf-8", "surrogatepass")
            tokens, id_bytes = tokens + len(example.input_ids), id_bytes + len(text)
            put("input_ids", example.input_ids)
            put("supervised_mask", example.supervised)
            put("offsets", [tokens])
            put("records", [number])
            put("replies_before", [example.replies_before])
            put("scores", [example.score])
            put("id_text", np.frombuffer(text, np.uint8))
            put("id_ends", [id_bytes])


def _read(entry: Path) -> tuple[Examples, DataReport] | None:
    """The examples of an entry, mapped; None where there is none, or it is not what was written."""
    try:
        said = json.loads((entry / ABOUT).read_bytes())
        if any(sha256_of(entry / name) != said["sha256"][name] for name in ARRAYS):
            return None
        arrays = {name: _mapped(entry / name, kind) for name, kind in ARRAYS.items()}
        with suppress(OSError):  # one that may only be read serves all the same
            os.utime(entry / ABOUT)
        account = DataReport.of_json(said["account"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    ids = Ids(arrays.pop("id_text"), arrays.pop("id_ends"))
    return Examples(ids, **arrays), account


def _mapped(file: Path, kind: type) -> np.ndarray:
    size = file.stat().st_size
    return np.asarray(np.memmap(file, kind, "r")) if size else np.empty(0, kind)


def _lines(kept: TokenCache) -> Iterator[str]:
    entries = sorted(kept.entries(), key=lambda entry: entry.used, reverse=True)
    yield f"{kept.place}: {len(entries)} sets, {sum(e.bytes for e in entries) / 1e9:.2f} GB"
    for e in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(e.used))
        files = sorted(e.about["files"])
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        what = f"{e.account['records_kept']:,} conversations of {files[0] if files else 'no file'}{more}"
        side = "validation" if e.about["validation"] else "training"
        yield f"{used}  {e.bytes / 1e6:9.1f} MB  {side:10}  {what}, context {e.about['context_length']:,}"


def main(arguments: list[str]) -> int:
    """Shows what is kept, or removes it."""
    kept = TokenCache(math.inf)
    if arguments not in ([], ["--clear"]):
        print(__doc__, file=sys.stderr)
        return 2
    print("\n".join(_lines(kept)))
    if arguments:
        kept.clear()
        print("removed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
