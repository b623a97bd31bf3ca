"""Prepare's steps and its start, this checkout against an earlier one, in processor seconds.

    python experiments/benchmarks/prepare/pair.py <folder of the earlier checkout> <dump.json> --every 10 --rounds 7

Each checkout has one process that stays. In each round both clean every tenth conversation, step by step, the one that
begins changes from round to round; so a machine whose speed drifts does not decide. Start-up is the whole command on
one conversation.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

Round = dict[str, float]
HERE = Path(__file__).resolve()


def serve(dump: Path) -> None:
    """Runs in a checkout: a line of JSON with the seconds of each part for each line that comes in."""
    from collections import Counter

    from vicuna_lit import load

    try:
        from vicuna_lit.prepare.dedup import signatures
        from vicuna_lit.records.conversation import Rejection
        from vicuna_lit.records.readers import parse
    except ImportError:  # where these lay at 3f8ebeb
        from vicuna_lit.conversation import Rejection  # pyright: ignore
        from vicuna_lit.formats import parse  # pyright: ignore
        from vicuna_lit.prepare.duplicates import signatures  # pyright: ignore
    from vicuna_lit.prepare.steps import steps

    config = load("prepare", f"raw={dump}")
    pipeline: dict[str, Any] = steps(config)
    text = dump.read_bytes()
    for _ in sys.stdin:
        found: Round = {}
        clock = time.process_time()
        kept: list[Any] = [parse(record, "x") for record in json.loads(text)]
        kept = [c for c in kept if not isinstance(c, Rejection)]
        found["reading"], clock = time.process_time() - clock, time.process_time()
        for name, step in pipeline.items():
            results = [step(c, Counter()) for c in kept]
            found[name], clock = time.process_time() - clock, time.process_time()
            kept = [c for c in results if not isinstance(c, Rejection)]
        clock = time.process_time()
        signatures(kept, config.dedup)
        found["signatures"] = time.process_time() - clock
        print(json.dumps(found), flush=True)


def raw_records(dump: Path) -> list[Any]:
    """The records of a dump that parse; the package's file breaks off in its last one."""
    from vicuna_lit.records.conversation import Rejection
    from vicuna_lit.records.readers import records

    return [record for _, record in records([str(dump)]) if not isinstance(record, Rejection)]


def environment(checkout: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}


def start_up(checkout: Path, one: Path) -> float:
    """Processor seconds of the command on one conversation, with its children."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vicuna_lit.prepare", f"raw={one}", f"run.dir={folder}/out", "workers=1"]
        process = subprocess.Popen(command, cwd=checkout, env=environment(checkout), stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{checkout}: {command} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def rounds(checkouts: dict[str, Path], dump: Path, one: Path, count: int) -> list[dict[str, Round]]:
    """Each round's seconds by checkout and part; a first round, in which caches fill, is left out."""
    servers = {
        name: subprocess.Popen(
            [sys.executable, str(HERE), "--serve", str(dump)],
            cwd=folder, env=environment(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name, folder in checkouts.items()
    }  # fmt: skip
    out = []
    for number in range(count + 1):
        names = list(servers)[:: 1 if number % 2 else -1]
        found: dict[str, Round] = {}
        for name in names:
            server = servers[name]
            assert server.stdin and server.stdout
            server.stdin.write("\n")
            server.stdin.flush()
            found[name] = json.loads(server.stdout.readline())
        for name in names if number else ():
            found[name]["start-up"] = start_up(checkouts[name], one)
        if number:
            out.append(found)
    for server in servers.values():
        server.communicate()
    return out


def table(found: list[dict[str, Round]]) -> str:
    """Medians, and the ratio within a round with its range."""
    parts = dict.fromkeys(part for name in ("earlier", "now") for part in found[0][name])
    lines = ["| part | earlier, s | now, s | now / earlier |", "|---|---:|---:|---|"]
    steps = [part for part in parts if part not in ("reading", "signatures", "start-up")]
    sums = {"the steps": steps, "all but start-up": [part for part in parts if part != "start-up"]}
    for label, of in ({part: [part] for part in parts} | sums).items():
        old, new = ([sum(one[name].get(part, 0.0) for part in of) for one in found] for name in ("earlier", "now"))
        ratios = [b / a for a, b in zip(old, new, strict=True) if a]
        told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "–"
        lines.append(f"| {label} | {statistics.median(old):.3f} | {statistics.median(new):.3f} | {told} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("earlier", type=Path, nargs="?")
    parser.add_argument("dump", type=Path, nargs="?")
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", type=Path)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    if arguments.earlier is None or arguments.dump is None:
        parser.error("give the earlier checkout and a dump")
    with tempfile.TemporaryDirectory() as folder:
        records = raw_records(arguments.dump)[:: arguments.every]
        dump, one = Path(folder) / "part.json", Path(folder) / "one.json"
        dump.write_text(json.dumps(records))
        one.write_text(json.dumps(records[:1]))
        checkouts = {"earlier": arguments.earlier.resolve(), "now": HERE.parents[3]}
        found = rounds(checkouts, dump, one, arguments.rounds)
    print(f"{len(records):,} conversations, {len(found)} rounds, load {os.getloadavg()[0]:.1f}")
    print(table(found))


if __name__ == "__main__":
    main()
