"""The README and the documentation say what is there: links, names, keys, commands, figures, generated pages."""

import ast
import csv
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml

import vicuna_lit as vl
from experiments import tables
from tests.helpers import commands as forked
from vicuna_lit.config.compose import JOBS, load
from vicuna_lit.config.reference import entries
from vicuna_lit.config.renamed import ELSEWHERE
from vicuna_lit.train.console import conclude
from vicuna_lit.train.result import Result

ROOT = Path(__file__).resolve().parents[1]
while not (ROOT / "pyproject.toml").exists():
    ROOT = ROOT.parent
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
TEXTS = PAGES | {"README.md": README, "CONTRIBUTING.md": (ROOT / "CONTRIBUTING.md").read_text()}
PLACES = {name: ROOT / ("docs" if name in PAGES else "") / name for name in TEXTS}
MOST_LINES, MOST_BYTES, WIDEST = 130, 9216, 140
DATA = str(ROOT / "vicuna_lit/quickstart/conversations.jsonl")


def blocks(text: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [content for its, content in found if its == language]


def commands(text: str) -> list[str]:
    """Each command of a text's shell blocks, without its comment."""
    lines = [line.strip() for block in blocks(text, "") for line in block.splitlines()]
    return [line.partition("  #")[0].strip() for line in lines if line.startswith(("vicuna-", "python -m vicuna_lit"))]


def test_the_readme_is_a_page():
    assert len(README.splitlines()) <= MOST_LINES
    assert len(README.encode()) <= MOST_BYTES
    assert not [line for line in README.splitlines() if len(line) > WIDEST]
    assert "No GPU" in README.splitlines()[2], "what was verified on which hardware comes first"


def test_every_link_leads_somewhere():
    links = {name: re.findall(r"\]\(([^)\s]+)\)", text) for name, text in TEXTS.items()}
    for name, target in ((page, link) for page, found in links.items() for link in found):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = PLACES[name].parent / file if file else PLACES[name]
        assert found.exists(), (name, target)
        if anchor:
            heads = re.findall(r"^#+ (.+)$", found.read_text(), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in anchors, (name, target)


def test_every_file_that_is_named_exists():
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for name, text in TEXTS.items():
        assert set(re.findall(r"\btest_\w+\.py", text)) <= tests, name
        for file in re.findall(r"`((?:experiments|conf|vicuna_lit|notebooks)/[\w./-]+)`", text):
            assert (ROOT / file).exists(), (name, file)


def keys_of_jobs() -> dict[str, set[str]]:
    return {job: {entry.key for entry in entries(job)} | {"experiment", "preset"} for job in JOBS}


def test_every_command_has_the_keys_that_it_is_given():
    known, names = keys_of_jobs(), {*TEXTS} - {"decisions.md", "families.md"}
    for command in [command for name in sorted(names) for command in commands(TEXTS[name])]:
        job = re.split(r"[ .]", command.removeprefix("python -m vicuna_lit.").removeprefix("vicuna-"))[0]
        if job not in known:
            continue
        for key in re.findall(r"(?<![\w.{\[/-])'?\"?([a-z_0-9.]+)=", command.partition("|")[0]):
            key = re.sub(r"\.\d+\b.*", "", key)  # an item of a list
            assert key in known[job] or key.startswith(("hydra", "model.architecture")), (command, key)


@pytest.mark.parametrize("command", [c for c in commands(README) if c.startswith("vicuna-train")])
def test_the_readmes_commands_plan_what_they_say(command: str, tmp_path: Path):
    """Its two set-up lines are run by whoever accepts a release; here each command plans with files that are there."""
    filled = command.replace("<HF folder>", "x").replace("data=<file or folder>", f"data={DATA}")
    tiny = ["model=tiny", "model.tokenizer=package://vicuna_lit/quickstart/tokenizer", "model.path=null"]
    words = [word for word in shlex.split(filled)[1:] if not word.startswith("model.path")]
    more = tiny if "model.path" in filled else []
    done = forked.run("vicuna_lit.train", *words, *more, "dry_run=true", "context_length=512", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "steps" in done.stdout


def test_the_readmes_and_the_quickstarts_output_is_what_the_command_prints(tmp_path: Path, capsys: Any):
    """Its plan by a dry run, and its end in the words and forms of the end of a run; the loss is the machine's."""
    (shown,) = (block for block in blocks(README, "") if block.startswith("data "))
    plan, end = shown.split("…\n", 1)
    (whole,) = (block for block in blocks(PAGES["quickstart.md"], "") if block.startswith("model "))
    done = forked.run("vicuna_lit.train", "dry_run=true", cwd=tmp_path)
    rounding = re.compile(r"(?<=packed = alone, to )\S+")  # it is the machine's
    printed = " ".join(rounding.sub("…", done.stdout).split())  # where lines break is the terminal's
    for line in (*plan.splitlines(), *whole.splitlines()):
        assert " ".join(rounding.sub("…", line).split()) in printed, line
    found = re.search(r"validation loss ([\d.]+) → ([\d.]+) ", end)
    assert found, end
    reply = dict(re.findall(r"^  (before|after): +(.+)$", end, re.M)) | {"question": end.splitlines()[0]}
    folder = tmp_path / "runs/quickstart"
    (folder / "hf").mkdir(parents=True)
    (folder / "hf/config.json").touch()
    before, after = float(found[1]), float(found[2])
    ended = Result("finished", str(folder), replies=[reply], val_loss_before=before, val_loss=after)
    conclude(load("train"), ended, folder)
    said = capsys.readouterr().out.replace(f"{tmp_path}/", "").splitlines()
    for line in end.splitlines():
        assert line in said, line
    assert reply["after"] in (ROOT / "vicuna_lit/quickstart/conversations.jsonl").read_text()


@pytest.mark.slow
def test_the_readmes_python_runs_and_the_own_callback_loss_and_sweep_of_the_python_page(tmp_path: Path):
    code = "\n".join(blocks(README, "python"))
    assert len(code.strip().splitlines()) <= 9
    whole = ("class WeightNorm", "class Smoothed", "vl.read_sweep")
    page = [block for block in blocks(PAGES["python.md"], "python") if any(part in block for part in whole)]
    code = "\n".join((code, *page))
    fewer = {"max_steps=20": "max_steps=1", "max_steps=40": "max_steps=1", "(0, 1, 2)": "(0,)", " % 10 ": " % 1 "}
    fewer |= {'vl.fit(vl.load("train", "run.dir=runs/smoothed"), module=Smoothed)': ""}
    for long, short in fewer.items():
        assert long in code
        code = code.replace(long, short)
    (tmp_path / "page.py").write_text(code)
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "{'own/weight_norm': " in done.stdout and "module=plain: validation loss " in done.stdout
    assert re.search(r"^runs/sweeps/losses/smoothed,seed=0: validation loss 6.* → 6.*, 1 step in ", done.stdout, re.M)


def test_python_in_the_documentation_parses_and_names_what_there_is():
    for name, code in ((page, code) for page in TEXTS for code in blocks(TEXTS[page], "python")):
        ast.parse(code, name)
        assert set(re.findall(r"\bvl\.(\w+)", code)) <= set(vl.__all__), name


def test_the_generated_pages_are_up_to_date():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec and spec.loader
    generate: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for page, content in generate.pages().items():
        assert page.read_text() == content, f"{page.name}: python docs/generate.py"


def test_other_tools_names_lead_to_keys_that_exist():
    known = {entry.key for entry in entries("train")}
    for theirs, ours in ELSEWHERE.items():
        key = re.match(r"[a-z_.]+", ours)
        assert key and (key[0] in known or ours.startswith("nothing")), (theirs, ours)
        assert theirs not in known, f"{theirs} is a key of ours"


def test_what_stands_beside_another_tools_config_composes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("chats.jsonl").touch()
    page = PAGES["coming_from.md"]
    ours = [" ".join(block.split()) for block in blocks(page, "") if block.startswith("vicuna-train")]
    trl, factory = (load("train", *shlex.split(command)[1:]) for command in ours)
    assert (trl.conversations_per_step, trl.optimizer.lr, trl.precision) == (128, 2e-5, "bf16-mixed")
    assert (trl.strategy.kind, factory.strategy.kind, trl.trainer.devices) == ("ddp", "zero", 8)
    assert trl == load("train", *shlex.split(ours[0])[1:9], "experiment=vicuna"), "the rest is what it says anyway"
    experiment = next(block for block in blocks(page, "yaml") if "override /model" in block)
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/mine.yaml").write_text(experiment)
    done = forked.run("vicuna_lit.train", "--config-dir", "conf", "experiment=mine", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "rank: 16" in done.stdout and "conversations_per_step: 16" in done.stdout


def test_decisions_are_numbered_without_a_gap_and_dated():
    text = PAGES["decisions.md"]
    found = re.findall(r"^### D(\d{3})\. .+\n\*\d{4}-\d\d-\d\d\* · \S", text, re.M)
    assert sorted(map(int, found)) == list(range(1, len(found) + 1))
    assert len(found) == len(re.findall(r"^### ", text, re.M))
    negative = re.findall(r"^### (D\d{3})\. .*\(negative\)$", text, re.M)
    listed = re.search(r"^Negative results: (.+)\.$", text, re.M)
    assert listed and sorted(listed[1].split(", ")) == sorted(negative)


NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


def numbers(text: str) -> set[str]:
    return {found.replace(",", "") for found in NUMBER.findall(text)}


def numbers_in(file: Path) -> set[str]:
    """Of a CSV those of each cell: its commas separate."""
    if file.suffix != ".csv":
        return numbers(file.read_text())
    with file.open(newline="") as lines:
        return {number for row in csv.reader(lines) for cell in row for number in numbers(cell)}


def missing(text: str, *files: Path) -> set[str]:
    """The numbers of a text that stand in none of the files, not even with more digits."""
    held = [float(number) for file in files for number in numbers_in(file)]

    def is_held(number: str) -> bool:
        digits = 12 if "e" in number else len(number.partition(".")[2])
        return any(float(number) in (value, round(value, digits)) for value in held)

    return {number for number in numbers(text) if not is_held(number)}


def test_every_figure_of_the_results_stands_in_the_file_that_holds_it():
    for rows in yaml.safe_load((ROOT / "docs/results.yaml").read_text()).values():
        for row in rows:
            assert row.keys() in ({"what", "result", "command", "from"}, {"what", "result", "command", "measured"}), row
            files = row.get("from", [])
            files = [files] if isinstance(files, str) else files
            assert "measured" in row or not missing(f"{row['what']} {row['result']}", *(ROOT / f for f in files)), row
    studies = re.findall(r"^\| \[\d\d\d .+?\]\((\S+)\) \| (.+) \|$", PAGES["evidence.md"], re.M)
    assert len(studies) == len(list((ROOT / "experiments").glob("0*/report.py")))
    for link, finding in studies:
        assert not missing(finding, ROOT / "docs" / link), (link, missing(finding, ROOT / "docs" / link))
    assert missing("2.1% of 17,671, at 1e-5", ROOT / "LICENSE") == {"2.1", "17671", "1e-5"}


PROSE = sorted((ROOT / "experiments").glob("0*/README.md"))


@pytest.mark.parametrize("readme", PROSE, ids=lambda readme: readme.parent.name)
def test_the_prose_of_a_study_holds_no_number_that_no_file_holds(readme: Path, tmp_path: Path):
    """Its table is that of results.csv (another test); what neither holds stands in figures.csv with its source."""
    text = readme.read_text()
    table = tmp_path / "table.md"
    table.write_text(tables.of_readme(text))
    prose = re.sub(r"\]\([^)]*\)|\b(?:19|20)\d\d\b(?:/\d\d)?", "", text.replace(table.read_text(), ""))  # links, years
    files = [file for file in readme.parent.iterdir() if file.suffix in (".csv", ".py", ".sh")]
    assert not missing(prose, table, ROOT / "docs/results.yaml", *files)
    if (figures := readme.parent / "figures.csv").exists():
        rows = tables.read(figures)
        assert all(row["figure"] and row["what"] and row["source"] for row in rows)
        assert not (unused := {row["figure"] for row in rows} - numbers(prose)), unused


def test_the_headline_figures_are_those_of_the_files_behind_them():
    losses = tables.of_readme((ROOT / "experiments/002_multi_turn_loss/README.md").read_text())
    shown = re.search(r"^- last_assistant_message is worse .* loss \+(\S+), 95% interval (\[.+?\])", losses, re.M)
    assert shown and f"worse by {shown[1]} nats {shown[2]}" in README
    peers = tables.of_readme((ROOT / "experiments/005_peers/README.md").read_text())
    cells = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")] for line in peers.splitlines()}
    trainer, trl = cells["HF `Trainer`, flattened"], cells["TRL `SFTTrainer`"]
    assert f"{trainer[9]} / {trl[9]} times; memory {trainer[10]} / {trl[10]} |" in README
    with (ROOT / "experiments/007_estimate/results.csv").open(newline="") as file:
        errors = [abs(float(row["error"])) for row in csv.DictReader(file)]
    figures = f"median error {median(errors):.1%}, worst {max(errors):.1%}"
    for text in (README, PAGES["estimate.md"], PAGES["evidence.md"]):
        assert figures in text and f"{len(errors)} r" in text
