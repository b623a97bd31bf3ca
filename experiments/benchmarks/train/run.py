"""Runs every system several times, interleaved, each in its own process; writes results.json and prints the table.

    pip install -c constraints.txt -e . && pip install "trl==1.16.0" datasets
    python experiments/benchmarks/train/run.py --rounds 5

`worker.py` says what each system does. Ratios are taken within a round, so a machine whose speed
drifts does not decide them; the table shows medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

SYSTEMS = ["ours", "trl_bfd", "trl_padding_free", "hf_flattening", "padded"]
HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def once(system: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.train.worker", system], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        sys.exit(f"{system} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(rounds: list[dict[str, dict[str, float]]]) -> str:
    def median(system: str, key: str) -> float:
        return statistics.median(r[system][key] for r in rounds)

    def ratio(system: str, key: str) -> str:
        values = [r["ours"][key] / r[system][key] for r in rounds]
        return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"

    lines = [
        "| system | supervised tokens/s | ours / it | peak memory above model, MiB | ours / it | first step after, s |",
        "|---|---|---|---|---|---|",
    ]
    for s in rounds[0]:
        speed, memory = "supervised_tokens_per_second", "peak_memory_above_model"
        lines.append(
            f"| {s} | {median(s, speed):.0f} | {ratio(s, speed)} | {median(s, memory) / 2**20:.0f} | "
            f"{ratio(s, memory)} | {median(s, 'seconds_to_first_step'):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--systems", nargs="+", default=SYSTEMS)
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    arguments = parser.parse_args()
    rounds = []
    for number in range(arguments.rounds):
        order = (
            arguments.systems[number % len(arguments.systems) :] + arguments.systems[: number % len(arguments.systems)]
        )
        measured = {system: once(system) for system in order}
        rounds.append({system: measured[system] for system in arguments.systems})
        print(
            f"round {number + 1}: "
            + ", ".join(f"{s} {r['supervised_tokens_per_second']:.0f}/s" for s, r in rounds[-1].items()),
            flush=True,
        )
        arguments.output.write_text(json.dumps(rounds, indent=1))
    print(table(rounds))


if __name__ == "__main__":
    main()
