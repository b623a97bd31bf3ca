"""Earlier names of keys, and other tools' names for ours, are refused with ours; files under the old names are read."""

import json
from pathlib import Path

import pytest

from vicuna_lit.compare.run import read_run
from vicuna_lit.config.base import CONF_DIR
from vicuna_lit.config.compose import ConfigError, load, unknown_key
from vicuna_lit.config.reference import entries
from vicuna_lit.config.renamed import ELSEWHERE, OF_ESTIMATE, RENAMED, VALUES, new_key, with_new_names
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.data.source import ConversationFiles
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.records.conversation import Conversation, write_jsonl
from vicuna_lit.run_folder import flatten, read_json
from vicuna_lit.train.times import lost_time

KEYS = [entry.key for entry in entries("train")]
OLD = {
    "heldout": {"every_steps": 5, "context_length": None},
    "evaluate": {
        "questions": [["Who?"]],
        "every": 20,
        "at_end": {"judge": "rule", "answers.max_new_tokens": 6},
    },
    "supervised": "last_reply",
    "step_unit": "piece",
    "head": "plain",
    "objective": "heldout_loss",
    "data": {"path": "x.jsonl", "heldout_path": None, "heldout_fraction": 0.1, "max_heldout": 4},
    "finetune": {"kind": "last_layers", "head": False},
    "run": {"name": "supervised=replies,seed=1", "swept": {"supervised": "replies", "heldout.every_steps": "5"}},
}
NEW = {
    "validation": {"every_steps": 5, "context_length": None},
    "samples": {"questions": [["Who?"]], "every": 20},
    "evaluate_after": {"judge": "rule", "answers.max_new_tokens": 6},
    "train_on": "last_assistant_message",
    "step_unit": "example",
    "lm_head": "plain",
    "objective": "val_loss",
    "data": {"path": "x.jsonl", "validation_path": None, "validation_fraction": 0.1, "max_validation": 4},
    "finetune": {"kind": "last_layers", "lm_head": False},
    "run": {
        "name": "supervised=replies,seed=1",
        "swept": {"train_on": "assistant_messages", "validation.every_steps": "5"},
    },
}


def problems(*overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        load("train", *overrides)
    return error.value.problems


def test_an_old_config_is_read_under_the_new_names():
    assert with_new_names(OLD) == NEW
    assert with_new_names(NEW) == NEW


def test_todays_config_is_read_as_it_is():
    values = load("train", "evaluate_after={judge: rule}", "samples.every=3").model_dump(mode="json")
    assert with_new_names(values) == values


@pytest.mark.parametrize("old", ["heldout.every_steps=5", "evaluate.questions=[]", "evaluate.at_end=null", "head=plain",
                                 "supervised=replies", "data.max_heldout=3", "finetune.head=true"])  # fmt: skip
def test_an_old_key_is_refused_with_the_new_one(old: str):
    key = old.partition("=")[0]
    (said,) = problems(old)
    assert said == f"{key}: this key is called {new_key(key)} now"


@pytest.mark.parametrize(("key", "old"), [(key, old) for key in VALUES for old in VALUES[key] if key != "objective"])
def test_an_old_value_is_refused_with_the_new_one(key: str, old: str):
    (said,) = problems(f"{key}={old}")
    assert f"it is called {VALUES[key][old]} now" in said


def test_every_key_of_another_tool_has_ours():
    for key, ours in ELSEWHERE.items():
        here = f"it is {ours}".replace("it is nothing:", "there is nothing for it:")
        assert unknown_key(key, KEYS) == f"{key}: unknown key; here {here}"


def test_keys_of_what_a_run_is_estimated_on_are_answered_there_alone():
    estimate = [entry.key for entry in entries("estimate")]
    for key, ours in OF_ESTIMATE.items():
        assert unknown_key(key, estimate) == f"{key}: unknown key; here it is {ours}"
        assert ours.replace("=", ",").split(",")[0] in estimate
    assert unknown_key("gpus", KEYS) == "gpus: unknown key; here it is trainer.devices"
    assert unknown_key("num_nodes", KEYS).endswith("torchrun starts the processes of several machines")


def test_a_key_that_no_key_is_like_gets_no_guess():
    """With a guess that is far off a reader would set a key that does something else."""
    keys = [entry.key for entry in entries("train")]
    beside = ["optimizer", "optimizer.lr", "optimizer.rounding", "optimizer.warmup_ratio"]
    for typed, said in {
        "optimizer.learning_rte": "did you mean learning_rate? here it is optimizer.lr",
        "optimizer.warmp": "did you mean warmup? here it is optimizer.warmup_ratio, a share of all steps",
        "optimizer.lrr": "did you mean optimizer.lr?",
        "optimizer.ratio": "did you mean optimizer.warmup_ratio?",
    }.items():
        assert unknown_key(typed, beside) == f"{typed}: unknown key ({said})", "a shared group is no likeness"
    assert unknown_key("optimizer.foo", beside) == "optimizer.foo: unknown key"
    assert unknown_key("contextlen", keys) == "contextlen: unknown key (did you mean context_length?)"
    for key in ("ddp_timeout", "model_init_kwargs", "offload_folder", "tf32"):
        assert unknown_key(key, keys) == f"{key}: unknown key"


@pytest.mark.parametrize("key", ["learning_rate", "trainer.max_epochs", "model.lora_rank", "global_train_batch_size"])
def test_another_tools_key_is_refused_with_ours(key: str):
    """In whichever group of theirs it stands."""
    assert problems(f"{key}=1") == (unknown_key(key, KEYS),)
    assert "; here it is " in unknown_key(key, KEYS)


def test_a_job_answers_with_keys_that_it_has():
    with pytest.raises(ConfigError) as refused:
        load("chat", "model=x", "learning_rate=1", "stage=1")
    assert len(refused.value.problems) == 2 and not [said for said in refused.value.problems if "here" in said]


def test_our_keys_that_are_named_exist():
    """In the answers to other tools' keys, and on the right of every renaming."""
    known = set(TrainConfig.model_fields) | set(flatten(load("train").model_dump(mode="json")))
    known |= {p.name for p in CONF_DIR.iterdir()} | {
        "finetune.rank",
        "finetune.alpha",
        "finetune.targets",
        "model.path",
        "data",
    }
    for key, ours in ELSEWHERE.items():
        first = ours.replace(";", " ").replace(",", " ").replace("=", " ").split()[0]
        assert first in known or first == "nothing:", (key, first)
        assert key not in known, key
    of_files = {"val_loss", "val_loss_before", "val_by_step", "lost_time.validation", "validation.losses"}
    assert set(RENAMED.values()) - of_files - {"finetune.lm_head", "validation_fraction"} <= known


def test_a_folder_that_was_prepared_before_is_read(tmp_path: Path):
    """Its held-out conversations have another file name."""
    for name, count in (("train", 3), ("heldout", 2)):
        write_jsonl([Conversation.of("Hi!", f"{name} {i}", id=f"{name}{i}") for i in range(count)],
                    tmp_path / f"{name}.jsonl")  # fmt: skip
    (tmp_path / "manifest.json").write_text("{}")
    config = load("train", f"data={tmp_path}")
    files, encoder = ConversationFiles(config), make_encoder(config)
    assert set(files.files) == {"train.jsonl", "heldout.jsonl"}
    assert [len(files.examples(encoder, validation=side)[0]) for side in (False, True)] == [3, 2]


def test_an_old_run_folder_is_read(tmp_path: Path):
    """Its result, its losses by reply, the choices of its sweep, and the times of its starts."""
    result = {
        "status": "finished", "steps": 2, "heldout_loss": 1.5, "heldout_loss_before": 2.5,
        "heldout": {"heldout/loss": 1.5, "heldout/loss_by_turn/1": 1.25, "heldout/loss_by_turn/8+": 1.75},
        "heldout_by_step": {"0": 2.5, "2": 1.5}, "lost_time": {"exams": 3.0},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(OLD | {"conversations_per_step": 8}))
    (tmp_path / "result.json").write_text(json.dumps(result))
    (tmp_path / "times.csv").write_text(
        "life,step,what,seconds,clock\n1,0,exam,2.0,12.0\n1,1,step,1.0,13.0\n2,2,step,1.0,15.0\n2,2,exam,1.0,16.0\n"
    )
    run = read_run(tmp_path)
    assert (run.metric("val_loss"), run.metric("val_loss_before"), run.metric("lost_time.validation")) == (1.5, 2.5, 3)
    assert run.val_by("turn") == {"1": 1.25, "8+": 1.75}
    assert run.swept == NEW["run"]["swept"]
    assert (read_json(tmp_path, "result.json") or {})["val_by_step"] == {"0": 2.5, "2": 1.5}
    times = lost_time(tmp_path)
    assert times is not None
    assert (times.validation, times.useful, times.starts) == (3.0, 2.0, 2)
