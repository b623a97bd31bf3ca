"""What is said of a sweep follows from its runs, and nothing is said where they say nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.unit.compare.test_table_and_page import run
from vicuna_lit.cli import compare as command
from vicuna_lit.compare.conclusions import besides, conclude, in_words, other_files
from vicuna_lit.compare.conversations import validation_of
from vicuna_lit.compare.runs import Sweep, read_sweep
from vicuna_lit.compare.table import copies, is_named, settings, table
from vicuna_lit.data.dataset import Examples
from vicuna_lit.data.encoder import Example
from vicuna_lit.data.mixture import JoinedExamples
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.validation_loss import conversations_csv

VALIDATION = {"examples": 30, "exchanges_kept": 40, "supervised_tokens": 900}


def sweep_of(folder: Path, losses: Mapping[str, Sequence[float | None]], **more: object) -> Sweep:
    """A sweep over the learning rate; the job's numbers follow the order of the dict."""
    jobs = [(lr, seed, loss) for lr, of_seeds in losses.items() for seed, loss in enumerate(of_seeds)]
    for number, (lr, seed, loss) in enumerate(jobs):
        swept = {"optimizer.lr": lr, "seed": str(seed)}
        given = {"data": {"validation": VALIDATION}} | more
        one = run(folder / f"{number}", loss, swept=swept, **given)
        (one / ".hydra").mkdir()
        (one / ".hydra" / "hydra.yaml").write_text(f"hydra:\n  job:\n    name: train\n    num: {number}\n")
    return read_sweep(folder)


BASE: list[float | None] = [1.0, 1.1, 1.2, 1.3, 1.4]


def test_a_file_that_was_edited_between_two_jobs_is_named(tmp_path):
    sweep = sweep_of(tmp_path, {"5e-3": [1.0, 1.1], "1e-3": [0.9, 1.0]})
    for i, one in enumerate(sweep.runs):
        files = {"talks.jsonl": "b" if i == 2 else "a", "tokenizer.json": "c"}
        (one.folder / "run.json").write_text(json.dumps({"wandb_id": str(i), "files": files}))
    (line,) = other_files(read_sweep(tmp_path))
    assert line.startswith("talks.jsonl was not the same file for all runs (another one for ")
    assert line in in_words(read_sweep(tmp_path), settings(sweep))
    (sweep.runs[2].folder / "run.json").write_text("{")
    assert other_files(read_sweep(tmp_path)) == []


@pytest.mark.promise(
    "A sweep ends in words that its runs bear: better, worse, equal within a margin, or not to be told"
)
def test_the_verdicts(tmp_path):
    sweep = sweep_of(
        tmp_path,
        {
            "5e-3": BASE,
            "1e-3": [0.9, 1.01, 1.1, 1.19, 1.31],
            "2e-3": [1.1, 1.21, 1.3, 1.39, 1.51],
            "3e-3": [1.001, 1.0995, 1.2, 1.3005, 1.3995],
            "4e-3": [1.3, 0.9, 1.2, 1.5, 1.2],
            "6e-3": BASE,
        },
    )
    found = {c.setting.removeprefix("lr="): c for c in sweep.conclude(margin=0.01)}
    assert {lr: c.verdict for lr, c in found.items()} == {
        "1e-3": "better", "2e-3": "worse", "3e-3": "equal", "4e-3": "unclear", "6e-3": "equal",
    }  # fmt: skip
    assert str(found["1e-3"]).startswith("lr=1e-3 is better than lr=5e-3: validation loss -0.098, 95% interval [-0.108")
    assert "equal to lr=5e-3 within 0.01: validation loss" in str(found["3e-3"])
    assert "to the last digit" in str(found["6e-3"])
    assert "5 pairs can show only a true difference of" in str(found["4e-3"])
    wide = {c.setting: c.verdict for c in sweep.conclude(margin=0.2)}
    assert wide["lr=1e-3"] == "equal"  # shown to differ, and by less than matters
    with pytest.raises(RunError, match="margin -1: nats that make no difference, above 0"):
        sweep.conclude(margin=-1)
    without = {c.setting: c.verdict for c in sweep.conclude()}
    assert without["lr=3e-3"] == "unclear"  # without a margin nothing is called equal


def test_the_baseline_is_what_the_user_named_first(tmp_path):
    sweep = sweep_of(tmp_path, {"5e-3": [1.0, 1.1], "1e-3": [0.9, 1.05]})
    assert [(s.name, s.baseline) for s in settings(sweep)] == [("1e-3", False), ("5e-3", True)]
    for name in ("lr=1e-3", "1e-3", "optimizer.lr=0.001", "0.0010"):
        assert [s.baseline for s in settings(sweep, baseline=name)] == [True, False]
    assert is_named({"data": "a,b"}, "data=a,b") and not is_named({"data": "a", "lr": "1"}, "lr=1")
    with pytest.raises(RunError, match="no such setting; there are: lr=1e-3; lr=5e-3"):
        settings(sweep, baseline="7")


def test_a_baseline_without_a_result_is_not_replaced_in_silence(tmp_path, capsys, monkeypatch):
    sweep = sweep_of(tmp_path, {"5e-3": [None, None], "1e-3": [0.9, 1.05], "2e-3": [0.8, 1.0]})
    assert sweep.conclude() == []
    monkeypatch.setattr("sys.argv", ["vicuna-compare", str(tmp_path)])
    command.main()
    assert "Nothing is compared: lr=5e-3" in capsys.readouterr().out
    assert "Nothing is compared" in (tmp_path / "compare.html").read_text()


def test_few_and_equal_differences_tell_no_spread(tmp_path):
    one = sweep_of(tmp_path / "one", {"5e-3": [1.0], "1e-3": [0.9]}).conclude()[0]
    assert (one.verdict, one.pairs) == ("unclear", 1)
    assert "repeat with seed=0,1,2" in str(one)
    same = sweep_of(tmp_path / "same", {"5e-3": [1.0, 2.0], "1e-3": [0.5, 1.5]}).conclude()[0]
    assert (same.verdict, same.interval) == ("unclear", None)
    none = sweep_of(tmp_path / "none", {"5e-3": [1.0, None], "1e-3": [None, 1.5]}).conclude()[0]
    assert (none.verdict, none.pairs) == ("incomparable", 0)


def test_other_validation_texts_are_not_compared(tmp_path):
    sweep_of(tmp_path, {"5e-3": [1.0, 1.1]})
    swept = {"optimizer.lr": "1e-3", "seed": "0"}
    other = {"validation": VALIDATION | {"examples": 45}}  # the same replies, behind less of their conversations
    run(tmp_path / "other", 0.5, swept=swept, data=other)
    said = conclude(settings(read_sweep(tmp_path)))[0]
    assert said.verdict == "incomparable"
    assert "judged on other texts (45 examples of 40 exchanges, 900 supervised tokens against 30 examples of" in str(
        said
    )
    config = json.loads((tmp_path / "other/config.json").read_text())
    config["model"]["tokenizer"] = "another"
    (tmp_path / "other/config.json").write_text(json.dumps(config))
    found = settings(read_sweep(tmp_path))
    assert "their losses are by token of other tokenizers (another: 45 examples of" in str(conclude(found)[0])
    assert [row["difference, paired"] for row in table(found)] == ["–", "not comparable"]
    for one, read in (
        ("other", {"another/tokenizer.json": "a"}),
        ("0", {"tok/tokenizer.json": "a", "tok/x.json": "b"}),
    ):
        config = json.loads((tmp_path / one / "config.json").read_text())
        config["model"]["tokenizer"] = next(iter(read)).partition("/")[0]
        (tmp_path / one / "config.json").write_text(json.dumps(config))
        (tmp_path / one / "run.json").write_text(json.dumps({"files": read}))
    assert "judged on other texts" in str(conclude(settings(read_sweep(tmp_path)))[0]), "the same tokenizer elsewhere"


def test_a_run_that_diverged_breaks_no_table_and_is_left_out_of_no_mean_in_silence(tmp_path):
    sweep = sweep_of(tmp_path, {"5e-3": [1.0, 1.1, 1.2], "1e-3": [0.9, float("nan"), 1.1]})
    rows = {row["lr"]: row for row in table(settings(sweep))}
    assert "(1 of 3 not finite)" in rows["1e-3"]["validation loss"]
    said = sweep.conclude()[0]
    assert said.verdict == "incomparable"
    assert "1 of 3 pairs lack a finite validation loss" in str(said)


def test_a_copied_run_counts_once(tmp_path):
    sweep_of(tmp_path / "a", {"5e-3": [1.0, 1.1], "1e-3": [0.9, 1.05]})
    sweep_of(tmp_path / "b", {"5e-3": [1.0, 1.1]})
    both = read_sweep(tmp_path)
    assert [len(s.runs) for s in settings(both)] == [2, 2]
    assert len(copies(both)) == 2
    assert "does not count" in copies(both)[0]
    twice = read_sweep(tmp_path / "b", tmp_path / "a/../b", *(tmp_path / "b").iterdir())
    assert len(twice.runs) == 2 and len(copies(twice)) == 3
    assert copies(twice)[0] == f"{tmp_path}/a/../b was named more than once, and counts once"


def test_sweeps_that_are_read_together_differ_in_more_than_each_has_swept(tmp_path):
    sweep_of(tmp_path / "a", {"5e-3": [1.0]})
    for path in (sweep_of(tmp_path / "b", {"5e-3": [0.8]}).runs[0].folder / "config.json",):
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"epochs": 9.0}))
    assert read_sweep(tmp_path).keys == ("optimizer.lr", "seed", "epochs")


@pytest.mark.promise("A sweep's intervals hold for other seeds and for other conversations than were held out")
def test_conversations_are_a_sample_too(tmp_path):
    """The setting is better on half of the conversations and worse on the others, in each seed alike."""
    sweep = sweep_of(tmp_path, {"5e-3": [1.0, 1.1, 1.2], "1e-3": [0.9, 1.01, 1.1]})
    alone = sweep.conclude()[0]
    assert (alone.verdict, alone.conversations) == ("better", 0)
    for one in sweep.runs:
        gain = one.swept["optimizer.lr"] == "1e-3"
        effects = [gain * (2.0 if i % 2 else -2.2) for i in range(10)]
        rows = [f"c{i},20,{(one.metric('val_loss') or 0) + effect:.9g}" for i, effect in enumerate(effects)]
        text = "\n".join(["conversation,supervised_tokens,loss_4", *rows, "without,0,"])
        (one.folder / "validation.csv").write_text(text + "\n")
    sweep = read_sweep(tmp_path)
    both = sweep.conclude()[0]
    assert (both.verdict, both.conversations) == ("unclear", 10)
    assert alone.interval and both.interval and both.interval.low < alone.interval.low < both.interval.high
    assert "3 pairs on 10 conversations" in str(both)
    assert "it takes more held-out conversations" in str(both)
    assert any("10 held-out conversations are few" in line for line in in_words(sweep, settings(sweep)))
    row = next(row for row in table(settings(sweep)) if row["lr"] == "1e-3")
    assert f"{(both.interval.high - both.interval.low) / 2:.1f}" in row["difference, paired"]
    path = sweep.runs[0].folder / "validation.csv"
    path.write_text(path.read_text().replace("c0,20", "other,20"))
    said = str(read_sweep(tmp_path).conclude()[0])  # one run is judged by another conversation
    assert "not compared" in said
    assert "other texts, which are as many (" in said and "other of 20 supervised tokens" in said
    path.write_text(path.read_text().replace("other,20", "source/c0,20"))  # the same, as a source of a mixture
    assert read_sweep(tmp_path).conclude()[0].verdict == "unclear"
    path.write_text("conversation,supervised_tokens,loss_4\nc0,many,1\n")
    sweep = read_sweep(tmp_path)
    assert sweep.conclude() == [replace(alone, conversations=0)]  # one file costs no table
    said = in_words(sweep, settings(sweep))[1]
    assert "these held-out conversations alone" in said
    assert f"{path}: cannot be read" in said


def test_losses_are_read_back_whatever_the_ids_are(tmp_path):
    ids = [
        "plain",
        "a\rb\nc\0",
        'with "quotes", and a comma',
        "x" * 200_000 + "1",
        "x" * 200_000 + "2",
        "\ud800\u2028",
        "ü 日本",
    ]
    ones = np.ones(3, np.int32), np.ones(3, bool)
    examples = JoinedExamples({"": Examples.of((i, Example(id, *ones)) for i, id in enumerate(ids))})
    (tmp_path / "validation.csv").write_text(
        conversations_csv(examples, {4: [float(3 * i) for i in range(7)]}), "utf-8"
    )
    found = validation_of(tmp_path)
    assert found
    assert found.last.tolist() == list(range(7))
    assert len(set(found.ids)) == 7
    assert found.ids[1] == r"a\rb\nc\x00"
    assert len((tmp_path / "validation.csv").read_text().splitlines()) == 8


def test_what_else_differs_is_said(tmp_path):
    sweep_of(tmp_path, {"5e-3": [1.0, 1.1]}, steps=5)
    sweep_of(tmp_path / "more", {"1e-3": [1.0, 1.1]}, steps=6)
    assert besides(settings(read_sweep(tmp_path))) == ["steps (1e-3: 6; 5e-3: 5)"]
    sweep_of(tmp_path / "few", {"1": [1.0]}, data={"train": {"records_kept": 8}, "validation": VALIDATION}, steps=6)
    sweep_of(tmp_path / "all", {"2": [1.0]}, data={"train": {"records_kept": 9}, "validation": VALIDATION}, steps=6)
    found = [one for one in settings(read_sweep(tmp_path)) if one.name in "12"]
    assert besides(found) == ["conversations (1: 8; 2: 9)"]


def test_settings_whose_names_are_cut_alike_keep_a_conclusion_each(tmp_path):
    """Long paths that begin alike have one name on the screen, and are two settings."""
    long = "/data/" + "x" * 80
    found = conclude(settings(sweep_of(tmp_path, {"5e-3": BASE, f"{long}/a": [0.9, 1.01, 1.1, 1.19, 1.31],
                                                  f"{long}/b": [1.1, 1.21, 1.3, 1.39, 1.51]})))  # fmt: skip
    assert [c.verdict for c in found] == ["better", "worse"]


def test_a_baseline_that_was_asked_for_is_named_where_it_has_no_result(tmp_path):
    sweep = sweep_of(tmp_path, {"5e-3": [0.9, 1.0], "1e-3": [None, None], "2e-3": [0.8, 1.0]})
    said = in_words(sweep, settings(sweep, baseline="1e-3"), baseline="1e-3")
    assert said[0].startswith("Nothing is compared: lr=1e-3, the baseline, has no finished run")
