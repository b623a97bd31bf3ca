"""The tables of the README beside it, from the lines that `check.py` wrote on a card.

python -m experiments.benchmarks.gpu.report results/results.jsonl            # prints them
python -m experiments.benchmarks.gpu.report results/results.jsonl --write    # into README.md and speeds.yaml
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from vicuna_lit.config.compose import ConfigError
from vicuna_lit.estimate.tables import gpu_called

HERE = Path(__file__).parent
SPEEDS = Path(__file__).parents[3] / "vicuna_lit" / "estimate" / "speeds.yaml"
MARKS = "<!-- results: written by report.py -->", "<!-- end of results -->"
SHAPES = {"llama3_2_1b": [1.24, 16, 2048], "llama3_2_3b": [3.21, 28, 3072], "llama3_1_8b": [8.03, 32, 4096]}
"""Weights in billions, layers, width: as `speeds.yaml` has them."""


def tables(rows: list[dict[str, Any]]) -> str:
    """What failed, and every figure."""
    about = next(row["figures"] for row in rows if row["check"] == "about")
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items() if number)
    checks = [row for row in rows if row["phase"] in ("A", "B")]
    failed = [row for row in checks if not row["ok"]]
    said = [f"{about['card'] or 'CPU'}; {versions}.", "", f"{len(checks)} checks of correctness, {len(failed)} failed."]
    said += (
        ["", "| failed | figures |", "|---|---|", *(f"| {r['check']} | {_figures(r)} |" for r in failed)]
        if failed
        else []
    )
    speeds = [row for row in rows if row["phase"] == "C"]
    if speeds:
        said += ["", "| speed | tokens/s | MFU, useful | TFLOP/s | peak GiB |", "|---|---|---|---|---|"]
    for row in speeds:
        f = row["figures"]
        if "tokens_per_second" not in f:
            said.append(f"| {row['check']} | {_figures(row)} | | | |")
            continue
        mfu = f"{f['mfu']:.1%}" if f.get("mfu") else "–"
        rates = f"{f['tokens_per_second']:,.0f} | {mfu} | {f.get('tflops', 0):.0f}"
        said.append(f"| {row['check']} | {rates} | {f.get('gib', 0):.1f} |")
    return "\n".join(said)


def _figures(row: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in row["figures"].items())


def speeds(rows: list[dict[str, Any]], card: str) -> list[str]:
    """Lines of `speeds.yaml`: our own full fine-tuning on whole conversations, by the names that it has."""
    found = []
    for row in rows:
        matched = re.fullmatch(r"ours (\w+) (\d+) (.*)", row["check"])
        if row.get("tiny") or not row["ok"] or not matched or matched[1] not in SHAPES or "lm_head=exact" in matched[3]:
            continue
        full = str("gradient_checkpointing=full" in matched[3]).lower()
        speed = round(row["figures"]["tokens_per_second"])
        found.append(f"  - [{matched[1]}, {card}, 1, {matched[2]}, {full}, {speed}, V]")
    return found


def write(rows: list[dict[str, Any]]) -> None:
    """Puts the tables into the README, and the speeds of a known card into the estimate's."""
    readme = HERE / "README.md"
    text = readme.read_text()
    start, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    readme.write_text(f"{text[:start]}\n{tables(rows)}\n{text[end:]}")
    about = next(row["figures"] for row in rows if row["check"] == "about")
    try:
        card = gpu_called(about["card"] or "")
    except ConfigError:  # no card, or none of the table's
        return
    if not (lines := speeds(rows, card)):
        return
    kept = [line for line in SPEEDS.read_text().splitlines() if not (line.endswith(", V]") and f", {card}, " in line)]
    if not any(line.startswith("  V:") for line in kept):
        kept.insert(kept.index("sources:") + 1, "  V: vicuna_lit experiments/benchmarks/gpu, a step alone on one card")
    shapes = next(i for i, line in enumerate(kept) if line.startswith("shapes:"))
    for name, shape in SHAPES.items():
        if f"{name}:" not in kept[shapes]:
            kept[shapes] = kept[shapes].removesuffix("}") + f", {name}: {json.dumps(shape)}}}"
    SPEEDS.write_text("\n".join([*kept, *lines]) + "\n")


def main() -> None:
    """Prints the tables, or writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.results.read_text().splitlines()]
    if options.write:
        write(rows)
    else:
        print(tables(rows))


if __name__ == "__main__":
    main()
