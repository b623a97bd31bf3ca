"""`review=`: the sample of each rule's hits, the answers of a person, and the figures on the card."""

import json
from pathlib import Path

import pytest

from vicuna_lit import load
from vicuna_lit.cli.review import review
from vicuna_lit.prepare import run
from vicuna_lit.prepare.hits import hits
from vicuna_lit.prepare.review import read_items
from vicuna_lit.prepare.steps import steps
from vicuna_lit.records.conversation import Conversation, DataError, Turn, write_jsonl

GOOD = "This is a perfectly good answer, which nobody would want to take away from anyone."
FILES = ("train.jsonl", "validation.jsonl", "rejected.jsonl")


def config(raw: Path, folder: Path, most: int | None):
    return load("prepare", f"raw={raw}", f"run.dir={folder}", "workers=1", f"review={'null' if most is None else most}")


@pytest.fixture
def raw(tmp_path) -> Path:
    talks = []
    for i in range(12):
        talks += [
            Conversation.of(f"Who are you, {i}?", f"I am an AI language model, number {i}.", id=f"i{i}"),
            Conversation.of(f"Mail {i}? Share Prompt", f"Write to ada{i}@mail.org. {GOOD}", id=f"m{i}"),
            Conversation.of(f"A story of {i}?", f"<b>{i}</b> {GOOD * 5}", id=f"s{i}"),
            Conversation.of(f"A story of {i}?", f"<b>{i}</b> {GOOD * 5}", id=f"t{i}"),
        ]
    path = tmp_path / "raw.jsonl"
    write_jsonl(talks, path)
    return path


def answers(*said: str):
    left = iter(said)

    def ask(question: str) -> str:
        assert "y(es)" in question
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return ask


def test_a_person_judges_a_sample_and_the_card_says_how_often_each_rule_is_right(raw, tmp_path, capsys, monkeypatch):
    folder, plain = tmp_path / "out", tmp_path / "plain"
    run.prepare_data(config(raw, folder, 3))
    run.prepare_data(config(raw, plain, None))
    assert all((folder / name).read_bytes() == (plain / name).read_bytes() for name in FILES)
    items = read_items(folder)
    rules = {"tidy: share button", "personal data: email", "filters: identity", "dedup: duplicate text"}
    assert rules == {item.rule for item in items}
    assert len(items) == 3 * len(rules)
    assert any("⟦ada" in item.text and "⟧" in item.text for item in items)
    assert any("Share Prompt⟧" in item.text for item in items)
    assert all("The other is equal." in item.text for item in items if item.rule == "dedup: duplicate text")

    # Stopped, gone on with, answered in the file, and made larger: nothing that is judged is lost.
    first = review(folder, answers("y", "what?", "no", "skip", "q"))
    assert "out/review.jsonl" in capsys.readouterr().out
    judged = [item for item in read_items(folder) if item.verdict]
    assert [item.verdict for item in judged] == ["y", "n", "skip"]
    assert next((f.hits, f.judged, f.right, f.skipped) for f in first) == (12, 2, 1, 1)
    lines = [json.loads(line) for line in (folder / "review.jsonl").read_text().splitlines()]
    (folder / "review.jsonl").write_text(
        "".join(json.dumps(x | {"verdict": x["verdict"] or "y"}) + "\n" for x in lines)
    )
    monkeypatch.setattr(run, "MOST_RECORDS", 7)  # other shards, the same sample
    run.prepare_data(config(raw, folder, 5))
    more = read_items(folder)
    assert {i.key for i in items} < {i.key for i in more}
    assert len(more) == 5 * len(rules)
    assert sum(item.verdict is not None for item in more) == len(items)
    card, manifest = (folder / "card.html").read_text(), json.loads((folder / "manifest.json").read_text())
    assert sum(f["right"] for f in manifest["review"]["rules"].values()) == len(items) - 2
    assert "100%" in card
    assert "95% interval" in card
    assert "ada" not in card.split("<!-- review -->")[1].split("<!-- /review -->")[0]
    assert not (folder / "review").exists()

    (folder / "review.jsonl").write_text((folder / "review.jsonl").read_text().replace('"skip"', '"maybe"'))
    with pytest.raises(DataError, match=r"review\.jsonl, line \d+: verdict is 'maybe'; y, n, skip or null"):
        run.prepare_data(config(raw, folder, 5))


def test_each_rule_has_its_hits_and_a_cut_turn_has_no_further_ones():
    settings = load("prepare", "raw=x", "filters.replies.hedge.scope=sentence", "language.drop=[de]")
    talk = Conversation.of(
        "A?", f"{GOOD} As of my knowledge cutoff in 2021, it is so.", "B?", "I'm sorry, but I cannot.", "C?", "", id="x"
    )
    found, left = hits(talk, settings, steps(settings))
    assert [(hit.rule, hit.turn) for hit in found] == [("filters: hedge", 1), ("filters: refusal", 3)]
    assert isinstance(left, Conversation)
    assert "⟦As of my" in found[0].text or "knowledge" in found[0].text
    german = Conversation.of("Wie geht es dir heute?", "Mir geht es gut, danke, und ich hoffe, dir auch.", id="y")
    found, left = hits(german, settings, steps(settings))
    assert [hit.rule for hit in found] == ["language: language"]
    assert "assistant: Mir geht" in found[0].text
    turns = (Turn("assistant", "Hello!"), Turn("user", "B?"), Turn("assistant", GOOD), Turn("user", "C?"))
    # What is cut is shown, at the beginning and at the end.
    for talk, gone in ((turns, (0, "assistant: Hello!\nuser: C?")), (turns[1:], (2, "user: C?"))):
        found, left = hits(Conversation("z", talk), settings, steps(settings))
        assert isinstance(left, Conversation)
        assert [(hit.rule, hit.turn, hit.text) for hit in found] == [("roles: turns cut", *gone)]
