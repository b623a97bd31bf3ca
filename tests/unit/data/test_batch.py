"""Rows are made ahead, and nothing in a step waits for a GPU."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vicuna_lit.data.batch import Batch, PlannedRows, PrefetchedRows, collate
from vicuna_lit.data.dataset import Examples
from vicuna_lit.data.encoder import Example
from vicuna_lit.data.plan import plan_steps
from vicuna_lit.models import attention
from vicuna_lit.models.causal_lm import SupervisedLM
from vicuna_lit.train.gradients import clip_factor, scale, squared_norm


def examples(count: int = 12) -> Examples:
    rng = np.random.default_rng(0)
    made = []
    for length in rng.integers(5, 60, count):
        ids, mask = rng.integers(1, 100, length), rng.random(length) < 0.6
        made.append(Example(str(len(made)), ids.astype(np.int32), mask))
    return Examples.of(enumerate(made))


def rows(found: Examples) -> PlannedRows:
    return PlannedRows(
        found, plan_steps(found.lengths, found.supervised, conversations_per_step=4, tokens_per_device=100)
    )


def same(a: Batch, b: Batch) -> bool:
    names = ("input_ids", "labels", "position_ids", "predicting", "targets", "bounds")
    return a.lengths == b.lengths and all(torch.equal(getattr(a, n), getattr(b, n)) for n in names)


def test_what_follows_from_the_labels():
    batch = collate(examples(), (0, 1, 2), 1)
    for t, token in zip(batch.predicting, batch.targets, strict=True):
        assert batch.labels[0, t + 1] == token == batch.input_ids[0, t + 1]
    assert len(batch.predicting) == (batch.labels[0, 1:] != -100).sum()
    assert batch.bounds.tolist() == [0, *np.cumsum(batch.lengths)]
    assert same(batch.to("cpu"), batch)


@pytest.mark.parametrize("start", [0, 3])
def test_rows_that_are_made_ahead_are_the_same_in_the_same_order(start: int):
    planned = rows(examples())
    ahead = PrefetchedRows(planned, start)
    found = list(ahead)
    assert len(ahead) == len(found) == len(planned) - start > 0
    assert all(same(batch, planned[start + i]) for i, batch in enumerate(found))
    assert list(PrefetchedRows(planned, len(planned))) == []


def test_a_row_that_cannot_be_made_is_an_error_in_its_place(monkeypatch):
    planned, make = rows(examples()), PlannedRows.__getitem__

    def broken(self: PlannedRows, i: int) -> Batch:
        if i == 2:
            raise OSError("gone")
        return make(self, i)

    monkeypatch.setattr(PlannedRows, "__getitem__", broken)
    taken = iter(PrefetchedRows(planned))
    assert same(next(taken), make(planned, 0)) and same(next(taken), make(planned, 1))
    with pytest.raises(OSError, match="gone"):
        next(taken)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kernel", ["sdpa_per_conversation", "varlen", "sdpa_mask"])
def test_nothing_in_a_step_waits_for_the_gpu(kernel: str):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    model.cuda()
    attention.use(model, kernel)
    lm = SupervisedLM(model, autocast=True, gradient_checkpointing="full" if kernel == "varlen" else "none")
    weights = list(lm.parameters())
    optimizer = torch.optim.AdamW(weights, fused=True)

    def step(batch: Batch) -> None:
        lm(SupervisedLM.row_loss, batch.to("cuda", non_blocking=True)).backward()
        gradients = [w.grad for w in weights if w.grad is not None]
        squares = [squared_norm(g) for g in gradients]
        scale(gradients, clip_factor(torch.stack(squares).sum().sqrt(), 1.0))
        optimizer.step()
        optimizer.zero_grad()

    first, second = (collate(examples(), row, 1).pin_memory() for row in ((0, 1, 2), (3, 4, 5, 6)))
    step(first)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(second)
    finally:
        torch.cuda.set_sync_debug_mode("default")
