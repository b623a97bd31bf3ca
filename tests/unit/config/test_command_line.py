"""Hydra's own ways on the command line: folders of the user's, globs, sweeps from an experiment, names."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.encoders import QUICKSTART
from vicuna_lit.cli import app
from vicuna_lit.cli.app import _without_a_trace
from vicuna_lit.cli.command_line import CommandLine, jobs_of, read
from vicuna_lit.cli.train_sweep import of_a_sweep
from vicuna_lit.config.compose import ConfigError, load
from vicuna_lit.run_folder import RunError

MINE = """# @package _global_
run:
  name: mine
seed: 5
context_length: 256
"""
SWEEP = """# @package _global_
defaults:
  - quickstart
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      context_length: 256,512
      template: glob(vicuna*)
      seed: 0,1
run:
  name: sweep_of_mine
"""


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "experiment/mine": MINE,
        "experiment/abl": SWEEP,
        "template/vicuna_mine": "defaults: [vicuna_v1]\nname: vicuna_mine\n",
        "judge/mine": "defaults: [rule]\n",
        "moderation/mine": "defaults: [none]\n",
        "preset/mine": "# @package _global_\nfilters: {min_turns: 3}\n",
    }.items():
        file = tmp_path / f"conf/{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "conf"


def line(*arguments: str, job: Any = "train") -> CommandLine:
    return read(job, arguments)[0]


def problems(*arguments: str) -> str:
    with pytest.raises(ConfigError) as error:
        jobs_of(line(*arguments))
    return str(error.value)


WAYS = (["--config-dir=conf"], ["--config-dir", "conf"], ["-cd", "conf"], ["hydra.searchpath=[file://conf]"])


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_of_the_users_holds_choices_alone_and_in_a_sweep(conf, way):
    (one,) = jobs_of(line("experiment=mine", *way))
    assert (one.seed, one.context_length, one.run.name) == (5, 256, "mine")
    sweep = line("experiment=mine", *way, "-m", "seed=7,8")
    assert [(c.seed, c.context_length, c.run.name) for c in jobs_of(sweep)] == [(7, 256, "seed=7"), (8, 256, "seed=8")]
    assert sweep.folder == Path("runs/sweeps/mine")


@pytest.mark.parametrize(
    ("job", "arguments", "found"),
    [
        ("prepare", ["raw=x", "preset=mine"], lambda c: c.filters.min_turns == 3),
        ("estimate", ["experiment=mine"], lambda c: c.seed == 5),
        ("evaluate", ["models=[a,b]", "judge=mine"], lambda c: c.judge.kind == "rule"),
        ("chat", ["model=x", "moderation=mine"], lambda c: c.moderation.kind == "none"),
    ],
)
def test_every_job_takes_such_a_folder(conf, job, arguments, found):
    (config,) = jobs_of(line("--config-dir=conf", *arguments, job=job))
    assert found(config)
    if job != "chat":
        assert len(jobs_of(line("--config-dir=conf", "-m", *arguments, "run.name=1,2", job=job))) == 2


def test_python_takes_such_a_folder(conf):
    assert load("train", "hydra.searchpath=[file://conf]", "experiment=mine").seed == 5


def test_folders_that_are_not_there_or_would_not_be_read_are_said(conf):
    assert "nowhere: no such folder" in problems("--config-dir=nowhere", "seed=1")
    assert "no such choice" in problems("experiment=mine")
    (conf / "experiment/quickstart.yaml").write_text("# @package _global_\nseed: 9\n")
    assert "quickstart.yaml in its place, which has the same name" in problems("--config-dir=conf", "seed=1")


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ("x0: &a0 [1]\n" + "".join(f"x{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)), True),
        ("x: &a [*a]\n", True),
        ("[" * 100_000, True),
        ("x: " + "1" * 2_000_000, True),
        ("# @package _global_\nx: &a {y: 1}\nz: [*a, *a]\n", False),
        ("x: [", False),
    ],
)
def test_a_file_that_would_take_hours_to_read_is_refused(text, is_refused, conf):
    """Hydra writes aliases out; whether anybody has asked for the file cannot be known before it is read."""
    (conf / "experiment/endless.yaml").write_text(text)
    for arguments in ([], ["-m"]):
        try:
            said = problems("--config-dir=conf", *arguments, "seed=1")
        except pytest.fail.Exception:
            said = ""
        assert ("endless.yaml: is too much for a config" in said) == is_refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hydra.searchpath=file://conf"], "hydra.searchpath=file://conf: is a list of places"),
        (["hydra.searchpath=[pkg://nothing.conf]"], "nothing.conf: no such folder"),
        (["-m", "experiment=null,vicuna"], "no job of a sweep can leave experiment out"),
        (["hydra.run.dir=mine"], "hydra.run.dir=mine: a run's folder is run.dir=<folder> here"),
        (["-m", "--config-name=mine"], "--config-name, --config-path: not in a multirun"),
        (["--config-name="], "--config-name, --config-path: the name is empty"),
        (["--config-name=chat"], "--config-name=chat: is the config of vicuna-chat"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(conf, arguments, said):
    (line,) = problems(*arguments).splitlines()
    assert said in line


def test_a_mistake_names_the_users_choices_too(conf):
    assert "did you mean mine?" in problems("--config-dir=conf", "experiment=mien")


def test_glob_is_the_choices_of_all_folders(conf):
    names = [config.template.name for config in jobs_of(line("--config-dir=conf", "-m", "template=glob(vicuna*)"))]
    assert names == ["vicuna_mine", "vicuna_v0", "vicuna_v1"]
    alone = jobs_of(line("-m", "template=glob([vicuna*,alpaca],exclude=*v0)"))
    assert [config.run.name for config in alone] == ["template=alpaca", "template=vicuna_v1"]
    assert "no choice of template" in problems("-m", "template=glob(x*)")


def test_two_data_sets_are_two_jobs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nowhere = f"data=talk.jsonl: no such choice, nor a file or folder in {tmp_path}"
    assert problems("data=talk.jsonl") == f"{nowhere}; choices: files, mixture, quickstart, sharegpt"
    (tmp_path / "Talks.json").touch()
    assert problems("data=talk.jsonl").startswith(f"{nowhere} (did you mean Talks.json?)")
    assert "(did you mean quickstart?)" in problems("data=quickstrt")
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text((QUICKSTART / "conversations.jsonl").read_text())
    found = jobs_of(line("-m", "data=a.jsonl,b.jsonl"))
    assert [(c.data.path, c.run.name) for c in found] == [(f"{n}.jsonl", f"data.path={n}.jsonl") for n in "ab"]
    assert [c.run.name for c in jobs_of(line("-m", "data=quickstart,sharegpt"))] == ["data=quickstart", "data=sharegpt"]
    assert "a sweep over quickstart of conf/data and a path" in problems("-m", "data=quickstart,a.jsonl")


@pytest.mark.slow
def test_a_sweep_that_an_experiment_holds_is_one_like_any_other(conf):
    found = line("--config-dir=conf", "experiment=abl", "trainer.max_steps=1")
    assert found.multirun
    assert found.folder == Path("runs/sweeps/sweep_of_mine")
    names = [config.run.name for config in jobs_of(found)]
    assert len(names) == 12
    assert names[0] == "context_length=256,template=vicuna_mine,seed=0"
    assert {config.trainer.max_steps for config in jobs_of(found)} == {1}
    said = next(argument for argument in found.arguments if "exclude_keys" in argument)
    assert "'experiment'" in said
    assert "'trainer.max_steps'" in said
    assert "seed" not in said
    assert len(jobs_of(line("--config-dir=conf", "experiment=abl", "seed=3"))) == 6
    assert not line("--config-dir=conf", "experiment=abl", "hydra.mode=RUN").multirun


def test_hydra_mode_is_a_multirun():
    found = line("hydra.mode=MULTIRUN", "seed=0,1")
    assert found.multirun
    assert [config.run.name for config in jobs_of(found)] == ["seed=0", "seed=1"]
    assert "seed=0,1: several values; -m runs one job for each" in problems("seed=0,1")
    assert "data=a,b: no such choice, nor a file or folder; of several values -m runs" in problems("data=a,b")


def test_flags_may_stand_anywhere():
    found = line("seed=1", "--info", "searchpath", "context_length=128")
    assert found.flags == ("--info", "searchpath")
    assert found.overrides == ("seed=1", "context_length=128")


def test_what_hydra_would_answer_with_a_traceback_is_refused():
    for said, flags in {
        "--info: shows one job": "-m --info searchpath",
        "--cfg: shows one job": "-m seed=0,1 --cfg job",
        "--resolve: goes with --cfg": "--resolve",
        "--package: goes with --cfg": "--package optimizer",
        "--experimental-rerun: unpickles": "--experimental-rerun x.pickle",
        "--shell-completion: install=": "--shell-completion query=bash",
        "--info/-i: invalid choice: 'nope' (choose from 'all'": "--info=nope",
        "--cfg/-c: expected one argument": "--cfg",
        "--package=optimisr: the config of --cfg job has no such part (did you mean optimizer?)": (
            "--cfg job --package optimisr"
        ),
        "Could not find 'hydra/launcher/jobli' (launchers and sweepers": "hydra/launcher=jobli",
        "Could not override 'hydra.foo'": "hydra.foo=1",
    }.items():
        assert problems(*flags.split()).startswith(said)
    for flags in ("--cfg job --resolve --package optimizer", "-sc install=fish", "-sc uninstall=zsh"):
        assert not line(*flags.split()).runs


def test_sizes_are_swept_with_their_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_7B", str(tmp_path / "7b"))
    monkeypatch.delenv("LLAMA_13B", raising=False)
    said = problems("-m", "experiment=vicuna", "model=llama_7b,llama_13b", "data=files", "data.path=x")
    assert said.startswith("model: path is null; give the folder of the weights, model.path=<folder>, or LLAMA_13B=<f")
    monkeypatch.setenv("LLAMA_13B", str(tmp_path / "13b"))
    found = jobs_of(line("-m", "experiment=vicuna", "model=llama_7b,llama_13b", "data=files", "data.path=x"))
    assert [c.model.path for c in found] == [str(tmp_path / "7b"), str(tmp_path / "13b")]
    assert [c.run.name for c in found] == ["model=llama_7b", "model=llama_13b"]
    own = jobs_of(line("experiment=vicuna", "model=llama_7b", "model.path=y", "data=files", "data.path=x"))
    assert own[0].model.path == "y"


@pytest.mark.parametrize("name", ["7", "nan", "1e3", "true", "-3.5", "007", "inf"])
def test_a_number_can_be_a_name(name):
    config = load("train", f"run.name={name}", f"wandb.group={name}", f"wandb.tags=[{name},a]")
    assert (config.run.name, config.wandb.group, config.wandb.tags) == (name, name, (name, "a"))


@pytest.mark.parametrize(
    "override", ["seed=True", "trainer.max_steps=false", "optimizer.lr=true", "optimizer.betas=[true,0]"]
)
def test_a_truth_value_is_no_number(override):
    (said,) = problems(override).splitlines()
    assert said.startswith(override.partition("=")[0])
    assert "input should be a valid" in said


def test_a_list_and_the_keys_inside_one_are_said():
    given = "data.sources=[{path: x, name: a, weight: 1}, {path: y, name: b, wweight: 1}]"
    said = problems("data=mixture", given, "samples.questions=[Who?]", "halving={rungs: [0.1], kep: 1}").splitlines()
    assert "data.sources.1.wweight: unknown key (did you mean data.sources.1.weight?)" in said
    assert "halving.kep: unknown key (did you mean halving.keep?)" in said
    assert "samples.questions.0='Who?': a list is wanted, such as ['Who?']" in said
    with pytest.raises(ConfigError) as error:
        load("prepare", "raw=[{path: x, nam: a}]")
    assert str(error.value).splitlines() == [
        "raw.0.name: must be given, raw.0.name=…",
        "raw.0.nam: unknown key (did you mean raw.0.name?)",
    ]


def test_a_group_that_is_left_out_is_gone_or_asked_for():
    assert load("train", "experiment=null", "context_length=512", "model.rope_scaling=none").run.name == "run"
    assert load("train", "~experiment", "context_length=512").conversations_per_step == 128
    assert load("train", "trainer=null").trainer.devices == 1
    for group in ("model", "data", "template", "strategy", "finetune"):
        for override in (f"{group}=null", f"~{group}"):
            assert f"{group}: must be given, {group}=…" in problems(override)


def test_explain_names_the_users_file(conf):
    from vicuna_lit.cli.explain import explain

    given, flags = read("train", ["--config-dir=conf", "experiment=mine", "--explain", "seed"])
    said = explain("train", [*flags, *given.overrides])
    assert f"({conf / 'experiment/mine.yaml'})" in said  # not broken, however long
    assert "default 5 (" in " ".join(said.split())
    given, flags = read("train", ["--explain=context_length", "experiment=vicuna"])
    assert "(conf/train.yaml)" in explain("train", [*flags, *given.overrides])


def test_a_sweep_over_what_cuts_conversations_is_made_alike(capsys):
    """Naively another context means other validation texts and other company in a step."""
    lengths = "context_length=512,2048,1024"
    configs = jobs_of(line("-m", lengths, "seed=0,1"))
    assert {(c.step_unit, c.validation.context_length) for c in configs} == {("conversation", 2048)}
    assert {c.context_length for c in configs} == {512, 1024, 2048}
    assert all(set(c.run.swept) == {"context_length", "seed"} for c in configs)
    assert "alike: step_unit=conversation validation.context_length=2048 for all jobs" in capsys.readouterr().err
    ranged = jobs_of(line("-m", "context_length=range(256,1024,256)"))
    assert {c.validation.context_length for c in ranged} == {768}
    masks = jobs_of(line("-m", "train_on=assistant_messages,all_tokens"))
    assert {(c.step_unit, c.validation.context_length) for c in masks} == {("conversation", None)}
    for cuts in ("system_prompt=null,Be brief", "model.add_tokens=[x],[y]", "template.default_system=Be kind,Be brief"):
        assert {c.step_unit for c in jobs_of(line("-m", cuts))} == {"conversation"}, cuts


def test_what_goes_by_tokens_cannot_be_made_alike_and_is_said(capsys):
    jobs_of(line("-m", "train_on=assistant_messages,all_tokens", "order=by_length"))
    assert "note: order=by_length goes by tokens, of which these jobs have others" in capsys.readouterr().err
    jobs_of(line("-m", "context_length=512,2048", "data=mixture", "data.shares=supervised_tokens"))
    assert "note: data.shares=supervised_tokens goes by tokens" in capsys.readouterr().err
    jobs_of(line("-m", "seed=0,1", "order=by_length"))
    assert "goes by tokens" not in capsys.readouterr().err


def test_what_the_user_says_stays_and_other_sweeps_are_left_alone(capsys):
    lengths = "context_length=512,2048"
    asked = jobs_of(line("-m", lengths, "step_unit=example", "validation.context_length=512"))
    assert {(c.step_unit, c.validation.context_length) for c in asked} == {("example", 512)}
    for given in (["-m", lengths, "alike=false"], ["-m", "seed=0,1"], ["-m", "optimizer.lr=1e-3,1e-4"]):
        assert {(c.step_unit, c.validation.context_length) for c in jobs_of(line(*given))} == {("example", None)}
    assert capsys.readouterr().err == ""
    kept = jobs_of(line("-m", "experiment=smollm2_ablation", "data.path=x", "train_on=assistant_messages,all_tokens"))
    assert {c.step_unit for c in kept} == {"conversation"}


@pytest.mark.parametrize(
    ("job", "words", "said"),
    [
        ("train", ["mine.yml"], "mine.yml: a file of settings is taken by --config-dir=<folder> experiment=mine, from"),
        ("train", ["my/experiment/a.yaml"], "my/experiment/a.yaml: a file of settings is taken by --config-dir=my exp"),
        ("train", ["mine.jsonl"], "mine.jsonl: a setting is key=value, such as data=mine.jsonl"),
        ("chat", ["runs/my run"], "runs/my run: a setting is key=value, such as model='runs/my run'"),
        ("train", ["--data", "mine.jsonl"], "--data: no such option; a setting has no dashes: data=…"),
        (
            "train",
            ["--config=mine.yaml"],
            "--config=mine.yaml: no such option; a file of settings is taken by",
        ),
        ("chat", ["=1"], "=1: a setting is key=value, such as model=…"),
        ("chat", ["~"], "~: a setting is key=value, such as model=…"),
        ("evaluate", [""], "'': a setting is key=value, such as models=…"),
        ("train", ["--optimizer.lr=1"], "--optimizer.lr=1: no such option; a setting has no dashes: optimizer.lr=1"),
    ],
)
def test_a_word_without_a_key_is_told_what_to_type(job: Any, words: list[str], said: str):
    with pytest.raises(ConfigError) as error:
        read(job, words)
    assert str(error.value).startswith(said) and len(error.value.problems) == 1


def test_a_multirun_that_only_plans_leaves_no_trace(tmp_path: Path):
    def launched(folder: Path) -> None:
        with _without_a_trace(folder):
            (folder / "seed=1").mkdir(parents=True, exist_ok=True)
            (folder / "seed=2").mkdir()
            (folder / "multirun.yaml").write_text("a plan")

    launched(tmp_path / "runs/sweeps/new")
    assert not [*tmp_path.iterdir()]
    old = tmp_path / "runs/sweeps/old"
    (old / "seed=1").mkdir(parents=True)
    (old / "multirun.yaml").write_text("a sweep")
    launched(old)
    assert sorted(path.name for path in old.iterdir()) == ["multirun.yaml", "seed=1"]
    assert (old / "multirun.yaml").read_text() == "a sweep"


@pytest.mark.parametrize("given", [["~callbacks"], ["sed=1"], ["strategy=none"], ["seed=${nothing}", "--resolve"]])
def test_a_config_that_cannot_be_shown_is_one_line(given: list[str], capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["vicuna-train", *given, "--cfg", "job"])
    monkeypatch.setattr(app, "quiet_pipes", lambda: None)
    with pytest.raises(SystemExit) as end:
        app.main("train", lambda config: 0)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {given[0].strip('~').partition('=')[0]}") or "nothing" in line


def test_a_plan_says_nothing_of_launching():
    quiet = "hydra/hydra_logging=none"
    assert quiet in read("train", ["-m", "experiment=quickstart", "seed=0,1", "dry_run=true"])[0].arguments
    own = ["-m", "experiment=quickstart", "seed=0,1", "dry_run=true", "hydra/hydra_logging=default"]
    assert quiet not in read("train", own)[0].arguments


def test_a_job_of_a_sweep_is_told_of_the_sweeps_folder():
    config = load("train", "run.dir=runs/sweeps/s/seed=1,lr=a_b", "run.name='seed=1,lr=a/b'", "+run.swept={seed: '1'}")
    ways = "choose another with run.dir=<folder>, or run.dir=<another folder>"
    told = ways.replace("run.dir", "hydra.sweep.dir")
    assert str(of_a_sweep(RunError(ways), config)) == told
    alone = config.model_copy(update={"run": config.run.model_copy(update={"swept": {}})})
    assert str(of_a_sweep(RunError(ways), alone)) == ways
