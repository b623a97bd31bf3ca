"""Where a run's time goes: every second has one cause."""

from pathlib import Path
from typing import Any

import pytest

from vicuna_lit.train import starts, times
from vicuna_lit.train.callbacks.metrics import MetricsCallback
from vicuna_lit.train.report import about, duration, render, ticks
from vicuna_lit.train.result import Result
from vicuna_lit.train.times import LostTime, Opening, Times, lost_time


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 1000.0
        self.set_back = 0.0
        monkeypatch.setattr(times.time, "time", lambda: self.now - self.set_back)
        monkeypatch.setattr(times.time, "monotonic", lambda: self.now)

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


def test_the_time_after_a_planned_stop_is_no_part_of_the_run(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    for step in (1, 2):
        start = Times(tmp_path, Opening(clock.now))
        clock.lap(start, "start", 5)
        clock.lap(start, "step", 10)
        start.close(step)
        clock.now += 2
        start.stop(step)
        clock.now += 1000
    lost = lost_time(tmp_path)
    assert lost is not None
    assert (lost.total, lost.useful, lost.starting, lost.saving, lost.interrupted) == (34, 20, 10, 4, 0)


def test_a_file_without_bytes_is_begun_again(tmp_path, monkeypatch):
    """As a power loss leaves it."""
    clock = Clock(monkeypatch)
    for damaged in (b"", b"\0\0", b"attempt,st"):
        (tmp_path / "times.csv").write_bytes(damaged)
        start = Times(tmp_path, Opening(clock.now))
        clock.lap(start, "step", 10)
        start.close(1)
        lost = lost_time(tmp_path)
        assert lost is not None and lost.useful == 10


def test_a_clock_that_is_set_back_changes_no_duration(tmp_path, monkeypatch):
    """Within a start, and between two: an hour that nobody knows of is no part of the run."""
    clock = Clock(monkeypatch)
    for attempt in (1, 2):
        start = Times(tmp_path, Opening(clock.now))
        clock.lap(start, "step", 10)
        assert start.close(2 * attempt - 1) == {"step": 10}
        clock.set_back += 3600
        clock.lap(start, "step", 7)
        assert start.close(2 * attempt) == {"step": 7}
        clock.set_back += 3600
    lost = lost_time(tmp_path)
    assert lost is not None
    assert (lost.total, lost.useful, lost.interrupted) == (34, 34, 0)


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
    assert lost.worked == pytest.approx(40 + 11.5 + 1 + 2 + 10 + 2), "neither the time away nor the step that was cut"


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


@pytest.mark.promise(
    "The report of a run says what was run: the command, what is not as usual, the data, and each start"
)
def test_the_report_says_what_was_run(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text("- optimizer.lr=1e-3\n- 'run.name=<b>'\n")
    starts.begin(tmp_path, "single, 1 process × 2 rows", 0)
    with (tmp_path / starts.FILE).open("a") as file:
        file.write('{"ended": "20')  # killed while it was written
    starts.begin(tmp_path, "ddp, 2 processes × 1 row", 2)
    starts.end(tmp_path, "finished", 4)
    starts.end(tmp_path, "failed: <late>", None)
    found = starts.starts_of(tmp_path)
    assert [(s.step, s.until, s.why) for s in found] == [(0, None, starts.LOST), (2, None, "failed: <late>")]
    usual = {"optimizer": {"lr": 2e-5}, "seed": 0, "run": {"name": "run", "choices": {"template": "vicuna_v1"}}}
    config = {"optimizer": {"lr": 1e-3}, "seed": 0, "run": {"name": "<b>", "choices": {"template": "zephyr"}}}
    said = about(tmp_path, {"own": "loss and steps of mine.Smoothed"}, config, usual, found)
    assert said.differing == [("template", "zephyr", "vicuna_v1"), ("optimizer.lr", "0.001", "2e-05")]
    assert said.others == [("seed", "0")]
    data = {"train": {"records_in": 1234, "rejected_by_reason": {"too <long>": 3}}, "validation": {"records_in": 5}}
    validation = {"val/loss_by_turn/1": 1.25, "val/loss_by_position/0-127": 1.5}
    rows: list[dict[str, Any]] = [
        {"loss": 2.0, "lr": 1e-3, "grad_norm": 0.5},
        {"loss": 1.0, "lr": 5e-4, "grad_norm": 1},
    ]
    page = render(Result("finished", "r", 2, data=data, validation=validation), rows, None, said)
    own = (
        "vicuna-train optimizer.lr=1e-3",
        "run.name=&lt;b&gt;",
        "mine.Smoothed",
        "ddp, 2 processes × 1 row",
        starts.LOST,
    )
    for text in (*own, "1,234", "rejected: too &lt;long&gt;", "1.2500", "Learning rate", "Gradient norm"):
        assert text in page, text
    assert page.count("<svg") == 3
    starts.forget(tmp_path)
    assert starts.starts_of(tmp_path) == []


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 24, [0, 5, 10, 15, 20]), (6.2, 6.93, [6.2, 6.4, 6.6, 6.8]), (0, 2e-5, [0, 5e-6, 1e-5, 1.5e-5, 2e-5]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (1.5, 1.5, [1.5]), (-3, 4, [-2, 0, 2, 4]),
    ],
)  # fmt: skip
def test_axes_have_round_numbers(low: float, high: float, found: list[float]):
    assert ticks(low, high) == found


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.23, "4.2 s"), (187, "3 min 07 s"), (7500, "2 h 05 min"), (0.0, "0.0 s")]
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


def test_the_time_left_counts_to_the_step_where_the_run_stops(capsys):
    metrics = MetricsCallback.__new__(MetricsCallback)  # of a run without a folder
    metrics.seconds, metrics.step_seconds, metrics._tokens, metrics._bar = 6.0, [2.0] * 3, 0, None
    for stop, said in ((4, "step 3/20 · loss 1.000 · 0 supervised tokens/s · 2 s left to step 4"), (None, "32 s left")):
        metrics.stop = stop
        metrics._show(3 if stop else 4, 20, 1.0)
        assert capsys.readouterr().err.strip().endswith(said)
