"""The notebooks as they are read: each the same as its script, run from top to bottom, and tidy. CI runs them."""

import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))


def test_each_script_has_its_notebook():
    scripts = sorted(NOTEBOOKS[0].parent.glob("[0-9]*.py"))
    assert [s.stem for s in scripts] == [n.stem for n in NOTEBOOKS]
    assert len(NOTEBOOKS) > 1


def texts(output: Any) -> str:
    """What a reader sees of an output, but for pictures."""
    data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
    return "\n".join([output.get("text", ""), *map(str, data.values())])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_script_has_the_same_cells(path: Path):
    notebook, script = nbformat.read(path, 4), jupytext.read(path.with_suffix(".py"))
    assert [(c.cell_type, c.source) for c in notebook.cells] == [(c.cell_type, c.source) for c in script.cells]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_outputs_are_whole_and_tidy(path: Path):
    notebook = nbformat.read(path, 4)
    title, *purpose = notebook.cells[0].source.splitlines()
    assert title.startswith("# ") and re.search(r"[Aa]bout (a|\d+) (seconds|minute)", " ".join(purpose))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs
    for output in outputs:
        assert output.output_type != "error"
        assert output.get("name") != "stderr", texts(output)
        found = re.search(r"/(home|tmp|root|work|Users)/|\x1b\[|Warning|\r", texts(output))
        assert not found, (found, texts(output)[:300])
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < 400_000
