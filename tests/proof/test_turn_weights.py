"""Weights of turns: the loss is Σ w · nll / Σ w over the step, in any layout, as computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.helpers.runs import COMMON
from vicuna_lit.config.compose import load
from vicuna_lit.data.batch import PlannedRows
from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.data.mixture import fingerprint
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.models import attention
from vicuna_lit.models.causal_lm import SupervisedLM, build_model
from vicuna_lit.prepare.shards import from_json, to_json
from vicuna_lit.records.conversation import Conversation, Turn, to_record, write_jsonl
from vicuna_lit.records.readers import parse

WEIGHTS = (0.5, None, 0, 3, 1, 0.25)
"""Of the replies of a conversation; a number is the next one's at each conversation."""


def talks(count: int = 12, weighted: bool = True) -> list[Conversation]:
    found = []
    for n in range(count):
        messages = []
        for i in range(2 + n % 3):
            weight = WEIGHTS[(n + i) % len(WEIGHTS)] if weighted and n % 4 else None
            messages += [
                {"role": "user", "content": f"What is {n} and {i}?"},
                {"role": "assistant", "content": f"It is {n + i}, I say. " * (1 + i), "weight": weight},
            ]
        found.append(parse({"id": f"c{n}", "messages": messages}, ""))
    assert all(isinstance(c, Conversation) for c in found)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("weights")
    write_jsonl(talks(), place / "w.jsonl")
    given = (*COMMON, f"data.path={place / 'w.jsonl'}", "data.validation_fraction=0.2", "conversations_per_step=4")
    config = load("train", *given, "context_length=96", "tokens_per_device=96", "trainer.max_steps=2")
    encoder = make_encoder(config)
    torch.manual_seed(0)
    return config, encoder, build_model(config, encoder)


@torch.no_grad()
def by_hand(model, data: ConversationDataModule, step: int) -> float:
    """One conversation at a time, with transformers' own forward pass, in fp64."""
    total, weight = 0.0, 0.0
    for i in data.plan.step_examples[step]:
        e = data.train[i]
        logits = model(input_ids=torch.from_numpy(e.input_ids.astype("int64"))[None]).logits[0, :-1].double()
        nll = cross_entropy(logits, torch.from_numpy(e.input_ids[1:].astype("int64")), reduction="none")
        w = torch.from_numpy((e.counted * e.supervised)[1:]).double()
        total, weight = total + float(nll @ w), weight + float(w.sum())
    return total / weight


@pytest.mark.parametrize("head", ["chunked", "exact", "plain"])
@pytest.mark.parametrize("layout", [(96, 1, True), (400, 1, True), (96, 2, True), (96, 1, False)])
@pytest.mark.promise("A turn's weight counts as Σ w · nll / Σ w over the step, in any layout, as computed by hand")
def test_the_loss_is_the_weighted_mean_in_any_layout(made, layout, head):
    config, encoder, model = made
    tokens, world, packing = layout
    config = config.model_copy(update={"tokens_per_device": tokens, "packing": packing, "lm_head": head})
    data = ConversationDataModule(config, encoder, world_size=world)
    data.setup()
    model.zero_grad()
    model.set_attn_implementation("eager")
    reference = by_hand(model, data, 0)
    attention.use(model, attention.ANYWHERE)
    lm = SupervisedLM.of(model, config)
    loss = torch.zeros(())
    for rank in range(world):
        rows = PlannedRows(data.train, data.plan, rank)
        for micro in range(data.plan.accumulation):
            batch = rows[micro]
            loss = loss + lm(SupervisedLM.row_loss, batch) / batch.denominator
    assert float(loss.detach()) == pytest.approx(reference, rel=1e-6)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    known = GRADIENTS.setdefault("first", gradient.clone())
    assert (gradient - known).norm() <= 2e-6 * known.norm()


GRADIENTS: dict[str, torch.Tensor] = {}
"""Of the first case: all others agree with it."""


def test_without_weights_nothing_of_the_batch_changes(made, tmp_path):
    config, encoder, _ = made
    write_jsonl(talks(weighted=False), tmp_path / "plain.jsonl")
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": str(tmp_path / "plain.jsonl")})})
    data = ConversationDataModule(config, encoder)
    data.setup()
    batch = PlannedRows(data.train, data.plan)[0]
    assert batch.weights is batch.target_weights is data.plan.weights is None
    assert isinstance(batch.denominator, int)


def test_weights_are_read_written_split_kept_and_refused(made, tmp_path):
    config, encoder, _ = made
    first = talks()[1]
    assert [t.weight for t in first.turns if t.role == "assistant"] == [1, 1, 3]
    assert [t.supervised for t in first.turns if t.role == "assistant"] == [True, False, True]
    assert parse(to_record(first), "") == first == from_json(to_json(first))
    double = parse(to_record(first) | {"weight": 0.5}, "")
    assert isinstance(double, Conversation) and [t.weight for t in double.turns if t.role == "assistant"] == [
        0.5,
        1,
        1.5,
    ]
    for bad in (-1, math.inf, 1e10, "x", 1e-12, [1]):
        refused = parse(
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": bad}]}, ""
        )
        assert not isinstance(refused, Conversation) and "weight is neither 0 nor a number from 1e-09" in refused.detail
    other = parse(
        {"messages": [{"role": "user", "content": "a", "weight": 2}, {"role": "assistant", "content": "b"}]}, ""
    )
    assert not isinstance(other, Conversation) and other.reason == "loss on another's turn"
    data = ConversationDataModule(config, encoder)
    data.setup()
    pieces = [data.train[i] for i in range(len(data.train)) if data.train[i].id.startswith("c5")]
    replies = []
    for piece in pieces:  # c5 is longer than the context
        starts = np.flatnonzero(np.diff(piece.supervised.astype(int), prepend=0) == 1)
        replies += piece.counted[starts].tolist()
        assert (piece.counted[~piece.supervised] == 1).all()
    assert replies == [t.weight for t in talks()[5].turns if t.role == "assistant" and t.supervised]
    again = ConversationDataModule(config, encoder)  # out of the cache
    again.setup()
    assert fingerprint(again.train, again.plan) == fingerprint(data.train, data.plan)
    ours, theirs = again.train.total_weights, data.train.total_weights
    assert ours is not None
    assert theirs is not None
    assert np.array_equal(ours, theirs)


def test_a_reply_that_is_a_thought_and_a_call_keeps_one_weight(made):
    _, encoder, _ = made
    turns = (Turn("user", "a"), Turn("assistant", "<think>\nx\n</think>\n\nb", weight=2.0))
    (example,) = encoder.encode([Conversation("x", turns)])
    assert set(example.counted[example.supervised]) == {2.0}
