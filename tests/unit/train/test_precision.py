"""bf16: the logged loss is exact, small updates are not lost, and the state survives a stop."""

import statistics
from itertools import accumulate
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tests.helpers.encoders import predicted
from tests.helpers.families import BASE
from tests.helpers.runs import COMMON, agree, curve, run_here, weights
from vicuna_lit.config.compose import ConfigError, load
from vicuna_lit.config.train import LMHead
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.models import lm_head
from vicuna_lit.models.causal_lm import build_model
from vicuna_lit.models.decoder import beside_matrices
from vicuna_lit.models.lm_head import Head
from vicuna_lit.models.loss import loss_sum, token_losses
from vicuna_lit.train.gradients import sum_in_fp32
from vicuna_lit.train.module import SupervisedModule
from vicuna_lit.train.optimizer import Bf16, MasterWeights, build_optimizer
from vicuna_lit.train.rounding import round_by_chance

SHORT = "trainer.max_steps=8"
ADAM = load("train", "optimizer.lr=1e-4", "optimizer.weight_decay=0").optimizer


def test_the_loss_of_bf16_states_is_computed_in_fp32(monkeypatch):
    """torch's fused head gives 10.4375 for 10.473 when it is left in bf16."""
    monkeypatch.setattr(lm_head, "cpu_multiplies_bf16", lambda: True)
    torch.manual_seed(0)
    hidden = torch.randn(1, 700, 64, dtype=torch.bfloat16)
    head = (torch.randn(1000, 64) * 0.2).bfloat16()
    labels = torch.randint(0, 1000, (1, 700))
    logits = hidden.double() @ head.double().T
    exact = cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum")
    heads: dict[LMHead, float] = {"chunked": 5e-5, "exact": 1e-6, "plain": 1e-6}
    for how, within in heads.items():
        loss = loss_sum(*predicted(hidden, Head(head), labels), how)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=within)
        losses = token_losses(*predicted(hidden, Head(head), labels), how)
        assert losses.double().sum().item() == pytest.approx(exact.item(), rel=within)


def test_precisions_start_from_the_same_loss_and_learn_the_same(tmp_path):
    runs = {}
    for precision in ("fp32", "bf16-mixed", "bf16-true"):
        run_here([*COMMON, SHORT, f"precision={precision}", f"run.dir={tmp_path / precision}"])
        runs[precision] = curve(tmp_path / precision, 8)
        dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
        assert {w.dtype for w in weights(tmp_path / precision).values()} == {dtype}
    for precision in ("bf16-mixed", "bf16-true"):
        assert runs[precision] != runs["fp32"]
        agree(runs[precision], runs["fp32"], within=0.05)


def test_masters_keep_what_bf16_loses():
    """Steps of 1e-4 on a weight of 1 vanish in bf16, whose next number is 1.0078."""
    weight = nn.Parameter(torch.ones(8, 8, dtype=torch.bfloat16))
    bare = nn.Parameter(torch.ones(8, 8, dtype=torch.bfloat16))
    optimizer = build_optimizer([weight], ADAM, "masters")
    without = build_optimizer([bare], ADAM, "alone")
    for _ in range(100):
        for p, o in ((weight, optimizer), (bare, without)):
            p.grad = torch.ones_like(p)
            o.step()
    assert isinstance(optimizer, MasterWeights)
    assert optimizer.pairs[0][1].dtype == torch.float32
    torch.testing.assert_close(optimizer.pairs[0][1].detach(), torch.full((8, 8), 0.99), rtol=1e-3, atol=0)
    assert torch.equal(weight, optimizer.pairs[0][1].bfloat16())
    assert torch.equal(bare, torch.ones_like(bare))


def test_rotary_frequencies_stay_fp32():
    config = load("train", *COMMON, "precision=bf16-true")
    model = build_model(config, make_encoder(config))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in model.buffers() if b.is_floating_point()} == {torch.float32}


def alone(rounding: str, kind: str = "adamw", lr: float = 1e-4) -> Any:
    return load("train", "precision=bf16-true", "master_weights=false", f"optimizer.rounding={rounding}",
                f"optimizer.kind={kind}", f"optimizer.lr={lr}", "optimizer.weight_decay=0",
                "optimizer.betas=[0.9,0.999]").optimizer  # fmt: skip


@pytest.mark.parametrize(("kind", "lr"), [("adamw", 1e-4), ("adamw_8bit", 1e-4), ("adafactor", 1e-4)])
@pytest.mark.parametrize("size", [64, 4096])
def test_updates_that_the_nearest_number_loses_arrive_by_chance(kind, lr, size):
    """Of weights between 0.5 and 2, on average as in fp32: steps are a hundredth of what bf16 can tell apart."""
    torch.manual_seed(0)
    start = (0.5 + 1.5 * torch.rand(64, size)).bfloat16()
    moved = {}
    for name in ("fp32", "nearest", "stochastic"):
        weight = nn.Parameter(start.float() if name == "fp32" else start.clone())
        optimizer = build_optimizer([weight], alone("nearest" if name == "fp32" else name, kind, lr), "alone", 7)
        for _ in range(40):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        moved[name] = (weight.detach().double() - start.double()).mean().item()
    assert moved["fp32"] < -1e-3
    assert abs(moved["nearest"]) < 0.05 * abs(moved["fp32"])
    assert moved["stochastic"] == pytest.approx(moved["fp32"], rel=0.03)


def test_the_optimizers_state_does_not_get_stuck():
    """Rounded to the nearest, a mean of squares that moves by 1/1000 a step stops below half of where it should be."""
    found = {}
    for rounding in ("nearest", "stochastic"):
        weight = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
        optimizer = build_optimizer([weight], alone(rounding), "alone", 7)
        for _ in range(2000):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        state = optimizer.state[weight]
        assert state["exp_avg_sq"].dtype == weight.dtype == torch.bfloat16
        found[rounding] = state["exp_avg_sq"].double().mean().item()
    assert found["nearest"] < 0.5
    assert found["stochastic"] == pytest.approx(1 - 0.999**2000, rel=0.01)


def test_rounding_by_chance():
    """To one of the two neighbours, either way with its probability; what bf16 can say stays as it is."""
    exact = torch.tensor([1.0, 1 + 1 / 512, 1 + 1 / 200, -3.01, 1e-39, -0.0, torch.inf, -torch.inf, torch.nan])
    exact = exact.repeat_interleave(20_000)
    target, again, other = (torch.empty_like(exact, dtype=torch.bfloat16) for _ in range(3))
    round_by_chance(target, exact, 0, 1, "weight")
    round_by_chance(again, exact, 0, 1, "weight")
    assert torch.equal(target.view(torch.int16), again.view(torch.int16))
    values, means = target.view(9, -1), target.double().view(9, -1).mean(1)
    for i, number in enumerate(exact[::20_000].tolist()):
        found = values[i].unique()
        assert len(found) == (2 if i in (1, 2, 3, 4) else 1) or number != number
        assert means[i].item() == pytest.approx(number, rel=1e-4, nan_ok=True)
    for draw in ((1, 1, "weight"), (0, 2, "weight"), (0, 1, "exp_avg")):
        round_by_chance(other, exact, *draw)
        same = (other[20_000:40_000] == target[20_000:40_000]).double().mean().item()
        assert same == pytest.approx(0.25**2 + 0.75**2, abs=0.02), "other chances"


def test_chances_depend_on_the_place_alone(monkeypatch):
    """However many elements are rounded at a time."""
    exact = torch.randn(1000)
    whole, parts = (torch.empty(1000, dtype=torch.bfloat16) for _ in range(2))
    round_by_chance(whole, exact, 3)
    monkeypatch.setattr("vicuna_lit.train.rounding.SLICE", 64)
    round_by_chance(parts, exact, 3)
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("bf16", get_args(Bf16)[:2])
@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit", "adafactor"])
def test_a_few_weights_at_a_time_are_stepped_as_all_at_once(bf16, kind, monkeypatch):
    def stepped(at_once: int) -> list[nn.Parameter]:
        monkeypatch.setattr("vicuna_lit.train.optimizer.AT_ONCE", at_once)
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(n, 90).bfloat16()) for n in (60, 50, 1, 70)]
        optimizer: Any = build_optimizer(weights, alone("stochastic", kind, 1e-2), bf16, 7)
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn_like(weight)
            optimizer.factor = torch.tensor(0.3, dtype=torch.float64)
            optimizer.step()
            assert all(weight.grad is None for weight in weights)
        return weights

    assert all(torch.equal(a, b) for a, b in zip(stepped(1), stepped(10**6), strict=True))


def test_gradients_are_summed_and_clipped_in_fp32():
    """Over 64 micro-batches, in bf16 off by a percent; then brought to a tenth without being rounded."""
    torch.manual_seed(0)
    batches = torch.randn(64, 1, 300).bfloat16()
    weights = {name: nn.Parameter(torch.zeros(200, 300, dtype=torch.bfloat16)) for name in ("fp32", "bf16")}
    sum_in_fp32([weights["fp32"]])
    exact = torch.zeros(200, 300, dtype=torch.float64)
    for batch in batches:
        for weight in weights.values():
            (batch @ weight.T).sum().backward()
        exact += batch.double()
    sums: dict[str, Any] = {name: w.grad for name, w in weights.items()}
    errors = {name: ((g.double() - exact).norm() / exact.norm()).item() for name, g in sums.items()}
    assert errors["fp32"] < 1e-6
    assert errors["bf16"] > 3e-3

    optimizer: Any = build_optimizer([weights["fp32"]], ADAM, "masters")
    optimizer.factor = torch.tensor(0.1, dtype=torch.float64)
    seen = []
    optimizer.inner.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["params"][0].grad.clone()))
    optimizer.step()
    torch.testing.assert_close(seen[0].double(), 0.1 * exact, rtol=1e-5, atol=1e-6)


def in_hand(optimizer: Any) -> int:
    """Bytes that a step makes at one time, inside torch's operations too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        optimizer.step()
    events: Any = seen.profiler
    changes = [event.nbytes() for event in events.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(changes))


@pytest.mark.parametrize(("at_once", "dtype", "weights_at_once"), [
    (2**16, torch.float32, 1), (2**16, torch.bfloat16, 1), (10 * 2**16, torch.bfloat16, 10)
])  # fmt: skip
def test_a_step_makes_no_fp32_copies_of_all_gradients(at_once, dtype, weights_at_once, monkeypatch):
    monkeypatch.setattr("vicuna_lit.train.optimizer.AT_ONCE", at_once)
    weights = [nn.Parameter(torch.zeros(2**16, 1, dtype=torch.bfloat16)) for _ in range(20)]
    optimizer = build_optimizer(weights, ADAM, "masters")
    seen = []
    for _ in range(6):  # the first makes the optimizer's state
        for weight in weights:
            weight.grad_dtype = dtype
            weight.grad = torch.ones_like(weight, dtype=dtype)
        seen.append(in_hand(optimizer))
    most = statistics.median_high(seen[1:])  # on a busy machine the profiler loses an event now and then
    size = 4 * 2**16
    assert most <= 1000 if dtype == torch.float32 else weights_at_once * size <= most <= (weights_at_once + 1) * size


@pytest.mark.slow
@pytest.mark.parametrize("settings", [("master_weights=true",), ("master_weights=false",)], ids=["masters", "alone"])
def test_bf16_agrees_with_itself_over_micro_batches(settings, tmp_path):
    """One row a step or many: their gradients are summed in fp32."""
    for name, tokens in {"one": 8192, "many": 256}.items():
        run_here([*COMMON, SHORT, "precision=bf16-true", *settings, f"tokens_per_device={tokens}",
                  f"run.dir={tmp_path / name}"])  # fmt: skip
    agree(curve(tmp_path / "one", 8), curve(tmp_path / "many", 8), within=0.02)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("precision=bf16-true",), "precision=bf16-true master_weights=false"),
        (("master_weights=false",), "precision=bf16-true master_weights=false"),
        (("precision=bf16-true", "master_weights=false", "strategy=fsdp"), "strategy=ddp, single"),
    ],
)
def test_where_nothing_is_rounded_the_choice_is_refused(settings, said):
    with pytest.raises(ConfigError, match=f"rounding=stochastic.*{said}"):
        load("train", *settings, "optimizer.rounding=stochastic")


def test_weight_decay_is_for_matrices_alone():
    """The biases of several experts are 2-D in gpt-oss, and no matrix."""
    model = (
        "{model_type: gpt_oss, hidden_size: 64, intermediate_size: 96, num_hidden_layers: 1, num_attention_heads: 4, "
        "num_key_value_heads: 2, head_dim: 16, num_local_experts: 4, num_experts_per_tok: 2}"
    )
    base = [s for s in COMMON if not s.startswith("model.architecture")]
    module = SupervisedModule.of(load("train", *base, f"+model.architecture={model}"))
    module.plan = SimpleNamespace(accumulation=1, steps=2)  # pyright: ignore[reportAttributeAccessIssue]
    decayed, others = module.configure_optimizers()["optimizer"].param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    spared = {id(p) for p in others["params"]}
    names = {name.split(".")[-1]: p.ndim for name, p in module.lm.named_parameters() if id(p) in spared}
    assert names["gate_up_proj_bias"] == names["down_proj_bias"] == 2
    assert {name for name, ndim in names.items() if ndim > 1} == {"gate_up_proj_bias", "down_proj_bias"}
    assert len(decayed["params"]) + len(others["params"]) == len(list(module.lm.parameters()))


@pytest.mark.parametrize(
    ("family", "fields", "names"),
    [
        ("jamba", dict(mamba_d_state=4, mamba_dt_rank=4, attn_layer_period=2, attn_layer_offset=1), {"A_log", "D"}),
        ("cohere", dict(use_qk_norm=True), {"weight"}),
    ],
)
def test_rates_and_norms_of_two_dimensions_are_no_matrices(family: str, fields: dict[str, Any], names: set[str]):
    """Jamba's rates and the norms of Command R+'s heads have two dimensions; the first are marked in Mamba's code."""
    given: dict[str, Any] = BASE | dict(pad_token_id=0) | fields
    config = CONFIG_MAPPING[family](**given)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    beside = {id(p) for p in beside_matrices(model)}
    found = {name for name, p in model.named_parameters() if p.ndim > 1 and id(p) in beside}
    assert found and {name.rpartition(".")[2] for name in found} <= names
    assert not any("proj" in name or "embed" in name or "conv" in name for name in found)
