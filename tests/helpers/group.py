"""Groups of processes for tests, forked from one that has imported what a run needs (`tests/helpers/commands.py`).

What torchrun itself does is tested where it is started: `test_torchrun_passes_the_signal_on`,
`test_two_nodes_of_one_process_each`.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from tests.helpers import commands
from tests.helpers.runs import run_here
from vicuna_lit.train.distributed import _environment

LAST_WORDS = 30.0
"""Seconds that the other processes of a group have once one has failed."""


def run_group(jobs: list[dict[str, Any]], folder: Path, processes: int = 2) -> None:
    """Runs each job in one group of processes; fails with what they printed.

    A job has `overrides`, and `stop_after` where it shall fail behind that step.
    """
    shared = _environment(folder.name, processes, {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"})
    group = [
        commands.start(__name__, json.dumps(jobs), env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                       together=True)
        for rank in range(processes)
    ]  # fmt: skip
    ends = math.inf
    while any(process.poll() is None for process in group):
        if any(process.returncode for process in group):
            ends = min(ends, time.monotonic() + LAST_WORDS)
        if time.monotonic() > ends:
            for process in group:
                process.kill()
        time.sleep(0.02)
    said = "\n".join(process.said()[0][-6000:] for process in group)
    assert [process.returncode for process in group] == [0] * processes, said


if __name__ == "__main__":
    for job in json.loads(sys.argv[1]):
        run_here(**job)
