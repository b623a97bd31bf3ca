"""The prepare job as a whole: the same bytes whoever does the work, and nothing lost on the way."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pytest

from tests.helpers import commands
from tests.helpers.runs import QUICKSTART
from vicuna_lit import load
from vicuna_lit.config.base import ConfigError
from vicuna_lit.data.encoder import Example
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.machine import MACHINE_FAULT
from vicuna_lit.prepare import executor as engine
from vicuna_lit.prepare import stages
from vicuna_lit.prepare.run import prepare_data
from vicuna_lit.records.conversation import Conversation, DataError, Turn, to_record, write_jsonl
from vicuna_lit.records.readers import read
from vicuna_lit.run_folder import RunError

OUTPUTS = ("train.jsonl", "validation.jsonl", "rejected.jsonl", "manifest.json", "card.html")


def config(raw, folder: Path, *overrides: str):
    return load("prepare", f"raw={raw}", f"run.dir={folder}", "validation_fraction=0.1", "workers=1", *overrides)


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def lines(path: Path) -> list:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def messy(count: int) -> list:
    """Records of every kind: HTML, e-mail addresses, copies, broken and refused ones."""
    random = np.random.default_rng(0)
    words = [f"word{i}" for i in range(3000)]
    out: list = []
    for i in range(count):
        answer = " ".join(random.choice(words, random.integers(20, 200)).tolist())
        record = to_record(Conversation.of(f"Question {i}?", answer, f"And {i}?", answer[::-1], id=f"c{i:04d}"))
        turns = record["conversations"]
        match i % 10:
            case 1:
                turns[1]["value"] = (
                    f'<div class="markdown prose"><p>{answer}</p><pre><code>  x\n\n\n  y</code></pre></div>'
                )
            case 2:
                turns[0]["value"] += " Write to ada@mail.org, (555) 123-4567."
            case 3:
                turns[3]["value"] = "Too many requests in 1 hour. Try again later."
            case 4:
                turns.pop()
            case 5:
                turns[1]["value"] = ""
            case 6:
                record = [1, 2] if i % 20 == 6 else {"id": 3, "conversations": "no"}
            case 7 if out:
                record = out[-7]
            case _:
                pass
        out.append(record)
    return out


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "dump.json"
    path.write_text(json.dumps(messy(1200))[:-40])  # cut off in the last record
    return path


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "one"
    prepare_data(config(raw, folder))
    return folder


def test_every_record_is_kept_or_rejected_with_its_reason(prepared):
    manifest = json.loads((prepared / "manifest.json").read_text())
    train, validation, rejected = (lines(prepared / name) for name in OUTPUTS[:3])
    assert manifest["records_in"] == 1200
    assert manifest["records_kept"] == len(train) + len(validation) == 1200 - len(rejected)
    assert manifest["rejected_by_reason"] == Counter(r["reason"] for r in rejected)
    assert manifest["records_rejected"] == sum(manifest["rejected_by_reason"].values()) == len(rejected)
    reasons = set(manifest["rejected_by_reason"])
    assert {"file cut off", "not an object", "wrong type", "empty turn", "duplicate text"} <= reasons
    assert all(r.keys() == {"record", "id", "step", "reason", "detail"} and r["detail"] for r in rejected)
    assert [int(r["record"].split(":")[1]) for r in rejected] == sorted(
        int(r["record"].split(":")[1]) for r in rejected
    )
    assert 0 < len(validation) < len(train)
    assert sum(manifest["histograms"]["languages"].values()) == manifest["records_kept"]
    before = 1200
    for step in manifest["steps"]:
        assert step["in"] == before
        assert step["in"] - step["kept"] == sum(step["rejected"].values())
        before = step["kept"]
    assert before == manifest["records_kept"]
    changes = {step["step"]: step["changes"] for step in manifest["steps"]}
    assert changes["personal_data"]["email"] == changes["personal_data"]["phone"] > 50
    assert changes["html"]["turns converted"] > 50
    kept = "".join(json.dumps(r) for r in train + validation)
    assert "ada@mail.org" not in kept
    assert "ada@mail.org" not in (prepared / "card.html").read_text()
    assert "```\\n  x\\n\\n\\n  y\\n```" in kept
    assert not (prepared / "work").exists()


def test_what_is_written_reads_back(prepared):
    for name in ("train.jsonl", "validation.jsonl"):
        assert all(isinstance(c, Conversation) for c in read(prepared / name))


@pytest.mark.promise(
    "prepare gives the same bytes with one worker or two, on Ray, after a stop at any stage and after a killed worker"
)
def test_the_number_of_workers_changes_no_byte(raw, prepared, tmp_path):
    prepare_data(config(raw, tmp_path / "two", "workers=2"))
    assert outputs(tmp_path / "two") == outputs(prepared)


@pytest.mark.slow
@pytest.mark.promise(
    "prepare gives the same bytes with one worker or two, on Ray, after a stop at any stage and after a killed worker"
)
def test_ray_changes_no_byte(raw, prepared, tmp_path):
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "vicuna_lit.prepare", f"raw={raw}", f"run.dir={tmp_path / 'ray'}"]
    subprocess.run([*command, "validation_fraction=0.1", "engine=ray", "workers=2"], check=True, timeout=300)
    assert outputs(tmp_path / "ray") == outputs(prepared)


def test_ray_is_asked_for_where_it_is_absent(raw, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"pip install 'vicuna_lit\[ray\]'"):
        prepare_data(config(raw, tmp_path / "out", "engine=ray"))


class Stop(Exception):
    pass


@pytest.mark.parametrize("write", [3, 31, *(pytest.param(n, marks=pytest.mark.slow) for n in (12, 19, 40, 44))])
@pytest.mark.promise(
    "prepare gives the same bytes with one worker or two, on Ray, after a stop at any stage and after a killed worker"
)
def test_a_stopped_job_goes_on_to_the_same_bytes(raw, prepared, tmp_path, monkeypatch, write):
    """Stopped just before one of its writes, at every stage; then the same command again."""
    count = 0
    whole = stages.shards.write

    def failing(path, lines):
        nonlocal count
        count += 1
        if count == write:
            raise Stop(path)
        whole(path, lines)

    folder = tmp_path / "out"
    monkeypatch.setattr(stages.shards, "write", failing)
    with pytest.raises(Stop):
        prepare_data(config(raw, folder))
    assert not (folder / "manifest.json").exists()
    monkeypatch.setattr(stages.shards, "write", whole)
    prepare_data(config(raw, folder))
    assert outputs(folder) == outputs(prepared)


def test_going_on_does_not_do_finished_shards_again(raw, tmp_path, monkeypatch):
    done = []
    whole = stages.clean

    def clean(job):
        done.append(job.shard)
        if len(done) == 4:
            raise Stop
        whole(job)

    monkeypatch.setattr("vicuna_lit.prepare.run.clean", clean)
    with pytest.raises(Stop):
        prepare_data(config(raw, tmp_path / "out"))
    prepare_data(config(raw, tmp_path / "out"))
    assert done == [0, 1, 2, 3, 3, 4]


def run(raw, folder, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ("vicuna_lit.prepare", f"raw={raw}", f"run.dir={folder}", "validation_fraction=0.1", *overrides)
    return commands.run(*command, timeout=120, env=os.environ | environment)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_ends_in_one_line_and_the_same_command_goes_on(raw, prepared, tmp_path, workers):
    command = [sys.executable, "-m", "vicuna_lit.prepare", f"raw={raw}", f"run.dir={tmp_path / 'out'}"]
    command += ["validation_fraction=0.1", f"workers={workers}", "moderation.enabled=true"]
    command += ["moderation.scorer=tests.helpers.scorers:wait"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # pytest in the background ignores it
    )  # fmt: skip
    while not list((tmp_path / "out").rglob("clean/00000.json")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1].startswith("stopped; the same command goes on")
    assert "Traceback" not in errors
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert (tmp_path / "out" / "train.jsonl").read_bytes() == (prepared / "train.jsonl").read_bytes()


@pytest.mark.promise(
    "prepare gives the same bytes with one worker or two, on Ray, after a stop at any stage and after a killed worker"
)
@pytest.mark.slow
def test_a_killed_worker_is_replaced(raw, tmp_path):
    scorer = ["moderation.enabled=true", "moderation.scorer=tests.helpers.scorers:kill_once", "workers=2"]
    killed = run(raw, tmp_path / "out", *scorer, VICUNA_TEST_MARK=str(tmp_path / "mark"))
    assert killed.returncode == 0, killed.stderr
    assert (tmp_path / "mark").exists()
    again = run(raw, tmp_path / "again", *scorer, VICUNA_TEST_MARK=str(tmp_path / "mark"))
    assert again.returncode == 0
    assert outputs(tmp_path / "out") == outputs(tmp_path / "again")


@pytest.mark.slow
def test_a_worker_that_dies_again_and_again_is_an_error_that_keeps_what_is_done(raw, tmp_path):
    died = run(
        raw,
        tmp_path / "out",
        "moderation.enabled=true",
        "moderation.scorer=tests.helpers.scorers:kill_always",
        "workers=2",
    )
    assert died.returncode == MACHINE_FAULT
    assert "error: a worker died 3 times" in died.stderr
    assert "shards left: 1;" in died.stderr
    assert len(list((tmp_path / "out" / "work" / "clean").glob("?????.json"))) == 4


def test_a_step_that_fails_costs_one_conversation(raw, tmp_path):
    prepare_data(
        config(raw, tmp_path / "out", "moderation.enabled=true", "moderation.scorer=tests.helpers.scorers:fail")
    )
    failed = [r for r in lines(tmp_path / "out" / "rejected.jsonl") if r["reason"] == "step failed"]
    assert [(r["id"], r["step"], r["detail"]) for r in failed] == [("c0702", "moderation", "RuntimeError: no")]


def test_the_same_command_finds_it_done_and_another_config_is_refused(raw, prepared, tmp_path):
    before = outputs(prepared)
    again = prepare_data(config(raw, prepared, "workers=2"))
    assert again.seconds == 0
    with pytest.raises(RunError, match=r"config\.dedup\.threshold: 0\.8 → 0\.5"):
        prepare_data(config(raw, prepared, "dedup.threshold=0.5"))
    other = tmp_path / "dump.json"
    other.write_text(json.dumps(messy(3)))
    with pytest.raises(RunError, match="inputs"):
        prepare_data(config(other, prepared))
    assert outputs(prepared) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="no run folder"):
        prepare_data(config(raw, tmp_path))


def test_a_change_in_one_of_two_inputs_of_one_name_is_seen(tmp_path):
    files = [tmp_path / name / "dump.json" for name in "ab"]
    for file in files:
        file.parent.mkdir()
        file.write_text(json.dumps(messy(5)))
    raw = f"[{files[0]},{files[1]}]"
    prepare_data(config(raw, tmp_path / "out"))
    files[0].write_text(json.dumps(messy(4)))
    with pytest.raises(RunError, match="0 dump"):
        prepare_data(config(raw, tmp_path / "out"))


def test_a_change_in_a_list_of_phrases_is_seen(tmp_path):
    raw, listed, folder = tmp_path / "raw.jsonl", tmp_path / "mine.txt", tmp_path / "out"
    write_jsonl(
        [Conversation.of(f"What is a {name}?", f"A {name} is a bird. " * 5, id=name) for name in ("heron", "kite")], raw
    )

    def prepared(folder: Path):
        own = (f"filters.texts.listed_phrase.texts=[{listed}]", "filters.texts.listed_phrase.scope=conversation")
        return prepare_data(config(raw, folder, *own)).manifest

    listed.write_text("a heron\n")
    assert prepared(folder)["files"].keys() >= {"phrases mine.txt"}
    assert "heron" in (folder / "rejected.jsonl").read_text()
    listed.write_text("a kite\n")
    with pytest.raises(RunError, match=r"files.phrases mine\.txt"):
        prepared(folder)
    prepared(tmp_path / "other")  # in this process, which has read the list as it was
    assert "kite" in (tmp_path / "other" / "rejected.jsonl").read_text()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["phrases mine.txt"]  # as an earlier version wrote it
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert prepared(folder) == manifest


def test_unfinished_work_of_another_config_is_discarded(raw, prepared, tmp_path, monkeypatch):
    def stop(job):
        raise Stop

    monkeypatch.setattr("vicuna_lit.prepare.run.cut", stop)
    with pytest.raises(Stop):
        prepare_data(config(raw, tmp_path / "out", "personal_data.enabled=false"))
    monkeypatch.undo()
    prepare_data(config(raw, tmp_path / "out"))
    assert outputs(tmp_path / "out") == outputs(prepared)


def test_bad_input_is_said_before_anything_is_written(raw, tmp_path):
    folder = tmp_path / "out"
    for overrides, message in {
        ("tokenizer=/nothing/here",): "no such file",
        ("decontamination.questions=[/nothing.jsonl]",): "no such file",
        (f"decontamination.questions=['{raw}']",): "not a question",
    }.items():
        with pytest.raises(ValueError, match=message):
            prepare_data(config(raw, folder, *overrides))
    with pytest.raises(DataError, match="no such file"):
        prepare_data(config(tmp_path / "missing.json", folder))
    with pytest.raises(RunError, match="lies inside raw"):
        prepare_data(config(raw.parent, raw.parent))
    assert not (folder / "manifest.json").exists()


@pytest.mark.slow
def test_a_disk_that_fills_ends_in_one_message_and_the_work_goes_on_later(raw, prepared, tmp_path):
    """A limit on the size of files stands for the full disk: the write fails in the same place."""
    code = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000));"
        f"sys.argv = ['prepare', 'raw={raw}', 'run.dir={tmp_path / 'out'}', 'validation_fraction=0.1', 'workers=1'];"
        "runpy.run_module('vicuna_lit.prepare', run_name='__main__')"
    )
    full = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert full.returncode == MACHINE_FAULT, full.stderr
    assert full.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "File too large" in full.stderr
    assert {place.name for place in (tmp_path / "out").rglob(".*")} <= {".hydra"}
    prepare_data(config(raw, tmp_path / "out"))
    assert outputs(tmp_path / "out") == outputs(prepared)


def test_files_of_many_kinds_in_a_folder_or_a_pattern(tmp_path):
    folder = tmp_path / "raw"
    (folder / "deep").mkdir(parents=True)
    records = [json.dumps(r) for r in messy(30)]
    (folder / "a.json").write_text("[" + ",".join(records[:10]) + "]")
    (folder / "deep" / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(records[10:20]).encode()))
    (folder / "c.jsonl").write_text("\n".join(records[20:]))
    whole = tmp_path / "whole.jsonl"
    whole.write_text("\n".join([*records[:10], *records[20:], *records[10:20]]))
    for i, raw in enumerate(
        [folder, f"{folder}/**/*.json*", f"[{folder}/a.json,{folder}/c.jsonl,{folder}/deep]", whole]
    ):
        prepare_data(config(raw, tmp_path / f"out{i}"))
    first, *others = [outputs(tmp_path / f"out{i}")["train.jsonl"] for i in range(4)]
    assert all(other == first for other in others)


def test_adding_data_moves_no_conversation_between_the_sets(tmp_path):
    records = [{k: v for k, v in r.items() if k != "id"} for r in messy(300) if isinstance(r, dict)]  # ids from content
    held = []
    for name, part in {"some": records[100:], "all": records}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
        prepare_data(config(tmp_path / f"{name}.json", tmp_path / name))
        held.append({r["id"] for r in lines(tmp_path / name / "validation.jsonl")})
        assert not held[-1] & {r["id"] for r in lines(tmp_path / name / "train.jsonl")}
    assert held[0]
    assert held[0] < held[1] | held[0]


def conversations(folder: Path) -> list[Conversation]:
    found = [c for name in ("train", "validation") for c in read(folder / f"{name}.jsonl")]
    assert all(isinstance(c, Conversation) for c in found)
    return [c for c in found if isinstance(c, Conversation)]


def test_pieces_are_cut_after_the_split_and_each_answer_is_kept_once(tmp_path):
    text, longer = (" ".join(f"word{i}" for i in range(n)) for n in (30, 2000))
    talks = [
        Conversation.of(*(f"{i} {k} {text}" for k in range(24)), id=f"s{i:06d}", system="Be brief.") for i in range(40)
    ]
    talks.append(Conversation.of("Too long?", longer, "Short?", "Yes, this one is short enough.", id="long"))
    write_jsonl(talks, tmp_path / "talks.jsonl")
    tokenizer = [f"tokenizer={QUICKSTART / 'tokenizer'}", "context_length=512", "dedup.enabled=false"]
    c = config(tmp_path / "talks.jsonl", tmp_path / "out", *tokenizer)
    manifest = prepare_data(c).manifest
    sides = [{r["id"][:7] for r in lines(tmp_path / "out" / f"{name}.jsonl")} for name in ("train", "validation")]
    assert sides[1]
    assert not sides[0] & sides[1]
    pieces = conversations(tmp_path / "out")
    lengths = [len(e.input_ids) for e in make_encoder(c).encode(pieces) if isinstance(e, Example)]
    assert len(lengths) == len(pieces)
    assert max(lengths) <= 512
    assert sum(manifest["sets"][name]["tokens"] for name in ("train", "validation")) == sum(lengths)
    answers = Counter(t.content for p in pieces for t in p.turns if t.role == "assistant")
    assert set(answers.values()) == {1}
    assert len(answers) == 40 * 12 + 1
    assert all(p.turns[0] == Turn("system", "Be brief.") for p in pieces if p.id != "long_2")
    assert manifest["steps"][-1]["changes"]["exchanges dropped: longer than the context"] == 1

    prepare_data(config(tmp_path / "talks.jsonl", tmp_path / "carried", *tokenizer, "cut.carried_exchanges=1"))
    turns = [t for p in conversations(tmp_path / "carried") for t in p.turns]
    assert Counter(t.content for t in turns if t.role == "assistant" and t.supervised) == answers
    assert any(not t.supervised for t in turns)


def test_the_rules_of_fastchat(tmp_path):
    good = ["How are you?", "Very well, thank you.", "And now?", "Still well."]
    talks = {
        "kept": good,
        "named by the user": ["Are you ChatGPT?", "No, not at all."],
        "shorter": ["hi", "hello"],
        "broken list": ["List!", "\n1. one\n1. one again"],
        "same beginning": [*good[:2], "Something else?", "No."],
        "cut at the empty turn": [
            "What is the time?",
            "Ten past nine.",
            "And now?",
            "",
            "Now?",
            "As an AI language model",
        ],
    }
    write_jsonl([Conversation.of(*turns, id=id) for id, turns in talks.items()], tmp_path / "talks.jsonl")
    prepare_data(config(tmp_path / "talks.jsonl", tmp_path / "out", "preset=fastchat"))
    assert {c.id: len(c.turns) for c in conversations(tmp_path / "out")} == {"kept": 4, "cut at the empty turn": 2}
    assert {r["id"]: r["reason"] for r in lines(tmp_path / "out" / "rejected.jsonl")} == {
        "named by the user": "assistant name",
        "shorter": "too short",
        "broken list": "broken list",
        "same beginning": "duplicate first exchange",
    }


def test_nothing_in_nothing_out(tmp_path):
    (tmp_path / "empty.json").write_text("")
    with pytest.raises(DataError, match="none of 0 records was kept: there is none"):
        prepare_data(config(tmp_path / "empty.json", tmp_path / "out"))


def test_shards_of_which_nothing_is_left(raw, tmp_path):
    """The job fails, and says what became of them."""
    with pytest.raises(DataError, match=r"none of \d+ records was kept: \d+ × language"):
        prepare_data(config(raw, tmp_path / "out", "language.keep=ja"))
    rejected = (tmp_path / "out/rejected.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["reason"] == "language" for line in rejected) > 500


def test_steps_can_be_switched_off(raw, tmp_path):
    names = ("html", "tidy", "roles", "filters", "personal_data", "language", "decontamination", "dedup", "cut")
    off = prepare_data(config(raw, tmp_path / "off", *(f"{name}.enabled=false" for name in names))).manifest
    assert [s["step"] for s in off["steps"]] == ["read", "cut"]
    assert set(off["rejected_by_reason"]) <= {"file cut off", "not an object", "wrong type", "unknown role"}
    assert "ada@mail.org" in (tmp_path / "off" / "train.jsonl").read_text()


def test_the_command_explains_itself_and_refuses_nonsense(raw, tmp_path):
    bad = run(raw, tmp_path / "out", "dedup.treshold=0.5", "roles.disorder=shuffle", "moderation.scorer=nothing:here")
    assert bad.returncode == 2
    for text in (
        "did you mean dedup.threshold?",
        "choices: trim, merge, reject",
        "moderation.scorer: nothing:here cannot be",
    ):
        assert text in bad.stderr
    good = run(raw, tmp_path / "out")
    assert good.returncode == 0
    for text in ("1,200 records →", "read: ", "clean: 1,200 records", f"data={tmp_path / 'out'}"):
        assert text in good.stdout + good.stderr


def test_engine_counts_every_job_once():
    for workers in (1, 2):
        assert sorted(engine.run_all("local", abs, [3, -1, 2], workers)) == [-1, 2, 3]


@pytest.mark.promise("Of copies in several sources that of the source named first stays, and the card says who lost it")
def test_named_sources_keep_their_names_and_the_first_keeps_the_copies(tmp_path):
    words = np.random.default_rng(0).integers(0, 3000, (45, 120))

    def talk(i: int, more: str = "") -> Conversation:
        answer = " ".join(f"word{word}" for word in words[i])
        return Conversation.of(f"Question {i}?", answer + more, f"And {i}?", answer[::-1], id=f"c{i}")

    of = {
        "code": [talk(i) for i in range(30)],
        "chat": [*(talk(i, " and at more length" if i < 20 else "") for i in range(15, 45)), talk(44)],
    }
    for name, talks in of.items():
        (tmp_path / name).mkdir()
        write_jsonl(talks, tmp_path / name / "data.jsonl")

    def prepared(*names: str) -> tuple[Path, dict]:
        folder = tmp_path / "-".join(names)
        raw = ", ".join(f"{{path: {tmp_path / name}, name: {name}}}" for name in names)
        off = [f"{step}.enabled=false" for step in ("language", "filters", "decontamination")]
        prepare_data(config(f"[{raw}]", folder, *off))
        return folder, json.loads((folder / "manifest.json").read_text())

    folder, manifest = prepared("code", "chat")
    code, chat = manifest["sources"]["code"], manifest["sources"]["chat"]
    assert (code["records_in"], code["records_kept"], code["lost_to"]) == (30, 30, {})
    assert (chat["records_in"], chat["records_kept"]) == (31, 15)
    assert chat["lost_to"] == {"code": {"duplicate text": 10, "near-duplicate": 5}, "chat": {"duplicate text": 1}}
    assert [step["rejected"] for step in chat["steps"] if step["rejected"]] == [
        {"duplicate text": 11, "near-duplicate": 5}
    ]
    assert manifest["records_kept"] == 45
    kept = [record for side in OUTPUTS[:2] for record in lines(folder / side)]
    assert Counter(record["source"] for record in kept) == {"code": 30, "chat": 15}
    assert {r["record"].split("/")[0] for r in lines(folder / "rejected.jsonl")} == {"chat"}
    page = (folder / "card.html").read_text()
    assert "What became of each source" in page
    assert "code: 10 duplicate text, 5 near-duplicate" in page
    _, other = prepared("chat", "code")
    assert other["sources"]["code"]["lost_to"] == {"chat": {"duplicate text": 10, "near-duplicate": 5}}
    with pytest.raises(RunError, match="inputs"):
        prepare_data(
            config(f"[{{path: {tmp_path / 'chat'}, name: chat}}, {{path: {tmp_path / 'code'}, name: code}}]", folder)
        )
    with pytest.raises(ConfigError, match="raw: two are called a"):
        config("[{path: x, name: a}, {path: y, name: a}]", folder)
