"""The notebooks as they are read: each the same as its script, run from top to bottom, and tidy. CI runs them."""

import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from vicuna_lit.tracking.wandb_file import history_rows

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


CELLS = (
    """
import asyncio, sys, wandb
import vicuna_lit as vl
from tests.helpers.runs import COMMON
async def beats():
    while True:
        await asyncio.sleep(0.05)
beat = asyncio.get_running_loop().create_task(beats())
mine = wandb.init(project="mine", mode="offline", dir="mine", settings=wandb.Settings(silent=True))
mine.log({"own": 1})
own = [o for o in COMMON if not o.startswith(("wandb", "run."))]
config = vl.load("train", *own, "trainer.max_steps=4", "validation.every_steps=2", "wandb.mode=offline", "run.dir=run")
""",
    "first = vl.fit(config)\nfirst",
    "again = vl.fit(config)",
    'other = vl.fit(vl.load("train", *own, "trainer.max_steps=1", "seed=1", "wandb.mode=offline", "run.dir=other"))',
    """
await asyncio.sleep(0.1)
assert wandb.run is mine and not beat.done() and beat.cancel()
assert again.val_loss == first.val_loss != other.val_loss
mine.log({"own": 2})
mine.finish()
wandb.teardown()
""",
)


@pytest.mark.slow
def test_runs_in_a_notebook_beside_a_run_of_the_users_and_an_event_loop(tmp_path, monkeypatch):
    """`fit` three times, one of them found: one line of progress each, and the user's own W&B run is left alone."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # else W&B's process of this session writes for the kernel too
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    (tmp_path / "mine").mkdir()
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [cell.outputs for cell in notebook.cells]
    assert outputs[0] == outputs[-1] == []
    for cell, progress in ((1, 1), (2, 0), (3, 1)):
        shown = [o.data["text/plain"] for o in outputs[cell] if o.output_type == "display_data"]
        assert len(shown) == progress and all(re.match(r"step (\d)/\1 · loss", text) for text in shown)
        assert not [o for o in outputs[cell] if o.get("name") == "stderr" or re.search(r"\r|\x1b|Warning", texts(o))]
    assert "<table" in outputs[1][-1].data["text/html"]
    assert len(nbformat.writes(notebook)) < 30_000
    for place, steps in {"mine": [0, 1], "run": [0, 1, 2, 3, 4], "other": [0, 1]}.items():
        (record,) = tmp_path.glob(f"{place}/wandb/offline-run-*/*.wandb")
        assert [step for step, _ in history_rows(record)] == steps
