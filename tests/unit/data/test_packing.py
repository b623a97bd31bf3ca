"""The step plan is a pure function; these are its promises."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna_lit.config.compose import load
from vicuna_lit.data.order import Shares
from vicuna_lit.data.plan import Plan, Refused, plan_steps
from vicuna_lit.data.planned import PlannedData
from vicuna_lit.records.conversation import DataError

lengths_strategy = st.lists(st.integers(2, 500), min_size=1, max_size=80)


@given(
    lengths=lengths_strategy,
    per_step=st.integers(1, 40),
    room=st.integers(500, 3000),
    world=st.integers(1, 5),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
    packing=st.booleans(),
)
@pytest.mark.promise("The plan: every conversation once per epoch; the same steps for any world size and memory")
def test_promises(lengths, per_step, room, world, epochs, seed, packing):
    supervised = [n // 2 for n in lengths]
    common = {"conversations_per_step": per_step, "seed": seed, "epochs": epochs}
    plan = plan_steps(lengths, supervised, tokens_per_device=room, world_size=world, packing=packing, **common)

    stream = Counter(c for step in plan.step_examples for c in step)
    assert stream == Counter(dict.fromkeys(range(len(lengths)), epochs))
    assert plan.steps == -(-len(lengths) * epochs // per_step)
    for step in plan.rows:
        assert len(step) == world
        for rank in step:
            assert len(rank) == plan.accumulation
            for row in rank:
                assert sum(lengths[c] for c in row) <= room
                assert packing or len(row) <= 1

    single = plan_steps(lengths, supervised, tokens_per_device=500, **common)
    assert plan.step_examples == single.step_examples
    assert (plan.step_supervised == single.step_supervised).all()
    assert [plan.examples_hash(s) for s in range(plan.steps)] == [single.examples_hash(s) for s in range(plan.steps)]


@given(lengths=lengths_strategy, per_step=st.integers(1, 40), seed=st.integers(0, 5))
@pytest.mark.promise("The plan: every conversation once per epoch; the same steps for any world size and memory")
def test_every_epoch_holds_every_conversation_once(lengths, per_step, seed):
    plan = plan_steps(lengths, lengths, conversations_per_step=per_step, tokens_per_device=500, seed=seed, epochs=2)
    again = plan_steps(lengths, lengths, conversations_per_step=per_step, tokens_per_device=500, seed=seed, epochs=2)
    assert tuple(plan.rows) == tuple(again.rows)
    first = plan_steps(lengths, lengths, conversations_per_step=per_step, tokens_per_device=500, seed=seed, epochs=1)
    whole = len(lengths) // per_step
    assert plan.step_examples[:whole] == first.step_examples[:whole]


def of_many(packing: bool) -> Plan:
    random = np.random.default_rng(7)
    lengths = random.integers(2, 500, 3000)
    groups = np.repeat(np.arange(3000), random.integers(1, 5, 3000))[:3000]
    common = {"conversations_per_step": 37, "tokens_per_device": 1200, "world_size": 3, "seed": 5, "epochs": 1.7}
    mixed = {"sources": groups * 3 // (groups[-1] + 1), "order": "by_length"}
    shares = Shares("weight", (0.5, 0.2, 0.3), "supervised_tokens")
    return plan_steps(lengths, lengths // 2, groups=groups, shares=shares, packing=packing, **common, **mixed)


@pytest.mark.parametrize(("packing", "hash"), [(True, "2586a194d4d7c96e"), (False, "eed81ff0a2b62890")])
def test_a_plan_stays_what_it_was(packing, hash):
    """The hashes are those of nested tuples, before the rows lay in arrays."""
    assert hashlib.sha256(repr(tuple(of_many(packing).rows)).encode()).hexdigest()[:16] == hash


def test_a_plan_holds_few_bytes_for_each_time_that_an_example_is_drawn():
    plan = of_many(packing=True)
    drawn, rows = len(plan.rows.order), plan.steps * plan.world_size * plan.accumulation
    arrays = [value for part in (plan, plan.rows) for value in vars(part).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) <= 8 * len(plan.lengths) + 4 * drawn + 8 * rows + 100
    assert not [value for value in vars(plan.rows).values() if isinstance(value, list | tuple | dict)]
    assert tuple(plan.rows[3:5]) == (plan.rows[3], plan.rows[4])
    assert plan.rows.row(3, 2, 1) == plan.rows[3][2][1]
    with pytest.raises(IndexError):
        plan.rows[plan.steps]
    with pytest.raises(ValueError, match="follow one another"):
        plan.rows[::2]


def test_max_steps_overrides_epochs_and_seeds_differ():
    make = lambda **k: plan_steps([10] * 30, [5] * 30, conversations_per_step=4, tokens_per_device=40, **k)  # noqa: E731
    assert make(max_steps=50, epochs=1).steps == 50
    assert make(max_steps=2, epochs=9).steps == 2
    assert make(seed=1).step_examples != make(seed=2).step_examples


def test_a_conversation_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="conversation 1 has 99 tokens"):
        plan_steps([5, 99], [1, 1], conversations_per_step=2, tokens_per_device=50)
    with pytest.raises(ValueError, match="no conversation"):
        plan_steps([], [], conversations_per_step=2, tokens_per_device=50)
    with pytest.raises(ValueError, match="one behind the other"):
        plan_steps([5] * 3, [1] * 3, conversations_per_step=2, tokens_per_device=50, groups=np.array([1, 2, 1]))


@pytest.mark.parametrize("world", [2, 4, 8])
@pytest.mark.promise("Ranks are within 5% of the mean cost of a step")
def test_ranks_cost_the_same_within_5_percent_on_real_lengths(shared, world):
    records = [
        r for half in "ab" for r in json.loads((shared / f"conversations/sharegpt_v3_random_{half}.json").read_text())
    ]
    characters = np.array([sum(len(t["value"]) for t in r["conversations"]) for r in records])
    lengths = np.clip(characters // 4, 8, 2048)
    plan = plan_steps(lengths, lengths, conversations_per_step=128, tokens_per_device=8192, world_size=world)
    for step in range(plan.steps - 1):
        costs = plan.rank_costs(step)
        assert costs.max() <= 1.05 * costs.mean()


@given(
    pieces=st.lists(st.lists(st.integers(2, 500), min_size=1, max_size=6), min_size=1, max_size=20),
    per_step=st.integers(1, 6),
    seed=st.integers(0, 5),
)
def test_pieces_of_one_conversation_share_a_step(pieces, per_step, seed):
    """And which conversations a step holds does not depend on how many pieces they were cut into."""
    lengths = [n for conversation in pieces for n in conversation]
    groups = np.repeat(np.arange(len(pieces)) * 3 + 7, [len(c) for c in pieces])
    common = {"conversations_per_step": per_step, "tokens_per_device": 3000, "seed": seed, "epochs": 2}
    cut = plan_steps(lengths, lengths, groups=groups, **common)
    whole = plan_steps([sum(c) for c in pieces], [1] * len(pieces), **common)
    assert cut.steps == whole.steps
    assert cut.epochs == whole.epochs
    for a, b in zip(cut.step_examples, whole.step_examples, strict=True):
        assert sorted(groups[list(a)]) == sorted(i * 3 + 7 for c in b for i in [c] * len(pieces[c]))
    alone = plan_steps(lengths, lengths, groups=np.arange(len(lengths)), **common)
    assert tuple(alone.rows) == tuple(plan_steps(lengths, lengths, **common).rows)


@given(
    kept=st.lists(st.booleans(), min_size=1, max_size=40).filter(any),
    per_step=st.integers(1, 6),
    order=st.sampled_from(["shuffled", "by_score"]),
    epochs=st.sampled_from([0.6, 1, 2.3]),
)
@pytest.mark.promise(
    "Where steps count conversations, those that a setting refuses change nothing of the others' steps"
)
def test_what_is_refused_leaves_the_company_of_the_others_alone(kept, per_step, order, epochs):
    kept, count = np.array(kept), len(kept)
    scores = np.random.default_rng(1).permutation(count).astype(float)
    common = {"conversations_per_step": per_step, "tokens_per_device": 500, "order": order, "epochs": epochs}
    whole = plan_steps([9] * count, [5] * count, groups=np.arange(count), scores=scores, **common)
    there, gone = np.flatnonzero(kept), np.flatnonzero(~kept)
    left = [[i for i in step if kept[i]] for step in whole.step_examples]
    few = {"groups": there, "scores": scores[kept], "refused": Refused(gone, scores[gone])}
    if not any(left):
        with pytest.raises(DataError, match="not one conversation of these steps fits"):
            plan_steps([9] * len(there), [5] * len(there), **few, **common)
        return
    cut = plan_steps([9] * len(there), [5] * len(there), **few, **common)
    assert [[int(there[i]) for i in step] for step in cut.step_examples] == [step for step in left if step]
    assert cut.left_out == tuple(i for i, step in enumerate(left) if not step)
    assert cut.epochs == whole.epochs
    places = [i for i, step in enumerate(left) if step]
    for done in range(1, cut.steps + 1):  # so that a run which extends this one begins behind it
        assert places[done - 1] * per_step < cut.taken(done, per_step) <= whole.taken(places[done - 1] + 1, per_step)


@pytest.mark.promise(
    "Where steps count conversations, those that a setting refuses change nothing of the others' steps"
)
def test_a_shorter_context_and_another_template_leave_the_steps_their_conversations(tmp_path):
    """Of the first so many, none comes in the place of one that is refused."""
    records = [f"What is {i}?" for i in range(30)]
    long: dict[int, str] = {i: "word " * 200 for i in (3, 7, 8, 20)}  # noqa: C420  (its type)
    turns = [
        [{"from": "human", "value": q}, {"from": "gpt", "value": long.get(i, "A number.")}]
        for i, q in enumerate(records)
    ]
    turns[12] += [
        {"from": "tool", "value": "42"},
        {"from": "gpt", "value": "So it is."},
    ]  # which vicuna_v1 has no place for
    file = tmp_path / "records.jsonl"
    file.write_text("\n".join(json.dumps({"id": f"r{i}", "conversations": t}) for i, t in enumerate(turns)))
    common = ("data=files", f"data.path={file}", "data.validation_fraction=0", "conversations_per_step=3")
    marks = "model.add_tokens=['<|im_start|>','<|im_end|>']"

    def steps(*settings: str) -> list[set[str]]:
        data = PlannedData(load("train", *common, "trainer.epochs=2", *settings))
        data.read()
        assert not data.plan.left_out
        return [{data.train.id_of(i) for i in step} for step in data.plan.step_examples]

    whole = ("step_unit=conversation", "data.max_conversations=21", "template=hermes", marks)
    for kept in ("token_cache_gb=1", "token_cache_gb=1"):  # made, and found
        all_of_them = steps(*whole, kept)
        assert len(all_of_them) == 14 and set.union(*all_of_them) == {f"r{i}" for i in range(21)}
        assert steps(*whole, kept, "context_length=150") == [step - {"r3", "r7", "r8", "r20"} for step in all_of_them]
        assert steps(*whole, kept, "template=vicuna_v1") == [step - {"r12"} for step in all_of_them]
    pieces = steps("data.max_conversations=21", "context_length=150")  # what fits is counted
    assert [len(step) for step in pieces] == [3] * 14
