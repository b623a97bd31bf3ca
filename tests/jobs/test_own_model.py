"""A model of the user's own: it takes no toy's recipe, and the folder of a run stands for the model that it made."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers import commands
from tests.helpers.encoders import QUICKSTART
from vicuna_lit.config.compose import load
from vicuna_lit.config.short_forms import expand
from vicuna_lit.data.auto_template import with_template
from vicuna_lit.inference.generate import Chat
from vicuna_lit.paths import ModelError, locate_model
from vicuna_lit.train.run import fit

DATA = f"data={QUICKSTART / 'conversations.jsonl'}"
TINY = (
    "wandb.mode=disabled", "samples.questions=[]", "trainer.max_steps=1", "conversations_per_step=2",
    "context_length=128", "data.max_validation=2",
    "model.architecture={hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2, "
    "num_key_value_heads: 2}",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a finished run, with blanks and signs in its name."""
    folder = tmp_path_factory.mktemp("own") / "lr=1e-3, größer ~"
    fit(load("train", "experiment=quickstart", f"run.dir='{folder}'", *TINY))
    return folder


@pytest.fixture
def bare(tmp_path, run) -> Path:
    """A model without a chat template."""
    shutil.copytree(run / "hf", tmp_path / "bare")
    (tmp_path / "bare/chat_template.jinja").unlink()
    return tmp_path / "bare"


def test_an_own_model_takes_the_articles_recipe_and_its_own_template(run):
    for given in ([f"model={run}"], [f"model={run / 'hf'}"], ["model=local", f"model.path='{run}'"],
                  [f"model.path='{run}'"]):  # fmt: skip
        config = load("train", *given, DATA)
        assert (config.optimizer.lr, config.trainer.epochs, config.context_length) == (2e-5, 3, 2048)
        assert (config.conversations_per_step, config.precision) == (128, "bf16-mixed")
        assert config.optimizer.schedule == "cosine"
        assert config.template.kind == "auto"
        assert with_template(config).template.kind == "tokenizer"
        assert config.model.path in (str(run), str(run / "hf"))
        assert config.run.name == "vicuna"
    assert load("estimate", f"model={run}", DATA).optimizer.lr == 2e-5


def test_what_the_user_has_chosen_stands(run):
    config = load("train", f"model={run}", DATA, "optimizer.lr=1e-4", "template=chatml", "precision=fp32")
    assert (config.optimizer.lr, config.precision, config.template.kind) == (1e-4, "fp32", "text")
    chosen = load("train", "experiment=quickstart", "model=local", f"model.path='{run}'", DATA)
    assert (chosen.optimizer.lr, chosen.trainer.epochs) == (5e-3, 7)


def test_a_model_without_a_template_takes_vicunas(bare):
    config = with_template(load("train", f"model={bare}", DATA))
    assert getattr(config.template, "name", None) == "vicuna_v1"


def test_every_recipe_of_a_model_but_the_toys_takes_the_articles():
    for given in (["model=qwen3_0_6b"], ["model=smollm2_135m,tiny"], ["model=llama_7b", "model.kind=scratch"]):
        assert "experiment=vicuna" in expand("train", [*given, DATA])
    for given in ([], ["model=tiny"], ["model=tiny", "seed=1"], ["experiment=vicuna_7b", "model=llama_7b"]):
        assert not [o for o in expand("train", given)[len(given) :] if o.startswith("experiment")]
    assert load("train").optimizer.lr == 5e-3


def command(*overrides: str) -> subprocess.CompletedProcess[str]:
    return commands.run("vicuna_lit.train", *overrides)


def test_the_command_says_the_recipe_that_it_chose(run):
    done = command(f"model={run}", DATA, "dry_run=true", "context_length=128")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "lr 2e-05, cosine, warm-up 3%" in said
    assert "template the model's own" in said


def test_own_data_without_a_model_are_told_that_the_toy_is_trained(tmp_path):
    shutil.copy(QUICKSTART / "conversations.jsonl", tmp_path / "mine.jsonl")
    done = command(f"data={tmp_path / 'mine.jsonl'}", "dry_run=true")
    said = " ".join(done.stdout.split())
    assert "note: your data train the quickstart's toy, a tiny model with random weights; model=<folder>" in said


def test_the_folder_of_a_run_is_its_model_in_every_job(run, tmp_path):
    assert locate_model(str(run)) == run / "hf"
    assert Chat.load(run).say("Who are you?", max_new_tokens=2) is not None
    config = load("train", f"model={run}", DATA, "context_length=128", "dry_run=true")
    assert fit(config).status == "dry_run"
    evaluation = load("evaluate", f"models=['{run}','{run}/hf']")
    assert {locate_model(source.path) for source in evaluation.models} == {run / "hf"}  # pyright: ignore
    assert load("chat", f"model={run}").model.path == str(run)  # pyright: ignore


def test_the_folder_of_an_unfinished_run_is_refused_as_such(tmp_path):
    for name in ("run.json", "config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match="a run that has made no model"):
        locate_model(str(tmp_path))
