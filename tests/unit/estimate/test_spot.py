"""What interruptions cost, computed: by hand, against a closed form, and traces followed by hand."""

import importlib
import math
import random
from types import SimpleNamespace
from typing import Any

import pytest

from vicuna_lit.config.compose import ConfigError, load
from vicuna_lit.estimate import run, spot

model = importlib.import_module("experiments.006_spot.model")
derive = importlib.import_module("experiments.006_spot.derive")
Job = model.Job


def test_a_job_by_hand():
    job = Job(work=10.0, restart=2.0, interval=3.0, save=0.5, notice=False)
    spent = model.replay(job, [(1.5, 1.0), (2 + 3.5 + 2.0, 4.0), (100.0, 9.0)])
    assert spent.starting == 1.5 + 2 + 2
    assert spent.replayed == 2.0
    assert spent.saving == 0.5 + 2 * 0.5, "none behind the last step"
    assert (spent.useful, spent.away, spent.interruptions) == (10.0, 5.0, 2)
    assert spent.machine == pytest.approx(1.5 + 7.5 + 2 + 7.0 + 2 * 0.5)


def test_a_notice_loses_nothing():
    job = Job(work=10.0, restart=2.0, interval=3.0, save=0.5, notice=True)
    spent = model.replay(job, [(2 + 3.5 + 2.0, 0.0), (100.0, 0.0)])
    assert spent.replayed == 0.0
    assert spent.useful == 10.0


def test_a_machine_goes_while_it_saves():
    job = Job(work=10.0, restart=0.0, interval=3.0, save=1.0, notice=False)
    spent = model.replay(job, [(3.5, 0.0), (100.0, 0.0)])
    assert spent.replayed == 3.0, "what was being saved is not saved"
    assert spent.saving == 0.5 + 3.0


def test_a_trace_too_short():
    with pytest.raises(ValueError, match=r"0\.0 of 10\.0"):
        model.replay(Job(10.0, 2.0, 3.0, 0.5, False), [(1.0, 0.0)])


@pytest.mark.parametrize("interval", [0.2, 0.7, 2.0])
def test_random_lives_cost_what_daly_says(interval: float):
    rng, job = random.Random(0), Job(400 * interval, 0.2, interval, 0.05, False)
    lives = ((rng.expovariate(1 / 3.0), 0.0) for _ in iter(int, 1))
    costs = [model.replay(job, lives).machine for _ in range(60)]
    assert sum(costs) / len(costs) == pytest.approx(model.expected_hours(job, 3.0), rel=0.03)


def test_the_optimum_is_one():
    save, life = 62 / 3600, 2.3
    best = spot.daly(save, life)
    around = [model.expected_hours(Job(24.0, 1 / 6, best * f, save, False), life) for f in (0.7, 1.0, 1.4)]
    assert around[1] == min(around)
    assert spot.young(save, life) == pytest.approx(math.sqrt(2 * save * life))


def test_a_trace_is_followed():
    events = [(0.0, "add", "a"), (1.0, "add", "b"), (1.5, "remove", "a"), (2.0, "add", "c"), (4.0, "remove", "b"),
              (5.0, "add", "d"), (6.0, "remove", "c")]  # fmt: skip
    for seed in range(20):
        lives = derive.follow(events, seed, hours=30.0)
        assert set(lives) <= {(1.5, 0.5), (3.0, 1.0), (4.0, 0.0), (2.5, 0.5)}, (
            "the machines a, b, c, and d that lasts on as a"
        )
        assert sum(map(sum, lives)) >= 30


def test_the_committed_traces():
    found = model.traces()
    assert len(found) == 6
    for lives in found.values():
        assert sum(map(sum, lives)) >= 72
        assert all(lasted > 0 and away >= 0 for lasted, away in lives)


def test_a_run_that_would_not_end_is_said():
    """Machines of four seconds: e to the thousandth of the work would be done before a first save."""
    config: Any = load("estimate", "price=spot", "gpu=h100", "hours_between_interruptions=0.001")
    time: Any = SimpleNamespace(likely=3600.0, parts={"starting": 60.0})
    memory: Any = SimpleNamespace(weights=SimpleNamespace(trained=10**9))
    with pytest.raises(ConfigError, match=r"hours_between_interruptions=0\.001: a machine would be gone"):
        run._spot(config, time, memory)
    assert run._spot(config.model_copy(update={"hours_between_interruptions": 8.0}), time, memory).interruptions < 1
