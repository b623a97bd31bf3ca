"""The promises that tests prove, as a table: `python -m tests.promises` writes docs/proofs.md."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
KINDS = ("quick", "slow", "gpu")
PAGE = ROOT / "docs" / "proofs.md"
HEAD = """# What is proven

Each promise stands at its tests (`@pytest.mark.promise`), and `python -m tests.promises` makes this table of them.
*Quick* tests run with `pytest`; *slow* ones with `pytest -m slow`, and in `.ci/run`; *gpu* ones where there is a GPU.
Where both are named, some tests or cases are quick, and the others slow.

| promise | tests | kind |
|---|---|---|
"""


@cache
def promises() -> dict[str, list[tuple[str, str, str]]]:
    """Promise → its tests: file, name, kind; in the order of the files."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        whole = ast.parse(file.read_text()).body
        for test in (node for node in whole if isinstance(node, ast.FunctionDef)):
            for mark in test.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise":
                    one = (file.relative_to(ROOT).as_posix(), test.name, _kind(test, whole))
                    found.setdefault(ast.literal_eval(mark.args[0]), []).append(one)
    return found


def _kind(test: ast.FunctionDef, whole: list[ast.stmt]) -> str:
    """By its marks, those of its file, and those of the cases that its parameters name."""
    named = {ast.unparse(node.targets[0]): node for node in whole if isinstance(node, ast.Assign)}
    named |= {node.name: node for node in whole if isinstance(node, ast.FunctionDef)}
    marks = [ast.unparse(mark) for mark in test.decorator_list]
    of_all = [*marks, ast.unparse(named["pytestmark"]) if "pytestmark" in named else ""]
    for kind in ("gpu", "slow"):
        if any(f"pytest.mark.{kind}" in mark and "parametrize" not in mark for mark in of_all):
            return kind
    used = {node.id for mark in test.decorator_list for node in ast.walk(mark) if isinstance(node, ast.Name)}
    marks += [ast.unparse(named[name]) for name in used & named.keys()]
    return "quick, slow" if any("pytest.mark.slow" in mark for mark in marks) else "quick"


def page() -> str:
    """docs/proofs.md."""
    rows = []
    for promise, tests in promises().items():
        named = ", ".join(f"`{file}::{name}`" for file, name, _ in tests)
        kinds = ", ".join(sorted({kind for _, _, kinds in tests for kind in kinds.split(", ")}, key=KINDS.index))
        rows.append(f"| {promise} | {named} | {kinds} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
