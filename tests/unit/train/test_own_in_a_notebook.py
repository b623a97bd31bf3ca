"""A loss that is written in a notebook, as most are first: known by its source as one in a file is."""

import linecache
from typing import Any

import pytest

import vicuna_lit as vl
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.extensions import Extensions

CELL = """
class Scaled(vl.SupervisedModule):
    scale = 2.0

    def loss(self, batch):
        return self.scale * super().loss(batch)
"""


def run_cell(code: str, name: str) -> type[Any]:
    """As IPython does: a file that is none, whose lines are remembered."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    names: dict[str, Any] = {"vl": vl, "__name__": "__main__"}
    exec(compile(code, name, "exec"), names)
    return names["Scaled"]


def test_a_class_of_a_notebook_is_known_by_all_that_is_written_in_it():
    first, same, other = (
        Extensions(module=run_cell(code, f"<cell {i}>")).identity
        for i, code in enumerate([CELL, "import math\n" + CELL, CELL.replace("2.0", "3.0")])
    )
    assert first["module"] == "__main__.Scaled"
    assert first == same
    assert first["module_sha256"] != other["module_sha256"]


def test_a_class_without_a_source_is_refused():
    names: dict[str, Any] = {"vl": vl, "__name__": "__main__"}
    exec(CELL, names)
    with pytest.raises(RunError, match="put it into a file"):
        _ = Extensions(module=names["Scaled"]).identity
