"""Checks the GPU path on the card at hand, in three phases, and measures it.

    python -m experiments.benchmarks.gpu.check A B --out results      # correctness of the parts, and of the command
    python -m experiments.benchmarks.gpu.check C --out results        # speed, beside TRL and transformers' Trainer
    python -m experiments.benchmarks.gpu.check A B C --tiny           # all of it in miniature, on a CPU

Every step is a process of its own with a time limit, so one that hangs or dies costs no other; in miniature a phase
is one, for to start one takes longer than what it does. What it finds goes to
`results.jsonl` line by line as soon as it is there; a table comes last. Nothing is fetched; what is lacking is said.
The exit code is 1 where a check failed. `report.py` makes the README's tables of the lines.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments.benchmarks.gpu.found import Found

STEPS: dict[str, dict[str, int]] = {
    "A": {
        "ceilings": 30,
        "attention_all": 120,
        "models": 60,
        "heads": 60,
        "bits": 40,
        "activations": 120,
        "probes": 40,
    },
    "B": {"strategies": 150, "stops": 120, "finetunes": 120},
    "C": {"ours": 240, "job": 90, "peers": 200},
}
"""Seconds that each step of a phase may take."""
MODULES = {"A": "correctness", "B": "command", "C": "speed"}
PACKAGES = (
    "torch transformers lightning deepspeed bitsandbytes peft liger_kernel trl flash_attn flash_attn_4 wandb".split()
)
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}


def about(found: Found) -> None:
    """The card, and the versions of what matters."""
    import torch

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name.replace("_", "-"))
        except PackageNotFoundError:
            versions[name] = None
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found.add("about", True, card=card, cuda=torch.version.cuda, python=sys.version.split()[0], versions=versions)
    if lacking := [name for name, number in versions.items() if number is None]:
        print(f"lacking here: {', '.join(lacking)}", flush=True)


def run_steps(phase: str, steps: list[str], options: argparse.Namespace) -> None:
    """Steps in a process of their own; what they did not get to is a failed check."""
    step = ",".join(steps)
    command = [sys.executable, "-m", "experiments.benchmarks.gpu.check", phase, "--step", step, "--out", options.out]
    limit = sum(STEPS[phase][name] for name in steps) * (6 if options.tiny else 1)
    started = time.monotonic()
    log = Path(options.out) / f"{phase}_{step}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, *(["--tiny"] if options.tiny else [])],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()},
            start_new_session=True,  # what it started ends with it
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    seconds = time.monotonic() - started
    if code:
        last = (log.read_text(errors="replace").strip().splitlines() or ["?"])[-1][:200]
        Found(options.out, phase, options.tiny).add(step, False, error=f"exit {code}: {last}")
    elif code is None:
        Found(options.out, phase, options.tiny).add(step, False, error=f"not done in {limit} s")
    print(f"{phase} {step}: {seconds:.0f} s", flush=True)


def main() -> None:
    """Runs phases, or one step of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phases", nargs="+", choices=list(STEPS))
    parser.add_argument("--tiny", action="store_true", help="in miniature, on any machine")
    parser.add_argument("--out", default="runs/gpu_check", help="folder of results.jsonl and logs")
    parser.add_argument("--step", help="these steps alone, joined by commas, in this process")
    parser.add_argument("--only", default="", help="steps, joined by commas; the others are left out")
    options = parser.parse_args()
    Path(options.out).mkdir(parents=True, exist_ok=True)
    options.out = str(Path(options.out).resolve())
    if options.step:
        (phase,) = options.phases
        module: Any = import_module(f"experiments.benchmarks.gpu.{MODULES[phase]}")
        for step in options.step.split(","):
            job: Callable[[Found], None] = getattr(module, step)
            job(Found(options.out, phase, options.tiny))
        return
    import torch

    if not torch.cuda.is_available() and not options.tiny:
        sys.exit("no NVIDIA GPU here; --tiny shows that the script runs")
    file = Path(options.out) / "results.jsonl"
    before = len(file.read_text().splitlines()) if file.exists() else 0
    about(Found(options.out, "-", options.tiny))
    only = set(filter(None, options.only.split(",")))
    for phase in options.phases:
        steps = [step for step in STEPS[phase] if not only or step in only]
        for together in [steps] if options.tiny and steps else [[step] for step in steps]:
            run_steps(phase, together, options)
    rows = [json.loads(line) for line in file.read_text().splitlines()[before:]]
    print("\n| phase | check | | figures |\n|---|---|---|---|")
    for row in rows:
        figures = ", ".join(f"{k} {v}" for k, v in row["figures"].items() if k != "versions")
        print(f"| {row['phase']} | {row['check']} | {'ok' if row['ok'] else 'FAILED'} | {figures} |")
    failed = sum(not row["ok"] for row in rows)
    print(f"\n{len(rows)} checks, {failed} failed; {file}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
