"""The prepare job against FastChat's scripts: speed, memory, and a whole run; writes results.json, prints the tables.

    python experiments/benchmarks/prepare/run.py --reference <python with fschat> --tokenizer <folder>

`raw.py` writes the input, `worker.py` runs FastChat's commands. Every run is a fresh process, held to as many cores as
it has workers. Systems are interleaved and ratios taken within a round, so a machine whose speed drifts does not
decide them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from raw import PACKAGE, write

HERE = Path(__file__).parent
OURS = [sys.executable, "-m", "vicuna_lit.prepare"]
SAMPLE_SECONDS = 0.05
Run = dict[str, float]
Command = Callable[[Path, Path, int], list[str]]


def commands(reference: str) -> dict[str, Command]:
    """Each system's command, from the raw file, the folder to write into, and the workers."""

    def ours(*overrides: str) -> Command:
        return lambda raw, out, n: [*OURS, f"raw={raw}", f"run.dir={out / 'run'}", f"workers={n}", *overrides]

    return {
        "reference": lambda raw, out, n: [
            reference, "-W", "ignore", str(HERE / "worker.py"), str(raw), str(out / "clean.json"), str(n)
        ],
        "ours, its rules": ours("preset=fastchat", "cut.enabled=false"),
        "ours, all steps": ours(),
    }  # fmt: skip


def package(tokenizer: str) -> Command:
    """Every step on the whole package, cut to the context."""
    return lambda _, out, n: [
        *OURS, f"raw={PACKAGE}", f"run.dir={out / 'run'}", f"workers={n}", f"tokenizer={tokenizer}"
    ]  # fmt: skip


def measured(command: Command, raw: Path, cores: int, *, memory: bool = False) -> Run:
    """Seconds of the whole process, and the peak memory of it and all below it."""
    with tempfile.TemporaryDirectory(dir=raw.parent) as folder, (Path(folder) / "log").open("w+") as log:
        argv = command(raw, Path(folder), cores)
        clock = time.perf_counter()
        hold = partial(os.sched_setaffinity, 0, sorted(os.sched_getaffinity(0))[:cores])
        process = subprocess.Popen(argv, stdout=log, stderr=log, preexec_fn=hold)
        peak = _watch(process) if memory else 0
        code = process.wait()
        seconds = time.perf_counter() - clock
        if code:
            log.seek(0)
            sys.exit(f"{argv} failed:\n{log.read()[-3000:]}")
    return {"seconds": seconds} | ({"peak_bytes": peak} if memory else {})


def _watch(process: subprocess.Popen[bytes]) -> int:
    """The largest sum of the resident sizes of a process and all below it."""
    peak, root = 0, psutil.Process(process.pid)
    while process.poll() is None:
        size = 0
        for one in [root, *_children(root)]:
            try:
                size += one.memory_info().rss
            except psutil.Error:  # gone since
                continue
        peak = max(peak, size)
        time.sleep(SAMPLE_SECONDS)
    return peak


def _children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.Error:
        return []


def speed(systems: dict[str, Command], raw: Path, one: Path, rounds: int) -> list[dict[str, dict[str, Run]]]:
    """Every system on one core and on two, with the raw file and with one record of it: start-up."""
    keys = {_label(name, n): (systems[name], n) for n in (1, 2) for name in systems}
    out = []
    for number in range(rounds):
        turn = number % len(keys)
        found: dict[str, dict[str, Run]] = {}
        for key in list(keys)[turn:] + list(keys)[:turn]:
            command, n = keys[key]
            found[key] = {"whole": measured(command, raw, n), "start_up": measured(command, one, n)}
        out.append({key: found[key] for key in keys})
        line = ", ".join(f"{key} {run['whole']['seconds']:.1f} s" for key, run in found.items())
        print(f"round {number + 1}: {line}", flush=True)
    return out


def speed_table(rounds: list[dict[str, dict[str, Run]]], count: int) -> str:
    measures = "seconds | conversations/s/core | reference / it"
    lines = [f"| system | {measures} | without start-up: {measures} |", "|" + "---|" * 7]
    for key in rounds[0]:
        cores = key.rsplit(", ", 1)[1]
        cells = [key]
        for less in (0, 1):
            seconds = [_seconds(r[key], less) for r in rounds]
            ratios = [_seconds(r[f"reference, {cores}"], less) / s for r, s in zip(rounds, seconds, strict=True)]
            middle, rate = statistics.median(seconds), count / statistics.median(seconds) / int(cores[0])
            cells += [f"{middle:.1f} ({min(seconds):.1f}-{max(seconds):.1f})", f"{rate:.0f}", _spread(ratios)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _label(system: str, cores: int) -> str:
    return f"{system}, {cores} core{'s' * (cores > 1)}"


def _seconds(run: dict[str, Run], less: int) -> float:
    return run["whole"]["seconds"] - less * run["start_up"]["seconds"]


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f}x ({min(values):.2f}-{max(values):.2f})"


def memory(systems: dict[str, Command], raws: dict[int, Path]) -> dict[str, dict[str, Run]]:
    return {
        _label(name, n): {str(count): measured(systems[name], raw, n, memory=True) for count, raw in raws.items()}
        for n in (1, 2)
        for name in systems
    }


def memory_table(found: dict[str, dict[str, Run]]) -> str:
    counts = [int(c) for c in next(iter(found.values()))]
    heads = " | ".join(f"{c:,} conversations, MiB" for c in counts)
    lines = [f"| system | {heads} | grows by |", "|---|" + "---|" * (len(counts) + 1)]
    for name, sizes in found.items():
        peaks = [sizes[str(c)]["peak_bytes"] for c in counts]
        cells = " | ".join(f"{p / 2**20:.0f}" for p in peaks)
        lines.append(f"| {name} | {cells} | {peaks[-1] / peaks[0]:.2f}x |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", required=True, help="Python of an environment with fschat, see README.md")
    parser.add_argument("--tokenizer", help="folder of LLaMA's tokenizer; without it the last part is skipped")
    parser.add_argument("--conversations", type=int, default=8800)
    parser.add_argument("--memory", type=int, nargs="+", default=[880, 17_600])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    arguments = parser.parse_args()
    systems = commands(arguments.reference)
    results: dict[str, Any] = {"load_before": os.getloadavg()[0], "conversations": arguments.conversations}

    def keep(part: str, found: Any) -> None:
        results[part] = found
        arguments.output.write_text(json.dumps(results, indent=1))

    with tempfile.TemporaryDirectory() as folder:
        raws = {n: Path(folder) / f"raw_{n}.json" for n in {1, arguments.conversations, *arguments.memory}}
        for n, raw in raws.items():
            write(n, raw)
        rounds = speed(systems, raws[arguments.conversations], raws[1], arguments.rounds)
        keep("speed", rounds)
        sizes = memory(systems, {n: raws[n] for n in sorted(arguments.memory)})
        keep("memory", sizes)
        print(speed_table(rounds, arguments.conversations), memory_table(sizes), sep="\n\n")
        if arguments.tokenizer is None:
            print("\nskipped: all conversations cut to the context (no --tokenizer)")
            return
        runs = [measured(package(arguments.tokenizer), raws[1], 2) for _ in range(3)]
        keep("package", runs)
        print(f"\nall conversations, all steps, cut: {statistics.median(r['seconds'] for r in runs):.1f} s")


if __name__ == "__main__":
    main()
