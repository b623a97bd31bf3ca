"""The cleaning alone, in memory: FastChat's function of one conversation against our steps that do the same work.

    python experiments/benchmarks/prepare/components.py --reference <python with fschat>

Processor time of one process each, interleaved, five rounds. No reading, no writing, no search for copies.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COUNT, ROUNDS = 2000, 5


def reference() -> Callable[[Any], Any]:
    import copy
    import warnings

    warnings.simplefilter("ignore")
    from fastchat.data.clean_sharegpt import (  # pyright: ignore[reportMissingImports]
        clean_html_one_sample,
    )

    return lambda record: clean_html_one_sample(copy.deepcopy(record))


def ours() -> Callable[[Any], Any]:
    from collections import Counter

    from vicuna_lit import load
    from vicuna_lit.prepare.steps import steps
    from vicuna_lit.records.conversation import Rejection
    from vicuna_lit.records.readers import parse

    pipeline = list(steps(load("prepare", "raw=x", "preset=fastchat")).values())

    def clean(record: Any) -> Any:
        result = parse(record, "x")
        for step in pipeline:
            if isinstance(result, Rejection):
                break
            result = step(result, Counter())
        return result

    return clean


def work(system: str, path: str) -> None:
    records = json.loads(Path(path).read_bytes())
    clean = reference() if system == "reference" else ours()
    for record in records[:100]:
        clean(record)
    start = time.process_time()
    for record in records:
        clean(record)
    print(len(records) / (time.process_time() - start))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", required=True, help="Python of an environment with fschat, see README.md")
    parser.add_argument("--work", nargs=2)
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
        return
    from raw import write

    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        write(COUNT, raw)
        rates: dict[str, list[float]] = {"reference": [], "ours": []}
        for _ in range(ROUNDS):
            for system, python in (("reference", arguments.reference), ("ours", sys.executable)):
                command = [python, "-W", "ignore", __file__, "--reference", "-", "--work", system, str(raw)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rates[system].append(float(done.stdout))
    ratios = [a / b for a, b in zip(rates["ours"], rates["reference"], strict=True)]
    for system, found in rates.items():
        print(f"{system}: {statistics.median(found):.0f} conversations/s ({min(found):.0f}-{max(found):.0f})")
    print(f"ours / reference: {statistics.median(ratios):.1f}x ({min(ratios):.1f}-{max(ratios):.1f})")


if __name__ == "__main__":
    main()
