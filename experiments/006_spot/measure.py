"""Real runs on this machine, taken away as the traces say; a folder each.

    python -m experiments.006_spot.measure <folder> [--fast]

An hour of a trace is `SECONDS` here, counted in processor seconds of the run (`clock.py`), so that whoever else uses
the machine does not enter. A machine that was away is there again at once. The run left alone is made again for each
seed; once more with a save behind every step, which tells what a save costs.
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import vicuna_lit
from experiments.spot.simulate import Interruption, mismatches, take_away
from vicuna_lit.train.preemption import PREEMPTED
from vicuna_lit.train.times import lost_time

from .model import traces

SECONDS = 10.0
"""An hour of a trace."""
NOTICE_SECONDS = 60.0
"""Of the wall, between SIGTERM and SIGKILL; not scaled, for no process ends within a hundredth of a second."""
STEPS = 100
POLICIES = {"kill, every 5": ("kill", 5), "kill, every 25": ("kill", 25), "notice, every 25": ("notice", 25)}
"""How the machine goes, and the steps between two saves."""
REAL = Path(vicuna_lit.__file__).parents[2] / "shared/data/conversations/sharegpt_v3_random_a.json"
QUICKSTART = Path(vicuna_lit.__file__).parent / "quickstart/conversations.jsonl"


def command(folder: Path, every: int | None, steps: int) -> list[str]:
    data = REAL if REAL.exists() else QUICKSTART
    return [
        sys.executable, "-m", "experiments.006_spot.clock", "experiment=quickstart", "data=files", f"data.path={data}",
        "data.max_conversations=120", "data.validation_fraction=0.05", "data.max_validation=4",
        f"trainer.max_steps={steps}",
        "conversations_per_step=6", "optimizer.lr=1e-3", "samples.questions=[]", "wandb.mode=disabled",
        "checkpoint.every_minutes=null", f"checkpoint.every_steps={every or 'null'}", f"run.dir={folder}",
    ]  # fmt: skip


def processor_seconds(pid: int) -> float:
    """What a process has used; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def of_children() -> float:
    """Processor seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(command: list[str], folder: Path, kind: str, lives: Iterable[float]) -> tuple[int, float]:
    """Starts the command until it has done its work, on machines that last so many processor seconds.

    Returns:
        How often a machine was taken, and the processor seconds of all of them.

    Raises:
        RuntimeError: the command failed.
    """
    taken, before = 0, of_children()
    with folder.with_name(f"{folder.name}.log").open("wb") as log:
        for lasts in lives:
            environment = os.environ | {"CLOCK": str(of_children() - before), "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            while process.poll() is None and processor_seconds(process.pid) < lasts:
                time.sleep(0.01)
            if process.poll() is None:
                take_away(process, Interruption(kind, "after", lasts), folder, NOTICE_SECONDS)
                taken += 1
            if process.wait() == 0:
                return taken, of_children() - before
            if process.returncode > 0 and process.returncode != PREEMPTED:
                raise RuntimeError(f"exit code {process.returncode}; see {log.name}")
    raise RuntimeError("the trace ends before the run")


def once(folder: Path, every: int | None, steps: int, reference: Path | None = None, kind: str = "kill",
         lives: Iterable[float] = (math.inf,)) -> dict[str, Any]:  # fmt: skip
    """One run, as a row; its folder keeps what it is made of."""
    shutil.rmtree(folder, ignore_errors=True)
    taken, seconds = run(command(folder, every, steps), folder, kind, lives)
    lost = lost_time(folder)
    assert lost is not None
    row = {
        "save_every": every,
        "steps": steps,
        "interruptions": taken,
        "machine_seconds": seconds,
        "mismatches": mismatches(folder, reference) if reference else [],
        "validation": json.loads((folder / "result.json").read_text())["validation"]["val/loss"],
        "lost_time": asdict(lost),
    }
    (folder / "outcome.json").write_text(json.dumps(row, indent=1))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fast", action="store_true", help="one trace, one policy, few steps, one interruption")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="several processes may share them")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    steps, few = (10, 1) if options.fast else (STEPS, None)
    if 0 in options.seeds:
        once(folder / "saving", 1, steps)
    chosen = [trace for seed in options.seeds for trace in traces().items() if trace[0][1] == seed]
    for (name, seed), lives in chosen[:few]:
        reference = folder / ("saving" if options.fast else f"alone-{seed}")
        if not reference.exists():
            once(reference, None, steps)
        for policy, (kind, every) in list(POLICIES.items())[:few]:
            seconds = [amid_steps(reference), 1e9] if options.fast else [SECONDS * h for h, _ in lives]
            where = folder / f"{name}-{seed}-{kind}-{every}"
            row = {"policy": policy, "trace": name, "seed": seed, "kind": kind, "lives": seconds}
            row["reference"] = reference.name
            row |= once(where, every, steps, reference, kind, seconds)
            (where / "outcome.json").write_text(json.dumps(row, indent=1))
            print(f"{where.name}: {row['interruptions']} interruptions, {row['machine_seconds']:.0f} s", flush=True)


def amid_steps(folder: Path) -> float:
    """Seconds until a run was amid its steps."""
    outcome = json.loads((folder / "outcome.json").read_text())
    return outcome["lost_time"]["starting"] + 0.7 * outcome["lost_time"]["useful"]


if __name__ == "__main__":
    main()
