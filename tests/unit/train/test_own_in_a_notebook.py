"""A loss that is written in a notebook, as most are first: known by its source as one in a file is."""

import linecache
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

import vicuna_lit as vl
from vicuna_lit.config.callbacks import OWN_CALLBACKS
from vicuna_lit.config.compose import load
from vicuna_lit.config.from_run import config_of, from_run
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.console import say_done
from vicuna_lit.train.extensions import Extensions
from vicuna_lit.train.result import Result
from vicuna_lit.train.resume import changed_settings, other_callbacks, settings
from vicuna_lit.whole_files import write_json

CELL = """
class Scaled(vl.SupervisedModule):
    scale = 2.0

    def loss(self, batch):
        return self.scale * super().loss(batch)
"""


def run_cell(code: str, name: str) -> type[Any]:
    """As IPython does: a file that is none, whose lines are remembered."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    names: dict[str, Any] = {"vl": vl, "L": L, "__name__": "__main__"}
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


AROUND = """
from functools import cache
from math import exp

K = {"weight": 1.0}

@cache
def helper(x):
    return [K["weight"] * y for y in (x,)][0]

def of(strength):
    class Scaled(vl.SupervisedModule):
        def loss(self, batch, power=2):
            return strength * helper(super().loss(batch)) + 0 * exp(power)
    return Scaled

Scaled = of(0.1)
"""


def test_a_class_is_known_by_the_values_that_it_reads_around_it():
    """As a loss in a function that takes its strength, or with a number at the head of the file."""
    changes = ("of(0.1)", "of(0.2)"), ('"weight": 1.0', '"weight": 2.0'), ("y in (x,)", "y in (2 * x,)"), ("=2", "=3")
    codes = [AROUND, "import sys" + AROUND, *(AROUND.replace(old, new) for old, new in changes)]
    first, same, *others = (
        Extensions(module=run_cell(code, f"<around {i}>")).identity["module_sha256"] for i, code in enumerate(codes)
    )
    assert first == same
    assert len({first, *others}) == 5


def test_a_class_without_a_source_is_refused():
    names: dict[str, Any] = {"vl": vl, "__name__": "__main__"}
    exec(CELL, names)
    said = r"module=Scaled\): its source cannot be read .* Python's prompt.* put the class into a file or a notebook"
    with pytest.raises(RunError, match=said):
        _ = Extensions(module=names["Scaled"]).identity


def test_classes_of_values_alone_and_those_that_a_call_makes_are_known_without_a_source_of_their_own(tmp_path):
    base = run_cell(CELL, "<base of made ones>")

    def double(self: Any, batch: Any) -> Any:
        return 2 * base.loss(self, batch)

    def half(self: Any, batch: Any) -> Any:
        return base.loss(self, batch) / 2

    made: list[Any] = [
        type("Scaled", (base,), more) for more in ({"scale": 3.0}, {"scale": 4.0}, {"loss": double}, {"loss": half})
    ]
    identities = [Extensions(module=one).identity for one in [base, *made]]
    assert len({one["module_sha256"] for one in identities}) == 5
    assert identities == [Extensions(module=one).identity for one in [base, *made]]
    with pytest.raises(RunError, match="part is neither a function nor a value"):
        _ = Extensions(module=cast(Any, type("Scaled", (base,), {"part": property(repr)}))).identity
    config = vl.load("train", f"run.dir={tmp_path}")
    write_json(tmp_path / "config.json", settings(config, identities[1]))
    assert changed_settings(config, tmp_path, identities[1]) == []
    said = r":\n  module \S+Scaled: what it computes with is another: scale 3\.0 → 4\.0$"
    with pytest.raises(RunError, match=said):
        changed_settings(config, tmp_path, identities[2])
    assert Extensions(module=made[1]).described == "module Scaled (scale 4.0)"


WATCHER = """
class Scaled(L.Callback):
    def __init__(self, factor):
        self.factor, self._hidden, self.steps, self.model = factor, 1, 0, object()

    def state_dict(self):
        return {"steps": self.steps}
"""


class Role(Enum):
    USER, TOOL = 1, 2


def another() -> None:
    """Another function."""


@dataclass
class Options:
    rate: float
    of: Any = None


class Failing:
    def __repr__(self) -> str:
        raise RuntimeError


VALUES: list[tuple[Callable[[], Any], list[Any]]] = [
    (lambda: [0, {"a": (1, Path("x"))}], [[0, {"a": (1, Path("y"))}], []]),
    (lambda: Options(0.1, math.sqrt), [Options(0.2, math.sqrt), Options(0.1, math.exp)]),
    (lambda: torch.bfloat16, [torch.float16]),
    (lambda: Role.USER, [Role.TOOL]),
    (lambda: torch.arange(5000), [torch.arange(5001), torch.arange(5000).flip(0), torch.arange(5000.0)]),
    (lambda: torch.ones(3, dtype=torch.bfloat16), [torch.zeros(3, dtype=torch.bfloat16)]),
    (lambda: np.arange(5000), [np.arange(5000)[::-1]]),
    (lambda: partial(run_cell, "a"), [partial(run_cell, "b")]),
    (lambda: run_cell, [another]),
    (lambda: Failing(), [None]),
]


@pytest.mark.promise("Other callbacks of a script, their values or source are said where a run goes on or is found")
def test_a_callback_is_recorded_by_name_values_and_source(tmp_path, capsys):
    def recorded(number: int, old: str = "", new: str = "", factor: float = 0.5) -> str:
        kind = run_cell(WATCHER.replace(old, new) if old else WATCHER, f"<callback {number}>")
        return Extensions(callbacks=(kind(factor),)).identity[OWN_CALLBACKS][0]

    first = recorded(0)
    assert re.fullmatch(r"__main__\.Scaled\(factor=0\.5\) [0-9a-f]{8}", first)
    assert first == recorded(1)
    assert recorded(2, "self.steps}", "self.steps + 1}").partition(" ")[0] == first.partition(" ")[0]
    assert len({first, recorded(2, "self.steps}", "self.steps + 1}"), recorded(3, factor=1.0)}) == 3
    assert Extensions(callbacks=(EarlyStopping("val/loss"),)).identity[OWN_CALLBACKS][0].endswith(")")
    assert Extensions().identity == {}

    kind = run_cell(WATCHER, "<callback 4>")

    def value(given: Any) -> str:
        return Extensions(callbacks=(kind(given),)).identity[OWN_CALLBACKS][0]

    for make, others in VALUES:
        assert value(make()) == value(make()) and " at 0x" not in value(make())
        assert value(make()) not in {value(other) for other in others}, make()
    words = [str(i) for i in range(40)]
    assert value(set(words)) == value({*reversed(words)})
    assert len(value("a" * 10_000)) < 200 and value("a" * 10_000) != value("a" * 9_999)

    config = vl.load("train", f"run.dir={tmp_path}")
    before = {OWN_CALLBACKS: [first]}
    write_json(tmp_path / "config.json", settings(config, before))
    assert changed_settings(config, tmp_path, before) == []
    line = f"{OWN_CALLBACKS}: {[first]!r} → absent"
    assert changed_settings(config, tmp_path, {}) == [line]
    known, unknown = Result("finished", "a", identity={"config.json": "0"}), Result("finished", "a")
    assert [other_callbacks(config, tmp_path, {}, one) for one in (known, unknown)] == [[line], []]
    say_done(known, tmp_path, [line])
    assert f"note: its callbacks, or their values, were others: {OWN_CALLBACKS}: " in " ".join(
        capsys.readouterr().out.split()
    )
    assert OWN_CALLBACKS in config_of(str(tmp_path))
    assert load("train", *from_run([f"from={tmp_path}"], multirun=False)).seed == config.seed
