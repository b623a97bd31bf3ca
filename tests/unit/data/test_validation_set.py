"""What is held out: by content, said where it is none or little, and the same whatever becomes of the rest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers import commands
from vicuna_lit.config.compose import load
from vicuna_lit.data.source import ConversationFiles
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.prepare import shards
from vicuna_lit.records.conversation import Conversation, is_validation
from vicuna_lit.records.readers import read
from vicuna_lit.train.notes import _more_held_out
from vicuna_lit.train.run import fit

TINY = (
    "experiment=quickstart", "wandb.mode=disabled", "samples.questions=[]", "trainer.max_steps=2", "context_length=128",
    "model.architecture={hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2, "
    "num_key_value_heads: 2}",
)  # fmt: skip


def records(count: int = 60) -> list[dict]:
    """Without ids."""
    return [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n}!"}]}
        for n in range(count)
    ]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def held_out(path: Path, fraction: float = 0.3) -> set[str]:
    found = [c for c in read(path) if isinstance(c, Conversation)]
    return {c.turns[0].content for c in found if is_validation(c.split_key, fraction)}


def test_another_file_name_a_deleted_line_or_another_answer_moves_nobody(tmp_path):
    before = held_out(write(tmp_path / "a.jsonl", records()))
    assert 8 < len(before) < 30
    assert held_out(write(tmp_path / "b.jsonl", records())) == before
    assert held_out(write(tmp_path / "c.jsonl", records()[1:])) == before - {"Say 0."}
    cleaned = records()
    for row in cleaned:
        row["messages"][1]["content"] += " (cleaned)"
        row["messages"].insert(0, {"role": "system", "content": "Be brief."})
    assert held_out_of(cleaned, tmp_path) == before
    sharegpt = [{"conversations": [{"from": "human", "value": f"Say {n}."}, {"from": "gpt", "value": "?"}]}
                for n in range(60)]  # fmt: skip
    assert held_out(write(tmp_path / "d.jsonl", sharegpt)) == before


def held_out_of(rows: list[dict], tmp_path: Path) -> set[str]:
    found = [c for c in read(write(tmp_path / "cleaned.jsonl", rows)) if isinstance(c, Conversation)]
    return {c.turns[1].content for c in found if is_validation(c.split_key, 0.3)}


def test_the_train_job_splits_by_content(tmp_path):
    kept = []
    for name, rows in {"a": records(), "b": records()[3:]}.items():
        data = write(tmp_path / f"{name}.jsonl", rows)
        config = load("train", *TINY, f"data={data}", "data.validation_fraction=0.3")
        encoder = make_encoder(config)
        found, _ = ConversationFiles(config).examples(encoder, validation=True)
        kept.append({encoder.decode(found[i].input_ids.tolist()) for i in range(len(found))})
    assert kept[1] <= kept[0]
    assert len(kept[0]) - len(kept[1]) <= 3


def test_an_id_of_its_own_still_decides(tmp_path):
    rows = [row | {"id": f"number {n}"} for n, row in enumerate(records())]
    found = [c for c in read(write(tmp_path / "a.jsonl", rows)) if isinstance(c, Conversation)]
    assert [c.split_key for c in found] == [c.id for c in found]


def test_what_decides_goes_through_the_stages_of_prepare():
    """Cleaning changes the texts; the key is that of the raw record."""
    for conversation in (Conversation.of("a", "b"), replace(Conversation.of("a", "b"), tools="[]")):
        for said in ("", "0123"):
            whole = replace(conversation, said=said)
            again = shards.from_json(json.loads(json.dumps(shards.to_json(whole))))
            assert (again, again.said, again.tools) == (whole, said, whole.tools)


@pytest.mark.parametrize(
    ("fraction", "note"),
    [
        ("0", "no conversation is held out, so there is no validation loss; data.validation_fraction=0.5 (now 0)"),
        ("0.05", "conversations are held out, too few for a validation loss that tells two runs apart; data."),
    ],
)
def test_no_or_few_held_out_conversations_are_said_on_the_screen_in_the_result_and_in_the_report(
    fraction, note, tmp_path
):
    data = write(tmp_path / "data.jsonl", records())
    given = [*TINY, f"data={data}", f"data.validation_fraction={fraction}", f"run.dir={tmp_path / 'run'}"]
    done = commands.run("vicuna_lit.train", *given)
    assert done.returncode == 0, done.stderr
    assert note in " ".join(done.stdout.split())
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert any(note in one for one in result["notes"])
    assert note in (tmp_path / "run/report.html").read_text()


def test_what_is_advised_is_more_than_what_is_set():
    def advice(fraction: float, held_out: int, others: int) -> str:
        config = load("train", "data=files", "data.path=mine.jsonl", f"data.validation_fraction={fraction}")
        return _more_held_out(config, held_out, others, None)

    few = "data.validation_fraction=0.2 (now 0.01) holds out about 8: a loss, but no share of 40 tells two runs apart"
    assert advice(0.01, 0, 40) == f"{few}; data.validation_path=<file> names more"
    assert advice(0.05, 9, 191).startswith("data.validation_fraction=0.17 (now 0.05) holds out about 34, or")
    assert advice(0.01, 0, 1) == "of 1 in all no share is enough; data.validation_path=<file> names others"
    assert advice(0.3, 7, 33) == "of 40 in all no share is enough; data.validation_path=<file> names others"
    assert advice(0.15, 19, 181).startswith("data.validation_fraction=0.19 (now 0.15) holds out about")
    for count in (60, 100, 1000):
        share = float(advice(0.0, 0, count).split()[0].partition("=")[2])
        held_out = [sum(is_validation(f"{way} {i}", share) for i in range(count)) for way in range(100)]
        assert share <= 0.5 and sum(found >= 20 for found in held_out) >= 98, "what is advised is enough"


def test_the_quickstart_has_nothing_to_note(tmp_path):
    assert fit(load("train", *TINY, f"run.dir={tmp_path / 'run'}")).notes == []
