"""Memory, time, price and advice: against real tensors, by hand, and by the command."""

import json
import os
import re
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vicuna_lit as vl
from tests.helpers import commands
from tests.helpers.peaks import ROW, estimated_and_real
from vicuna_lit.config.compose import ConfigError
from vicuna_lit.data import source
from vicuna_lit.data.plan import plan_run, plan_steps
from vicuna_lit.estimate import memory as memory_module
from vicuna_lit.estimate.advice import cheapest, to_fit
from vicuna_lit.estimate.lengths import sizes_of
from vicuna_lit.estimate.refresh import cheapest_rows, refresh
from vicuna_lit.estimate.run import Estimator
from vicuna_lit.estimate.simulate import Repeats, simulate
from vicuna_lit.estimate.strategies import residence
from vicuna_lit.estimate.tables import gpu_named, price_of, speeds_of
from vicuna_lit.models.causal_lm import SupervisedLM, build_model

SMALL = [
    "model=tiny", "model.architecture.num_hidden_layers=6", "++model.architecture.vocab_size=2000", "gpu=a100-80gb",
    "price=2",
]  # fmt: skip
KINDS = {
    "plain": [],
    "full": ["gradient_checkpointing=full"],
    "every_2": ["gradient_checkpointing=every_2"],
    "attention": ["gradient_checkpointing=attention"],
    "bf16-mixed": ["precision=bf16-mixed"],
    "bf16-true": ["precision=bf16-true"],
    "lora": ["finetune=lora", "gradient_checkpointing=full"],
    "full logits": ["lm_head=plain"],
    "mask": ["attention=sdpa_mask"],
    "grouped": ["model.architecture.num_key_value_heads=2"],
}


@pytest.fixture(scope="module")
def vicuna():
    """13B as the article has it, on eight GPUs."""
    return Estimator().estimate(vl.load("estimate", "experiment=vicuna_13b", "gpu=a100-80gb", "price=spot"))


def make(config, layers: int) -> SupervisedLM:
    return SupervisedLM.of(build_model(config, None, "meta", layers), config)


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] * (k not in ("every_2", "bf16-mixed"))) for k in KINDS]
)
def test_real_tensors_take_what_fake_ones_say(kind: str):
    said, found = estimated_and_real(vl.load("estimate", *SMALL, *KINDS[kind]))
    assert said.total() == pytest.approx(found.total(), rel=0.01)
    assert said["attention"] == pytest.approx(found["attention"], rel=0.02, abs=4096)


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [("plain", "single"), *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("lora", "ddp"), ("every_2", "fsdp"), ("lora", "fsdp"), ("every_2", "zero1"), ("lora", "zero2"),
        ("plain", "zero3")))],
)  # fmt: skip
def test_two_short_models_give_the_long_one(kind: str, strategy: str):
    """Each strategy once and each kind twice: what a strategy holds of a layer does not depend on the kind of run.

    fsdp, which alone gathers weights a layer at a time, meets every kind: `plain` in `test_estimate_families.py`.
    """
    count = 1 if strategy == "single" else 4
    overrides = [
        *SMALL,
        *KINDS[kind],
        f"strategy={strategy}",
        f"count={count}",
        "model.architecture.num_hidden_layers=9",
    ]
    config = vl.load("estimate", *overrides)
    weights, _ = Estimator().model(config)
    repeat = memory_module._repeats(config, weights)
    assert repeat == (Repeats(0, 2, 5) if kind == "every_2" else Repeats(0, 1, 2))
    for place in ("first", "later"):
        held = residence(config, weights, count, place, on_cpu=False)
        whole = simulate(partial(make, config), 9, ROW, held, None, "cuda")
        assert simulate(partial(make, config), 9, ROW, held, repeat, "cuda") == whole


def test_the_longest_row_is_that_of_all_rows_one_by_one():
    rng = np.random.default_rng(0)
    for n, world_size, packing, whole in [
        (200, 2, True, 512),
        (200, 3, False, 512),
        (7, 4, True, 90),
        (9, 2, False, 99),
    ]:
        lengths = rng.integers(2, 60, n)
        sizes: Any = dict(conversations_per_step=min(n, 16), tokens_per_device=whole, world_size=world_size, epochs=2)
        plan = plan_steps(lengths, lengths // rng.integers(2, 4, n), packing=packing, **sizes)

        def size(row: tuple[int, ...], plan=plan):
            return sum(plan.lengths[i] for i in row), sum(plan.supervised[i] for i in row)

        for steps in (plan.rows, plan.rows[:1], plan.rows[1:]):
            for which in (slice(0, 1), slice(1, None), slice(None)):
                rows = [row for step in steps for rank in step for row in rank[which]]
                best = max(rows, key=size, default=())
                wanted = (tuple(plan.lengths[i] for i in best) or (1,), size(best)[1])
                assert memory_module.longest_row(plan, steps, which) == wanted


def test_no_copy_of_the_weights_waits_for_the_end_of_the_forward_pass():
    config = vl.load(
        "estimate", *SMALL, "precision=bf16-mixed", "gradient_checkpointing=full", "strategy=fsdp", "count=4"
    )
    config = config.model_copy(update={"model": config.model.model_copy(update={"tokenizer": ""})})
    weights, _ = Estimator().model(config)
    held = residence(config, weights, 4, "only", on_cpu=False)
    peak = simulate(partial(make, config), 100, ((16,), 16), held, Repeats(0, 1, 2), "cuda")
    assert peak["activations"] < weights.bytes / 4, "a copy of all weights in bf16 would be half"


def test_sharegpt_is_as_long_as_the_vicuna_authors_say():
    known = sizes_of(vl.load("estimate", "experiment=vicuna_7b"))
    assert known.conversations == 70_000
    # Zheng et al. 2023, appendix E: 370M tokens in 257K sequences of at most 2,048, of 125K conversations.
    assert known.sizes.lengths.sum() / 70_000 == pytest.approx(370e6 / 125e3, rel=0.1)
    assert len(known.sizes.lengths) / 70_000 == pytest.approx(257 / 125, rel=0.1)
    assert known.sizes.lengths.max() <= 2048
    short = sizes_of(vl.load("estimate", "experiment=vicuna_7b", "context_length=512", "conversations=100"))
    assert short.conversations == len(np.unique(short.sizes.records)) == 100
    assert short.sizes.lengths.max() <= 512


@pytest.mark.parametrize("train_on", ["assistant_messages", "last_assistant_message", "all_tokens", "single_turns"])
def test_lengths_are_cut_as_conversations_are(tmp_path, train_on):
    file = tmp_path / "lengths.csv"
    head = "# system prompt: 10 tokens; stands for 2 conversations\nrecord,tokens,supervised\n"
    file.write_text(head + "1,40,30\n1,30,20\n1,50,5\n2,200,9\n2,8,3\n")
    overrides = [f"data.path={file}", "context_length=100", "tokens_per_device=100", f"train_on={train_on}"]
    sizes = sizes_of(vl.load("estimate", "experiment=vicuna_7b", *overrides)).sizes
    expected = {
        "assistant_messages": ([80, 60, 18], [50, 5, 3]),
        "last_assistant_message": ([80, 60, 18], [20, 5, 3]),
        "all_tokens": ([80, 60, 18], [79, 59, 17]),
        "single_turns": ([50, 40, 60, 18], [30, 20, 5, 3]),
    }[train_on]
    assert (sizes.lengths.tolist(), sizes.supervised.tolist()) == expected


def test_conversations_are_tokenised_once(monkeypatch):
    config = vl.load("estimate", "experiment=quickstart", "gpu=a100-80gb")
    first = sizes_of(config)
    plan = plan_run(config, first.sizes, 1)
    assert plan.steps == vl.fit(vl.load("train", "experiment=quickstart", "dry_run=true")).steps
    monkeypatch.setattr(source, "tokenised", None)
    again = sizes_of(config)
    assert all((getattr(again.sizes, k) == getattr(first.sizes, k)).all() for k in ("lengths", "supervised", "records"))


def test_the_article_fits_and_the_figures_add_up(vicuna):
    found = vicuna.to_dict()
    m = found["peak_memory"]
    assert found["fits"] and m["low"] < m["likely"] < m["high"] < m["limit"]
    assert sum(m["parts"].values()) == pytest.approx(m["likely"])
    assert m["parts"]["weights"] == pytest.approx(4 * 13.016e9 / 8, rel=0.001)
    assert m["parts"]["optimizer"] == 2 * m["parts"]["weights"]
    assert sum(found["time"]["parts"].values()) == pytest.approx(found["seconds"])
    assert sum(found["cost"]["parts"].values()) == pytest.approx(found["usd"])
    assert found["usd"] == pytest.approx(found["seconds"] / 3600 * 8 * found["cost"]["per_gpu_hour"]["usd"])
    assert json.loads(json.dumps(found)) == found
    assert "fits" in vicuna._repr_html_() and vicuna.table()[0]["what"] == "model"


def test_computing_by_hand():
    e = vl.estimate_run(vl.load("estimate", "experiment=vicuna_7b", "gpu=a100-80gb", "mfu=0.5", "conversations=2000"))
    assert e.time
    tokens, squares = (
        e.plan.step_tokens.sum(),
        sum((e.plan.lengths[list(s)] ** 2).sum() for s in e.plan.step_examples),
    )
    layers = 6 * 6.476e9 * tokens + 6 * 32 * 4096 * squares
    head = 6 * 32000 * 4096 * e.plan.step_supervised.sum()
    assert e.time.flops == pytest.approx(layers + head, rel=0.001)
    ideal = e.time.flops / (8 * 312e12 * 0.5)
    assert ideal <= e.time.parts["computing"] < 1.1 * ideal, "ranks are nearly balanced"
    assert e.time.bound == "computing"


@pytest.mark.slow
def test_many_machines_wait_for_their_network():
    slow = vl.estimate_run(
        vl.load("estimate", "experiment=vicuna_7b", "gpu=a100-80gb", "count=64", "conversations=9000")
    )
    assert slow.time and slow.time.bound == "the network"


def test_a_run_of_ones_own_calibrates(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({"model_tflops_per_second": 156.0}))
    asked = ["experiment=vicuna_7b", "gpu=a100-80gb", "conversations=2000"]
    e = vl.estimate_run(vl.load("estimate", *asked, f"calibrate={tmp_path}"))
    assert e.time and e.time.mfu.likely == 0.5
    for content, why in (({}, "no model_tflops"), ({"model_tflops_per_second": 400.0}, "more than a a100-80gb can do")):
        (tmp_path / "result.json").write_text(json.dumps(content))
        with pytest.raises(vl.ConfigError, match=why):
            vl.estimate_run(vl.load("estimate", *asked, f"calibrate={tmp_path}"))


def test_prices_and_gpus_that_are_not_known():
    assert price_of("a100-80gb", "spot", "any", "2023").usd == 1.517
    assert price_of("h100", 2.5, "any", "today").source == "given by hand"
    assert price_of("a100-80gb", "on-demand", "aws", "today").cloud == "aws"
    for ask, why in (
        (lambda: gpu_named("a100"), "did you mean a100-40gb or a100-80gb"),
        (lambda: gpu_named("h10"), "did you mean h100"),
        (lambda: price_of("t4", "spot", "any", "today"), "none for t4 is known"),
        (lambda: price_of("a100-80gb", "spot", "lambda", "today"), "none of lambda .* aws spot 1.782"),
        (lambda: price_of("h100", "spot", "any", "2024"), "did you mean 2023"),
        (lambda: price_of("h100", "spot", "any", "/nowhere.yaml"), "No such file"),
    ):
        with pytest.raises(vl.ConfigError, match=why):
            ask()


def test_fp32_runs_on_plain_cores_and_old_cards_have_no_bf16():
    few = ["experiment=vicuna_7b", "conversations=500", "price=1"]
    slow, fast = (
        vl.estimate_run(vl.load("estimate", *few, "gpu=a100-80gb", f"precision={precision}", "mfu=0.4")).time
        for precision in ("fp32", "bf16-mixed")
    )
    assert slow and fast and slow.parts["computing"] / fast.parts["computing"] == pytest.approx(312 / 19.5)
    with pytest.raises(vl.ConfigError, match="v100-16gb has no bf16"):
        vl.estimate_run(vl.load("estimate", *few, "gpu=v100-16gb"))


def test_published_speeds_are_told_apart():
    a100, l4 = gpu_named("a100-80gb"), gpu_named("l4")
    assert speeds_of(a100, 2048, False).high > speeds_of(a100, 2048, True).likely
    assert "no speed of l4 is published" in speeds_of(l4, 2048, True).source
    assert "published speeds of h100" in speeds_of(gpu_named("h200"), 2048, True).source


@pytest.mark.slow
def test_spot_machines_cost_time(vicuna):
    assert vicuna.spot and vicuna.time and vicuna.seconds
    assert vicuna.seconds[1] == pytest.approx(vicuna.time.likely + vicuna.spot.lost)
    assert vicuna.spot.interruptions == pytest.approx(vicuna.seconds[1] / (8 * 3600))
    rarely = vl.load(
        "estimate", "experiment=vicuna_13b", "gpu=a100-80gb", "price=spot", "hours_between_interruptions=1000"
    )
    calm = vl.estimate_run(rarely)
    assert calm.spot and calm.time
    saves = calm.time.likely / (30 * 60) * calm.spot.save_seconds
    assert calm.spot.lost == pytest.approx(saves, rel=0.05), "what is left are the waits for saves"


@pytest.mark.slow
def test_advice_that_holds_when_it_is_taken():
    asked = ["experiment=vicuna_13b", "gpu=a100-40gb", "count=4", "conversations=9000"]
    e = vl.estimate_run(vl.load("estimate", *asked))
    assert not e.fits
    changes = to_fit(e)
    assert [c.same_run for c in changes] == sorted((c.same_run for c in changes), reverse=True)
    assert any("lora" in str(c.overrides) and not c.same_run for c in changes)
    for change in changes:
        taken = vl.estimate_run(vl.load("estimate", *asked, *" ".join(change.overrides).split()))
        assert taken.fits
        assert taken.memory.likely == pytest.approx(change.estimate.memory.likely, rel=0.05)
        assert taken.time and change.estimate.time
        assert taken.time.likely == pytest.approx(change.estimate.time.likely, rel=0.05)


@pytest.mark.slow
def test_the_cheapest_way_is_in_time(vicuna):
    config = vicuna.asked.model_copy(update={"deadline_hours": 10.0})
    found = cheapest(type(vicuna)(**(vars(vicuna) | {"asked": config})))
    assert found and all(c.estimate.seconds[1] <= 36000 and c.estimate.fits for c in found if c.estimate.seconds)
    costs = [c.estimate.usd[1] for c in found if c.estimate.usd]
    assert costs == sorted(costs)


def test_prices_by_skypilots_rows():
    rows = [
        ["A100-80GB", 8, "AWS", "us-east-1", 32.0, 16.0, None],
        ["A100-80GB", 8, "AWS", "us-west-2", 40.0, 8.0, None],
        ["A100-80GB", 1, "GCP", "us-central1", 5.0, float("nan"), None],
        ["TPU-v4", 1, "GCP", "us-central1", 5.0, 1.0, None],
    ]
    assert cheapest_rows(rows) == {"a100-80gb": {"aws": {"on_demand": 4.0, "spot": 1.0}, "gcp": {"on_demand": 5.0}}}


@pytest.mark.slow
@pytest.mark.skipif("SKY_PYTHON" not in os.environ, reason="SkyPilot has an environment of its own: SKY_PYTHON")
def test_prices_by_skypilots_own_reader(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VICUNA_LIT_CACHE", str(tmp_path / "cache"))
    schema = "from sky.catalog import constants as c; print(c.CATALOG_SCHEMA_VERSION)"
    version = subprocess.run([os.environ["SKY_PYTHON"], "-c", schema], capture_output=True, text=True).stdout.strip()
    folder = tmp_path / ".sky/catalogs" / version / "lambda"
    folder.mkdir(parents=True)
    (folder / "vms.csv").write_text(
        "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,GpuInfo,SpotPrice\n"
        "gpu_8x_a100_80gb,A100-80GB,8.0,240.0,1800.0,22.4,us-east-1,A100,\n"
        "gpu_8x_h100,H100,8.0,208.0,1800.0,32.0,us-west-3,H100,12.0\n"
    )
    said = refresh()
    assert "2 prices of 2 GPUs" in said and "without aws" in said
    assert price_of("a100-80gb", "on-demand", "any", "today").usd == 2.8
    assert price_of("h100", "spot", "any", "today").usd == 1.5


def command(*arguments: str, module: str = "vicuna_lit.estimate", cwd: Path | None = None):
    return commands.run(module, *arguments, cwd=cwd, workers=True)


@pytest.mark.slow
def test_the_command(tmp_path):
    short = ["experiment=vicuna_13b", "conversations=500"]
    done = command(*short, "gpu=a100-80gb", "count=8", "price=spot", "output=json")
    found = json.loads(done.stdout)
    assert found["fits"] and {"peak_memory_bytes", "seconds", "usd"} <= found.keys()
    done = command(*short, "gpu=a100-40gb", "count=4", "output=html", f"run.dir={tmp_path}")
    assert "does not fit" in done.stdout and "finetune=lora" in done.stdout
    page = (tmp_path / "estimate.html").read_text()
    assert "It fits with" in page and not re.search(r"<script|https?://", page)
    swept = ["context_length=512,2048", "count=4,8", f"hydra.sweep.dir={tmp_path}/m"]
    done = command("-m", *short, "gpu=a100-40gb", *swept)
    assert "2 cannot fit: context_length=512,count=4, context_length=2048,count=4" in done.stdout
    asked = ["-m", *short, "gpu=h100", "output=json", f"hydra.sweep.dir={tmp_path}/j"]
    jobs = json.loads(command(*asked, "count=8", "context_length=512,1024").stdout)
    assert [job["name"] for job in jobs["jobs"]] == ["context_length=512", "context_length=1024"]
    assert jobs["usd"] == pytest.approx(sum(job["usd"] for job in jobs["jobs"]))
    assert jobs["total"].startswith("in all ")
    jobs = json.loads(command(*asked, "count=4,8").stdout)  # one run on either of two machines: no sum
    assert [job["name"] for job in jobs["jobs"]] == ["count=4", "count=8"]
    assert jobs["usd"] is None and jobs["total"].startswith("alternatives: count=4: in all ")
    for bad, why in (
        ("gpu=a100-80", "did you mean a100-80gb"),
        ("data=/nowhere", "data.path: /nowhere: no such file or folder"),
        (f"data={tmp_path}", "model.tokenizer=<folder>"),
        ("price=cheap", "on-demand, spot, or USD"),
    ):
        done = command("experiment=vicuna_7b", bad)
        assert done.returncode == 2 and why in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_sweep_does_not_start_what_cannot_fit(tmp_path):
    few = ["trainer.max_steps=1", "samples.questions=[]", "trainer.accelerator=cpu", "wandb.mode=disabled"]
    swept = ["model.architecture.hidden_size=64,65536", f"hydra.sweep.dir={tmp_path}"]
    asked = ["experiment=quickstart", "estimate=true", *few, *swept]
    done = command("-m", *asked, module="vicuna_lit.train", cwd=tmp_path)
    assert done.returncode == 1
    table, _, rest = done.stdout.partition("not started, for they cannot fit")
    assert "2 jobs in" in table and re.search(r"65536 +no", table) and "validation loss" in rest
    assert "hidden_size=65536 failed: needs" in done.stderr
    sweep = vl.read_sweep(tmp_path)
    assert [run.status for run in sweep.finished] == ["finished"]
    assert sweep.failures[0]["cause"] == "does_not_fit"


def test_the_measured_peaks_are_met():
    """By the committed table; `experiments/007_estimate/run.sh` makes it anew."""
    from experiments import tables

    rows = tables.read(Path(__file__).parents[3] / "experiments/007_estimate/results.csv")
    errors = sorted(abs(float(row["error"])) for row in rows)
    assert len(rows) >= 24
    assert errors[len(errors) // 2] <= 0.05 and errors[-1] <= 0.15


def test_the_rule_for_holes_is_that_of_the_package():
    config = vl.load("estimate", *SMALL)
    assert memory_module._holes(config, 1000) == 22 * 1000 * 352 * 4


def test_gpus_without_work_are_refused_and_not_planned():
    """A plan for 100,000 of them would take hours, and its bill would be one for waiting."""
    config: Any = vl.load("estimate", "experiment=vicuna_7b", "gpu=a100-80gb", "count=100000", "conversations=900")
    with pytest.raises(ConfigError, match=r"count=100000: a step of conversations_per_step=128 has about 128 examples"):
        Estimator().estimate(config)
