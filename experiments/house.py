"""The house counted: files, lines, functions, what lies between a command and the loss; of a commit, or of this tree.

python -m experiments.house 3f8ebeb HEAD     # a row for each measure, a column for each commit
"""

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from experiments import tables

ROOT = Path(__file__).parents[1]
ROUNDS = 3
ON_THE_WAY = """
import sys, traceback
from pathlib import Path
from transformers import LlamaModel

package, out = Path(sys.argv[0]).resolve(), Path(sys.argv[1])
plain = LlamaModel.forward

def forward(self, *given, **named):
    if self.training:
        files = {Path(frame.filename).resolve() for frame in traceback.extract_stack()}
        out.write_text("\\n".join(sorted(str(f) for f in files if f.is_relative_to(package))))
        raise SystemExit(0)
    return plain(self, *given, **named)

LlamaModel.forward = forward
sys.argv = ["vicuna-train", f"run.dir={out}.run", "wandb.mode=disabled", "trainer.max_steps=1"]
import vicuna_lit.train.__main__ as command
command.main()
"""
"""A run up to the first forward pass in training: which files are on the stack then."""


def sources(tree: Path) -> list[Path]:
    return sorted((tree / "vicuna_lit").rglob("*.py"))


def functions(tree: Path) -> list[int]:
    """The lines of each."""
    nodes = (node for file in sources(tree) for node in ast.walk(ast.parse(file.read_text())))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes if isinstance(node, kinds)]


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def processor_seconds(tree: Path, *command: str) -> float:
    """The least of some runs of a Python command, user and system."""

    def once() -> float:
        before = os.times()
        subprocess.run([sys.executable, *command], cwd=tree, env=environment(tree), capture_output=True, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    return min(once() for _ in range(ROUNDS))


def environment(tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tree), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}


def on_the_way(tree: Path) -> int:
    """Files of the package on the stack between the command and the model's first step."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "files")
        script = f"import sys; sys.argv = [{str(tree / 'vicuna_lit')!r}, {str(out)!r}]\n{ON_THE_WAY}"
        subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment(tree), capture_output=True)
        return len(out.read_text().splitlines())


def naming(tree: Path, pattern: str) -> int:
    """Files whose code matches."""
    return sum(re.search(pattern, file.read_text()) is not None for file in sources(tree))


def tests(tree: Path) -> str:
    files = list((tree / "tests").rglob("test_*.py"))
    found = sum(len(re.findall(r"^def test_", file.read_text(), re.M)) for file in files)
    return f"{found} in {len(files)}"


MEASURES: dict[str, Callable[[Path], Any]] = {
    "files of the package": lambda tree: len(sources(tree)),
    "their lines": lambda tree: f"{sum(map(lines, sources(tree))):,}",
    "lines of a file: median, longest": lambda t: (
        f"{median(map(lines, sources(t))):.0f}, {max(map(lines, sources(t)))}"
    ),
    "functions, lines of the longest": lambda tree: f"{len(functions(tree)):,}, {max(functions(tree))}",
    "files on the stack, command to model": on_the_way,
    "files that ask for a strategy's kind": lambda tree: naming(tree, r"strategy\.(kind|stage|offload)\b"),
    "README: lines": lambda tree: lines(tree / "README.md"),
    "test functions, in files": tests,
    "`vicuna-train --cfg job`, processor seconds": lambda t: (
        f"{processor_seconds(t, '-m', 'vicuna_lit.train', '--cfg', 'job'):.1f}"
    ),
}


def measured(commit: str) -> dict[str, str]:
    """All measures of a commit, in a tree of its own."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "x", "-C", folder], input=archive, check=True)
        return {name: str(measure(Path(folder))) for name, measure in MEASURES.items()}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("commits", nargs="+")
    commits = parser.parse_args().commits
    found = {commit: measured(commit) for commit in commits}
    print(json.dumps(found), file=sys.stderr)
    print(tables.markdown(["", *commits], [[name, *(found[commit][name] for commit in commits)] for name in MEASURES]))


if __name__ == "__main__":
    main()
