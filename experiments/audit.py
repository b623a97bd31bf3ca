"""Known vulnerabilities of what the commands install, without a network: `python -m experiments.audit [file …]`.

`advisories.yaml` is a list by hand, with its date. It holds what was found by then about packages of constraints.txt,
and nothing else, so a clean answer says only that: where pip-audit and a network are at hand, ask them.
"""

import sys
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
ADVISORIES: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "advisories.yaml").read_text())


def vulnerable(pins: dict[str, str]) -> list[str]:
    """A line for each pinned version that an advisory of the list names."""
    return [
        f"{name}=={pins[name]}: {one['id']}, fixed in {one['fixed']}: {one['what']}"
        for name, known in ADVISORIES["packages"].items()
        for one in known
        if name in pins and Version(pins[name]) < Version(one["fixed"])
    ]


def too_low(requirements: list[str]) -> list[str]:
    """A line for each requirement whose lower bound admits a version that an advisory of the list names."""
    found = []
    for text in requirements:
        asked = Requirement(text)
        lowest = [Version(part.version) for part in asked.specifier if part.operator in (">=", "==", "~=")]
        for one in ADVISORIES["packages"].get(asked.name.lower(), []):
            if not lowest or max(lowest) < Version(one["fixed"]):
                found.append(f"{text}: admits {one['id']}, fixed in {one['fixed']}")
    return found


def read_pins(file: Path) -> dict[str, str]:
    """Names and versions of a constraints file."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return {name.lower(): version for name, _, version in (line.partition("==") for line in lines)}


def main() -> int:
    """Prints what is known; the exit code."""
    files = [Path(name) for name in sys.argv[1:]] or [ROOT / "constraints.txt", ROOT / "constraints-oldest.txt"]
    found = [f"{file.name}: {line}" for file in files for line in vulnerable(read_pins(file))]
    print("\n".join(found) or f"no known vulnerability in {', '.join(file.name for file in files)}")
    known = sum(map(len, ADVISORIES["packages"].values()))
    print(
        f"by a list of {known} advisories as of {ADVISORIES['as_of']}; of later ones and other packages it cannot say"
    )
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
