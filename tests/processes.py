"""Several runs in one group of processes: starting Python for each would take most of the time.

`python -m tests.processes <file>` runs every list of overrides in a JSON file under torchrun.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def run_all(jobs: list[list[str]], folder: Path, processes: int = 2) -> None:
    """Runs each list of overrides of the train job in a group of processes; fails with what they printed."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, "-m", "tests.processes", str(file)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"},
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


if __name__ == "__main__":
    from vicuna_lit.compose import load
    from vicuna_lit.train.run import fit

    for overrides in json.loads(Path(sys.argv[1]).read_text()):
        fit(load("train", *overrides))
