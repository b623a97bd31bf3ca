"""Lets SkyPilot's own parser read the job files; needs an environment of its own, for its 96 packages.

python3 -m venv /tmp/sky && /tmp/sky/bin/pip install skypilot==0.14.0 pyyaml
/tmp/sky/bin/python experiments/spot/check.py
"""

import sys
from pathlib import Path

import sky  # pyright: ignore[reportMissingImports]
import yaml


def problems(file: Path) -> list[str]:
    """What is wrong with a job file."""
    written = yaml.safe_load(file.read_text())
    task = sky.Task.from_yaml_config(written, secrets_overrides=[(name, "x") for name in written["secrets"]])
    found = []
    for resources in task.resources:
        recovery = resources.job_recovery or {}
        if not resources.use_spot or recovery.get("recover_on_exit_codes") != [33, 35]:
            found.append(f"{resources}: no spot machine that comes back on 33 and 35 alone")
    if not any(resources.accelerators for resources in task.resources):
        found.append("no accelerators")
    modes = {mount: storage.mode.name for mount, storage in task.storage_mounts.items()}
    if modes.get("/runs") != "MOUNT_CACHED":
        found.append(f"/runs is mounted as {modes}")
    if not (isinstance(task.run, str) and "SKYPILOT_TASK_ID" in task.run):
        found.append("the run's folder does not follow from the job's id")
    return found


if __name__ == "__main__":
    wrong = {file.name: problems(file) for file in sorted(Path(__file__).parent.glob("*.yaml"))}
    for name, found in wrong.items():
        print(f"{name}: {'; '.join(found) or 'ok'}")
    sys.exit(any(wrong.values()))
