"""bf16: the logged loss is exact, small updates are not lost, and the state survives a stop."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tests.runs import COMMON, agree, curve, run_here, weights
from vicuna_lit.compose import load
from vicuna_lit.tokenizer import make_encoder
from vicuna_lit.train.loss import loss_sum, token_losses
from vicuna_lit.train.model import build_model
from vicuna_lit.train.optimizer import MasterWeights, build_optimizer

SHORT = "trainer.max_steps=8"
ADAM = load("train", "optimizer.lr=1e-4", "optimizer.weight_decay=0").optimizer


def test_the_loss_of_bf16_states_is_computed_in_fp32():
    """torch's fused head gives 10.4375 for 10.473 when it is left in bf16."""
    torch.manual_seed(0)
    hidden = torch.randn(1, 700, 64, dtype=torch.bfloat16)
    head = (torch.randn(1000, 64) * 0.2).bfloat16()
    labels = torch.randint(0, 1000, (1, 700))
    logits = hidden.double() @ head.double().T
    exact = cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum")
    for how in ("chunked", "plain"):
        loss = loss_sum(hidden, head, labels, how)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    losses = token_losses(hidden, head, labels)
    assert losses.double().sum().item() == pytest.approx(exact.item(), rel=1e-6)


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
    optimizer = build_optimizer([weight], ADAM, master_weights=True)
    without = build_optimizer([bare], ADAM, master_weights=False)
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
