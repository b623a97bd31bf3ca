"""The reference knows every key of every job: what it means, what it may be, and what it is by default."""

from typing import Any

import pytest

from vicuna_lit.config.compose import JOBS, Job, load
from vicuna_lit.config.reference import GIVEN, Entry, entries

NEEDED = {"prepare": ["raw=x"], "evaluate": ["models=[x,y]"], "chat": ["model=x"]}


def by_key(job: Job, *overrides: str) -> dict[str, Entry]:
    return {entry.key: entry for entry in entries(job, *overrides)}


def keys_of(values: dict[str, Any], known: dict[str, Entry], prefix: str = "") -> set[str]:
    """The dotted keys of a config's values; what is inside a value that is no group of keys counts with it."""
    keys = set()
    for name, value in values.items():
        if name != "kind" or not (prefix and known[prefix.removesuffix(".")].choices):  # there the choice says it
            keys.add(prefix + name)
            entry = known.get(prefix + name)
            if isinstance(value, dict) and entry and entry.type == "group":
                keys |= keys_of(value, known, f"{prefix}{name}.")
    return keys


@pytest.mark.parametrize("job", JOBS)
def test_every_key_of_a_job_is_in_the_reference_and_has_a_meaning(job: Any):
    known = by_key(job)
    config = load(job, *NEEDED.get(job, []))
    assert keys_of(config.model_dump(mode="json"), known) <= known.keys()
    assert not [entry.key for entry in known.values() if not entry.text]


@pytest.mark.parametrize(
    "group", ["strategy", "finetune", *(pytest.param(name, marks=pytest.mark.slow) for name in ("model", "template"))]
)
def test_a_choice_brings_keys_that_say_under_which_choice_they_exist(group: str):
    known = by_key("train")
    for choice in known[group].choices:
        given = by_key("train", f"{group}={choice}")
        assert given[group].default == choice
        assert given.keys() == known.keys()
    assert known["finetune.rank"].needs == "finetune=lora|qlora"
    assert known["template.reply"].needs == "not template=auto|tokenizer"


def test_an_entry_says_type_default_choices_and_part():
    known = by_key("train")
    assert known["optimizer.lr"].type == "number > 0"
    assert known["optimizer.lr"].default == "0.005"
    assert known["data.validation_fraction"].elsewhere.startswith("0.01 with data=files, 0.05 with data=mixture")
    assert by_key("train", "data=mixture")["data.validation_fraction"].elsewhere.startswith("0.01 with data=files, 0.0")
    assert not known["data.path"].elsewhere
    assert known["callbacks"].default == "[]"
    assert by_key("train", "callbacks=[lr_monitor]")["callbacks"].default == "[lr_monitor]"
    assert by_key("train", "experiment=vicuna")["optimizer.lr"].default == "2.0e-05"
    assert known["optimizer.clip_norm"].type == "number > 0, or null"
    assert known["seed"].type == "integer ≥ 0 and < 4294967296", "to the last digit"
    assert known["resume"].choices == ("auto", "never", "must")
    assert (known["data.path"].part, known["tokens_per_device"].part) == ("recipe", "layout")
    assert (known["wandb.mode"].part, known["trainer.devices"].part) == ("run settings", "layout")
    assert (known["trainer.epochs"].part, known["strategy.offload"].part) == ("recipe", "layout")
    assert by_key("evaluate")["judge"].default == "rule"
    assert by_key("evaluate")["budget_usd"].type == "number ≥ 0, or null"
    assert known["optimizer.kind"].choices == ("adamw", "adamw_8bit", "adafactor")
    assert "strategy.kind" not in known
    assert by_key("prepare")["raw"].default == GIVEN
    assert by_key("prepare")["moderation.scorer"].choices == ()
