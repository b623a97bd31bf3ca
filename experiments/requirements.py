"""pip's installation report (stdin) → requirements with hashes (stdout): what was resolved, and nothing else installs.

pip install --dry-run --ignore-installed --report - -c constraints.txt . | python experiments/requirements.py
"""

import json
import sys
from typing import Any


def pinned(report: dict[str, Any]) -> str:
    """One line a package, sorted; the project itself, which is a folder and has no hash, is left out.

    So is a build that a registry does not have (`torch==2.13.0+cpu`): it stands as a comment, to be installed first.

    Raises:
        ValueError: a package from an index has no sha256.
    """
    lines, local = [], []
    for item in report["install"]:
        found, about = item["download_info"], item["metadata"]
        if "dir_info" in found:
            continue
        digest = found.get("archive_info", {}).get("hashes", {}).get("sha256")
        if digest is None:
            raise ValueError(f"{about['name']}: its file has no sha256")
        pin = f"{about['name']}=={about['version']}"
        if "+" in about["version"]:
            local.append(f"# {pin} is a build of one place: install it first, then these with --no-deps.")
        else:
            lines.append(f"{pin} --hash=sha256:{digest}")
    head = "# Made by `make requirements`, for this platform's files."
    return "\n".join([head, *local, *sorted(lines, key=str.lower), ""])


if __name__ == "__main__":
    sys.stdout.write(pinned(json.load(sys.stdin)))
