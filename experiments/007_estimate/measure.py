"""Runs every config of `configs.py` for two steps and writes what it took at most: measured.csv.

    python -m experiments.007_estimate.measure [--only <text>]     # half an hour and more on two cores

Each runs twice: as it is, and with glibc told to give freed blocks back (`MALLOC_MMAP_THRESHOLD_`), so that the
process holds what its tensors hold. Rows that are there stay; the peak is `peak_memory_bytes` of `result.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments import tables

from .configs import RUNS, common

HERE = Path(__file__).parent
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="runs whose name holds this")
    parser.add_argument("--output", type=Path, default=HERE, help="where measured.csv goes")
    options = parser.parse_args()
    file = options.output / "measured.csv"
    rows: dict[str, Any] = {row["run"]: row for row in tables.read(file)} if file.exists() else {}
    for name in (n for n in RUNS if options.only in n and n not in rows):
        rows[name] = {"run": name, "default": peak(name, {}), "returning": peak(name, RETURNING)}
        tables.write(file, [rows[n] for n in RUNS if n in rows])
        print(rows[name], flush=True)


def peak(name: str, environment: dict[str, str]) -> int:
    """Bytes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vicuna_lit.train", *common(), *RUNS[name], f"run.dir={folder}/run"]
        subprocess.run(
            command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, capture_output=True
        )
        return json.loads(Path(folder, "run/result.json").read_text())["peak_memory_bytes"]


if __name__ == "__main__":
    main()
