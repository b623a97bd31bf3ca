"""Several sources as one set: tokenised and counted each for itself, held out alike under every mixture."""

import json
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vicuna_lit.config.compose import ConfigError, load
from vicuna_lit.data import source as source_module
from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.data.plan import ExampleLengths, plan_run
from vicuna_lit.data.source import Sources
from vicuna_lit.data.token_cache import TokenCache
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.estimate.lengths import sizes_of
from vicuna_lit.paths import MissingPath
from vicuna_lit.records.conversation import DataError
from vicuna_lit.train.resume import input_hashes

TINY = (
    "experiment=quickstart", "data=mixture", "wandb.mode=disabled", "samples.questions=[]", "context_length=128",
    "data.validation_fraction=0.3",
)  # fmt: skip


def record(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"You said {text}"}]}


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("\n".join(json.dumps(record(text)) for text in texts))
    return path


@pytest.fixture
def sources(tmp_path, monkeypatch) -> dict[str, Path]:
    monkeypatch.setenv("VICUNA_LIT_CACHE", str(tmp_path / "cache"))
    return {
        "code": write(tmp_path / "code.jsonl", [f"Write function {n}." for n in range(60)]),
        "chat": write(tmp_path / "chat.jsonl", [f"Tell me about {n}, please, at some length." for n in range(30)]),
    }


def mixture(sources: dict[str, Path], kind: str, *amounts: float) -> str:
    each = [f"{{path: '{path}', name: {name}, {kind}: {amount}}}"
            for (name, path), amount in zip(sources.items(), amounts, strict=True)]  # fmt: skip
    return f"data.sources=[{', '.join(each)}]"


def module(*overrides: str) -> ConversationDataModule:
    config = load("train", *TINY, *overrides)
    data = ConversationDataModule(config, make_encoder(config))
    data.setup()
    return data


def texts(data: ConversationDataModule, examples: Any) -> list[str]:
    return [data.encoder.decode(examples[i].input_ids.tolist()) for i in range(len(examples))]


@pytest.mark.promise("The validation set is the same under every mixture")
def test_the_validation_set_is_the_same_under_every_mixture(sources):
    found = [module(mixture(sources, "weight", *shares)) for shares in ((1, 1), (9, 1), (0, 1))]
    found += [module(mixture(sources, "epochs", 2, 0.5), "data.shares=supervised_tokens")]
    held_out = [texts(data, data.validation) for data in found]
    assert len(held_out[0]) > 15
    assert all(one == held_out[0] for one in held_out)
    trained = [{data.train.source_of(i) for step in data.plan.step_examples for i in step} for data in found]
    assert trained == [{0, 1}, {0, 1}, {1}, {0, 1}]
    held, kept = set(held_out[0]), set(texts(found[0], found[0].train))
    assert not held & kept
    assert len(held) + len(kept) == 90


def test_a_mixture_of_whole_sources_is_the_run_on_one_file_with_all_of_them(sources, tmp_path):
    both = tmp_path / "both.jsonl"
    both.write_text("\n".join(path.read_text() for path in sources.values()))
    one, several = module("data=files", f"data.path={both}", "data.validation_fraction=0.3"), None
    for order in ("shuffled", "by_length"):
        one = module("data=files", f"data.path={both}", "data.validation_fraction=0.3", f"order={order}")
        several = module(mixture(sources, "epochs", 1, 1), f"order={order}")
        assert tuple(several.plan.rows) == tuple(one.plan.rows)
        assert texts(several, several.train) == texts(one, one.train)
        assert (several.train.records == one.train.records).all()


def test_each_source_is_cached_for_itself_whatever_the_mixture(sources, monkeypatch):
    made, build = [], TokenCache._made
    monkeypatch.setattr(TokenCache, "_made", lambda self, *a: made.append(a[1]["files"]) or build(self, *a))
    module(mixture(sources, "weight", 1, 1))
    assert [list(files) for files in made] == [["code.jsonl"], ["chat.jsonl"]] * 2
    module(mixture(sources, "weight", 5, 1), "data.shares=supervised_tokens", "order=by_source")
    module("data=files", f"data.path={sources['code']}", "data.validation_fraction=0.3", "data.max_validation=512")
    assert len(made) == 4


def test_a_joined_view_copies_nothing_and_numbers_conversations_apart(sources):
    data = module(mixture(sources, "weight", 1, 1))
    code, chat = data.train.parts.values()
    assert len(data.train) == len(code) + len(chat)
    assert (data.train.lengths == [*code.lengths, *chat.lengths]).all()
    assert (data.train.supervised == [*code.supervised, *chat.supervised]).all()
    assert list(data.train.sources) == [data.train.source_of(i) for i in range(len(data.train))]
    assert len(np.unique(data.train.records)) == len(data.train)
    last = len(data.train) - 1
    assert np.shares_memory(data.train[last].input_ids, chat.input_ids)
    assert data.train.id_of(0) == f"code/{code.ids[0]}"
    assert data.train.id_of(last) == f"chat/{chat.ids[len(chat) - 1]}"
    for wrong in (-1, last + 1):
        with pytest.raises(IndexError):
            data.train[wrong]


def test_each_source_has_its_own_account_and_what_was_drawn_of_it(sources):
    sources["code"].write_text(sources["code"].read_text() + '\n{"broken": 1}')
    data = module(mixture(sources, "conversations", 10, 60))
    found = data.statistics()
    code, chat = (found["train"]["sources"][name] for name in ("code", "chat"))
    assert code["rejected_by_reason"] == {"unknown record format": 1}
    assert chat["rejected_by_reason"] == {}
    assert found["train"]["rejected_by_reason"] == {"unknown record format": 1}
    for key in ("records_in", "records_kept", "tokens", "supervised_tokens", "examples"):
        assert found["train"][key] == code[key] + chat[key]
    passes = data.plan.epochs
    assert (code["drawn"]["in_one_pass"], chat["drawn"]["in_one_pass"]) == (10, 60)
    assert (code["drawn"]["examples"], chat["drawn"]["examples"]) == (10 * passes, 60 * passes)
    assert code["drawn"]["tokens"] + chat["drawn"]["tokens"] == data.plan.step_tokens.sum()
    assert code["drawn"]["share_of_supervised_tokens"] + chat["drawn"]["share_of_supervised_tokens"] == pytest.approx(1)
    assert set(found["validation"]["sources"]) == {"code", "chat"}


def test_the_files_of_all_sources_are_part_of_what_a_run_is(sources):
    config = load("train", *TINY, mixture(sources, "weight", 1, 1))
    before = input_hashes(config)
    assert {str(path) for path in sources.values()} <= before.keys()
    write(sources["chat"], ["Something else."])
    changed = {name for name, digest in input_hashes(config).items() if digest != before[name]}
    assert changed == {str(sources["chat"])}
    assert set(Sources(config).files) == {"sources/code/code.jsonl", "sources/chat/chat.jsonl"}


def test_a_validation_file_is_for_all_sources(sources, tmp_path):
    held = write(tmp_path / "held.jsonl", ["Hello.", "Goodbye."])
    data = module(mixture(sources, "weight", 1, 1), f"data.validation_path={held}", "data.validation_fraction=0")
    assert (len(data.train), len(data.validation)) == (90, 2)
    assert data.config.data.validated_sources == ()
    assert set(data.source.files) == {"sources/code/code.jsonl", "sources/chat/chat.jsonl", "validation/held.jsonl"}


def test_each_source_has_its_own_columns(sources, tmp_path):
    """Here two answers of one file; a validation file has none of them, and says by its keys what it is."""
    lines = [json.dumps({"q": f"What is {n}?", "long": f"It is {n}.", "short": f"{n}."}) for n in range(20)]
    (file := tmp_path / "both.jsonl").write_text("\n".join(lines))
    held = write(tmp_path / "held.jsonl", ["Hello."])
    both = ", ".join(
        f"{{path: {file}, name: {name}, weight: 1, columns: {{prompt: q, response: {name}}}}}"
        for name in ("long", "short")
    )
    data = module(f"data.sources=[{both}]", f"data.validation_path={held}", "data.validation_fraction=0")
    found = texts(data, data.train)
    assert ("It is 7." in found[7], "It is 7." in found[27], len(found)) == (True, False, 40)
    assert len(data.validation) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("epochs: 1e300", "one pass would hold 2.9e[+]301 conversations"),
        (f"conversations: {10**30}", "one pass would hold 1e[+]30"),
    ],
)
def test_a_pass_that_is_too_long_is_said(sources, given, said):
    with pytest.raises(DataError, match=said):
        module(f"data.sources=[{{path: {sources['code']}, name: a, {given}}}]", "data.validation_fraction=0.5")


def test_the_estimate_counts_the_mixture_and_plans_it_alike(sources):
    data = module(mixture(sources, "weight", 1, 3))
    settings = [o for o in TINY if not o.startswith("experiment")]
    config = load("estimate", "experiment=quickstart", *settings, mixture(sources, "weight", 1, 3))
    known = sizes_of(config)
    assert known.conversations == len(data.train)
    assert plan_run(config, known.sizes, 1).step_examples == data.plan.step_examples
    more = load("estimate", "experiment=quickstart", *settings, mixture(sources, "weight", 1, 3), "conversations=500")
    as_if = sizes_of(more)
    assert (as_if.conversations, len(np.unique(as_if.sizes.records))) == (500, 500)
    shares = np.bincount(as_if.sizes.sources) / 500
    assert abs(shares - np.bincount(known.sizes.sources) / known.conversations).max() < 0.002, "each in proportion"
    assert plan_run(more, as_if.sizes, 1).steps > plan_run(config, known.sizes, 1).steps


A, B = "path: a.jsonl, name: a", "path: b.jsonl, name: b"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((f"[{{{A}, weight: 0}}, {{{B}, weight: 0}}]",), "data.sources: weight is 0 for all of them"),
        ((f"[{{{A}, weight: -1}}]",), "data.sources.0.weight=-1: input should be greater than or equal to 0"),
        ((f"[{{{A}, weight: 1, epochs: 1}}]",), "data.sources.0: a has weight and epochs; give one of"),
        ((f"[{{{A}}}]",), "data.sources.0: a has no share; give one of"),
        ((f"[{{{A}, weight: 1}}, {{{B}, epochs: 1}}]",), "data.sources: a has weight, b has epochs; give all of them"),
        ((f"[{{{A}, weight: 1}}, {{{A}, weight: 1}}]",), "data.sources: two are called a"),
        ((f"[{{{A}, weight: 1}}]", "data.path=c.jsonl"), "data.path=null, it is c.jsonl"),
        ((f"[{{{A}, conversations: 1.5}}]",), "data.sources.0.conversations=1.5: "),
        (("[{path: a.jsonl, name: a/b, weight: 1}]",), "data.sources.0.name: 'a/b' is no name"),
        (("[]",), "data.sources: there are none, and data.path is null"),
        ((f"[{{{A}, weight: 1}}]", "data.columns={messages: m}"), "a mixture has columns in its sources"),
        ((f"[{{{A}, weight: 1, columns: {{prompt: q}}}}]",), "data.sources.0.columns: prompt has no answer"),
        ((f"[{{{A}, weight: 1, columns: {{prompts: q}}}}]",), "did you mean prompt?"),
    ],
)
def test_a_mixture_that_does_not_fit_is_said_in_one_line(overrides, said):
    with pytest.raises(ConfigError) as error:
        load("train", *TINY, f"data.sources={overrides[0]}", *overrides[1:])
    assert len(error.value.problems) == 1
    assert said in error.value.problems[0]


def test_a_source_that_is_empty_or_all_held_out_is_said_by_name(sources):
    shares = mixture(sources, "weight", 1, 1)
    with pytest.raises(
        DataError, match=r"data.sources code: .*all of its conversations are held out; data.validation_f"
    ):
        module(shares, "data.validation_fraction=0.9999999")
    sources["chat"].write_text('{"broken": 1, "prompt": null}')
    said = r"data.sources chat: .*chat.jsonl: none of 1 records can be used: 1 × unknown.*nothing stands in 'prompt'"
    with pytest.raises(DataError, match=rf"{said}.*; in a mixture they stand in the source, as columns"):
        module(shares)
    assert len(module(mixture(sources, "weight", 1, 0)).train) > 30, "a share of 0 needs none"
    from vicuna_lit.hub import found

    sources["code"].unlink()
    with pytest.raises(MissingPath, match=r"^data.sources.0.path: .*code.jsonl: no such file or folder$"):
        found(load("train", *TINY, shares))


def test_phases_need_sources(sources):
    config = load("train", "experiment=quickstart", "order=by_source")
    ones = np.ones(4, np.int64)
    sizes = ExampleLengths(ones, ones, ones, ones - 1)
    with pytest.raises(DataError, match=r"order=by_source: data\.sources names none"):
        plan_run(config, sizes, 1)


def test_a_mixture_takes_its_sources_from_one_file_by_name(sources, tmp_path):
    """As `vicuna-prepare` writes several sources."""
    both = tmp_path / "both.jsonl"
    records = [
        {**json.loads(line), "source": name} for name, file in sources.items() for line in file.read_text().splitlines()
    ]
    both.write_text("\n".join(map(json.dumps, records)))
    each = [f"{{path: {both}, name: {name}, from_source: {name}, epochs: 1}}" for name in sources]
    mixed, apart = module(f"data.sources=[{', '.join(each)}]"), module(mixture(sources, "epochs", 1, 1))
    assert texts(mixed, mixed.train) == texts(apart, apart.train)
    assert texts(mixed, mixed.validation) == texts(apart, apart.validation)
    assert {name: account.records_in for name, account in mixed.reports.items()} == {
        name: account.records_in for name, account in apart.reports.items()
    }
    with pytest.raises(DataError, match=r"both.jsonl: no record to train on is of source prose \(from_source\)"):
        module(f"data.sources=[{{path: {both}, name: a, from_source: prose, weight: 1}}]")


def test_by_score_goes_by_a_number_of_each_record(sources, tmp_path):
    file = tmp_path / "scored.jsonl"
    records = [json.loads(line) for line in sources["code"].read_text().splitlines()]
    scores = [(7 * i) % 10 - 4.5 for i in range(len(records))]

    def write_scored(values: list) -> None:
        file.write_text("\n".join(json.dumps({**r, "quality": v}) for r, v in zip(records, values, strict=True)))

    write_scored(scores)
    given = (f"data.sources=[{{path: {file}, name: code, epochs: 1}}]", "data.score_field=quality", "order=by_score")
    data = module(*given, "trainer.epochs=1", "trainer.max_steps=null")
    found = [data.train.scores[list(step)] for step in data.plan.step_examples]
    assert len(found) > 3
    assert all(a.max() <= b.min() for a, b in pairwise(found))
    for bad, said in {"high": "'high' is no number", True: "True is no number", None: "is missing"}.items():
        write_scored([*scores[:9], bad, *scores[10:]])
        with pytest.raises(DataError, match=rf"record scored\.jsonl:10: quality {said}; data\.score_field=quality"):
            module(*given)
    with pytest.raises(ConfigError, match=r"^order: by_score goes by .*data\.score_field=<its key>$"):
        load("train", *TINY, "order=by_score", *given[:1])


@pytest.mark.promise("The jobs of a sweep tokenise each source once")
def test_a_sweep_of_24_jobs_tokenises_each_source_once(sources, monkeypatch):
    real, asked = source_module.tokenised, []
    monkeypatch.setattr(source_module, "tokenised", lambda *given: (asked.append(given), real(*given))[1])
    config = load("train", *TINY, mixture(sources, "weight", 1, 1))
    encoder, plans = make_encoder(config), set()
    units, orders = ("example", "conversation"), ("shuffled", "by_source")
    for weight, seed, unit, order in product((0.0, 1.0, 4.0), (0, 1), units, orders):
        code, chat = config.data.sources
        own = config.data.model_copy(update={"sources": (code.model_copy(update={"weight": weight}), chat)})
        job = config.model_copy(update={"seed": seed, "step_unit": unit, "order": order, "data": own})
        data = ConversationDataModule(job, encoder)
        data.setup()
        plans.add(data.plan.step_examples)
    assert len(plans) == 10, "a source of weight 0 leaves its order out; no conversation is cut"
    assert len(asked) == 4, "either source's training and held-out conversations"
