"""Every committed config is a test case; every mistake is reported, all at once, by its dotted key."""

import subprocess
import sys
from typing import Any
from unittest import mock

import pytest
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tests.helpers import commands
from vicuna_lit.config import compose
from vicuna_lit.config.base import CONF_DIR
from vicuna_lit.config.compose import ConfigError, load
from vicuna_lit.config.train import ValidationConfig

PLAN = ["dry_run=true", "data=files", "data.path=x", "model.tokenizer=x"]


def names(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF_DIR / group).glob("*.yaml"))


def problems(*overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        load("train", *overrides)
    return error.value.problems


@pytest.mark.parametrize("experiment", names("experiment"))
def test_every_experiment_composes(experiment: str):
    needs = ["model=llama_7b"] if experiment == "vicuna" else []
    config = load("train", f"experiment={experiment}", *PLAN, *needs)
    assert config.run.name == experiment
    assert config.run.dir == f"runs/{experiment}"


@pytest.mark.parametrize(
    "group", ["template", "data", "strategy", "finetune", pytest.param("model", marks=pytest.mark.slow)]
)
def test_every_choice_composes(group: str):
    for name in names(group):
        load("train", f"{group}={name}", *(["data.path=x"] * (name != "mixture")),
             *([] if group == "data" else PLAN[:1]), "dry_run=true",
             *(["model.tokenizer=x"] if group == "model" else []),
             *(["model.architecture={model_type: llama}"] if name == "local" else []),
             *(["finetune.train=[lm_head]"] if name == "partial" else []),
             *(["model=llama_7b", "model.tokenizer=x"] if name == "qlora" else []))  # fmt: skip


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ("gemma3_4b", "llama_7b", "local", "qwen3_8b")))
        for name in sorted({*names("model")} - {"tiny"})
    ],
)
def test_the_articles_settings_for_any_model(model: str):
    config: Any = load("train", "experiment=vicuna", f"model={model}", "model.path=x", "data.path=y")
    assert config.model.name == model
    assert (config.run.name, config.precision, config.template.name) == ("vicuna", "bf16-mixed", "vicuna_v1")
    assert (config.context_length, config.conversations_per_step, config.optimizer.lr) == (2048, 128, 2e-5)


def test_the_articles_settings():
    for name, size in (("vicuna_7b", 4096), ("vicuna_13b", 5120)):
        c: Any = load("train", f"experiment={name}", *PLAN)
        assert (c.context_length, c.conversations_per_step, c.trainer.epochs) == (2048, 128, 3)
        assert (c.optimizer.lr, c.optimizer.schedule, c.optimizer.warmup_ratio) == (2e-5, "cosine", 0.03)
        assert (c.optimizer.weight_decay, c.gradient_checkpointing, c.precision) == (0.0, "full", "bf16-mixed")
        assert c.model.architecture["hidden_size"] == size
    alpaca: Any = load("train", "experiment=alpaca_7b", *PLAN)
    assert (alpaca.context_length, alpaca.template.name) == (512, "alpaca")


def test_all_mistakes_at_once_with_the_nearest_name():
    found = problems(
        "contxt_length=3", "model=tinyy", "seed=abc", "+foo.bar=1", "precision=bf16-mixd",
        "template.repli=x", "optimizer.lr=-1", "tokens_per_device=10",
    )  # fmt: skip
    text = "\n".join(found)
    assert len(found) == 8
    for expected in (
        "contxt_length: unknown key (did you mean context_length?)",
        "(did you mean tiny?); choices: gemma3_1b",
        "seed='abc'",
        "foo: unknown key",
        "precision=bf16-mixd: no such choice (did you mean bf16-mixed?)",
        "template.repli: unknown key (did you mean template.reply?)",
        "optimizer.lr=-1: input should be greater than 0",
        "tokens_per_device: 10 is less than context_length",
    ):
        assert expected in text


def test_offloading_is_of_stage_3():
    for stage in (1, 2):
        (problem,) = problems("strategy=zero1", f"strategy.stage={stage}", "strategy.offload=true")
        assert problem.startswith(f"strategy.offload: stage {stage} keeps whole weights")
    assert load("train", "strategy=zero3", "strategy.offload=true").strategy.facts.name == "zero3_offload"


def test_many_mistakes_are_found_without_composing_anew_for_each():
    unknown = [f"key_{i}=1" for i in range(40)]
    with mock.patch.object(compose, "_by_hydra", wraps=compose._by_hydra) as composed:
        found = problems(*unknown, "seed=abc", "seed.x=1", "optimizer.lr=1,2", "seed=7", "model=tinyy", "~sed", "a=[")
    text = "\n".join(found)
    assert composed.call_count <= 10, "each takes a tenth of a second"
    assert [line for line in found if line.startswith("key_")] == [f"key_{i}: unknown key" for i in range(40)]
    assert "model=tinyy: no such choice" in text and "optimizer.lr=1,2: several values" in text
    assert {"sed: unknown key (did you mean seed?)", "a: unknown key"} < {*found}
    assert len(found) == 45, "seed=7 takes the place of seed=abc"


def test_weights_that_are_the_users_must_be_named():
    assert any("model.path=<folder>" in p for p in problems("experiment=vicuna_7b"))
    assert any(p.startswith("data.path: must be given") for p in problems("experiment=vicuna_7b"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("template.reply=x", "must hold {content} once"),
        ("template.reply='{content}'", "must have a stop string"),
        ("trainer.max_steps=0", "trainer.max_steps=0"),
        ("data.validation_fraction=1.5", "data.validation_fraction=1.5"),
        ("optimizer.betas=[0.9]", "optimizer.betas"),
        ("seed", "seed"),
        ("seed=4294967296", "seed=4294967296: input should be less than 4294967296"),
        ("seed=${nothing}", "nothing"),
        ("trainer.devices=2", "strategy=ddp, fsdp, fsdp_offload"),
        (
            "gradient_checkpointing=every_1",
            "gradient_checkpointing: every_1 is none of auto, none, full, attention, every_2",
        ),
        ("gradient_checkpointing=true", "gradient_checkpointing: true is none of auto, none, full"),
        ("attention=sdpa", "attention=sdpa: no such choice (did you mean"),
        ("strategy=fsdpp", "did you mean fsdp?"),
        ("strategy=3", "strategy=3: no such choice"),
        ("template=true", "template=true: no such choice"),
        ("data=3", "data=3: no such choice"),
        ("hydra=3", "hydra: unknown key"),
        ("x" * 300 + "=1", "x…: unknown key"),
        ("optimizer=adamw", "optimizer holds keys; set one of them, such as optimizer.kind, optimizer.lr"),
        ("~model.architecture.model_type", "model.architecture: model_type must be given, transformers' name"),
        ("finetune=qlora", "finetune: qlora quantises the weights of a Hugging Face folder"),
    ],
)
def test_each_bad_value_names_its_key(override: str, expected: str):
    assert any(expected in p for p in problems(override))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ("model=tiny", "experiment=quickstart", "model.path=x/hf"),
            "model.path: this model begins with random weights; model=local model.path=x/hf loads",
        ),
        (
            ("strategy=fsdp", "finetune=qlora", "model=local", "model.path=x", "data=quickstart"),
            "strategy: qlora's 4-bit weights are not sharded",
        ),
        (
            ("strategy=zero3", "finetune=qlora", "model=local", "model.path=x", "data=quickstart"),
            "strategy: qlora's 4-bit weights are not sharded",
        ),
        (("strategy=fsdp", "optimizer.kind=adafactor"), "strategy: adafactor keeps its state by whole matrices"),
        (("strategy=zero1", "optimizer.kind=adamw_8bit"), "strategy: adamw_8bit keeps its state by whole matrices"),
        (("strategy=zero2", "precision=bf16-true", "master_weights=false"), "strategy: zero2 always keeps fp32 master"),
    ],
)
def test_choices_that_would_change_the_mathematics_are_refused(overrides: tuple[str, ...], expected: str):
    assert any(p.startswith(expected) for p in problems(*overrides))


def test_a_path_is_short_for_the_files_choice(tmp_path):
    assert load("train", f"data={tmp_path}").data.path == str(tmp_path)
    assert (load("train", "data=sharegpt").data.path or "").startswith("package://")


@pytest.mark.parametrize("path", ["a b/(c), d=e/*.json", "it's/{x}.json", "x.json", "package://name/file.json"])
def test_raw_is_a_path_with_any_character_or_a_list(path: str):
    assert load("prepare", f"raw={path}").raw == path
    assert load("prepare", "raw=[a.json,b]").raw == ("a.json", "b")


@pytest.mark.parametrize("group", ["preset", pytest.param("template", marks=pytest.mark.slow)])
def test_every_choice_of_prepare_composes(group: str):
    """Those of `template` are composed by `test_every_choice_composes`, too."""
    for name in names(group):
        assert load("prepare", "raw=x", f"{group}={name}").raw == "x"


def test_raw_must_be_given():
    with pytest.raises(ConfigError, match="raw: must be given"):
        load("prepare")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("experiment=vicuna_7b", "experiment=vicuna_7b: this command has no experiment"),
        ("strategy.kind=ddp", "strategy.kind=ddp: this command has no strategy"),
        ("+mode.single=x", "mode: unknown key"),
        ("personal_data=false", "personal_data holds keys; set one of them"),
        ("moderation.enabled=true", "give moderation.scorer=package.module:function"),
        ("language.keep=[EN]", "language.keep.0='EN'"),
    ],
)
def test_mistakes_of_prepare(override: str, expected: str):
    with pytest.raises(ConfigError) as error:
        load("prepare", "raw=x", override)
    assert any(expected in p for p in error.value.problems), error.value.problems


def test_the_command_exits_with_2_before_torch_and_checks_a_whole_sweep():
    command = [sys.executable, "-X", "importtime", "-m", "vicuna_lit.train"]
    one = subprocess.run([*command, "sed=1", "precision=fp"], capture_output=True, text=True)
    assert one.returncode == 2
    assert "error: sed: unknown key (did you mean seed?)" in one.stderr
    assert "error: precision=fp" in one.stderr
    assert "| torch" not in one.stderr
    sweep = subprocess.run([*command, "-m", "seed=1,x,2"], capture_output=True, text=True)
    assert sweep.returncode == 2
    assert "error: seed='x'" in sweep.stderr


def test_cfg_job_and_help():
    show = commands.run("vicuna_lit.train", "--cfg", "job")
    assert show.returncode == 0
    assert "conversations_per_step: 12" in show.stdout
    usage = commands.run("vicuna_lit.train", "--help")
    assert usage.returncode == 0
    assert "experiment: alpaca_7b" in usage.stdout


@pytest.mark.parametrize("judge", sorted(p.stem for p in (CONF_DIR / "judge").glob("*.yaml")))
def test_every_judge(judge: str):
    needs = {"local": ["judge.path=x"], "recorded": ["judge.reviews=x"]}.get(judge, [])
    config: Any = load("evaluate", "models=[a,gpt@https://host/v1/,{name: b, path: c d}]", f"judge={judge}", *needs)
    assert [source.kind for source in config.models] == ["folder", "endpoint", "folder"]
    assert (config.models[1].url, config.models[2].name) == ("https://host/v1", "b")


@pytest.mark.parametrize("moderation", names("moderation"))
def test_every_moderation(moderation: str):
    needs = ["moderation.model=x"] if moderation == "guard" else []
    config = load("chat", "model=x", f"moderation={moderation}", *needs)
    assert config.moderation.kind == moderation
    assert config.host == "127.0.0.1"


@pytest.mark.parametrize("prompts", sorted(p.stem for p in (CONF_DIR / "judge/prompts").glob("*.yaml")))
def test_every_prompt(prompts: str):
    config: Any = load("evaluate", "models=[a,b]", "judge=endpoint", f"judge/prompts={prompts}")
    assert {"default", "coding", "math"} <= set(config.judge.prompts.pairwise.task)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "models: give at least one folder"),
        (("models=[a]",), "judge.mode=single rates one alone"),
        (
            ("models=[a,b]", "judge=endpoint", "judge.url=host"),
            "judge.url: host begins with neither http:// nor https://",
        ),
        (("models=[a,b]", "judge=local", "judge.path=x", "judge/prompts=scores"), "likelihood weighs letters"),
        (
            ("models=[a,b]", "judge=endpoint", "judge.prompts.single.form=letter"),
            "single.form: letter is of two answers",
        ),
        (("models=[{path: a, nam: x},b]",), "models.0.nam: unknown key"),
    ],
)
def test_evaluations_that_cannot_be(overrides: tuple[str, ...], message: str):
    with pytest.raises(ConfigError) as error:
        load("evaluate", *overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("job", "overrides", "message"),
    [
        ("train", ["data="], "data.path: the name is empty (an unset variable?); . is the folder that you are in"),
        ("train", ["from="], "from=: the name is empty (an unset variable?); . is the folder that you are in"),
        (
            "train",
            ["run.dir= ", "data.path=x"],
            "run.dir: the name is empty (an unset variable?); . is the folder that you are in",
        ),
        ("prepare", ["raw=[a,'']"], "raw.1: the name is empty (an unset variable?); . is the folder that you are in"),
        ("chat", ["model="], "model.path: the name is empty (an unset variable?); . is the folder that you are in"),
        (
            "evaluate",
            ["judge=recorded", "judge.reviews="],
            "judge.reviews: the name is empty (an unset variable?); . is the folder",
        ),
        ("chat", ["model=null"], "model.path: must be given, model.path=…"),
        ("chat", ["model=x", "run=3"], "run=3: run holds keys; set one of them, such as run.name, run.dir"),
        ("chat", ["model=x", "run=[a]"], "run=[a]: run holds keys; set one of them, such as run.name, run.dir"),
        ("chat", ["model=x", "run.dir=null"], "run.dir=null: input should be a valid string"),
        ("chat", ["model=x", "run.dir='a"], "run.dir='a: cannot be read; a quote or bracket in a value is quoted once"),
        ("evaluate", ["models=null"], "models=null: a list is wanted, such as […]"),
        ("evaluate", ["models=a,b"], "models: of several a list is wanted, models=[a,b]"),
        ("evaluate", ["models=[a,b]", "model=x"], "model=x: this command has no model (did you mean models?)"),
        ("evaluate", ["models=[a,b]", "judge=gpt"], "judge=gpt: no such choice; a model of a server is judge=endpoint"),
        ("chat", ["model=x", "temperature=0"], "temperature: unknown key (did you mean settings.temperature?)"),
    ],
)
def test_what_is_no_value_is_one_line(job: Any, overrides: list[str], message: str):
    with pytest.raises(ConfigError) as error:
        load(job, *overrides)
    assert len(error.value.problems) == 1 and error.value.problems[0].startswith(message)


def test_about_ten_validation_losses_are_taken_where_the_config_does_not_say_when():
    def steps(every, of):
        every = ValidationConfig(every_steps=every, context_length=None).interval(of)
        return [step for step in range(1, of) if every and step % every == 0]

    assert load("train", "experiment=vicuna", "model.path=/x", "data=/y").validation.every_steps == "auto"
    assert load("train").validation.every_steps is None, "the quickstart's minute stays one"
    assert steps("auto", 1000) == [100, 200, 300, 400, 500, 600, 700, 800, 900]
    assert all(7 <= len(steps("auto", of)) + 1 <= 10 for of in range(13, 500))
    assert steps("auto", 3) == [1, 2]
    assert steps(4, 10) == [4, 8] and not steps(None, 10)


@pytest.mark.parametrize(
    "job, given",
    [
        ("train", ["seed=1", "data.path=a.jsonl"]),
        ("train", ["experiment=quickstart", "strategy=ddp", "+model.architecture.head_dim=8", "seed=2"]),
        ("train", ["run.name=${now:%Y}", "samples.questions=[[hi]]", "++optimizer.lr=1e-4", "callbacks=[lr_monitor]"]),
        ("train", ["model=tiny", "~model.architecture.hidden_size", "hydra.job.chdir=false", "~template"]),
        ("chat", ["model={path: x}", "~against", "+new.key=1"]),
        ("train", ["seed=1", "sed=2"]),
        ("train", ["seed=[1"]),
        ("train", ["seed=1,2"]),
        ("train", ["+seed=1"]),
        ("train", ["strategy=none_such"]),
    ],
)
def test_what_is_composed_from_what_is_known_is_what_hydra_composes(job: Any, given: list[str]):
    """Of the same choices a config is copied, and only its values are written anew."""

    def composed(how: Any) -> Any:
        try:
            node = how(job, given)
        except (HydraException, OmegaConfBaseException) as error:
            return type(error), str(error)
        choices = OmegaConf.to_yaml(node.hydra.runtime.choices)
        return choices, OmegaConf.to_yaml(compose.without_hydra(node))

    expected = composed(compose._by_hydra)
    assert [composed(compose._compose) for _ in range(2)] == [expected, expected]


def test_a_script_may_change_what_lies_in_hydras_store():
    store = ConfigStore.instance()
    for steps in (3, 4):
        store.store(group="trainer", name="mine", node={"max_steps": steps})
        node = compose._compose("train", ["trainer=mine", "seed=1"])
        assert (node.trainer.max_steps, node.seed) == (steps, 1)
    del store.repo["trainer"]
