"""A choice is whole: its facts, its YAML, its case. What is absent is said at import, by the type checker, or here."""

from typing import Any, Literal, get_args

import pytest

from vicuna_lit.config.base import CONF_DIR, Config
from vicuna_lit.config.callbacks import CallbacksConfig
from vicuna_lit.config.chat import Moderation
from vicuna_lit.config.choices import (
    DDPConfig,
    FinetuneConfig,
    FinetuneFacts,
    StrategyConfig,
    StrategyFacts,
    shipped_strategies,
)
from vicuna_lit.config.evaluate import Judge, JudgeFacts
from vicuna_lit.config.train import Layout
from vicuna_lit.models.attention import KERNELS
from vicuna_lit.train.extensions import Extensions

CHOICES: dict[str, Any] = {
    "strategy": StrategyConfig,
    "finetune": FinetuneConfig,
    "judge": Judge,
    "moderation": Moderation,
}


def test_a_choice_without_its_own_facts_cannot_be_imported():
    with pytest.raises(TypeError, match=r"Copied: lacks `facts`, as its neighbours in "):

        class Copied(DDPConfig):
            kind: Literal["copied"]  # pyright: ignore[reportIncompatibleVariableOverride]

    every: tuple[Any, ...] = (StrategyFacts, FinetuneFacts, JudgeFacts)
    for facts in every:
        with pytest.raises(TypeError, match=r"missing .* required keyword-only argument"):
            facts()


def test_every_choice_has_a_file_and_every_strategy_its_name():
    for group, union in CHOICES.items():
        files = [file.read_text() for file in (CONF_DIR / group).glob("*.yaml")]
        kinds = {kind for one in get_args(get_args(union)[0]) for kind in get_args(one.model_fields["kind"].annotation)}
        assert all(any(f"kind: {kind}\n" in text for text in files) for kind in kinds), (group, kinds)
    assert [one.name for one in shipped_strategies()] == sorted(f.stem for f in (CONF_DIR / "strategy").glob("*.yaml"))


def test_every_attention_has_its_kernel():
    assert set(get_args(Layout.model_fields["attention"].annotation)) == {"auto", *KERNELS}


def test_every_callback_has_a_file_is_shown_in_the_help_and_is_made():
    train = (CONF_DIR / "train.yaml").read_text()
    for name in CallbacksConfig.model_fields:
        assert (CONF_DIR / "callbacks" / f"{name}.yaml").is_file()
        assert name in train.partition("vicuna-train … callbacks=[")[2].partition("]")[0].split(",")

    class ForgottenConfig(Config):
        pass

    class More(CallbacksConfig):
        forgotten: ForgottenConfig

    more = More.model_construct(early_stopping=None, lr_monitor=None, profiler=None, forgotten=ForgottenConfig())
    with pytest.raises(TypeError, match=r"callbacks=forgotten: Extensions\.and_configured has no case"):
        Extensions().and_configured(more)
