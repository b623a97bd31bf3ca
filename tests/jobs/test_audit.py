"""The versions that the commands install, and the lowest that pyproject.toml admits, have no known vulnerability."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from experiments.audit import read_pins, too_low, vulnerable

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_no_pinned_version_has_a_known_vulnerability(name):
    assert vulnerable(read_pins(ROOT / name)) == []


def test_no_lower_bound_admits_a_known_vulnerability():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    assert (
        too_low([*asked, *(r for extra in project["project"]["optional-dependencies"].values() for r in extra)]) == []
    )


def test_an_old_version_is_named_with_its_fix_and_the_lists_date_is_said(tmp_path):
    (tmp_path / "old.txt").write_text("# old\nray==2.51.0\nsafe==1.0\n")
    command = [sys.executable, "-m", "experiments.audit", str(tmp_path / "old.txt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "old.txt: ray==2.51.0: CVE-2025-62593, fixed in 2.52.0" in done.stdout
    assert "CVE-2026-27482, fixed in 2.54.0" in done.stdout
    assert "as of 20" in done.stdout and "it cannot say" in done.stdout
    assert too_low(["ray>=2.50", "ray", "ray>=2.54"]) == [
        "ray>=2.50: admits CVE-2025-62593, fixed in 2.52.0",
        "ray>=2.50: admits CVE-2026-27482, fixed in 2.54.0",
        "ray: admits CVE-2025-62593, fixed in 2.52.0",
        "ray: admits CVE-2026-27482, fixed in 2.54.0",
    ]
