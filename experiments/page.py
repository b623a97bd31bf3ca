"""The picture of a sweep's page: an experiment's results.csv → what `vicuna-compare` writes → PNG, by Chromium.

python -m experiments.page experiments/001_context_length context_length
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from experiments import tables
from vicuna_lit.compare.report import write_report
from vicuna_lit.compare.runs import read_sweep

WIDTH, HEIGHT = 1120, 1088
"""Pixels: as wide as the page, down to the end of its first figure."""
METRICS = ("val_loss", "peak_memory_bytes", "tokens", "supervised_tokens")
SHOWN = ("val_loss", "peak_memory_bytes", "supervised_tokens")
"""Of these in the table: a wider one is cut off in a picture, where nobody can scroll."""


def folders(rows: list[tables.Row], key: str, sweep: Path) -> None:
    """A run folder for each row, with what `vicuna-compare` reads of one."""
    for row in rows:
        swept = {key: row[key], "seed": row["seed"]}
        name = ",".join(f"{k}={v}" for k, v in swept.items())
        config = {"conversations_per_step": 2, "seed": int(row["seed"]), "run": {"name": name, "swept": swept}}
        kinds = ("turn", "position")
        losses = {f"val/loss_by_{c}": float(v) for c, v in row.items() if v and c.partition("/")[0] in kinds}
        result = {metric: float(row[metric]) for metric in METRICS} | {"status": "finished", "validation": losses}
        (sweep / name).mkdir(parents=True)
        (sweep / name / "config.json").write_text(json.dumps(config))
        (sweep / name / "result.json").write_text(json.dumps(result))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("experiment", type=Path)
    parser.add_argument("key", help="what was swept")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder, given.experiment.name)
        folders(tables.read(given.experiment / "results.csv"), given.key, sweep)
        page = write_report(read_sweep(sweep), sweep, SHOWN)
        picture = (given.experiment / "compare.png").absolute()
        size = f"--window-size={WIDTH},{HEIGHT}"
        command = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", size, f"--screenshot={picture}"]
        subprocess.run([*command, page.absolute().as_uri()], check=True, capture_output=True)
        Image.open(picture).convert("RGB").quantize(64).save(picture, optimize=True)


if __name__ == "__main__":
    main()
