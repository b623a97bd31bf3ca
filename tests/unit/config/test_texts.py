"""Paths and texts of any form on the command line, in every job and in sweeps; W&B's limits, refused at once."""

from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from tests.helpers import commands
from tests.helpers.encoders import QUICKSTART
from vicuna_lit.cli.command_line import jobs_of, read
from vicuna_lit.cli.evaluate_after import _overrides
from vicuna_lit.config.base import CONF_DIR
from vicuna_lit.config.compose import ConfigError, load
from vicuna_lit.config.texts import parts, quoted
from vicuna_lit.run_folder import wandb_name

ODD = [
    "runs/sweeps/ctx/context_length=256,seed=0/hf",
    "my models/größe ~ 7B",
    "it's (new) #2 & more; [x] {y}",
    "back\\slash\\",
    "a: b! c? 100% @home",
    "日本語/模型",
]


@pytest.mark.parametrize("odd", ODD)
def test_a_path_or_a_text_holds_any_character_in_every_job(odd):
    train = load("train", "experiment=quickstart", "model=local", f"model.path={odd}", f"model.tokenizer={odd}",
                 f"data.path={odd}", f"data.validation_path={odd}", f"run.dir={odd}", f"run.name={odd}",
                 f"system_prompt={odd}", f"wandb.group={odd}")  # fmt: skip
    assert {train.model.path, train.model.tokenizer, train.data.path, train.data.validation_path, train.run.dir,
            train.run.name, train.system_prompt, train.wandb.group} == {odd}  # fmt: skip
    assert load("estimate", f"calibrate={odd}", f"run.dir={odd}").calibrate == odd
    evaluate = load("evaluate", "models=[a,b]", "judge=local", f"judge.path={odd}", f"questions={odd}",
                    f"requests.cache={odd}")  # fmt: skip
    assert {evaluate.judge.path, evaluate.questions, evaluate.requests.cache} == {odd}  # pyright: ignore
    chat = load("chat", f"model={odd}", f"against=b{odd}", f"system_prompt={odd}")
    assert [chat.model.path, chat.against.path] == [odd, f"b{odd}"]  # pyright: ignore
    assert load("prepare", f"raw={odd}", f"run.dir={odd}").raw in (odd, (odd,))


def test_folders_of_our_own_sweeps_are_models_of_an_evaluation(tmp_path, monkeypatch):
    """A comma within a path that exists is no separator."""
    monkeypatch.chdir(tmp_path)
    for length in (256, 512):
        (tmp_path / f"context_length={length},seed=0/hf").mkdir(parents=True)
    paths = ["context_length=256,seed=0/hf", "context_length=512,seed=0/hf"]
    found = load("evaluate", f"models=[{','.join(paths)}]")
    assert [source.path for source in found.models] == paths  # pyright: ignore


def test_a_sweep_over_such_paths_has_a_job_for_each(tmp_path):
    folders = [tmp_path / "seed=0,lr=1", tmp_path / "größe 2", tmp_path / "plain"]
    for folder in folders:
        folder.mkdir()
    jobs = ["experiment=quickstart", "model=local", f"model.path={','.join(map(str, folders))}", "seed=0,1"]
    assert [c.model.path for c in jobs_of(read("train", ["-m", *jobs])[0])] == [str(f) for f in folders for _ in "ab"]
    found = jobs_of(read("train", ["-m", f"data={folders[0]},{folders[1]}"])[0])
    assert [config.data.path for config in found] == [str(folder) for folder in folders[:2]]


def test_what_is_hydras_stays_hydras():
    assert load("train", "run.dir=null/x", "optimizer.betas=[0.8,0.9]").optimizer.betas == (0.8, 0.9)
    assert load("train", "data=files", "data.path=x", "data.validation_path=null").data.validation_path is None
    assert load("train", "run.name=a", "run.dir=runs/${run.name}/b").run.dir == "runs/a/b"
    assert parts("a,b,c") == ["a", "b", "c"]
    assert quoted("a'b\\") == "'a\\'b\\\\'"


def test_home_is_the_users_home():
    home = str(Path.home())
    assert load("train", "run.dir=~/runs/x").run.dir == f"{home}/runs/x"
    assert load("evaluate", "models=[a,b]", "requests.cache=~/c.sqlite").requests.cache == f"{home}/c.sqlite"


def test_the_evaluation_after_training_is_given_such_a_folder_whole():
    config = load("train", "experiment=quickstart", "model=local", "model.path=it's, a=b", "run.dir=r, 'x'",
                  "evaluate_after={judge: rule}")  # fmt: skip
    found = load("evaluate", *_overrides(config))
    assert [source.path for source in found.models] == ["it's, a=b", "r, 'x'/hf"]  # pyright: ignore
    assert found.run.dir == "r, 'x'/evaluation"


def test_the_evaluation_after_training_finds_the_users_own_files(tmp_path, monkeypatch):
    folder = tmp_path / "my, conf"
    (folder / "judge").mkdir(parents=True)
    (folder / "judge/mine.yaml").write_text((CONF_DIR / "judge/rule.yaml").read_text())
    config = load("train", "experiment=quickstart", "model=local", "model.path=x", "evaluate_after={judge: mine}")
    job = OmegaConf.create({"hydra": {"searchpath": [f"file://{folder}"]}})
    monkeypatch.setattr(HydraConfig.instance(), "cfg", job)
    assert load("evaluate", *_overrides(config)).judge.kind == "rule"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (f"wandb.tags=[{'x' * 65}]", "wandb.tags: 'xxxxxxxxxxxxxxxxxxxx'… has 65 characters; W&B takes 1 to 64"),
        ("wandb.tags=['']", "wandb.tags: '' has 0 characters"),
        ("wandb.project=a/b", "wandb.project: a/b holds /; in the name of a project or entity W&B takes none of"),
        (f"wandb.project={'x' * 129}", "wandb.project: has 129 characters; W&B takes 1 to 128"),
    ],
)
def test_what_wandb_would_refuse_is_refused_first(override, said):
    for job, given in (("train", []), ("evaluate", ["models=[a,b]"])):
        with pytest.raises(ConfigError) as error:
            load(job, *given, override)  # pyright: ignore
        assert said in str(error.value)


def test_a_long_name_of_a_run_is_cut_to_what_wandb_takes_and_two_stay_two():
    names = [wandb_name("x" * 130 + end) for end in "ab"]
    assert [len(name) for name in names] == [128, 128]
    assert names[0] != names[1]
    assert wandb_name("x" * 128) == "x" * 128


def test_the_command_takes_such_paths(tmp_path):
    folder = tmp_path / "größe=1, it's ~"
    folder.mkdir()
    (folder / "mine.jsonl").write_text("\n".join((QUICKSTART / "conversations.jsonl").read_text().splitlines()[:8]))
    done = commands.run("vicuna_lit.train", f"data={folder}/mine.jsonl", f"run.dir={folder}/run", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "8 of 8 training records" in " ".join(done.stdout.split())
