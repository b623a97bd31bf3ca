"""Machines that vanish at random: the result is the one of the run left alone, to the bit."""

import os
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from experiments.spot.simulate import MOMENTS, Interruption, mismatches, random_trace, read_trace, simulate
from tests.helpers.group import run_group
from tests.helpers.runs import COMMON, run_here
from tests.jobs.test_wandb_history import has_one_row_a_step
from vicuna_lit.train.times import lost_time

SEED = int(os.environ.get("CHAOS_SEED", random.randrange(10**6)))
SHARE = int(os.environ.get("CHAOS_SHARE", "1"))
"""CI takes a third of the interruptions: CHAOS_SHARE=3."""
STRATEGIES = {"single": 12 // SHARE, "ddp": 6 // SHARE, "fsdp": 6 // SHARE, "zero2": 6 // SHARE}
STEPS = 40
SETTINGS = (
    "validation.every_steps=2", "checkpoint.every_steps=3", "wandb.mode=offline", "tokens_per_device=512",
    f"trainer.max_steps={STEPS}",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.promise(
    "Machines that vanish at random moments, under four strategies: the result is that of the run left alone, to "
    "the bit"
)
def test_chaos(strategy, tmp_path, monkeypatch):
    """30 interruptions over all strategies; CHAOS_SEED=<n> repeats them."""
    print(f"CHAOS_SEED={SEED}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    several = [] if strategy == "single" else ["trainer.devices=2"]
    overrides = [*COMMON, *SETTINGS, f"strategy={strategy}"]
    never, often = tmp_path / "never", tmp_path / "often"
    alone = [*overrides, f"run.dir={never}"]
    if several:
        run_group([{"overrides": alone}], tmp_path)
    else:
        run_here(alone)
    trace = random_trace(STRATEGIES[strategy], SEED + list(STRATEGIES).index(strategy), validation_every=2)
    done, replayed, codes = [], 0, Counter()
    for i in range(8):  # a run that ends before the trace does is followed by another
        often = tmp_path / f"often{i}"
        command = [sys.executable, "-m", "vicuna_lit.train", *overrides, *several, f"run.dir={often}"]
        outcome = simulate(command, often, trace, log=tmp_path / "log.txt")
        assert mismatches(often, never) == [], outcome
        has_one_row_a_step(often, STEPS)
        lost = lost_time(often)
        assert lost is not None
        assert lost.useful > 0
        done, trace = done + outcome.interruptions, outcome.unused
        replayed, codes = replayed + lost.steps_replayed, codes + Counter(outcome.exit_codes)
        if not trace:
            break
    assert len(done) == STRATEGIES[strategy]
    kinds, moments = (dict(Counter(getattr(one, what) for one in done)) for what in ("kind", "moment"))
    print(
        f"{strategy}: {len(done)} interruptions {kinds} {moments}, exit codes {dict(codes)}, {replayed} steps replayed"
    )


def test_traces(tmp_path):
    """Every moment is hit about as often; the same seed gives the same trace; files are read."""
    trace = random_trace(40, 3)
    assert trace == random_trace(40, 3) != random_trace(40, 4)
    assert Counter(one.moment for one in trace) == dict.fromkeys(MOMENTS, 10)
    file = tmp_path / "trace.txt"
    file.write_text("# g2 machines, May\n12.5 kill\n\n3600  # with notice\n")
    assert read_trace(file) == [Interruption("kill", "after", 12.5), Interruption("notice", "after", 3600.0)]


@pytest.mark.slow
def test_a_difference_is_found(tmp_path):
    """The yardstick itself: another seed is another run."""
    folders: list[Path] = []
    for seed in (0, 1):
        folders.append(tmp_path / str(seed))
        run_here([*COMMON, f"seed={seed}", "trainer.max_steps=3", f"run.dir={folders[-1]}"])
    assert mismatches(folders[0], folders[0]) == []
    assert {"metrics.csv", "validation"} <= set(mismatches(*folders))
