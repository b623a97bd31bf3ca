"""`wandb sync` for run folders wherever they lie now.

python -m vicuna_lit.tracking.sync <folder of a run or sweep> … [-- <options of wandb sync>]

W&B's record names the files of tables and models by the paths that they had. From a folder that was moved or copied
`wandb sync` leaves them out, says "Finished syncing", and takes the run for synced. So the paths are mended first.
"""

import argparse
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath

from vicuna_lit.errors import say
from vicuna_lit.tracking.wandb_file import chunks, log_of, message, messages

QUIET_SECONDS = 300.0
"""A record without an end that was not written to for so long is that of a run that was killed."""
INSIDE = ("wandb", "hf")
"""Folders of a run that hold files which its record names."""


def mend_paths(record: Path) -> list[str]:
    """Gives a record the paths that its files have now; those that are not in its run's folder as they were.

    A record whose folder has not moved stays as it is, to the byte.

    Args:
        record: `<run folder>/wandb/offline-run-…/run-….wandb`.

    Returns:
        Files of artifacts that are nowhere.
    """
    log, lost, is_changed, parts = record.read_bytes(), [], False, []
    folder = record.absolute().parents[2]
    for data in chunks(log):
        if (found := message(data)) is None:
            break
        for entry in found.artifact.manifest.contents if found.HasField("artifact") else ():
            here = entry.local_path and _now(folder, entry.local_path, entry.size)
            if here and not _same(here, entry.local_path):
                entry.local_path = here
                is_changed = True
                data = found.SerializeToString()  # noqa: PLW2901
            elif entry.local_path and not here and not Path(entry.local_path).is_file():
                lost.append(entry.local_path)
        parts.append(data)
    if is_changed:
        new = record.with_name(record.name + ".part")
        new.write_bytes(log_of(log[:7], parts))
        new.replace(record)
    return lost


def is_written(record: Path) -> bool:
    """Whether a run still writes its record. What it adds to a file that another takes the place of would be lost."""
    if any(one.HasField("exit") for one in messages(record)):
        return False
    if time.time() - record.stat().st_mtime < QUIET_SECONDS:
        return True
    for open_file in Path("/proc").glob("[0-9]*/fd/*"):  # a run that is stopped writes nothing for long
        with suppress(OSError):
            if open_file.samefile(record):
                return True
    return False


def _same(one: str, other: str) -> bool:
    """Whether two paths lead to one file, as through a link."""
    with suppress(OSError):
        return Path(one).samefile(other)
    return False


def _now(folder: Path, before: str, size: int) -> str | None:
    """Where a file of the run lies, whose path once was `before`."""
    parts = PurePosixPath(before).parts
    for place in (i for i, name in enumerate(parts) if name in INSIDE):
        here = folder.joinpath(*parts[place:])
        if here.is_file() and here.stat().st_size == size:
            return str(here)
    return None


def main(arguments: list[str]) -> int:
    """The command: mends what was moved, and runs `wandb sync`; its exit code, or 1 where a file is missing or a run is
    left out."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m vicuna_lit.tracking.sync",
        description="Uploads runs that were logged offline, from wherever their folders lie now.",
        epilog="Behind -- stand options of wandb sync, such as -- --project mine.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="folder", help="of a run or a sweep")
    given, unknown = parser.parse_known_args(arguments[:split])
    if unknown:
        parser.error(f"{unknown[0]}: options of wandb sync stand behind the folders and --")
    of_each = {folder: sorted(folder.rglob("wandb/*run-*/run-*.wandb")) for folder in given.folders}
    if empty := [str(folder) for folder, records in of_each.items() if not records]:
        return say(f"{', '.join(empty)}: no record of W&B; give folders of runs that were logged")
    records = list(dict.fromkeys(record for found in of_each.values() for record in found))
    running = [record for record in records if is_written(record)]
    ended = [record for record in records if record not in running]
    lost = [file for record in ended for file in mend_paths(record)]
    command = [sys.executable, "-m", "wandb", "sync", *arguments[split + 1 :], "--"]
    code = subprocess.run([*command, *(str(record.parent) for record in ended)]).returncode if ended else 0
    for record in running:
        say(f"{record}: its run may still write it and was left out; try again once it has ended")
    if lost:
        said = f"{len(lost)} files of tables or models are not in these folders and were left out"
        say(f"{said}, the first: {lost[0]}; copy whole run folders")
    return code or int(bool(lost or running))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
