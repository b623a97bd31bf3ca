"""What a stopped run leaves, and what the next command makes of it."""

import pytest

from tests.runs import COMMON, run_here
from vicuna_lit.folder import RunError
from vicuna_lit.train.checkpoint import complete


def test_a_stopped_run_and_what_comes_after(tmp_path):
    """Other settings are refused by name, `never` starts anew, `must` needs a checkpoint."""
    folder = tmp_path / "run"
    overrides = [*COMMON, f"run.dir={folder}", "checkpoint.every_steps=4", "trainer.max_steps=10"]
    run_here(overrides, stop_after=9)
    assert [p.name for p in complete(folder)] == ["step-00000004", "step-00000008"]
    with pytest.raises(RunError, match=r"other settings.*\n  optimizer\.lr: 0\.001 → 0\.002"):
        run_here([*overrides, "optimizer.lr=2e-3"])
    run_here([*overrides, "optimizer.lr=2e-3", "resume=never"], stop_after=5)
    assert [p.name for p in complete(folder)] == ["step-00000004"]
    (folder / "checkpoints" / "step-00000004" / "complete").unlink()
    with pytest.raises(RunError, match="holds no complete checkpoint; resume=auto"):
        run_here([*overrides, "optimizer.lr=2e-3", "resume=must"])
