"""`show_masks`: the masks of the user's own first records and the account of all, without a model's weights."""

import json
from pathlib import Path

import pytest

from tests.helpers import commands
from tests.helpers.runs import QUICKSTART
from vicuna_lit.cli.show_masks import show_masks
from vicuna_lit.config.compose import load
from vicuna_lit.data.mask_view import MaskView
from vicuna_lit.paths import ModelError
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.run import fit

RECORDS = [
    {"id": "one", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello \x1b[31m."}]},
    {"id": "two", "conversations": [{"from": "nobody", "value": "Hi"}]},
    {"id": "three", "conversations": [{"from": "human", "value": "[red]Why?"}, {"from": "gpt", "value": "So."}]},
    {"id": "four", "conversations": [{"from": "human", "value": "Left?"}, {"from": "gpt", "value": "Right."}]},
]


@pytest.fixture
def data(tmp_path) -> Path:
    """Four records, one of which is refused."""
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return tmp_path / "data.jsonl"


def masks(data: Path, *more: str):
    return commands.run(
        "vicuna_lit.train", "experiment=vicuna", f"data={data}", f"model.tokenizer={QUICKSTART / 'tokenizer'}",
        "data.validation_fraction=0", f"run.dir={data.parent / 'run'}", *more,
    )  # fmt: skip


def test_the_first_records_are_shown_without_weights_and_all_are_accounted_for(data):
    done = masks(data, "show_masks=3")
    assert done.returncode == 0, done.stderr
    assert "USER: Hi ASSISTANT:⟦ Hello ␛[31m.</s>⟧" in done.stdout
    assert "two\nrefused: unknown role: turn 1 has from 'nobody'" in done.stdout
    assert "USER: [red]Why? ASSISTANT:⟦ So.</s>⟧" in done.stdout
    assert "Left?" not in done.stdout
    assert "training: 4 records, 3 kept, 1 refused\n  refused 1: unknown role; the first, " in done.stdout
    assert " in the loss (" in done.stdout
    assert not (data.parent / "run").exists()


def test_the_masks_are_those_of_the_recipe(data):
    done = masks(data, "show_masks=1", "train_on=all_tokens", "template=chatml")
    assert done.returncode == 2
    assert "template chatml needs <|im_start|>, <|im_end|> as single tokens" in done.stderr
    done = masks(data, "show_masks=1", "train_on=all_tokens")
    assert "⟦A chat between" in done.stdout.replace("<s>⟦", "⟦")


def test_a_thought_that_is_left_out_of_the_loss_is_shown_so(data):
    turns = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "<think>Two and two.</think>Four."}]
    data.write_text(json.dumps({"id": "one", "conversations": turns}) + "\n")
    assert "⟦ <think>Two and two.</think>Four.</s>⟧" in masks(data, "show_masks=1").stdout
    without = masks(data, "show_masks=1", "train_on_reasoning=false").stdout
    assert "Two and two." in without
    assert not any("Two" in inside.partition("⟧")[0] for inside in without.split("⟦")[1:])
    assert "Four.</s>⟧" in without


def test_nothing_kept_is_bad_input_and_the_records_are_shown_all_the_same(data):
    data.write_text(json.dumps(RECORDS[1]) + "\n")
    done = masks(data, "show_masks=3")
    assert done.returncode == 2
    assert "refused: unknown role" in done.stdout
    assert "none of 1 records can be used" in done.stderr


def test_a_script_is_told_where_the_masks_are(data):
    with pytest.raises(RunError, match=r"vicuna_lit\.show_mask"):
        fit(load("train", "show_masks=1", f"run.dir={data.parent / 'run'}"))


def test_colours_are_for_terminals_that_want_them(monkeypatch, capsys):
    view = MaskView((("Why?", False), ("So.\x1b", True)))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    view.print()
    assert "\x1b[" in (coloured := capsys.readouterr().out)
    assert "⟦" not in coloured
    assert "␛" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    view.print()
    assert capsys.readouterr().out == "Why?⟦So.␛⟧\n"


def test_what_training_refuses_shows_no_masks():
    with pytest.raises(ModelError, match="context_length=1024 is longer than the model's 512"):
        show_masks(load("train", "show_masks=1", "context_length=1024"))
