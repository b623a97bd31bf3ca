"""W&B's variables count where the YAML says null, and are checked like any other value."""

import pytest

from vicuna_lit.config.compose import ConfigError, load
from vicuna_lit.config.tracking import VARIABLES

VALUES = {
    "mode": "disabled", "project": "p", "entity": "e", "name": "n", "group": "g", "job_type": "j", "notes": "two words",
    "console": "off", "dir": "/d",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_variable_is_set(monkeypatch):
    for name in VARIABLES.values():
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("job", ["train", "evaluate"])
def test_each_variable_counts_where_the_config_says_nothing(job, monkeypatch):
    given = ["models=[a,b]"] if job == "evaluate" else []
    alone = load(job, *given).wandb
    assert (alone.mode, alone.project, alone.job_type, alone.tags, alone.console) == (
        "offline", "vicuna_lit", job, (), "auto",
    )  # fmt: skip
    for key, value in (VALUES | {"tags": "a, b"}).items():
        monkeypatch.setenv(VARIABLES[key], value)
    found = load(job, *given).wandb
    assert {key: getattr(found, key) for key in VALUES} == VALUES
    assert found.tags == ("a", "b")
    said = load(job, *given, "wandb.project=mine", "wandb.mode=offline", "wandb.tags=[c]", "wandb.notes=''").wandb
    assert (said.project, said.mode, said.tags, said.notes) == ("mine", "offline", ("c",), "")


def test_old_names_of_a_mode_are_taken_and_an_empty_variable_is_none(monkeypatch):
    for said, mode in (("dryrun", "offline"), ("run", "online"), ("", "offline")):
        monkeypatch.setenv("WANDB_MODE", said)
        assert load("train").wandb.mode == mode


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "WANDB_MODE",
            "of line",
            r"wandb\.mode: WANDB_MODE=of line: no such choice; choices: online, ",
        ),
        ("WANDB_CONSOLE", "loud", r"wandb\.console: WANDB_CONSOLE=loud: no such choice"),
        ("WANDB_TAGS", "x" * 65, r"wandb\.tags: WANDB_TAGS: 'x+'… has 65 characters; W&B takes 1 to 64"),
        ("WANDB_PROJECT", "a/b", r"wandb\.project: WANDB_PROJECT: a/b holds /"),
        ("WANDB_ENTITY", "e" * 129, r"wandb\.entity: WANDB_ENTITY: has 129 characters"),
    ],
)
def test_a_wrong_one_is_named(variable, value, said, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=said):
        load("train")


def test_settings_with_a_key_of_their_own_and_keys_are_refused():
    with pytest.raises(ConfigError, match=r"run_tags: here it is wandb\.tags; .*api_key: here it is `wandb login`"):
        load("train", "wandb.settings={run_tags: [a], api_key: secret}")
    assert load("train", "wandb.settings={save_code: true}").wandb.settings == {"save_code": True}
