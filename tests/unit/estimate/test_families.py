"""Estimates of every family: memory from few layers, counts as they are, and a figure only where one is known."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import vicuna_lit as vl
from tests.helpers.families import FAMILIES, save_tiny, tiny_config, tiny_model
from tests.helpers.peaks import ROW, estimated_and_real
from vicuna_lit.cli.fit_check import row_of
from vicuna_lit.estimate import memory
from vicuna_lit.estimate.advice import cheapest, to_fit
from vicuna_lit.estimate.report import lines, to_json, total, write_page
from vicuna_lit.estimate.run import Estimate, Estimator
from vicuna_lit.estimate.simulate import Repeats, repeats, simulate
from vicuna_lit.estimate.strategies import residence
from vicuna_lit.models.causal_lm import SupervisedLM, build_model

REFUSED = {"bloom", "mamba"}
"""Which the train job cannot run."""
UNKNOWN = {"bitnet"}
"""Of which it is not known what a token costs."""
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
LENGTHS = "package://vicuna_lit/estimate/sharegpt_lengths.csv"
"""Data that needs no tokenizer."""
cached = cache(vl.load)


def config_of(folder: Path, *overrides: str) -> Any:
    common = (
        "experiment=quickstart",
        "model=local",
        "model.path=folder",
        f"data.path={LENGTHS}",
        "gpu=a100-80gb",
        "price=2",
        "context_length=256",
        "tokens_per_device=512",
    )
    config = cached("estimate", *common, "conversations=100", *overrides)
    return config.model_copy(
        update={"model": config.model.model_copy(update={"path": str(folder), "tokenizer": str(folder)})}
    )


def sizes_alone(name: str, folder: Path, **fields: Any) -> Path:
    """A folder without weights: to simulate a model its config is enough."""
    tiny_config(name, **fields).save_pretrained(folder)
    return folder


LONG: dict[str, tuple[str, dict[str, Any], tuple[str, ...], Repeats]] = {
    "odd_number": ("llama", dict(num_hidden_layers=9), ("gradient_checkpointing=every_2",), Repeats(0, 2, 5)),
    "mistral_window": ("mistral_window", dict(num_hidden_layers=7), (), Repeats(0, 1, 2)),
    "qwen2_window": ("qwen2_window", dict(num_hidden_layers=9, max_window_layers=3), (), Repeats(3, 1, 5)),
    "qwen3": ("qwen3", dict(num_hidden_layers=7), ("finetune=lora",), Repeats(0, 1, 2)),
    "phi3": ("phi3_window", dict(num_hidden_layers=7), (), Repeats(0, 1, 2)),
    "gpt_neox": ("gpt_neox", dict(num_hidden_layers=7), ("precision=bf16-mixed",), Repeats(0, 1, 2)),
    "gemma3": ("gemma3", dict(num_hidden_layers=26), (), Repeats(0, 6, 14)),
    "smollm3": ("smollm3", dict(num_hidden_layers=18), (), Repeats(0, 4, 10)),
    "dynamic": (
        "llama",
        dict(num_hidden_layers=5, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        (),
        Repeats(0, 1, 2),
    ),
    "longrope": (
        "phi3_window",
        dict(num_hidden_layers=5, rope_parameters={**LONGROPE, "original_max_position_embeddings": 256}),
        (),
        Repeats(0, 1, 2),
    ),
    "mixtral": ("mixtral", dict(num_hidden_layers=6), (), Repeats(0, 1, 2)),
    "deepseek_v3": ("deepseek_v3", dict(num_hidden_layers=9, first_k_dense_replace=2), (), Repeats(2, 1, 4)),
    "glm4_moe": ("glm4_moe", dict(num_hidden_layers=9), ("gradient_checkpointing=every_2",), Repeats(1, 2, 5)),
}


QUICK = ("qwen2_window", "deepseek_v3")
"""Windows in some of the layers, and experts; other cases are slow tests."""


@pytest.mark.parametrize("case", [pytest.param(x, marks=[pytest.mark.slow] * (x not in QUICK)) for x in LONG])
def test_two_short_models_give_the_long_one(case: str, tmp_path: Path):
    """To the byte, where kinds of layers alternate, where the first ones differ, and where the last period is cut."""
    name, fields, overrides, pattern = LONG[case]
    config = config_of(sizes_alone(name, tmp_path, **fields), *overrides, "strategy=fsdp", "count=4")
    weights, _ = Estimator().model(config)
    assert memory._repeats(config, weights) == pattern

    def make(layers: int) -> SupervisedLM:
        return SupervisedLM.of(build_model(config, None, "meta", layers), config)

    for place in ("first", "later"):
        held = residence(config, weights, 4, place, on_cpu=False)
        whole = simulate(make, fields["num_hidden_layers"], ROW, held, None, "cuda")
        assert simulate(make, fields["num_hidden_layers"], ROW, held, pattern, "cuda") == whole


def test_what_does_not_repeat_is_run_whole():
    assert repeats("abcdefgh") is None
    assert repeats("aaa") is None
    assert repeats("aaaab") is None
    assert repeats("baaaa") == Repeats(1, 1, 3)


@pytest.mark.parametrize("name", ["gemma3", "phi3_window", "mixtral", "deepseek_v3"])
def test_real_tensors_take_what_fake_ones_say(name: str, tmp_path: Path):
    said, found = estimated_and_real(config_of(save_tiny(name, tmp_path)))
    assert said.total() == pytest.approx(found.total(), rel=0.01)


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VICUNA_LIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.slow] * (x not in QUICK)) for x in sorted({*FAMILIES} - REFUSED - UNKNOWN)],
)
def test_every_family_has_an_estimate(name: str, tmp_path: Path):
    e = vl.estimate_run(config_of(sizes_alone(name, tmp_path)))
    assert e.memory.weights.all == tiny_model(name).num_parameters()
    assert e.fits and e.time and e.usd and not e.no_time
    _prints(e, tmp_path)


def _prints(e: Estimate, folder: Path) -> None:
    said = to_json(e, [], [])
    assert json.loads(json.dumps(said)) == said
    assert lines(e)["time"] and row_of(e)["memory"] and e._repr_html_()
    assert not total([e, e]).startswith("alternatives")
    elsewhere = replace(e, config=e.config.model_copy(update={"gpu": "elsewhere"}))
    assert total([e, elsewhere]).count(" in all " if e.usd else " all fit") == 2  # one run on two machines is no sum
    assert "; or gpu=elsewhere: " in total([e, elsewhere])
    assert "What it needs" in write_page([e, e], (), (), folder).read_text()
    assert "All of it" in write_page([e], (), (), folder).read_text()


@pytest.mark.slow
def test_without_flops_there_are_memory_and_no_hours(tmp_path: Path):
    """Norms inside of attention and MLP: it is not known what trained ones cost, nor what else there is."""
    e = vl.estimate_run(config_of(sizes_alone("bitnet", tmp_path), "price=spot", "deadline_hours=10"))
    assert e.memory.likely and e.fits
    assert (e.time, e.seconds, e.usd, e.spot) == (None, None, None, None)
    assert lines(e)["time"].startswith("not estimated: what a token costs is not known")
    assert to_json(e, [], [])["no_time"] == lines(e)["time"]
    assert not {"cost", "speed", "spot"} & lines(e).keys()
    _prints(e, tmp_path)
    assert cheapest(e) == []
    assert all(change.estimate.usd is None for change in to_fit(e))
