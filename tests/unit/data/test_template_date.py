"""A template that writes today's date writes the run's: fixed at its first start, kept, and settable."""

import datetime
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers.encoders import QUICKSTART
from tests.helpers.runs import run_here
from vicuna_lit.config.compose import ConfigError, load
from vicuna_lit.data import template_date
from vicuna_lit.data.chat_template import TemplateError
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.evaluate.run import evaluate_models
from vicuna_lit.inference.generate import Chat
from vicuna_lit.records.conversation import Conversation
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.run import fit

TINY = (
    "experiment=quickstart", "wandb.mode=disabled", "samples.questions=[]", "trainer.max_steps=2", "context_length=256",
    "conversations_per_step=2", "data.max_validation=2",
)  # fmt: skip
TEMPLATE = (
    "{{ bos_token }}Today Date: {{ strftime_now('%d %b %Y') }}\n{% for m in messages %}{{ m['role'] }}:\n"
    "{{ m['content'] }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}"
)
LLAMA = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    '{% set date_string = strftime_now( "%d %b %Y" ) %}{% else %}{% set date_string = "26 Jul 2024" %}'
    "{% endif %}{% endif %}" + TEMPLATE.replace("strftime_now('%d %b %Y')", "date_string")
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model whose template writes the date."""
    folder = tmp_path_factory.mktemp("dated") / "run"
    small = "model.architecture={hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2}"
    fit(load("train", f"run.dir={folder}", *TINY, small, "model.architecture.num_attention_heads=2",
             "model.architecture.num_key_value_heads=2"))  # fmt: skip
    (folder / "hf/chat_template.jinja").write_text(TEMPLATE)
    return folder / "hf"


@pytest.fixture
def clock(monkeypatch):
    """Moves to the day that it is called with."""

    def move(day: str) -> None:
        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls.fromisoformat(day)

        monkeypatch.setattr(template_date, "datetime", SimpleNamespace(datetime=Clock))

    move("2026-03-31T23:59:00")
    return move


def prompt(encoder) -> str:
    return "".join(segment.text for segment in encoder.template.prompt(Conversation.of("Hi")))


@pytest.mark.slow
def test_a_run_goes_on_and_is_found_again_after_midnight_with_the_date_of_its_first_start(tmp_path, base, clock):
    given = [*TINY, "model=local", f"model.path={base}", "template=tokenizer", "checkpoint.every_steps=1",
             f"data={QUICKSTART / 'conversations.jsonl'}", f"run.dir={tmp_path / 'run'}"]  # fmt: skip
    run_here(given, stop_after=1)
    clock("2026-04-01T08:00:00")
    assert fit(load("train", *given)).steps == 2
    assert json.loads((tmp_path / "run/config.json").read_text())["template_date"] == "2026-03-31"
    clock("2026-05-01T08:00:00")
    assert fit(load("train", *given)).status == "finished"
    assert fit(load("train", *given, "template_date=2026-03-31")).status == "finished"
    with pytest.raises(RunError, match="template_date: '2026-03-31' → '2024-07-26'"):
        fit(load("train", *given, "template_date=2024-07-26"))


@pytest.mark.slow
def test_a_template_without_a_date_leaves_no_date_in_the_run(tmp_path, base, clock):
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base/chat_template.jinja").write_text(TEMPLATE.replace("{{ strftime_now('%d %b %Y') }}", "none"))
    given = [*TINY, "model=local", f"model.path={tmp_path / 'base'}", "template=tokenizer", f"run.dir={tmp_path}/run"]
    run_here([*given, f"data={QUICKSTART / 'conversations.jsonl'}"])
    assert json.loads((tmp_path / "run/config.json").read_text())["template_date"] is None


@pytest.mark.parametrize("template", [TEMPLATE, LLAMA])
def test_the_date_is_that_which_is_asked_for_in_training_and_chat(template, tmp_path, base, clock):
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base/chat_template.jinja").write_text(template)
    given = ["model=local", f"model.path={tmp_path / 'base'}", "template=tokenizer", "data=quickstart"]
    encoder = make_encoder(load("train", *given, "template_date=2024-07-26"))
    assert "Today Date: 26 Jul 2024" in prompt(encoder)
    chat = Chat.load(tmp_path / "base", date="2024-02-29")
    assert "Today Date: 29 Feb 2024" in prompt(chat.encoder)
    of_today = Chat.load(tmp_path / "base")
    clock("2026-04-01T08:00:00")
    assert "Today Date: 31 Mar 2026" in prompt(of_today.encoder)
    assert load("chat", "model=x", "template_date=2024-07-26").template_date == "2024-07-26"


def test_answers_of_two_days_are_asked_with_one_date(tmp_path, base, clock):
    question = {"question_id": "1", "category": "who", "turns": ["Who are you?"], "reference": ["a model"]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(question))
    given = [f"models=[{{name: a, path: {base}}},{{name: b, path: {base}}}]", "judge=rule", "wandb.mode=disabled",
             f"questions={tmp_path / 'questions.jsonl'}", f"run.dir={tmp_path / 'run'}",
             "answers.max_new_tokens=2"]  # fmt: skip
    evaluate_models(load("evaluate", *given))
    clock("2026-04-01T08:00:00")
    evaluate_models(load("evaluate", *given))
    assert json.loads((tmp_path / "run/config.json").read_text())["template_date"] == "2026-03-31"


def test_a_date_whose_form_is_computed_is_refused(tmp_path, base):
    shutil.copytree(base, tmp_path / "base")
    computed = TEMPLATE.replace("strftime_now('%d %b %Y')", "strftime_now('%d' ~ form)")
    (tmp_path / "base/chat_template.jinja").write_text(computed)
    with pytest.raises(TemplateError, match="writes the date in a form that is not a plain text"):
        make_encoder(tmp_path / "base")


def test_what_is_no_date_is_refused():
    for job, given in (("train", []), ("evaluate", ["models=[a,b]"]), ("chat", ["model=x"])):
        with pytest.raises(ConfigError, match="template_date: 26 Jul 2024 is no date, such as 2024-07-26"):
            load(job, *given, "template_date='26 Jul 2024'")  # pyright: ignore
