"""The head that never makes full logits gives the plain loss and its gradients."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.nn.functional import cross_entropy

from tests.helpers.encoders import predicted
from vicuna_lit.config.train import LMHead
from vicuna_lit.data.batch import Batch
from vicuna_lit.estimate.ledger import MemoryTracker
from vicuna_lit.models import lm_head
from vicuna_lit.models.lm_head import Head, Products
from vicuna_lit.models.loss import loss_sum, token_losses
from vicuna_lit.train.validation_loss import ValidationLoss

FORMS = {
    "a matrix": {},
    "with a bias": {"bias": True},
    "scaled": {"scale": 0.3},
    "capped": {"softcap": 4.0},
    "all together": {"bias": True, "scale": 0.3, "softcap": 4.0},
}
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
BF16 = torch.bfloat16


def example(form="a matrix", length=1300, width=32, vocabulary=104, supervised=0.6, device="cpu"):
    """States that point to their token and to a rival, as a trained model's do; most tokens come several times."""
    torch.manual_seed(0)
    weight = torch.randn(vocabulary, width)
    labels, rivals = torch.randint(0, vocabulary, (2, length))
    hidden = torch.randn(length, width) + 0.3 * weight[labels] + 0.2 * weight[rivals]
    weight, hidden = weight / 2, torch.roll(hidden, -1, 0)
    labels[torch.rand(length) > supervised] = -100
    bias = torch.randn(vocabulary) if FORMS[form].get("bias") else None
    leaves = [t.to(device).requires_grad_() for t in (weight, bias) if t is not None]
    head = Head(*leaves, scale=FORMS[form].get("scale", 1.0), softcap=FORMS[form].get("softcap"))
    return hidden[None].to(device).requires_grad_(), head, labels[None].to(device)


def in_fp64(hidden, head, labels):
    """The loss and its gradients from the formula itself."""
    hidden, weight = hidden.detach().double().requires_grad_(), head.weight.detach().double().requires_grad_()
    logits = head.scale * (hidden @ weight.T)
    leaves = [hidden, weight]
    if head.bias is not None:
        leaves.append(head.bias.detach().double().requires_grad_())
        logits = logits + leaves[-1]
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    loss = cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum")
    return [loss.detach(), *torch.autograd.grad(loss / 7, leaves)]


def by_ours(hidden, head, labels, how: LMHead = "chunked"):
    leaves = [x for x in (hidden, head.weight, head.bias) if x is not None]
    loss = loss_sum(*predicted(hidden, head, labels), how)
    return [loss.detach(), *torch.autograd.grad(loss / 7, leaves)]


def errors(found, expected):
    """Of each tensor, relative to its norm."""
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]


def of_plain_bf16(hidden, head, labels):
    """What autograd makes of one bf16 product, in the fp32 that follows it."""
    logits = (hidden[0, :-1].to(BF16) @ head.weight.to(BF16).T).float() * head.scale
    logits = logits if head.bias is None else logits + head.bias
    logits = logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)
    loss = cross_entropy(logits, labels[0, 1:], reduction="sum")
    leaves = [x for x in (hidden, head.weight, head.bias) if x is not None]
    return [loss.detach(), *torch.autograd.grad(loss / 7, leaves)]


@pytest.mark.parametrize("how", ["chunked", "exact", "plain"])
@pytest.mark.parametrize("form", FORMS)
def test_value_and_gradients_are_those_of_fp64(form, how):
    hidden, head, labels = example(form)
    expected = in_fp64(hidden, head, labels)
    assert max(errors(by_ours(hidden, head, labels, how), expected)) < 1e-6
    losses = token_losses(*predicted(hidden, head, labels))
    assert losses.double().sum() == pytest.approx(expected[0].item(), rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_in_bf16_they_are_no_worse_than_after_one_plain_product(form, monkeypatch):
    monkeypatch.setattr(lm_head, "cpu_multiplies_bf16", lambda: True)
    hidden, head, labels = example(form)
    expected = in_fp64(hidden, head, labels)
    plain = errors(of_plain_bf16(hidden, head, labels), expected)
    with torch.autocast("cpu", BF16):
        ours = errors(by_ours(hidden, head, labels), expected)
        losses = token_losses(*predicted(hidden, head, labels))
    assert ours[0] < 2e-4  # of 780 tokens; it falls with their root
    assert losses.double().sum() == pytest.approx(expected[0].item(), rel=2e-4)
    assert max(ours[1:]) > 1e-4  # or nothing was multiplied in bf16
    assert all(a < 1.1 * b for a, b in zip(ours[1:], plain[1:], strict=True))


@pytest.mark.skipif(not hasattr(functional, "linear_cross_entropy"), reason="since torch 2.13")
@pytest.mark.parametrize("positions", [1, 512, 1300])
@pytest.mark.parametrize("vocabulary", [104, 5000])
def test_a_matrix_in_fp32_is_torchs_own_to_the_bit(positions, vocabulary):
    """What the golden losses were recorded with."""
    hidden, head, _ = example(length=positions, vocabulary=vocabulary)
    targets = torch.randint(0, vocabulary // 3, (positions,))
    options = torch.nn.LinearCrossEntropyOptions(acc_policy="accurate", batch_chunk_size=512, chunking_method=None)
    torchs = functional.linear_cross_entropy(hidden[0], head.weight, targets, reduction="sum", options=options)
    ours = loss_sum(hidden[0], head, targets, "chunked")
    assert torch.equal(ours, torchs)
    for a, b in zip(*(torch.autograd.grad(x / 7, (hidden, head.weight)) for x in (ours, torchs)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("form", ["a matrix", "all together"])
def test_twice_is_the_same_to_the_bit(form, autocast, monkeypatch):
    monkeypatch.setattr(lm_head, "cpu_multiplies_bf16", lambda: True)
    hidden, head, labels = example(form)
    labels[labels > 0] = 3
    with torch.autocast("cpu", BF16) if autocast else nullcontext():
        first, again = (by_ours(hidden, head, labels) for _ in range(2))
    assert all(map(torch.equal, first, again))


def peak_of(states, head, targets) -> float:
    """Bytes that a loss and its backward pass allocate."""
    ledger = MemoryTracker()
    ledger.ignore(states, targets, head.weight)
    with ledger:
        loss = loss_sum(states, head, targets, "chunked")
        if loss.requires_grad:
            loss.backward()
    return max(p.total() for p in ledger.peaks.values())


@pytest.mark.parametrize("trained", ["both", "states", "head", "neither"])
def test_what_is_frozen_gets_no_gradient_and_no_memory(trained):
    for vocabulary, positions, of in ((4000, 16, "head"), (16, 4000, "states")):
        states = torch.randn(positions, 512, requires_grad=trained in ("both", "states"))
        head = Head(torch.randn(vocabulary, 512, requires_grad=trained in ("both", "head")))
        size = 4 * 512 * max(vocabulary, positions)
        peak = peak_of(states, head, torch.randint(0, vocabulary, (positions,)))
        assert peak >= size if trained in ("both", of) else peak < size / 8
        assert [t.grad is not None for t in (states, head.weight)] == [t.requires_grad for t in (states, head.weight)]


def test_without_gradients_there_is_no_memory_for_them():
    states, head = torch.randn(16, 512, requires_grad=True), Head(torch.randn(4000, 512, requires_grad=True))
    with torch.no_grad():
        assert peak_of(states, head, torch.randint(0, 4000, (16,))) < 4000 * 512


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_tensors_without_content_take_the_same_way(form, autocast, device, monkeypatch):
    """Also that of a GPU, whose products no CPU can make, as an estimate has it."""
    monkeypatch.setattr(lm_head, "cpu_multiplies_bf16", lambda: True)
    with FakeTensorMode(allow_non_fake_inputs=True), MemoryTracker(), torch.autocast("cpu", BF16, enabled=autocast):
        states = torch.empty(5000, 32, requires_grad=True)
        bias = torch.empty(70_000, requires_grad=True) if FORMS[form].get("bias") else None
        rest = {k: v for k, v in FORMS[form].items() if k != "bias"}
        head = Head(torch.empty(70_000, 32, requires_grad=True), bias, **rest)
        loss_sum(states, head, torch.empty(5000, dtype=torch.int64), "chunked", device).backward()
        for leaf in (t for t in (states, head.weight, bias) if t is not None):
            assert leaf.grad is not None
            assert (leaf.grad.shape, leaf.grad.dtype) == (leaf.shape, torch.float32)


def test_the_gradients_can_be_used_once():
    hidden, head, labels = example()
    loss = loss_sum(*predicted(hidden, head, labels))
    loss.backward()
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


@pytest.mark.gpu
@ON_GPU
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_on_a_gpu_it_is_as_exact_and_as_steady(form, autocast):
    hidden, head, labels = example(form, length=5000, width=256, vocabulary=70_001, device="cuda")
    expected = in_fp64(hidden, head, labels)
    plain = errors(of_plain_bf16(hidden, head, labels), expected)
    with torch.autocast("cuda", BF16, enabled=autocast):
        first, again = (by_ours(hidden, head, labels) for _ in range(2))
    ours = errors(first, expected)
    assert ours[0] < (1e-4 if autocast else 1e-6)
    assert all(a < (1.1 * b if autocast else 1e-5) for a, b in zip(ours[1:], plain[1:], strict=True))
    assert all(map(torch.equal, first, again))


@pytest.mark.gpu
@ON_GPU
@pytest.mark.parametrize("form", FORMS)
def test_ligers_head(form):
    pytest.importorskip("liger_kernel")
    hidden, head, labels = example(form, device="cuda")
    assert max(errors(by_ours(hidden, head, labels, "liger"), in_fp64(hidden, head, labels))) < 1e-4


def test_the_chunk_follows_the_vocabulary_and_the_device():
    """Never more than 128 MiB of logits on a CPU and 1 GiB on a GPU, unless one tile of 128 positions takes more."""
    on_cpu, on_gpu = (Products(torch.float32, device) for device in ("cpu", "cuda"))
    assert [on_cpu.chunk(v) for v in (512, 32_000, 65_536, 128_256, 2**26)] == [512, 512, 512, 261, 1]
    assert [on_gpu.chunk(v) for v in (512, 32_000, 128_256, 151_936, 2**26)] == [2048, 2048, 2048, 1664, 128]


@pytest.mark.parametrize("how", ["chunked", "plain"])
def test_nothing_supervised_is_zero_and_still_backward(how):
    hidden, head, labels = example("with a bias", length=5)
    loss = loss_sum(*predicted(hidden, head, torch.full_like(labels, -100)), how)
    loss.backward()
    assert loss == 0
    for leaf in (hidden, head.weight, head.bias):
        assert leaf is not None
        assert leaf.grad is not None
        assert leaf.grad.abs().max() == 0


def test_validation_loss_by_turn_and_position():
    lengths = (6, 5)
    labels = torch.tensor([[-100, 1, 1, -100, 1, 1, -100, -100, 1, -100, 1]])
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4]])
    batch = Batch(labels.clamp(min=0), labels, positions, lengths, 1)
    held = ValidationLoss()
    held.add(batch, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 9.0]))
    assert held.tokens == 6
    assert held.loss == 4.0
    assert held.by_turn() == {"1": (1 + 2 + 5) / 3, "2": (3 + 4 + 9) / 3}
    assert held.by_position() == {"0-127": 4.0}
    assert held.by_conversation(np.array([1, 2])) == []  # of rows that do not say what they hold


def test_validation_loss_by_conversation_is_the_same_in_whatever_rows_it_lies():
    """Examples 0 and 2 are pieces of one conversation; 1 has nothing supervised."""
    parts = {0: [0.1, 0.2, 0.3], 1: [], 2: [0.7]}

    def row(*examples: int) -> tuple[Batch, torch.Tensor]:
        lengths = tuple(5 for _ in examples)
        labels = torch.tensor([[t for e in examples for t in [-100] * (5 - len(parts[e])) + [1] * len(parts[e])]])
        positions = torch.arange(5).repeat(len(examples))[None]
        before = (0,) * len(examples)
        batch = Batch(labels.clamp(min=0), labels, positions, lengths, 1, before, examples=examples)
        return batch, torch.tensor([loss for e in examples for loss in parts[e]], dtype=torch.float64).float()

    found = []
    for rows in ([(0, 1, 2)], [(2,), (1, 0)], [(1,), (2, 0)]):
        held = ValidationLoss()
        for examples in rows:
            held.add(*row(*examples))
        found.append(held.by_conversation(np.array([4, 7, 4])))
    assert found[0] == found[1] == found[2]
    assert found[0] == pytest.approx([1.3, 0.0])
