"""A spot cloud on this machine: runs the real command, takes the machine away, starts it again, and counts the loss.

    python experiments/spot/simulate.py --interruptions 10 --seed 0 -- experiment=quickstart run.dir=runs/spot
    python experiments/spot/simulate.py --trace times.txt -- experiment=quickstart run.dir=runs/spot

Each interruption is one of
    notice    SIGTERM, and SIGKILL after --notice seconds, as clouds do it
    kill      SIGKILL alone, as the out-of-memory killer or a power loss
    truncate  SIGKILL, and the newest checkpoint loses the end of a file, as a bucket that uploads in the background
              would leave it (only where an older one is complete)
at a moment that the seed draws: while starting, in a step, in a save, or in a validation loss. A trace names the
moments itself: a line for each, the seconds that the machine lasts and optionally the kind.

The uninterrupted run of the same command in <run.dir>-reference is the yardstick, to the bit.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from vicuna_lit.train.checkpoint.format import find
from vicuna_lit.train.preemption import PREEMPTED
from vicuna_lit.train.times import lost_time

KINDS = ("notice", "notice", "kill", "truncate")
MOMENTS = ("start", "step", "save", "validation")
START_SECONDS = 8.0
"""About what imports and data take: the span in which a machine is taken away while starting."""


@dataclass(frozen=True)
class Interruption:
    """When the machine goes, and how."""

    kind: str
    moment: str
    """start, step, save, validation; or `after`: seconds alone."""
    seconds: float
    """After the moment; of start and after, the seconds that the machine lasts."""
    steps: int = 1
    """step: behind so many steps of this start; validation: behind a step that this number divides."""


@dataclass
class Outcome:
    """What became of a run."""

    command: list[str]
    interruptions: list[Interruption] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    unused: list[Interruption] = field(default_factory=list)
    """Those that the run was too quick for."""
    machine_seconds: float = 0.0
    mismatches: list[str] = field(default_factory=list)


def random_trace(count: int, seed: int, validation_every: int = 4) -> list[Interruption]:
    """Interruptions of every kind at every moment."""
    rng = random.Random(seed)
    trace = []
    for i in range(count):
        kind, moment = rng.choice(KINDS), MOMENTS[i % len(MOMENTS)]
        seconds = rng.uniform(0, START_SECONDS) if moment == "start" else rng.uniform(0, 0.03)
        trace.append(
            Interruption(kind, moment, seconds, validation_every if moment == "validation" else rng.randint(1, 3))
        )
    rng.shuffle(trace)
    return trace


def read_trace(file: Path) -> list[Interruption]:
    """`<seconds> [<kind>]` lines; # begins a comment."""
    lines = [line.partition("#")[0].split() for line in file.read_text().splitlines()]
    return [Interruption(line[1] if len(line) > 1 else "notice", "after", float(line[0])) for line in lines if line]


def steps_done(folder: Path) -> int:
    """Rows in `metrics.csv`."""
    try:
        return max(0, (folder / "metrics.csv").read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


def _start_rows(folder: Path) -> list[list[str]]:
    try:
        lines = (folder / "times.csv").read_text().splitlines()
    except OSError:
        return []
    return [line.split(",") for line in lines if ",start," in line]


def starts(folder: Path) -> int:
    """How often the run came as far as its first step."""
    return len(_start_rows(folder))


def first_step(folder: Path) -> int:
    """Where the newest start went on."""
    rows = _start_rows(folder)
    return int(rows[-1][1]) if rows else 0


def of_trainer(folder: Path) -> list[Path]:
    """Checkpoints of HF's Trainer, oldest first."""
    return sorted((folder / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.removeprefix("checkpoint-")))


def being_saved(folder: Path) -> bool:
    """A checkpoint is there that is not whole; HF's Trainer writes the state of its own last."""
    half = any(not (path / "trainer_state.json").exists() for path in of_trainer(folder)[-1:])
    return half or bool(find(folder / "checkpoints").half_written)


def wait(process: subprocess.Popen[bytes], one: Interruption, folder: Path) -> None:
    """Until the moment has come, or the run has ended."""
    lives = starts(folder)
    reached: dict[str, Callable[[], bool]] = {
        "step": lambda: steps_done(folder) >= first_step(folder) + one.steps,
        "validation": lambda: steps_done(folder) > 0 and steps_done(folder) % one.steps == 0,
        "save": lambda: being_saved(folder),
    }
    now = reached.get(one.moment)
    while now and process.poll() is None and not (starts(folder) > lives and now()):
        time.sleep(0 if one.moment == "save" else 0.0005)
    ends = time.monotonic() + one.seconds
    while process.poll() is None and time.monotonic() < ends:
        time.sleep(0.0005)


def take_away(process: subprocess.Popen[bytes], one: Interruption, folder: Path, notice: float) -> None:
    """The machine goes, with all that runs on it."""
    if one.kind == "notice":
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(notice)
    if process.poll() is None:
        process.kill()
        process.wait()
    time.sleep(0.3)  # the processes that it started end with it
    checkpoints = [c.path for c in find(folder / "checkpoints").complete]
    checkpoints += of_trainer(folder)
    if one.kind == "truncate" and len(checkpoints) > 1:
        largest = max(checkpoints[-1].iterdir(), key=lambda p: p.stat().st_size, default=None)
        if largest:
            with largest.open("r+b") as file:
                file.truncate(largest.stat().st_size * 2 // 3)


def simulate(
    command: Sequence[str],
    folder: Path,
    trace: Sequence[Interruption],
    notice: float = 10.0,
    log: Path | None = None,
    mend: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Runs the command until it ends by itself, taking the machine away as the trace says.

    Args:
        mend: what a person does when the command fails; False: nothing.

    Raises:
        RuntimeError: the command ended with another code than 0, 33 or that of a signal.
    """
    outcome = Outcome(list(command))
    environment = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}  # it goes with the machine
    todo = list(trace)
    with (log or Path(os.devnull)).open("ab") as out:
        while True:
            started = time.monotonic()
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
            if todo:
                wait(process, todo[0], folder)
                if process.poll() is None:
                    take_away(process, todo[0], folder, notice)
                    outcome.interruptions.append(todo.pop(0))
                    where, left = f"{outcome.interruptions[-1].moment}, step {steps_done(folder)}", len(todo)
                    print(f"{outcome.interruptions[-1].kind} ({where}); {left} to come", file=sys.stderr, flush=True)
            process.wait()
            outcome.machine_seconds += time.monotonic() - started
            outcome.exit_codes.append(process.returncode)
            if process.returncode == 0:
                outcome.unused = todo
                return outcome
            taken = process.returncode in (PREEMPTED, -signal.SIGTERM, -signal.SIGKILL)
            if not taken and not mend():
                raise RuntimeError(f"exit code {process.returncode}; see {log}")


def mismatches(folder: Path, reference: Path) -> list[str]:
    """Where a run differs from the one left alone: metrics and ledger, weights, validation losses, samples."""
    found = []
    if (folder / "metrics.csv").read_bytes() != (reference / "metrics.csv").read_bytes():
        found.append("metrics.csv")
    ours, theirs = (load_file(f / "hf" / "model.safetensors") for f in (folder, reference))
    found += [name for name in theirs if not (name in ours and ours[name].equal(theirs[name]))]
    ours, theirs = (json.loads((f / "result.json").read_text()) for f in (folder, reference))
    keys = ("status", "steps", "supervised_tokens", "val_by_step", "validation", "replies", "data")
    return found + [key for key in keys if ours[key] != theirs[key]]


def report(outcome: Outcome, folder: Path, reference: Path, spot: float, on_demand: float) -> str:
    """The loss in time and money."""
    kinds = Counter(one.kind for one in outcome.interruptions)
    moments = Counter(one.moment for one in outcome.interruptions)
    lost, alone = lost_time(folder), lost_time(reference)
    assert lost is not None
    assert alone is not None
    lines = [
        f"interruptions     {len(outcome.interruptions)}: {listed(kinds)}; in {listed(moments)}",
        f"exit codes        {listed(Counter(outcome.exit_codes))}",
        f"differences       {', '.join(outcome.mismatches) or 'none'} (metrics, weights, validation losses)",
        f"steps replayed    {lost.steps_replayed}",
        f"time              {lost.total:.0f} s, {alone.total:.0f} s without interruptions",
        *(f"  {name:<14}  {seconds:8.1f} s  {seconds / lost.total:6.1%}" for name, seconds in lost.parts().items()),
    ]
    if spot and on_demand:
        paid, full = outcome.machine_seconds / 3600 * spot, alone.total / 3600 * on_demand
        lines.append(f"cost              ${paid:.4f} on spot machines, ${full:.4f} on demand: {paid / full:.0%}")
    return "\n".join(lines)


def listed(counts: Counter[Any]) -> str:
    """`3 notice, 2 kill`."""
    return ", ".join(f"{count} {what}" for what, count in counts.most_common())


def main() -> None:
    """The command line."""
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interruptions", type=int, default=10, help="how many (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and kinds (0)")
    parser.add_argument("--trace", type=Path, help="a file of real interruption times")
    parser.add_argument("--notice", type=float, default=10.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--spot", type=float, default=0.0, help="$ per hour of the machine")
    parser.add_argument("--on-demand", type=float, default=0.0, help="$ per hour of the machine")
    parser.add_argument("--json", type=Path, help="also write the outcome here")
    options = parser.parse_args(sys.argv[1:split])
    overrides = sys.argv[split + 1 :]
    run_dir = next((o.removeprefix("run.dir=") for o in overrides if o.startswith("run.dir=")), None)
    if run_dir is None:
        parser.error("name the run's folder behind --: … -- run.dir=<folder>")
    folder, reference = Path(run_dir), Path(f"{run_dir}-reference")
    for used in (folder, reference):
        shutil.rmtree(used, ignore_errors=True)
    command = [sys.executable, "-m", "vicuna_lit.train", *overrides]
    print(f"the run left alone, in {reference} …", file=sys.stderr, flush=True)
    subprocess.run([*command, f"run.dir={reference}"], check=True, capture_output=True)
    trace = read_trace(options.trace) if options.trace else random_trace(options.interruptions, options.seed)
    outcome = simulate(command, folder, trace, options.notice, folder.with_name(f"{folder.name}.log"))
    outcome.mismatches = mismatches(folder, reference)
    print(report(outcome, folder, reference, options.spot, options.on_demand))
    if options.json:
        options.json.write_text(json.dumps(asdict(outcome), indent=1))
    sys.exit(bool(outcome.mismatches))


if __name__ == "__main__":
    main()
