"""A sweep of which a job has failed ends with another code than 0, whatever could be written down of it."""

import pytest

from vicuna_lit.cli.app import JobFailed, _multirun
from vicuna_lit.cli.train import Sweep
from vicuna_lit.compare.runs import FAILURES
from vicuna_lit.compare.terminal import show_sweep
from vicuna_lit.whole_files import add_line


@pytest.mark.promise("A sweep with a failed job ends with 1, whatever the clock says and could be written down")
def test_a_failed_job_counts_without_a_clock_and_without_a_record(tmp_path, capsys):
    assert show_sweep(tmp_path / "elsewhere", 0) == 0 and show_sweep(tmp_path, 0) == 0
    add_line(tmp_path / FAILURES, {"job": "seed=0", "error": "of last week", "time": 1e10})
    add_line(tmp_path / FAILURES, {"job": "seed=1", "error": "the clock was set back", "time": 0.0})
    assert [show_sweep(tmp_path, before) for before in (0, 1, 2)] == [1, 1, 0]
    assert "failed seed=1: the clock was set back" in capsys.readouterr().out
    for job in ("seed=2", "seed=3"):
        error = f"{tmp_path}/{job} holds a run with other settings"
        add_line(tmp_path / FAILURES, {"job": job, "error": error, "time": 1.0, "another_run": True})
    assert show_sweep(tmp_path, 2) == 1
    assert f"failed seed=2; seed=3: {tmp_path}/<job> holds a run" in capsys.readouterr().out
    torn = '{"conversations_per_step": 1, "identity": 3'
    for damaged, texts in {"config.json": ("", torn), "result.json": ("", torn, "[]")}.items():
        for text in texts:
            (tmp_path / "seed=0").mkdir(exist_ok=True)
            (tmp_path / "seed=0/config.json").write_text('{"conversations_per_step": 1}')
            (tmp_path / "seed=0" / damaged).write_text(text)
            assert show_sweep(tmp_path, 4) == 1
            assert "seed=0: config.json or result.json cannot be read" in capsys.readouterr().out

    def fails() -> None:
        raise JobFailed("seed=0")

    assert [_multirun(job, Sweep(), (), tmp_path / "new", {}) for job in (fails, lambda: None)] == [1, 0]
