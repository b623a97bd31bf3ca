"""What a run leaves behind of itself."""

from types import SimpleNamespace
from typing import Any

from vicuna_lit.train.run_record import RunRecord


def test_an_end_takes_what_earlier_ends_have_said_out_of_the_summary(tmp_path):
    said: list[dict[str, Any]] = []
    record: Any = object.__new__(RunRecord)
    record.folder, record.times = tmp_path, SimpleNamespace(close=lambda _: None)
    record.history = SimpleNamespace(drop=lambda: None)
    record.wandb = SimpleNamespace(summarize=said.append, do=lambda *_: None, finish=lambda **_: None)
    record._leave("preempted", steps=3)
    ends = {"stop_after": None, "ended_early": None, "error": None, "cause": None}  # W&B removes what is None
    assert said == [ends | {"status": "preempted", "steps": 3}]
