"""`wandb sync` for run folders wherever they lie now.

python -m vicuna_lit.tracking.sync <folder of a run or sweep> … [options of wandb sync]

W&B's record names the files of tables and models by the paths that they had. From a folder that was moved or copied
`wandb sync` leaves them out, says "Finished syncing", and takes the run for synced. So the paths are mended first.
"""

import subprocess
import sys
from pathlib import Path, PurePosixPath

from vicuna_lit.tracking.records import chunks, log_of, message

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
            if here and here != entry.local_path:
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


def _now(folder: Path, before: str, size: int) -> str | None:
    """Where a file of the run lies, whose path once was `before`."""
    parts = PurePosixPath(before).parts
    for place in (i for i, name in enumerate(parts) if name in INSIDE):
        here = folder.joinpath(*parts[place:])
        if here.is_file() and here.stat().st_size == size:
            return str(here)
    return None


def main(arguments: list[str]) -> int:
    """The command: mends what was moved, and runs `wandb sync`; its exit code, or 1 where files are missing."""
    folders = [Path(one) for one in arguments if not one.startswith("-")]
    options = [one for one in arguments if one.startswith("-")]
    records = [record for folder in folders for record in sorted(folder.rglob("wandb/*run-*/run-*.wandb"))]
    if not records:
        said = ", ".join(map(str, folders)) or "no folder"
        print(f"error: {said}: no record of W&B; give folders of runs that were logged offline", file=sys.stderr)
        return 2
    lost = [file for record in records for file in mend_paths(record)]
    command = [sys.executable, "-m", "wandb", "sync", *options, *(str(record.parent) for record in records)]
    code = subprocess.run(command).returncode
    if lost:
        said = f"{len(lost)} files of tables or models are not in these folders and were left out"
        print(f"error: {said}, the first: {lost[0]}; copy whole run folders", file=sys.stderr)
    return code or int(bool(lost))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
