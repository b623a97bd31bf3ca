"""Tokenised conversations are kept once, found by all that decides them, and never wrong."""

import json
import multiprocessing
import os
import re
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import commands
from tests.helpers.runs import COMMON, QUICKSTART
from vicuna_lit.config.base import DataConfig
from vicuna_lit.config.compose import load
from vicuna_lit.config.train import TokensRecipe
from vicuna_lit.data import source, token_cache
from vicuna_lit.data.dataset import DataReport, Examples, Ids, build_dataset
from vicuna_lit.data.encoder import Example
from vicuna_lit.data.source import ConversationFiles
from vicuna_lit.data.token_cache import ABOUT, Build, TokenCache
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.records.conversation import DataError, Rejection

COUNT = 30


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VICUNA_LIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def data(tmp_path) -> Path:
    lines = (QUICKSTART / "conversations.jsonl").read_text().splitlines()[:COUNT]
    file = tmp_path / "mine" / "data.jsonl"
    file.parent.mkdir()
    file.write_text("\n".join([*lines, '{"broken": 1}']))
    return file


def asked(data: Path, *overrides: str, validation: bool = False) -> tuple[Examples, DataReport]:
    own = [o for o in COMMON if not o.startswith(("data.path", "context_length"))]
    config = load("train", *own, "context_length=512", f"data.path={data}", "data.validation_fraction=0.3", *overrides)
    return ConversationFiles(config).examples(make_encoder(config), validation)


def same(a: Examples, b: Examples) -> bool:
    names = ("input_ids", "supervised_mask", "offsets", "records")
    return list(a.ids) == list(b.ids) and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)


def mapped(examples: Examples) -> bool:
    owner = examples.input_ids
    while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
        owner = owner.base
    return isinstance(owner, np.memmap)


@pytest.mark.parametrize("validation", [False, True])
def test_what_is_found_is_what_was_made(data, validation, monkeypatch):
    in_memory, account = asked(data, "token_cache_gb=0", validation=validation)
    assert not mapped(in_memory)
    made, of_made = asked(data, validation=validation)
    monkeypatch.setattr(source, "tokenised", None)
    found, of_found = asked(data, validation=validation)
    assert mapped(found)
    assert same(in_memory, made)
    assert same(in_memory, found)
    assert account == of_made == of_found
    assert account.rejected_by_reason == (Counter() if validation else Counter({"unknown record format": 1}))
    assert isinstance(of_found.rejected_by_reason, Counter)
    assert all(isinstance(one, Rejection) for one in of_found.first_rejections)


OTHERS = (
    "context_length=100", "train_on=last_assistant_message", "template=alpaca", "system_prompt=Hello.",
    "data.validation_fraction=0.4", "data.max_conversations=5",
)  # fmt: skip


@pytest.mark.parametrize("other", OTHERS)
def test_whatever_decides_the_tokens_makes_another_entry(data, other):
    before, _ = asked(data)
    after, _ = asked(data, other)
    fresh, _ = asked(data, other, "token_cache_gb=0")
    assert same(after, fresh)
    assert not same(after, before)
    assert len(TokenCache(1e9).entries()) == 2


EACH = {
    "context_length": "context_length=100",
    "train_on": "train_on=last_assistant_message",
    "train_on_reasoning": "train_on_reasoning=false",
    "train_on_placeholders": "train_on_placeholders=false",
    "system_prompt": "system_prompt=Hello.",
    "data": "data.columns={prompt: a, response: b}",
    "template": "template=alpaca",
    "template_date": "template_date=2026-01-02",
}
"""Another value of each key that decides the tokens."""


def test_each_key_that_decides_the_tokens_stands_in_an_entrys_name(data, monkeypatch):
    """`data` and its keys as they are, or else a new key would find the tokens of another value."""
    assert set(EACH) == set(TokensRecipe.model_fields)
    asked_for: list[Any] = []

    def examples(self: TokenCache, about: Mapping[str, Any], build: Build) -> tuple[Examples, DataReport]:
        asked_for.append(about)
        return Examples.of(()), DataReport()

    monkeypatch.setattr(TokenCache, "examples", examples)
    added = "model.add_tokens=['<|start_header_id|>','<|end_header_id|>','<|eot_id|>']"
    asked(data, "template=llama3_2", added)  # it writes the day into its system turn
    for key, other in EACH.items():
        asked(data, "template=llama3_2", added, other)
        assert asked_for[-1] != asked_for[0], key
    assert set(asked_for[0]["read_as"]) == set(DataConfig.model_fields) - {"sources", "shares"} | {"prepared"}


def test_another_text_in_the_same_file_is_tokenised_anew(data):
    """Same size, same time."""
    before, _ = asked(data)
    stat, text = data.stat(), data.read_text()
    data.write_text(text.replace(" you ", " 9 8 "))
    os.utime(data, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not same(asked(data)[0], before)
    data.write_text(text)
    assert same(asked(data)[0], before)


def test_the_files_are_read_once_for_both_sides(data, monkeypatch):
    """As two readings give them; where the held-out ones are many, or a file has changed since, it is read again."""
    read, reads = source.read, []
    monkeypatch.setattr(source, "read", lambda *given: (reads.append(given), read(*given))[1])
    overrides = [o for o in COMMON if not o.startswith(("data.path", "data.max", "data.val"))]
    config = load("train", *overrides, f"data.path={data}", "data.validation_fraction=0.3", "token_cache_gb=0")
    encoder = make_encoder(config)

    def sides(changed: bool = False) -> list[tuple[Examples, DataReport]]:
        files = ConversationFiles(config)
        train = files.examples(encoder, False)
        if changed:
            data.write_text(data.read_text() + "\n[1]")
        return [train, files.examples(encoder, True)]

    apart = [ConversationFiles(config).examples(encoder, side) for side in (False, True)]
    assert len(apart[1][0]) > 3
    reads.clear()
    for (found, account), (other, its) in zip(sides(), apart, strict=True):
        assert same(found, other)
        assert account == its
    assert len(reads) == 1
    assert same(sides(changed=True)[1][0], apart[1][0])
    assert len(reads) == 3
    monkeypatch.setattr(source, "MOST_HELD_OUT", 10)
    assert same(sides()[1][0], apart[1][0])
    assert len(reads) == 5


def test_other_code_makes_another_entry(data, monkeypatch):
    asked(data)
    monkeypatch.setattr(token_cache, "made_by", lambda: {"vicuna_lit.data": "changed"})
    asked(data)
    assert len(TokenCache(1e9).entries()) == 2


def test_a_file_that_changes_while_it_is_read_is_refused_and_nothing_is_kept(data, monkeypatch):
    real = source.tokenised

    def slow(*args):
        yield from real(*args)
        data.write_text(data.read_text() + "\n{}")

    monkeypatch.setattr(source, "tokenised", slow)
    with pytest.raises(DataError, match="a file has changed while it was read"):
        asked(data)
    assert TokenCache(1e9).entries() == []


@pytest.mark.parametrize("name", [*token_cache.ARRAYS, ABOUT])
@pytest.mark.parametrize("damage", ["flipped", *(pytest.param(x, marks=pytest.mark.slow) for x in ("cut", "gone"))])
def test_a_broken_entry_is_made_anew(data, name, damage, cache):
    made, account = asked(data)
    (file,) = cache.glob(f"[!.]*/{name}")
    content = file.read_bytes()
    made_before = [np.array(made.input_ids), list(made.ids)]
    del made
    file.unlink()
    match damage:
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case "flipped":
            file.write_bytes(bytes([content[0] ^ 1]) + content[1:] if content else b"x")
        case _:
            pass
    found, again = asked(data)
    assert np.array_equal(found.input_ids, made_before[0])
    assert (list(found.ids), again) == (made_before[1], account)
    assert [e.folder for e in TokenCache(1e9).entries()] == [file.parent]


def _ask(data: Path, place: str, counts) -> None:
    os.environ["VICUNA_LIT_CACHE"] = place
    real = source.tokenised

    def counted(*args):
        counts.put(1)
        yield from real(*args)

    source.tokenised = counted
    examples, _ = asked(data)
    counts.put(int(examples.input_ids.sum()) + 2)


def test_of_processes_that_come_together_one_tokenises(data, tmp_path):
    context = multiprocessing.get_context("fork")
    counts = context.Queue()
    make_encoder(load("train"))  # imported before the fork
    processes = [context.Process(target=_ask, args=(data, str(tmp_path / "shared"), counts)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [counts.get(timeout=120) for _ in range(4)]
    for process in processes:
        process.join()
    assert found.count(1) == 1
    assert len(set(found)) == 2


def test_a_process_that_was_killed_leaves_nothing_in_the_way(data, cache):
    made, _ = asked(data)
    (entry,) = cache.iterdir()
    part = cache / f".{entry.name}.part"
    entry.rename(part)
    (part / ABOUT).unlink()
    (cache / f".{entry.name}").mkdir()
    (cache / f".{entry.name}" / ".lock").touch()
    assert same(asked(data)[0], made)
    assert [place.name for place in cache.iterdir()] == [entry.name]
    old = cache / ".other.part"
    old.mkdir()
    os.utime(old, (0, 0))
    asked(data, "context_length=256")
    assert not old.exists()


def test_what_was_used_longest_ago_goes_first_and_stays_readable(data, cache):
    first, _ = asked(data)
    (oldest,) = cache.iterdir()
    size = TokenCache(1e9).entries()[0].bytes
    os.utime(oldest / ABOUT, (1, 1))
    asked(data, "context_length=256", f"token_cache_gb={1.5 * size / 1e9}")
    assert len(TokenCache(1e9).entries()) == 1
    assert not oldest.exists()
    assert same(first, asked(data, "token_cache_gb=0")[0])
    (newer,) = cache.iterdir()
    os.utime(newer / ABOUT, (4e9, 4e9))  # by a clock that went wrong: such an entry would never be the oldest
    asked(data, f"token_cache_gb={1.5 * size / 1e9}")
    assert not newer.exists()
    alone, _ = asked(data, "context_length=300", "token_cache_gb=1e-9")
    assert TokenCache(1e9).entries() == []
    assert same(alone, asked(data, "context_length=300", "token_cache_gb=0")[0])


def test_a_cache_that_cannot_be_written_is_one_line(data, tmp_path, monkeypatch, capsys):
    (tmp_path / "a_file").write_text("")
    monkeypatch.setenv("VICUNA_LIT_CACHE", str(tmp_path / "a_file"))
    examples, account = asked(data)
    assert not mapped(examples)
    assert same(examples, asked(data, "token_cache_gb=0")[0])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("tokens    not kept (")
    assert account.records_kept == len(set(examples.records))


def test_a_cache_that_can_only_be_read_is_read(data, monkeypatch):
    asked(data)

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(source, "tokenised", None)
    assert mapped(asked(data)[0])


def test_a_full_disk_is_one_line(data, monkeypatch, capsys, cache):
    def full(folder, examples):
        next(iter(examples))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_cache, "_write", full)
    examples, account = asked(data)
    said = capsys.readouterr().err
    assert re.fullmatch(r"tokens    not kept \(No space left on device: \S+\): held in memory\n", said)
    assert account.records_in == account.records_kept + account.records_rejected
    assert same(examples, asked(data, "token_cache_gb=0")[0])
    assert not any(cache.glob("*"))


def test_an_empty_set_is_kept_too(data, monkeypatch):
    asked(data, "data.validation_fraction=0", validation=True)
    monkeypatch.setattr(source, "tokenised", None)
    examples, account = asked(data, "data.validation_fraction=0", validation=True)
    assert (len(examples), account.records_in) == (0, 0)


def test_ids_of_any_characters_come_back():
    ids = ["", "a", "ü€𝄞", "\ud800", "a\nb"]
    examples = Examples.of((i, Example(id, np.ones(1, np.int32), np.ones(1, bool))) for i, id in enumerate(ids))
    assert list(examples.ids) == ids
    assert examples.ids[-1] == ids[-1]
    assert examples.ids[1:3] == ids[1:3]
    with pytest.raises(IndexError):
        examples.ids[5]


def test_the_command_shows_and_clears(data, tmp_path, cache):
    asked(data)
    asked(data, validation=True)
    shown = commands.run("vicuna_lit.data.token_cache", fresh=True)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "2 sets" in shown.stdout.splitlines()[0]
    assert "data.jsonl" in shown.stdout
    assert {"training", "validation"} <= set(shown.stdout.split())
    assert token_cache.main(["--clear"]) == 0
    assert not cache.exists()
    assert token_cache.main(["--what"]) == 2


def test_the_account_is_json(data):
    _, account = asked(data)
    assert DataReport.of_json(json.loads(json.dumps(account.to_json()))) == account
    shutil.rmtree(data.parent)


def test_supervised_tokens_are_counted_without_copies():
    encoder = make_encoder(load("train"))
    from vicuna_lit.records.readers import read

    examples, _ = build_dataset(read(QUICKSTART / "validation.jsonl"), encoder, 256)
    assert examples.supervised.tolist() == [
        int(e.supervised.sum()) for e in map(examples.__getitem__, range(len(examples)))
    ]
    mask, offsets = np.ones(8_000_000, bool), np.arange(0, 8_000_001, 1000)
    many = replace(examples, ids=Ids.of([""] * 8000), supervised_mask=mask, offsets=offsets)
    tracemalloc.start()
    assert many.supervised.sum() == len(mask)
    assert tracemalloc.get_traced_memory()[1] < len(mask), "numpy's reduceat alone takes eight bytes a token"
    tracemalloc.stop()
