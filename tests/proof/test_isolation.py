"""Conversations in one row never see each other; and the test sees it when they do."""

from collections.abc import Callable

import pytest
import torch

from tests.helpers.encoders import encoder_for, tokenizer_named
from vicuna_lit.config.compose import load
from vicuna_lit.data.batch import Batch, collate
from vicuna_lit.data.dataset import Examples
from vicuna_lit.data.encoder import Example
from vicuna_lit.models.attention import RowLayout, attend, use
from vicuna_lit.models.causal_lm import SupervisedLM, build_model
from vicuna_lit.models.loss import token_losses
from vicuna_lit.records.conversation import Conversation

Losses = Callable[[Batch], torch.Tensor]


@pytest.fixture(scope="module")
def lm() -> SupervisedLM:
    torch.manual_seed(0)
    encoder = encoder_for(tokenizer_named("quickstart"), "vicuna_v1")
    return SupervisedLM(build_model(load("train", "model.architecture.num_key_value_heads=1"), encoder)).eval()


@pytest.fixture(scope="module")
def rows() -> tuple[Batch, Batch, list[int]]:
    """Two rows that differ only in the tokens of the middle conversation."""
    encoder = encoder_for(tokenizer_named("quickstart"), "vicuna_v1")
    texts = [("My name is Ada.", "Nice to meet you, Ada."), ("Count.", "One, two."), ("Who am I?", "You are Ada.")]
    examples = [e for e in encoder.encode([Conversation.of(*t) for t in texts]) if isinstance(e, Example)]
    a = collate(Examples.of(enumerate(examples)), (0, 1, 2), 1)
    first, second, _ = a.lengths
    ids = a.input_ids.clone()
    ids[0, first : first + second] = ids[0, first : first + second].flip(0)
    b = Batch(ids, a.labels, a.position_ids, a.lengths, 1)
    return a, b, [int(e.supervised.sum()) for e in examples]


def isolated(losses: Losses, rows: tuple[Batch, Batch, list[int]]) -> bool:
    before, after, counts = rows
    (a0, a1, a2), (b0, b1, b2) = losses(before).split(counts), losses(after).split(counts)
    assert not torch.equal(a1, b1)
    return torch.equal(a0, b0) and torch.equal(a2, b2)


@pytest.mark.promise("Conversations in a row never see each other, to the bit")
def test_ours_is_isolated_to_the_bit(lm, rows):
    assert isolated(lm.token_losses, rows)


def plain(lm: SupervisedLM, implementation: str, **kwargs) -> Losses:
    """What others do: position ids that restart, through transformers' own attention."""

    def losses(batch: Batch) -> torch.Tensor:
        lm.model.set_attn_implementation(implementation)
        try:
            with torch.no_grad():
                extra = {k: v(batch) if callable(v) else v for k, v in kwargs.items()}
                out = lm.model.base_model(input_ids=batch.input_ids, position_ids=batch.position_ids, **extra)
        finally:
            use(lm.model, "sdpa_per_conversation")
        return token_losses(out.last_hidden_state[0, batch.predicting], lm.head, batch.targets)

    return losses


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.promise("The known ways to leak are detected")
def test_the_test_sees_every_known_leak(lm, rows, implementation):
    ones = lambda batch: torch.ones_like(batch.input_ids)  # noqa: E731
    assert not isolated(plain(lm, implementation, use_cache=True), rows)
    assert not isolated(plain(lm, implementation, use_cache=False, attention_mask=ones), rows)


def test_ours_equals_each_conversation_alone(lm, rows):
    batch, _, counts = rows
    packed = lm.token_losses(batch).split(counts)
    start = 0
    for n, together in zip(batch.lengths, packed, strict=True):
        alone = Batch(
            batch.input_ids[:, start : start + n],
            batch.labels[:, start : start + n],
            batch.position_ids[:, start : start + n],
            (n,),
            1,
        )
        torch.testing.assert_close(lm.token_losses(alone), together, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(plain(lm, "sdpa", use_cache=False)(alone), together, rtol=1e-5, atol=1e-6)
        start += n


@pytest.mark.promise("Conversations in a row never see each other, to the bit")
def test_no_gradient_crosses_either(lm, rows):
    batch, _, _ = rows
    first = batch.lengths[0]
    embeddings = lm.model.get_input_embeddings()(batch.input_ids).detach().requires_grad_()
    hidden = lm.model.base_model(
        inputs_embeds=embeddings,
        position_ids=batch.position_ids,
        use_cache=False,
        layout=RowLayout(batch.lengths, "cpu"),
    ).last_hidden_state
    hidden[0, :first].sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad[0, :first].abs().sum() > 0
    assert embeddings.grad[0, first:].abs().max() == 0


def test_attention_without_boundaries_is_an_error():
    q = torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match="needs the row's layout"):
        attend("sdpa_per_conversation", torch.nn.Identity(), q, q, q, None)  # pyright: ignore[reportCallIssue]
