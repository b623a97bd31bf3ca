"""Where a run's time goes: every second has one cause."""

from pathlib import Path
from typing import Any

import pytest

from vicuna_lit.train import times
from vicuna_lit.train.report import duration, render
from vicuna_lit.train.run_folder import Result
from vicuna_lit.train.times import LostTime, Opening, Times, lost_time


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 1000.0
        monkeypatch.setattr(times.time, "time", lambda: self.now)

    def lap(self, t: Times, what: str, seconds: float) -> None:
        self.now += seconds
        t.lap(what)


def interrupted_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> LostTime:
    """Steps 1 to 3, killed in the fourth with a checkpoint of the second; away 100 s; steps 3 and 4."""
    clock = Clock(monkeypatch)
    opening = Opening(clock.now)
    for what, seconds in {"imports": 3, "conversations": 1}.items():
        clock.now += seconds
        opening.lap(what)
    first = Times(folder, opening)
    clock.lap(first, "start", 1)
    clock.lap(first, "validation", 2)
    assert list(first.close(0)) == ["start/imports", "start/conversations", "start", "validation"]
    for step in (1, 2, 3):
        clock.lap(first, "data", 0.5)
        clock.lap(first, "step", 10)
        assert first.close(step)["step"] == 10
        clock.lap(first, "save", 1)
    clock.now += 107  # 7 s of the fourth step, 100 s away; the save behind the third was not written down
    with (folder / "times.csv").open("a") as file:
        file.write("1,4,step,9")
    second = Times(folder, Opening(clock.now))
    assert second.attempt == 2
    clock.lap(second, "start", 5)
    second.close(2)
    for step in (3, 4):
        clock.lap(second, "data", 0.5)
        clock.lap(second, "step", 10)
        second.close(step)
    found = lost_time(folder)
    assert found is not None
    return found


def test_every_second_has_one_cause(tmp_path, monkeypatch):
    (tmp_path / "times.csv").unlink(missing_ok=True)
    lost = interrupted_run(tmp_path, monkeypatch)
    assert (lost.starts, lost.steps_replayed) == (2, 1)
    assert lost.useful == 40
    assert lost.replayed == pytest.approx(10 + 0.5 + 1)  # with the save that the step waited for
    assert lost.saving == 1
    assert lost.data == 2
    assert lost.starting == 10
    assert lost.validation == 2
    assert lost.interrupted == pytest.approx(108)
    assert sum(lost.parts().values()) == pytest.approx(lost.total)


def test_no_times_no_table(tmp_path):
    assert lost_time(tmp_path) is None


def test_the_report_escapes_and_shows_all_parts(tmp_path, monkeypatch):
    lost = interrupted_run(tmp_path, monkeypatch)
    rows: list[dict[str, Any]] = [{"loss": 5.0 / step} for step in range(1, 3000)]
    result = Result(
        "finished", "runs/<b>", 2999, 10, 10, val_loss_before=5.0, val_loss=1.0,
        val_by_step={0: 5.0, 2999: 1.0}, replies=[{"question": "<script>", "before": "a", "after": "b"}],
    )  # fmt: skip
    page = render(result, rows, lost)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<rect") == 7
    assert page.count('class="mark"') == 2
    assert page.count(" L") < 1000
    assert "1 step taken again" in page
    assert "held out" not in render(Result("finished", "r", 2999), rows, None)


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.23, "4.2 s"), (187, "3 min 07 s"), (7500, "2 h 05 min"), (0.0, "0.0 s")]
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text
