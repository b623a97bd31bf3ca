"""Run folders → one table and one page."""

import csv
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from vicuna_lit.cli import compare as command
from vicuna_lit.compare.conclusions import other_files
from vicuna_lit.compare.report import write_report
from vicuna_lit.compare.run import figure, read_run
from vicuna_lit.compare.runs import read_sweep
from vicuna_lit.compare.table import REPEATS, Mean, baseline_of, named, settings, table
from vicuna_lit.compare.terminal import show_sweep, show_table
from vicuna_lit.config.compose import load
from vicuna_lit.run_folder import RunError


@cache
def composed(overrides: tuple[str, ...]) -> str:
    return load("train", "run.name=job", *overrides).model_dump_json()


def run(folder: Path, loss: float | None, *overrides: str, swept: dict[str, str] | None = None, **more: Any) -> Path:
    """A run folder as the train job leaves it, but for the training."""
    config = json.loads(composed(overrides))
    config["run"] |= {"swept": swept or {}, "name": folder.name}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if loss is not None:
        validation = {"val/loss": loss, "val/loss_by_turn/1": loss - 0.1, "val/loss_by_turn/2": loss + 0.1}
        figures = {"val_loss": loss, "supervised_tokens_per_second": 1000 * loss, "peak_memory_bytes": 2**30}
        result = {"status": "finished", "seconds": 9.0, "validation": validation} | figures
        (folder / "result.json").write_text(json.dumps(result | more))
        (folder / "metrics.csv").write_text(
            "step,loss,grad_norm,lr,supervised_tokens,conversations_hash\n1,2.5,1.0,0.1,10,ab\n2,1.5,0.5,0.05,12,cd\n"
        )
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for context, losses in {"2048": (1.5, 1.7, 1.9), "512": (2.0, 2.25, 2.35), "1024": (1.6, 1.8, None)}.items():
        for seed, loss in enumerate(losses):
            swept = {"context_length": context, "seed": str(seed)}
            name = f"context_length={context},seed={seed}"
            run(tmp_path / "s" / name, loss, f"context_length={context}", f"seed={seed}", swept=swept)
    return tmp_path / "s"


@pytest.mark.promise("A sweep's table has means, errors and paired differences, and hostile names are text on its page")
def test_settings_are_means_over_seeds_in_the_order_of_the_key(folder):
    sweep = read_sweep(folder)
    assert sweep.keys == ("context_length", "seed")
    found = settings(sweep)
    assert [s.choices for s in found] == [{"context_length": c} for c in ("512", "1024", "2048")]
    assert [s.baseline for s in found] == [True, False, False]  # no run says which job of the sweep it was
    assert [len(s.runs) for s in found] == [3, 2, 3]
    assert [row["pairs"] for row in table(settings(sweep, baseline="2048"))] == ["baseline", "3", "2"]
    loss = found[0].metrics["val_loss"]
    assert loss and loss.mean == pytest.approx(2.2)
    assert loss.error == pytest.approx(math.sqrt((0.04 + 0.0025 + 0.0225) / 2 / 3))
    assert found[0].difference is None
    two, three = found[1].difference, found[2].difference
    assert two and two.count == 2
    assert two.mean == pytest.approx(((1.6 - 2.0) + (1.8 - 2.25)) / 2)
    assert three and three.mean == pytest.approx(-0.5)
    assert three.error == pytest.approx(math.sqrt((0.0**2 + 0.05**2 + 0.05**2) / 2 / 3))


@pytest.mark.promise("A sweep's table has means, errors and paired differences, and hostile names are text on its page")
def test_the_table_and_the_page(folder, capsys, monkeypatch):
    hostile = "<script>alert(1)</script>"
    run(folder / "bad", None, swept={"context_length": hostile, "seed": "0"})
    (folder / "failures.jsonl").write_text(
        json.dumps({"job": "gone", "error": hostile, "cause": None, "code": 1, "time": 5.0}) + "\n"
    )
    monkeypatch.setattr("sys.argv", ["vicuna-compare", str(folder)])
    command.main()
    said = capsys.readouterr().out
    assert "2.20 ± 0.10" in said
    assert "8 finished, 2 unfinished" in said
    page = (folder / "compare.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 6  # loss, by reply, its difference, training, speed, memory; no figure by position
    with (folder / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 10
    assert {row["val_loss"] for row in runs if row["context_length"] == "2048"} == {"1.5", "1.7", "1.9"}
    assert (folder / "figures" / "validation_loss.svg").read_text().startswith("<svg")


def test_figures_are_the_same_every_time(folder):
    sweep = read_sweep(folder)
    once = write_report(sweep, folder / "a").read_bytes()
    assert write_report(sweep, folder / "b").read_bytes() == once


def test_runs_started_one_by_one_differ_by_their_configs(tmp_path):
    run(tmp_path / "a", 1.0, "optimizer.lr=1e-3", "run.dir=x")
    run(tmp_path / "b", 2.0, "optimizer.lr=5e-3", "strategy=ddp", "run.dir=y", "wandb.mode=disabled")
    sweep = read_sweep(tmp_path / "a", tmp_path / "b")
    assert set(sweep.keys) == {"optimizer.lr", "strategy"}  # the group, in place of all that follows from it
    names = {tuple(s.choices.values()): s for s in settings(sweep)}
    assert {frozenset(k) for k in names} == {frozenset({"0.001", "single"}), frozenset({"0.005", "ddp"})}
    assert list(table(settings(sweep))[0])[:2] == [k.split(".")[-1] for k in sweep.keys]


WIDE = [f"a heading of {words} words" for words in ("several", "some", "a few", "quite a few", "nearly no")]


def shown(rows: list[dict[str, str]], capsys: pytest.CaptureFixture[str]) -> str:
    """As on a screen that is too narrow for the headings."""
    show_table(rows)
    said = capsys.readouterr().out
    assert all(cell in said for row in rows for cell in row.values()), "a cell is never broken"
    assert not all(column in said for column in rows[0])
    return said


def test_conversations_that_a_script_gave_are_the_same_in_each_runs_folder(tmp_path):
    for seed in (0, 1):
        run(tmp_path / str(seed), 1.0 + seed, f"seed={seed}", f"data={tmp_path / str(seed) / '.data/ab12.jsonl'}")
    assert read_sweep(tmp_path).keys == ("seed",)
    run(tmp_path / "2", 1.0, "seed=0", f"data={tmp_path / '2/.data/cd34.jsonl'}")
    assert [one.values["data.path"] for one in read_sweep(tmp_path).runs] == ["ab12.jsonl", "ab12.jsonl", "cd34.jsonl"]


def test_a_model_that_lies_elsewhere_is_the_same_and_another_at_its_place_is_not(tmp_path):
    for place, content, keys in (("/a", "1", ()), ("/b", "1", ()), ("/b", "2", ()), ("/c", "3", ("model.path",))):
        one = run(
            tmp_path / str(len(list(tmp_path.iterdir()))),
            1.0,
            "model=local",
            f"model.path={place}",
            "data=files",
            "data.path=d",
        )
        files = {f"{place}/model.safetensors": content, f"{place}/tokenizer.json": "t"}
        (one / "run.json").write_text(json.dumps({"files": files}))
        assert read_sweep(tmp_path).keys == keys
    assert other_files(read_sweep(tmp_path))[0].startswith("/b/model.safetensors was not the same file for all runs")


def test_a_loss_of_ones_own_is_told_by_its_name_and_its_versions_by_their_hash(tmp_path, capsys):
    def written(name: str, **own: str) -> None:
        (tmp_path / name).mkdir()
        config = {"conversations_per_step": 2, "run": {"name": name}} | own
        (tmp_path / name / "config.json").write_text(json.dumps(config))

    written("plain")
    written("own", module="mine.Smoothed", module_sha256="a" * 64)
    sweep = read_sweep(tmp_path)
    assert sweep.keys == ("module",)
    assert {sweep.choice(run, "module") for run in sweep.runs} == {"plain", "Smoothed"}
    assert baseline_of(sweep, REPEATS, None) == ("plain",), "a script names none first"
    assert "mine.Smoothed" in shown([{"module": "mine.Smoothed"} | dict.fromkeys(WIDE, "0.1234 ± 0.5678")], capsys)
    written("edited", module="mine.Smoothed", module_sha256="b" * 64)
    sweep = read_sweep(tmp_path)
    assert sweep.keys == ("module", "module_sha256")
    assert {sweep.choice(run, "module_sha256") for run in sweep.runs} == {"", "aaaaaaaa", "bbbbbbbb"}
    written("other", module="a.of.<locals>.Smoothed", module_sha256="c" * 64)
    sweep = read_sweep(tmp_path)
    assert {sweep.choice(run, "module") for run in sweep.runs} == {"plain", "mine.Smoothed", "a.of.<locals>.Smoothed"}


def test_own_losses_of_one_class_are_told_by_the_values_that_they_read(tmp_path):
    for name, own in {
        "plain": {},
        "weak": {"module": "of.<locals>.C", "module_sha256": "a" * 64, "module_values": {"strength": "0.1", "k": "2"}},
        "strong": {"module": "of.<locals>.C", "module_sha256": "b" * 64, "module_values": {"strength": "1", "k": "2"}},
    }.items():
        (tmp_path / name).mkdir()
        config = {"conversations_per_step": 2, "run": {"name": name}} | own
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    sweep = read_sweep(tmp_path)
    assert sweep.keys == ("module", "module_values.strength")
    names = [named(dict(zip(sweep.keys, sweep.choices(run, sweep.keys), strict=True))) for run in sweep.runs]
    assert names == ["module=C, strength=0.1", "module=C, strength=1", "module=plain"]
    assert baseline_of(sweep, REPEATS, "plain") == ("plain", "")
    assert baseline_of(sweep, REPEATS, "C, 0.1") == ("C", "0.1")


def test_one_run(tmp_path):
    folder = run(tmp_path / "a", 1.25, lost_time={"saving": 0.5})
    one = read_run(folder)
    assert one.status == "finished"
    assert one.metrics["loss"].tolist() == [2.5, 1.5]
    assert one.metrics["conversations_hash"].tolist() == ["ab", "cd"]
    whole = (one.folder / "metrics.csv").read_text()
    (one.folder / "metrics.csv").write_text(whole + "3,0.5")
    assert len(read_run(one.folder).metrics["loss"]) == 2, "a line that is being written"
    (one.folder / "metrics.csv").write_text(whole + "3,0.5\n")
    with pytest.raises(RunError, match=r"metrics\.csv: cannot be read"):
        _ = read_run(one.folder).metrics
    assert one.val_by("turn") == {"1": 1.15, "2": 1.35}
    assert (one.metric("lost_time.saving"), one.metric("nothing"), one.metric("validation")) == (0.5, None, None)


def test_bad_folders(tmp_path):
    with pytest.raises(RunError, match="no folder of a train run"):
        read_run(tmp_path)
    with pytest.raises(RunError, match="holds no train run"):
        read_sweep(tmp_path)
    with pytest.raises(RunError, match="no such folder"):
        read_sweep(tmp_path / "nowhere")
    a, b = run(tmp_path / "s/a", 1.0), run(tmp_path / "s/b", 2.0, "seed=1")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(RunError, match="nothing: holds no train run"):  # named beside one that does
        read_sweep(a, tmp_path / "nothing")
    with pytest.raises(RunError, match="baseline 512: the runs are one setting, and there is nothing to compare"):
        read_sweep(a, b).conclude(baseline="512")
    for text in ("{", '{"validation": [1]}', '{"val_by_step": 3}'):
        (a / "result.json").write_text(text)
        with pytest.raises(RunError, match="cannot be read"):
            read_sweep(tmp_path)


def test_what_an_option_of_the_command_cannot_be(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    for given, said in (
        (["--margin=-1", "x"], "argument --margin: -1: nats that make no difference, above 0, such as 0.002"),
        (["--margin=nan", "x"], "argument --margin: nan: nats"),
        (["--margin=x", "x"], "argument --margin: x: nats"),
        (["--out=", "x"], "argument --out: an empty name is no folder; . is the one that you are in"),
        ([f"--out={tmp_path}/file", "x"], f"argument --out: {tmp_path}/file is a file; name a folder"),
        ([""], "argument folders: an empty name is no folder"),
    ):
        monkeypatch.setattr("sys.argv", ["vicuna-compare", *given])
        with pytest.raises(SystemExit) as end:
            command.main()
        assert end.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.4320], "1.4320"), ([12345.0], "12,345"), ([0.0], "0"), ([1.0, 1.0], "1.0000"),
        ([1.0, 1.002], "1.0010 ± 0.0010"), ([100.0, 140.0], "120 ± 20"), ([-0.5, -0.6], "-0.550 ± 0.050"),
    ],
)  # fmt: skip
def test_means_have_as_many_digits_as_their_errors_justify(values, text):
    assert str(Mean.of(values)) == text


def test_two_keys_with_one_last_part_are_two_columns(tmp_path):
    run(tmp_path / "a", 1.0, swept={"finetune.kind": "full", "optimizer.kind": "adamw", "seed": "0"})
    run(tmp_path / "b", 2.0, swept={"finetune.kind": "lora", "optimizer.kind": "adamw", "seed": "0"})
    rows = table(settings(read_sweep(tmp_path)))
    assert [(row["finetune.kind"], row["optimizer.kind"]) for row in rows] == [("full", "adamw"), ("lora", "adamw")]


def test_a_callbacks_figure_is_a_metric_and_never_takes_the_place_of_the_runs_own():
    result = {"val_loss": 1.5, "data": {"train": {"tokens": 7}}, "logged": {"val_loss": 9.0, "mine/a.b": 2.0}}
    names = ("val_loss", "mine/a.b", "data.train.tokens", "logged", "no.such")
    assert [figure(result, name) for name in names] == [1.5, 2.0, 7.0, None, None]


def test_runs_that_cannot_be_read_are_named_and_the_others_compared(folder, monkeypatch, capsys):
    """In what is printed and on the page; the exit code says so. In Python it is an error, unless asked otherwise."""
    torn = {
        name: folder / f"context_length=512,seed={seed}" for seed, name in enumerate(("result.json", "metrics.csv"))
    }
    for name, one in torn.items():
        (one / name).write_text('{"a\x1b[2J' if name == "result.json" else "loss\nx\n")
    monkeypatch.setattr("sys.argv", ["vicuna-compare", str(folder)])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    said = capsys.readouterr().out
    page = (folder / "compare.html").read_text()
    for name, one in torn.items():
        assert f"not read {one}: " in said and str(one) in page and name in said
    assert said.count("not read") == page.count("<td>not read") == 2 and "\x1b" not in said
    assert "1024" in said and (folder / "runs.csv").exists()
    assert show_sweep(folder, before=0) == 1
    assert [len(found.runs) for found in settings(read_sweep(folder, whole=False))] == [1, 2, 3]
    with pytest.raises(RunError, match="cannot be read"):
        read_sweep(folder)
    (folder / "context_length=1024,seed=0" / "metrics.csv").unlink(missing_ok=True)
    (folder / "context_length=1024,seed=0" / "metrics.csv").mkdir()
    assert len(read_sweep(folder, whole=False).failures) == 3
    for one in folder.glob("context*"):
        (one / "config.json").write_text("[")
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "no run has begun" in capsys.readouterr().out


def test_files_of_a_run_that_are_odd_and_cut_lines_are_said_and_loops_are_passed_over(tmp_path):
    swept = {"seed": "0"}
    folder = run(tmp_path / "s" / "a", 1.0, swept=swept).parent
    (folder / "loop").symlink_to(folder)
    refused = '{"job": "a", "error": "holds a run with other settings", "time": 1.0, "another_run": true}\n'
    (folder / "failures.jsonl").write_text(refused + '{"job": "b", "error": "x", "time": 1.0}\n{"job": "c", "err')
    found = read_sweep(folder)
    assert [one.name for one in found.runs] == ["a"]
    assert [failure["job"] for failure in found.failures] == ["b", "line 3 of failures.jsonl"]
    config = json.loads((folder / "a/config.json").read_text())
    for name, text, said in (
        ("a/result.json", "null", "result.json is no object, but 'None'"),
        ("a/config.json", json.dumps(config | {"run": None}), "run, in config.json, is no object"),
        ("a/config.json", json.dumps(config | {"run": {"name": "a", "swept": [1]}}), "run.swept, in config.json"),
    ):
        before = (folder / name).read_text()
        (folder / name).write_text(text)
        with pytest.raises(RunError, match=said):
            read_sweep(folder)
        (folder / name).write_text(before)
    (folder / "a/.hydra").mkdir()
    (folder / "a/.hydra/hydra.yaml").write_text("{bad: [")
    with pytest.raises(RunError, match=r"hydra.yaml: cannot be read"):
        _ = read_sweep(folder).runs[0].number
    (folder / "a/.hydra/hydra.yaml").write_text("[1]")
    assert read_sweep(folder).runs[0].number is None
    with pytest.raises(RunError, match="no such folder"):
        read_sweep(folder / "a/result.json")
