"""Measures every system in its settings, step by step in turn, on one core; writes results.json.

    python3 -m venv .venv-peers && .venv-peers/bin/pip install -c constraints.txt -e . "trl==1.16.0" "datasets==5.2.0"
    .venv-peers/bin/python -m experiments.benchmarks.train.run             # the groups that results.json lacks
    .venv-peers/bin/python -m experiments.benchmarks.train.run --anew      # all of them
    python -m experiments.benchmarks.train.report                          # the README's table

TRL is left out where it is not installed. `worker.py` says what each system does. The settings of a group run side by
side, each in its own process, and take their optimizer steps in turn, so that only one of them computes at a time: each
step is a round in which all train on the same conversations, ours too, and ratios are taken within it. The machine may
be shared: times are the process's own processor seconds, of one thread on one core (wall-clock seconds stand beside
them in results.json).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from experiments.benchmarks.train import report  # noqa: E402
from experiments.benchmarks.train.job import CONTEXT, Job  # noqa: E402
from vicuna_lit.config.base import PACKAGE  # noqa: E402
from vicuna_lit.models.lm_head import cpu_multiplies_bf16  # noqa: E402


class Group(NamedTuple):
    """Settings that run side by side; the first is what the others are compared with."""

    settings: list[str]
    """`system/conversations in a micro-batch/precision`; ours lays out its rows itself."""
    context: int = CONTEXT
    options: tuple[str, ...] = ()
    """Of `worker.py`."""


GROUPS = [
    Group(["ours/fp32", "ours_loop/fp32", "hf/1/fp32", "hf_flattening/1/fp32", "trl/1/fp32", "trl_bfd/1/fp32"]),
    Group(["ours/fp32", "hf/3/fp32", "hf_flattening/3/fp32", "trl/3/fp32"]),
    Group(["ours/bf16", "ours/fp32", "hf/1/bf16", "trl/1/bf16"], CONTEXT if cpu_multiplies_bf16() else 128),
]
"""Processes side by side take about 2 GiB each. A processor without units for bf16 gets shorter conversations: each
product takes it eight times as long and more."""
QUICKSTART = (f"--data={PACKAGE / 'quickstart/conversations.jsonl'}", f"--tokenizer={PACKAGE / 'quickstart/tokenizer'}")
TINY = [Group(["ours/fp32", "hf/1/fp32", "trl/1/fp32"], 256, QUICKSTART)]


class Worker:
    """A process that trains one setting, a step whenever it is told to."""

    def __init__(self, name: str, group: Group, core: int):
        system, *micro, precision = name.split("/")
        command = [sys.executable, "-m", "experiments.benchmarks.train.worker", system, "--precision", precision]
        command += ["--context", str(group.context), *group.options, *(["--micro", *micro] if micro else [])]
        self.name = name
        self.ready, ready = os.pipe()
        go, self.go = os.pipe()
        self.out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
        os.sched_setaffinity(0, {core})  # the process inherits it
        self.process = subprocess.Popen(
            [*command, "--turns", str(ready), str(go)],
            stdout=self.out, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, pass_fds=(ready, go),
        )  # fmt: skip
        os.close(ready)
        os.close(go)

    def wait(self) -> None:
        """Until it is about to begin a step, or has finished the one before."""
        if not os.read(self.ready, 1):
            sys.exit(f"{self.name} failed:\n{self.said()[-3000:]}")

    def step(self) -> None:
        os.write(self.go, b"g")
        self.wait()

    def finish(self) -> report.Run:
        """Lets it go on without waiting."""
        os.write(self.go, b"g")
        os.close(self.go)
        self.process.wait()
        lines = [line for line in self.said().splitlines() if line.startswith('{"system"')]
        if self.process.returncode or not lines:
            sys.exit(f"{self.name} failed:\n{self.said()[-3000:]}")
        return json.loads(lines[-1])

    def said(self) -> str:
        self.process.wait()
        self.out.seek(0)
        return self.out.read().decode(errors="replace")


def measure(group: Group, core: int) -> list[report.Run]:
    """A run of every setting, their steps in turn."""
    names = [name for name in group.settings if not name.startswith("trl") or find_spec("trl")]
    if len(names) < len(group.settings):
        print("TRL is left out: it is not installed (the README says how)", flush=True)
    workers = []
    for name in names:
        workers.append(Worker(name, group, core))
        workers[-1].wait()
        print(f"{name} is ready", flush=True)
    for step in range(Job("").steps):
        turn = step % len(workers)
        for worker in workers[turn:] + workers[:turn]:
            worker.step()
        print(f"step {step + 1} of {', '.join(names)}", flush=True)
    return [worker.finish() for worker in workers]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--core", type=int, default=0, help="the processor that everything runs on")
    parser.add_argument("--groups", nargs="+", type=int, help="their numbers, from 0; without: all")
    parser.add_argument("--anew", action="store_true", help="measures them again")
    parser.add_argument("--output", type=Path, default=report.HERE / "results.json")
    parser.add_argument("--tiny", action="store_true", help="shows that it runs, on the quickstart's conversations")
    options = parser.parse_args()
    groups = TINY if options.tiny else GROUPS
    runs = report.load(options.output) if options.output.exists() else []
    for number in range(len(groups)) if options.groups is None else options.groups:
        if any(run["group"] == number for run in runs) and not options.anew:
            continue
        runs = [run for run in runs if run["group"] != number]
        runs += [{"group": number} | run for run in measure(groups[number], options.core)]
        runs.sort(key=lambda run: run["group"])
        options.output.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
        report.check(runs)
    print(report.table(runs))


if __name__ == "__main__":
    main()
