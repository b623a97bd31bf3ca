"""The head that never makes full logits gives the plain loss and its gradients."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from vicuna_lit.data.batch import Batch
from vicuna_lit.train.heldout import HeldoutLoss
from vicuna_lit.train.loss import chunk, loss_sum, token_losses


def example(length: int = 1300, supervised: float = 0.6):
    torch.manual_seed(0)
    hidden = torch.randn(1, length, 32, requires_grad=True)
    head = (torch.randn(101, 32) / 6).requires_grad_()
    labels = torch.randint(0, 101, (1, length))
    labels[torch.rand(1, length) > supervised] = -100
    return hidden, head, labels


def test_value_and_gradients():
    hidden, head, labels = example()
    logits = hidden @ head.T
    plain = cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum")
    expected = torch.autograd.grad(plain / 7, (hidden, head))
    loss = loss_sum(hidden, head, labels)
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-4)
    for a, b in zip(torch.autograd.grad(loss / 7, (hidden, head)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(token_losses(hidden, head, labels).sum(), plain, rtol=1e-5, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_ligers_head():
    pytest.importorskip("liger_kernel")
    hidden, head, labels = (x.detach().cuda() for x in example())
    found = []
    for how in ("plain", "chunked", "liger"):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        loss = loss_sum(h, w, labels, how)
        found.append((loss, *torch.autograd.grad(loss, (h, w))))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_chunk_follows_the_vocabulary():
    """Never more than 512 positions, nor more than 128 MiB of logits."""
    assert [chunk(v) for v in (512, 32_000, 65_536, 128_256, 2**26)] == [512, 512, 512, 261, 1]


def test_nothing_supervised_is_zero_and_still_backward():
    hidden, head, labels = example(length=5)
    loss = loss_sum(hidden, head, torch.full_like(labels, -100))
    loss.backward()
    assert loss == 0
    assert head.grad is not None
    assert head.grad.abs().max() == 0


def test_heldout_loss_by_turn_and_position():
    lengths = (6, 5)
    labels = torch.tensor([[-100, 1, 1, -100, 1, 1, -100, -100, 1, -100, 1]])
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4]])
    batch = Batch(labels.clamp(min=0), labels, positions, lengths, 1)
    held = HeldoutLoss()
    held.add(batch, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 9.0]))
    assert held.tokens == 6
    assert held.loss == 4.0
    assert held.by_turn() == {"1": (1 + 2 + 5) / 3, "2": (3 + 4 + 9) / 3}
    assert held.by_position() == {"0-127": 4.0}
