"""`--explain`: all about a key, before torch is imported."""

import pytest

from tests.jobs.test_packaging import command
from vicuna_lit.cli.explain import explain
from vicuna_lit.config.compose import JOBS, ConfigError, Job, load
from vicuna_lit.config.from_run import from_run
from vicuna_lit.config.reference import entries
from vicuna_lit.whole_files import write_json


@pytest.mark.parametrize("job", JOBS)
def test_every_job_lists_its_keys_a_line_each_and_explains_every_one(job: Job):
    known = entries(job)
    lines = explain(job, ["--explain"]).splitlines()
    assert [line.split()[0] for line in lines[: len(known)]] == [entry.key for entry in known]
    assert all(len(line) < 140 for line in lines)
    assert lines[-1] == f"vicuna-{job} --explain <key> says all there is to say about one"
    whole = "\n\n" + explain(job, ["--explain", *(entry.key for entry in known)]) + "\n\n"
    begins = [whole.index(f"\n\n{entry.key}\n") for entry in known]
    assert begins == sorted(begins)
    for entry, begin, end in zip(known, begins, [*begins[1:], len(whole)], strict=True):
        said = " ".join(whole[begin:end].split())
        assert said.startswith(f"{entry.key} {' '.join(entry.text.split())}")
        assert f"type {' '.join(entry.type.split())}" in said
        assert all(choice in said for choice in entry.choices)
        if entry.default and entry.default != "must be given" and not entry.needs:
            assert "(conf/)" not in said, f"{entry.key}: comes from nowhere"


@pytest.mark.parametrize(
    ("arguments", "value", "origin"),
    [
        ("optimizer.lr", "0.005", "conf/experiment/quickstart.yaml"),
        ("experiment=vicuna_7b optimizer.lr", "2.0e-05", "conf/experiment/vicuna_7b.yaml"),
        ("experiment=vicuna optimizer.lr", "2.0e-05", "conf/train.yaml"),
        ("optimizer.lr=3e-4 optimizer.lr", "0.0003", "the command line"),
        ("finetune=lora finetune.rank", "16", "conf/finetune/lora.yaml"),
        ("experiment=vicuna_7b strategy", "fsdp", "conf/experiment/vicuna_7b.yaml"),
        ("data.path", "package://vicuna_lit/quickstart/conversations.jsonl", "conf/data/quickstart.yaml"),
        ("resume", "auto", "conf/train.yaml"),
    ],
)
def test_the_value_and_where_it_comes_from_are_those_of_the_command(arguments: str, value: str, origin: str):
    said = " ".join(explain("train", ["--explain", *arguments.split()]).split())
    assert f"default {value} ({origin})" in said


def test_values_of_another_run_come_from_its_folder(tmp_path):
    config = load("train", "experiment=quickstart", "optimizer.lr=0.25", "context_length=77")
    write_json(tmp_path / "config.json", config.model_dump(mode="json"))
    keys = ["optimizer.lr", "context_length", "run.name"]
    given = from_run([f"from={tmp_path}", "context_length=99"], multirun=False)
    said = " ".join(explain("train", ["--explain", *given, *keys], str(tmp_path)).split())
    assert f"default 0.25 ({tmp_path}/config.json)" in said
    assert "default 99 (the command line)" in said
    assert said.count("config.json)") == 1, "its name is its own"


def test_the_part_says_what_a_change_does():
    parts = {
        "optimizer.lr": "recipe: another value",
        "attention": "layout: the losses stay",
        "resume": "run settings: ",
    }
    for key, part in parts.items():
        assert f"part of {part}" in " ".join(explain("train", ["--explain", key]).split())


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("optimizer.lrr", "did you mean optimizer.lr?"),
        ("heldout", "this key is called validation now"),
        ("learning_rate", "here it is optimizer.lr"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(key: str, what: str):
    with pytest.raises(ConfigError, match=what.replace("?", r"\?")):
        explain("train", ["--explain", key])


def test_commands_explain_before_torch_is_imported_and_exit_with_2_for_a_wrong_key():
    done = command("vicuna-train", "--explain", "optimizer.lr")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "[]")
    assert done.stdout.startswith("optimizer.lr\n  ")
    wrong = command("vicuna-chat", "--explain=hosst")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "error: hosst: unknown key (did you mean host?)" in wrong.stderr
