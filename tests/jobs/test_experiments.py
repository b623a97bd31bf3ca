"""Every experiment: its table is that of its committed figures, and its command runs, at a small size."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import tables
from experiments.intervals import report as intervals
from tests.helpers import commands

ROOT = Path(__file__).parents[2]
MEASURED = ("006_spot", "007_estimate")
"""They measure the time and the memory of their processes, so these must be interpreters."""
EXPERIMENTS = sorted(file.parent for file in (ROOT / "experiments").glob("0*/report.py"))


def table_rows(table: str) -> list[str]:
    """Rows of figures: what stands below a rule."""
    below, rows = False, []
    for line in table.splitlines():
        if below and line.startswith("| "):
            rows.append(line)
        below = line.startswith("|---") or (below and line.startswith("|"))
    return rows


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=lambda folder: folder.name)
def test_the_table_is_that_of_the_figures(folder: Path):
    report = importlib.import_module(f"experiments.{folder.name}.report")
    table = report.table(tables.read(folder / "results.csv"))
    assert tables.of_readme((folder / "README.md").read_text()) == table
    assert table_rows(table)


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=lambda folder: folder.name)
def test_it_has_all_its_parts(folder: Path):
    readme = (folder / "README.md").read_text()
    for part in ("run.sh", "figure.svg", "**Question", "**Finding", "**What would falsify it"):
        assert part in readme, part
    figure = (folder / "figure.svg").read_text()
    assert "<text" in figure, "letters as letters: svg.fonttype none"
    assert len(figure) < 200_000


@pytest.mark.slow
@pytest.mark.parametrize("folder", EXPERIMENTS, ids=lambda folder: folder.name)
def test_the_command_runs(folder: Path, tmp_path):
    before = {file: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    real = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment = os.environ | (real if folder.name in MEASURED else commands.path()) | {"WANDB_MODE": "disabled"}
    done = subprocess.run(
        ["bash", str(folder / "run.sh"), "fast", str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert tables.read(tmp_path / "results.csv")
    assert table_rows(tables.of_readme((tmp_path / "README.md").read_text()))
    assert (tmp_path / "figure.svg").exists()
    assert {file: file.read_bytes() for file in before} == before, "fast leaves the committed files alone"


@pytest.mark.promise("A sweep's intervals hold for other seeds and for other conversations than were held out")
def test_the_intervals_of_a_sweep_cover_on_the_whole_grid():
    """What was simulated last; test_intervals.py simulates a few cells anew."""
    assert tables.of_readme((intervals.HERE / "README.md").read_text()) == intervals.table()
    cells = tables.read(intervals.HERE / "coverage.csv")
    assert len(cells) == len(intervals.SPREADS) * len(intervals.SEEDS) * len(intervals.CONVERSATIONS)
    assert min(float(cell["both"]) for cell in cells) > 0.93
    assert min(float(cell["bootstrap"]) for cell in cells if cell["seeds"] == "3") < 0.75  # why it is not used
    losses, tokens = intervals.losses()
    found = intervals.null_sweeps(losses, tokens, 10)
    assert [row["sweeps"] for row in found] == [10] * 12 and max(row["claims"] for row in found) <= 4


@pytest.mark.slow
@pytest.mark.promise("Halving, replayed from whole curves, finds what its page says at the steps that it says")
def test_the_replays_of_halving_are_those_of_its_page():
    replay = importlib.import_module("experiments.halving.replay")
    assert tables.of_readme((ROOT / "experiments/halving/README.md").read_text()) == replay.table()


def test_a_table_replaces_the_one_before():
    text = f"a\n{tables.BEGIN}\nold\n{tables.END}\nb\n"
    new = tables.into_readme(text, tables.markdown(["x", "y"], [["one", 1]]))
    assert tables.of_readme(new) == "| x | y |\n|---|---:|\n| one | 1 |"
    assert new.startswith("a\n")
    assert new.endswith("\nb\n")
    assert tables.into_readme(new, "old") == text
    with pytest.raises(ValueError, match="README"):
        tables.of_readme("no markers")


def test_mean_and_error():
    assert tables.mean_error([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / 3**0.5))
    assert tables.plus_minus([1.0, 2.0, 3.0]) == "2.00 ± 0.58"
    assert tables.plus_minus([2.0]) == "2.00"


@pytest.mark.slow
def test_a_search_goes_on_where_it_stopped(tmp_path: Path):
    """`experiments/search.py` with a current Optuna; the one of `hydra/sweeper=optuna` is too old for it."""
    optuna = pytest.importorskip("optuna", minversion="3")
    from experiments.search import search

    small = ["data.max_conversations=24", "data.max_validation=8", "trainer.max_steps=2", "samples.questions=[]"]
    first = search(tmp_path, 1, [*small, "wandb.mode=disabled"])
    asked = first.ask()  # as a process leaves it that was killed
    asked.suggest_float("optimizer.lr", 1e-4, 1e-2, log=True)
    asked.suggest_float("optimizer.warmup_ratio", 0.0, 0.2)
    states = [trial.state for trial in search(tmp_path, 2, [*small, "wandb.mode=disabled"]).trials]
    assert states == [getattr(optuna.trial.TrialState, name) for name in ("COMPLETE", "FAIL", "COMPLETE")]
    assert first.trials[1].params == first.trials[2].params
