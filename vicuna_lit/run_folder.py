"""A run is its folder: files that are whole or not there, and the same command finding its own results."""

import errno
import fcntl
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from vicuna_lit.config.base import is_below
from vicuna_lit.config.renamed import with_new_names
from vicuna_lit.config.texts import folder_name, shortened
from vicuna_lit.whole_files import write

MOST_OF_A_NAME = 128
"""Bytes of a run's name; W&B takes so many characters."""
LOCK = ".lock"
HYDRA = ".hydra"
"""Of a run's folder: what Hydra composed, as Hydra writes it."""
GIVEN = ".data"
"""Of a run's folder: the conversations that a script gave to `fit`, in files that are named by their hash."""
RUN_ID = "WANDB_RUN_ID"
"""The variable that names one run of W&B's."""


class RunError(ValueError):
    """The run folder cannot be used; the message says what to do."""


class MachineError(RunError):
    """The machine has failed, not the input: the same command may succeed later, or on another one."""


class ForeignResult(RunError):
    """A `result.json` that came out of another run than the one whose folder it lies in."""


RESULT, CONFIG, RUN = "result.json", "config.json", "run.json"
MODULE, MODULE_HASH, MODULE_VALUES = "module", "module_sha256", "module_values"
"""In `config.json`, where a script gave a class of its own to `fit`: its name, a hash of all that it computes with, and
the values among that, as texts. The hash covers the values, which are there to be read."""
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
PLACE = "folder"
"""In `run.json`: where the run has written it; a copy has the origin's."""
MEND = "bring it back from a copy, or choose another folder with run.dir=<folder>"


def read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """A JSON file of a run folder, under today's names; None where there is no such run yet.

    Raises:
        RunError: the folder holds something else, or the file is damaged.
        ForeignResult: it is the result of another run.
    """
    if (folder / name).exists():
        try:
            values = json.loads((folder / name).read_bytes())
        except (ValueError, RecursionError) as error:
            raise RunError(f"{folder / name}: is damaged ({error}); {MEND}") from None
        if not isinstance(values, dict):
            raise RunError(f"{folder / name}: is damaged (no object); {MEND}")
        if name == RESULT:
            refuse_foreign(folder, values)
        return with_new_names(values)
    foreign = folder.exists() and (
        not folder.is_dir() or any(p.name[0] != "." and not p.is_symlink() for p in folder.iterdir())
    )
    if foreign and not (folder / "config.json").exists():
        raise RunError(f"{folder}: exists and is no run folder; choose another with run.dir=<folder>")
    return None


def identity_of(folder: Path) -> dict[str, str]:
    """Names the run in a folder: the sha256 of the values in `config.json` and `run.json`; a file that is missing or
    damaged has none."""
    found = {}
    for name in (CONFIG, RUN):
        with suppress(OSError, ValueError):
            text = json.dumps(json.loads((folder / name).read_bytes()), sort_keys=True)
            found[name] = sha256(text.encode()).hexdigest()
    return found


def refuse_foreign(folder: Path, result: Mapping[str, Any]) -> None:
    """A result is that of the run whose config lies beside it; one of an earlier version does not say whose it is.

    Args:
        result: what `result.json` in the folder says.

    Raises:
        ForeignResult: it is of another run.
    """
    stated = result.get("identity")
    if not isinstance(stated, dict) or not stated:
        return
    beside = identity_of(folder)
    if other := [name for name, found in beside.items() if stated.get(name) != found]:
        raise ForeignResult(
            f"{folder / RESULT}: is the result of another run than the one that {' and '.join(other)} beside it "
            f"describe{'s' * (len(other) == 1)}; bring the files of one run back from a copy, or move the result away: "
            "the same command then "
            "goes on from the last checkpoint, or begins anew"
        )


_hydra_files: dict[str, str] = {}


def keep_hydra_files(files: Mapping[str, str]) -> None:
    """What Hydra writes about this process's job (`config.yaml`, `overrides.yaml`, `hydra.yaml`), until a folder is its
    own: Hydra itself writes before anything is checked, also into the folder of another run."""
    _hydra_files.clear()
    _hydra_files.update(files)


def write_hydra_files(folder: Path) -> None:
    """Writes them into `.hydra` of a folder; nothing where the job was not started by Hydra."""
    if _hydra_files:
        (folder / HYDRA).mkdir(parents=True, exist_ok=True)
    for name, text in _hydra_files.items():
        write(folder / HYDRA / name, [text.encode()])


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one with dotted keys, as W&B shows and filters them."""
    out = {}
    for key, value in values.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return out


def wandb_name(name: str) -> str:
    """A run's name as long as W&B takes it; that of a job of a large sweep may be longer."""
    return shortened(name, MOST_OF_A_NAME)


def new_wandb_id(folder: Path, known: str | None = None) -> str:
    """The W&B id of a run: that of the environment (`wandb agent` gives one to each trial), else the known one, or a
    new one.

    Raises:
        RunError: the run in the folder has another id than the environment says.
    """
    asked = os.environ.get(RUN_ID)
    if asked and known and asked != known:
        ways = "run.dir=<another folder>, or unset it"
        raise RunError(f"{folder} holds W&B's run {known}, and {RUN_ID} is {asked}; {ways}")
    return known or asked or uuid.uuid4().hex[:8]


def lives_elsewhere(folder: Path) -> bool:
    """Whether the folder is a copy of one that is still there: both would write into one run of W&B's.

    `run.dir` may be relative, so a copied project has the same: `run.json` has the place itself.
    """
    with suppress(RunError, OSError):
        mine = read_json(folder, RUN) or {}
        place = mine.get(PLACE) or ((read_json(folder, CONFIG) or {}).get("run") or {}).get("dir")
        if place and Path(place).is_dir() and folder.exists() and not Path(place).samefile(folder):
            return "wandb_id" in mine and mine["wandb_id"] == (read_json(Path(place), RUN) or {}).get("wandb_id")
    return False


def copy_note(folder: Path) -> str:
    """What is said of a folder that `lives_elsewhere`."""
    return f"{folder} is a copy: in W&B it goes on as a run of its own"


def differences(old: dict[str, Any], new: dict[str, Any], aside: Collection[str] = ()) -> list[str]:
    """The fields in which two dumped configs differ, a line each.

    A field that one of them lacks, as those of an earlier version and of another choice do, counts as null: what it
    would have been is not known, for defaults change.

    Args:
        aside: keys that are left out, with all below them.
    """
    a, b = flatten(old), flatten(new)
    aside = (*aside, MODULE_VALUES)  # its hash covers them
    differing = [key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key) and not is_below(key, aside)]
    if {MODULE, MODULE_HASH} <= {*differing}:  # its name says it
        differing.remove(MODULE_HASH)
    return [_difference(key, a, b) for key in differing]


def _difference(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """`key: old → new`; of a fingerprint, whose digits tell nobody anything, what it is taken of."""
    if key == MODULE_HASH:
        values = sorted(name for name in old.keys() | new.keys() if is_below(name, (MODULE_VALUES,)))
        said = [f"{name.partition('.')[2]} {old.get(name, 'absent')} → {new.get(name, 'absent')}"
                for name in values if old.get(name) != new.get(name)]  # fmt: skip
        what = ", ".join(said) or "its source, or that of a function or class which it uses"
        return f"module {new.get(MODULE)}: what it computes with is another: {what}"
    if any(isinstance(one.get(key), str) and _FINGERPRINT.fullmatch(one[key]) for one in (old, new)):
        return f"{key}: {'other content' if key in old and key in new else 'new' if key in new else 'gone'}"
    return f"{key}: {_shown(old, key)} → {_shown(new, key)}"


def _shown(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "absent"


def refuse_other_settings(
    folder: Path, saved: dict[str, Any], wanted: dict[str, Any], may_change: tuple[str, ...] = (), way_out: str = ""
) -> list[str]:
    """A run is never overwritten by another one.

    Args:
        may_change: keys that may differ, with all below them; their differences are returned, a line each.
        way_out: what else the user can do.

    Raises:
        RunError: with every other setting that differs.
    """
    if other := differences(saved, wanted, may_change):
        lines = "\n  ".join(other)
        choose = f"choose another with {_where_else(wanted)}{way_out}"
        raise RunError(f"{folder} holds a run with other settings; {choose}:\n  {lines}")
    return differences(saved, wanted)


def _where_else(wanted: Mapping[str, Any]) -> str:
    """How a run gets another folder: by its name, where the folder is called by it."""
    run = {"dir": "", "name": "its own"} | (wanted.get("run") or {})
    named = Path(run["dir"]).name in (run["name"], folder_name(run["name"]))
    if run.get("swept"):
        return "hydra.sweep.dir=<folder>"
    return "run.name=<name>" if named else "run.dir=<folder>"


LEAST_FILES = 100
"""That a job may write: more than a small run with W&B does."""


def check_disk(folder: Path, need: float, what: str) -> None:
    """Says before anything is written that it will not fit; `need` in bytes.

    Raises:
        RunError: less is free. No fault of the machine: a scheduler would start the same again on the same disk.
    """
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < need:
        raise RunError(f"{folder}: {what} needs about {need / 1e9:.2f} GB of disk, {free / 1e9:.2f} GB are free")
    files = os.statvfs(place)
    if files.f_files and files.f_favail < LEAST_FILES:  # a file system without a limit says 0
        left = f"the disk has room for {files.f_favail} (its inodes are used)"
        raise RunError(f"{folder}: {what} needs up to {LEAST_FILES} files, {left}")


def check_replaceable(folder: Path) -> None:
    """Says before anything is done that a folder which is replaced as a whole in the end cannot be.

    Raises:
        RunError: its name is a file's, or a disk's own (a mount point): neither can be taken by another folder.
    """
    place = folder.resolve()
    if place.exists() and not place.is_dir():
        raise RunError(f"{folder}: is no folder; results go there: move it away, or choose another run.dir")
    if place.is_mount():
        raise RunError(
            f"{folder}: is a disk of its own, and is replaced as a whole in the end; link it to a folder on that disk"
        )


@contextmanager
def locked(
    folder: Path,
    check: Callable[[], None] = lambda: None,
    patience: float = 30.0,
    waiting: str = "waiting for another process to leave it",
) -> Iterator[None]:
    """Keeps a second process out of the folder; one that was just killed may take a moment to be gone.

    A folder into which nothing is written inside the block is removed again.

    Args:
        check: called while waiting; ends it by what it raises.
        patience: seconds to wait.
        waiting: said once while it waits; "": nothing is.

    Raises:
        RunError: another process runs here.
    """
    ends, said = time.monotonic() + patience, False
    while not (file := _lock(folder)):
        if time.monotonic() > ends:
            raise RunError(f"{folder}: another process is running here; stop it, or choose another run.dir")
        if waiting and not said:
            print(f"{folder}: {waiting}", file=sys.stderr, flush=True)
        said = True
        check()
        time.sleep(0.2)
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # while it is held: who waits for this file looks for the new one
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        file.close()


_NOT_HERE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def _cannot_be_made(folder: Path, why: str) -> RunError:
    return RunError(f"run.dir={folder}: no run can be kept there ({why}); run.dir=<another folder>")


def check_can_be_made(folder: Path) -> None:
    """What `locked` would find, without making anything.

    Raises:
        RunError: a new folder may not be made there.
    """
    if folder.exists():
        return
    place = next(p for p in folder.absolute().parents if p.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise _cannot_be_made(folder, f"{place} may not be written")


def _lock(folder: Path) -> IO[str] | None:
    """The locked file, or None if another process holds it, or has just removed it."""
    if os.path.lexists(folder) and not folder.is_dir():
        what = "is a link to a folder that is not there" if folder.is_symlink() else "exists and is no run folder"
        raise RunError(f"{folder}: {what}; choose another with run.dir=<folder>")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
        raise _cannot_be_made(folder, error.strerror or "") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if (folder / LOCK).stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:  # a file system without locks
        return file
    file.close()
    return None
