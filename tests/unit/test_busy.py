"""Threads wait asleep where the machine has no core to spare, and as they did everywhere else."""

import os
import subprocess
import sys

import pytest

from vicuna_lit.cli import busy
from vicuna_lit.cli.busy import wait_asleep_where_busy


@pytest.mark.parametrize(
    ("load", "given", "policy", "is_said"),
    [
        (0.9, {}, None, False),
        (3.2, {}, "PASSIVE", False),
        (9.0, {}, "PASSIVE", True),
        (9.0, {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE", True),
        (9.0, {"GOMP_SPINCOUNT": "7"}, None, True),
        (9.0, {"OMP_NUM_THREADS": "1"}, None, False),
    ],
)
def test_the_load_decides_and_what_the_user_has_set_stands(load, given, policy, is_said, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(busy, "_cores", lambda: 4)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    environment = dict(given)
    said = wait_asleep_where_busy(environment)
    assert environment.get("OMP_WAIT_POLICY") == policy
    assert (said is not None) == is_said
    assert not said or "(load 9.0, 4 cores)" in said
    if policy == "PASSIVE":  # where torch is imported, its OpenMP has read its settings
        monkeypatch.setitem(sys.modules, "torch", busy)
        environment = dict(given)
        wait_asleep_where_busy(environment)
        assert "OMP_WAIT_POLICY" not in environment


def test_it_is_chosen_before_torch_is_imported():
    code = (
        "import os, sys; os.getloadavg = lambda: (99.0, 0.0, 0.0)\n"
        "import vicuna_lit.train.early as early, vicuna_lit.cli.train as train\n"
        "early.refuse_early = lambda config: None\n"
        "class Stop: \n def find_spec(self, name, *_):\n  if name == 'torch': raise SystemExit(7)\n"
        "sys.meta_path.insert(0, Stop())\n"
        "from vicuna_lit.config.compose import load\n"
        "try: train._run(load('train'))\n"
        "except SystemExit as end: assert end.code == 7\n"
        "assert os.environ['OMP_WAIT_POLICY'] == 'PASSIVE'\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in (*busy.OWN, "OMP_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("note: others use this machine (load 99.0, ")
