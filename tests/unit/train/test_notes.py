"""What a run says that the user may not have meant."""

import json

from tests.helpers.runs import COMMON
from vicuna_lit.config.compose import load
from vicuna_lit.data.plan import plan_run
from vicuna_lit.data.planned import PlannedData
from vicuna_lit.train.console import _say_notes, conclude
from vicuna_lit.train.notes import low, notes, worse
from vicuna_lit.train.result import Result


def test_a_loss_that_has_grown_is_said():
    config = load("train", "optimizer.lr=1e30")
    assert list(worse(config, {0: 5.0, 4: 4.0, 8: 4.5}, [5.0, 9.9])) == []
    assert list(worse(config, {}, [])) == list(worse(config, {0: 5.0}, [5.0])) == []
    (said,) = worse(config, {0: 5.0, 4: 4.0, 8: 5.1}, [5.0, 4.0])
    assert said.startswith("the validation loss has grown from 5 to 5.1; optimizer.lr=1e+30 may be too large")
    (said,) = worse(config, {}, [5.0, 4.0, 10.1])
    assert said.startswith("the training loss has grown from 5 to 10.1; ")


def test_an_own_loss_that_is_a_mean_is_said():
    (said,) = low({0: 5.1, 4: 5.0}, [0.009, 0.008])
    assert said.startswith(
        "the own loss begins with 0.009, and the cross-entropy before training is 5.1: `loss` returns"
    )
    assert list(low({0: 5.1}, [4.0])) == list(low({}, [0.009])) == list(low({0: 5.1}, [])) == []


def test_a_long_validation_idle_processes_and_empty_replies_are_said():
    config = load("train", *COMMON, "validation.context_length=200")
    data = PlannedData(config)
    data.read()
    longest = int(data.validation.lengths.max())
    assert "never have anything to do" not in " ".join(notes(config, data, None))
    data.plan = plan_run(config, data.train.sizes, 4096)
    data.reports[""].empty_replies = 2
    said = " ".join(notes(config, data, None))
    busy = max(len(step) for step in data.plan.step_examples)
    assert f"{4096 - busy:,} of 4,096 processes never have anything to do: a step has {busy} examples at most; " in said
    assert f"with trainer.devices={busy} each step takes as long" in said
    assert "2 replies are empty, and trained on: to say nothing is learnt" in said
    said = [" ".join(notes(config, data, positions)) for positions in (None, longest, longest - 1)]
    assert ["positions that it has never seen" in text for text in said] == [False, False, True]
    assert f"validation.context_length={longest - 1} leaves none" in said[2]


def test_notes_of_the_run_before_are_counted_in_a_loop_of_short_runs(capsys):
    for found, verbose in ((["a", "b"], False), (["a", "b"], False), (["a"], False), (["a"], True), ([], False)):
        _say_notes(found, verbose)
    noted = ["a", "b", "2 notes as of the run before; report.html has them", "a", "a"]
    assert capsys.readouterr().out.splitlines() == [f"note: {line}" for line in noted]


def test_empty_places_and_steps_are_said(tmp_path):
    turns = [[{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "word " * 99 * (i != 4)}] for i in range(9)]
    (tmp_path / "few.jsonl").write_text(
        "\n".join(json.dumps({"id": str(i), "conversations": t}) for i, t in enumerate(turns))
    )
    common = ("data=files", f"data.path={tmp_path / 'few.jsonl'}", "data.validation_fraction=0", "context_length=64")
    config = load("train", *common, "conversations_per_step=2", "step_unit=conversation", "trainer.epochs=1")
    data = PlannedData(config)
    data.read()
    said = " ".join(notes(config, data, None))
    assert (data.plan.steps, len(data.plan.left_out)) == (1, 4)
    assert "4 of 5 steps are left out: of their conversations none fits; a longer context_length" in said
    assert "8 of 9 conversations are refused and leave their places in the steps empty" in said
    assert "0.222 of 2 are there in the mean" in said
    assert "places" not in " ".join(notes(config.model_copy(update={"step_unit": "example"}), data, None))


def test_what_the_start_has_said_is_not_said_again(tmp_path, capsys):
    found = Result("finished", str(tmp_path), 3, notes=["known before", "came of it"], seconds=7.0)
    job = load("train", "+run.swept={seed: '1'}")
    conclude(job, found, tmp_path, ["known before"])
    said = capsys.readouterr().out
    assert "note: came of it" in said and "known before" not in said
    conclude(load("train", "verbose=false"), found, tmp_path, ["known before"])
    assert capsys.readouterr().out.splitlines() == ["note: came of it", f"{tmp_path}: 3 steps in 7 s"]
