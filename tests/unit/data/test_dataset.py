"""From records to examples: nothing is lost without being counted."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.encoders import encoder_of
from tests.helpers.examples import examples
from tests.helpers.runs import SHARED
from vicuna_lit.data.dataset import build_dataset, what_to_do
from vicuna_lit.data.encoder import Example
from vicuna_lit.data.mixture import total
from vicuna_lit.data.splitting import TOO_LONG, split
from vicuna_lit.records.conversation import Conversation, Rejection, Turn
from vicuna_lit.records.readers import read

ENCODER = encoder_of("quickstart", "vicuna_v1")
words = st.integers(0, 60).map(lambda n: " ".join(["word"] * n))


@settings(max_examples=examples(80), deadline=None)
@given(
    contents=st.lists(words, min_size=2, max_size=16).map(lambda t: t[: len(t) // 2 * 2]),
    system=st.none() | words,
    context=st.integers(60, 400),
)
@pytest.mark.promise("Every reply is supervised once, or counted")
def test_every_reply_is_supervised_exactly_once_or_counted(contents, system, context):
    contents = [f"{i} {text}" for i, text in enumerate(contents)]
    conversation = Conversation.of(*contents, id="x", system=system)
    (parts,) = split([conversation], ENCODER, context)
    assert sum(p.exchanges for p in parts) == len(contents) // 2
    supervised = []
    for part in parts:
        if isinstance(part.result, Rejection):
            assert part.result.reason == TOO_LONG
            assert part.exchanges == 1
            continue
        assert len(part.result[0].input_ids) <= context
        text = ENCODER.decode(part.result[0].input_ids)
        if system is not None:
            assert text.startswith(f"<s>{system} USER: ")
        supervised.append(ENCODER.decode(part.result[0].input_ids[part.result[0].supervised]))
    kept = "".join(supervised)
    replies = [f" {c}</s>" for c in contents[1::2]]
    assert [r for r in replies if r in kept] == [r for r in replies if kept.count(r) == 1]
    rejected = sum(isinstance(p.result, Rejection) for p in parts)
    assert sum(kept.count(r) for r in replies) == len(replies) - rejected


def test_a_whole_conversation_that_fits_is_one_piece_and_others_are_cut_greedily():
    conversation = Conversation.of(*["word " * 20] * 8, id="x")
    whole = ENCODER.encode([conversation])[0]
    assert isinstance(whole, Example)
    (one,) = split([conversation], ENCODER, len(whole.input_ids))
    assert len(one) == 1
    (cut,) = split([conversation], ENCODER, len(whole.input_ids) - 1)
    assert [p.exchanges for p in cut] == [3, 1]
    assert [p.result[0].id for p in cut if isinstance(p.result, list)] == ["x", "x_6"]


def exchanges_of(turns: Iterable[Turn]) -> list[tuple[Turn, ...]]:
    pairs = iter(turn for turn in turns if turn.role != "system")
    return list(zip(pairs, pairs, strict=True))


@settings(max_examples=examples(200), deadline=None)
@given(
    contents=st.lists(words, min_size=2, max_size=20).map(lambda t: t[: len(t) // 2 * 2]),
    system=st.none() | words,
    context=st.integers(60, 400),
    carried=st.integers(0, 4),
    muted=st.sets(st.integers(0, 9)),
)
def test_carried_exchanges_are_context_and_nothing_is_supervised_twice(contents, system, context, carried, muted):
    contents = [f"{i} {text}" for i, text in enumerate(contents)]
    whole = Conversation.of(*contents, id="x", system=system)
    turns = [
        replace(t, supervised=(i - len(whole.turns) % 2) // 2 not in muted) if t.role == "assistant" else t
        for i, t in enumerate(whole.turns)
    ]
    (parts,) = split([replace(whole, turns=tuple(turns))], ENCODER, context, carried)
    placed, previous, supervised = [], [], []
    for part in parts:
        shown = exchanges_of(part.piece.turns)
        old, new = shown[: len(shown) - part.exchanges], shown[len(shown) - part.exchanges :]
        assert len(old) <= carried
        before = previous[len(previous) - len(old) :]
        assert old == [(q, replace(a, supervised=False)) for q, a in before]
        assert (part.piece.turns[0] == Turn("system", system or "")) == (system is not None)
        fit = len(previous) > len(old) < carried
        if fit and isinstance(part.result, list):
            more = [t for e in (*previous[len(previous) - len(old) - 1 :], new[0]) for t in e]
            longer = ENCODER.encode([Conversation("x", tuple(t for t in (*whole.turns[: len(turns) % 2], *more)))])[0]
            assert isinstance(longer, Example)
            assert len(longer.input_ids) > context
        placed += new
        previous = [] if isinstance(part.result, Rejection) else shown
        if isinstance(part.result, Rejection):
            assert part.result.reason in (TOO_LONG, "no supervised token")
            assert part.exchanges == 1 or part.result.reason != TOO_LONG
            continue
        assert len(part.result[0].input_ids) <= context
        assert part.result[0].input_ids.tolist() == ENCODER.encode([part.piece])[0].input_ids.tolist()  # pyright: ignore[reportAttributeAccessIssue]
        supervised += [ENCODER.decode(part.result[0].input_ids[part.result[0].supervised])]
        assert supervised[-1] == "".join(f" {a.content}</s>" for _, a in new if a.supervised)
    assert placed == exchanges_of(turns)


def test_a_long_conversation_carries_what_fits():
    conversation = Conversation.of(*["word " * 20] * 20, id="x")
    whole = ENCODER.encode([conversation])[0]
    assert isinstance(whole, Example)
    context = len(whole.input_ids) // 2
    counts = {}
    for carried in (0, 1, 3, 10**6):
        (parts,) = split([conversation], ENCODER, context, carried)
        assert sum(p.exchanges for p in parts) == 10
        counts[carried] = [(len(exchanges_of(p.piece.turns)) - p.exchanges, p.exchanges) for p in parts]
    assert counts[0][1:] != counts[1][1:]
    assert all(carried == 1 for carried, _ in counts[1][1:])
    assert all(carried == 3 for carried, _ in counts[3][1:])
    assert all(new == 1 for _, new in counts[10**6][1:])


def test_nothing_is_carried_over_a_gap():
    two = ENCODER.encode([Conversation.of(*["word " * 20] * 4)])[0]
    assert isinstance(two, Example)
    conversation = Conversation.of("a", "b", "c", "word " * 500, *["word " * 20] * 6, id="x")
    (parts,) = split([conversation], ENCODER, len(two.input_ids), carried=2)
    assert [p.exchanges for p in parts] == [1, 1, 2, 1]
    assert [isinstance(p.result, Rejection) for p in parts] == [False, True, False, False]
    assert [len(exchanges_of(p.piece.turns)) for p in parts] == [1, 1, 2, 2]
    assert [p.piece.id for p in parts] == ["x", "x_2", "x_4", "x_8"]


def test_a_tool_call_is_never_cut_from_its_result():
    encoder = encoder_of("byte_level", "chatml")
    turns = [("user", "q"), ("assistant", "call"), ("tool", "42"), ("assistant", "It is 42.")] * 3
    conversation = Conversation("x", tuple(Turn(role, text) for role, text in turns))  # pyright: ignore[reportArgumentType]
    whole = encoder.encode([conversation])[0]
    assert isinstance(whole, Example)
    (parts,) = split([conversation], encoder, len(whole.input_ids) // 2)
    for part in parts:
        assert isinstance(part.result, list)
        text = encoder.decode(part.result[0].input_ids)
        assert text.startswith("<|im_start|>user")
        assert text.count("user") == text.count("tool")


def test_accounting_of_a_mixed_lot():
    good = Conversation.of("hi", "hello", id="good")
    long = Conversation.of("hi", "word " * 500, id="long")
    half = Conversation.of("hi", "hello", "hi", "word " * 500, id="half")
    odd = Conversation("odd", (Turn("user", "a"), Turn("user", "b"), Turn("assistant", "c")))
    tail = Conversation.of("hi", "hello", "more?", id="tail")
    broken = Rejection("broken", "broken JSON")
    examples, account = build_dataset([good, long, half, odd, tail, broken], ENCODER, 100)
    assert [*examples.ids] == ["good", "half", "tail"]
    assert (account.records_in, account.records_kept, account.records_rejected) == (6, 3, 3)
    assert account.rejected_by_reason == {TOO_LONG: 1, "roles do not alternate": 1, "broken JSON": 1}
    assert (examples.records.tolist(), examples.refused.tolist(), account.records_numbered) == ([1, 3, 4], [2], 4)
    assert account.exchanges_rejected_by_reason == {TOO_LONG: 1}
    assert (account.turns_cut, account.exchanges_kept) == (1, 3)
    account.first_rejections.reverse()
    assert "context_length=<more>" in str(account.nothing_left("a.json"))
    for _ in range(6):
        account.reject(broken)
    account.reject(broken._replace(reason="unknown role"))  # the first of each reason is kept, however late it comes
    assert [r.reason for r in total([account, account]).first_rejections].count("unknown role") == 1
    assert total([account]).first_rejections[-1].reason == "unknown role"
    tools = Rejection("t", "template refuses it", "template vicuna_v1 has no tool turn")
    assert "template=hermes" in what_to_do(tools)
    assert what_to_do(broken) == ""
    assert examples.supervised.tolist() == [int(examples[i].supervised.sum()) for i in range(3)]
    silent = Conversation.of("hi", "", "hi", " \u200b", "hi", "hello", id="silent").say("user", "").say("assistant", "")
    muted = replace(silent, turns=(*silent.turns[:-1], replace(silent.turns[-1], supervised=False)))
    assert [build_dataset([one], ENCODER, 100)[1].empty_replies for one in (silent, muted, good)] == [3, 2, 0]


FILES = sorted((SHARED / "conversations").glob("*.json*")) + sorted((SHARED / "alpaca").glob("*.json"))


PAIRS = ("llama vicuna_v1", "smollm2_chatml chatml", "mistral_v1 mistral")
QUICK = {"sharegpt_v3_random_a.json": PAIRS[0], "chatgpt_export_ab.json": PAIRS[1], "alpaca_en_demo_ab.json": PAIRS[2]}
"""Of each kind of file one, each template once; the others are slow tests."""


@pytest.mark.parametrize(
    ("pair", "path"),
    [
        pytest.param(pair, path, marks=[pytest.mark.slow] * (QUICK.get(path.name) != pair), id=f"{pair}-{path.name}")
        for pair in PAIRS
        for path in FILES
        if "tags" not in path.name
    ],
)
@pytest.mark.promise("Every record is an example or a rejection with its reason, on all the real data")
def test_real_data_adds_up(path, pair):
    encoder = encoder_of(*pair.split())
    examples, account = build_dataset(read(path), encoder, 2048)
    assert account.records_in == account.records_kept + account.records_rejected > 0
    assert len(examples) == 0 or examples.lengths.max() <= 2048
    assert (examples.supervised > 0).all()
    for example in map(examples.__getitem__, range(len(examples))):
        assert not example.supervised[0]
    unexplained = {"token straddles the mask", "text cannot be decoded", "generation prompt is not a prefix"}
    assert sum(account.rejected_by_reason[r] for r in unexplained) <= 0.01 * account.records_in


def test_what_the_loss_is_taken_on():
    """Of a conversation that is cut in two pieces: [first, second] and [third]."""
    conversation = Conversation.of("one", "first", "two", "second", "three", "word " * 50, id="x", system="Be brief.")
    decode = lambda e: ENCODER.decode(e.input_ids[e.supervised])  # noqa: E731
    made = {}
    for how in ("assistant_messages", "last_assistant_message", "all_tokens", "single_turns"):
        examples, account = build_dataset([conversation], ENCODER, 75, train_on=how)
        assert account.exchanges_kept == 3
        assert examples.records.tolist() == [1] * len(examples)
        made[how] = [examples[i] for i in range(len(examples))]
    words = "word " * 50
    assert [decode(e) for e in made["assistant_messages"]] == [" first</s> second</s>", f" {words}</s>"]
    assert [decode(e) for e in made["last_assistant_message"]] == [" second</s>", f" {words}</s>"]
    assert [decode(e) for e in made["single_turns"]] == [" first</s>", " second</s>", f" {words}</s>"]
    for single, question in zip(made["single_turns"], ("one", "two", "three"), strict=True):
        text = ENCODER.decode(single.input_ids)
        assert text.startswith(f"<s>Be brief. USER: {question} ASSISTANT:")
        assert text.count("USER") == 1
    for everything, replies in zip(made["all_tokens"], made["assistant_messages"], strict=True):
        assert (everything.input_ids == replies.input_ids).all()
        assert everything.supervised.tolist() == [False] + [True] * (len(replies.input_ids) - 1)


def test_a_reply_with_weight_0_is_never_the_last_one():
    turns = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d", supervised=False))
    examples, _ = build_dataset([Conversation("x", turns)], ENCODER, 80, train_on="last_assistant_message")
    assert ENCODER.decode(examples[0].input_ids[examples[0].supervised]) == " b</s>"
