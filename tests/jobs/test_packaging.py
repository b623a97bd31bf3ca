"""What a stranger gets: a licence, a version, a wheel that runs where there is no checkout."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vicuna_lit

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = sorted(PROJECT["scripts"])
HEAVY = {"torch", "transformers", "lightning"}


def command(name: str, *arguments: str, **how) -> subprocess.CompletedProcess[str]:
    """A command as its script runs it; the last line of stderr names the heavy packages that it imported."""
    module, function = PROJECT["scripts"][name].split(":")
    code = f"import sys; sys.argv = [{name!r}, *sys.argv[1:]]\nfrom {module} import {function}\n"
    code += f"try:\n    {function}()\nfinally:\n    print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, **how)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_our_version_before_torch_is_imported(name: str):
    done = command(name, "--version")
    assert (done.returncode, done.stdout) == (0, f"vicuna_lit {vicuna_lit.__version__}\n"), done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_version_stands_in_one_place_and_the_citation_has_it():
    assert "version" in PROJECT["dynamic"]
    assert "version" not in PROJECT
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == vicuna_lit.__version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text()
    assert all(part in text for part in ("Apache License", "9. Accepting Warranty", "END OF TERMS AND CONDITIONS"))


def test_the_names_of_make_are_those_that_contributing_names():
    if shutil.which("make") is None:
        pytest.skip("no make")
    named = re.search(r"`make ([a-z ]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert named
    runs = {}
    for target in (*named[1].split(), "requirements", "audit"):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True, text=True)
        runs[target] = done.stdout
    assert "python -m experiments.audit" in runs["audit"]


def test_the_hooks_of_pre_commit_download_nothing():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}


def test_every_pinned_file_has_a_hash_and_every_version_is_that_of_the_constraints():
    """Of what the tests need; the extra `docs` is not in it."""
    first, text = (ROOT / "requirements.txt").read_text().split("\n", 1)
    assert first.startswith("# Made by `make requirements`") and not re.search(r"https?:|file:|index|find-links", text)
    entries = re.split(r"\n(?=\S)", text.strip())
    pins = {}
    for entry in entries:
        found = re.fullmatch(r"([\w.-]+)==([\w.]+)(?: ; [^\\]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)", entry)
        assert found, entry
        pins[canonicalize_name(found[1])] = found[2]
    lines = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()[1:]]
    constraints = {canonicalize_name(name): version for name, version in lines}
    assert {name: version for name, version in pins.items() if constraints.get(name, version) != version} == {}
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    assert {canonicalize_name(Requirement(one).name) for one in asked} <= set(pins)
    assert len(set(constraints) - set(pins)) < 25, "those of the documentation alone are not in it"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from this checkout; pip fetches hatchling for it."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
    )
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip("hatchling cannot be fetched")
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_a_wheel_holds_all_that_the_package_reads_and_nothing_else(wheel: Path):
    """Every committed file of the package, the configs, the licence."""
    listed = subprocess.run(["git", "ls-files", "vicuna_lit", "conf"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout")
    ours = {re.sub("^conf/", "vicuna_lit/conf/", name) for name in listed.stdout.splitlines()}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        about = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert held == ours
    assert "vicuna_lit/py.typed" in held
    assert f"\nVersion: {vicuna_lit.__version__}\n" in about
    assert "\nLicense-Expression: Apache-2.0\n" in about


@pytest.mark.slow
def test_an_installed_wheel_runs_the_quickstart_where_there_is_no_checkout(wheel: Path, tmp_path: Path):
    packages, work = tmp_path / "packages", tmp_path / "work"
    work.mkdir()
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "-t", str(packages), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(packages), "WANDB_MODE": "offline"}
    how = {"cwd": work, "env": environment}
    where = [sys.executable, "-P", "-c", "import vicuna_lit; print(vicuna_lit.__file__)"]
    assert subprocess.run(where, text=True, capture_output=True, **how).stdout.startswith(str(packages))
    done = command("vicuna-train", "trainer.max_steps=2", **how)
    assert done.returncode == 0, done.stderr
    assert (work / "runs/quickstart/hf/model.safetensors").exists()
    assert command("vicuna-compare", "runs/quickstart", **how).returncode == 0
    assert (work / "runs/quickstart/compare.html").exists()
    assert command("vicuna-estimate", "gpu=a100-80gb", **how).returncode == 0
